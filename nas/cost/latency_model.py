"""Latency as a cost that is known before a training: a small model of a few dozen timed networks of a space.

    latency_ms = sum over TERMS of coefficient x count,    no coefficient below 0

The counts add up over stem, stages and classifier, as costs do, so that a table of genotypes is predicted as fast as it
is priced (`nas.cost.table`), and a network has the same latency alone and in a table, to the last bit. Positive
coefficients (non-negative least squares, Lawson and Hanson 1974) let no network be predicted below what its parts take,
and keep a fit to 32 networks from playing terms that rise together off against each other.

Shapes in names: N networks, T terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nas.arch import Architecture, SelectiveKernel, SplitAttention, Stage
from nas.cost.formula import cost_by_stage
from nas.cost.table import COSTS, Counting, Counts, in_order
from nas.evidence import MIN_PAIRS, Correlation, bootstrap, spearman

if TYPE_CHECKING:
    from nas.cost.latency import Latency
    from nas.record import Run

Floats = NDArray[np.float64]

FORMAT = 1
LEAST_MS = 1e-3
"""No prediction lies below: samplers take logarithms, and no network is that fast."""
UNSURE = 0.1
"""Half the relative width of an interval at which a network counts by 0.71: about what a good model errs by itself."""
FAR = 0.9
"""Share of the networks whose relative error the second figure of `HeldOut` holds."""

KINDS: dict[str, Callable[[Stage], bool]] = {
    "grouped": lambda stage: stage.cardinality > 1,
    "sk": lambda stage: isinstance(stage.mixer, SelectiveKernel),
    "split": lambda stage: isinstance(stage.mixer, SplitAttention) and not stage.mixer.is_hybrid,
    "hybrid": lambda stage: isinstance(stage.mixer, SplitAttention) and stage.mixer.is_hybrid,
    "gated": lambda stage: stage.gate.kind != "none",
}
"""What may make a block slower than a plain one of equal counts -> whether the (canonical) stage has it."""

_PLAIN = (*COSTS, "network", "blocks")
_BLOCKS = tuple(f"{kind}_blocks" for kind in KINDS)
_ACTIVATIONS = tuple(f"{kind}_activations" for kind in KINDS)
TERMS = (*_PLAIN, *_BLOCKS, *_ACTIVATIONS)
"""What a network's latency is a sum of: its costs, itself (1), its residual blocks, and, on top of these, the blocks of
each kind and what the convolutions of their stages put out."""
FORMS: dict[str, tuple[str, ...]] = {
    "costs and blocks": _PLAIN,
    "costs and blocks, blocks by kind": (*_PLAIN, *_BLOCKS),
    "costs and blocks, activations by kind": (*_PLAIN, *_ACTIVATIONS),
    "costs and blocks, both by kind": TERMS,
}
"""Which terms a model may have, smallest form first; the timed networks decide."""


def terms_by_part(arch: Architecture, input_size: int) -> list[tuple[int, ...]]:
    """The counts (T) of the stem, of each stage and of the classifier; as `cost_by_stage` raises."""
    costs = [cost for _, cost in cost_by_stage(arch, input_size)]
    stages = arch.canonical().stages
    counted: list[tuple[int, ...]] = []
    for cost, stage in zip(costs, (None, *stages, None), strict=True):
        has = [stage is not None and test(stage) for test in KINDS.values()]
        depth = 0 if stage is None else stage.depth
        by_kind = (*(depth * one for one in has), *(cost.activations * one for one in has))
        counted.append((*in_order(cost), int(not counted), depth, *by_kind))
    return counted


COUNTING = Counting(TERMS, terms_by_part)
"""How whole tables are counted."""


def terms(arch: Architecture, input_size: int) -> Counts:
    """The counts (T) of one network."""
    counts_T: Counts = np.array(terms_by_part(arch, input_size), np.int64).sum(axis=0)
    return counts_T


# ---- the fit -----------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Timed networks: their counts (N, T), milliseconds (N), and weights (N) of their relative errors in the fit."""

    counts: Counts
    latency: Floats
    weight: Floats

    def but(self, row: int) -> Sample:
        """All networks but one."""
        others = np.arange(len(self.latency)) != row
        return Sample(self.counts[others], self.latency[others], self.weight[others])


