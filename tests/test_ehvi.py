"""Exact-cost EHVI: the gain, the volume, what is proposed, and plain Optuna studies with it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy import stats

from nas.pareto import hypervolume
from nas.search import ehvi, surrogate
from nas.search.ehvi import (
    EHVISampler,
    Known,
    LogRegret,
    Memory,
    Table,
    doubt,
    levels,
    refitted_at,
    remembered,
    staircase,
    steadied,
    trust,
)
from nas.search.gate import Candidate, Gate
from nas.search.known import known
from nas.search.samplers import Direction, distributions, to_genotype, to_params
from nas.search.surrogate import Floats, GaussianProcess
from nas.space import SearchSpace

SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(["a", "b", "c", None]),
    "depth": IntDistribution(0, 6),
    "width": IntDistribution(8, 64, step=8),
    "rate": FloatDistribution(0.0, 1.0, step=0.25),
}
WIDTHS = range(8, 57, 8)
GRID = [
    dict(zip(SPACE, values, strict=True))
    for values in itertools.product("abc", range(7), range(8, 65, 8), (0, 0.25, 0.5, 0.75, 1.0))
]


def accuracy(params: Mapping[str, Any]) -> float:
    """Kind b is good, width helps and depth too; most networks fail."""
    good = 1.0 - np.exp(-params["width"] * (1 + params["depth"]) / 60)
    return float(
        0.9 * good - 0.3 * abs(params["rate"] - 0.5) - {"a": 0.05, "b": 0.0, "c": 0.5}.get(params["kind"], 0.8)
    )


def price(params: Mapping[str, Any]) -> tuple[float, float]:
    return 1.0 + params["width"] * (1.0 + params["depth"]), 1.0 + params["width"]


def costs(table: Table) -> NDArray[np.float64]:
    return np.stack([1.0 + table["width"] * (1.0 + table["depth"]), 1.0 + table["width"]], axis=1)


def one_cost(table: Table) -> NDArray[np.float64]:
    return costs(table)[:, :1]


def study(sampler: EHVISampler, trials: int, *, two: bool = False, pending: int = 1) -> optuna.Study:
    """A study of trials, `pending` of them under way at once."""
    directions: list[Direction] = ["maximize", "minimize", "minimize"]
    made = optuna.create_study(directions=directions[: 2 + two], sampler=sampler)
    under_way: list[optuna.Trial] = []
    for _ in range(trials):
        under_way.append(made.ask(SPACE))
        if len(under_way) == pending:
            trial = under_way.pop(0)
            made.tell(trial, [accuracy(trial.params), *price(trial.params)[: 1 + two]])
    return made


def finished(params: dict[str, Any]) -> optuna.trial.FrozenTrial:
    values = [accuracy(params), price(params)[0]]
    return optuna.trial.create_trial(params=params, distributions=SPACE, values=values)


def volume(networks: Sequence[Mapping[str, Any]]) -> float:
    points = [(-max(accuracy(one), 0.0), np.log(price(one)[0])) for one in networks]
    return hypervolume(np.array(points), [0.0, np.log(500.0)])


# ---- mathematics -------------------------------------------------------------------------------------------------


@given(st.floats(-4, 1), st.floats(0.05, 1.5), st.floats(-4, 1))
def test_the_expected_gain_is_the_mean_of_gains(mean: float, sd: float, level: float) -> None:
    regret = LogRegret(best=0.9, gap=0.1)
    t = mean + sd * np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * ((t - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    gains = np.maximum(np.exp(-level) - np.exp(-t), 0.0)
    expected = float(np.sum(gains * density) * (t[1] - t[0]))
    got = regret.expected_gain(np.array([mean]), np.array([sd]), level)[0]
    assert got == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_log_regret_keeps_order_and_flattens_below() -> None:
    accuracy_M = np.array([0.1, 0.5, 0.8, 0.85, 0.9])
    scaled = LogRegret.of(accuracy_M).scaled(accuracy_M)
    assert np.all(np.diff(scaled) > 0)
    assert scaled[4] - scaled[3] > 5 * (scaled[1] - scaled[0]) * (0.05 / 0.4)
    assert LogRegret.of(np.full(3, 0.5)).scaled(np.full(3, 0.5)) == pytest.approx(np.full(3, -np.log(1.5e-9)))


networks = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=12)


def test_the_scale_is_taken_back() -> None:
    regret = LogRegret.of(np.array([0.1, 0.5, 0.7, 0.8, 0.9]))
    accuracy_M = np.array([0.05, 0.5, 0.9])
    assert regret.accuracy(regret.scaled(accuracy_M)) == pytest.approx(accuracy_M)


NO_COSTS = np.empty((300, 0))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 10), st.floats(0, 20)), min_size=1, max_size=12),
    st.floats(0.1, 10),
)
def test_steadied_accuracies_are_level_with_those_seen(trials: list[tuple[float, float, float]], unit: float) -> None:
    """Whatever the unit of the losses; and none is far above the best."""
    accuracy_M, loss_M, log_cost_M = np.array(trials).T
    steady_M = steadied(accuracy_M, loss_M, log_cost_M[:, None])
    regret = LogRegret.of(accuracy_M)
    assert np.all(steady_M < regret.best + regret.gap)
    told_M, steady_t = regret.scaled(accuracy_M), -np.log(regret.best + regret.gap - steady_M)
    assert steady_t.mean() == pytest.approx(told_M.mean(), abs=1e-6)
    assert steadied(accuracy_M, loss_M * unit, log_cost_M[:, None]) == pytest.approx(steady_M, abs=1e-6)


def test_losses_that_say_the_same_leave_accuracies_as_they_are() -> None:
    accuracy_M = np.random.default_rng(0).random(20)
    loss_M = np.exp(-2 * LogRegret.of(accuracy_M).scaled(accuracy_M))
    assert steadied(accuracy_M, loss_M, NO_COSTS[:20]) == pytest.approx(accuracy_M)


def test_losses_that_say_nothing_leave_accuracies_in_their_order() -> None:
    accuracy_M = np.random.default_rng(0).random(20)
    steady_M = steadied(accuracy_M, np.full(20, 0.7), NO_COSTS[:20])
    assert np.argsort(steady_M).tolist() == np.argsort(accuracy_M).tolist()
    assert np.ptp(steady_M) < np.ptp(accuracy_M)


@pytest.mark.parametrize(("trials", "share"), [(10, 1 / 226), (150, 1 / 2), (300, 4 / 5)])
@pytest.mark.parametrize("trusted", [1.0, 0.4])
def test_what_was_seen_counts_more_the_more_trials_there_are_and_the_less_losses_are_trusted(
    trials: int, share: float, trusted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ehvi, "trust", lambda *_: trusted)
    accuracy_M = np.random.default_rng(0).random(trials)
    regret = LogRegret.of(accuracy_M)
    steady_M = steadied(accuracy_M, np.full(trials, 0.7), NO_COSTS[:trials])
    seen, steady = (-np.log(regret.best + regret.gap - one_M) for one_M in (accuracy_M, steady_M))
    assert steady - steady.mean() == pytest.approx((1 - trusted * (1 - share)) * (seen - seen.mean()))


def test_of_equal_accuracies_that_of_the_smaller_loss_is_taken_for_the_better() -> None:
    """Also where a training without a loss stands between, which counts as it was seen."""
    accuracy_M = np.array([0.5, 0.6, 0.7, 0.8, 0.8, 0.9])
    loss_M = np.array([1.4, 1.2, 1.0, np.nan, 0.5, 0.6])
    steady_M = steadied(accuracy_M, loss_M, NO_COSTS[:6])
    assert steady_M[3] == 0.8
    assert 0.8 < steady_M[4] < 0.9 and steady_M[5] < 0.9
    for useless in (np.nan, 0.0, -1.0, np.inf):
        assert steadied(accuracy_M, np.full(6, useless), NO_COSTS[:6]).tolist() == accuracy_M.tolist()


def test_the_order_of_trials_does_not_matter() -> None:
    """Also where some have no loss."""
    rng = np.random.default_rng(0)
    accuracy_M, log_costs_MC = rng.random(20), rng.normal(size=(20, 1))
    loss_M = np.exp(0.5 * log_costs_MC[:, 0] - 0.3 * accuracy_M + 0.1 * rng.normal(size=20))
    loss_M[[3, 11]] = np.nan
    order = rng.permutation(20)
    steady_M = steadied(accuracy_M, loss_M, log_costs_MC)
    assert steadied(accuracy_M[order], loss_M[order], log_costs_MC[order]) == pytest.approx(steady_M[order], rel=1e-9)


def test_losses_are_trusted_as_bayes_rule_says() -> None:
    """Against the densities themselves: correlated by -.5 or not at all, ten to one beforehand."""
    rng = np.random.default_rng(0)
    seen_M = rng.normal(size=9)
    log_loss_M = 0.3 * rng.normal(size=9) - 0.1 * seen_M
    pairs = np.column_stack([seen_M, log_loss_M])
    pairs = (pairs - pairs.mean(axis=0)) / pairs.std(axis=0)
    either, none = (stats.multivariate_normal([0, 0], [[1, r], [r, 1]]).logpdf(pairs) for r in (-0.5, 0.0))
    odds = 10 * np.exp(8 / 9 * np.sum(either - none))  # a mean takes one of the nine
    assert trust(seen_M, log_loss_M, NO_COSTS[:9]) == pytest.approx(odds / (1 + odds))


@given(st.integers(0, 1_000), st.integers(1, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_trust_is_in_what_losses_say_beyond_costs(seed: int, count: int, accurate: float, lossy: float) -> None:
    rng = np.random.default_rng(seed)
    seen_M, log_loss_M, log_costs_MC = rng.normal(size=20), rng.normal(size=20), 12 + rng.normal(size=(20, count))
    slope_M = log_costs_MC.sum(axis=1)
    found = trust(seen_M, log_loss_M, log_costs_MC)
    assert trust(2 * seen_M + accurate * slope_M, 0.1 * log_loss_M + lossy * slope_M, log_costs_MC) == pytest.approx(
        found
    )


def test_trust_needs_trials() -> None:
    """It is as at first while costs could explain everything, and fades where losses say the same as they do."""
    rng = np.random.default_rng(0)
    seen_M, log_costs_MC = rng.normal(size=60), rng.normal(size=(60, 2))
    log_loss_M = log_costs_MC @ [-0.2, 0.1]
    trusted = [trust(seen_M[:count], log_loss_M[:count], log_costs_MC[:count]) for count in (1, 2, 3, 4, 20, 60)]
    assert trusted[:3] == pytest.approx([10 / 11] * 3)
    assert trusted[2] > trusted[3] > trusted[4] > 0.2 and trusted[5] < 1e-3
    assert trust(seen_M, log_loss_M - 0.1 * seen_M, log_costs_MC) > 0.999
    assert trust(seen_M, log_loss_M + 0.1 * seen_M, log_costs_MC) < 1e-9


def test_what_a_study_says_of_losses_is_used_and_nothing_else() -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 12)
    loss_M = 1.5 - np.array([trial.values[0] for trial in made.trials]) + 0.2 * np.random.default_rng(0).random(12)
    with_losses = optuna.create_study(directions=["maximize", "minimize"])
    for trial, loss in zip(made.trials, [*loss_M[:10].tolist(), "unknown", None], strict=True):
        with_losses.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=SPACE, values=trial.values, user_attrs={ehvi.LOSS: loss}
            )
        )
    plain, told = believed(made)[1], believed(with_losses)[1]
    assert plain.accuracy.tolist() == plain.seen.tolist() == told.seen.tolist()
    known_M = np.append(loss_M[:10], [np.nan, np.nan])
    log_costs_MC = np.log([[trial.values[1]] for trial in made.trials])
    assert told.accuracy.tolist() == steadied(told.seen, known_M, log_costs_MC).tolist() != told.seen.tolist()
    assert told.accuracy_of_first(7).tolist() == steadied(told.seen[:7], known_M[:7], log_costs_MC[:7]).tolist()


@given(networks, st.integers(0, 6))
def test_levels_are_the_best_within_reach(found: list[tuple[int, int, int]], floor: int) -> None:
    """f from the staircase alone equals f from all networks, which is a maximum."""
    log_costs = np.array(found, np.float64)[:, :2]
    means = np.array(found, np.float64)[:, 2]
    points = np.array(list(itertools.product(np.arange(-0.5, 5), repeat=2)))
    kept = staircase(log_costs, means, floor)
    expected = [
        max([m for c, m in zip(log_costs, means, strict=True) if np.all(c <= z)] + [float(floor)]) for z in points
    ]
    assert levels(points, log_costs[kept], means[kept], floor).tolist() == expected
    assert all(means[row] > floor for row in kept)


def test_one_cost_is_integrated_exactly() -> None:
    """Against a fine sum over z of the expected gain over f(z)."""
    sampler = EHVISampler(Known(one_cost), seed=0)
    made = study(sampler, 30)
    genes = ehvi.GeneTable(SPACE)
    found = ehvi.Networks(genes, Known(one_cost))
    history = ehvi.History.of(made.trials, made, found)
    belief = ehvi.Beliefs.of(history, found, Memory(), None).each[0]
    batch = found.read(genes.random(50, np.random.default_rng(0)))
    mean_N, sd_N = belief.process.predict(batch.x)
    sd_N *= belief.doubt
    z = np.linspace(batch.log_costs.min(), belief.reference[0], 20_001)
    f = levels(z[:, None], belief.corners, belief.levels, belief.levels[0])
    for row in range(50):
        reach = z >= batch.log_costs[row, 0]
        gains = belief.regret.expected_gain(mean_N[row], sd_N[row], f[reach])
        assert belief.score(batch)[row] == pytest.approx(np.sum(gains) * (z[1] - z[0]), rel=2e-2, abs=1e-4)


def test_several_costs_are_a_mean_over_points() -> None:
    """Each point that a network is cheaper than counts the expected gain over f there; many points have the same f."""
    made = study(EHVISampler(Known(costs), seed=0), 30, two=True)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(costs))
    belief = ehvi.Beliefs.of(ehvi.History.of(made.trials, made, found), found, Memory(), None).each[0]
    assert len(belief.levels) == ehvi.POINTS > 4 * len(np.unique(belief.levels)) > 8
    batch = found.read(found.genes.random(50, np.random.default_rng(0)))
    mean_N, sd_N = belief.process.predict(batch.x)
    score_N = belief.score(batch)
    for row in range(50):
        reach = np.all(batch.log_costs[row] <= belief.corners, axis=1)
        gains = belief.regret.expected_gain(mean_N[row], belief.doubt * sd_N[row], belief.levels[reach])
        assert score_N[row] == pytest.approx(np.sum(gains), rel=1e-9)


def test_every_fit_has_a_say_until_there_are_many_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 30)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost))
    history = ehvi.History.of(made.trials, made, found)
    memory = Memory()
    batch = found.read(found.genes.random(50, np.random.default_rng(0)))
    both = ehvi.Beliefs.of(history, found, memory, None)
    first, second = both.each
    assert both.score(batch) == pytest.approx(first.score(batch) + second.score(batch), rel=1e-12)
    assert np.max(np.abs(first.score(batch) - second.score(batch))) > 0.01 * np.max(both.score(batch))
    x_ND, accuracy_N = history.done.x[: refitted_at(30)], history.accuracy[: refitted_at(30)]
    thetas = surrogate.fits(x_ND, LogRegret.of(accuracy_N).scaled(accuracy_N), found.column_genes)
    for belief, theta in zip(both.each, thetas, strict=True):
        process = GaussianProcess(history.done.x, first.regret.scaled(history.accuracy), found.column_genes, theta)
        assert belief.process.mean(batch.x) == pytest.approx(process.mean(batch.x))
    monkeypatch.setattr(ehvi, "MIXED", 30)
    assert len(ehvi.Beliefs.of(history, found, memory, None).each) == 2
    monkeypatch.setattr(ehvi, "MIXED", 29)
    alone = ehvi.Beliefs.of(history, found, memory, None)
    assert alone.score(batch).tolist() == first.score(batch).tolist()
    assert alone.front.tolist() == both.front.tolist() == first.front.tolist()


def test_doubt_is_how_far_the_better_half_lies_from_what_was_foretold() -> None:
    accuracy_M = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3])
    failures = np.array([0.0, 9.0, 0.0, 9.0, 0.0, 9.0])
    assert doubt(failures, accuracy_M) == pytest.approx(np.sqrt(4 / 7))
    assert doubt(9.0 - failures, accuracy_M) == pytest.approx(np.sqrt((3 * 81 + 4) / 7))
    assert doubt(np.ones(6), accuracy_M) == pytest.approx(1.0)


def believed(made: optuna.Study, floor: float | None = None) -> tuple[ehvi.Belief, ehvi.History]:
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost))
    history = ehvi.History.of(made.trials, made, found)
    return ehvi.Beliefs.of(history, found, Memory(), floor).each[0], history


def test_what_runs_counts_with_its_expected_accuracy() -> None:
    """Also where nothing finished is as good: a running twin of the best kind, cheaper than all."""
    made = study(EHVISampler(Known(one_cost), seed=0), 30)
    for depth in range(7):
        params = {"kind": "b", "depth": depth, "width": 24, "rate": 0.5}
        made.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=SPACE))
    belief, history = believed(made)
    mean_N = belief.process.mean(history.pending.x)
    f = levels(history.pending.log_costs, belief.corners, belief.levels, belief.levels[0])
    assert len(mean_N) == 7 and np.all(f >= mean_N)
    assert set(mean_N.tolist()) & set(belief.levels.tolist())


def test_what_runs_is_in_doubt_no_more() -> None:
    """Nor, as much, is what resembles it."""
    made = study(EHVISampler(Known(one_cost), seed=0), 30)
    alone, _ = believed(made)
    params = {"kind": "a", "depth": 5, "width": 24, "rate": 0.0}
    made.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=SPACE))
    belief, history = believed(made)
    near = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost)).read(history.pending.codes + np.array([0, 1, 1, 1]))
    for batch in (history.pending, near):
        (mean, sd), (mean_alone, sd_alone) = belief.process.predict(batch.x), alone.process.predict(batch.x)
        assert mean == pytest.approx(mean_alone, abs=1e-9)
        assert sd[0] < 0.95 * sd_alone[0]
    assert belief.doubt == alone.doubt


def test_a_surrogate_that_explains_failures_is_doubted_less_among_good_networks() -> None:
    doubts = []
    for seed in range(5):
        belief, history = believed(study(EHVISampler(Known(one_cost), seed=seed), 30))
        assert belief.doubt == doubt(belief.process.left_out(), history.accuracy)
        doubts.append(belief.doubt)
    assert np.median(doubts) < 0.9


def test_also_after_trials_that_one_fit_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ehvi, "MIXED", 0)
    made = study(EHVISampler(Known(one_cost), seed=0), 30)
    belief, history = believed(made)
    assert belief.doubt == doubt(belief.process.left_out(), history.accuracy) < 0.9


def test_f_begins_at_the_declared_floor_or_at_what_most_of_the_space_exceeds() -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 30)
    declared, _ = believed(made, floor=0.4)
    assert declared.levels[0] == declared.regret.scaled(np.array(0.4))
    derived, _ = believed(made)
    whole = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost)).standing
    assert np.mean(derived.process.mean(whole.x) > derived.levels[0]) == pytest.approx(0.7, abs=0.01)


@given(st.integers(2, 5000))
def test_refits_are_a_function_of_the_number_of_trials(trials: int) -> None:
    last = refitted_at(trials)
    assert trials / 1.6 < last <= trials or trials < 8
    assert refitted_at(last) == last


def test_parameters_are_fitted_to_trials_spaced_up_to_the_last_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 31)
    fitted: list[NDArray[np.float64]] = []

    def fits(x_ND: Floats, y_N: Floats, gene_D: surrogate.Genes) -> list[Floats]:
        fitted.append(x_ND)
        return surrogate.fits(x_ND, y_N, gene_D)

    monkeypatch.setattr(ehvi, "fits", fits)
    monkeypatch.setattr(ehvi, "FITTED", 10)
    _, history = believed(made)
    last = refitted_at(len(history.done))
    assert last < len(history.done)
    assert fitted[0].tolist() == history.done.x[[place * (last - 1) // 9 for place in range(10)]].tolist()


def test_losses_of_later_trials_call_for_no_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = study(EHVISampler(Known(one_cost), seed=0), 37).trials
    rng, memory = np.random.default_rng(0), Memory()
    made = optuna.create_study(directions=["maximize", "minimize"])
    fitted: list[int] = []

    def fits(x_ND: Floats, y_N: Floats, gene_D: surrogate.Genes) -> list[Floats]:
        fitted.append(len(x_ND))
        return surrogate.fits(x_ND, y_N, gene_D)

    monkeypatch.setattr(ehvi, "fits", fits)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost))
    for count, trial in enumerate(trials, 1):
        told = {ehvi.LOSS: 1.0 + rng.random()}
        made.add_trial(
            optuna.trial.create_trial(params=trial.params, distributions=SPACE, values=trial.values, user_attrs=told)
        )
        if count > 20:
            ehvi.Beliefs.of(ehvi.History.of(made.trials, made, found), found, memory, None)
    assert fitted == sorted({refitted_at(count) for count in range(21, 38)})


def test_many_trials_are_remembered_by_their_best_and_a_spread() -> None:
    assert remembered(700, np.zeros(700)).tolist() == list(range(700))
    accuracy_M = np.random.default_rng(0).random(3000)
    kept = remembered(3000, accuracy_M)
    assert len(set(kept.tolist())) == ehvi.REMEMBERED
    assert set(np.argsort(-accuracy_M)[:400].tolist()) <= set(kept.tolist())
    assert np.histogram(kept, 6)[0].min() > 80


# ---- proposals ---------------------------------------------------------------------------------------------------


def proposals(
    trials: Sequence[optuna.trial.FrozenTrial], seeds: int = 12, space: dict[str, BaseDistribution] | None = None
) -> list[dict[str, Any]]:
    """What so many seeds propose after these trials, `space` told."""
    asked = []
    for seed in range(seeds):
        sampler = EHVISampler(Known(one_cost, space=space), seed=seed)
        made = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        made.add_trials(trials)
        asked.append(made.ask(SPACE).params)
    return asked


def test_one_network_in_eight_is_any_neighbour_of_the_front() -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 24)
    belief, history = believed(made)
    front_NG = history.done.codes[belief.front]
    codes_NG = ehvi.GeneTable(SPACE).codes(proposals(made.trials))
    assert [int(np.count_nonzero(front_NG != code_G, axis=1).min()) for code_G in codes_NG] == [1] * 12
    assert len(np.unique(codes_NG, axis=0)) > 8
    one_less = proposals(made.trials[:23])
    assert one_less == [one_less[0]] * 12


def test_options_that_few_networks_had_come_sooner_among_neighbours() -> None:
    """Of the kinds c was tried once, in bad company, and None never: 2 neighbours in 20 are of them."""
    known_kinds = [params for params in GRID if params["kind"] != "c"]
    tried = [*random.Random(0).sample(known_kinds, 47), {"kind": "c", "depth": 0, "width": 8, "rate": 0.0}]
    kinds = [params["kind"] for params in proposals([finished(params) for params in tried], seeds=40)]
    assert kinds.count("c") + kinds.count(None) >= 8


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_how_many_share_each_option(codes: list[tuple[int, int]]) -> None:
    codes_NG = np.array(list(itertools.product(range(4), repeat=2)))
    expected = [[sum(one[gene] == code[gene] for one in codes) for gene in range(2)] for code in codes_NG]
    assert ehvi.sharers(codes_NG, np.array(codes, np.int64).reshape(-1, 2)).tolist() == expected


@given(
    st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=8),
    st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=5),
)
def test_a_promise_counts_less_the_more_genes_differ_from_the_front(
    codes: list[tuple[int]], front: list[tuple[int]]
) -> None:
    differ = [min(sum(a != b for a, b in zip(code, good, strict=True)) for good in front) for code in codes]
    expected = [ehvi.AFAR ** (count / 4) for count in differ]
    assert ehvi.nearness(np.array(codes), np.array(front)).tolist() == pytest.approx(expected)
    assert ehvi.nearness(np.array(codes), np.zeros((0, 4), np.int64)).tolist() == [1.0] * len(codes)


@pytest.mark.parametrize("whole", [20_000, 10])
def test_of_equal_promises_the_one_near_the_front_is_proposed(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 21)
    belief, history = believed(made)
    front_NG = history.done.codes[belief.front]
    monkeypatch.setattr(ehvi, "WHOLE", whole)
    monkeypatch.setattr(ehvi.Beliefs, "score", lambda _, batch: np.ones(len(batch)))
    codes_NG = ehvi.GeneTable(SPACE).codes(proposals(made.trials))
    assert [int(np.count_nonzero(front_NG != code_G, axis=1).min()) for code_G in codes_NG] == [1] * 12


@pytest.mark.parametrize("whole", [20_000, 10])
def test_the_first_networks_share_few_options(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all networks those that share the fewest; of some random ones more than the least, less than of chance."""
    monkeypatch.setattr(ehvi, "WHOLE", whole)
    monkeypatch.setattr(ehvi, "DEAREST", 1.0)
    genes = ehvi.GeneTable(SPACE)
    tried = [finished(params) for params in GRID[:: len(GRID) // 4]]
    under_way = optuna.trial.create_trial(state=TrialState.RUNNING, params=GRID[7], distributions=SPACE)
    trials = [*tried[:-1], under_way]
    assert len(trials) < ehvi.STARTUP_TRIALS
    taken_NG = genes.codes([trial.params for trial in trials])

    def shared(draws: int) -> list[int]:
        monkeypatch.setattr(ehvi, "DRAWS", draws)
        made = genes.codes(proposals(trials, space=SPACE, seeds=20))
        assert len(np.unique(made, axis=0)) > 10
        found: list[int] = ehvi.sharers(made, taken_NG).sum(axis=1).tolist()
        return found

    assert shared(100_000) == [ehvi.sharers(genes.all(), taken_NG).sum(axis=1).min()] * 20
    assert sum(shared(100_000)) < sum(shared(8)) < sum(shared(1))


def test_a_search_begins_with_networks_that_share_few_options() -> None:
    """Eight at once, before any is trained: of the 8 widths, say, the first 8 networks have more than of chance."""
    alike = Known(lambda table: np.ones((len(table["width"]), 1)), space=SPACE)
    made = study(EHVISampler(alike, seed=0), 8, pending=9)
    assert all(trial.state == TrialState.RUNNING for trial in made.trials)
    counts = {name: len({trial.params[name] for trial in made.trials}) for name in SPACE}
    assert counts["kind"] == 4 and counts["depth"] >= 6 and counts["width"] >= 6 and counts["rate"] == 5


GRID_PRICES = np.array([price(params) for params in GRID])


def price_rank(params: Mapping[str, Any], two: bool = False) -> float:
    """Which share of all networks cost more; of two costs the product counts."""
    return float(np.mean(GRID_PRICES[:, : 1 + two].prod(axis=1) > np.prod(price(params)[: 1 + two])))


@pytest.mark.parametrize(("whole", "slack"), [(20_000, 0.0), (10, 0.05)])
@pytest.mark.parametrize("two", [False, True])
def test_a_search_begins_with_dear_networks(
    whole: int, slack: float, two: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ehvi, "WHOLE", whole)
    sampler = EHVISampler(Known(costs if two else one_cost, space=SPACE), seed=0)
    made = study(sampler, 16, two=two, pending=20)
    ranks = [price_rank(trial.params, two) for trial in made.trials]
    assert max(ranks[:12]) <= ehvi.DEAREST + slack
    assert len({str(trial.params) for trial in made.trials}) == 16
    assert max(ranks[12:]) > 0.3


def test_once_one_has_failed_the_next_may_cost_anything() -> None:
    made = study(EHVISampler(Known(one_cost, space=SPACE), seed=0), 3, pending=9)
    made.tell(made.trials[0].number, state=TrialState.FAIL)
    ranks = [price_rank(made.ask(SPACE).params) for _ in range(5)]
    assert sum(rank > 2 * ehvi.DEAREST for rank in ranks) >= 3


def test_when_no_dear_network_is_left_others_follow() -> None:
    cheap = Known(one_cost, admit=lambda params: price_rank(params) > 0.5, space=SPACE)
    made = study(EHVISampler(cheap, seed=0), 10, pending=11)
    assert all(price_rank(trial.params) > 0.5 for trial in made.trials)


@pytest.mark.parametrize(("begun", "done", "modelled"), [(6, 3, True), (6, 2, False), (5, 4, False), (7, 2, False)])
def test_modelling_begins_when_six_have_begun_and_half_of_them_are_finished(
    begun: int, done: int, modelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study(EHVISampler(Known(one_cost, space=SPACE), seed=0), begun, pending=begun + 1)
    for trial in made.trials[:done]:
        made.tell(trial.number, [accuracy(trial.params), price(trial.params)[0]])
    asked: list[int] = []
    of = ehvi.Beliefs.of.__func__  # type: ignore[attr-defined]

    def counted(cls: type[ehvi.Beliefs], history: ehvi.History, *others: Any) -> ehvi.Beliefs:
        asked.append(len(history.done))
        found: ehvi.Beliefs = of(cls, history, *others)
        return found

    monkeypatch.setattr(ehvi.Beliefs, "of", classmethod(counted))
    made.ask(SPACE)
    assert asked == [done] * modelled


def test_random_networks_of_a_large_space_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ehvi, "WHOLE", 10)
    monkeypatch.setattr(ehvi, "DRAWN", 50)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost))
    drawn = [{code_G.tobytes() for code_G in found.random(np.random.default_rng(seed)).codes} for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] and len(drawn[0] | drawn[2]) > 30 and len(drawn[0] & drawn[2]) < 15


