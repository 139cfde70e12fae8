"""Which trainings go on: the rules against plain counting, then whole searches by rungs."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial
from scored_search import by_rung, search, settings, study_of, trials_of

from nas.arch import Architecture
from nas.data import load
from nas.executors import Spec
from nas.executors.scored import ScoredExecutor
from nas.pareto import hypervolume, ranks, reference_point
from nas.record import Run
from nas.search import Event, Finished, GoesOn, Proposed, run_search
from nas.search.halving import (
    AUDIT,
    CAUTION,
    ETA,
    LEAST_ERROR,
    LEAST_SPREAD,
    OPTIMISM,
    RUNGS,
    STEADY,
    TRUST,
    USUAL,
    USUAL_SPREAD,
    Extrapolation,
    Halving,
    Shown,
    best_first,
    rungs,
)
from nas.search.samplers import SAMPLERS, Proposer
from nas.train import Recipe, train

TABLES = Path(__file__).parent / "tables"
TABLE = pd.read_csv(TABLES / "small_digits.csv", index_col="key")

# ---- budgets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "least", "expected"),
    [
        (3, 1, (3,)),
        (4, 1, (1, 4)),
        (16, 1, (1, 4, 16)),
        (200, 18, (50, 200)),
        (320, 18, (20, 80, 320)),
        (1, 1, (1,)),
        (54, 18, (54,)),
        (5, 9, (5,)),
        (71, 18, (71,)),
        (10_000, 18, (625, 2_500, 10_000)),
    ],
)
def test_rungs_are_a_factor_apart_and_none_is_too_short(budget: int, least: int, expected: tuple[int, ...]) -> None:
    assert rungs(budget, least) == expected


@given(budget=st.integers(1, 10_000), least=st.integers(0, 200), eta=st.integers(2, 5), most=st.integers(1, 5))
def test_rungs_rise_to_the_budget(budget: int, least: int, eta: int, most: int) -> None:
    found = rungs(budget, least, eta=eta, most=most)
    assert found[-1] == budget
    assert list(found) == sorted(set(found))
    assert all(rung >= least for rung in found[:-1])
    assert len(found) <= most
    for low, high in itertools.pairwise(found):
        assert abs(high / eta - low) <= 1


@pytest.mark.parametrize(("budget", "eta", "most"), [(0, 4, 3), (9, 1, 3), (9, 4, 0)])
def test_rungs_of_nothing_are_refused(budget: int, eta: int, most: int) -> None:
    with pytest.raises(ValueError, match=r"budget >= 1, eta >= 2 and most >= 1"):
        rungs(budget, 1, eta=eta, most=most)


# ---- the rules, counted out --------------------------------------------------------------------------------------

SMALL_COHORT = 16
EVERY = SMALL_COHORT // AUDIT
AUDITED = range(EVERY - 1, SMALL_COHORT, EVERY)
"""The audit."""


@pytest.fixture(autouse=True, scope="module")
def small_cohort() -> Iterator[None]:
    """Small searches come to its end too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.search.halving.COHORT", SMALL_COHORT)
        patch.setattr("nas.search.halving.EVERY", EVERY)
        yield


Point = tuple[float, ...]


def dominates(a: Point, b: Point) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def counted_ranks(points: Sequence[Point]) -> list[int]:
    left, found, rank = set(range(len(points))), [0] * len(points), 0
    while left:
        front = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in front:
            found[i] = rank
        left -= front
        rank += 1
    return found


def counted_order(costs: Sequence[Point], accuracies: Sequence[float]) -> list[int]:
    """By rank, then by what the hypervolume of the rank loses without the point, then as they came."""
    points = [(*(math.log(c) for c in cost), -a) for cost, a in zip(costs, accuracies, strict=True)]
    rank = counted_ranks(points)
    reference = reference_point(points)

    def lost(i: int) -> float:
        others = [points[j] for j in range(len(points)) if rank[j] == rank[i] and j != i]
        whole = hypervolume([*others, points[i]], reference)
        return whole - (hypervolume(others, reference) if others else 0.0)

    return sorted(range(len(points)), key=lambda i: (rank[i], -round(lost(i), 9), i))


