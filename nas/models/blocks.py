"""The residual block that contains all five papers. `nas.cost.formula` retells it, name by name."""

from __future__ import annotations

from torch import Tensor, nn

from nas.arch import Avd, BlockSpec, Kernel
from nas.models.conv import POINT
from nas.models.gates import build_gate
from nas.models.layers import ConvBN, avd_pool, shortcut_pool
from nas.models.mixers import build_mixer

POST_KERNEL = {"bottleneck": POINT, "basic": Kernel(3)}


class Shortcut(ConvBN):
    """BN(conv1x1(x)) with the block's stride in the conv, or in an average pool before it."""

    def __init__(self, block: BlockSpec) -> None:
        pools = block.stride > 1 and block.shortcut == "avgpool_then_conv1x1"
        stride = 1 if pools else block.stride
        super().__init__(block.in_channels, block.out_channels, stride=stride, relu=False)
        self.pool = shortcut_pool(block.stride) if pools else nn.Identity()

    def forward(self, x_BCHW: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
        return super().forward(self.pool(x_BCHW), added_BCHW)


class ResidualBlock(nn.Module):
    """relu(f(x) + shortcut(x)), f = [1x1,] [pool,] mixer [, pool], 1x1 or 3x3 [, gate].

    B x in_channels x H x W -> B x out_channels x ceil(H/stride) x ceil(W/stride)
    """

    def __init__(self, block: BlockSpec) -> None:
        super().__init__()
        in_channels, inner, out_channels = block.in_channels, block.inner_channels, block.out_channels
        bottleneck = block.kind == "bottleneck"
        self.pre = ConvBN(in_channels, inner, stride=block.pre_stride) if bottleneck else nn.Identity()
        self.pool_before = _pool(block, "before_mixer")
        self.mix = build_mixer(
            block.mixer,
            block.mixer_in_channels,
            inner,
            stride=block.mixer_stride,
            cardinality=block.cardinality,
        )
        self.pool_after = _pool(block, "after_mixer")
        self.gated = block.gate.kind != "none"
        self.post = ConvBN(inner, out_channels, POST_KERNEL[block.kind], relu=not self.gated)
        self.gate = build_gate(block.gate, out_channels)
        self.shortcut = Shortcut(block) if block.projects else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        t_BCHW: Tensor = self.pool_before(self.pre(x_BCHW))
        t_BCHW = self.pool_after(self.mix(t_BCHW))
        shortcut_BCHW: Tensor = self.shortcut(x_BCHW)
        if not self.gated:
            return self.post(t_BCHW, shortcut_BCHW)  # type: ignore[no-any-return]
        return self.gate.with_sum(self.post(t_BCHW), shortcut_BCHW)  # type: ignore[no-any-return, operator]


def _pool(block: BlockSpec, place: Avd) -> nn.Module:
    return avd_pool(block.stride) if block.pools and block.avd == place else nn.Identity()
