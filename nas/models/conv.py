"""Convolution, and what trainings on a CPU compute in its place: the same sums, sooner.

Shapes in names: B batch, C channels, O output channels, H and W space; K groups, c = C / K. Asked for in training only,
and for channels_last maps: what is evaluated, counted and exported is a convolution, as in the papers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nas.arch import Kernel

POINT = Kernel(1)
_CAPABILITIES: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 may lack it
HAS_AMX = bool(_CAPABILITIES.get("amx_bf16"))
"""Whether this processor multiplies matrices of bfloat16; a constant, as torch.compile cannot ask."""
SMALL_MAP = 2**20
"""Elements up to which a CPU multiplies matrices faster than oneDNN sets up a 1x1 convolution and its gradients.

2 to 4 times for the vectors of an attention, 1.5 to 2.3 for maps of 64k elements, 1.1 to 1.3 for the largest. In
bfloat16 it depends on the pixels of an image: with AMX 64 channels of 4 x 4 are multiplied 1.2 times, 256 of 4 x 4 2.3
times, 512 of 2 x 2 4.6 times as fast, but 16 of 16 x 16 .7 times.
"""

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
        self.kernel = kernel

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
        if self.training and _gains_as_matrix(x_BCHW, self.out_channels):
            x_BHWC = x_BCHW.permute(0, 2, 3, 1)
            return grouped_linear(x_BHWC, self.weight.flatten(1), self.bias, self.groups).permute(0, 3, 1, 2)
        return nn.functional.conv2d(x_BCHW, self.weight, self.bias, groups=self.groups)

    def _spatial(self, x_BCHW: Tensor) -> Tensor:
        joined = groups_to_join(self, x_BCHW) if self.training and self.groups > 1 else 1
        if joined == 1:
            return super().forward(x_BCHW)
        weight = join_groups(self.weight.to(x_BCHW.dtype), self.groups, joined)
        return nn.functional.conv2d(
            x_BCHW, weight, self.bias, self.stride, self.padding, self.dilation, self.groups // joined
        )


def _gains_as_matrix(x_BCHW: Tensor, out_channels: int) -> bool:
    if x_BCHW.dtype == torch.float32:
        small = x_BCHW.numel() <= SMALL_MAP
    else:
        small = x_BCHW.shape[2:].numel() <= max(x_BCHW.shape[1], out_channels)
    return small and is_at_hand(x_BCHW)


def is_at_hand(x_BCHW: Tensor) -> bool:
    """A map on a CPU in the layout and precision of its fast code."""
    fit = x_BCHW.dtype == torch.float32 or (x_BCHW.dtype == torch.bfloat16 and HAS_AMX)
    return fit and x_BCHW.device.type == "cpu" and x_BCHW.is_contiguous(memory_format=torch.channels_last)


def grouped_linear(x_BHWC: Tensor, weight_Oc: Tensor, bias_O: Tensor | None, groups: int) -> Tensor:
    """Group k of the outputs: W_k x_k [+ b_k]; c = C / groups. A CPU's grouped convolution takes 4 to 20 times as long
    for the vectors of an attention."""
    if groups == 1:
        return nn.functional.linear(x_BHWC, weight_Oc, bias_O)
    x_KNc = x_BHWC.reshape(-1, groups, weight_Oc.shape[1]).transpose(0, 1)
    y_KNo = torch.bmm(x_KNc, torch.unflatten(weight_Oc, 0, (groups, -1)).transpose(1, 2))
    y_BHWO = y_KNo.transpose(0, 1).reshape(*x_BHWC.shape[:3], -1)
    return y_BHWO if bias_O is None else y_BHWO + bias_O


def groups_to_join(conv: nn.Conv2d, x_BCHW: Tensor) -> int:
    """How many groups of a convolution are best computed as one, a divisor of their number; see `FULL_GROUP`.

    oneDNN fills groups up with zeros and gains nothing from their being small: forward and backward pass of 32 channels
    of 16 x 16 in 8 groups take 5.1 ms, in 2 groups 1.9 (bfloat16 with AMX). Depthwise convolutions have code of their
    own, except for strides in bfloat16.
    """
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if not is_at_hand(x_BCHW) or (depthwise and (conv.stride == (1, 1) or x_BCHW.dtype == torch.float32)):
        return 1
    most = min(FULL_GROUP[x_BCHW.dtype] * conv.groups // conv.in_channels, conv.groups)
    return next((count for count in range(most, 1, -1) if conv.groups % count == 0), 1)


def join_groups(weight_OcHW: Tensor, groups: int, joined: int) -> Tensor:
    """The weights of the same convolution with groups / joined groups: O x (c * joined) x H x W, zeros between them."""
    if joined == 1:
        return weight_OcHW
    weight_GocHWJ = torch.unflatten(weight_OcHW, 0, (groups // joined, joined, -1)).movedim(1, -1)
    return torch.diag_embed(weight_GocHWJ, dim1=1, dim2=3).flatten(3, 4).flatten(0, 2)
