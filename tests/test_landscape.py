"""Costs of whole spaces: tables, all networks, extremes and caps agree with the formula, network by network."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from spaces import small, spaces

from nas.arch import Architecture, Stage
from nas.cost.formula import cost
from nas.cost.landscape import Landscape
from nas.cost.measure import measure
from nas.cost.table import COSTS, Counts, PartPrices, _distinct, price
from nas.report import write_landscape
from nas.report.landscape import figure, info
from nas.space import Choose, InvalidGenotype, Option, SearchSpace, shipped_spaces

TINY = SearchSpace.load("tiny")
FEW = 400
"""Networks up to which a random space is priced one by one."""


def _row(arch: Architecture, space: SearchSpace) -> tuple[int, ...]:
    return astuple(cost(arch, space.input_size))


def _random_codes(space: SearchSpace, count: int, seed: int) -> Counts:
    rng = np.random.default_rng(seed)
    return np.array([[rng.integers(len(gene.options)) for gene in space.genes] for _ in range(count)]).reshape(
        count, len(space.genes)
    )


def _check_table(space: SearchSpace, codes: Counts) -> None:
    """Every row costs what the scalar formula says of its network, and is invalid where there is none."""
    prices = price(space, codes)
    for row, code in enumerate(codes.tolist()):
        genotype = {gene.name: gene.options[index] for gene, index in zip(space.genes, code, strict=True)}
        try:
            arch = space.decode(genotype)
        except InvalidGenotype:
            assert not prices.valid[row]
            assert prices.costs[row].tolist() == [0, 0, 0]
        else:
            assert prices.valid[row]
            assert tuple(prices.costs[row].tolist()) == _row(arch, space)


# ---- tables ------------------------------------------------------------------------------------------------------


FIRST_ONLY = small(
    {
        "depth": "[1, 2]",
        "width": "{ stages = [[8], [12]] }",
        "cardinality": "{ stages = [[1], [4]] }",
        "radix": "{ stages = [[0], [2]] }",
    },
    "basic",
)
"""The second stage can have one block only: the groups of its mixer divide the 8 channels before it, not its own 12."""

WIDE = small({"depth": "[1, 2]", "width": "{ each_stage = [8, 16] }"}, strides=(1, 1, 1))
NARROW = SearchSpace.from_toml(
    WIDE.text.replace("[8, 16]", "[1, 2]").replace("[fixed]", "[fixed]\nexpansion = 1\nwidth_multiple = 1")
)
"""Stages are read behind one channel, where those of one channel have no projection; behind two they do."""


@settings(deadline=None, max_examples=40)
@example(space=FIRST_ONLY, seed=0)
@example(space=NARROW, seed=0)
@given(space=spaces(), seed=st.integers(0, 2**32))
def test_a_table_costs_what_its_networks_cost_in_any_space(space: SearchSpace, seed: int) -> None:
    _check_table(space, _random_codes(space, 40, seed))


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_a_table_costs_what_its_networks_cost_in_the_shipped_spaces(name: str) -> None:
    space = SearchSpace.load(name)
    _check_table(space, _random_codes(space, 300, seed=7))


def test_a_table_costs_what_fvcore_counts() -> None:
    space = SearchSpace.load("cifar")
    codes = _random_codes(space, 40, seed=3)
    prices = price(space, codes)
    rows = np.flatnonzero(prices.valid)[:6]
    assert len(rows) == 6
    for row in rows:
        genotype = {gene.name: gene.options[index] for gene, index in zip(space.genes, codes[row], strict=True)}
        measured = measure(space.decode(genotype), space.input_size)
        assert [prices[name][row] for name in COSTS] == [getattr(measured, name) for name in COSTS]


def test_rows_are_priced_by_themselves() -> None:
    """In any order, alone or together; no row is an empty table."""
    codes = _random_codes(TINY, 50, seed=0)
    whole = price(TINY, codes)
    order = np.random.default_rng(1).permutation(len(codes))
    assert np.array_equal(price(TINY, codes[order]).costs, whole.costs[order])
    assert np.array_equal(price(TINY, codes[7:8]).costs, whole.costs[7:8])
    assert price(TINY, codes[:0]).costs.shape == (0, 3)


@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_a_stage_is_read_once_whatever_the_genes_say_that_do_not_act(
    block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a stage asked for, each time that one was read.

    Of a basic one also the channels before it count, and of its depth whether it has one block: not of a bottleneck.
    """
    text = SearchSpace.load("cifar").text.replace('"bottleneck"', f'"{block}"')
    space = SearchSpace.from_toml(text if block == "bottleneck" else text.replace("expansion = 2", "expansion = 1"))
    read = []
    plain = SearchSpace.stage

    def stage(self: SearchSpace, index: int, in_channels: int, choose: Choose) -> Stage:
        answers: dict[str, Option] = {}

        def noted(name: str, options: Sequence[Option]) -> Option:
            answers[name] = chosen = choose(name, options)
            if name.startswith("depth"):
                answers[name] = min(int(chosen), 2 if block == "basic" else 1)
            return chosen

        try:
            return plain(self, index, in_channels, noted)
        finally:
            read.append((index, in_channels if block == "basic" else None, tuple(answers.items())))

    monkeypatch.setattr(SearchSpace, "stage", stage)
    parts = PartPrices(space)
    for seed in range(2):
        price(space, _random_codes(space, 300, seed), parts)
    assert len(read) == len(set(read)) > 0


