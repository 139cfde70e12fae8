"""Every reference model: the description is read, built and counted, and all counts agree to the unit.

The cases are those of tests/reference_models.json, or of the file that REFERENCE_MODELS names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nas.arch import Architecture
from nas.cost.formula import Cost, cost
from nas.cost.measure import count_operators, measure
from nas.models import build
from nas.zoo import architecture_from_reference

FILE = Path(os.environ.get("REFERENCE_MODELS") or Path(__file__).parent / "reference_models.json")
CASES: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cases"]
VARIANTS = [case for case in CASES if "small_input_variant" in case]

Description = dict[str, Any]


def _name(case: Mapping[str, Any]) -> str:
    return str(case["name"])


def _variant(case: Mapping[str, Any]) -> Description:
    """The case's description with the stem and the classes of its variant for small images."""
    variant = case["small_input_variant"]
    return {**case["arch"], "stem": variant["stem"], "num_classes": variant["num_classes"]}


def _check(description: Description, expected: Mapping[str, Any]) -> None:
    """Formula and fvcore give the expected counts, at every input size that `expected` has an entry for."""
    arch = architecture_from_reference(description)
    network = build(arch)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["params"]
    inputs = {int(key.removeprefix("input_")): counts for key, counts in expected.items() if key.startswith("input_")}
    assert inputs
    for input_size, counts in inputs.items():
        priced = cost(arch, input_size)
        assert (priced.params, priced.macs) == (expected["params"], counts["macs"])
        measured = count_operators(network, arch.in_channels, input_size).by_operator
        for operator in ("conv", "linear", "batch_norm"):
            assert measured[operator] == counts[operator], f"{operator} at {input_size}"
        assert measured["conv"] + measured["linear"] == counts["macs"]


def test_there_are_reference_models() -> None:
    assert CASES, f"no case in {FILE}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_counts_are_exact(case: Mapping[str, Any]) -> None:
    _check(case["arch"], case["expected"])


@pytest.mark.parametrize("case", VARIANTS, ids=_name)
def test_counts_of_the_small_input_variant_are_exact(case: Mapping[str, Any]) -> None:
    _check(_variant(case), case["small_input_variant"])


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_json_round_trip_keeps_the_key(case: Mapping[str, Any]) -> None:
    arch = architecture_from_reference(case["arch"])
    again = Architecture.from_json(json.loads(json.dumps(arch.to_json())))
    assert again == arch
    assert again.key == arch.key


def test_models_that_differ_have_different_keys() -> None:
    """Descriptions that are equal to the letter may share a key, no others."""
    by_key: dict[str, set[str]] = {}
    for case in CASES:
        key = architecture_from_reference(case["arch"]).key
        by_key.setdefault(key, set()).add(json.dumps(case["arch"], sort_keys=True))
    assert {key: len(texts) for key, texts in by_key.items() if len(texts) > 1} == {}


# What a description may and may not say, from small hand-made ones


def _description(**changes: Any) -> Description:
    base: Description = {
        "in_channels": 3,
        "num_classes": 10,
        "stem": {"kind": "conv3x3", "channels": [16], "strides": [1], "pool": "none"},
        "block": "bottleneck",
        "depths": [1, 2],
        "out_channels": [32, 64],
        "stage_strides": [1, 2],
        "inner_channels": [16, 32],
        "cardinality": 1,
        "mixer": {"kind": "conv"},
        "gate": {"kind": "none"},
        "avd": "none",
        "stride_in": "mixer",
        "shortcut": "strided_conv1x1",
        "first_block_projects": [True, True],
    }
    return {**base, **changes}


def _sk(**changes: Any) -> Description:
    branches = [{"kernel": 3, "dilation": 1}, {"kernel": 5, "dilation": 1}]
    return {"kind": "selective_kernel", "branches": branches, "hidden": [8, 8], **changes}


