"""What a handful of measurements can show: medians, shares and rank correlations, each with an interval.

Every interval is given at `CONFIDENCE`. No distribution is assumed of the values, but all are taken to be independent
draws of one: drift of a machine, or networks picked by hand, break that, and no formula here notices.

SciPy is imported at the first call, because it takes longer to import than this module may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_SAMPLES = 6
"""Samples of which the smallest and the largest hold the median with probability 1 - 2 / 2^6 = 0.97; with five 0.94."""

MIN_PAIRS = 3
EXPLAINED = 1e-9
"""Variation of ranks below this share of the most that there can be is rounding."""


@dataclass(frozen=True, slots=True)
class Median:
    """The median of n samples and an interval for the median of what they were drawn from.

    coverage: the probability that [low, high] holds it, at least `CONFIDENCE`; see `median`.
    """

    value: float
    low: float
    high: float
    coverage: float
    n: int


def median(samples: ArrayLike) -> Median:
    """The median with its interval by order statistics (David and Nagaraja, Order Statistics, 2003, section 7.1).

    With x_(1) <= ... <= x_(n), [x_(r), x_(n + 1 - r)] misses the true median only if fewer than r samples lie on one
    side of it, so it covers with probability 1 - 2 P(Binomial(n, 1/2) < r), or more if the distribution has steps. r is
    the largest with a coverage of at least `CONFIDENCE`: of 30 samples the 10th and the 21st, coverage 0.957.
    Raises ValueError for fewer than `MIN_SAMPLES` samples or one that is no finite number.
    """
    ordered = np.sort(_numbers(samples, "samples"))
    n = len(ordered)
    if n < MIN_SAMPLES:
        raise ValueError(
            f"an interval of the median needs at least {MIN_SAMPLES} samples, of which the outer two hold it with "
            f"{CONFIDENCE:.0%} confidence, but got {n}"
        )
    rank, coverage = _order_statistics(n)
    return Median(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[n - rank]), coverage, n)


def _order_statistics(n: int) -> tuple[int, float]:
    """The largest rank r whose interval covers, and the coverage; in whole numbers, so n may be large."""
    rank = 0
    below, term = 0, 1  # sum over i < rank of C(n, i), and C(n, rank)
    while 2 * (below + term) <= (1 - Fraction(str(CONFIDENCE))) * 2**n:
        below += term
        rank += 1
        term = term * (n - rank + 1) // rank
    return rank, float(1 - Fraction(2 * below, 2**n))


@dataclass(frozen=True, slots=True)
class Share:
    """A share (0..1) of n independent cases and an interval for the chance of one; see `share`."""

    value: float
    low: float
    high: float
    n: int


def share(hits: int, n: int) -> Share:
    """hits / n with the score interval (Wilson 1927): the chances p that are no further off than their own spread.

    Those with |hits / n - p| <= z sqrt(p (1 - p) / n), z the normal quantile of `CONFIDENCE`. It has a width also where
    no case hits, or all do. Raises ValueError unless n is at least 1 and hits is from 0 to n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a share needs at least 1 case and 0 to that many hits, but got {hits} hits of {n}")
    z2 = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) ** 2
    value, scale = hits / n, 1 + z2 / n
    middle = (value + z2 / (2 * n)) / scale
    half = math.sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n))) / scale
    return Share(value, middle - half if hits else 0.0, middle + half if hits < n else 1.0, n)


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """What trainings with other seeds show, as accuracies (0..1); see `seed_noise`.

    deviation: standard deviation between trainings of one network; nan where none was repeated twice. luck: how much
    higher the networks were when they were found, on average; luck_error: its standard error, nan for one network.
    """

    deviation: float
    luck: float
    luck_error: float
    networks: int
    trainings: int

    def __str__(self) -> str:
        error = f", standard error {100 * self.luck_error:.2f}" if math.isfinite(self.luck_error) else ""
        spread = (
            f"; the standard deviation between trainings of one network is {100 * self.deviation:.2f} points"
            if math.isfinite(self.deviation)
            else ""
        )
        return (
            f"{self.networks} network{'s' * (self.networks != 1)}, trained again with {self.trainings} other "
            f"seed{'s' * (self.trainings != 1)} in all, came out "
            f"{100 * abs(self.luck):.2f} points {'lower' if self.luck >= 0 else 'higher'} in accuracy than when found "
            f"(mean{error}){spread}"
        )


