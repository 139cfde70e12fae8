"""Architecture values: one key for one network, JSON both ways, refusals in words."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from architectures import NETWORKS as ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st

from nas.arch import (
    GENES,
    Architecture,
    BlockKind,
    Conv,
    Gate,
    Kernel,
    Mixer,
    SelectiveKernel,
    SplitAttention,
    Stage,
    Stem,
)

STEM = Stem(kind="conv3x3", channels=(16,), strides=(1,))
THREE, FIVE = Kernel(3), Kernel(3, 2)


PLAIN, OPEN = Conv(), Gate()


def network(mixer: Mixer = PLAIN, block: BlockKind = "bottleneck", gate: Gate = OPEN, stride: int = 2) -> Architecture:
    stage = Stage(
        depth=2, out_channels=32, inner_channels=16, stride=stride, projects=True, cardinality=2, mixer=mixer, gate=gate
    )
    return Architecture(in_channels=3, num_classes=10, stem=STEM, block=block, stages=(stage,))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_json_both_ways_keeps_the_network_and_its_key(name: str) -> None:
    arch = ARCHITECTURES[name]
    again = Architecture.from_json(json.loads(json.dumps(arch.to_json())))
    assert again == arch and again.key == arch.key
    assert arch.canonical().canonical() == arch.canonical()
    assert arch.canonical().key == arch.key


def test_blocks_follow_a_network_into_its_copies() -> None:
    arch = next(iter(ARCHITECTURES.values()))
    assert pickle.loads(pickle.dumps(arch)).blocks_by_stage == arch.blocks_by_stage
    first, *others = arch.stages
    deeper = replace(arch, stages=(replace(first, depth=first.depth + 2), *others))
    assert [len(blocks) for blocks in deeper.blocks_by_stage] == [first.depth + 2, *(stage.depth for stage in others)]
    assert "blocks_by_stage" not in arch.to_json()


def test_different_networks_have_different_keys() -> None:
    keys = {name: arch.key for name, arch in ARCHITECTURES.items()}
    same = {arch.canonical() for arch in ARCHITECTURES.values()}
    assert len(set(keys.values())) == len(same)


def test_the_key_is_the_same_in_every_version() -> None:
    # Recorded runs are found by key: a change of this value orphans them and needs a new format number.
    assert network().key == "749dd7b3c37e39aa"


SAME: dict[str, tuple[Architecture, Architecture]] = {
    "SK with one kernel is a convolution": (
        network(SelectiveKernel(kernels=(FIVE,), hidden=8)),
        network(Conv(kernel=FIVE)),
    ),
    "SK branches have no order": (
        network(SelectiveKernel(kernels=(FIVE, THREE), hidden=8)),
        network(SelectiveKernel(kernels=(THREE, FIVE), hidden=8)),
    ),
    "a hybrid with equal kernels is split attention": (
        network(SplitAttention(radix=2, hidden=8, kernels=(THREE, THREE))),
        network(SplitAttention(radix=2, hidden=8)),
    ),
    "splits of a bottleneck have no order": (
        network(SplitAttention(radix=2, hidden=8, kernels=(FIVE, THREE))),
        network(SplitAttention(radix=2, hidden=8, kernels=(THREE, FIVE))),
    ),
    "no gate has no hidden width": (network(gate=Gate(kind="none", hidden=4)), network()),
    "sse has no hidden width": (network(gate=Gate(kind="sse", hidden=4, bias=False)), network(gate=Gate(kind="sse"))),
    "dilation of a 1x1 kernel": (network(Conv(kernel=Kernel(1, 3))), network(Conv(kernel=Kernel(1)))),
    "avd without a stride": (replace(network(stride=1), avd="after_mixer"), network(stride=1)),
    "shortcut pool without a stride": (
        replace(network(stride=1), shortcut="avgpool_then_conv1x1"),
        network(stride=1),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_two_descriptions_of_one_network_have_one_key(name: str) -> None:
    one, other = SAME[name]
    assert one != other
    assert one.key == other.key


OTHER: dict[str, tuple[Architecture, Architecture]] = {
    # In a basic block the parts are those of the residual stream, which other blocks read in their own order.
    "splits of a basic block have an order": (
        network(SplitAttention(radix=2, hidden=8, kernels=(FIVE, THREE)), "basic"),
        network(SplitAttention(radix=2, hidden=8, kernels=(THREE, FIVE)), "basic"),
    ),
    "radix 1 is not a convolution": (network(SplitAttention(radix=1, hidden=8)), network()),
    "a true 5x5 is not a dilated 3x3": (network(Conv(kernel=Kernel(5))), network(Conv(kernel=FIVE))),
    "SK with equal kernels is not one branch": (
        network(SelectiveKernel(kernels=(THREE, THREE), hidden=8)),
        network(),
    ),
    "avd before and after": (replace(network(), avd="before_mixer"), replace(network(), avd="after_mixer")),
    "a stride elsewhere": (replace(network(), stride_in="conv1_1x1"), network()),
}


@pytest.mark.parametrize("name", OTHER)
def test_different_networks_are_told_apart(name: str) -> None:
    one, other = OTHER[name]
    assert one.key != other.key


@pytest.mark.parametrize(
    ("mixer", "gate", "family"),
    [
        (Conv(), Gate(), "ResNeXt"),
        (Conv(), Gate(kind="scse", hidden=4), "SE-Net"),
        (SelectiveKernel(kernels=(THREE, FIVE), hidden=8), Gate(), "SK-Net"),
        (SelectiveKernel(kernels=(THREE,), hidden=8), Gate(), "ResNeXt"),
        (SplitAttention(radix=2, hidden=8), Gate(), "ResNeSt"),
        (SplitAttention(radix=2, hidden=8, kernels=(THREE, FIVE)), Gate(), "hybrid"),
        (SplitAttention(radix=2, hidden=8), Gate(kind="cse", hidden=4), "mixed"),
    ],
)
def test_family_names_the_paper(mixer: Mixer, gate: Gate, family: str) -> None:
    assert network(mixer, gate=gate).family == family


def test_the_summary_names_the_genes() -> None:
    assert tuple(network().summary()) == GENES


def _with(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    document = network(SplitAttention(radix=2, hidden=8)).to_json()
    inner: Any = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_with(("format",), 2), "architecture format must be 1, but got 2"),
        (_with(("colour",), 2), "architecture has the unknown key 'colour'"),
        (_with(("block",), "bottle"), "block must be one of basic, bottleneck, but got 'bottle'"),
        (_with(("stages",), []), "an architecture needs at least one stage"),
        (_with(("stages",), 3), "stages must be a list, but got 3"),
        (_with(("stages", 0, "depth"), 0), "stage 1: depth must be a whole number of at least 1, but got 0"),
        (_with(("stages", 0, "depth"), True), "stage 1: depth must be a whole number of at least 1, but got True"),
        (_with(("stages", 0, "cardinality"), 3), r"stage 1: cardinality x radix \(3 x 2\) must divide"),
        (_with(("stages", 0, "mixer", "radix"), 3), r"stage 1: cardinality x radix \(\d x 3\) must divide"),
        (_with(("stages", 0, "projects"), False), "stage 1: an identity shortcut needs stride 1 and equal widths"),
        (_with(("stages", 0, "mixer", "kind"), "magic"), "stage 1: mixer kind must be one of conv, selective_kernel"),
        (_with(("stages", 0, "mixer", "kernels"), [[4, 1]]), "stage 1: kernel size must be odd, but got 4"),
        (_with(("stages", 0, "mixer", "kernels"), [[3, 1]] * 3), "stage 1: split attention with radix 2 takes 1 or 2"),
        (_with(("stages", 0, "mixer", "attention_groups"), 3), "stage 1: attention groups must divide"),
        (_with(("stages", 0, "gate", "kind"), "se"), "stage 1: gate kind must be one of none, cse, sse, scse"),
        (_with(("stem", "channels"), [16, 16]), "stem channels of a conv3x3 stem must be 1 long"),
        (_with(("stride_in",), "conv1_1x1") | {"avd": "after_mixer"}, "stride_in conv1_1x1 needs bottleneck blocks"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_words(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture.from_json(document)


@given(missing=st.sampled_from(sorted(network().to_json())))
def test_a_missing_key_is_named(missing: str) -> None:
    document = network().to_json()
    del document[missing]
    with pytest.raises(ValueError, match=f"architecture lacks the key '{missing}'"):
        Architecture.from_json(document)