def _split(**changes: Any) -> Description:
    return {"kind": "split_attention", "radix": 2, "hidden": [8, 8], **changes}


def _branches(*kernels: tuple[int, int]) -> list[dict[str, int]]:
    return [{"kernel": size, "dilation": dilation} for size, dilation in kernels]


AVD = {"avd": "after_mixer", "stride_in": "avd_pool"}
STEM_SHAPES = {"conv7x7": ([16], [2]), "deep_3x3": ([8, 12, 16], [2, 1, 1]), "conv3x3": ([16], [2])}
POOLS = ("none", "max3x3_s2_pad1", "max3x3_s2_pad0_ceil")

ACCEPTED = {
    "plain": _description(),
    "a value for all stages": _description(depths=2, first_block_projects=True),
    "one stage": _description(
        depths=[1], out_channels=[32], stage_strides=[2], inner_channels=[16], first_block_projects=[True]
    ),
    "five stages": _description(
        depths=[1, 1, 1, 1, 1], out_channels=32, stage_strides=[1, 2, 1, 2, 1], inner_channels=16,
        first_block_projects=[True, True, False, True, False],
    ),
    "stride in the first 1x1": _description(stride_in="conv1_1x1"),
    "avd": _description(**AVD),
    "avd before": _description(**(AVD | {"avd": "before_mixer"}), shortcut="avgpool_then_conv1x1"),
    "true kernels": _description(mixer=_sk()),
    "hidden for all stages": _description(mixer=_sk(hidden=8)),
    "split input": _description(mixer=_sk(split_input=True)),
    "attention groups and bias": _description(mixer=_sk(attention_groups=2, attention_bias=True)),
    "split attention": _description(mixer=_split(), cardinality=2, **AVD),
    "split attention, grouped": _description(mixer=_split(attention_groups=2, attention_bias=False), cardinality=2),
    "attention groups": _description(mixer=_sk(attention_groups=2)),
    "cse": _description(gate={"kind": "cse", "hidden": [4, 8]}),
    "cse without bias": _description(gate={"kind": "cse", "hidden": [4, 8], "bias": False}),
    "sse": _description(gate={"kind": "sse", "position": "after_last_bn_before_add"}),
    "scse": _description(gate={"kind": "scse", "hidden": 4, "bias": True, "position": "after_last_bn_before_add"}),
    "pool without padding": _description(
        stem={"kind": "deep_3x3", "channels": [8, 8, 16], "strides": [2, 1, 1], "pool": "max3x3_s2_pad0_ceil"}
    ),
    "basic": _description(block="basic", inner_channels=[32, 64]),
    "cardinality by stage": _description(cardinality=[1, 2]),
    "dilated branches": _description(mixer=_sk(branches=_branches((3, 1), (3, 2)))),
    "three branches": _description(mixer=_sk(branches=_branches((3, 1), (3, 2), (3, 3)))),
    "true 5x5 and 7x7": _description(mixer=_sk(branches=_branches((3, 1), (5, 1), (7, 1)))),
    "split input, basic": _description(mixer=_sk(split_input=True), block="basic"),
    "attention groups by stage": _description(mixer=_sk(attention_groups=[1, 2], attention_bias=False)),
    "radix 1": _description(mixer=_split(radix=1), **AVD),
    "radix 4": _description(mixer=_split(radix=4, hidden=8, attention_groups=[1, 4]), **AVD),
    "radix, strided": _description(mixer=_split(), shortcut="avgpool_then_conv1x1"),
    "cse, basic": _description(gate={"kind": "cse", "hidden": 4}, block="basic"),
    "scse without bias": _description(gate={"kind": "scse", "hidden": 4, "bias": False}),
    "scse by its sum": _description(gate={"kind": "scse", "hidden": 4, "combine": "sum"}),
    **{
        f"stem {kind}, pool {pool}": _description(
            stem={"kind": kind, "channels": channels, "strides": strides, "pool": pool}
        )
        for kind, (channels, strides) in STEM_SHAPES.items()
        for pool in POOLS
    },
}  # fmt: skip


