"""Medians and rank correlations against their definitions, with intervals that are what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.evidence import Correlation, RankCorrelation, bootstrap, kendall, median, partial_spearman, share, spearman

BOTH = pytest.mark.parametrize("correlation", [spearman, kendall])


def sign(value: int) -> int:
    return (value > 0) - (value < 0)


def tau_b(a: Sequence[int], b: Sequence[int]) -> float:
    """Every pair of points, counted by hand."""
    signs = [(sign(a[i] - a[j]), sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    untied = math.prod(sum(pair[side] != 0 for pair in signs) for side in (0, 1))
    return sum(x * y for x, y in signs) / math.sqrt(untied)


def rho(a: Sequence[int], b: Sequence[int]) -> float:
    """Pearson's correlation of ranks: how many are smaller, and half of those that are equal."""

    def centred(values: Sequence[int]) -> list[Fraction]:
        ranks = [sum(y < x for y in values) + Fraction(sum(y == x for y in values) + 1, 2) for x in values]
        return [rank - Fraction(len(values) + 1, 2) for rank in ranks]

    x, y = centred(a), centred(b)
    products = [sum(p * q for p, q in zip(left, right, strict=True)) for left, right in ((x, y), (x, x), (y, y))]
    return float(products[0]) / math.sqrt(products[1] * products[2])


def differ(values: Sequence[tuple[int, int]]) -> bool:
    return all(len(set(column)) > 1 for column in zip(*values, strict=True))


POINTS = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=12).filter(differ)
"""Few values, so that most lists have ties."""


@settings(deadline=None)
@given(POINTS)
def test_ties_are_counted_as_the_definitions_say(points: list[tuple[int, int]]) -> None:
    a, b = zip(*points, strict=True)
    assert spearman(a, b) == pytest.approx(rho(a, b), abs=1e-12)
    assert kendall(a, b) == pytest.approx(tau_b(a, b), abs=1e-12)


@BOTH
@settings(deadline=None)
@given(points=POINTS)
def test_only_order_matters(correlation: RankCorrelation, points: list[tuple[int, int]]) -> None:
    a, b = (np.array(column) for column in zip(*points, strict=True))
    value = correlation(a, b)
    assert -1 <= value <= 1
    assert correlation(np.exp(a), b**3 + 2 * b) == value
    assert correlation(b, a) == pytest.approx(value, abs=1e-12)
    assert correlation(-a, b) == pytest.approx(-value, abs=1e-12)


@BOTH
@settings(deadline=None)
@given(values=st.lists(st.integers(-(10**9), 10**9), min_size=3, max_size=40, unique=True))
def test_a_perfect_order_is_one(correlation: RankCorrelation, values: list[int]) -> None:
    assert correlation(values, values) == pytest.approx(1, abs=1e-15)
    assert correlation(values, [-value for value in values]) == pytest.approx(-1, abs=1e-15)


def test_correlations_derived_on_paper() -> None:
    """One swap of neighbours among four: sum d^2 = 2, rho = 1 - 6 x 2 / (4 x 15); one of six pairs is discordant."""
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)


@BOTH
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1, 2], [1, 2], "needs at least 3 pairs, but got 2"),
        ([], [], "needs at least 3 pairs, but got 0"),
        ([1, 2, 3], [1, 2, 3, 4], "a and b of one length, but got 3 and 4 numbers"),
        ([1, 2, 3], [5, 5, 5], "needs values that differ, but all of b are 5"),
        ([2, 2, 2], [1, 2, 3], "needs values that differ, but all of a are 2"),
        ([1, 2, math.nan], [1, 2, 3], "a must be finite, but holds nan"),
        ([1, 2, 3], [1, math.inf, 3], "b must be finite, but holds inf"),
        ([[1, 2, 3]], [1, 2, 3], r"a must be a list of numbers, but got the shape \(1, 3\)"),
    ],
)
def test_pairs_without_a_rank_correlation_are_refused(
    correlation: RankCorrelation, a: list[float], b: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        correlation(a, b)
    with pytest.raises(ValueError, match=message):
        bootstrap(correlation, a, b, seed=0)


@BOTH
def test_the_bootstrap_is_seeded_and_surrounds_the_value(correlation: RankCorrelation) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    found = bootstrap(correlation, a, b, seed=1, resamples=200)
    assert (found.value, found.n) == (correlation(a, b), 40)
    assert -1 < found.low < found.value < found.high < 1
    assert bootstrap(correlation, a, b, seed=1, resamples=200) == found
    assert bootstrap(correlation, a, b, seed=2, resamples=200) != found


def test_more_pairs_narrow_the_interval() -> None:
    rng = np.random.default_rng(4)
    a = rng.normal(size=320)
    b = a + rng.normal(size=320)
    few, many = (bootstrap(spearman, a[:n], b[:n], seed=0, resamples=200) for n in (20, 320))
    assert many.high - many.low < (few.high - few.low) / 2


def test_percentiles_of_a_bootstrap_that_can_be_written_down() -> None:
    """Of three ordered pairs a resample that varies is ordered as well: 1 without exception, nothing undefined."""
    assert bootstrap(spearman, [1, 2, 3], [4, 5, 6], seed=0, resamples=50) == Correlation(1.0, 1.0, 1.0, 3)


def test_resamples_without_a_correlation_are_drawn_again() -> None:
    """All but one value of each input are equal, and not at the same place: most resamples are constant somewhere."""
    found = bootstrap(spearman, [0, 0, 0, 1], [1, 0, 0, 0], seed=0, resamples=100)
    assert found.value == pytest.approx(-1 / 3)
    assert math.isfinite(found.low) and math.isfinite(found.high)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="resamples must be at least 1, but got 0"):
        bootstrap(spearman, [1, 2, 3], [1, 2, 3], seed=0, resamples=0)


