"""Gates on the output of a block, after its last BN and before the sum.

Shapes in names: B batch, C channels, H and W space.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nas.arch import Gate
from nas.models.conv import Conv2d
from nas.models.layers import global_mean, no_autocast


class ChannelGate(nn.Module):
    """cSE(x) = x . sigmoid(fc2(relu(fc1(GAP(x))))) (SE-Net, https://arxiv.org/abs/1709.01507, section 3)."""

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = Conv2d(channels, hidden, bias=bias)
        self.fc2 = Conv2d(hidden, channels, bias=bias)

    def scale(self, x_BCHW: Tensor) -> Tensor:
        """The gate itself, B x C x 1 x 1."""
        with no_autocast(x_BCHW.device):
            pooled_BC11 = global_mean(x_BCHW, self.fc1.weight.dtype)
            scale_BC11: Tensor = self.fc2(self.fc1(pooled_BC11).relu())
            return scale_BC11.sigmoid().to(x_BCHW.dtype)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW * self.scale(x_BCHW)


class SpatialGate(nn.Module):
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


class ChannelSpatialGate(nn.Module):
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