def test_a_table_that_does_not_fit_the_space_is_refused() -> None:
    codes = _random_codes(TINY, 4, seed=0)
    with pytest.raises(ValueError, match=r"one column for each of its 8 genes, but got the shape \(4, 7\)"):
        price(TINY, codes[:, 1:])
    codes[2, 0] = 2
    with pytest.raises(ValueError, match=r"codes of the gene depth.1 must lie in 0..1, but got 0..2"):
        price(TINY, codes)


@pytest.mark.parametrize(
    "kinds", [2, 40, 10**6], ids=["a few kinds", "some kinds", "more kinds than a machine word counts"]
)
def test_equal_rows_are_found_together(kinds: int) -> None:
    """Eight columns: 2^8 kinds of rows, so that most occur often, to 10^48."""
    table = np.random.default_rng(0).integers(0, kinds, (600, 8))
    table[::3] = table[0]
    firsts, rows = _distinct(list(table.T))
    assert np.array_equal(table[firsts][rows], table)
    assert len(firsts) == len({tuple(row) for row in table.tolist()})


# ---- all networks ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@example(space=FIRST_ONLY)
@given(space=spaces())
def test_everything_is_the_cost_of_every_network_once(space: SearchSpace) -> None:
    assume(space.size() <= FEW)
    expected = Counter(_row(arch, space) for arch in space)
    assert Counter(map(tuple, Landscape(space).everything().tolist())) == expected


@settings(deadline=None, max_examples=40)
@given(space=spaces(), name=st.sampled_from(COSTS))
def test_extremes_are_the_least_and_the_greatest_cost_that_exist(space: SearchSpace, name: str) -> None:
    assume(space.size() <= FEW)
    values = [getattr(cost(arch, space.input_size), name) for arch in space]
    landscape = Landscape(space)
    for extreme, value in ((landscape.cheapest(name), min(values)), (landscape.dearest(name), max(values))):
        assert extreme.value == value == getattr(cost(extreme.arch, space.input_size), name)
        assert space.contains(extreme.arch)


def test_the_extremes_of_an_endless_space_are_exact() -> None:
    """Fourteen stages of their own: about 10^31 networks, of which the smallest and the largest are known."""
    options = "{ each_stage = [%s] }"
    genes = {"depth": options % "1, 2, 3", "width": options % "8, 16, 24, 32", "cardinality": options % "1, 2, 4, 8"}
    space = small(genes, strides=[1] * 14)
    assert space.size() > 10**20
    landscape = Landscape(space)
    picks = {gene.name: (gene.options[-1], gene.options[0]) for gene in space.genes}
    low = space.decode({name: large if "cardinality" in name else least for name, (large, least) in picks.items()})
    high = space.decode({name: least if "cardinality" in name else large for name, (large, least) in picks.items()})
    assert landscape.cheapest("macs").arch == low
    assert landscape.dearest("macs").arch == high


def test_draws_are_uniform_over_networks() -> None:
    """Each of the 288 networks of tiny is drawn about 50 times: no count strays further than chance allows."""
    drawn = Landscape(TINY).draw(288 * 50, random.Random(0))
    counts = Counter(map(tuple, drawn.tolist()))
    expected = Counter(_row(arch, TINY) for arch in TINY)
    assert counts.keys() == expected.keys()
    chi_squared = sum((counts[row] - 50 * times) ** 2 / (50 * times) for row, times in expected.items())
    freedom = len(expected) - 1
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5


def test_a_large_space_is_surveyed_by_draws_with_exact_extremes() -> None:
    landscape = Landscape(TINY)
    whole, drawn = landscape.survey(0), landscape.survey(0, exhaustive=10, drawn=100)
    assert whole.exhaustive
    assert len(whole.costs) == whole.size == drawn.size == 288
    assert not drawn.exhaustive
    assert len(drawn.costs) == 100
    assert drawn.cheapest == whole.cheapest
    assert drawn.dearest == whole.dearest
    assert whole["macs"].min() == whole.cheapest["macs"].value


def test_the_share_within_caps_counts_networks() -> None:
    survey = Landscape(TINY).survey(0)
    macs, params = (int(np.median(survey[name])) for name in ("macs", "params"))
    both = sum(one.macs <= macs and one.params <= params for one in (cost(arch, TINY.input_size) for arch in TINY))
    assert survey.within({"macs": macs, "params": params}) == both / 288
    assert survey.within({}) == 1.0