def weights(latency_N: Floats, low_N: Floats, high_N: Floats) -> Floats:
    """Weights of medians with these intervals: 1 for one that is certain, the less the wider its interval is."""
    unsure_N = (high_N - low_N) / 2 / latency_N
    weight_N: Floats = 1 / np.hypot(1, unsure_N / UNSURE)
    return weight_N


@dataclass(frozen=True, eq=False)
class Fit:
    """coefficients_ms (T): 0 for terms that the form does not have. held_out_ms (N): each network's latency as all
    others predict it, the choice of the form included; none (0) of fewer than 3 networks."""

    form: str
    coefficients_ms: Floats
    held_out_ms: Floats


def fit(sample: Sample) -> Fit:
    """The least weighted squares of relative errors.

    The form is the one with the least error on networks left out one at a time, the smaller one of equals.
    """
    form = _best_form(sample)
    held_out_N = _left_out(sample, _best_form) if len(sample.latency) >= MIN_PAIRS else np.zeros(0)
    return Fit(form, _solved(sample, form), held_out_N)


def _left_out(sample: Sample, choose: Callable[[Sample], str]) -> Floats:
    """Each network predicted by a fit to all others, of the form that these choose."""
    found = np.empty(len(sample.latency))
    for row in range(len(found)):
        rest = sample.but(row)
        found[row] = predicted(sample.counts[[row]], _solved(rest, choose(rest)))[0]
    return found


def _best_form(sample: Sample) -> str:
    if len(sample.latency) < 2:
        return next(iter(FORMS))

    def error(form: str) -> float:
        distance_N = np.abs(np.log(_left_out(sample, lambda _: form) / sample.latency))
        return round(float(np.average(distance_N, weights=sample.weight)), 9)

    return min(FORMS, key=error)


def _solved(sample: Sample, form: str) -> Floats:
    from scipy.optimize import nnls

    columns = [TERMS.index(name) for name in FORMS[form]]
    shares_NT = sample.counts[:, columns] * (sample.weight / sample.latency)[:, None]
    size_T = np.maximum(np.linalg.norm(shares_NT, axis=0), np.finfo(np.float64).tiny)
    solution_T, _ = nnls(shares_NT / size_T, sample.weight)
    coefficients_T = np.zeros(len(TERMS))
    coefficients_T[columns] = solution_T / size_T
    return coefficients_T


def predicted(counts_NT: Counts, coefficients_T: Floats) -> Floats:
    """Milliseconds (N).

    Term by term: a matrix product rounds a row differently in tables of different lengths.
    """
    total_N = np.zeros(len(counts_NT))
    for count_N, coefficient in zip(counts_NT.T, coefficients_T.tolist(), strict=True):
        total_N = total_N + coefficient * count_N
    return np.maximum(total_N, LEAST_MS)


# ---- the model with its evidence ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What was timed on what: the CPU's or GPU's name, images a pass, CPU threads, arithmetic, version of torch."""

    device: str
    batch_size: int
    threads: int
    precision: str
    torch: str

    @classmethod
    def of(cls, latency: Latency, torch: str) -> Conditions:
        return cls(
            device=latency.device,
            batch_size=latency.batch_size,
            threads=latency.threads,
            precision=latency.precision,
            torch=torch,
        )

    def __str__(self) -> str:
        threads = f"{self.threads} CPU thread{'s' if self.threads != 1 else ''}"
        return f"{self.device}, batch {self.batch_size}, {self.precision}, {threads}, torch {self.torch}"