def test_networks_that_are_too_rare_to_be_found_are_left_to_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ehvi, "WHOLE", 10)
    none = Known(lambda table: np.full((len(table["width"]), 1), np.nan), space=SPACE)
    made = study(EHVISampler(none, seed=0), 12)
    assert len({str(trial.params) for trial in made.trials}) > 6


def test_a_search_that_stalls_asks_for_every_second_neighbour() -> None:
    good = [finished({"kind": "b", "depth": depth, "width": 64, "rate": 0.5}) for depth in range(7)]
    poor = [
        finished({"kind": "c", "depth": depth, "width": width, "rate": 0.0}) for depth in (1, 3, 5) for width in WIDTHS
    ]
    assert (len(poor), (len(good) + len(poor)) % 8) == (21, 4)
    anything, one = proposals([*good, *poor]), proposals([*poor[:8], *good, *poor[8:]])
    assert len({str(params) for params in anything}) > 8
    assert all(params["kind"] == "b" or params["width"] == 64 for params in anything)
    assert one == [one[0]] * 12
    odd = proposals([*good, *poor[1:]])
    assert odd == [odd[0]] * 12


def test_it_finds_more_than_chance_and_never_repeats_itself() -> None:
    best = volume(GRID)
    found = []
    for seed in range(8):
        made = study(EHVISampler(Known(one_cost), seed=seed), 40)
        texts = [str(trial.params) for trial in made.trials]
        assert len(set(texts)) == 40
        chance = random.Random(seed).sample(GRID, 40)
        found.append(volume([trial.params for trial in made.trials]) / best)
        assert found[-1] > volume(chance) / best, seed
    assert np.mean(found) > 0.95 and min(found) > 0.85, found


