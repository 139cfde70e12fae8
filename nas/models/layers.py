"""Convolution + batch norm, pools: what gates, mixers and blocks are made of.

Shapes in names: B batch, C channels, H and W space. Every layer gives channels_last for channels_last. ReLUs and sums
are not in place: that would save no memory, as no backward pass keeps their inputs, and is slow for bfloat16 on a CPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Kernel
from nas.models.conv import POINT, Conv2d
from nas.models.norm import BatchNorm2d, bits_of, kernels_for

NARROW = 32
"""Channels of a bfloat16 map below which a CPU computes one by one what is broadcast over its pixels."""


class ConvBN(nn.Module):
    """BN(conv(x)) [+ added], then ReLU if `relu`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Kernel = POINT,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel, stride=stride, groups=groups)
        self.bn = BatchNorm2d(out_channels)
        self.relu = relu

    def forward(self, x_BCHW: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
        y_BCHW: Tensor = self.bn(self.conv(x_BCHW), added_BCHW, relu=self.relu)
        return y_BCHW


def avd_pool(stride: int) -> nn.Module:
    """3x3 average that takes over the mixer's stride; padded zeros count in the mean (arXiv:2004.08955, appendix)."""
    return nn.AvgPool2d(3, stride, padding=1)


def shortcut_pool(stride: int) -> nn.Module:
    """stride x stride average, size rounded up, cells outside the image not counted (arXiv:1812.01187, ResNet-D)."""
    return nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)


def global_mean(x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """GAP(x): the mean over H and W as B x C x 1 x 1, summed up and given in `dtype`."""
    # Not an adaptive pool: fvcore charges for that one. Not mean(): its gradient is divided after it was spread out.
    pixels = x_BCHW.shape[2] * x_BCHW.shape[3]
    if x_BCHW.dtype == dtype:
        return x_BCHW.sum(dim=(2, 3), keepdim=True) / pixels
    wide_BC11: Tensor = _WideSum.apply(x_BCHW, dtype)  # type: ignore[no-untyped-call]
    return wide_BC11 / pixels


class _WideSum(torch.autograd.Function):
    """x.sum(dim=(2, 3), keepdim=True, dtype=dtype), whose own gradient is spread out in `dtype`, then copied.

    That copy is not channels_last, and so slows down whatever it meets. Of few channels, a line of pixels is written
    out, so that whatever it meets has that much to read at a time.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.like = x_BCHW.shape, x_BCHW.dtype
        found = kernels_for(x_BCHW)
        if found is None or dtype != torch.float32:
            return x_BCHW.sum(dim=(2, 3), keepdim=True, dtype=dtype)  # of bfloat16 on a CPU, through a copy in `dtype`
        images, channels = x_BCHW.shape[:2]
        return torch.from_numpy(found.image_sums(bits_of(x_BCHW, images, -1, channels)))[:, :, None, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        shape, dtype = ctx.like
        gradient_BC11 = gradients[0].to(dtype)
        if shape[1] > NARROW:
            return gradient_BC11.expand(shape), None
        line_BC1W = gradient_BC11.expand(-1, -1, 1, shape[3]).contiguous(memory_format=torch.channels_last)
        return line_BC1W.expand(shape), None


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations run in the dtype of their operands.

    Attention runs in the dtype of its weights: batch norm over a batch of 1x1 maps amplifies the rounding of bfloat16.
    """
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()
