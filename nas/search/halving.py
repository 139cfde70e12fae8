"""Pareto halving: which trainings go on, from their checkpoints, to the next rung.

A rung is a budget at which every training that reaches it is evaluated. Asynchronous, as in ASHA (arXiv:1810.05934,
algorithm 2): whenever there is room, the best trial that should go on does, else a new one begins. Three things let a
trial go on from a rung: it is among the first 1/eta there, by non-domination rank and, within a rank, by hypervolume
contribution, and fewer than 1/eta have gone on; or its final accuracy, extrapolated with caution, beats every fully
trained network that costs no more, so that cheap networks are not crowded out by dear ones; or it is one of the audit,
a few spread over the first, which go on whatever they showed. Of each of these the one goes first whose final accuracy,
extrapolated with optimism, would add most to the hypervolume of the fully trained networks (see `Extrapolation`). A
rung that does not foretell the next one has not earned that anything is stopped there: then all go on. Until a cohort
of networks has begun, none but the audit goes on: the best of a handful are soon surpassed.

ASHA lets any trial go on that is among the first 1/eta at some moment. A search whose proposals improve then trains
half of them in full (measured with eta = 3: 99 of 200).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.evidence import left_over
from nas.pareto import contributions, hypervolume, ranks, reference_point
from nas.search.ehvi import UNINTERESTING

Floats = NDArray[np.float64]

ETA = 4
"""Factor between the budgets of two rungs, and the share 1/eta of a rung that goes on."""
LEAST_STEPS = 18
"""Optimiser steps of the lowest rung: shorter trainings do not rank networks (docs/log.md)."""
RUNGS = 3
"""At most; so the lowest rung has at least a sixteenth of the budget."""
AUDIT, EVERY = 8, 4
"""So many trials, every so many-th of the first, go on from every rung whatever they showed there, to see whether it
foretells the next one. The later networks of a search are more worth a training in full; all are of the first cohort,
so that a search that goes on is the longer one."""
TRUST = 0.6
"""Least correlation of errors at a rung and at the next, costs held fixed; at a rung with less, nothing is stopped."""
COHORT = 50
"""Networks that begin before any but the audited ones goes on, as long as new ones can begin."""
OPTIMISM, CAUTION = 1.5, 0.5
"""Standard deviations by which extrapolated accuracies are taken better, to say who goes first, and worse, to say who
goes although enough have."""
DIGITS = 9
"""Decimals to which hypervolumes are told apart: equal ones may differ in the last digits of a float."""
STEADY = 0.2
"""Trials, a standard deviation off in rung error or costs, whose worth it is that all keep the same share of error."""
USUAL_SPREAD, USUAL = 0.1, 2.0
"""Of the logarithm of that share, before any trial is fully trained, and how many trials' worth that is."""
LEAST_ERROR = 1e-3
"""Errors below count as this: they are a matter of single images."""
LEAST_SPREAD = 0.02
"""Of logarithms; what differs less among trained networks than this says little of others."""


