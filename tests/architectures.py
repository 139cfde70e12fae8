"""Small architectures of every kind, and random ones, for the tests of models and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any, get_args

from hypothesis import strategies as st

from nas.arch import (
    STEM_CONVS,
    Architecture,
    Avd,
    BlockKind,
    Conv,
    Gate,
    GateKind,
    Kernel,
    Mixer,
    SelectiveKernel,
    Shortcut,
    SplitAttention,
    Stage,
    Stem,
    StemKind,
    StemPool,
)

K3, K3D2, K3D3, K5, K7 = Kernel(3), Kernel(3, 2), Kernel(3, 3), Kernel(5), Kernel(7)
SMALL_STEM = Stem(kind="conv3x3", channels=(8,), strides=(1,))


def network(block: Any = "bottleneck", *, stem: Stem = SMALL_STEM, depth: int = 2, **changes: Any) -> Architecture:
    """Two stages of 8 and 16 channels, the second with stride 2; `changes` go to Stage or to Architecture."""
    whole = {name: changes.pop(name) for name in ("avd", "stride_in", "shortcut") if name in changes}
    first = Stage(depth=1, out_channels=8, inner_channels=8, stride=1, projects=False, **changes)
    second = replace(first, depth=depth, out_channels=16, stride=2, projects=True)
    return Architecture(in_channels=3, num_classes=5, stem=stem, block=block, stages=(first, second), **whole)


MIXERS: dict[str, Mixer] = {
    "conv": Conv(),
    "conv 1x1": Conv(kernel=Kernel(1)),
    "conv 5x5": Conv(kernel=K5),
    "sk": SelectiveKernel(kernels=(K3, K3D2), hidden=4),
    "sk of one": SelectiveKernel(kernels=(K3,), hidden=4),
    "sk true kernels": SelectiveKernel(kernels=(K3, K5, K7), hidden=4),
    "sk split input": SelectiveKernel(kernels=(K3, K3D2), hidden=4, split_input=True),
    "sk grouped attention": SelectiveKernel(
        kernels=(K3, K3D2, K3D3), hidden=4, attention_groups=2, attention_bias=True
    ),
    "split r1": SplitAttention(radix=1, hidden=4),
    "split r2": SplitAttention(radix=2, hidden=4),
    "split r2, 5x5": SplitAttention(radix=2, hidden=4, kernels=(K5,)),
    "split r2, grouped attention": SplitAttention(radix=2, hidden=4, attention_groups=2),
    "split r4": SplitAttention(radix=4, hidden=4, attention_groups=2),
    "split without bias": SplitAttention(radix=2, hidden=4, attention_bias=False),
    "hybrid": SplitAttention(radix=2, hidden=4, kernels=(K3, K3D2)),
    "hybrid, grouped attention": SplitAttention(radix=2, hidden=4, kernels=(K3, K5), attention_groups=2),
    "hybrid r4": SplitAttention(radix=4, hidden=4, kernels=(K3, K3, K3D2, K5), attention_groups=2),
}

MIXER_KINDS = ("conv", "sk", "sk split input", "split r1", "split r2", "hybrid")
"""One of each class of an exported file."""

GATES: dict[str, Gate] = {
    "cse": Gate(kind="cse", hidden=4),
    "cse without bias": Gate(kind="cse", hidden=4, bias=False),
    "sse": Gate(kind="sse"),
    "scse": Gate(kind="scse", hidden=4),
}

STEMS: dict[str, Stem] = {
    "3x3": SMALL_STEM,
    "7x7": Stem(kind="conv7x7", channels=(8,), strides=(2,), pool="max3x3_s2_pad1"),
    "deep": Stem(kind="deep_3x3", channels=(4, 6, 8), strides=(2, 1, 1), pool="max3x3_s2_pad1"),
    "pool without padding": Stem(kind="conv7x7", channels=(8,), strides=(2,), pool="max3x3_s2_pad0_ceil"),
}

NETWORKS: dict[str, Architecture] = {
    **{f"bottleneck {name}": network(mixer=mixer) for name, mixer in MIXERS.items()},
    **{f"basic {name}": network("basic", mixer=mixer) for name, mixer in MIXERS.items()},
    **{f"gate {name}": network(gate=gate) for name, gate in GATES.items()},
    **{f"basic gate {name}": network("basic", gate=gate) for name, gate in GATES.items()},
    **{f"stem {name}": network(stem=stem) for name, stem in STEMS.items()},
    "cardinality 4": network(cardinality=4),
    "cardinality 2, sk": network(cardinality=2, mixer=MIXERS["sk"]),
    "cardinality 2, split": network(cardinality=2, mixer=MIXERS["split r2, grouped attention"]),
    "cardinality 2, hybrid": network(cardinality=2, mixer=MIXERS["hybrid, grouped attention"]),
    "avd before": network(avd="before_mixer"),
    "avd after": network(avd="after_mixer", mixer=MIXERS["split r2"]),
    "basic avd after": network("basic", avd="after_mixer"),
    "average-pooled shortcut": network(shortcut="avgpool_then_conv1x1"),
    "stride in the first 1x1": network(stride_in="conv1_1x1"),
    "gate on attention": network(mixer=MIXERS["hybrid"], gate=GATES["scse"]),
}


def combined(block: str, mixer: str, gate: str, shortcut: str, stem: str, avd: str) -> Architecture:
    """By the names of the tables above, "none" being no gate; two stages of one block."""
    gates = {"none": Gate(), **GATES}
    return network(block, mixer=MIXERS[mixer], gate=gates[gate], stem=STEMS[stem], shortcut=shortcut, avd=avd, depth=1)


def covering(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Few combinations in which each two values of different factors stand together at least once."""

    def pairs(combination: tuple[int, ...]) -> set[Any]:
        return set(combinations(enumerate(combination), 2))

    left = {combination: pairs(combination) for combination in product(*(range(len(values)) for values in factors))}
    missing, chosen = set().union(*left.values()), []
    while missing:
        best = max(left, key=lambda combination: len(left[combination] & missing))
        missing -= left.pop(best)
        chosen.append(tuple(values[index] for values, index in zip(factors, best, strict=True)))
    return chosen


