"""Batch norm with what follows it, a sum and a ReLU; and when the compiled kernels are used."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGE_MAP = 2**19
"""Elements from which on the compiled kernels save time; below, it is lost in calling them."""
WIDTH = 128
"""Channels from which on the kernels' inner loops are long enough; fewer are read as several pixels side by side."""


class BatchNorm2d(nn.BatchNorm2d):
    """BN(x) (arXiv:1502.03167) [+ added], then ReLU if `relu`; B x C x H x W, channels_last for channels_last.

    On one thread of a CPU, large maps of bfloat16 go through `nas.models.kernels` where numba is installed: the same
    up to rounding, which is less, as the sum and the ReLU see what was not yet rounded.
    """

    def forward(self, x_BCHW: Tensor, added_BCHW: Tensor | None = None, *, relu: bool = False) -> Tensor:
        found = kernels_for(x_BCHW, added_BCHW)
        if found is not None and self._may_be_fused:
            if not self.training:
                return _line(found, x_BCHW, *self._known_line(), added_BCHW, relu)
            fused_BCHW: Tensor = _Fused.apply(x_BCHW, self.weight, self.bias, added_BCHW, relu, self, found)  # type: ignore[no-untyped-call]
            return fused_BCHW
        y_BCHW: Tensor = super().forward(x_BCHW)
        if added_BCHW is not None:
            y_BCHW = y_BCHW + added_BCHW
        return y_BCHW.relu() if relu else y_BCHW

    @property
    def _may_be_fused(self) -> bool:
        """The gradient of a norm that is evaluated is nobody's need."""
        return self.weight.dtype == torch.float32 and (self.training or not torch.is_grad_enabled())

    def _known_line(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and shift of evaluation, (C) each."""
        assert self.running_mean is not None and self.running_var is not None
        values = (self.weight, self.bias, self.running_mean, self.running_var)
        weight_C, bias_C, mean_C, variance_C = (value.detach().double().numpy() for value in values)
        scale_C = weight_C / np.sqrt(variance_C + self.eps)
        return scale_C, bias_C - scale_C * mean_C

    def track(self, mean_C: NDArray[np.float64], variance_C: NDArray[np.float64]) -> None:
        """Let the running statistics see a batch's, the unbiased variance among them, as torch does."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running_C, seen_C in ((self.running_mean, mean_C), (self.running_var, variance_C)):
            running_C.lerp_(torch.from_numpy(seen_C).to(running_C.dtype), weight)


@cache
def kernels() -> ModuleType | None:
    """The compiled kernels; None without numba."""
    try:
        from nas.models import kernels as found
    except ImportError:
        return None
    return found


def kernels_for(x_BCHW: Tensor, added_BCHW: Tensor | None = None) -> ModuleType | None:
    """The kernels where they save time: for large maps of bfloat16, channels_last, on one thread of a CPU."""
    if x_BCHW.numel() < LARGE_MAP or torch.compiler.is_compiling() or torch.get_num_threads() > 1:
        return None
    gains = all(
        map_BCHW.dtype == torch.bfloat16
        and map_BCHW.shape == x_BCHW.shape
        and map_BCHW.device.type == "cpu"
        and map_BCHW.is_contiguous(memory_format=torch.channels_last)
        for map_BCHW in (x_BCHW, added_BCHW)
        if map_BCHW is not None
    )
    return kernels() if gains else None


class _Fused(torch.autograd.Function):
    """With m and v the mean and variance of x over N pixels, and the line BN(x) = scale x + shift,

    scale = weight / sqrt(v + eps), shift = bias - scale m; and where g is the gradient of that line,
    dx = scale (g - sum(g) / N - (x - m) / (v + eps) sum(g (x - m)) / N), again a line in g and x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        added_BCHW: Tensor | None,
        relu: bool,
        norm: BatchNorm2d,
        found: ModuleType,
    ) -> Tensor:
        pixels, channels = x_BCHW.numel() // x_BCHW.shape[1], x_BCHW.shape[1]
        mean_C, square_C = _of_channels(found.sums(_pixels(x_BCHW), None, None), channels) / pixels
        variance_C = np.maximum(square_C - mean_C * mean_C, 0.0)
        norm.track(mean_C, variance_C * (pixels / (pixels - 1)))
        root_C = 1 / np.sqrt(variance_C + norm.eps)
        scale_C = weight_C.numpy() * root_C
        shift_C = bias_C.numpy() - scale_C * mean_C
        ctx.kernels = found
        ctx.line = scale_C, shift_C
        ctx.seen = mean_C, root_C
        ctx.masked = relu and added_BCHW is None
        y_BCHW = _line(found, x_BCHW, scale_C, shift_C, added_BCHW, relu)
        ctx.save_for_backward(x_BCHW, y_BCHW if relu and added_BCHW is not None else None)
        return y_BCHW

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, y_BCHW = ctx.saved_tensors
        if y_BCHW is not None:
            g_BCHW = torch.ops.aten.threshold_backward(g_BCHW, y_BCHW, 0)
        g_BCHW = g_BCHW.contiguous(memory_format=torch.channels_last)
        pixels, channels = x_BCHW.numel() // x_BCHW.shape[1], x_BCHW.shape[1]
        x_NC, g_NC = _pixels(x_BCHW), _pixels(g_BCHW)
        scale_C, shift_C = ctx.line
        mean_C, root_C = ctx.seen
        line = _repeated(x_NC, scale_C, shift_C) if ctx.masked else None
        sum_C, product_C = _of_channels(ctx.kernels.sums(x_NC, g_NC, line), channels)
        weight_gradient_C = root_C * (product_C - mean_C * sum_C)
        slope_C = -scale_C * root_C * weight_gradient_C / pixels
        offset_C = -scale_C * sum_C / pixels - slope_C * mean_C
        out_BCHW = torch.empty_like(x_BCHW)
        ctx.kernels.gradient(x_NC, g_NC, *_repeated(x_NC, scale_C, slope_C, offset_C), line, _pixels(out_BCHW))
        added = g_BCHW if ctx.needs_input_grad[3] else None
        return (
            out_BCHW,
            *(torch.from_numpy(each).float() for each in (weight_gradient_C, sum_C)),
            added,
            None,
            None,
            None,
        )


def _line(
    found: ModuleType,
    x_BCHW: Tensor,
    scale_C: NDArray[np.float64],
    shift_C: NDArray[np.float64],
    added_BCHW: Tensor | None,
    relu: bool,
) -> Tensor:
    """scale x + shift [+ added], or the ReLU of it."""
    y_BCHW, x_NC = torch.empty_like(x_BCHW), _pixels(x_BCHW)
    added_NC = None if added_BCHW is None else _pixels(added_BCHW)
    found.transform(x_NC, *_repeated(x_NC, scale_C, shift_C), added_NC, relu, _pixels(y_BCHW))
    return y_BCHW


def bits_of(x_BCHW: Tensor, *shape: int) -> NDArray[np.int16]:
    """The bits of a channels_last map of bfloat16 in another shape, its own memory."""
    bits: NDArray[np.int16] = x_BCHW.detach().permute(0, 2, 3, 1).view(torch.int16).view(shape).numpy()
    return bits


def _pixels(x_BCHW: Tensor) -> NDArray[np.int16]:
    """The bits of a map: pixels x channels, or several pixels side by side."""
    pixels, channels = x_BCHW.numel() // x_BCHW.shape[1], x_BCHW.shape[1]
    abreast = max(WIDTH // channels, 1)
    return bits_of(x_BCHW, -1, channels * (abreast if pixels % abreast == 0 else 1))


def _of_channels(sums_2W: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """Sums over pixels abreast, (2, W) to (2, channels)."""
    total: NDArray[np.float64] = sums_2W.reshape(2, -1, channels).sum(axis=1)
    return total


def _repeated(x_NC: NDArray[np.int16], *values_C: NDArray[np.float64]) -> tuple[NDArray[np.float32], ...]:
    """Each channel's values in float32, as often as pixels lie side by side."""
    return tuple(np.tile(each, x_NC.shape[1] // len(each)).astype(np.float32) for each in values_C)
