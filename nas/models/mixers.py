"""Mixers: the spatial part of a block. Each ends in its own activation.

    U_m = relu(BN_m(conv_m(x_m)));  a = weighting(fc2(relu(BN(fc1(GAP(sum_m U_m))))));  y = sum_m a_m . U_m

Shapes in names: B batch, M branches (radix R of split attention), K attention groups, C channels, c = C/K,
H and W space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nas.arch import Conv, Mixer, SelectiveKernel, SplitAttention
from nas.models.conv import HAS_AMX, Conv2d, is_at_hand, join_groups
from nas.models.layers import NARROW, ConvBN, global_mean, no_autocast
from nas.models.norm import BatchNorm2d


class AttentionMixer(nn.Module):
    """What SK-Net and ResNeSt share: fc1, fc_bn, fc2 and the weighted sum of the branches."""

    fc1: Conv2d
    fc_bn: nn.BatchNorm2d
    fc2: Conv2d

    def add_attention(self, mixer: SelectiveKernel | SplitAttention, channels: int) -> None:
        groups, bias = mixer.attention_groups, mixer.attention_bias
        self.groups = groups
        self.branches = mixer.branches
        self.fc1 = Conv2d(channels, mixer.hidden, groups=groups, bias=bias)
        self.fc_bn = nn.BatchNorm2d(mixer.hidden)
        self.fc2 = Conv2d(mixer.hidden, mixer.branches * channels, groups=groups, bias=bias)

    def logits(self, pooled_BC11: Tensor) -> Tensor:
        """B x M x C x 1 x 1. fc2 is grouped, so its rows are group-major: row k*(M*C/K) + m*(C/K) + c'."""
        with no_autocast(pooled_BC11.device):
            z_Bh11 = self.fc_bn(self.fc1(pooled_BC11)).relu()
            rows_BKMc11 = torch.unflatten(self.fc2(z_Bh11), 1, (self.groups, self.branches, -1))
            logits_BMC11: Tensor = rows_BKMc11.transpose(1, 2).flatten(2, 3)
            return logits_BMC11

    def weights(self, logits_BMC11: Tensor) -> Tensor:
        return logits_BMC11.softmax(dim=1)

    def attend(self, maps_BCHW: Sequence[Tensor], pooled_BC11: Tensor, abreast_BDHW: Tensor | None = None) -> Tensor:
        """sum_m a_m . U_m for the branches U_m = `maps_BCHW[m]`, whose sum has the mean `pooled_BC11`.

        abreast_BDHW: the branches side by side (D = M*C), where they are parts of one map.
        """
        weights_BMC11 = self.weights(self.logits(pooled_BC11)).to(maps_BCHW[0].dtype)
        own_precision = self.fc1.weight.dtype == maps_BCHW[0].dtype  # of what is exported, counted or timed
        if not own_precision and _gains_as_product(maps_BCHW[0], abreast_BDHW is not None):
            whole_BDHW = torch.cat(list(maps_BCHW), dim=1) if abreast_BDHW is None else abreast_BDHW
            return weighted_sum_as_product(whole_BDHW, weights_BMC11)
        return weighted_sum(maps_BCHW, weights_BMC11.unbind(1))


def weighted_sum(maps_BCHW: Sequence[Tensor], weights_BC11: Sequence[Tensor]) -> Tensor:
    """sum_m a_m . U_m; two branches must have weights that add up to 1.

    A view to B x M x C x H x W and a sum over M says the same, but loses channels_last.
    """
    if len(maps_BCHW) == 2:
        return torch.lerp(maps_BCHW[1], maps_BCHW[0], weights_BC11[0])
    total_BCHW = maps_BCHW[0] * weights_BC11[0]
    for map_BCHW, weight_BC11 in zip(maps_BCHW[1:], weights_BC11[1:], strict=True):
        total_BCHW = torch.addcmul(total_BCHW, map_BCHW, weight_BC11)
    return total_BCHW


