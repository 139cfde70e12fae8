"""Multi-objective local search as an Optuna sampler: change one choice of a network on the front.

The strong simple baseline of architecture search (arXiv:2005.02960, for one objective). It has no model, so what it
finds shows what a model is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import non_dominated
from nas.search.startup import StartupSampler

STARTUP_TRIALS = 10
"""Random trials before the first that is a neighbour."""
FLOAT_STEPS = 10
"""A float without a step of its own moves by its range over this many."""


class LocalSearchSampler(StartupSampler):
    """Proposes a neighbour of a random member of the front: one parameter changed, all others kept.

    Neighbours of an ordered parameter are one step away, those of a categorical one any other choice. Parameters that
    not every trial has are drawn at random.
    """

    def __init__(self, *, seed: int | None = None, startup_trials: int = STARTUP_TRIALS) -> None:
        super().__init__(seed, startup_trials)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 -- Optuna's signature
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        front = front_of(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), study.directions)
        parent = front[self._rng.integers(len(front))]
        params = {name: parent.params[name] for name in search_space}
        changed = list(search_space)[self._rng.integers(len(search_space))]
        options = neighbours(search_space[changed], params[changed])
        return params | {changed: options[self._rng.integers(len(options))]}


def front_of(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The finished trials that no other dominates."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    losses = np.array([trial.values for trial in trials]) * signs
    return [trial for trial, on_front in zip(trials, non_dominated(losses), strict=True) if on_front]


def neighbours(distribution: BaseDistribution, value: Any) -> list[Any]:
    """The values one change away from `value`, of which there is at least one unless the parameter has one value."""
    if isinstance(distribution, CategoricalDistribution):
        return [choice for choice in distribution.choices if choice != value]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, FloatDistribution) and distribution.log:
        ratio = (high / low) ** (1 / FLOAT_STEPS)
        moved = [value / ratio, value * ratio]
    else:
        step = distribution.step or (high - low) / FLOAT_STEPS
        moved = [value - step, value + step]
    return [new for new in moved if low <= new <= high] or [low if value > low else high]
