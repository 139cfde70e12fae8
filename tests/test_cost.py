"""The formula equals what fvcore counts on the built network, to the unit."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from architectures import NETWORKS, STEMS, architectures, network
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.arch import Architecture, Conv, Gate, Stage, Stem
from nas.cost.formula import Cost, cost, cost_by_stage
from nas.cost.measure import measure, measure_network
from nas.models import build
from nas.space import SearchSpace, shipped_spaces

RESNET50 = Architecture(
    in_channels=3,
    num_classes=1000,
    stem=Stem(kind="conv7x7", channels=(64,), strides=(2,), pool="max3x3_s2_pad1"),
    block="bottleneck",
    stages=tuple(
        Stage(depth=depth, out_channels=4 * width, inner_channels=width, stride=stride, projects=True)
        for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
    ),
)


def _measured(arch: Architecture, input_size: int) -> Cost:
    measured = measure(arch, input_size)
    return Cost(measured.params, measured.macs, measured.activations)


@pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)
def test_formula_equals_measurement(arch: Architecture) -> None:
    assert cost(arch, 13) == _measured(arch, 13)


SPACES = {name: SearchSpace.load(name) for name in shipped_spaces()}
EXAMPLES = {"imagenet": 3}  # two forward passes at 224 pixels each; the other spaces are cheap


@pytest.mark.parametrize("name", SPACES)
def test_formula_equals_measurement_of_random_networks_of_every_shipped_space(name: str) -> None:
    @settings(deadline=None, max_examples=EXAMPLES.get(name, 12))
    @given(seed=st.integers(0, 2**32))
    def holds(seed: int) -> None:
        space = SPACES[name]
        arch = space.sample(random.Random(seed))
        assert cost(arch, space.input_size) == _measured(arch, space.input_size)

    holds()


@settings(deadline=None, max_examples=20)
@given(arch=architectures(), input_size=st.integers(9, 33))
def test_formula_equals_measurement_of_random_networks(arch: Architecture, input_size: int) -> None:
    assert cost(arch, input_size) == _measured(arch, input_size)


@pytest.mark.parametrize("input_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)
def test_formula_equals_measurement_on_tiny_images(stem: Stem, input_size: int) -> None:
    """Down to the smallest image, which both refuse where the pool without padding has nothing to look at."""
    arch = network(stem=replace(stem, strides=tuple(1 for _ in stem.strides)), avd="after_mixer")
    if stem.pool == "max3x3_s2_pad0_ceil" and input_size == 1:
        with pytest.raises(ValueError, match="input_size is too small"):
            cost(arch, input_size)
        with pytest.raises(RuntimeError, match=r"[Oo]utput size is too small"):
            measure(arch, input_size)
    else:
        assert cost(arch, input_size) == _measured(arch, input_size)


def test_resnet50_has_its_published_cost() -> None:
    """25.557 M parameters and 4.089 G multiply-adds (the counts of the pycls and timm networks, classifier bias apart).

    Activations, from the shapes: the stem 64 * 112**2, then per stage of n blocks, inner width w and side s:
    n * (w + 4w) * s**2 for the last two convs of each block, w * s**2 for its first, which in the first block of stages
    2 to 4 still sees twice the side, and 4w * s**2 for the projection.
    """
    activations = 64 * 112**2
    for n, w, s, first in ((3, 64, 56, 1), (4, 128, 28, 4), (6, 256, 14, 4), (3, 512, 7, 4)):
        activations += n * 5 * w * s**2 + (n - 1 + first) * w * s**2 + 4 * w * s**2
    assert cost(RESNET50, 224) == Cost(25_557_032, 4_089_184_256, activations)


def test_a_network_small_enough_to_count_by_hand() -> None:
    """3x3 stem 1 -> 2 and one basic block 2 -> 2 with a cse gate of hidden width 1, on 4x4 images, 3 classes."""
    arch = Architecture(
        in_channels=1,
        num_classes=3,
        stem=Stem(kind="conv3x3", channels=(2,), strides=(1,)),
        block="basic",
        stages=(
            Stage(
                depth=1,
                out_channels=2,
                inner_channels=2,
                stride=1,
                projects=False,
                mixer=Conv(),
                gate=Gate(kind="cse", hidden=1),
            ),
        ),
    )
    stem, conv, gate = 9 * 1 * 2, 9 * 2 * 2, 2 * 1 + 1 * 2
    norms, gate_biases, classifier = 3 * 2 * 2, 1 + 2, 2 * 3 + 3
    assert cost(arch, 4) == Cost(
        params=stem + 2 * conv + norms + gate + gate_biases + classifier,
        macs=16 * (stem + 2 * conv) + gate + 2 * 3,
        activations=16 * (2 + 2 + 2) + 1 + 2,
    )


@settings(deadline=None, max_examples=50)
@given(arch=architectures(), input_size=st.integers(9, 33))
def test_depth_adds_equal_blocks(arch: Architecture, input_size: int) -> None:
    """Every block after the second of a stage costs what the second does."""

    def of_depth(depth: int) -> Cost:
        return cost(replace(arch, stages=(replace(arch.stages[0], depth=depth), *arch.stages[1:])), input_size)

    two, three, nine = of_depth(2), of_depth(3), of_depth(9)
    for name in ("params", "macs", "activations"):
        second = getattr(three, name) - getattr(two, name)
        assert getattr(nine, name) == getattr(two, name) + 7 * second > getattr(two, name)


@settings(deadline=None, max_examples=50)
@given(arch=architectures(), input_size=st.integers(9, 33))
def test_the_stages_add_up_to_the_network(arch: Architecture, input_size: int) -> None:
    names, parts = zip(*cost_by_stage(arch, input_size), strict=True)
    assert names == ("stem", *(f"stage {number}" for number in range(1, len(arch.stages) + 1)), "classifier")
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("params", "macs", "activations")}
    assert cost(arch, input_size) == Cost(**sums)


def test_each_stage_costs_what_fvcore_counts_in_its_module() -> None:
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis  # here: nas.cost.measure silences its import

    arch = NETWORKS["gate on attention"]
    built, image = build(arch).eval(), torch.zeros(1, arch.in_channels, 13, 13)
    flops, outputs = (
        kind(built, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_module_and_operator()
        for kind in (FlopCountAnalysis, ActivationCountAnalysis)
    )
    counted = [
        Cost(
            params=sum(parameter.numel() for parameter in built.get_submodule(module).parameters()),
            macs=flops[module]["conv"] + flops[module]["linear"],
            activations=outputs[module]["conv"],
        )
        for module in ("stem", "stages.0", "stages.1", "classifier")
    ]
    assert [part for _, part in cost_by_stage(arch, 13)] == counted


@pytest.mark.parametrize("input_size", [0, -1, True, 8.0, "8"])
def test_input_size_must_be_a_whole_number(input_size: int) -> None:
    with pytest.raises(ValueError, match="input_size must be a whole number of at least 1"):
        cost(RESNET50, input_size)


def test_batch_norm_is_counted_beside_macs() -> None:
    """fvcore counts 2 per output element of a batch norm in eval mode; here one follows every convolution."""
    arch = network()
    measured = measure(arch, 8)
    assert measured.by_operator["batch_norm"] == 2 * measured.activations
    assert measured.fvcore_total == measured.macs + 2 * measured.activations
    assert measured.macs == measured.by_operator["conv"] + measured.by_operator["linear"]


def test_what_fvcore_cannot_count_is_named_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        measured = measure(NETWORKS["gate on attention"], 8)
    assert {"aten::softmax", "aten::sigmoid"} <= set(measured.unsupported)
    assert measured.unsupported == tuple(sorted(measured.unsupported))
    assert caplog.records == []


def test_measuring_changes_nothing() -> None:
    """Neither the random numbers that follow, nor the mode of the network, nor its statistics."""
    built = build(NETWORKS["bottleneck hybrid"]).train()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    state = torch.get_rng_state()
    measure_network(built, 8)
    measure(NETWORKS["bottleneck sk"], 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert built.training
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


def test_pricing_needs_no_torch() -> None:
    code = "import sys, nas.arch, nas.cost.formula; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
