"""The gate before training, its ledger, and the search for unseen networks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost.formula import cost
from nas.search import gate as gate_module
from nas.search.gate import REJECTIONS, Candidate, Gate, Ledger, Unseen
from nas.space import SearchSpace

TINY = SearchSpace.load("tiny")
NETWORKS = list(TINY)
PRICED = [cost(arch, TINY.input_size) for arch in NETWORKS]
MACS = sorted(one.macs for one in PRICED)
SMALL: dict[str, Any] = {
    "depth.1": 1,
    "depth.2": 1,
    "width.1": 16,
    "width.2": 32,
    "cardinality": 1,
    "radix": 0,
    "kernels": "3",
    "gate": "none",
}


@pytest.fixture
def not_enumerable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat the tiny space as one too large to look at every network."""
    monkeypatch.setattr(gate_module, "ENUMERABLE", 1)


def test_a_valid_new_network_within_the_caps_passes_with_its_exact_cost() -> None:
    arch = TINY.decode(SMALL)
    priced = cost(arch, TINY.input_size)
    verdict = Gate(TINY, {"macs": priced.macs, "params": priced.params}).check(SMALL)  # a cap may be met exactly
    assert isinstance(verdict, Candidate)
    assert verdict.key == arch.key
    assert verdict.cost == {"macs": priced.macs, "params": priced.params, "activations": priced.activations}


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_one_over_a_cap_is_over_the_cap(metric: str) -> None:
    limit = getattr(cost(TINY.decode(SMALL), TINY.input_size), metric)
    assert Gate(TINY, {metric: limit - 1}).check(SMALL) == "over_cap"


def test_choices_that_name_no_network_are_invalid() -> None:
    hybrid_without_room = {**SMALL, "radix": 1, "kernels": "3+5"}
    assert Gate(TINY, {}).check(hybrid_without_room) == "invalid"


def test_another_description_of_a_seen_network_is_a_duplicate() -> None:
    """A gate does not act on split attention in this space, so both descriptions are one network."""
    attention = {**SMALL, "radix": 2}
    seen = {TINY.decode({**attention, "gate": "none"}).key}
    assert Gate(TINY, {}, seen).check({**attention, "gate": "cse"}) == "duplicate"
    assert isinstance(Gate(TINY, {}, seen).check(SMALL), Candidate)


def test_the_gate_sees_what_is_added_to_the_seen_keys_later() -> None:
    seen: set[str] = set()
    gate = Gate(TINY, {}, seen)
    seen.add(TINY.decode(SMALL).key)
    assert gate.check(SMALL) == "duplicate"


counts = st.fixed_dictionaries({}, optional={reason: st.integers(0, 50) for reason in REJECTIONS})


@given(st.lists(counts), st.lists(st.floats(0.1, 1e4), min_size=1))
def test_the_ledger_adds_up(rejected: list[dict[str, int]], seconds: list[float]) -> None:
    ledger = Ledger.of(rejected, seconds).to_json()
    assert ledger["accepted"] == len(rejected)
    assert ledger["proposed"] == ledger["accepted"] + sum(ledger["rejected"].values())
    assert ledger["rejected"] == {reason: sum(row.get(reason, 0) for row in rejected) for reason in REJECTIONS}


def test_saved_time_is_one_training_for_each_trial_before_which_one_was_spared() -> None:
    """A search without the gate trains its first proposal; redraws and invalid genotypes would have cost it nothing."""
    rejected = [{"invalid": 100}, {"duplicate": 2, "over_cap": 3}, {"over_cap": 1}, {}]
    assert Ledger.of(rejected, seconds=[10.0, 20.0]).saved_seconds == 2 * 15.0
    assert Ledger.of([{"duplicate": 2}], seconds=[]).saved_seconds == 0


def exhaust(gate: Gate, seen: set[str]) -> list[Candidate]:
    """Take every network that the search for unseen ones finds, telling it the first as the front."""
    unseen = Unseen(gate, seed=0)
    found: list[Candidate] = []
    while (candidate := unseen.find(len(found), [one.arch for one in found[:1]])) is not None:
        seen.add(candidate.key)
        found.append(candidate)
    return found


def test_unseen_networks_are_found_to_the_last_one_and_each_once() -> None:
    cap = MACS[60]
    seen: set[str] = set()
    gate = Gate(TINY, {"macs": cap}, seen)
    found = exhaust(gate, seen)
    keys = [candidate.key for candidate in found]
    assert len(keys) == len(set(keys))
    assert set(keys) == {arch.key for arch in NETWORKS if cost(arch, TINY.input_size).macs <= cap}
    assert Unseen(gate, 0).exhausted() == f"space exhausted: all {len(keys)} networks under the caps are trained"


def test_a_small_space_is_enumerated_when_nothing_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "SAMPLES", 0)
    last = NETWORKS[-1].key
    found = Unseen(Gate(TINY, {}, {arch.key for arch in NETWORKS[:-1]}), 0).find(0, front=[])
    assert found is not None
    assert found.key == last


@pytest.mark.usefixtures("not_enumerable")
def test_in_a_large_space_the_neighbourhood_of_the_front_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "SAMPLES", 0)
    start = TINY.decode(SMALL)
    seen = {start.key}
    gate = Gate(TINY, {}, seen)
    found = Unseen(gate, 0).find(1, [start])
    assert found is not None
    assert found.key in {near.key for near in TINY.neighbours(start)}
    seen |= {near.key for near in TINY.neighbours(start)}
    further = Unseen(gate, 0).find(2, [start])
    assert further is not None
    assert further.key not in seen


@pytest.mark.usefixtures("not_enumerable")
def test_in_a_large_space_exhaustion_claims_no_more_than_was_looked_at() -> None:
    seen = {arch.key for arch in NETWORKS}
    unseen = Unseen(Gate(TINY, {}, seen), 0)
    assert unseen.find(0, NETWORKS[:1]) is None
    assert unseen.exhausted().startswith("no unseen network under the caps was found in 200 samples")


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_same_seed_and_trial_find_the_same_network(seed: int, number: int) -> None:
    first, second = (Unseen(Gate(TINY, {}), seed).find(number, []) for _ in range(2))
    assert first == second
