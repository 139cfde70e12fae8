"""What our own samplers share: which parameters they propose together, and from when on; all others are random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class StartupSampler(BaseSampler):
    """Leaves to `sample_relative` the parameters that all finished trials have, once `startup_trials` are finished.

    space: these parameters, if they are known. Otherwise a sampler looks through each trial of its one study once.
    """

    def __init__(
        self, seed: int | None, startup_trials: int, space: Mapping[str, BaseDistribution] | None = None
    ) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed)
        self._startup_trials = startup_trials
        self._space = space
        self._found = IntersectionSearchSpace()

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,  # noqa: ARG002 -- Optuna's signature
    ) -> dict[str, BaseDistribution]:
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < self._startup_trials:
            return {}
        found = self._found.calculate(study) if self._space is None else self._space
        return {name: found[name] for name in sorted(found) if not found[name].single()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        self._rng = np.random.default_rng()
        self._random.reseed_rng()
