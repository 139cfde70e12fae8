"""Exact-cost expected hypervolume improvement: only the accuracy is a guess.

The costs of a network follow from its genes, so they are no objectives to be modelled. With f(z) the best accuracy that
the surrogate believes in among the networks of cost at most z,

    EHVI(x) = integral over c(x) <= z <= reference of E[max(A(x) - f(z), 0)] dz,    z in logarithms of costs,

which for one cost is a finite sum over the steps of f, and for more a mean over quasi-random points z.

Eight things decide how well that searches. The first trials tell most when they are dear, as good ones mostly are, and
few of them share an option (see `EHVISampler._scattered`). Accuracies far below the best would bend the surrogate, so
it is fitted to the logarithm of the regret (see `LogRegret`). An accuracy counts how many images are right, and some
hundred images count coarsely, so at first most of it is what the loss of that training lets expect (see `steadied`).
Cheap networks that are good for nothing would be worth a trial each wherever f begins too low, so f begins at what a
share of the space's networks do not reach, as the surrogate sees it. Its doubt is that of all trials, failures among
them, so it is rescaled to how well the better half is foretold (see `doubt`). Few trials do not tell genes that bend
from genes that slope, so at first two fits have a say (see `Beliefs`). Far from the front there are so many networks
that the best promise among them is the most exaggerated one, so a promise counts less the farther away it is (see
`nearness`). And what it wrongly thinks poor it would never learn of, so every eighth network is a random neighbour of
the front, as in local search, and every second while nothing new reaches the front; sooner one with an option that few
networks had, since an option that failed in bad company may be the best in good one.

Shapes in names: N networks, M networks known, G genes, D columns of the surrogate, C costs, Z points or steps of f.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import expit, log_ndtr, ndtr
from scipy.stats import qmc

from nas.evidence import left_over
from nas.pareto import non_dominated
from nas.search.startup import StartupSampler
from nas.search.surrogate import Floats, GaussianProcess, Genes, embedded, fits

STARTUP_TRIALS = 6
"""Trials before the first that is modelled."""
DEAREST = 0.1
"""They are of this share of the networks, those that cost most, until one fails or twice as many have begun."""
DRAWS = 64
"""Each of them is the one of so many random networks whose options the fewest trials have."""
WHOLE = 20_000
"""Search spaces of at most this many genotypes are scored to the last one."""
DRAWN = 2_000
"""Random genotypes scored in a larger one, and as many that stand for the whole space."""
CLIMBERS, CLIMBS = 12, 2
"""The neighbours of this many of the best candidates are candidates too, this often over."""
POINTS = 256
"""Quasi-random points for two costs and more."""
REFIT = 1.1
"""The surrogate's parameters are fitted anew when there are this many times as many trials."""
FITTED = 100
"""Trials, evenly spaced, to which they are fitted."""
MIXED = 100
"""Up to so many trials all fits of the surrogate have a say, afterwards the one that foretells left-out trials best."""
REMEMBERED = 800
"""Trials on which the surrogate is conditioned."""
BELIEVED = 4.0
"""Trials that say the surrogate's doubt is right, beside those that there are."""
ASTRAY, ASTRAY_STALLED = 8, 2
"""One trial in so many is a random neighbour of the front; and one in so many while the search stalls."""
STALLED = 16
"""A search stalls while none of so many last trials is on the front that the surrogate believes in."""
AFAR = 1 / 256
"""So much is believed of the promise of a network that shares no gene with any on the front."""
LOSS = "loss"
"""User attribute of a finished trial: a loss of the training that its accuracy comes from, as for `nas search` the
geometric mean of the validation loss and the mean training loss."""
STEADIED = 150
"""After so many trials accuracies count as much as what losses let expect; after fewer less, after more more."""
RELATED, TRUSTED = 0.5, 10.0
"""A loss that is worth something goes with accuracies by this correlation, costs held fixed; such losses are at first
so many times as likely as those that say nothing."""
UNINTERESTING = 0.3
"""Share of the space's networks whose accuracies lie below the region of interest, unless a floor is declared."""