# ---- caps --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(space=spaces(), pick=st.tuples(st.floats(0, 0.3), st.floats(0, 0.3)))
def test_caps_are_met_exactly_when_a_network_meets_them(space: SearchSpace, pick: tuple[float, float]) -> None:
    assume(space.size() <= FEW)
    priced = [cost(arch, space.input_size) for arch in space]
    macs, params = (sorted(getattr(one, name) for one in priced) for name in ("macs", "params"))
    caps = {"macs": macs[int(pick[0] * len(macs))], "params": params[int(pick[1] * len(params))]}
    if any(one.macs <= caps["macs"] and one.params <= caps["params"] for one in priced):
        found = cost(Landscape(space).require_within(caps), space.input_size)
        assert found.macs <= caps["macs"]
        assert found.params <= caps["params"]
    else:
        with pytest.raises(ValueError, match=f"{macs[0]:,} macs and {params[0]:,} params, in different networks"):
            Landscape(space).require_within(caps)


@pytest.mark.parametrize("name", ["macs", "params"])
def test_a_cap_below_everything_names_the_smallest_cost(name: str) -> None:
    smallest = min(getattr(cost(arch, TINY.input_size), name) for arch in TINY)
    assert getattr(cost(Landscape(TINY).require_within({name: smallest}), TINY.input_size), name) == smallest
    with pytest.raises(ValueError, match=f"no network of space tiny meets max_{name} = .*: .* is {smallest:,} {name}$"):
        Landscape(TINY).require_within({name: smallest - 1})


def test_without_caps_any_network_will_do() -> None:
    assert TINY.contains(Landscape(TINY).require_within({}))


# ---- genes -------------------------------------------------------------------------------------------------------


def test_effects_are_those_of_a_balanced_table() -> None:
    """Width and depth of one stage, all four genotypes about equally often: shares and means from the four costs."""
    space = small({"width": "[8, 16]", "depth": "[1, 2]"}, strides=[1])
    macs = {(w, d): cost(space.decode({"width": w, "depth": d}), 8).macs for w in (8, 16) for d in (1, 2)}
    logs = {at: np.log(value) for at, value in macs.items()}
    grand, total = np.mean(list(logs.values())), np.var(list(logs.values()))
    effects = {effect.gene: effect for effect in Landscape(space).effects("macs", seed=0)}
    for place, gene in enumerate(("width", "depth")):
        levels = sorted({at[place] for at in logs})
        means = [np.mean([log for at, log in logs.items() if at[place] == level]) for level in levels]
        assert effects[gene].share == pytest.approx(np.mean((np.array(means) - grand) ** 2) / total, abs=0.01)
        assert list(effects[gene].means.values()) == pytest.approx(np.exp(means), rel=0.01)
    assert [effect.share for effect in effects.values()] == sorted((e.share for e in effects.values()), reverse=True)


def test_a_gene_that_costs_nothing_has_no_effect() -> None:
    """Kernels of equal size but another dilation cost the same; so does a space of one cost."""
    space = small({"width": "[8]", "depth": "[1]", "kernels": "[[3], [5]]"}, strides=[1])
    assert [effect.share for effect in Landscape(space).effects("macs", seed=0)] == [0.0]


def test_a_space_without_a_choice_has_no_genes_to_tell_apart() -> None:
    space = small({"width": "[8]", "depth": "[1]"}, strides=[1])
    landscape = Landscape(space)
    assert space.genes == ()
    assert landscape.effects("macs", seed=0) == ()
    assert tuple(price(space, np.zeros((2, 0), np.int64)).costs[1].tolist()) == _row(next(iter(space)), space)


# ---- what is shown -----------------------------------------------------------------------------------------------


def test_a_histogram_holds_every_network() -> None:
    survey = Landscape(TINY).survey(0)
    edges, shares = survey.histogram("macs", 12)
    assert len(edges) == len(shares) + 1 == 13
    assert sum(shares) == pytest.approx(100)
    assert (edges[0], edges[-1]) == (survey["macs"].min(), survey["macs"].max())
    upper = [low <= value for value in survey["macs"] for low in edges[6:7]]
    assert sum(shares[6:]) == pytest.approx(100 * np.mean(upper))


def test_a_space_of_one_cost_has_a_histogram_of_one_bar() -> None:
    survey = Landscape(small({"width": "[8]", "depth": "[1]"}, strides=[1])).survey(0)
    assert survey.size == 1
    assert survey.histogram("macs", 12)[1] == (100.0,)


def test_the_page_draws_what_was_surveyed(tmp_path: Path) -> None:
    landscape = Landscape(TINY)
    survey, effects, caps = landscape.survey(0), landscape.effects("macs", 0), {"macs": 500_000}
    drawn = info("tiny", survey, caps, effects)
    assert [panel.cost for panel in drawn.panels] == list(COSTS)
    assert [panel.cap for panel in drawn.panels] == [None, 500_000, None]
    assert drawn.effects == effects
    assert drawn.title == "Space tiny: 288 networks, all of them"
    bars = figure(drawn).data[-1]
    assert list(bars.y) == [100 * effect.share for effect in effects if effect.share > 0]
    page = write_landscape("tiny", survey, caps, effects, tmp_path / "tiny.html").read_text(encoding="utf-8")
    assert "Space tiny: 288 networks" in page
    assert not re.search(r"<script[^>]+src=", page)