def weighted_sum_as_product(maps_BDHW: Tensor, weights_BMC11: Tensor) -> Tensor:
    """sum_m a_m . U_m for branches side by side (D = M*C): each image's pixels x D times a D x C of M diagonals."""
    branches, channels = weights_BMC11.shape[1:3]
    ones_DC = torch.eye(channels, dtype=maps_BDHW.dtype, device=maps_BDHW.device).repeat(branches, 1)
    rows_BPD = maps_BDHW.permute(0, 2, 3, 1).flatten(1, 2)
    sum_BPC = torch.bmm(rows_BPD, weights_BMC11.flatten(1)[:, :, None] * ones_DC)
    return sum_BPC.view(-1, *maps_BDHW.shape[2:], channels).permute(0, 3, 1, 2)


def _gains_as_product(map_BCHW: Tensor, abreast: bool) -> bool:
    """A product of mostly zeros, but of matrices, which are had sooner than bfloat16 is read channel by channel.

    Two splits, forward and backward: 2.8 against .9 ms for 16 channels of 16 x 16, 12.9 against 2.4 for 32 x 32, and
    1.8 and 5.7 without AMX; with it more channels gain too: 4.4 against 3.2 for 64 of 16 x 16 (without 17.7), but 1.2
    against 1.5 for 64 of 8 x 8. Branches that have to be copied side by side first gain below 32 channels only.
    """
    channels, pixels = map_BCHW.shape[1], map_BCHW.shape[2:].numel()
    if map_BCHW.dtype != torch.bfloat16 or map_BCHW.device.type != "cpu" or map_BCHW.stride(1) != 1:
        return False
    if not abreast:
        return channels < NARROW
    return pixels > channels and (channels < NARROW or HAS_AMX)