@pytest.mark.parametrize(("two", "trials", "share"), [(False, 40, 0.9), (False, 50, 0.95), (True, 50, 0.95)])
def test_trials_under_way_are_not_proposed_again(two: bool, trials: int, share: float) -> None:
    sampler = EHVISampler(Known(costs if two else one_cost), seed=0)
    made = study(sampler, trials, two=two, pending=8)
    assert len({str(trial.params) for trial in made.trials}) == trials
    assert volume([trial.params for trial in made.trials]) / volume(GRID) > share


def test_a_large_space_is_searched_around_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ehvi, "WHOLE", 10)
    monkeypatch.setattr(ehvi, "DRAWN", 50)
    made = study(EHVISampler(Known(one_cost), seed=0), 40)
    assert volume([trial.params for trial in made.trials]) / volume(GRID) > 0.95


def test_what_must_not_be_trained_is_not_proposed() -> None:
    def capped(table: Table) -> NDArray[np.float64]:
        found = one_cost(table)
        return np.where(found > 150, np.nan, found)

    limits = Known(capped, admit=lambda params: params["kind"] is not None)
    made = study(EHVISampler(limits, seed=0), 40)
    modelled = made.trials[ehvi.STARTUP_TRIALS :]
    assert all(price(trial.params)[0] <= 150 and trial.params["kind"] is not None for trial in modelled)
    told = Known(capped, admit=lambda params: params["kind"] is not None, space=SPACE)
    made = study(EHVISampler(told, seed=0), 10)
    assert all(price(trial.params)[0] <= 150 and trial.params["kind"] is not None for trial in made.trials)


