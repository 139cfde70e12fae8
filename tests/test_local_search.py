"""Local search: what a neighbour is, whose neighbours are proposed, and a plain Optuna study with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from nas.search.local_search import STARTUP_TRIALS, LocalSearchSampler, front_of, neighbours

SPACE: dict[str, BaseDistribution] = {
    "kind": CategoricalDistribution(["a", "b", "c", None]),
    "depth": IntDistribution(0, 6),
    "only": IntDistribution(4, 4),
    "width": IntDistribution(8, 64, step=8),
}


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        (CategoricalDistribution(["a", "b", None]), "b", ["a", None]),
        (IntDistribution(0, 3), 1, [0, 2]),
        (IntDistribution(0, 3), 3, [2]),
        (IntDistribution(8, 64, step=8), 8, [16]),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.5, [0.25, 0.75]),
        (FloatDistribution(0.0, 1.0), 0.5, [0.4, 0.6]),
        (FloatDistribution(0.0, 1.0), 0.95, [0.85]),
        (FloatDistribution(1.0, 1024.0, log=True), 2.0, [1.0, 4.0]),
    ],
)
def test_neighbours_are_one_step_or_any_other_choice(
    distribution: BaseDistribution, value: Any, expected: list[Any]
) -> None:
    assert neighbours(distribution, value) == (pytest.approx(expected) if isinstance(value, float) else expected)


@given(st.floats(-1e3, 1e3), st.floats(0.1, 1e3), st.floats(0, 1))
def test_a_float_always_has_a_neighbour_in_range(low: float, span: float, share: float) -> None:
    high = low + span
    value = min(low + share * span, high)
    found = neighbours(FloatDistribution(low, high), value)
    assert found and all(low <= new <= high for new in found)


def scored(params: dict[str, Any]) -> tuple[float, float]:
    """Best is kind b at any depth; deeper and wider is dearer and better."""
    cost = 1.0 + params["depth"] + params["width"]
    return (params["kind"] == "b") + 0.02 * cost, cost


def study(seed: int, trials: int) -> optuna.Study:
    made = optuna.create_study(directions=["maximize", "minimize"], sampler=LocalSearchSampler(seed=seed))
    for _ in range(trials):
        trial = made.ask(SPACE)
        made.tell(trial, scored(trial.params))
    return made


def differing(a: FrozenTrial, b: FrozenTrial) -> list[str]:
    return [name for name in SPACE if a.params[name] != b.params[name]]


def test_each_proposal_is_a_neighbour_of_a_network_on_the_front_so_far() -> None:
    made = study(0, 60)
    for number in range(STARTUP_TRIALS, 60):
        front = front_of(made.trials[:number], made.directions)
        new = made.trials[number]
        steps = [(parent, names[0]) for parent in front if len(names := differing(parent, new)) == 1]
        assert any(new.params[name] in neighbours(SPACE[name], parent.params[name]) for parent, name in steps)


def test_startup_trials_are_random_and_seeds_repeat() -> None:
    first, again, other = (study(seed, 30) for seed in (1, 1, 2))
    assert [trial.params for trial in first.trials] == [trial.params for trial in again.trials]
    assert [trial.params for trial in first.trials] != [trial.params for trial in other.trials]
    assert len({trial.params["depth"] for trial in first.trials[:STARTUP_TRIALS]}) > 2


def test_it_finds_more_of_the_front_than_chance() -> None:
    """Networks of kind b; a quarter of the space has it."""
    share = np.mean([trial.params["kind"] == "b" for seed in range(5) for trial in study(seed, 60).trials[20:]])
    assert share > 0.5


def test_trials_that_failed_or_run_are_no_parents() -> None:
    made = study(0, STARTUP_TRIALS)
    best = dict(made.trials[0].params) | {"kind": "b", "depth": 0, "width": 8}
    for state in (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.RUNNING):
        made.add_trial(optuna.trial.create_trial(state=state, params=best, distributions=SPACE))
    proposal = made.ask(SPACE)
    finished = made.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    frozen = made.trials[proposal.number]
    assert any(len(differing(parent, frozen)) == 1 for parent in front_of(finished, made.directions))


def test_study_optimize_takes_it() -> None:
    """One objective, conditional parameters: those that not every trial has are drawn at random."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -4, 4)
        return x**2 + (trial.suggest_int("extra", 0, 3) if x > 0 else 0)

    made = optuna.create_study(sampler=LocalSearchSampler(seed=0))
    made.optimize(objective, n_trials=60)
    assert made.best_value < 1.0
