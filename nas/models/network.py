"""stem -> stages of residual blocks -> global average pool -> linear classifier."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nas.arch import Architecture, Stem
from nas.models.blocks import ResidualBlock
from nas.models.layers import ConvBN, global_mean

STEM_POOLS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "max3x3_s2_pad1": lambda: nn.MaxPool2d(3, 2, padding=1),
    "max3x3_s2_pad0_ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
}


class Network(nn.Module):
    """The module of an architecture: images B x in_channels x H x W, float -> logits B x num_classes."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.stem = _stem(arch.stem, arch.in_channels)
        self.stages = nn.Sequential(
            *(nn.Sequential(*(ResidualBlock(block) for block in blocks)) for blocks in arch.blocks_by_stage)
        )
        self.classifier = nn.Linear(arch.stages[-1].out_channels, arch.num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features_BCHW = self.stages(self.stem(x_BCHW))
        logits: Tensor = self.classifier(global_mean(features_BCHW, self.classifier.weight.dtype).flatten(1))
        return logits


def _stem(stem: Stem, in_channels: int) -> nn.Sequential:
    layers = nn.Sequential()
    for channels, stride in zip(stem.channels, stem.strides, strict=True):
        layers.append(ConvBN(in_channels, channels, stem.kernel, stride=stride))
        in_channels = channels
    return layers.append(STEM_POOLS[stem.pool]())


def build(arch: Architecture, *, zero_init_residual: bool = False) -> Network:
    """The network exactly as `arch` says it, with He-initialised convolutions drawn from torch's global generator.

    zero_init_residual: start the last gamma of every residual branch at 0, so that each block begins as
    relu(shortcut(x)) (arXiv:1706.02677, section 5.1).
    """
    network = Network(arch)
    if zero_init_residual:
        for block in network.modules():
            if isinstance(block, ResidualBlock):
                nn.init.zeros_(block.post.bn.weight)
    return network