def rungs(budget: int, least: int, *, eta: int = ETA, most: int = RUNGS) -> tuple[int, ...]:
    """Budgets, ascending, in one unit: the last is `budget`, none of the others is below `least` or above 1/eta of it.

    Raises ValueError unless budget >= 1, eta >= 2 and most >= 1.
    """
    if budget < 1 or eta < 2 or most < 1:
        raise ValueError(f"rungs need a budget >= 1, eta >= 2 and most >= 1, but got {budget}, {eta} and {most}")
    shorter = (budget // eta**power for power in range(most - 1, 0, -1))
    return (*dict.fromkeys(rung for rung in shorter if max(least, 1) <= rung < budget), budget)


@dataclass(frozen=True)
class Shown:
    """What a trial has shown so far: exact costs, and its accuracies (0..1) at the rungs 0, 1, ... that it finished.

    waits: it could go on; it is neither under way nor failed.
    """

    costs: tuple[float, ...]
    accuracies: tuple[float, ...]
    waits: bool


def best_first(costs_NC: Floats, accuracy_N: Floats) -> NDArray[np.int64]:
    """Rows by non-domination rank, then by falling hypervolume contribution within the rank, then as they came.

    Volumes are over logarithms of costs, and above a reference worse than every row.
    """
    losses = _losses(costs_NC, accuracy_N)
    rank_N = ranks(losses)
    reference = reference_point(losses)
    share_N = np.zeros(len(losses))
    for rank in np.unique(rank_N):
        rows = np.flatnonzero(rank_N == rank)
        share_N[rows] = contributions(losses[rows], reference)
    return np.lexsort((-share_N.round(DIGITS), rank_N))


class Extrapolation:
    """Accuracies at a later rung from those at an earlier one and from costs, as trials that reached both show.

    The logarithm of the later error is normal about a linear function of the logarithms of the earlier error and of the
    costs, since dear networks learn at another pace than cheap ones. Bayesian regression with a conjugate prior: errors
    shrink by a factor that depends on neither (Bishop 2006, section 3.3.1 and exercise 3.12).
    """

    def __init__(self, reached: Sequence[Shown], rung: int, later: int) -> None:
        """Raises ValueError unless some trial `reached` both."""
        if not reached:
            raise ValueError(
                f"an extrapolation from rung {rung} to {later} needs a trial that finished both, but got none"
            )
        self._rung = rung
        inputs_NI = self._inputs(reached)
        self._middle_I, self._spread_I = inputs_NI.mean(axis=0), np.maximum(inputs_NI.std(axis=0), LEAST_SPREAD)
        design_NW = self._design(reached)
        left_N = np.log([_error(trial.accuracies[later]) for trial in reached]) - inputs_NI[:, 0]
        prior_WW = STEADY * np.diag([0.0] + [1.0] * inputs_NI.shape[1])
        self._weights_W = np.linalg.solve(design_NW.T @ design_NW + prior_WW, design_NW.T @ left_N)
        away_N = left_N - design_NW @ self._weights_W
        misfit = away_N @ away_N + self._weights_W @ prior_WW @ self._weights_W + USUAL * USUAL_SPREAD**2
        self._sd = math.sqrt(misfit / (len(reached) + USUAL))

    def accuracies(self, trials: Sequence[Shown], luck: float = 0.0) -> Floats:
        """Later accuracies (N), `luck` standard deviations of the logarithm of the error better than expected."""
        log_error_N = self._inputs(trials)[:, 0] + self._design(trials) @ self._weights_W - luck * self._sd
        found_N: Floats = 1 - np.exp(log_error_N)
        return found_N

    def correlation(self, trials: Sequence[Shown]) -> float:
        """Of the logarithms of the earlier and the later error, costs held fixed, among `trials` that reached the rung.

        What reached both was chosen by its earlier error, whose spread there is another than among `trials`. That bends
        correlations, but neither slope nor deviation (R. L. Thorndike, Personnel Selection, 1949, case 2).
        """
        inputs_NI = self._inputs(trials)
        slope = 1 + self._weights_W[1] / self._spread_I[0]
        foretold = float(slope * left_over(inputs_NI[:, 0], inputs_NI[:, 1:]).std())
        return foretold / math.hypot(foretold, self._sd)

    def _inputs(self, trials: Sequence[Shown]) -> Floats:
        log_error_N = np.log([_error(trial.accuracies[self._rung]) for trial in trials])
        return np.column_stack([log_error_N, np.log(_costs(trials))])

    def _design(self, trials: Sequence[Shown]) -> Floats:
        inputs_NI = (self._inputs(trials) - self._middle_I) / self._spread_I
        return np.column_stack([np.ones(len(trials)), inputs_NI])


class Halving:
    """Decides on trials that train to `count` rungs; keeps nothing, so that the same trials give the same answers.

    audit: trials of which every one goes on; 0: none does, and every rung is trusted.
    accuracy_floor: accuracies below are of no interest; None: those of the 30 % of the trials that promise least.
    """

    def __init__(self, count: int, *, eta: int = ETA, audit: int = AUDIT, accuracy_floor: float | None = None) -> None:
        self._count = count
        self._eta = eta
        self._audit = audit
        self._accuracy_floor = accuracy_floor

    def next(self, trials: Sequence[Shown], *, more: bool = False) -> int | None:
        """The place in `trials` of the one that goes on next, higher rungs before lower ones; None: none does.

        more: whether a new network could begin instead; the best of fewer than `COHORT` then wait for others.
        """
        for rung in reversed(range(self._count - 1)):
            members = [place for place, trial in enumerate(trials) if len(trial.accuracies) > rung]
            here = {place for place in members if trials[place].waits and len(trials[place].accuracies) == rung + 1}
            if here:
                going = self._going_on(trials, members, here, rung, more=more)
                if going:
                    return going[0]
        return None

    def _going_on(
        self, trials: Sequence[Shown], members: list[int], here: set[int], rung: int, *, more: bool
    ) -> list[int]:
        """Those that wait `here` and should go on, the best first."""
        order = self._order(trials, members, rung)
        audited = self._audited(trials, more=more) if self._foretells(trials, members, rung) else set(members)
        waiting = [place for place in order if place in here]
        gains, sure = self._promises(trials, waiting, rung)
        waiting.sort(key=lambda place: -gains[place])
        others = [place for place in members if place not in audited]
        gone = sum(place not in here for place in others)
        first = order[: len(members) // self._eta] if gone < len(others) // self._eta else []
        groups = (audited,) if more and len(trials) < COHORT else (first, audited, sure)
        return [place for group in groups for place in waiting if place in group]

    def _audited(self, trials: Sequence[Shown], *, more: bool) -> set[int]:
        """The places of those that go on whatever they show; if no more can begin, as many as there are to be."""
        spread = list(range(EVERY - 1, len(trials), EVERY))[: self._audit]
        rest = [place for place, trial in enumerate(trials) if trial.accuracies and place not in spread]
        return {*spread, *([] if more else rest[: self._audit - len(spread)])}

    def _foretells(self, trials: Sequence[Shown], members: list[int], rung: int) -> bool:
        """Whether a rung tells enough of the next; so it is believed until half of an audit has finished both."""
        here = [trials[place] for place in members]
        both = [trial for trial in here if len(trial.accuracies) > rung + 1]
        if self._audit == 0 or len(both) < max(self._audit // 2, 1):
            return True
        return Extrapolation(both, rung, rung + 1).correlation(here) >= TRUST

    def _order(self, trials: Sequence[Shown], members: list[int], rung: int) -> list[int]:
        accuracy_N = np.array([trials[place].accuracies[rung] for place in members])
        return [members[row] for row in best_first(_costs([trials[place] for place in members]), accuracy_N)]

    def _promises(self, trials: Sequence[Shown], waiting: list[int], rung: int) -> tuple[dict[int, float], set[int]]:
        """What each of `waiting` would add, extrapolated with optimism, to the volume of the fully trained networks.

        And those that with caution beat all fully trained networks of at most their costs, and the floor.
        """
        full = [trial for trial in trials if len(trial.accuracies) == self._count]
        if not full:
            return dict.fromkeys(waiting, 0.0), set()
        curve = Extrapolation(full, rung, self._count - 1)
        ones = [trials[place] for place in waiting]
        floor = self._floor(trials)
        rival_N = _rivals(ones, full, floor)
        optimist_N, cautious_N = curve.accuracies(ones, OPTIMISM), curve.accuracies(ones, -CAUTION)
        limit = np.append(reference_point(np.log(_costs(trials))), -floor)
        front = _losses(_costs(full), np.array([trial.accuracies[-1] for trial in full]))
        hoped = _losses(_costs(ones), optimist_N)
        volume = hypervolume(front, limit)
        gains = dict.fromkeys(waiting, 0.0)
        for row in np.flatnonzero(optimist_N > rival_N):
            gains[waiting[row]] = round(hypervolume(np.vstack([front, hoped[row]]), limit) - volume, DIGITS)
        return gains, {waiting[row] for row in np.flatnonzero(cautious_N > rival_N)}

    def _floor(self, trials: Sequence[Shown]) -> float:
        if self._accuracy_floor is not None:
            return self._accuracy_floor
        return float(np.nanquantile(self.expected(trials), UNINTERESTING))

    def expected(self, trials: Sequence[Shown]) -> Floats:
        """The accuracy (N) that each trial would have at the highest rung that any has reached; nan: none finished.

        Its error times the median ratio. For samplers, which search worse by an `Extrapolation` (docs/log.md).
        """
        top = max((len(trial.accuracies) for trial in trials), default=0) - 1
        arrived = [trial for trial in trials if len(trial.accuracies) == top + 1]
        ratio = [float(np.median(_ratios(arrived, rung, top))) for rung in range(top)]
        found = np.full(len(trials), np.nan)
        for place, trial in enumerate(trials):
            reached = len(trial.accuracies) - 1
            if reached == top >= 0:
                found[place] = trial.accuracies[-1]
            elif reached >= 0:
                found[place] = 1 - _error(trial.accuracies[-1]) * ratio[reached]
        return found


def _costs(trials: Sequence[Shown]) -> Floats:
    return np.array([trial.costs for trial in trials], np.float64)


def _error(accuracy: float) -> float:
    return max(1 - accuracy, LEAST_ERROR)


def _losses(costs_NC: Floats, accuracy_N: Floats) -> Floats:
    return np.column_stack([np.log(costs_NC), -accuracy_N])


def _rivals(trials: Sequence[Shown], full: Sequence[Shown], floor: float) -> Floats:
    """The greatest accuracy among the fully trained that cost no more than each trial (N), or the floor."""
    no_dearer_NM = np.all(_costs(full) <= _costs(trials)[:, None], axis=2)
    accuracy_NM = np.where(no_dearer_NM, [trial.accuracies[-1] for trial in full], -np.inf)
    rival_N: Floats = accuracy_NM.max(axis=1, initial=floor)
    return rival_N


def _ratios(trials: Sequence[Shown], rung: int, top: int) -> list[float]:
    """How much of each trial's error at `rung` was left at `top`."""
    return [_error(trial.accuracies[top]) / _error(trial.accuracies[rung]) for trial in trials]
