"""Convolution, convolution + batch norm, pools: what gates, mixers and blocks are made of.

Shapes in names: B batch, C channels, H and W space. Every layer gives channels_last for channels_last. ReLUs and sums
are not in place: that would save no memory, as no backward pass keeps their inputs, and is slow for bfloat16 on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Kernel
from nas.models.norm import BatchNorm2d, bits_of, kernels_for

POINT = Kernel(1)
SMALL_MAP = 2**20
"""Elements up to which a CPU multiplies matrices faster than oneDNN sets up a 1x1 convolution and its gradients.

2 to 4 times for the vectors of an attention, 1.5 to 2.3 for maps of 64k elements, 1.1 to 1.3 for the largest; in
bfloat16 nothing.
"""

NARROW = 32
"""Channels of a bfloat16 map below which a CPU computes one by one what is broadcast over its pixels."""

FULL_GROUP = {torch.float32: 4, torch.bfloat16: 16}
"""Input channels below which a group costs a CPU as much as one with so many: in bfloat16 a row of an AMX tile."""


class Conv2d(nn.Conv2d):
    """conv(x; W[, b]) with padding that keeps the size at stride 1; out size is ceil(size / stride) for every kernel.

    Weights: He normal over the fan out (arXiv:1502.01852), biases 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Kernel = POINT,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel.size,
            stride=stride,
            padding=kernel.padding,
            dilation=kernel.dilation,
            groups=groups,
            bias=bias,
        )

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.kernel_size != (1, 1):
            return self._spatial(x_BCHW)
        if self.stride != (1, 1):
            # The same sum over the same pixels. In the backward pass of a channels_last map with few channels, oneDNN
            # 3.12 writes past the buffer of a strided 1x1 convolution, and so crashes or spoils memory (its issue
            # 6035). The pixels are averages over 1x1: the gradient of a slice is not channels_last, that of a pool is.
            x_BCHW = nn.functional.avg_pool2d(x_BCHW, 1, self.stride)
        if self.training and _gains_as_matrix(x_BCHW):
            x_BHWC = x_BCHW.permute(0, 2, 3, 1)
            return grouped_linear(x_BHWC, self.weight.flatten(1), self.bias, self.groups).permute(0, 3, 1, 2)
        return nn.functional.conv2d(x_BCHW, self.weight, self.bias, groups=self.groups)

    def _spatial(self, x_BCHW: Tensor) -> Tensor:
        joined = groups_to_join(self, x_BCHW) if self.training and self.groups > 1 else 1
        if joined == 1:
            return super().forward(x_BCHW)
        weight = join_groups(self.weight.to(x_BCHW.dtype), self.groups, joined)
        sizes = self.stride, self.padding, self.dilation
        return nn.functional.conv2d(x_BCHW, weight, self.bias, *sizes, groups=self.groups // joined)


# What is computed otherwise than it is written is asked for in training only, and for channels_last: so what is
# evaluated, counted and exported is a convolution, as in the papers.


def _gains_as_matrix(x_BCHW: Tensor) -> bool:
    small = x_BCHW.numel() <= SMALL_MAP and x_BCHW.dtype == torch.float32 and x_BCHW.device.type == "cpu"
    return small and x_BCHW.is_contiguous(memory_format=torch.channels_last)


def grouped_linear(x_BHWC: Tensor, weight_Oc: Tensor, bias_O: Tensor | None, groups: int) -> Tensor:
    """Group k of the outputs: W_k x_k [+ b_k]; c = C / groups. A CPU's grouped convolution takes 4 to 20 times as long
    for the vectors of an attention."""
    if groups == 1:
        return nn.functional.linear(x_BHWC, weight_Oc, bias_O)
    x_KNc = x_BHWC.reshape(-1, groups, weight_Oc.shape[1]).transpose(0, 1)
    y_KNo = torch.bmm(x_KNc, weight_Oc.unflatten(0, (groups, -1)).transpose(1, 2))
    y_BHWO = y_KNo.transpose(0, 1).reshape(*x_BHWC.shape[:3], -1)
    return y_BHWO if bias_O is None else y_BHWO + bias_O


def groups_to_join(conv: nn.Conv2d, x_BCHW: Tensor) -> int:
    """How many groups of a convolution are best computed as one, a divisor of their number; see `FULL_GROUP`.

    oneDNN fills groups up with zeros and gains nothing from their being small: forward and backward pass of 32 channels
    of 16 x 16 in 8 groups take 5.1 ms, in 2 groups 1.9 (bfloat16 with AMX). Depthwise convolutions have code of their
    own, except for strides in bfloat16.
    """
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if not gains_in_one(x_BCHW) or (depthwise and (conv.stride == (1, 1) or x_BCHW.dtype == torch.float32)):
        return 1
    most = min(FULL_GROUP[x_BCHW.dtype] * conv.groups // conv.in_channels, conv.groups)
    return next((count for count in range(most, 1, -1) if conv.groups % count == 0), 1)


def gains_in_one(x_BCHW: Tensor) -> bool:
    """Whether groups, or convolutions of few channels, are had sooner together than apart."""
    fit = x_BCHW.dtype == torch.float32 or (x_BCHW.dtype == torch.bfloat16 and has_amx())
    return fit and x_BCHW.device.type == "cpu" and x_BCHW.is_contiguous(memory_format=torch.channels_last)


def join_groups(weight_OcHW: Tensor, groups: int, joined: int) -> Tensor:
    """The weights of the same convolution with groups / joined groups: O x (c * joined) x H x W, zeros between them."""
    weight_GocHWJ = weight_OcHW.unflatten(0, (groups // joined, joined, -1)).movedim(1, -1)
    return torch.diag_embed(weight_GocHWJ, dim1=1, dim2=3).flatten(3, 4).flatten(0, 2)


@cache
def has_amx() -> bool:
    """Whether this processor multiplies matrices of bfloat16."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 may lack it
    return bool(found.get("amx_bf16"))


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
