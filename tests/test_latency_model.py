"""The latency model: what it counts, what it recovers, what its stated error means; nothing is timed here."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from architectures import NETWORKS, SMALL_STEM, network
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import small, spaces
from timed import by_activations, took

from nas.arch import Architecture, Gate, Kernel, SelectiveKernel, SplitAttention, Stage
from nas.cost.formula import cost
from nas.cost.latency_model import (
    COUNTING,
    FORMS,
    LEAST_MS,
    TERMS,
    HeldOut,
    LatencyModel,
    Sample,
    fit,
    predicted,
    terms,
    weights,
)
from nas.cost.table import COSTS, PartPrices, price, random_codes
from nas.space import InvalidGenotype, SearchSpace, shipped_spaces

CIFAR = SearchSpace.load("cifar")


def sampled(space: SearchSpace, count: int, seed: int = 0) -> dict[str, Architecture]:
    return {arch.key: arch for arch in space.sample_different(count, random.Random(seed))}


def counts_of(space: SearchSpace, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.stack([terms(arch, space.input_size) for arch in sampled(space, count, seed).values()])


def even(counts: np.ndarray[Any, Any], latency: np.ndarray[Any, Any]) -> Sample:
    return Sample(counts, latency, np.ones(len(latency)))


def modelled(space: SearchSpace, count: int, rule: Any = by_activations) -> LatencyModel:
    networks = sampled(space, count)
    times = [took(key, rule(arch, space.input_size)) for key, arch in networks.items()]
    return LatencyModel.of(networks, space.input_size, times, "2.13.0", seed=5)


# ---- what is counted ---------------------------------------------------------------------------------------------


def test_terms_of_a_network_by_hand() -> None:
    """A plain grouped stage of 1 block, and a gated hybrid of 2."""
    hybrid = SplitAttention(radix=2, hidden=4, kernels=(Kernel(3), Kernel(3, 2)))
    plain = Stage(depth=1, out_channels=8, inner_channels=8, stride=1, projects=False, cardinality=2)
    rich = Stage(
        depth=2, out_channels=16, inner_channels=8, stride=2, projects=True, mixer=hybrid, gate=Gate(kind="sse")
    )
    arch = Architecture(in_channels=3, num_classes=5, stem=SMALL_STEM, block="bottleneck", stages=(plain, rich))
    counted = dict(zip(TERMS, terms(arch, 8).tolist(), strict=True))
    assert tuple(counted[name] for name in COSTS) == astuple(cost(arch, 8))
    assert (counted["network"], counted["blocks"]) == (1, 3)
    blocks = {name: count for name, count in counted.items() if name.endswith("_blocks")}
    assert blocks == {"grouped_blocks": 1, "sk_blocks": 0, "split_blocks": 0, "hybrid_blocks": 2, "gated_blocks": 2}
    # three convolutions of 8 channels on 8 x 8 pixels
    assert counted["grouped_activations"] == 3 * 8 * 64
    stem = 8 * 64
    assert counted["hybrid_activations"] == counted["gated_activations"]
    assert counted["hybrid_activations"] == counted["activations"] - counted["grouped_activations"] - stem


def test_two_descriptions_of_one_network_count_alike() -> None:
    """A selective kernel of one branch is a plain convolution."""
    described = network(mixer=SelectiveKernel(kernels=(Kernel(3),), hidden=4))
    canonical = described.canonical()
    assert dict(zip(TERMS, terms(described, 8), strict=True))["sk_blocks"] == 0
    assert (
        terms(canonical, 8)[TERMS.index("blocks") :].tolist() == terms(described, 8)[TERMS.index("blocks") :].tolist()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_terms_are_the_exact_costs(name: str) -> None:
    arch = NETWORKS[name].canonical()
    assert tuple(terms(arch, 16)[: len(COSTS)].tolist()) == astuple(cost(arch, 16))
    assert TERMS[: len(COSTS)] == COSTS


def check_table(space: SearchSpace, seed: int, rows: int) -> None:
    """Counts and predictions of a table's rows equal those of their networks alone, to the last bit."""
    rng = np.random.default_rng(seed)
    coefficients_T = rng.random(len(TERMS)) / 10 ** rng.integers(0, 9, len(TERMS))
    model = replace(
        modelled(space, 1),
        coefficients_ms=dict(zip(TERMS, coefficients_T.tolist(), strict=True)),
        form="costs and blocks, both by kind",
    )
    codes = random_codes(space, rows, rng)
    prices = price(space, codes, PartPrices(space, COUNTING))
    latency_N = model.of_counts(prices.costs)
    exact = price(space, codes)
    assert np.array_equal(prices.costs[:, : len(COSTS)], exact.costs)
    assert np.array_equal(prices.valid, exact.valid)
    for row, code in enumerate(codes.tolist()):
        genotype = {gene.name: gene.options[index] for gene, index in zip(space.genes, code, strict=True)}
        try:
            arch = space.decode(genotype)
        except InvalidGenotype:
            assert not prices.costs[row].any()
            continue
        assert prices.costs[row].tolist() == terms(arch, space.input_size).tolist()
        assert latency_N[row] == model.of_network(arch, space.input_size)


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_a_network_has_the_same_latency_alone_and_in_a_table_of_a_shipped_space(name: str, seed: int) -> None:
    check_table(SearchSpace.load(name), seed, rows=60)


