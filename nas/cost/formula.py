"""Exact parameters, multiply-adds and activations of an architecture by arithmetic, without building it.

The twin of nas/models: the same names in the same order, so that a reader checks one file against the other by eye.
Each function adds its layers to a tally and returns the side of its output map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from nas.arch import Architecture, BlockSpec, Conv, Gate, Kernel, SelectiveKernel, SplitAttention, Stem

POINT = Kernel(1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one network and one image; exact.

    params: trainable parameters (batch-norm statistics are not). macs: multiply-adds of convolutions and linear
    layers, bias adds not counted. activations: output elements of all convolutions.
    """

    params: int
    macs: int
    activations: int


class Tally:
    """Running sums of a cost while a network is retold."""

    __slots__ = ("activations", "macs", "params")

    def __init__(self) -> None:
        self.params = 0
        self.macs = 0
        self.activations = 0

    def add(self, other: Tally, times: int = 1) -> None:
        self.params += times * other.params
        self.macs += times * other.macs
        self.activations += times * other.activations

    def cost(self) -> Cost:
        return Cost(self.params, self.macs, self.activations)


# layers.py


def conv2d(
    tally: Tally,
    side: int,
    in_channels: int,
    out_channels: int,
    kernel: Kernel = POINT,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> int:
    side = -(-side // stride)
    area = side * side
    weights = out_channels * (in_channels // groups) * kernel.size**2
    tally.params += weights + bias * out_channels
    tally.macs += weights * area
    tally.activations += out_channels * area
    return side


def batch_norm(tally: Tally, channels: int) -> None:
    tally.params += 2 * channels


def conv_bn(
    tally: Tally,
    side: int,
    in_channels: int,
    out_channels: int,
    kernel: Kernel = POINT,
    *,
    stride: int = 1,
    groups: int = 1,
) -> int:
    side = conv2d(tally, side, in_channels, out_channels, kernel, stride=stride, groups=groups)
    batch_norm(tally, out_channels)
    return side


def linear(tally: Tally, in_features: int, out_features: int) -> None:
    tally.params += (in_features + 1) * out_features
    tally.macs += in_features * out_features


def avd_pool(side: int, stride: int) -> int:
    return -(-side // stride)


def shortcut_pool(side: int, stride: int) -> int:
    return -(-side // stride)


# gates.py


def channel_gate(tally: Tally, channels: int, hidden: int, bias: bool) -> None:
    conv2d(tally, 1, channels, hidden, bias=bias)
    conv2d(tally, 1, hidden, channels, bias=bias)


def spatial_gate(tally: Tally, side: int, channels: int) -> None:
    conv2d(tally, side, channels, 1, bias=True)


def gate(tally: Tally, side: int, spec: Gate, channels: int) -> None:
    if spec.kind in ("cse", "scse"):
        channel_gate(tally, channels, spec.hidden, spec.bias)
    if spec.kind in ("sse", "scse"):
        spatial_gate(tally, side, channels)


# mixers.py


def attention(tally: Tally, spec: SelectiveKernel | SplitAttention, channels: int) -> None:
    groups, bias = spec.attention_groups, spec.attention_bias
    conv2d(tally, 1, channels, spec.hidden, groups=groups, bias=bias)
    batch_norm(tally, spec.hidden)
    conv2d(tally, 1, spec.hidden, spec.branches * channels, groups=groups, bias=bias)


def selective_kernel_mixer(
    tally: Tally, side: int, spec: SelectiveKernel, in_channels: int, channels: int, stride: int, cardinality: int
) -> int:
    part_channels = in_channels // spec.branches if spec.split_input else in_channels
    for kernel in spec.kernels:
        out = conv_bn(tally, side, part_channels, channels, kernel, stride=stride, groups=cardinality)
    attention(tally, spec, channels)
    return out


def split_attention_mixer(
    tally: Tally, side: int, spec: SplitAttention, in_channels: int, channels: int, stride: int, cardinality: int
) -> int:
    if spec.is_hybrid:
        out = hybrid_convs(tally, side, spec, in_channels, channels, stride, cardinality)
    else:
        groups = cardinality * spec.radix
        out = conv2d(tally, side, in_channels, spec.radix * channels, spec.kernels[0], stride=stride, groups=groups)
    batch_norm(tally, spec.radix * channels)
    attention(tally, spec, channels)
    return out


def hybrid_convs(
    tally: Tally, side: int, spec: SplitAttention, in_channels: int, channels: int, stride: int, cardinality: int
) -> int:
    part_channels = in_channels // spec.radix
    for kernel in spec.kernels:
        out = conv2d(tally, side, part_channels, channels, kernel, stride=stride, groups=cardinality)
    return out


def conv_mixer(
    tally: Tally, side: int, spec: Conv, in_channels: int, channels: int, stride: int, cardinality: int
) -> int:
    return conv_bn(tally, side, in_channels, channels, spec.kernel, stride=stride, groups=cardinality)


MIXERS: dict[type, Callable[..., int]] = {
    Conv: conv_mixer,
    SelectiveKernel: selective_kernel_mixer,
    SplitAttention: split_attention_mixer,
}


# blocks.py

POST_KERNEL = {"bottleneck": POINT, "basic": Kernel(3)}


def shortcut(tally: Tally, side: int, block: BlockSpec) -> None:
    pools = block.stride > 1 and block.shortcut == "avgpool_then_conv1x1"
    stride = 1 if pools else block.stride
    side = shortcut_pool(side, block.stride) if pools else side
    conv_bn(tally, side, block.in_channels, block.out_channels, stride=stride)


def residual_block(tally: Tally, side: int, block: BlockSpec) -> int:
    in_side = side
    in_channels, inner, out_channels = block.in_channels, block.inner_channels, block.out_channels
    if block.kind == "bottleneck":
        side = conv_bn(tally, side, in_channels, inner, stride=block.pre_stride)
    if block.pools and block.avd == "before_mixer":
        side = avd_pool(side, block.stride)
    side = MIXERS[type(block.mixer)](
        tally,
        side,
        block.mixer,
        block.mixer_in_channels,
        inner,
        stride=block.mixer_stride,
        cardinality=block.cardinality,
    )
    if block.pools and block.avd == "after_mixer":
        side = avd_pool(side, block.stride)
    side = conv_bn(tally, side, inner, out_channels, POST_KERNEL[block.kind])
    gate(tally, side, block.gate, out_channels)
    if block.projects:
        shortcut(tally, in_side, block)
    return side


# network.py


def _pool_without_padding(side: int) -> int:
    if side < 2:
        raise ValueError(f"input_size is too small: the stem's max3x3_s2_pad0_ceil pool gets a map of side {side}")
    return -(-(side - 3) // 2) + 1


STEM_POOLS: dict[str, Callable[[int], int]] = {
    "none": lambda side: side,
    "max3x3_s2_pad1": lambda side: -(-side // 2),
    "max3x3_s2_pad0_ceil": _pool_without_padding,
}


def stem(tally: Tally, side: int, spec: Stem, in_channels: int) -> int:
    for channels, stride in zip(spec.channels, spec.strides, strict=True):
        side = conv_bn(tally, side, in_channels, channels, spec.kernel, stride=stride)
        in_channels = channels
    return STEM_POOLS[spec.pool](side)


def stem_side(spec: Stem, input_size: int) -> int:
    """Side of the map behind a stem."""
    return stem(Tally(), input_size, spec, in_channels=1)


def cost(arch: Architecture, input_size: int) -> Cost:
    """Of `arch`, exactly as it is described, for one square image of side `input_size` (pixels).

    Raises ValueError if input_size is not a whole number of at least 1, or the stem's pool empties the map.
    """
    total = Tally()
    for part in _parts(arch, input_size):
        total.add(part)
    return total.cost()


def cost_by_stage(arch: Architecture, input_size: int) -> tuple[tuple[str, Cost], ...]:
    """The parts of `cost`, by name: "stem", "stage 1" and so on, "classifier"."""
    names = ("stem", *(f"stage {number}" for number in range(1, len(arch.stages) + 1)), "classifier")
    return tuple((name, part.cost()) for name, part in zip(names, _parts(arch, input_size), strict=True))


def _parts(arch: Architecture, input_size: int) -> Iterator[Tally]:
    """The tallies of the stem, of each stage and of the classifier."""
    if not isinstance(input_size, int) or isinstance(input_size, bool) or input_size < 1:
        raise ValueError(f"input_size must be a whole number of at least 1, but got {input_size!r}")
    part = Tally()
    side = stem(part, input_size, arch.stem, arch.in_channels)
    yield part
    for first, *rest in arch.blocks_by_stage:
        part = Tally()
        block, side = _block_tally(first, side)
        part.add(block)
        if rest:  # all alike
            block, side = _block_tally(rest[0], side)
            part.add(block, times=len(rest))
        yield part
    part = Tally()
    linear(part, arch.stages[-1].out_channels, arch.num_classes)
    yield part


@lru_cache(maxsize=1 << 16)
def _block_tally(block: BlockSpec, side: int) -> tuple[Tally, int]:
    """Of one block, and its output's side. Cached: the networks of a search share most of their blocks."""
    tally = Tally()
    return tally, residual_block(tally, side, block)