def counted_next(trials: Sequence[Shown], count: int, floor: float, more: bool) -> set[int]:
    """All places that the rule allows at the highest rung where one should go on; the first by order goes."""
    full = [trial for trial in trials if len(trial.accuracies) == count]
    for rung in range(count - 2, -1, -1):
        members = [i for i, trial in enumerate(trials) if len(trial.accuracies) > rung]
        if not members:
            continue
        waiting = [i for i in members if trials[i].waits and len(trials[i].accuracies) == rung + 1]
        order = counted_order([trials[i].costs for i in members], [trials[i].accuracies[rung] for i in members])
        ranked = [members[i] for i in order]
        audited = members if counted_distrust(trials, members, rung) else counted_audit(trials, more)
        others = [i for i in members if i not in audited]
        gone = len([i for i in others if i not in waiting])
        by_rank = [i for i in ranked[: len(members) // ETA] if i in waiting and gone < len(others) // ETA]
        audits = [i for i in ranked if i in waiting and i in audited]
        gains, sure = dict.fromkeys(waiting, 0.0), []
        if full:
            expected, sd = counted_extrapolation(full, rung, [trials[i] for i in waiting])
            limit = [*reference_point([[math.log(c) for c in one.costs] for one in trials]), -floor]
            front = [(*(math.log(c) for c in one.costs), -one.accuracies[-1]) for one in full]
            for i, log_error in zip(waiting, expected, strict=True):
                cheaper = [one for one in full if all(a <= b for a, b in zip(one.costs, trials[i].costs, strict=True))]
                rival = max([floor, *(one.accuracies[-1] for one in cheaper)])
                if 1 - math.exp(log_error + CAUTION * sd) > rival:
                    sure.append(i)
                point = (*(math.log(c) for c in trials[i].costs), math.exp(log_error - OPTIMISM * sd) - 1)
                if -point[-1] > rival:
                    gains[i] = round(hypervolume([*front, point], limit) - hypervolume(front, limit), 9)
        if more and len(trials) < SMALL_COHORT:
            by_rank, sure = [], []
        for group in (by_rank, audits, sure):
            if group:
                return {min(group, key=lambda i: (-gains[i], ranked.index(i)))}
    return set()


def counted_extrapolation(full: Sequence[Shown], rung: int, of: Sequence[Shown]) -> tuple[list[float], float]:
    """Logarithms of final errors, and their deviation: least squares, with rows that stand for the prior."""

    def inputs(trials: Sequence[Shown]) -> Any:
        return np.array(
            [
                [math.log(max(1 - one.accuracies[rung], LEAST_ERROR)), *(math.log(cost) for cost in one.costs)]
                for one in trials
            ]
        ).reshape(-1, 1 + len(full[0].costs))

    def design(trials: Sequence[Shown]) -> Any:
        known = inputs(full)
        spread = np.maximum(known.std(axis=0), LEAST_SPREAD)
        return np.column_stack([np.ones(len(trials)), (inputs(trials) - known.mean(axis=0)) / spread])

    columns = 1 + len(full[0].costs)
    believed = np.sqrt(STEADY) * np.column_stack([np.zeros(columns), np.eye(columns)])
    rows = np.concatenate([design(full), believed])
    left = np.log([max(1 - one.accuracies[-1], LEAST_ERROR) for one in full]) - inputs(full)[:, 0]
    targets = np.concatenate([left, np.zeros(columns)])
    weights = np.linalg.lstsq(rows, targets)[0]
    variance = (np.sum((targets - rows @ weights) ** 2) + USUAL * USUAL_SPREAD**2) / (len(full) + USUAL)
    return (inputs(of)[:, 0] + design(of) @ weights).tolist(), math.sqrt(variance)


def counted_audit(trials: Sequence[Shown], more: bool) -> list[int]:
    """Every second of the first; when there are to be no more trials, the first others for those that are missing."""
    audited = [place for place in AUDITED if place < len(trials)]
    for place, trial in enumerate(trials):
        if not more and len(audited) < AUDIT and trial.accuracies and place not in audited:
            audited.append(place)
    return audited


def counted_distrust(trials: Sequence[Shown], members: list[int], rung: int) -> bool:
    both = [
        Shown(trials[i].costs, trials[i].accuracies[: rung + 2], waits=False)
        for i in members
        if len(trials[i].accuracies) > rung + 1
    ]
    return len(both) >= AUDIT / 2 and counted_correlation(both, rung, [trials[i] for i in members]) < TRUST


def counted_correlation(both: Sequence[Shown], rung: int, of: Sequence[Shown]) -> float:
    """From the covariances of log costs, log error and what is extrapolated from it, noise and all."""
    x = np.log([[*one.costs, max(1 - one.accuracies[rung], LEAST_ERROR)] for one in of])
    spread = np.atleast_2d(np.cov(x.T, bias=True))
    left = spread[-1, -1] - spread[-1, :-1] @ np.linalg.pinv(spread[:-1, :-1]) @ spread[:-1, -1]
    ends = [Shown(both[0].costs, (0.0,) * rung + (accuracy,), waits=False) for accuracy in (0.0, 1 - 1 / math.e)]
    (high, low), sd = counted_extrapolation(both, rung, ends)
    slope = high - low
    return float(slope * left / math.sqrt(max(left, 1e-15) * (slope * slope * left + sd * sd)))


@st.composite
def many_trials(draw: st.DrawFn, count: int = RUNGS) -> list[Shown]:
    """Up to 40 trials, equal costs and accuracies among them, at any rung, waiting, running or failed."""
    costs = draw(st.integers(1, 2))
    found = []
    for _ in range(draw(st.integers(0, 40))):
        reached = draw(st.integers(0, count))
        shown = tuple(draw(st.integers(0, 12)) / 12 for _ in range(reached))
        waits = 0 < reached < count and draw(st.integers(0, 3)) > 0
        found.append(Shown(tuple(float(draw(st.integers(1, 9))) for _ in range(costs)), shown, waits))
    return found


@given(st.lists(st.tuples(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(0, 6)), min_size=1, max_size=20))
def test_a_rung_is_ranked_by_dominance_then_by_what_each_adds(rows: list[tuple[tuple[int, int], int]]) -> None:
    costs = [tuple(map(float, cost)) for cost, _ in rows]
    accuracies = [a / 6 for _, a in rows]
    assert best_first(np.array(costs), np.array(accuracies)).tolist() == counted_order(costs, accuracies)


@given(many_trials(), st.sampled_from([0.0, 0.5]), st.booleans())
def test_who_goes_on_is_as_counted_out(trials: list[Shown], floor: float, more: bool) -> None:
    found = Halving(RUNGS, accuracy_floor=floor).next(trials, more=more)
    assert ({found} if found is not None else set()) == counted_next(trials, RUNGS, floor, more)


@given(many_trials())
def test_only_a_trial_that_waits_goes_on(trials: list[Shown]) -> None:
    found = Halving(RUNGS).next(trials)
    assert found is None or trials[found].waits


def waiting(*accuracies: float, cost: float = 1.0) -> list[Shown]:
    return [Shown((cost,), (value,), waits=True) for value in accuracies]


def test_the_first_of_every_eta_goes_on_and_no_more() -> None:
    trials = waiting(*(0.1 * i for i in range(1, 2 * ETA)))
    halving = Halving(2, audit=0, accuracy_floor=0.99)  # nothing is hopeful
    assert halving.next(trials[: ETA - 1]) is None
    assert halving.next(trials[:ETA]) == ETA - 1
    trials[ETA - 1] = Shown((1.0,), (0.1 * ETA, 0.9), waits=False)
    assert halving.next(trials) is None  # better ones have come since, but one of seven has gone on
    assert halving.next([*trials, *waiting(0.95)]) == 2 * ETA - 1


def audited(low: Sequence[float], high: Sequence[float]) -> list[Shown]:
    """Trials of rising costs that have been trained in full."""
    return [Shown((float(i),), pair, waits=False) for i, pair in enumerate(zip(low, high, strict=True), 1)]


AGREEING = [0.5, 0.3, 0.7, 0.2, 0.6, 0.1, 0.8, 0.4]
REVERSED = [1 - accuracy for accuracy in AGREEING]


def test_trials_spread_over_a_cohort_go_on_whatever_they_showed() -> None:
    halving = Halving(2, accuracy_floor=1.0)  # nothing is hopeful
    trials: list[Shown] = []
    for place in range(SMALL_COHORT - 1):
        low = (0.9, 0.3, 0.5, 0.1)[place // 2 % 4] - 0.05 * (place % 2)
        trials += waiting(low)
        while (found := halving.next(trials, more=True)) is not None:
            assert found == place
            trials[place] = Shown((1.0,), (low, (1 + low) / 2), waits=False)
    assert [place for place, trial in enumerate(trials) if not trial.waits] == list(AUDITED)[:-1]


def test_where_no_more_can_begin_the_audit_is_filled_up() -> None:
    halving = Halving(2, accuracy_floor=1.0)
    few = waiting(0.3, 0.2, 0.1)  # no quarter of them
    assert halving.next(few, more=True) == AUDITED[0] == 1
    trained = [few[0], Shown((1.0,), (0.2, 0.6), waits=False), few[2]]
    assert (halving.next(trained, more=True), halving.next(trained)) == (None, 0)
    failed = Shown((1.0,), (), waits=False)
    assert halving.next([failed, *trained[1:]]) == 2
    many_failed = [failed] * (SMALL_COHORT - 6)
    assert halving.next([*many_failed, few[0], trained[1], few[2]]) == len(many_failed)


@pytest.fixture
def first_audited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit is not spread."""
    monkeypatch.setattr("nas.search.halving.EVERY", 1)


@pytest.mark.usefixtures("first_audited")
def test_nothing_stops_at_a_rung_that_foretells_the_next_too_little() -> None:
    assert len(AGREEING) == AUDIT
    halving = Halving(2, accuracy_floor=1.0)
    poor = waiting(*[0.0] * ETA, cost=100.0)
    for high, goes_on in ((AGREEING, None), (REVERSED, AUDIT), ([0.5] * AUDIT, AUDIT)):
        assert halving.next([*audited(AGREEING, high), *poor]) == goes_on
    assert halving.next([*audited(2 * AGREEING, 2 * REVERSED), *poor]) == 2 * AUDIT
    assert halving.next([*audited(AGREEING + REVERSED, REVERSED + REVERSED), *poor]) == 2 * AUDIT
    assert halving.next([*audited(AGREEING + 4 * REVERSED, REVERSED + 4 * REVERSED), *poor]) is None


def test_what_was_chosen_by_its_error_says_as_much_as_what_was_not() -> None:
    rng = np.random.default_rng(0)
    log_error, noise = rng.normal(-1.0, 0.3, 4000), rng.normal(0.0, 0.3, 4000)
    low, high = 1 - np.exp(log_error), 1 - np.exp(log_error - 0.5 + noise)
    costs = np.exp(rng.normal(size=4000))
    all_of_them = [Shown((cost,), (a, b), waits=False) for cost, a, b in zip(costs, low, high, strict=True)]
    best = [one for one in all_of_them if one.accuracies[0] > np.quantile(low, 0.75)]
    plain = np.corrcoef(*np.log([[1 - a for a in one.accuracies] for one in best]).T)[0, 1]
    assert plain < 0.5
    for trained in (all_of_them, best):
        assert Extrapolation(trained, 0, 1).correlation(all_of_them) == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert Extrapolation(best, 0, 1).correlation(best) == pytest.approx(plain, abs=0.05)


@pytest.mark.usefixtures("first_audited")
def test_the_best_go_on_before_the_audit() -> None:
    halving = Halving(2, accuracy_floor=1.0)
    trials = [*audited(AGREEING[1:], AGREEING[1:]), *waiting(0.0), *waiting(0.3, 0.99, 0.2, 0.1)]
    assert halving.next(trials) == AUDIT + 1


@pytest.mark.usefixtures("first_audited")
def test_the_best_of_a_few_wait_for_others_where_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    halving = Halving(2, accuracy_floor=1.0)
    trials = [*audited(AGREEING, AGREEING), *waiting(0.3, 0.99, 0.2, 0.1)]
    monkeypatch.setattr("nas.search.halving.COHORT", len(trials) + 1)
    assert (halving.next(trials), halving.next(trials, more=True)) == (AUDIT + 1, None)
    unaudited = [*audited(AGREEING[1:], AGREEING[1:]), *trials[AUDIT:]]
    assert halving.next(unaudited, more=True) == AUDIT - 1
    monkeypatch.setattr("nas.search.halving.COHORT", len(trials))
    assert halving.next(trials, more=True) == AUDIT + 1


@pytest.mark.usefixtures("first_audited")
def test_what_only_the_costs_explain_is_no_correlation() -> None:
    halving = Halving(2, accuracy_floor=1.0)
    low, high = ([1 - share * cost**-0.4 for cost in range(1, AUDIT + 1)] for share in (0.9, 0.5))
    waits = Shown((100.0,), (1 - 0.9 * 100**-0.4,), waits=True)
    assert halving.next([*audited(low, high), waits]) == AUDIT
    assert halving.next([*audited(low, high), *waiting(0.1, cost=100.0)]) is None


@pytest.mark.usefixtures("first_audited")
def test_an_audit_that_has_not_ended_stops_nobody_for_good() -> None:
    begun = [Shown((1.0,), (0.5,), waits=False) for _ in range(AUDIT)]  # under way to the next rung, or failed there
    trials = [*begun, *waiting(0.3, 0.9, 0.2, 0.1)]
    assert Halving(2, accuracy_floor=1.0).next(trials) == AUDIT + 1


def test_a_cheap_network_goes_on_when_its_hope_beats_all_that_cost_no_more() -> None:
    dear = [Shown((100.0 + i,), (0.5 + 0.01 * i, 0.75 + 0.005 * i), waits=False) for i in range(4)]
    cheap = Shown((10.0,), (0.4,), waits=True)
    halving = Halving(2, audit=0, accuracy_floor=0.5)
    assert halving.next([*dear, cheap]) == 4  # half of the error is left in full: .7
    assert halving.next([*dear, Shown((10.0,), (0.4, 0.71), waits=False), Shown((11.0,), (0.4,), waits=True)]) is None
    assert Halving(2, audit=0, accuracy_floor=0.7).next([*dear, cheap]) is None


def test_of_two_the_one_goes_first_that_would_add_more_to_the_front() -> None:
    full = audited([0.5, 0.6, 0.7, 0.8], [0.75, 0.8, 0.85, 0.9])  # half of the error is left; costs 1, 2, 3, 4
    better, in_a_gap = Shown((4.1,), (0.81,), waits=True), Shown((0.1,), (0.55,), waits=True)
    others = waiting(*[0.0] * 12, cost=50.0)
    halving = Halving(2, audit=0, accuracy_floor=0.5)
    assert best_first(np.array([[4.1], [0.1]]), np.array([0.81, 0.55])).tolist() == [0, 1]
    assert halving.next([*full, better, in_a_gap, *others]) == 5
    assert halving.next([*full, better, *others]) == 4


def test_accuracies_are_extrapolated_by_the_share_of_error_that_costs_and_rung_leave() -> None:
    by_share = [Shown((cost,), (1 - error, 1 - error / 2), waits=False) for cost, error in [(1.0, 0.5), (9.0, 0.2)]]
    ones = [Shown((30.0,), (0.6,), waits=True), Shown((2.0,), (0.9,), waits=True)]
    assert Extrapolation(by_share, 0, 1).accuracies(ones) == pytest.approx([0.8, 0.95])
    dear_learn_longer = [
        Shown((cost,), (0.5, 1 - 0.4 / math.sqrt(cost)), waits=False) for cost in (1.0, 2.0, 3.0, 4.0, 5.0) * 40
    ]
    found = Extrapolation(dear_learn_longer, 0, 1).accuracies([Shown((cost,), (0.5,), waits=True) for cost in (1, 16)])
    assert found == pytest.approx([0.6, 0.9], abs=2e-3)


def test_luck_is_counted_in_deviations_of_what_is_known() -> None:
    one = waiting(0.6, cost=3.0)

    def between(trained: Sequence[Shown]) -> float:
        low, middle, high = (float(Extrapolation(trained, 0, 1).accuracies(one, luck)[0]) for luck in (-1, 0, 1))
        assert (1 - low) / (1 - middle) == pytest.approx((1 - middle) / (1 - high))
        return math.log((1 - low) / (1 - middle))

    few = audited([0.5, 0.6, 0.7], [0.75, 0.8, 0.85])
    scattered = audited([0.5] * 40, [0.7, 0.8] * 20)
    assert 0 < between(few * 10) < between(few) < between(few[:1])
    assert between(scattered) == pytest.approx(math.log(0.3 / 0.2) / 2, rel=0.1)


def test_an_extrapolation_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="an extrapolation from rung 0 to 2 needs a trial that finished both"):
        Extrapolation([], 0, 2)


def test_what_a_stopped_trial_promises_keeps_the_median_share_of_its_error() -> None:
    trials = [
        Shown((1.0,), (0.5, 0.75), waits=False),
        Shown((1.0,), (0.8, 0.9), waits=False),
        Shown((1.0,), (0.6,), waits=True),
        Shown((1.0,), (), waits=False),
    ]
    found = Halving(3).expected(trials)
    assert found[:3] == pytest.approx([0.75, 0.9, 0.8])
    assert np.isnan(found[3])
    assert Halving(3).expected(waiting(0.3, 0.4)).tolist() == [0.3, 0.4]
    assert Halving(3).expected([]).tolist() == []


# ---- searches by rungs -------------------------------------------------------------------------------------------

STEPS: dict[str, Any] = {"steps": 320, "halving": True}
"""Rungs of 20, 80 and 320 steps."""
COPIED = (9, 22)


@pytest.fixture(scope="module", params=SAMPLERS)
def halved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Event]]:
    """A search of 30 networks by each sampler, and copies of it as it was after some of its trainings."""
    out = tmp_path_factory.mktemp(request.param)
    events: list[Event] = []

    def copy(event: Event) -> None:
        events.append(event)
        ended = sum(isinstance(one, Finished) for one in events)
        if isinstance(event, Finished) and ended in COPIED:
            shutil.copytree(out / "s", out / f"after-{ended}" / "s")

    search(out, by_rung, copy, sampler=request.param, trials=30, **STEPS)
    return request.param, out, events


def test_each_network_is_trained_once_to_each_of_its_rungs(halved: tuple[str, Path, list[Event]]) -> None:
    _, out, events = halved
    trials = trials_of(out)
    assert trials["key"].is_unique
    assert len(trials) == 30
    assert set(trials["state"]) == {"complete", "stopped"}
    reached: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, Finished):
            reached.setdefault(event.trial, []).append(event.budget["steps"])
    assert all(budgets == [20, 80, 320][: len(budgets)] for budgets in reached.values())
    assert sorted(reached) == list(range(30))
    complete = trials["state"] == "complete"
    assert list(complete) == [len(reached[trial]) == 3 for trial in trials["trial"]]
    assert sum(isinstance(event, GoesOn) for event in events) == sum(len(one) - 1 for one in reached.values())
    assert sum(isinstance(event, Proposed) for event in events) == 30


def test_fewer_networks_reach_each_rung(halved: tuple[str, Path, list[Event]]) -> None:
    _, _, events = halved
    ended = [event.budget["steps"] for event in events if isinstance(event, Finished)]
    assert ended.count(20) == 30 > ended.count(320)
    for low, high in itertools.pairwise((20, 80, 320)):
        assert ended.count(low) // ETA <= ended.count(high) <= ended.count(low)


def test_a_halved_search_that_goes_on_is_the_one_that_never_stopped(
    halved: tuple[str, Path, list[Event]], tmp_path: Path
) -> None:
    sampler, out, _ = halved
    for ended in COPIED:
        there = tmp_path / str(ended)
        shutil.copytree(out / f"after-{ended}", there)
        search(there, by_rung, sampler=sampler, trials=30, **STEPS)
        pd.testing.assert_frame_equal(trials_of(there), trials_of(out))


def test_a_longer_search_is_the_shorter_one_gone_on(halved: tuple[str, Path, list[Event]], tmp_path: Path) -> None:
    """If there was a whole cohort in it."""
    sampler, out, _ = halved
    for trials in (SMALL_COHORT, 30):
        search(tmp_path, by_rung, sampler=sampler, trials=trials, **STEPS)
    pd.testing.assert_frame_equal(trials_of(tmp_path), trials_of(out))


def test_before_a_cohort_has_begun_only_the_audit_goes_on(halved: tuple[str, Path, list[Event]]) -> None:
    _, _, events = halved
    begun = list(itertools.accumulate(isinstance(event, Proposed) for event in events))
    going = [(event.trial, count) for event, count in zip(events, begun, strict=True) if isinstance(event, GoesOn)]
    assert {trial for trial, count in going if count < SMALL_COHORT} == set(AUDITED[:-1])
    assert any(trial not in AUDITED for trial, _ in going)


def test_in_an_exhausted_space_none_waits_for_a_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.search.halving.COHORT", 40)
    summary = search(tmp_path, by_rung, trials=40, max_macs=120_000, **STEPS)
    assert 2 * AUDIT < summary.finished < 40
    assert summary.complete > AUDIT


def test_optuna_sees_what_waits_and_what_is_complete(halved: tuple[str, Path, list[Event]]) -> None:
    _, out, _ = halved
    states = {"complete": "COMPLETE", "stopped": "WAITING"}
    trials = study_of(out).trials
    assert [trial.state.name for trial in trials] == [states[state] for state in trials_of(out)["state"]]
    for trial, shown in zip(trials, trials_of(out)["accuracy"], strict=True):
        about = trial.user_attrs["nas"]
        assert shown == (trial.values[0] if trial.values else about["rungs"][-1])


def test_samplers_see_what_waiting_trials_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories: list[list[FrozenTrial]] = []

    class Watched(Proposer):
        def __init__(self, *arguments: Any) -> None:
            histories.append(list(arguments[-1]))
            super().__init__(*arguments)

    monkeypatch.setattr("nas.search.driver.Proposer", Watched)
    search(tmp_path, by_rung, trials=20, **STEPS)
    for number, history in enumerate(histories):
        assert [trial.number for trial in history] == list(range(number))
        assert {trial.state.name for trial in history} <= {"COMPLETE"}
    last = {trial.number: trial for trial in histories[-1]}
    shown = trials_of(tmp_path).set_index("trial")
    waiting = [number for number in last if shown.loc[number, "state"] == "stopped"]
    assert waiting
    for number in waiting:
        rungs_passed = last[number].user_attrs["nas"]["rungs"]
        assert last[number].values[0] > rungs_passed[-1]  # longer trainings are better
        assert last[number].values[1] == shown.loc[number, "macs"]


def test_the_front_is_of_networks_trained_in_full(halved: tuple[str, Path, list[Event]]) -> None:
    _, out, _ = halved
    assert set(Run(out, "s").front(("accuracy", "macs"))["state"]) == {"complete"}


def test_a_failure_at_a_later_rung_fails_the_trial_and_is_not_repeated(tmp_path: Path) -> None:
    def score(spec: Spec) -> float:
        if spec["rung"] == 1:
            raise RuntimeError("no memory")
        return by_rung(spec)

    trials = AUDIT + 2
    summary = search(tmp_path, score, trials=trials, **STEPS)
    assert (summary.finished, summary.complete, summary.failed) == (trials, 0, AUDIT)
    assert sorted(trials_of(tmp_path)["state"]) == ["failed"] * AUDIT + ["stopped"] * 2
    assert search(tmp_path, score, trials=trials, **STEPS).ended.startswith("nothing to add")


def test_a_search_in_full_is_not_resumed_by_rungs(tmp_path: Path) -> None:
    search(tmp_path, by_rung, trials=2, **STEPS)
    with pytest.raises(ValueError, match=r"config.rungs: \[20, 80, 320\] -> none"):
        search(tmp_path, by_rung, trials=2, steps=320)


def test_the_summary_says_what_was_spared(tmp_path: Path) -> None:
    summary = search(tmp_path, by_rung, trials=40, **STEPS)
    assert summary.complete == list(trials_of(tmp_path)["state"]).count("complete")
    shown = [len(trial.user_attrs["nas"]["rungs"]) for trial in study_of(tmp_path).trials]
    complete = [trial.values is not None for trial in study_of(tmp_path).trials]
    spent = sum((0, 20, 80, 320)[n + full] for n, full in zip(shown, complete, strict=True))
    assert summary.trained == pytest.approx(spent / (320 * 40))
    assert summary.trained < 0.5


def test_budgets_too_short_for_rungs_are_trained_in_full(tmp_path: Path) -> None:
    assert search(tmp_path, by_rung, trials=3, steps=40, halving=True).complete == 3


# ---- real trainings ----------------------------------------------------------------------------------------------


def test_a_training_by_rungs_equals_one_in_one_go(tmp_path: Path) -> None:
    run_search(settings(tmp_path, trials=3, epochs=4, halving=True, sampler="ehvi", device="cpu"))
    run = Run(tmp_path, "s")
    complete = [trial for trial in run.trials().to_dict("records") if trial["state"] == "complete"]
    assert len(complete) == 3
    for trial in complete:
        spec, result = run.read_spec(trial["trial"]), run.read_result(trial["trial"])
        assert result is not None
        steps = [step for step, *_ in result["evaluations"]]
        assert steps == [18, 72]
        direct = train(
            Architecture.from_json(spec["arch"]),
            load(**spec["data"]),
            Recipe.from_json(spec["recipe"]),
            epochs=4,
            seed=spec["seed"],
            device="cpu",
        )
        assert result["accuracy"] == direct.accuracy
        assert result["loss_curve"] == list(direct.loss_curve)


# ---- the recorded table ------------------------------------------------------------------------------------------


def replay(out: Path, score: Callable[[str, int], float], **changes: Any) -> tuple[pd.DataFrame, float]:
    """A search of 80 networks of the table, a score by key and steps; its trials, and what it took of all in full."""
    executor = ScoredExecutor(lambda spec: score(spec["key"], *spec["budget"].values()))
    space = str(TABLES / "small.toml")
    summary = run_search(settings(out, space=space, sampler="ehvi", steps=72, trials=80, **changes), executor=executor)
    return trials_of(out), summary.trained


def one_seed(key: str, steps: int) -> float:
    return float(TABLE[f"accuracy.{steps}.0"][key])


def in_proportion(key: str, steps: int) -> float:
    return one_seed(key, 72) * (0.5 if steps < 72 else 1)


def test_a_rung_that_ranks_saves_half_and_lets_the_front_go_on(tmp_path: Path) -> None:
    trials, share = replay(tmp_path, in_proportion, halving=True)
    assert share <= 0.55
    assert trials["key"].is_unique
    first = [in_proportion(key, 18) for key in trials["key"]]
    rank_N = ranks(np.column_stack([np.log(trials["macs"]), np.negative(first)]))
    goes_on = (trials["state"] == "complete").to_numpy()
    assert goes_on[rank_N == 0].mean() >= 0.7


def test_where_rungs_do_not_rank_nothing_stops(tmp_path: Path) -> None:
    """After 18 steps on digits, one seed says next to nothing of the order after 72."""
    trials, share = replay(tmp_path, one_seed, halving=True)
    assert share == 1
    assert set(trials["state"]) == {"complete"}
    assert trials["accuracy"].tolist() == [one_seed(key, 72) for key in trials["key"]]
