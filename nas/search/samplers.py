"""Samplers by name, and stateless proposals from them.

A proposal is a function of the recorded trials, the study's seed, the trial's number and the attempt, and of nothing
else: each time the history is read into a fresh study in memory and a fresh sampler is asked. So a search that was
killed proposes, when started again, what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.ehvi import EHVISampler, Known, Memory
from nas.search.local_search import LocalSearchSampler
from nas.seeds import derived_seed
from nas.space import Gene, Option, SearchSpace

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, eq=False)
class Setting:
    """What a sampler is told beside the trials. Only `ehvi` makes use of it.

    memory: lives as long as the search, saves time and changes no proposal.
    """

    known: Known
    accuracy_floor: float | None
    memory: Memory = field(default_factory=Memory)


def _ehvi(seed: int, told: Setting) -> BaseSampler:
    return EHVISampler(told.known, seed=seed, accuracy_floor=told.accuracy_floor, memory=told.memory)


SAMPLERS: dict[str, Callable[[int, Setting], BaseSampler]] = {
    "ehvi": _ehvi,
    "tpe": lambda seed, _: TPESampler(multivariate=True, constant_liar=True, seed=seed),
    "local": lambda seed, _: LocalSearchSampler(seed=seed),
    "nsga2": lambda seed, _: NSGAIISampler(population_size=20, seed=seed),
    "random": lambda seed, _: RandomSampler(seed=seed),
}
"""Name -> a new sampler from a seed. A sampler must keep nothing that its study does not hold.

NSGA-II has populations of 20, not 50: searches are short, and it measured better (.935, not .912 of the hypervolume of
NAS-Bench-Macro after 200 trials, medians of 10 seeds).
"""


def distributions(genes: Sequence[Gene]) -> dict[str, BaseDistribution]:
    """What Optuna sees: the index of an ordered gene's option, the option itself of any other."""
    return {
        gene.name: IntDistribution(0, len(gene.options) - 1) if gene.ordered else CategoricalDistribution(gene.options)
        for gene in genes
    }


def to_params(genes: Sequence[Gene], genotype: Mapping[str, Option]) -> dict[str, Option]:
    """Optuna's parameters of a genotype. A gene without a value, because it does not act, takes its first option:

    samplers that model the genes together leave out trials which lack one.
    """
    values = {gene.name: genotype.get(gene.name, gene.options[0]) for gene in genes}
    return {gene.name: gene.options.index(values[gene.name]) if gene.ordered else values[gene.name] for gene in genes}


def to_genotype(genes: Sequence[Gene], params: Mapping[str, Any]) -> dict[str, Option]:
    return {gene.name: gene.options[params[gene.name]] if gene.ordered else params[gene.name] for gene in genes}


class Shared(FrozenTrial):
    """A trial of the past, of which a copy shares all that nobody changes.

    Optuna checks and copies what a study is given, distributions and all: for some hundred trials that takes as long
    as a sampler's thinking.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        twin = Shared.__new__(Shared)
        vars(twin).update(vars(self))
        return twin

    def _validate(self) -> None:
        """Was done when the trial began, in the study that it comes from."""


def shared(trial: FrozenTrial, values: Sequence[float] | None = None) -> Shared:
    """A trial for a history. With `values`, one that has not ended, as if it had, with these."""
    ended = values is not None
    return Shared(
        number=trial.number,
        state=TrialState.COMPLETE if ended else trial.state,
        value=None,
        values=list(values) if values is not None else trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_start if ended else trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values={},
        trial_id=-1,  # the study gives it one
    )


@dataclass(frozen=True)
class Draw:
    """What a sampler proposes, and the notes it left on the trial (NSGA-II: its generation)."""

    genotype: dict[str, Option]
    notes: dict[str, Any]


class Proposer:
    """The proposals for one trial number after `history`: the finished and the running trials, in order of number."""

    def __init__(
        self,
        space: SearchSpace,
        directions: Sequence[Direction],
        sampler: str,
        told: Setting,
        seed: int,
        number: int,
        history: Sequence[Shared],
    ) -> None:
        self._genes = space.genes
        self._distributions = distributions(space.genes)
        self._new_sampler = SAMPLERS[sampler]
        self._told = told
        self._seed = (seed, number)
        self._study = optuna.create_study(directions=list(directions), sampler=RandomSampler(0))
        self._study.add_trials(history)
        if sampler == "nsga2":
            # When first asked, it keeps its parents in the study, from where it reads them in another order: one ask
            # before all others makes every attempt see the same.
            self.draw(-1)

    def draw(self, attempt: int) -> Draw:
        """The proposal of this attempt, whichever were made before; only `ehvi` leaves out what those proposed."""
        seed, number = self._seed
        self._study.sampler = self._new_sampler(derived_seed("propose", seed, number, attempt), self._told)
        trial = self._study.ask(self._distributions)
        # Failed trials count for no sampler, but that ehvi proposes none of them again.
        asked = self._study.tell(trial, state=TrialState.FAIL)
        return Draw(to_genotype(self._genes, asked.params), dict(asked.system_attrs))