def test_failed_trials_are_not_proposed_again() -> None:
    made = study(EHVISampler(Known(one_cost), seed=0), 10)
    asked = made.ask(SPACE)
    made.tell(asked, state=TrialState.FAIL)
    made.sampler = EHVISampler(Known(one_cost), seed=0)
    assert made.ask(SPACE).params != asked.params


def test_a_declared_floor_moves_the_search_up() -> None:
    def mean_cost(floor: float | None) -> float:
        trials = study(EHVISampler(Known(one_cost), seed=0, accuracy_floor=floor), 40).trials[6:]
        return float(np.mean([np.log(price(trial.params)[0]) for trial in trials]))

    assert mean_cost(0.7) > mean_cost(0.0) + 0.2


def test_seeds_repeat_and_a_shared_memory_changes_nothing() -> None:
    def proposals(memory: Memory | None, seed: int = 1) -> list[dict[str, Any]]:
        return [trial.params for trial in study(EHVISampler(Known(one_cost), seed=seed, memory=memory), 25).trials]

    memory = Memory()
    first = proposals(memory)
    assert first == proposals(memory) == proposals(None) != proposals(None, seed=2)


def test_a_space_that_is_told_is_not_looked_for() -> None:
    """Of two parameters that all trials have, the one that is told is modelled, the other drawn."""
    told = Known(lambda table: 1.0 + table["width"][:, None], space={"width": SPACE["width"]})
    sampler = EHVISampler(told, seed=0)
    made = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    made.add_trials([finished(params) for params in random.Random(0).sample(GRID, 8)])
    assert list(sampler.infer_relative_search_space(made, made.trials[0])) == ["width"]
    found_out = EHVISampler(Known(one_cost), seed=0)
    assert found_out.infer_relative_search_space(made, made.trials[0]) == SPACE
    for trials in (made.trials, made.trials[:1]):
        assert proposals(trials) == proposals(trials, space=SPACE)