@pytest.mark.parametrize("description", ACCEPTED.values(), ids=ACCEPTED)
def test_description_is_understood_and_counted(description: Description) -> None:
    arch = architecture_from_reference(description)
    measured = measure(arch, 33)
    assert cost(arch, 33) == Cost(measured.params, measured.macs, measured.activations)


def test_no_entry_of_an_accepted_description_is_ignored() -> None:
    """One value for all stages means the list of it, scse is a sum; all other descriptions are different networks."""
    keys = {name: architecture_from_reference(description).key for name, description in ACCEPTED.items()}
    assert keys.pop("hidden for all stages") == keys["true kernels"]
    assert keys.pop("scse by its sum") == keys["scse"]
    assert len(set(keys.values())) == len(keys)


REFUSED = {
    "colour": (_description(colour=1), "unknown key 'colour'"),
    "no avd": ({k: v for k, v in _description().items() if k != "avd"}, "lacks the key 'avd'"),
    "stem key": (_description(stem={**_description()["stem"], "bias": True}), "stem has the unknown key 'bias'"),
    "mixer key": (_description(mixer={"kind": "conv", "kernel": 3}), "mixer has the unknown key 'kernel'"),
    "mixer kind": (_description(mixer={"kind": "involution"}), "involution"),
    "branch key": (_description(mixer=_sk(branches=[{"kernel": 3, "groups": 2}])), "unknown key 'groups'"),
    "even kernel": (_description(mixer=_sk(branches=[{"kernel": 4}, {"kernel": 3}])), "kernel size must be odd"),
    "gate key": (_description(gate={"kind": "cse", "hidden": 4, "norm": 1}), "gate has the unknown key 'norm'"),
    "gate kind": (_description(gate={"kind": "eca"}), "eca"),
    "gate place": (_description(gate={"kind": "sse", "position": "before_last_bn"}), "before_last_bn"),
    "gate combine": (_description(gate={"kind": "scse", "hidden": 4, "combine": "max"}), "gate combine must .*'max'"),
    "combine of cse": (_description(gate={"kind": "cse", "hidden": 4, "combine": "sum"}), "unknown key 'combine'"),
    "sse without bias": (_description(gate={"kind": "sse", "bias": False}), "gate bias of an sse gate"),
    "hidden of none": (_description(gate={"kind": "none", "hidden": 4}), "unknown key 'hidden'"),
    "avd_pool without avd": (_description(stride_in="avd_pool"), "stride_in avd_pool needs avd"),
    "avd without avd_pool": (_description(avd="after_mixer"), "stride_in must be avd_pool"),
    "stride_in": (_description(stride_in="conv3"), "conv3"),
    "stem kind": (_description(stem={**_description()["stem"], "kind": "conv5x5"}), "conv5x5"),
    "block": (_description(block="inverted"), "inverted"),
    "shortcut": (_description(shortcut="maxpool"), "maxpool"),
    "stage counts differ": (_description(out_channels=[32, 64, 128]), "out_channels must have one value for each"),
    "no list at all": (
        _description(depths=1, out_channels=32, stage_strides=1, inner_channels=16, first_block_projects=True),
        "depths must be a list",
    ),
    "depth 0": (_description(depths=[0, 1]), "depths must be whole numbers"),
    "depth true": (_description(depths=[True, 1]), "depths must be whole numbers"),
    "projects 1": (_description(first_block_projects=[1, 1]), "first_block_projects must be true or false"),
    "identity over a stride": (_description(first_block_projects=[True, False]), "identity shortcut"),
    "cardinality": (_description(cardinality=3), "cardinality 3 must divide"),
}  # fmt: skip


@pytest.mark.parametrize(("description", "message"), REFUSED.values(), ids=REFUSED)
def test_description_is_refused_by_name(description: Description, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architecture_from_reference(description)
