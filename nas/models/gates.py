"""Gates on the output of a block, after its last BN and before the sum.

Shapes in names: B batch, C channels, H and W space.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Gate
from nas.models.conv import Conv2d
from nas.models.layers import global_mean, no_autocast
from nas.models.norm import kernels_for, lines_of


class _Gate(nn.Module):
    def with_sum(self, x_BCHW: Tensor, added_BCHW: Tensor) -> Tensor:
        """relu(gate(x) + added)"""
        y_BCHW: Tensor = self(x_BCHW) + added_BCHW
        return y_BCHW.relu()


class ChannelGate(_Gate):
    """cSE(x) = x . sigmoid(fc2(relu(fc1(GAP(x))))) (SE-Net, https://arxiv.org/abs/1709.01507, section 3)."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = Conv2d(channels, hidden, bias=bias)
        self.fc2 = Conv2d(hidden, channels, bias=bias)

    def scale(self, x_BCHW: Tensor) -> Tensor:
        """The gate itself, B x C x 1 x 1, in the precision of its weights."""
        with no_autocast(x_BCHW.device):
            pooled_BC11 = global_mean(x_BCHW, self.fc1.weight.dtype)
            scale_BC11: Tensor = self.fc2(self.fc1(pooled_BC11).relu())
            return scale_BC11.sigmoid()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.scale(x_BCHW).to(x_BCHW.dtype)

    def with_sum(self, x_BCHW: Tensor, added_BCHW: Tensor) -> Tensor:
        found = kernels_for(x_BCHW, added_BCHW)
        if found is None or self.fc1.weight.dtype != torch.float32:
            return super().with_sum(x_BCHW, added_BCHW)
        y_BCHW: Tensor = _GatedSum.apply(x_BCHW, self.scale(x_BCHW), added_BCHW, found)  # type: ignore[no-untyped-call]
        return y_BCHW


class _GatedSum(torch.autograd.Function):
    """relu(scale . x + added) through the kernels of `found`."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, scale_BC11: Tensor, added_BCHW: Tensor, found: ModuleType) -> Tensor:
        y_BCHW, scale_BC = torch.empty_like(x_BCHW), scale_BC11.flatten(1).contiguous().numpy()
        found.gated(lines_of(x_BCHW), scale_BC, lines_of(added_BCHW), lines_of(y_BCHW))
        ctx.kernels, ctx.scale = found, scale_BC
        ctx.save_for_backward(x_BCHW, y_BCHW)
        return y_BCHW

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, y_BCHW = ctx.saved_tensors
        of_x_BCHW, of_added_BCHW = torch.empty_like(x_BCHW), torch.empty_like(x_BCHW)
        maps = (y_BCHW, g_BCHW.contiguous(memory_format=torch.channels_last), of_x_BCHW, of_added_BCHW)
        of_scale_BC = ctx.kernels.gated_gradient(lines_of(x_BCHW), ctx.scale, *map(lines_of, maps))
        return of_x_BCHW, torch.from_numpy(of_scale_BC)[:, :, None, None], of_added_BCHW, None


class SpatialGate(_Gate):
    """sSE(x) = x . sigmoid(conv(x)), one 1x1 filter with bias (scSE, https://arxiv.org/abs/1803.02579, section 2.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, 1, bias=True)

    def scale(self, x_BCHW: Tensor) -> Tensor:
        """The gate itself, B x 1 x H x W."""
        scale_B1HW: Tensor = self.conv(x_BCHW)
        return scale_B1HW.sigmoid().to(x_BCHW.dtype)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.scale(x_BCHW)


class ChannelSpatialGate(_Gate):
    """scSE(x) = cSE(x) + sSE(x), both on the same x (https://arxiv.org/abs/1803.02579, section 2.3)."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.cse = ChannelGate(channels, hidden, bias)
        self.sse = SpatialGate(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.cse(x_BCHW).addcmul(x_BCHW, self.sse.scale(x_BCHW))  # type: ignore[no-any-return]


GATES: dict[str, Callable[[Gate, int], nn.Module]] = {
    "none": lambda *_: nn.Identity(),
    "cse": lambda gate, channels: ChannelGate(channels, gate.hidden, gate.bias),
    "sse": lambda _, channels: SpatialGate(channels),
    "scse": lambda gate, channels: ChannelSpatialGate(channels, gate.hidden, gate.bias),
}


def build_gate(gate: Gate, channels: int) -> nn.Module:
    return GATES[gate.kind](gate, channels)