def test_when_nothing_is_left_it_draws_at_random() -> None:
    small: dict[str, BaseDistribution] = {"width": IntDistribution(8, 64, step=8)}
    known_costs = Known(lambda table: 1.0 + table["width"][:, None])
    made = optuna.create_study(directions=["maximize", "minimize"], sampler=EHVISampler(known_costs, seed=0))
    for _ in range(12):
        trial = made.ask(small)
        made.tell(trial, [trial.params["width"] / 64, 1.0 + trial.params["width"]])
    assert len({trial.params["width"] for trial in made.trials[:12]}) >= 6


def test_study_optimize_takes_it() -> None:
    """The costs stand in any order, and a parameter that not every trial has is drawn at random."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_int("x", 0, 30)
        extra = trial.suggest_float("extra", 0, 0.1) if x > 15 else 0.0
        return 1.0 + x, 1 - (x - 20) ** 2 / 400 + extra

    made = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=EHVISampler(Known(lambda table: 1.0 + table["x"][:, None]), seed=0),
    )
    made.optimize(objective, n_trials=25)
    assert len({trial.params["x"] for trial in made.trials}) >= 20


# ---- mistakes ----------------------------------------------------------------------------------------------------


def ask_once(directions: list[Direction], space: dict[str, BaseDistribution], known_costs: Known) -> None:
    made = optuna.create_study(directions=directions, sampler=EHVISampler(known_costs, seed=0, startup_trials=2))
    for value in (1.0, 2.0, 3.0):
        trial = made.ask(space)
        made.tell(trial, [value] * len(directions))


@pytest.mark.parametrize(
    ("directions", "space", "limit", "sentence"),
    [
        (["minimize", "minimize"], SPACE, 1.0, "needs one maximised objective and at least one minimised one"),
        (["maximize", "maximize"], SPACE, 1.0, "needs one maximised objective"),
        (["maximize"], SPACE, 1.0, "at least one minimised one"),
        (["maximize", "minimize"], {"x": FloatDistribution(0, 1)}, 1.0, "finitely many values, but x is Float"),
        (["maximize", "minimize"], {"x": IntDistribution(0, 9)}, 0.0, "needs costs above 0, but the least is 0"),
        (["maximize", "minimize", "minimize"], SPACE, 1.0, "is told 1 costs by known.costs, but the study minimises 2"),
        (["maximize", "minimize"], {"x": IntDistribution(0, 9)}, np.nan, "found no network that may be trained"),
    ],
)
def test_mistakes_are_one_sentence(
    directions: list[Direction], space: dict[str, BaseDistribution], limit: float, sentence: str
) -> None:
    def constant(table: Table) -> NDArray[np.float64]:
        return np.full((len(next(iter(table.values()))), 1), limit)

    with pytest.raises(ValueError, match=sentence):
        ask_once(directions, space, Known(constant))


# ---- a space's networks ------------------------------------------------------------------------------------------


def test_genes_that_do_not_act_stand_at_their_first_option() -> None:
    """In `cifar`, where each stage has a mixer of its own: a gene may act in one stage and not in the next."""
    space = SearchSpace.load("cifar")
    genes = ehvi.GeneTable(distributions(space.genes))
    told = known(Gate(space, {}), ("accuracy", "macs"))
    codes = genes.random(300, np.random.default_rng(0))
    assert told.acts is not None
    acting = told.acts(genes.table(codes))
    kept = np.flatnonzero(~np.isnan(told.costs(genes.table(codes))).any(axis=1))
    read = ehvi.Networks(genes, told).read(codes)
    assert len(read) == len(kept) > 30
    for row, code in zip(kept, read.codes, strict=True):
        genotype = to_genotype(space.genes, genes.params(codes[row]))
        asked: set[str] = set()

        def choose(name: str, _: Any, asked: set[str] = asked, made: Any = genotype) -> Any:
            asked.add(name)
            return made[name]

        arch = space.walk(choose)
        assert {name for name in acting if acting[name][row]} == asked
        assert space.decode(to_genotype(space.genes, genes.params(code))) == arch
        assert all(code[place] == 0 for place, name in enumerate(genes.options) if name not in asked)


def keys(table: Table) -> NDArray[Any]:
    """Networks of a kind that are as deep are equal, whatever their width and rate."""
    return np.array([f"{kind}{depth}" for kind, depth in zip(table["kind"], table["depth"], strict=True)])


def test_the_cheapest_of_equal_networks_stands_for_all() -> None:
    told = Known(one_cost, keys=keys)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), told)
    assert len(found.standing) == 4 * 7
    assert np.exp(found.standing.log_costs.max()) == pytest.approx(1 + 8 * 7)
    made = optuna.create_study(directions=["maximize", "minimize"], sampler=EHVISampler(told, seed=0))
    dear = [{"kind": "b", "depth": depth, "width": 64, "rate": 1.0} for depth in range(7)]
    made.add_trials([finished(params) for params in dear])
    for _ in range(4 * 7 - 7):
        trial = made.ask(SPACE)
        assert trial.params["width"] == 8
        made.tell(trial, [accuracy(trial.params), price(trial.params)[0]])
    asked = [f"{trial.params['kind']}{trial.params['depth']}" for trial in made.trials]
    assert len(set(asked)) == len(asked) == 28


def test_of_equal_networks_the_cheapest_that_may_be_trained_stands_for_all() -> None:
    def without_narrow(table: Table) -> NDArray[np.float64]:
        return np.where(table["width"][:, None] < 24, np.nan, one_cost(table))

    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(without_narrow, keys=keys))
    genes = found.genes
    assert {genes.params(code_G)["width"] for code_G in found.standing.codes} == {24}
    narrow = genes.codes([{"kind": "b", "depth": 3, "width": 8, "rate": 0.5}])
    assert genes.params(found.read(narrow).codes[0])["width"] == 24
    without_b = Known(lambda table: np.where((table["kind"] == "b")[:, None], np.nan, one_cost(table)), keys=keys)
    assert len(ehvi.Networks(genes, without_b).read(narrow)) == 0


def test_equal_networks_of_a_large_space_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ehvi, "WHOLE", 100)
    found = ehvi.Networks(ehvi.GeneTable(SPACE), Known(one_cost, keys=lambda _: pytest.fail("asked")))
    assert len(found.standing) > 100


def test_what_is_known_of_a_space_is_what_its_gate_says() -> None:
    space = SearchSpace.load("tiny")
    seen: set[str] = set()
    gate = Gate(space, {"params": 45_000}, seen)
    told = known(gate, ("accuracy", "params", "macs"))
    genes = ehvi.GeneTable(distributions(space.genes))
    codes = genes.all()
    table = genes.table(codes)
    prices, acts = told.costs(table), told.acts
    assert acts is not None
    acting = acts(table)
    rng = np.random.default_rng(0)
    for row in rng.choice(len(codes), 60, replace=False):
        params = genes.params(codes[row])
        genotype = to_genotype(space.genes, params)
        verdict = gate.check(genotype)
        assert told.admit is not None and told.admit(params) == isinstance(verdict, Candidate)
        assert np.isnan(prices[row]).any() == (not isinstance(verdict, Candidate))
        if isinstance(verdict, Candidate):
            assert prices[row].tolist() == [verdict.cost["params"], verdict.cost["macs"]]
            asked: set[str] = set()

            def choose(name: str, _: Any, asked: set[str] = asked, made: Any = genotype) -> Any:
                asked.add(name)
                return made[name]

            space.walk(choose)
            assert {name for name in acting if acting[name][row]} == asked
    arch = space.sample(random.Random(0))
    seen.add(arch.key)
    assert told.admit is not None and not told.admit(to_params(space.genes, space.encode(arch)))