@st.composite
def kernels(draw: st.DrawFn) -> Kernel:
    return Kernel(draw(st.sampled_from((1, 3, 5, 7))), draw(st.integers(1, 3)))


@st.composite
def mixers(draw: st.DrawFn, groups: int) -> Mixer:
    """Of `groups` attention groups, if it has attention."""
    kind = draw(st.sampled_from((Conv, SelectiveKernel, SplitAttention)))
    if kind is Conv:
        return Conv(kernel=draw(kernels()))
    attention: dict[str, Any] = {
        "hidden": groups * draw(st.integers(1, 5)),
        "attention_groups": groups,
        "attention_bias": draw(st.booleans()),
    }
    if kind is SelectiveKernel:
        branches = tuple(draw(st.lists(kernels(), min_size=1, max_size=3)))
        return SelectiveKernel(kernels=branches, split_input=draw(st.booleans()), **attention)
    radix = draw(st.integers(1, 4))
    count = draw(st.sampled_from((1, radix)))
    splits = tuple(draw(st.lists(kernels(), min_size=count, max_size=count)))
    return SplitAttention(radix=radix, kernels=splits, **attention)


@st.composite
def stages(draw: st.DrawFn, in_channels: int) -> Stage:
    """Widths are multiples of 24, so that every drawn radix and number of branches divides them."""
    groups = draw(st.sampled_from((1, 2)))
    stride = draw(st.integers(1, 3))
    out_channels = 24 * draw(st.integers(1, 2))
    kind = draw(st.sampled_from(get_args(GateKind)))
    hidden = draw(st.integers(1, 6)) if kind in ("cse", "scse") else 0
    return Stage(
        depth=draw(st.integers(1, 2)),
        out_channels=out_channels,
        inner_channels=24 * draw(st.integers(1, 2)),
        stride=stride,
        projects=draw(st.booleans()) or stride > 1 or in_channels != out_channels,
        cardinality=draw(st.sampled_from((1, 2))),
        mixer=draw(mixers(groups)),
        gate=Gate(kind=kind, hidden=hidden, bias=draw(st.booleans())),
    )


@st.composite
def stems(draw: st.DrawFn) -> Stem:
    kind = draw(st.sampled_from(get_args(StemKind)))
    convs, _ = STEM_CONVS[kind]
    channels = tuple(draw(st.integers(1, 9)) for _ in range(convs - 1))
    return Stem(
        kind=kind,
        channels=(*channels, 24),
        strides=tuple(draw(st.integers(1, 2)) for _ in range(convs)),
        pool=draw(st.sampled_from(get_args(StemPool))),
    )


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    block = draw(st.sampled_from(get_args(BlockKind)))
    avd = draw(st.sampled_from(get_args(Avd)))
    in_conv1 = block == "bottleneck" and avd == "none" and draw(st.booleans())
    drawn: list[Stage] = []
    for _ in range(draw(st.integers(1, 2))):
        drawn.append(draw(stages(drawn[-1].out_channels if drawn else 24)))
    return Architecture(
        in_channels=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 11)),
        stem=draw(stems()),
        block=block,
        stages=tuple(drawn),
        avd=avd,
        stride_in="conv1_1x1" if in_conv1 else "mixer",
        shortcut=draw(st.sampled_from(get_args(Shortcut))),
    )