def test_a_correlation_in_words() -> None:
    assert str(Correlation(0.824, 0.5, 0.917, 24)) == "0.82 (0.50 to 0.92)"


# the median


def binomial_coverage(n: int, rank: int) -> Fraction:
    """P(rank <= samples below the median <= n - rank) for a fair coin."""
    return Fraction(sum(math.comb(n, below) for below in range(rank, n - rank + 1)), 2**n)


@pytest.mark.parametrize("n", [*range(6, 60), 500])
def test_the_median_interval_is_the_narrowest_that_covers(n: int) -> None:
    """Samples that are their own rank show which order statistics were taken."""
    found = median(np.random.default_rng(n).permutation(n) + 1)
    rank = round(found.low)
    assert found.high == n + 1 - rank
    assert found.coverage == float(binomial_coverage(n, rank))
    assert binomial_coverage(n, rank) >= Fraction(95, 100)
    assert binomial_coverage(n, rank + 1) < Fraction(95, 100)
    assert found.value == (n + 1) / 2
    assert found.n == n


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of a skewed distribution whose median is ln 2; 2,000 intervals, four standard errors of room."""
    rng = np.random.default_rng(0)
    found = [median(rng.exponential(size=15)) for _ in range(2000)]
    covered = sum(one.low <= math.log(2) <= one.high for one in found) / len(found)
    expected = found[0].coverage
    assert covered == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(found)))


def test_thirty_samples_give_the_tenth_and_the_twenty_first() -> None:
    found = median(range(1, 31))
    assert (found.low, found.high) == (10, 21)
    assert found.coverage == pytest.approx(0.9572, abs=5e-5)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([1.0] * 5, "needs at least 6 samples, of which the outer two hold it with 95% confidence, but got 5"),
        ([], "needs at least 6 samples"),
        ([1, 2, 3, 4, 5, math.inf], "samples must be finite, but holds inf"),
    ],
)
def test_samples_without_an_interval_are_refused(samples: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        median(samples)


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 7), (287, 287), (280, 287), (5000, 10_000)])
def test_the_interval_of_a_share_ends_where_the_score_test_does(hits: int, n: int) -> None:
    """At both ends p the share lies z standard deviations from p, by the definition of the score test."""
    found = share(hits, n)
    assert found.value == hits / n and found.n == n
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.low < found.high
    for p in {found.low, found.high} - {0.0, 1.0}:
        assert abs(found.value - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959964, abs=1e-5)


def test_a_share_keeps_a_width_at_its_ends() -> None:
    """With z^2 = 3.8415: no hit of n gives z^2 / (n + z^2) as the upper end, and all hits mirror it."""
    assert share(0, 10).low == 0 and share(0, 10).high == pytest.approx(3.8415 / 13.8415, abs=1e-5)
    assert share(10, 10).high == 1 and share(10, 10).low == pytest.approx(10 / 13.8415, abs=1e-5)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_a_share_of_nothing_is_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="a share needs at least 1 case"):
        share(hits, n)


# ---- with something held fixed -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=4, max_size=12))
def test_with_one_thing_held_fixed_it_is_the_textbook_formula(points: list[tuple[int, int, int]]) -> None:
    a, b, c = zip(*points, strict=True)
    assume(all(len(set(values)) > 1 for values in (a, b, c)))
    ab, ac, bc = spearman(a, b), spearman(a, c), spearman(b, c)
    assume(max(abs(ac), abs(bc)) < 1 - 1e-9)
    expected = (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))
    assert partial_spearman(a, b, c) == pytest.approx(expected, abs=1e-9)


def test_what_the_fixed_values_explain_is_taken_away() -> None:
    size, noise = np.arange(8.0), np.array([0, 1, 0, 1, 1, 0, 1, 0])
    assert spearman(size + noise, size - noise) > 0.9
    assert partial_spearman(size + noise, size - noise, size) < -0.7
    assert math.isnan(partial_spearman(size, size**2, size))
    both = np.column_stack([size, noise])
    assert math.isnan(partial_spearman(size, noise, both))


def test_a_partial_correlation_needs_as_many_fixed_values_as_pairs() -> None:
    with pytest.raises(ValueError, match=r"8 rows of fixed values, but got 3"):
        partial_spearman(range(8), range(8), range(3))
