"""Batch norm with what follows it, a sum and a ReLU; and when the compiled kernels are used."""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

LARGE_MAP = 2**18
"""Elements from which on the compiled kernels save time; below, it is lost in calling them."""
WIDTH = 512
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
                width = _pixels(x_BCHW).shape[1]
                line = tuple(found.abreast(each_C, width) for each_C in self._known_line())
                return _transformed(found, x_BCHW, line, added_BCHW, relu)
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

    def track(self, mean_C: NDArray[np.float64], variance_C: NDArray[np.float64], count: int) -> None:
        """Let the running statistics see those of a batch of `count` values, the variance unbiased, as torch does."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running_C, seen_C in ((self.running_mean, mean_C), (self.running_var, variance_C * (count / (count - 1)))):
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
    """`BatchNorm2d` in training, and its gradient."""

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
        x_NC, pixels = _pixels(x_BCHW), x_BCHW.numel() // x_BCHW.shape[1]
        parameters = weight_C.numpy(), bias_C.numpy()
        seen_3C, line = found.norm_line(found.sums(x_NC, None, None, None), pixels, *parameters, norm.eps)
        norm.track(seen_3C[0], seen_3C[2], pixels)
        y_BCHW = _transformed(found, x_BCHW, line, added_BCHW, relu)
        ctx.kernels, ctx.seen, ctx.line = found, seen_3C, line
        ctx.masked = relu and added_BCHW is None
        ctx.save_for_backward(x_BCHW, y_BCHW if relu and added_BCHW is not None else None, weight_C)
        return y_BCHW

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, y_BCHW, weight_C = ctx.saved_tensors
        g_BCHW = g_BCHW.contiguous(memory_format=torch.channels_last)
        x_NC, g_NC, line, kept = _pixels(x_BCHW), _pixels(g_BCHW), ctx.line if ctx.masked else None, None
        if y_BCHW is not None:
            g_BCHW = torch.empty_like(x_BCHW)
            kept = _pixels(y_BCHW), _pixels(g_BCHW)
        sums_2W, pixels = ctx.kernels.sums(x_NC, g_NC, line, kept), x_BCHW.numel() // x_BCHW.shape[1]
        gradients_2C, plane = ctx.kernels.norm_plane(sums_2W, pixels, weight_C.detach().numpy(), ctx.seen)
        out_BCHW = torch.empty_like(x_BCHW)
        ctx.kernels.gradient(x_NC, g_NC if kept is None else kept[1], plane, line, _pixels(out_BCHW))
        added_BCHW = g_BCHW if ctx.needs_input_grad[3] else None
        return out_BCHW, *torch.from_numpy(gradients_2C), added_BCHW, None, None, None


def _transformed(
    found: ModuleType, x_BCHW: Tensor, line: tuple[Any, ...], added_BCHW: Tensor | None, relu: bool
) -> Tensor:
    """scale x + shift [+ added], or the ReLU of it."""
    y_BCHW = torch.empty_like(x_BCHW)
    added_NC = None if added_BCHW is None else _pixels(added_BCHW)
    found.transform(_pixels(x_BCHW), line, added_NC, relu, _pixels(y_BCHW))
    return y_BCHW


def bits_of(x_BCHW: Tensor, *shape: int) -> NDArray[np.int16]:
    """The bits of a channels_last map of bfloat16 in another shape, its own memory; where no gradients are recorded."""
    bits_BHWC: NDArray[np.int16] = x_BCHW.view(torch.int16).numpy().transpose(0, 2, 3, 1)
    return bits_BHWC.reshape(shape)


def lines_of(x_BCHW: Tensor) -> NDArray[np.int16]:
    """The bits of a map: images x lines x W, W some pixels' channels side by side."""
    pixels, channels = x_BCHW.shape[2:].numel(), x_BCHW.shape[1]
    return bits_of(x_BCHW, len(x_BCHW), -1, channels * _abreast(pixels, channels))


def _pixels(x_BCHW: Tensor) -> NDArray[np.int16]:
    """The bits of a map: pixels x channels, or several pixels side by side."""
    pixels, channels = x_BCHW.numel() // x_BCHW.shape[1], x_BCHW.shape[1]
    return bits_of(x_BCHW, -1, channels * _abreast(pixels, channels))


def _abreast(pixels: int, channels: int) -> int:
    """How many pixels are read side by side."""
    count = max(WIDTH // channels, 1)
    return count if pixels % count == 0 else 1