class SelectiveKernelMixer(AttentionMixer):
    """Selective kernels (SK-Net, https://arxiv.org/abs/1903.06586, section 3.1): softmax across branches.

    U_m = relu(BN_m(conv_m(x_m))): x_m is x, or with `split_input` the m-th part of its channels.
    """

    def __init__(
        self, mixer: SelectiveKernel, in_channels: int, channels: int, *, stride: int = 1, cardinality: int = 1
    ) -> None:
        super().__init__()
        self.split_input = mixer.split_input
        part_channels = in_channels // mixer.branches if mixer.split_input else in_channels
        for m, kernel in enumerate(mixer.kernels):
            branch = ConvBN(part_channels, channels, kernel, stride=stride, groups=cardinality)
            self.add_module(f"branch{m}", branch)
        self.add_attention(mixer, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        parts = x_BCHW.chunk(self.branches, dim=1) if self.split_input else (x_BCHW,) * self.branches
        maps = [self.get_submodule(f"branch{m}")(part) for m, part in enumerate(parts)]
        pooled_MBC11 = [global_mean(u_BCHW, self.fc1.weight.dtype) for u_BCHW in maps]
        return self.attend(maps, torch.stack(pooled_MBC11).sum(dim=0))


class SplitAttentionMixer(AttentionMixer):
    """Split attention (ResNeSt, https://arxiv.org/abs/2004.08955, section 3.1): one conv for all R splits.

    V = relu(BN(conv(x))), groups K*R; U_r = channels [r*C, (r+1)*C) of V; softmax over r, sigmoid for R = 1.
    """

    def __init__(
        self, mixer: SplitAttention, in_channels: int, channels: int, *, stride: int = 1, cardinality: int = 1
    ) -> None:
        super().__init__()
        self.add_convs(mixer, in_channels, channels, stride, cardinality)
        self.conv_bn = BatchNorm2d(mixer.radix * channels)
        self.add_attention(mixer, channels)

    def add_convs(self, mixer: SplitAttention, in_channels: int, channels: int, stride: int, cardinality: int) -> None:
        groups = cardinality * mixer.radix
        self.conv = Conv2d(in_channels, mixer.radix * channels, mixer.kernels[0], stride=stride, groups=groups)

    def convolve(self, x_BCHW: Tensor) -> Tensor:
        """B x R*C x H x W, radix-major."""
        y: Tensor = self.conv(x_BCHW)
        return y

    def weights(self, logits_BMC11: Tensor) -> Tensor:
        return logits_BMC11.softmax(dim=1) if self.branches > 1 else logits_BMC11.sigmoid()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        v_BCHW = self.conv_bn(self.convolve(x_BCHW), relu=True)
        pooled_BRC11 = torch.unflatten(global_mean(v_BCHW, self.fc1.weight.dtype), 1, (self.branches, -1))
        return self.attend(v_BCHW.chunk(self.branches, dim=1), pooled_BRC11.sum(dim=1), v_BCHW)


FEW = 16
"""Channels up to which it is cheaper to pad the kernels of a hybrid with zeros than to take its splits apart and put
them together again: 3x3 and 5x5 over 8 channels, a step apart and as one in bfloat16 3.1 and 1.6 ms (16 x 16), in
float32 1.8 and 1.3 (8 x 8); over 32 channels of 8 x 8 3.0 and 3.5."""


class HybridMixer(SplitAttentionMixer):
    """Split attention whose splits have different kernels (in none of the papers).

    Split r sees the r-th part of the input channels: U_r = relu(BN_r(conv_r(x_r))), K groups each.
    """

    def add_convs(self, mixer: SplitAttention, in_channels: int, channels: int, stride: int, cardinality: int) -> None:
        part_channels = in_channels // mixer.radix
        for r, kernel in enumerate(mixer.kernels):
            conv = Conv2d(part_channels, channels, kernel, stride=stride, groups=cardinality)
            self.add_module(f"conv{r}", conv)

    def convolve(self, x_BCHW: Tensor) -> Tensor:
        convs = [cast(Conv2d, self.get_submodule(f"conv{r}")) for r in range(self.branches)]
        if self.training and x_BCHW.shape[1] <= FEW and is_at_hand(x_BCHW):
            return _convolved_as_one(x_BCHW, convs)
        parts = x_BCHW.chunk(self.branches, dim=1)
        return torch.cat([conv(part) for conv, part in zip(convs, parts, strict=True)], dim=1)


def _convolved_as_one(x_BCHW: Tensor, convs: Sequence[Conv2d]) -> Tensor:
    """The convolutions of the parts of x, side by side: kernels in the middle of the largest one's reach."""
    reach = max(conv.kernel.reach for conv in convs)
    weights = []
    for conv in convs:
        edge, taps = (reach - conv.kernel.reach) // 2, conv.kernel.dilation
        wide = conv.weight.new_zeros(*conv.weight.shape[:2], reach, reach)
        wide[:, :, edge : reach - edge : taps, edge : reach - edge : taps] = conv.weight
        weights.append(wide)
    groups = sum(conv.groups for conv in convs)
    joined = groups if x_BCHW.dtype == torch.bfloat16 else 1
    weight = join_groups(torch.cat(weights).to(x_BCHW.dtype), groups, joined)
    return nn.functional.conv2d(x_BCHW, weight, None, convs[0].stride, reach // 2, groups=groups // joined)


def _conv(mixer: Conv, in_channels: int, channels: int, *, stride: int, cardinality: int) -> nn.Module:
    """relu(BN(conv(x))) (ResNet, https://arxiv.org/abs/1512.03385; ResNeXt, https://arxiv.org/abs/1611.05431)."""
    return ConvBN(in_channels, channels, mixer.kernel, stride=stride, groups=cardinality)


def _split_attention(
    mixer: SplitAttention, in_channels: int, channels: int, *, stride: int, cardinality: int
) -> nn.Module:
    form = HybridMixer if mixer.is_hybrid else SplitAttentionMixer
    return form(mixer, in_channels, channels, stride=stride, cardinality=cardinality)


MIXERS: dict[type, Callable[..., nn.Module]] = {
    Conv: _conv,
    SelectiveKernel: SelectiveKernelMixer,
    SplitAttention: _split_attention,
}


def build_mixer(mixer: Mixer, in_channels: int, channels: int, *, stride: int, cardinality: int) -> nn.Module:
    """B x in_channels x H x W -> B x channels x ceil(H/stride) x ceil(W/stride)."""
    return MIXERS[type(mixer)](mixer, in_channels, channels, stride=stride, cardinality=cardinality)