@settings(deadline=None, max_examples=30)
@given(space=spaces(), seed=st.integers(0, 2**32))
def test_a_network_has_the_same_latency_alone_and_in_a_table_of_any_space(space: SearchSpace, seed: int) -> None:
    check_table(space, seed, rows=30)


# ---- the fit -----------------------------------------------------------------------------------------------------

TRUE_MS = {
    "network": 0.3,
    "macs": 2e-8,
    "activations": 3e-6,
    "blocks": 0.1,
    "grouped_blocks": 0.05,
    "sk_blocks": 0.2,
    "split_blocks": 0.15,
    "hybrid_blocks": 0.25,
    "gated_blocks": 0.07,
}


def test_latencies_that_follow_the_model_are_recovered() -> None:
    coefficients_T = np.array([TRUE_MS.get(name, 0.0) for name in TERMS])
    counts = counts_of(CIFAR, 32)
    found = fit(even(counts, counts @ coefficients_T))
    assert found.form == "costs and blocks, blocks by kind"
    assert found.coefficients_ms == pytest.approx(coefficients_T, rel=1e-6, abs=1e-12)
    assert found.held_out_ms == pytest.approx(counts @ coefficients_T, rel=1e-6)
    unseen = counts_of(CIFAR, 100, seed=1)
    assert predicted(unseen, found.coefficients_ms) == pytest.approx(unseen @ coefficients_T, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_the_form_is_the_smallest_that_explains_the_times(form: str) -> None:
    """Each form's own times, with an error of 2 %, which a larger form would follow further astray."""
    rng = np.random.default_rng(3)
    counts = counts_of(CIFAR, 32)
    coefficients_T = np.array([1.0 if name in FORMS[form] else 0.0 for name in TERMS]) / np.maximum(
        counts.mean(axis=0), 1
    )
    latency = counts @ coefficients_T * np.exp(0.02 * rng.standard_normal(32))
    assert fit(even(counts, latency)).form == form


def test_relative_errors_are_made_small_by_hand() -> None:
    """Networks of equal counts that took 1, 2 and 4 ms: the least sum of (c / y - 1)^2 is at sum 1/y / sum 1/y^2."""
    counts = np.repeat(counts_of(CIFAR, 1), 3, axis=0)
    expected = (1 + 1 / 2 + 1 / 4) / (1 + 1 / 4 + 1 / 16)
    found = fit(even(counts, np.array([1.0, 2.0, 4.0])))
    assert predicted(counts, found.coefficients_ms) == pytest.approx([expected] * 3)
    # 1 left out: (1/2 + 1/4) / (1/4 + 1/16)
    assert found.held_out_ms == pytest.approx([0.75 / 0.3125, 1.25 / 1.0625, 1.5 / 1.25])


def test_uncertain_medians_count_for_less() -> None:
    latency = np.array([1.0, 1.0, 5.0])
    weight = weights(latency, np.array([1.0, 0.9, 1.0]), np.array([1.0, 1.1, 9.0]))
    assert weight == pytest.approx([1, math.sqrt(0.5), 1 / math.hypot(1, 8)])
    counts = counts_of(CIFAR, 32)
    coefficients_T = np.array([TRUE_MS.get(name, 0.0) for name in TERMS])
    disturbed = counts @ coefficients_T
    disturbed[7] *= 8

    def worst(weight: np.ndarray[Any, Any]) -> float:
        found = predicted(counts, fit(Sample(counts, disturbed, weight)).coefficients_ms)
        return float(np.delete(np.abs(found / disturbed - 1), 7).max())

    unsure = np.ones(32)
    unsure[7] = 0.02
    assert worst(unsure) < worst(np.ones(32)) / 3


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), row=st.integers(0, 9), factor=st.floats(0.2, 5))
def test_what_is_left_out_says_nothing_about_its_own_prediction(seed: int, row: int, factor: float) -> None:
    counts = counts_of(CIFAR, 10)
    latency = np.random.default_rng(seed).uniform(1, 9, 10)
    before = fit(even(counts, latency)).held_out_ms
    latency[row] *= factor
    after = fit(even(counts, latency)).held_out_ms
    assert after[row] == before[row]
    assert not np.array_equal(np.delete(after, row), np.delete(before, row)) or factor == pytest.approx(1)


