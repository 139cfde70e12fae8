"""The published networks: their counts by formula, by fvcore, in other descriptions of them, and in print."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from nas.arch import Architecture, Conv, Stage, Stem
from nas.cost.formula import Cost, cost
from nas.cost.measure import measure
from nas.zoo import PUBLISHED, Published, architecture_from_reference
from nas.zoo.networks import REBUILT

TESTS = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = {
    case["name"]: case for case in json.loads((TESTS / "reference_models.json").read_text(encoding="utf-8"))["cases"]
}

networks = pytest.mark.parametrize("network", PUBLISHED.values(), ids=PUBLISHED)


@networks
def test_formula_gives_the_literal_counts(network: Published) -> None:
    priced = cost(network.architecture, network.input_size)
    assert (priced.params, priced.macs) == (network.params, network.macs)


@networks
def test_the_network_is_written_canonically(network: Published) -> None:
    assert network.architecture.canonical() == network.architecture


def test_no_network_stands_twice() -> None:
    assert len({network.architecture.key for network in PUBLISHED.values()}) == len(PUBLISHED)
    assert all(name == network.name for name, network in PUBLISHED.items())


OTHER_NAMES = {
    "sknet50": "skresnext50_32x4d",
    "sknet50_m3": "sknet50_M3_k357",
    "resnest14": "resnest14d",
    "resnest50": "resnest50d",
    "resnest101": "resnest101e",
    "resnest50_fast_4s2x40d": "resnest50d_4s2x40d",
}
"""Name here -> name in the reference descriptions, where they differ."""

DESCRIBED = {name: OTHER_NAMES.get(name, name) for name in PUBLISHED if OTHER_NAMES.get(name, name) in CASES}


def test_the_reference_descriptions_cover_every_paper() -> None:
    assert len(DESCRIBED) >= 20
    assert set(OTHER_NAMES) <= set(DESCRIBED)
    assert {PUBLISHED[name].paper for name in DESCRIBED} == {n.paper for n in PUBLISHED.values()} - {"arXiv:1803.02579"}


@pytest.mark.parametrize(("name", "reference"), DESCRIBED.items(), ids=DESCRIBED)
def test_the_reference_description_is_the_same_network(name: str, reference: str) -> None:
    case = CASES[reference]
    network = PUBLISHED[name]
    assert architecture_from_reference(case["arch"]).key == network.architecture.key
    assert case["expected"]["params"] == network.params
    assert case["expected"]["input_224"]["macs"] == network.macs


MEASURED = (
    "resnet34d",
    "scseresnet50",
    "sknet50_r32",
    "resnest26",
    "resnest50_fast_1s4x24d",
)  # in no reference description


@pytest.mark.parametrize("name", MEASURED)
def test_formula_equals_fvcore_on_the_built_network(name: str) -> None:
    arch = PUBLISHED[name].architecture
    measured = measure(arch, 32)
    assert cost(arch, 32) == Cost(measured.params, measured.macs, measured.activations)
    assert measured.params == PUBLISHED[name].params


# Figures in print

IN_PRINT = [network for network in PUBLISHED.values() if network.gflops or network.params_m or network.top1]
in_print = pytest.mark.parametrize("network", IN_PRINT, ids=lambda network: network.name)

ROUNDED_OTHERWISE = {
    "resnest50_fast_1s1x64d": "26.3 M in print, where the authors' own code has 26.22 M",
    "sknet101": "48.9 M in print: neither the rule d = max(C/16, 32) (48.74 M) nor the released network (48.69 M)",
    "seresnext50_32x4d": "27.7 M in the SKNet table, where the released network has 27.56 M",
    "seresnext101_32x4d": "49.2 M in the SKNet table, where the released network has 48.96 M",
}


@in_print
def test_counts_are_near_the_figures_in_print(network: Published) -> None:
    """GFLOPs in print lie between macs and a count that adds batch norm."""
    if network.params_m is not None:
        assert network.params == pytest.approx(network.params_m * 1e6, rel=0.01)
    if network.gflops is not None:
        assert network.macs == pytest.approx(network.gflops * 1e9, rel=0.015)
    if network.top1 is not None:
        assert 60 < network.top1 < 85


@in_print
def test_parameters_round_to_the_figure_in_print_but_for_known_slips(network: Published) -> None:
    if network.params_m is None:
        return
    digits = len(str(network.params_m).partition(".")[2])
    assert (round(network.params / 1e6, digits) == network.params_m) == (network.name not in ROUNDED_OTHERWISE)


@networks
def test_every_figure_names_its_source(network: Published) -> None:
    figures = (network.params_m, network.gflops, network.top1)
    assert bool(re.match("read: |recalled: ", network.source)) == any(figure is not None for figure in figures)


# pycls counts: flops with the bias of the classifier, acts with the outputs of max pool and classifier


def _pycls_rows() -> dict[str, dict[str, str]]:
    with (TESTS / "pycls_baselines.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    return {row["model"]: row for row in csv.DictReader(lines)}


PYCLS = _pycls_rows()
NUM_CLASSES = 1000


def _from_pycls(row: dict[str, str]) -> Architecture:
    """An anynet of pycls: bottlenecks of inner width bot_mul * width in groups of group_w channels."""
    assert (row["anynet_stem_type"], row["anynet_block_type"]) == ("res_stem_in", "res_bottleneck_block")
    names = ("strides", "depths", "widths", "bot_muls", "group_ws")
    values = zip(*(json.loads(row[f"anynet_{name}"]) for name in names), strict=True)
    return Architecture(
        in_channels=3,
        num_classes=NUM_CLASSES,
        stem=Stem(kind="conv7x7", channels=(int(float(row["anynet_stem_w"])),), strides=(2,), pool="max3x3_s2_pad1"),
        block="bottleneck",
        stages=tuple(
            Stage(
                depth=depth,
                out_channels=width,
                inner_channels=int(width * bottleneck),
                stride=stride,
                projects=True,
                cardinality=int(width * bottleneck) // group_width,
                mixer=Conv(),
            )
            for stride, depth, width, bottleneck, group_width in values
        ),
    )


@pytest.mark.parametrize("model", PYCLS)
def test_counts_equal_those_of_pycls(model: str) -> None:
    row = PYCLS[model]
    arch = _from_pycls(row)
    priced = cost(arch, 224)
    assert priced.params == int(row["params"])
    assert priced.macs + NUM_CLASSES == int(row["flops"])
    assert priced.activations + arch.stem.channels[-1] * 56**2 + NUM_CLASSES == int(row["acts"])


def test_the_pycls_rows_are_networks_of_the_zoo() -> None:
    found = {_from_pycls(row).key for row in PYCLS.values()}
    names = {name for name, network in PUBLISHED.items() if network.architecture.key in found}
    assert names == {"resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d"}  # no ResNeXt-152


def test_an_independent_implementation_is_claimed_where_there_is_one() -> None:
    pycls = {_from_pycls(row).key for row in PYCLS.values()}
    claimed = {name for name, network in PUBLISHED.items() if network.counted == REBUILT}
    assert claimed == set(DESCRIBED) | {name for name, n in PUBLISHED.items() if n.architecture.key in pycls}


# The README's table


def _readme_rows() -> list[list[str]]:
    text = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Published networks")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_in_the_readme_is_true() -> None:
    header, _, *rows = _readme_rows()
    assert header[1:] == ["name", "params", "macs", "activations", "GFLOPs in print", "top-1 in print"]
    assert len(rows) >= 10
    for _, name, *figures in rows:
        network = PUBLISHED[name.strip("`")]
        priced = cost(network.architecture, network.input_size)
        counts = (f"{count:,}" for count in (priced.params, priced.macs, priced.activations))
        assert figures == [*counts, str(network.gflops or "-"), str(network.top1 or "-")]


def test_the_readme_says_how_many_networks_there_are() -> None:
    assert f"{len(PUBLISHED)} networks of the papers are built in" in (TESTS.parent / "README.md").read_text("utf-8")