@dataclass(frozen=True)
class HeldOut:
    """How far predictions of `n` networks, each left out of the fit, lie from what was measured.

    median_error, far_error: relative errors (0.1 is 10 %) that half and `FAR` of the networks do not exceed. spearman:
    between predicted and measured; None where one of them is the same for all.
    """

    n: int
    median_error: float
    far_error: float
    spearman: Correlation | None

    @classmethod
    def of(cls, predicted_N: Floats, measured_N: Floats, seed: int) -> HeldOut:
        errors_N = np.abs(predicted_N / measured_N - 1)
        median, far = np.quantile(errors_N, [0.5, FAR])
        varies = np.ptp(predicted_N) > 0 and np.ptp(measured_N) > 0
        ranks = bootstrap(spearman, predicted_N, measured_N, seed=seed) if varies else None
        return cls(len(errors_N), float(median), float(far), ranks)

    def __str__(self) -> str:
        ranks = f", rank correlation {self.spearman}" if self.spearman else ""
        return (
            f"left out of the fit one at a time, half of them are predicted within {100 * self.median_error:.1f} % and "
            f"{100 * FAR:.0f} % within {100 * self.far_error:.1f} %{ranks}"
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One timed network: the median of its samples with its interval, in milliseconds (see `nas.cost.latency`)."""

    key: str
    median_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, latency: Latency) -> Measured:
        """The network's name is its key."""
        return cls(key=latency.name, median_ms=latency.median_ms, low_ms=latency.low_ms, high_ms=latency.high_ms)


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Predicts the latency of a space's networks under `conditions`.

    coefficients_ms: term -> milliseconds for each count, those of `form`. timed: the networks of the fit, each with the
    median of `samples` samples and its interval of `coverage`. held_out_ms: of each of them, as the others predict it.
    held_out: how well; both are empty for fewer than 3 networks. seed: of networks, order of timing, intervals.
    """

    conditions: Conditions
    form: str
    coefficients_ms: Mapping[str, float]
    held_out: HeldOut | None
    held_out_ms: tuple[float, ...]
    timed: tuple[Measured, ...]
    samples: int
    coverage: float
    seed: int

    @classmethod
    def of(
        cls, networks: Mapping[str, Architecture], input_size: int, latencies: Sequence[Latency], torch: str, seed: int
    ) -> LatencyModel:
        """The model of `networks` (key -> network), timed on images of side `input_size`, in their order."""
        counts_NT = np.stack([terms(arch, input_size) for arch in networks.values()])
        latency_N, low_N, high_N = np.array([(one.median_ms, one.low_ms, one.high_ms) for one in latencies]).T
        found = fit(Sample(counts_NT, latency_N, weights(latency_N, low_N, high_N)))
        return cls(
            conditions=Conditions.of(latencies[0], torch),
            form=found.form,
            coefficients_ms={name: float(found.coefficients_ms[TERMS.index(name)]) for name in FORMS[found.form]},
            held_out=HeldOut.of(found.held_out_ms, latency_N, seed) if len(found.held_out_ms) else None,
            held_out_ms=tuple(found.held_out_ms.tolist()),
            timed=tuple(Measured.of(latency) for latency in latencies),
            samples=latencies[0].samples,
            coverage=latencies[0].coverage,
            seed=seed,
        )

    @classmethod
    def recorded(cls, run: Run) -> LatencyModel | None:
        """The model of a study; None where it has none. Raises ValueError naming the file if it is damaged."""
        value = run.read_latency()
        return None if value is None else cls.from_json(value, str(run.path("latency.json")))

    def of_counts(self, counts_NT: Counts) -> Floats:
        """Milliseconds (N) of networks with these counts of TERMS."""
        return predicted(counts_NT, np.array([self.coefficients_ms.get(name, 0.0) for name in TERMS]))

    def of_network(self, arch: Architecture, input_size: int) -> float:
        """Milliseconds of one network."""
        return float(self.of_counts(terms(arch, input_size)[None])[0])

    def __str__(self) -> str:
        error = self.held_out or "its error is unknown, as fewer than 3 networks were timed"
        return f"{len(self.timed)} networks timed on {self.conditions}; {error}"

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> LatencyModel:
        """Raises ValueError, naming the file `where`, for what is no such model."""
        try:
            held_out = value["held_out"]
            ranks = held_out and held_out["spearman"]
            known = {name: value[name] for name in ("form", "samples", "coverage", "seed")}
            if value["format"] != FORMAT or known["form"] not in FORMS:
                raise ValueError(f"format {value['format']!r}, form {known['form']!r}")
            return cls(
                **known,
                conditions=Conditions(**value["conditions"]),
                coefficients_ms={name: float(value["coefficients_ms"][name]) for name in FORMS[known["form"]]},
                held_out=held_out and HeldOut(**{**held_out, "spearman": ranks and Correlation(**ranks)}),
                held_out_ms=tuple(float(one) for one in value["held_out_ms"]),
                timed=tuple(Measured(**one) for one in value["timed"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where} holds no latency model that can be read ({error}): restore it or choose another study name"
            ) from None
