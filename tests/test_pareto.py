"""Pareto mathematics against first principles and against counting by brute force."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import pareto

GRID = 4


@st.composite
def grid_points(draw: st.DrawFn, least: int = 0, most: int = 7) -> np.ndarray:
    """Up to 7 points with whole coordinates 0..4 (4 lies on the reference) in 1 to 4 columns: many ties, duplicates."""
    columns = draw(st.integers(1, 4))
    rows = draw(st.lists(st.tuples(*[st.integers(0, GRID)] * columns), min_size=least, max_size=most))
    return np.array(rows, dtype=float).reshape(len(rows), columns)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(all(a <= b) and any(a < b))


def brute_ranks(points: np.ndarray) -> list[int]:
    """Peel the fronts one after another, each by comparing all pairs."""
    found = [-1] * len(points)
    level = 0
    while -1 in found:
        left = [i for i, rank in enumerate(found) if rank == -1]
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        for i in front:
            found[i] = level
        level += 1
    return found


def brute_volume(points: np.ndarray, reference: int) -> int:
    """Whole coordinates: the volume is the number of unit cells whose lower corner some point weakly dominates."""
    cells = product(range(reference), repeat=points.shape[1])
    return sum(any(all(point <= cell) for point in points) for cell in cells)


@settings(deadline=None)
@given(grid_points())
def test_front_and_ranks_equal_the_comparison_of_all_pairs(points: np.ndarray) -> None:
    expected = brute_ranks(points)
    assert pareto.ranks(points).tolist() == expected
    assert pareto.non_dominated(points).tolist() == [rank == 0 for rank in expected]


@settings(deadline=None)
@given(grid_points())
def test_hypervolume_equals_the_count_of_dominated_cells(points: np.ndarray) -> None:
    reference = [GRID] * points.shape[1]
    assert pareto.hypervolume(points, reference) == pytest.approx(brute_volume(points, GRID))


@settings(deadline=None)
@given(grid_points())
def test_trace_is_the_volume_of_every_beginning(points: np.ndarray) -> None:
    trace = pareto.hypervolume_trace(points, [GRID] * points.shape[1])
    assert trace.tolist() == pytest.approx([brute_volume(points[: i + 1], GRID) for i in range(len(points))])
    assert np.all(np.diff(trace) >= 0)


def test_staircase_volume_is_derived_on_paper() -> None:
    # (i, n-1-i) for i < n, reference (n, n). Column x of unit cells is dominated from height n-1-x upwards, so it has
    # x+1 dominated cells; the sum of 1..n is n (n+1) / 2.
    n = 9
    points = np.array([(i, n - 1 - i) for i in range(n)])
    assert pareto.non_dominated(points).all()
    assert pareto.hypervolume(points, (n, n)) == pytest.approx(n * (n + 1) / 2)
    # After the first k points, columns 0..k-1 hold 1..k cells and each of the n-k columns to their right holds k.
    expected = [k * (k + 1) / 2 + (n - k) * k for k in range(1, n + 1)]
    assert pareto.hypervolume_trace(points, (n, n)).tolist() == pytest.approx(expected)


def test_one_point_spans_a_box() -> None:
    assert pareto.hypervolume([[0.25, 10.0]], [1.0, 12.0]) == pytest.approx(0.75 * 2)
    assert pareto.hypervolume([[1.0, 2.0, 3.0]], [2.0, 4.0, 6.0]) == pytest.approx(1 * 2 * 3)


@pytest.mark.parametrize("outside", [(3.0, 0.0), (0.0, 3.0), (3.0, 3.0), (2.0, 0.0)])
def test_points_on_or_beyond_the_reference_add_nothing(outside: tuple[float, float]) -> None:
    assert pareto.hypervolume([outside], (2, 2)) == 0.0
    assert pareto.hypervolume([outside, (1.0, 1.0)], (2, 2)) == pytest.approx(1.0)


def test_duplicates_of_a_front_point_all_stay_and_count_once() -> None:
    points = [[1, 2], [1, 2], [2, 1], [2, 2], [1, 3]]
    assert pareto.non_dominated(points).tolist() == [True, True, True, False, False]
    assert pareto.ranks(points).tolist() == [0, 0, 0, 1, 1]
    assert pareto.hypervolume(points, (3, 3)) == pytest.approx(3.0)


def test_volumes_agree_with_moocore_on_points_that_lie_off_any_grid() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    reference = [0.5, 0.5, 0.5]
    assert pareto.hypervolume_trace(points, reference)[-1] == pytest.approx(moocore.hypervolume(points, ref=reference))


def test_no_points_are_no_front_and_no_volume() -> None:
    empty = np.zeros((0, 2))
    assert pareto.non_dominated(empty).shape == pareto.ranks(empty).shape == (0,)
    assert pareto.hypervolume(empty, (1, 1)) == 0.0
    assert pareto.hypervolume_trace(empty, (1, 1)).shape == (0,)
    for function in (pareto.knee, pareto.reference_point):
        with pytest.raises(ValueError, match="at least one point"):
            function(empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(bad: float) -> None:
    points = [[0.0, 1.0], [1.0, bad]]
    functions = [pareto.non_dominated, pareto.ranks, pareto.knee, pareto.reference_point]
    for function in functions:
        with pytest.raises(ValueError, match="row 1"):
            function(points)
    for traced in (pareto.hypervolume, pareto.hypervolume_trace):
        with pytest.raises(ValueError, match="row 1"):
            traced(points, (2, 2))
        with pytest.raises(ValueError, match="reference must be finite"):
            traced([[0.0, 1.0]], (2, bad))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        pareto.non_dominated([1.0, 2.0])
    with pytest.raises(ValueError, match="2 objectives"):
        pareto.hypervolume([[1.0, 2.0]], [3.0])


@settings(deadline=None)
@given(grid_points(least=1))
def test_default_reference_is_worse_than_every_point(points: np.ndarray) -> None:
    assert np.all(pareto.reference_point(points) > points.max(axis=0))


def test_default_reference_adds_a_tenth_of_the_range() -> None:
    points = [[-0.9, 6.0, 5.0, 0.0, 1e300], [-0.5, 7.0, 5.0, 0.0, 1e300]]
    expected = [-0.5 + 0.04, 7.1, 5.5, 0.1, 1.1e300]
    assert pareto.reference_point(points).tolist() == pytest.approx(expected)
    close = [[1e9], [np.nextafter(1e9, 2e9)]]
    assert pareto.reference_point(close)[0] > close[1][0]


def test_knee_is_the_corner_of_the_front() -> None:
    # Scaled to the unit square the front is (0, 1), (.1, .2), (.5, .1), (1, 0): sums 1, .3, .6, 1. (1, 1) is dominated.
    scaled = np.array([(0.0, 1.0), (1.0, 1.0), (0.5, 0.1), (0.1, 0.2), (1.0, 0.0)])
    assert pareto.knee(scaled) == 3
    assert pareto.knee(scaled * [1000.0, 0.01] + [5.0, -7.0]) == 3


def test_knee_of_one_two_and_collinear_points() -> None:
    assert pareto.knee([[3.0, 4.0]]) == 0
    assert pareto.knee([[5.0, 5.0], [2.0, 1.0], [1.0, 3.0]]) == 2
    assert pareto.knee([[0.3, 0.7], [0.1, 0.9], [0.6, 0.4], [0.9, 0.1]]) == 1
    assert pareto.knee([[1.0, 1.0], [1.0, 1.0]]) == 0


def test_knee_with_three_columns_and_a_constant_one() -> None:
    points = [[0, 9, 5], [1, 1, 5], [9, 0, 5]]
    assert pareto.knee(points) == 1
    # Scaled: (0, 1, 1), (1, 0, 1), (1, 1, 0), (.5, .5, .5): sums 2, 2, 2, 1.5.
    assert pareto.knee([[0, 4, 8], [2, 0, 8], [2, 4, 0], [1, 2, 4]]) == 3


def test_losses_negate_what_is_maximised_and_keep_the_order_of_the_objectives() -> None:
    columns = {"macs": [10, 1000], "accuracy": [0.5, 0.75], "params": [1, 2]}
    expected = [[10, -0.5], [1000, -0.75]]
    rows = [{"macs": 10, "accuracy": 0.5}, {"macs": 1000, "accuracy": 0.75}]
    for values in (columns, pd.DataFrame(columns), rows):
        assert pareto.losses_from(values, ["macs", "accuracy"]).tolist() == expected
    assert pareto.losses_from(rows, ("accuracy", "macs"), log_costs=True).tolist() == [[-0.5, 1], [-0.75, 3]]
    assert pareto.losses_from([], ["accuracy", "macs"]).shape == (0, 2)


def test_losses_name_the_objective_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="wattage"):
        pareto.losses_from({"wattage": [1]}, ["wattage"])
    with pytest.raises(ValueError, match="'macs' has no recorded"):
        pareto.losses_from([{"accuracy": 0.5}], ["accuracy", "macs"])
    with pytest.raises(ValueError, match="'accuracy' must be finite, but row 1"):
        pareto.losses_from({"accuracy": [0.5, None]}, ["accuracy"])
    with pytest.raises(ValueError, match="equally many"):
        pareto.losses_from({"accuracy": [0.5], "macs": [1, 2]}, ["accuracy", "macs"])
    with pytest.raises(ValueError, match="exceed 0"):
        pareto.losses_from({"macs": [0]}, ["macs"], log_costs=True)
    for wrong in ([], ["macs", "macs"]):
        with pytest.raises(ValueError, match="each one once"):
            pareto.losses_from({"macs": [1]}, wrong)


def test_costs_are_the_minimised_objectives() -> None:
    assert pareto.costs_of(["params", "accuracy", "macs"]) == ("params", "macs")
    assert list(pareto.DIRECTIONS) == ["accuracy", "macs", "params", "activations", "latency"]
    assert pareto.COSTS == ("macs", "params", "activations")


def test_import_brings_neither_torch_nor_moocore() -> None:
    code = "import sys, nas.pareto; print([m for m in ('torch', 'optuna', 'moocore', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