def seed_noise(found: Sequence[float], others: Sequence[Sequence[float]]) -> SeedNoise:
    """From the accuracies `found` of networks that were chosen for them, and the `others` of each, at least one.

    The deviation is pooled over the others alone, for what was chosen as the best is no fair draw. That it was best
    of many is the luck: what was found less the mean of the others, over the networks.
    Raises ValueError for no network, one without others, or different lengths.
    """
    if not found or len(found) != len(others) or not all(others):
        raise ValueError(f"needs as many accuracies as lists of others, none empty, but got {found} and {others}")
    luck = [own - float(np.mean(other)) for own, other in zip(found, others, strict=True)]
    squares = sum(float(np.var(other)) * len(other) for other in others)
    free = sum(len(other) - 1 for other in others)
    return SeedNoise(
        deviation=math.sqrt(squares / free) if free else math.nan,
        luck=float(np.mean(luck)),
        luck_error=float(np.std(luck, ddof=1)) / math.sqrt(len(luck)) if len(luck) > 1 else math.nan,
        networks=len(found),
        trainings=sum(len(other) for other in others),
    )


RankCorrelation = Callable[[ArrayLike, ArrayLike], float]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rho: Pearson's correlation of the ranks, equal values sharing the mean of their ranks.

    a and b: n numbers each. Raises ValueError for fewer than `MIN_PAIRS` pairs, different lengths, a number that is not
    finite, or an input whose values are all equal.
    """
    from scipy.stats import rankdata

    # Twice the ranks, centred, are whole numbers, so that a perfect order gives exactly 1.
    x, y = (2 * rankdata(values) - (len(values) + 1) for values in _pairs(a, b))
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def left_over(values_N: ArrayLike, fixed_NC: ArrayLike) -> Floats:
    """What the least-squares plane in the columns of `fixed_NC` leaves of N values."""
    values = np.asarray(values_N, np.float64)
    plane = np.column_stack([np.ones(len(values)), fixed_NC])
    left_N: Floats = values - plane @ np.linalg.lstsq(plane, values)[0]
    return left_N


def partial_spearman(a: ArrayLike, b: ArrayLike, fixed: ArrayLike) -> float:
    """Spearman's partial correlation: of the ranks of a and b, what is left after a plane in the ranks of `fixed`.

    fixed: n numbers, or n rows of several. nan where these explain all of a or of b. Raises as `spearman` does, and
    for another number of rows.
    """
    from scipy.stats import rankdata

    x, y = _pairs(a, b)
    columns = np.asarray(fixed, np.float64)
    if len(columns) != len(x):
        raise ValueError(f"a partial correlation needs {len(x)} rows of fixed values, but got {len(columns)}")
    rank_NC = rankdata(columns.reshape(len(x), -1), axis=0)
    left = [left_over(rankdata(values), rank_NC) for values in (x, y)]
    scale = math.sqrt(float(left[0] @ left[0]) * float(left[1] @ left[1]))
    return float(left[0] @ left[1]) / scale if scale > EXPLAINED * len(x) ** 3 else math.nan


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b: (C - D) / sqrt((P - A)(P - B)) over the P = n(n - 1)/2 pairs of points.

    C, D: those that a and b order alike, and oppositely. A, B: those that tie in a, and in b. Raises as `spearman`
    does.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(*_pairs(a, b), variant="b", method="asymptotic").statistic)  # the method of its p-value


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation (-1..1) of n pairs with its bootstrap interval; see `bootstrap`."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def bootstrap(
    correlation: RankCorrelation, a: ArrayLike, b: ArrayLike, *, seed: int, resamples: int = 1000
) -> Correlation:
    """`correlation(a, b)` with the percentile interval of pairs drawn again with replacement (Efron 1979).

    A resample in which a or b is constant has no rank correlation and is drawn again, so the interval is that of
    resamples that have one; this matters below about six pairs only. A perfect order keeps its value in every resample:
    its interval has no width, and says nothing. Raises ValueError as `correlation` does, and for no resamples.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, but got {resamples}")
    x, y = _pairs(a, b)
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < resamples:
        again = rng.integers(len(x), size=len(x))
        if _varies(x[again]) and _varies(y[again]):
            drawn.append(correlation(x[again], y[again]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Correlation(correlation(x, y), float(low), float(high), len(x))


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = _numbers(a, "a"), _numbers(b, "b")
    if len(x) != len(y):
        raise ValueError(f"a rank correlation needs a and b of one length, but got {len(x)} and {len(y)} numbers")
    if len(x) < MIN_PAIRS:
        raise ValueError(f"a rank correlation needs at least {MIN_PAIRS} pairs, but got {len(x)}")
    for name, values in (("a", x), ("b", y)):
        if not _varies(values):
            raise ValueError(f"a rank correlation needs values that differ, but all of {name} are {values[0]:g}")
    return x, y


def _varies(values: Floats) -> bool:
    return bool(values.min() < values.max())


def _numbers(values: ArrayLike, name: str) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"{name} must be a list of numbers, but got the shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, but holds {numbers[~np.isfinite(numbers)][0]}")
    return numbers