Table = Mapping[str, NDArray[Any]]
"""N values for each parameter's name."""
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of networks before they are trained.

    costs: the costs (N, C) of a table of parameters, in the order of the study's minimised objectives; nan in the rows
    of networks that must not be trained. acts: parameter -> in which rows (N) it makes a difference; None: in all.
    admit: has the last word on the parameters of one network; None admits all that are no trial's. keys: in which rows
    (N) of a table are equal networks; the cheapest stands for all of them. None, and in spaces that are not scored to
    the last network: equal parameters alone. space: the parameters that all trials have; None: to be found out.
    """

    costs: Callable[[Table], Floats]
    acts: Callable[[Table], Table] | None = None
    admit: Callable[[Mapping[str, Any]], bool] | None = None
    keys: Callable[[Table], NDArray[Any]] | None = None
    space: Mapping[str, BaseDistribution] | None = None


class Memory:
    """What the samplers of one study may share: it saves time and changes nothing."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        if key not in self._kept:
            self._kept[key] = make()
        found: Value = self._kept[key]
        return found


class EHVISampler(StartupSampler):
    """Proposes the network of the greatest expected hypervolume improvement that `known.admit` admits.

    For studies of one maximised objective, the accuracy, and one or more minimised ones, whose values `known.costs`
    gives exactly. A finished trial may tell a loss of its training, the user attribute `loss` (`LOSS`). Parameters need
    finitely many values; those that not every trial has are drawn at random. Trials that run count as if their accuracy
    had come out as expected. A proposal depends on the study and on `seed` alone.

    accuracy_floor: accuracies below are of no interest; None derives one (`UNINTERESTING`). startup_trials: to begin
    before any is modelled, at least 2, and half of them, again at least 2, to finish.
    Raises ValueError, when asked, for a study with other directions or another number of costs, a float without a step,
    and costs of 0 or less.
    """

    def __init__(
        self,
        known: Known,
        *,
        seed: int | None = None,
        accuracy_floor: float | None = None,
        startup_trials: int = STARTUP_TRIALS,
        memory: Memory | None = None,
    ) -> None:
        super().__init__(seed, 0, known.space)
        self._first_trials = max(startup_trials, 2)
        self._known = known
        self._accuracy_floor = accuracy_floor
        self._memory = memory or Memory()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        _accuracy_column(study)
        found = super().infer_relative_search_space(study, trial)
        if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) >= self._first_trials:
            return found
        return {name: distribution for name, distribution in found.items() if _is_finite(distribution)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        genes = GeneTable(search_space)
        networks = self._memory.once(genes.text, lambda: Networks(genes, self._known))
        if networks.rare:
            return {}
        _check_costs(networks, study)
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        history = History.of([one for one in others if search_space.keys() <= one.params.keys()], study, networks)
        for code_G in self._proposals(history, networks):
            params = genes.params(code_G)
            if self._known.admit is None or self._known.admit(params):
                return params
        return {}

    def _proposals(self, history: History, networks: Networks) -> Iterator[NDArray[np.int64]]:
        """Genotypes that are no trial's, the one to train before the others."""
        modelled = len(history.taken) >= self._first_trials and len(history.done) >= max(self._first_trials // 2, 2)
        ranked = self._ranked(history, networks) if modelled else self._scattered(history, networks)
        return (code_G for code_G in ranked if code_G.tobytes() not in history.distinct)

    def _scattered(self, history: History, networks: Networks) -> Iterator[NDArray[np.int64]]:
        """Random genotypes, dear ones before others, of each few the one first whose options the fewest trials have.

        Best-candidate sampling: D. P. Mitchell, Spectrally optimal sampling for distribution ray tracing, 1991.
        """
        drawn = networks.random(self._rng)
        dearest_first = np.lexsort((self._rng.random(len(drawn)), -drawn.log_costs.sum(axis=1)))
        dear = DEAREST if not history.failed and len(history.taken) < 2 * self._first_trials else 0.0
        for share in np.split(dearest_first, [int(np.ceil(dear * len(drawn)))]):
            codes_NG = self._rng.permutation(drawn.codes[share])
            for first in range(0, len(codes_NG), DRAWS):
                few_NG = codes_NG[first : first + DRAWS]
                yield from few_NG[np.argsort(sharers(few_NG, history.taken).sum(axis=1), kind="stable")]

    def _ranked(self, history: History, networks: Networks) -> Iterator[NDArray[np.int64]]:
        """Genotypes, the most promising first or, at times, neighbours of the front before them."""
        belief = Beliefs.of(history, networks, self._memory, self._accuracy_floor)
        front_NG = history.done.codes[belief.front]
        stalled = belief.front.max(initial=-1) < len(history.done) - STALLED
        if len(history.distinct) % (ASTRAY_STALLED if stalled else ASTRAY) == 0:
            near_NG = _distinct(networks.read(networks.genes.neighbours(front_NG))).codes
            turn_N = self._rng.exponential(1.0 + sharers(near_NG, history.taken).min(axis=1))
            yield from near_NG[np.argsort(turn_N)]
        found, score_N = networks.candidates(
            self._rng, front_NG, lambda batch: belief.score(batch) * nearness(batch.codes, front_NG)
        )
        yield from found.codes[np.lexsort((self._rng.random(len(found)), -score_N))]


def _accuracy_column(study: Study) -> int:
    """The column of the one maximised objective."""
    columns = [place for place, better in enumerate(study.directions) if better == StudyDirection.MAXIMIZE]
    if len(columns) != 1 or len(study.directions) < 2:
        raise ValueError(
            "the sampler ehvi needs one maximised objective and at least one minimised one, but the directions are "
            f"{[direction.name.lower() for direction in study.directions]}"
        )
    return columns[0]


def _check_costs(networks: Networks, study: Study) -> None:
    told, minimised = len(networks.cost_range[0]), len(study.directions) - 1
    if told != minimised:
        raise ValueError(
            f"the sampler ehvi is told {told} costs by known.costs, but the study minimises {minimised} objectives"
        )


# ---- networks as codes -------------------------------------------------------------------------------------------


class GeneTable:
    """The parameters of a search space as genes: the code of a value is its index among the parameter's options."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self.options = {name: _options(name, distribution) for name, distribution in space.items()}
        self.ordered = [not isinstance(distribution, CategoricalDistribution) for distribution in space.values()]
        self.counts = [len(options) for options in self.options.values()]
        self.text = repr(sorted(space.items()))
        self._codes = {
            name: {option: code for code, option in enumerate(options)} for name, options in self.options.items()
        }
        self._arrays = {name: _objects(options) for name, options in self.options.items()}

    @property
    def size(self) -> float:
        """The number of genotypes."""
        return float(np.prod(np.array(self.counts, np.float64)))

    def codes(self, params: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
        """The codes (N, G) of N networks' parameters."""
        rows = [[codes[one[name]] for name, codes in self._codes.items()] for one in params]
        return np.array(rows, np.int64).reshape(-1, len(self.options))

    def params(self, code_G: NDArray[np.int64]) -> dict[str, Any]:
        return {name: options[code] for (name, options), code in zip(self.options.items(), code_G, strict=True)}

    def table(self, codes_NG: NDArray[np.int64]) -> Table:
        return {name: values[codes_NG[:, gene]] for gene, (name, values) in enumerate(self._arrays.items())}

    def places(self, codes_NG: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of the genotypes (N) among all."""
        places_N: NDArray[np.int64] = np.ravel_multi_index(tuple(codes_NG.T), self.counts)
        return places_N

    def at(self, places_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """The genotypes (N, G) at places among all."""
        return np.stack(np.unravel_index(places_N, self.counts), axis=1).astype(np.int64)

    def random(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.integers(self.counts, size=(count, len(self.counts)))

    def all(self) -> NDArray[np.int64]:
        return np.indices(self.counts).reshape(len(self.counts), -1).T.astype(np.int64)

    def neighbours(self, codes_NG: NDArray[np.int64]) -> NDArray[np.int64]:
        """All genotypes that differ from one of `codes_NG` in one gene, some of them several times."""
        changed = []
        for gene, count in enumerate(self.counts):
            for step in range(1, count):
                near = codes_NG.copy()
                near[:, gene] = (near[:, gene] + step) % count
                changed.append(near)
        return np.concatenate(changed) if changed else codes_NG[:0]


def _is_finite(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, FloatDistribution) or distribution.step is not None


def _options(name: str, distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return tuple(distribution.low + step * distribution.step for step in range(steps + 1))
    raise ValueError(f"the sampler ehvi needs parameters of finitely many values, but {name} is {distribution}")


def _objects(options: Sequence[Any]) -> NDArray[Any]:
    """Numbers as numbers, all else as it is."""
    if all(type(option) in (int, float) for option in options):
        return np.array(options)
    values = np.empty(len(options), dtype=object)
    values[:] = options
    return values


@dataclass(frozen=True, eq=False)
class Batch:
    """Networks: codes (N, G), logarithms of costs (N, C), the surrogate's columns (N, D)."""

    codes: NDArray[np.int64]
    log_costs: Floats
    x: Floats

    def __len__(self) -> int:
        return len(self.codes)


class Networks:
    """The networks of a search space that may be trained."""

    def __init__(self, genes: GeneTable, known: Known) -> None:
        self.genes = genes
        self._known = known
        self._canonical: dict[bytes, NDArray[np.int64]] = {}

    def read(self, codes_NG: NDArray[np.int64]) -> Batch:
        """Networks, canonical, without those that must not be trained."""
        return self._batch(*self._admissible(codes_NG))

    def trained(self, codes_NG: NDArray[np.int64], log_costs_NC: Floats) -> Batch:
        """The networks of trials, all of them; their codes are canonical already."""
        return self._batch(codes_NG, log_costs_NC)

    def canonical(self, codes_NG: NDArray[np.int64]) -> NDArray[np.int64]:
        """The genotypes that stand for these, remembered; genes that do not act stand at their first option."""
        new = [row for row, code_G in enumerate(codes_NG) if code_G.tobytes() not in self._canonical]
        if new:
            standing_NG = self._cheapest_equal(codes_NG[new])
            for row, code_G in zip(new, self._acting(standing_NG, self.genes.table(standing_NG)), strict=True):
                self._canonical[codes_NG[row].tobytes()] = code_G
        found = [self._canonical[code_G.tobytes()] for code_G in codes_NG]
        return np.array(found, np.int64).reshape(codes_NG.shape)

    def _acting(self, codes_NG: NDArray[np.int64], table: Table) -> NDArray[np.int64]:
        if self._known.acts is None:
            return codes_NG
        acts = self._known.acts(table)
        acting_NG: NDArray[np.int64] = np.stack([acts[name] for name in self.genes.options], axis=1).astype(np.int64)
        return codes_NG * acting_NG

    def _admissible(self, codes_NG: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
        codes_NG = self._cheapest_equal(codes_NG)
        table = self.genes.table(codes_NG)  # one for both questions: who answers may have to price it but once
        log_costs_NC = self._log_costs(table)
        codes_NG = self._acting(codes_NG, table)
        may = ~np.isnan(log_costs_NC).any(axis=1)
        return codes_NG[may], log_costs_NC[may]

    def _log_costs(self, table: Table) -> Floats:
        return logarithms(np.asarray(self._known.costs(table), np.float64))

    def _cheapest_equal(self, codes_NG: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._known.keys is None or not self.small:
            return codes_NG
        return self.genes.at(self._stands_for[self.genes.places(codes_NG)])

    @cached_property
    def _stands_for(self) -> NDArray[np.int64]:
        """Of all genotypes, the place of the cheapest among those equal to it that may be trained."""
        assert self._known.keys is not None
        table = self.genes.table(self.genes.all())
        log_cost_N = self._log_costs(table).sum(axis=1)
        _, key_N = np.unique(self._known.keys(table), return_inverse=True)
        order = np.lexsort((log_cost_N, key_N))  # what must not be trained, nan, comes last
        first = np.flatnonzero(np.diff(key_N[order], prepend=-1))
        place_K: NDArray[np.int64] = order[first]
        return place_K[key_N]

    def _batch(self, codes_NG: NDArray[np.int64], log_costs_NC: Floats) -> Batch:
        return Batch(codes_NG, log_costs_NC, self._columns(codes_NG, log_costs_NC))

    def _columns(self, codes_NG: NDArray[np.int64], log_costs_NC: Floats) -> Floats:
        genes_ND, _ = embedded(codes_NG, self.genes.counts, self.genes.ordered)
        low_C, high_C = self.cost_range
        return np.concatenate([genes_ND, (log_costs_NC - low_C) / np.maximum(high_C - low_C, 1e-9)], axis=1)

    @property
    def column_genes(self) -> Genes:
        """The gene of each of the surrogate's columns; each cost is one of its own."""
        _, gene_D = embedded(np.zeros((1, len(self.genes.counts)), np.int64), self.genes.counts, self.genes.ordered)
        costs = len(self.cost_range[0])
        return np.concatenate([gene_D, len(self.genes.counts) + np.arange(costs)])

    @cached_property
    def cost_range(self) -> tuple[Floats, Floats]:
        """The least and the greatest logarithm of each cost (C) among the networks that stand for the space."""
        codes_NG, log_costs_NC = self._standing
        if len(codes_NG) == 0:
            raise ValueError("the sampler ehvi found no network that may be trained")
        return log_costs_NC.min(axis=0), log_costs_NC.max(axis=0)

    @property
    def small(self) -> bool:
        return self.genes.size <= WHOLE

    @property
    def rare(self) -> bool:
        """Whether so few networks of a large space may be trained that none was found: they are left to `admit`."""
        return not self.small and len(self._standing[0]) == 0

    @cached_property
    def standing(self) -> Batch:
        """Networks that stand for the space: all of a small one, random ones of a larger."""
        codes_NG, log_costs_NC = self._standing
        return _distinct(self._batch(codes_NG, log_costs_NC))

    @cached_property
    def _standing(self) -> tuple[NDArray[np.int64], Floats]:
        return self._admissible(self.genes.all() if self.small else self.genes.random(DRAWN, np.random.default_rng(0)))

    def random(self, rng: np.random.Generator) -> Batch:
        """Random networks: all of a small space, else as many as stand for it, drawn anew."""
        return self.standing if self.small else _distinct(self.read(self.genes.random(DRAWN, rng)))

    def candidates(
        self, rng: np.random.Generator, front_NG: NDArray[np.int64], score: Callable[[Batch], Floats]
    ) -> tuple[Batch, Floats]:
        """Networks and their scores: all of a small space, else random ones, the front's neighbours, and a climb."""
        if self.small:
            return self.standing, score(self.standing)
        starts = np.concatenate([self.genes.random(DRAWN, rng), self.genes.neighbours(front_NG)])
        found = _distinct(self.read(starts))
        score_N = score(found)
        for _ in range(CLIMBS):
            best = np.argsort(-score_N, kind="stable")[:CLIMBERS]
            near = _distinct(self.read(self.genes.neighbours(found.codes[best])))
            found, score_N = _joined(found, near), np.concatenate([score_N, score(near)])
        return found, score_N


def _joined(a: Batch, b: Batch) -> Batch:
    return Batch(
        np.concatenate([a.codes, b.codes]),
        np.concatenate([a.log_costs, b.log_costs]),
        np.concatenate([a.x, b.x]),
    )


def _distinct(batch: Batch) -> Batch:
    _, first = np.unique(batch.codes, axis=0, return_index=True)
    return Batch(batch.codes[first], batch.log_costs[first], batch.x[first])


def logarithms(costs_NC: Floats) -> Floats:
    """Raises ValueError for costs of 0 or less; nan stays."""
    if np.any(costs_NC <= 0):
        raise ValueError(f"the sampler ehvi needs costs above 0, but the least is {np.nanmin(costs_NC):g}")
    logs: Floats = np.log(costs_NC)
    return logs


# ---- what is known after some trials -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class History:
    """The trials of a study: finished ones with their accuracies (M), those that run, and the codes of all (N, G).

    seen, loss: the accuracies as they were told, and losses of the same trainings (M), nan where none was.
    failed: how many came to nothing.
    """

    done: Batch
    seen: Floats
    loss: Floats
    pending: Batch
    taken: NDArray[np.int64]
    failed: int

    @cached_property
    def accuracy(self) -> Floats:
        return steadied(self.seen, self.loss, self.done.log_costs)

    def accuracy_of_first(self, count: int) -> Floats:
        """As the accuracy was when so many trials were finished."""
        return steadied(self.seen[:count], self.loss[:count], self.done.log_costs[:count])

    @cached_property
    def distinct(self) -> set[bytes]:
        """The codes of all trials, each once."""
        return {code_G.tobytes() for code_G in self.taken}

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial], study: Study, networks: Networks) -> History:
        column = _accuracy_column(study)
        taken_NG = networks.canonical(_codes(networks, trials))
        done = [row for row, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
        values = np.array([trials[row].values for row in done]).reshape(-1, len(study.directions))
        batch = networks.trained(taken_NG[done], logarithms(np.delete(values, column, axis=1)))
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        return cls(
            done=batch,
            seen=values[:, column],
            loss=np.array([_loss(trials[row]) for row in done], np.float64),
            pending=networks.read(_codes(networks, running)),
            taken=taken_NG,
            failed=sum(trial.state == TrialState.FAIL for trial in trials),
        )


def _loss(trial: FrozenTrial) -> float:
    told = trial.user_attrs.get(LOSS)
    return float(told) if isinstance(told, Real) else float("nan")


def _codes(networks: Networks, trials: Sequence[FrozenTrial]) -> NDArray[np.int64]:
    return networks.genes.codes([trial.params for trial in trials])


class LogRegret(NamedTuple):
    """The scale on which accuracies are modelled: t = -log(best - accuracy + gap), gap = best - median.

    Near the best it is linear, far below it flattens, so that failures say little about good networks.
    """

    best: float
    gap: float

    @classmethod
    def of(cls, accuracy_M: Floats) -> LogRegret:
        best, median, worst = (float(value) for value in np.quantile(accuracy_M, [1.0, 0.5, 0.0]))
        return cls(best, max(best - median, 0.02 * (best - worst), 1e-9 * (1 + abs(best))))

    def scaled(self, accuracy: Floats) -> Floats:
        return -np.log(np.maximum(self.best - accuracy, 0.0) + self.gap)

    def accuracy(self, scaled: Floats) -> Floats:
        """Back from the scale; what lies above the best is less than `gap` above."""
        found: Floats = self.best + self.gap - np.exp(-scaled)
        return found

    def expected_gain(self, mean_N: Floats, sd_N: Floats, level: float | Floats) -> Floats:
        """E[max(A - a, 0)] for normal t(A), where t(a) = level: two moments of a log-normal variable, cut off."""
        u = (mean_N - level) / sd_N
        below = np.exp(-mean_N + sd_N * sd_N / 2 + log_ndtr(u - sd_N))
        gain_N: Floats = np.maximum(np.exp(-np.asarray(level)) * ndtr(u) - below, 0.0)
        return gain_N


def steadied(accuracy_M: Floats, loss_M: Floats, log_costs_MC: Floats) -> Floats:
    """Accuracies, each a mean of what was seen and of what the loss of that training lets expect.

    That is, on the scale of `LogRegret`, a linear regression on the logarithm of the loss. A loss is less coarse, but
    says something else; as trials come together, their accuracies average out by themselves, and losses count less (see
    `STEADIED`): when there are twice as many, a fifth. They count as far as they are to be trusted (see `trust`).
    Accuracies without a finite loss above 0 stay as they are.
    """
    told = np.isfinite(loss_M) & (loss_M > 0)
    if not told.any():
        return accuracy_M
    regret = LogRegret.of(accuracy_M)
    seen, log_loss = regret.scaled(accuracy_M[told]), np.log(loss_M[told])
    away = log_loss - log_loss.mean()
    expected = seen.mean() + away @ seen / max(away @ away, 1e-12) * away
    share = STEADIED**2 / (STEADIED**2 + len(seen) ** 2) * trust(seen, log_loss, log_costs_MC[told])
    steady = accuracy_M.copy()
    steady[told] = regret.accuracy(share * expected + (1 - share) * seen)
    return steady


def trust(seen_M: Floats, log_loss_M: Floats, log_costs_MC: Floats) -> float:
    """How likely losses are to say something of accuracies that costs do not say: 0 to 1.

    Bayes' rule for two normal variables, the residuals of accuracies and losses on logarithms of costs: their
    correlation is either -`RELATED` or 0, the former `TRUSTED` times as likely before any trial. Few trials cannot tell
    a slope from chance, and a regression on chance drowns what was seen.
    """
    freedom = max(len(seen_M) - 1 - log_costs_MC.shape[1], 0)
    seen_left_M, loss_left_M = (left_over(values_M, log_costs_MC) for values_M in (seen_M, log_loss_M))
    scale = float(np.linalg.norm(seen_left_M) * np.linalg.norm(loss_left_M))
    correlation = seen_left_M @ loss_left_M / max(scale, 1e-9)
    left = 1 - RELATED**2
    evidence = -freedom * (0.5 * np.log(left) + (RELATED**2 + RELATED * correlation) / left)
    return float(expit(np.log(TRUSTED) + evidence))


@dataclass(frozen=True, eq=False)
class Belief:
    """The surrogate after some trials, and the accuracies f(z) that it believes to be within reach.

    front: rows of the finished trials of which f consists. levels (Z): f on the scale `regret`; corners (Z, C): the
    logarithms of costs from which each holds, up to the next or, at last, the reference (C). With several costs they
    are points of equal weight. doubt: by what the process' standard deviations are multiplied.
    """

    process: GaussianProcess
    doubt: float
    regret: LogRegret
    front: NDArray[np.int64]
    corners: Floats
    levels: Floats
    reference: Floats

    @classmethod
    def of(cls, history: History, networks: Networks, theta: Floats, accuracy_floor: float | None) -> Belief:
        """theta: the surrogate's parameters."""
        done = history.done
        regret = LogRegret.of(history.accuracy)
        kept = remembered(len(done), history.accuracy)
        targets_M = regret.scaled(history.accuracy[kept])
        trained = GaussianProcess(done.x[kept], targets_M, networks.column_genes, theta)
        process = trained.expecting(history.pending.x) if len(history.pending) else trained
        means = np.concatenate([process.mean(done.x), process.mean(history.pending.x)])
        if accuracy_floor is None:
            floor = float(np.quantile(process.mean(networks.standing.x), UNINTERESTING))
        else:
            floor = float(regret.scaled(np.array(accuracy_floor)))
        log_costs_NC = np.concatenate([done.log_costs, history.pending.log_costs])
        low_C, high_C = networks.cost_range
        reference_C = np.maximum(high_C, log_costs_NC.max(axis=0))
        front = staircase(log_costs_NC, means, floor)
        if log_costs_NC.shape[1] == 1:
            corner_ZC = np.concatenate([[[-np.inf]], log_costs_NC[front]])
            level_Z = np.concatenate([[floor], means[front]])
        else:
            corner_ZC = _points(np.minimum(low_C, log_costs_NC.min(axis=0)), reference_C)
            level_Z = levels(corner_ZC, log_costs_NC[front], means[front], floor)
        return cls(
            process,
            doubt(trained.left_out(), history.accuracy[kept]),
            regret,
            front[front < len(done)],
            corner_ZC,
            level_Z,
            reference_C,
        )

    def score(self, batch: Batch) -> Floats:
        """The expected hypervolume improvement (N), up to a factor that is the same for all."""
        mean_N, sd_N = self.process.predict(batch.x)
        sd_N = self.doubt * sd_N
        total_N = np.zeros(len(batch))
        for level, extent_N in self._extents(batch.log_costs):
            rows = np.flatnonzero(extent_N > 0)
            total_N[rows] += extent_N[rows] * self.regret.expected_gain(mean_N[rows], sd_N[rows], level)
        return total_N

    def _extents(self, log_costs_NC: Floats) -> Iterator[tuple[float, Floats]]:
        """Each level of f, and from each network's costs (N) on, how much of the space of costs lies on it."""
        if len(self.reference) == 1:
            until_Z = np.append(self.corners[1:, 0], self.reference[0])
            for corner, until, level in zip(self.corners[:, 0], until_Z, self.levels, strict=True):
                yield level, until - np.maximum(log_costs_NC[:, 0], corner)
            return
        within_NZ = np.logical_and.reduce(
            [cost_N[:, None] <= corner_Z for cost_N, corner_Z in zip(log_costs_NC.T, self.corners.T, strict=True)]
        )
        found, place_Z = np.unique(self.levels, return_inverse=True)
        extent_NL = within_NZ.astype(np.float32) @ np.eye(len(found), dtype=np.float32)[place_Z]
        yield from zip(found, extent_NL.T.astype(np.float64), strict=True)


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What to believe with each fit of the surrogate, the one that foretells left-out trials best first.

    Few trials do not tell which fit is right, and the mean of what both promise is wrong less often than either.
    """

    each: tuple[Belief, ...]

    @classmethod
    def of(cls, history: History, networks: Networks, memory: Memory, accuracy_floor: float | None) -> Beliefs:
        thetas = _parameters(history, networks.column_genes, memory)
        heard = thetas if len(history.done) <= MIXED else thetas[:1]
        return cls(tuple(Belief.of(history, networks, theta, accuracy_floor) for theta in heard))

    @property
    def front(self) -> NDArray[np.int64]:
        """Rows of the finished trials that the best fit believes to be on the front."""
        return self.each[0].front

    def score(self, batch: Batch) -> Floats:
        """The expected hypervolume improvement (N), every fit as likely, up to a factor that is the same for all."""
        total_N: Floats = np.sum([belief.score(batch) for belief in self.each], axis=0)
        return total_N


def doubt(residual_M: Floats, accuracy_M: Floats) -> float:
    """How far the more accurate half of the trials lies from its predictions, in units of what the process expects.

    A process that has to explain failures expects too much of good networks, or too little of all where it is noisy.
    """
    better = np.argsort(-accuracy_M, kind="stable")[: (len(accuracy_M) + 1) // 2]
    return float(np.sqrt((np.sum(residual_M[better] ** 2) + BELIEVED) / (len(better) + BELIEVED)))


def staircase(log_costs_NC: Floats, means_N: Floats, floor: float) -> NDArray[np.int64]:
    """The networks above the floor that none as cheap in every cost reaches, in ascending order of their costs."""
    order = np.lexsort((-means_N, *log_costs_NC.T[::-1]))
    order = order[means_N[order] > floor]
    losses = np.concatenate([log_costs_NC[order], -means_N[order, None]], axis=1)
    _, first = np.unique(losses, axis=0, return_index=True)
    return order[np.sort(first[non_dominated(losses[first])])]


def levels(points_ZC: Floats, log_costs_NC: Floats, means_N: Floats, floor: float) -> Floats:
    """f (Z) at points: the greatest mean among the networks that cost at most that, or the floor."""
    within_ZN = np.all(log_costs_NC[None] <= points_ZC[:, None], axis=2)
    best_Z: Floats = np.max(np.where(within_ZN, means_N, floor), axis=1, initial=floor)
    return best_Z


def _points(low_C: Floats, high_C: Floats) -> Floats:
    unit = qmc.Sobol(len(low_C), scramble=False).random_base2(int(np.log2(POINTS)))
    points_ZC: Floats = low_C + (unit + 0.5 / POINTS) * (high_C - low_C)
    return points_ZC


def _parameters(history: History, gene_D: Genes, memory: Memory) -> list[Floats]:
    """Fitted to the first trials only, as many as the last refit had, so that they are a function of the history."""
    count = refitted_at(len(history.done))
    rows = evenly_spaced(count, FITTED)
    x, accuracy = history.done.x[rows], history.accuracy_of_first(count)[rows]
    digest = hashlib.sha256(x.tobytes() + accuracy.tobytes()).digest()
    return memory.once(digest, lambda: fits(x, LogRegret.of(accuracy).scaled(accuracy), gene_D))


def nearness(codes_NG: NDArray[np.int64], front_FG: NDArray[np.int64]) -> Floats:
    """By what to multiply the promises of N networks: `AFAR` to the share of genes that the nearest of F has otherwise.

    F networks of a front; without any, 1.
    """
    if len(front_FG) == 0:
        return np.ones(len(codes_NG))
    share_N = np.min([(codes_NG != code_G).mean(axis=1) for code_G in front_FG], axis=0)
    weight_N: Floats = AFAR**share_N
    return weight_N


def sharers(codes_NG: NDArray[np.int64], taken_MG: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of M networks have the option of each gene (N, G) of N networks."""
    counts = codes_NG.max(initial=0) + 1
    columns = zip(codes_NG.T, taken_MG.T, strict=True)
    return np.stack([np.bincount(taken_M, minlength=counts)[code_N] for code_N, taken_M in columns], axis=1)


def refitted_at(trials: int) -> int:
    """The number of trials, at most `trials`, at which the surrogate's parameters were fitted last."""
    count = 2
    while (following := int(np.ceil(count * REFIT))) <= trials:
        count = following
    return count


def remembered(trials: int, accuracy_M: Floats) -> NDArray[np.int64]:
    """The trials on which the surrogate is conditioned: all, or the most accurate half and evenly spaced others."""
    if trials <= REMEMBERED:
        return np.arange(trials)
    best = np.argsort(-accuracy_M, kind="stable")[: REMEMBERED // 2]
    spaced = np.setdiff1d(np.arange(trials), best)
    return np.sort(np.concatenate([best, spaced[evenly_spaced(len(spaced), REMEMBERED // 2)]]))


def evenly_spaced(points: int, at_most: int) -> NDArray[np.int64]:
    """The rows of so many points, or of `at_most` of them from the first to the last."""
    rows: NDArray[np.int64] = np.linspace(0, points - 1, min(points, at_most)).astype(np.int64)
    return rows