@settings(deadline=None, max_examples=25)
@given(space=spaces(), seed=st.integers(0, 2**32), networks=st.integers(1, 12))
def test_every_prediction_is_positive_whatever_was_timed(space: SearchSpace, seed: int, networks: int) -> None:
    rng = np.random.default_rng(seed)
    count = min(networks, space.size())
    counts = counts_of(space, count)
    found = fit(even(counts, np.exp(rng.normal(0, 3, count))))
    assert (found.coefficients_ms >= 0).all()
    assert (predicted(counts, found.coefficients_ms) >= LEAST_MS).all()
    assert np.isfinite(predicted(counts, found.coefficients_ms)).all()
    assert (predicted(np.zeros((2, len(TERMS)), np.int64), found.coefficients_ms) == LEAST_MS).all()


# ---- degenerate spaces -------------------------------------------------------------------------------------------


def test_one_network_takes_what_it_took() -> None:
    space = small({"depth": "[1]", "width": "[8]"})
    assert space.size() == 1
    model = modelled(space, 1)
    (arch,) = space
    assert model.of_network(arch, 8) == pytest.approx(by_activations(arch, 8))
    assert (model.held_out, model.held_out_ms) == (None, ())
    assert "its error is unknown, as fewer than 3 networks were timed" in str(model)


def test_networks_of_one_mixer() -> None:
    """Every block is grouped and selective: a kind tells nothing that the blocks do not."""
    space = small(
        {"depth": "{ each_stage = [1, 2, 3] }", "width": "[8, 16]", "cardinality": "[2]", "kernels": "[[3, 5]]"}
    )
    model = modelled(space, space.size(), lambda arch, _: sum(stage.depth for stage in arch.stages) / 4)
    assert model.held_out is not None and model.held_out.median_error < 1e-6
    for arch in space:
        assert model.of_network(arch, 8) == pytest.approx(sum(stage.depth for stage in arch.stages) / 4)


def test_networks_that_all_take_the_same_have_no_rank_correlation() -> None:
    model = modelled(CIFAR, 12, lambda *_: 2.0)
    assert model.held_out is not None and model.held_out.spearman is None
    assert model.held_out.far_error < 0.02
    assert "rank correlation" not in str(model)


# ---- what is said and kept ---------------------------------------------------------------------------------------


def test_the_error_is_that_of_the_held_out_by_hand() -> None:
    held_out = HeldOut.of(np.array([1.1, 2.0, 2.4, 8.0]), np.array([1.0, 2.0, 3.0, 4.0]), seed=0)
    # relative errors 0.1, 0, 0.2, 1: the median is 0.15; the 90 % quantile 0.2 + 0.7 * 0.8
    assert held_out.n == 4
    assert held_out.median_error == pytest.approx(0.15)
    assert held_out.far_error == pytest.approx(0.76)
    assert held_out.spearman is not None and held_out.spearman.value == 1
    said = str(held_out)
    assert said.startswith(
        "left out of the fit one at a time, half of them are predicted within 15.0 % and 90 % within"
    )
    assert " within 76.0 %, rank correlation 1.00" in said


def test_a_model_states_what_was_timed_on_what() -> None:
    model = modelled(CIFAR, 12)
    assert str(model).startswith(
        "12 networks timed on abacus, batch 1, fp32, 1 CPU thread, torch 2.13.0; left out of the fit"
    )
    assert [one.key for one in model.timed] == list(sampled(CIFAR, 12))
    for one, arch in zip(model.timed, sampled(CIFAR, 12).values(), strict=True):
        assert one.median_ms == by_activations(arch, 32)
        assert (one.low_ms, one.high_ms) == (one.median_ms * 0.98, one.median_ms * 1.02)
    assert (model.samples, model.coverage, model.seed) == (15, 0.965, 5)


@pytest.mark.parametrize("networks", [1, 2, 12])
def test_a_model_comes_back_from_json_to_the_last_bit(networks: int) -> None:
    model = modelled(CIFAR, networks)
    again = LatencyModel.from_json(json.loads(json.dumps(model.to_json())), "latency.json")
    assert dataclasses.asdict(again) == json.loads(json.dumps(dataclasses.asdict(model))) | {
        "timed": tuple(dataclasses.asdict(one) for one in model.timed),
        "held_out_ms": model.held_out_ms,
    }
    counts = counts_of(CIFAR, 50, seed=2)
    assert np.array_equal(again.of_counts(counts), model.of_counts(counts))
    assert str(again) == str(model)


@pytest.mark.parametrize(
    "broken",
    [
        {"format": 2},
        {"form": "a guess"},
        {"coefficients_ms": {}},
        {"coefficients_ms": None},
        {"conditions": {"device": "x"}},
        {"timed": [{"key": "x"}]},
        {"held_out": {"n": 3}},
    ],
)
def test_what_is_no_model_is_named(broken: dict[str, Any]) -> None:
    value = modelled(CIFAR, 4).to_json() | broken
    with pytest.raises(ValueError, match=r"^here/latency\.json holds no latency model that can be read") as error:
        LatencyModel.from_json(value, "here/latency.json")
    assert "\n" not in str(error.value)
