"""Pareto mathematics: dominance, ranks, hypervolume, knee.

Every function takes `losses`, an array of shape (n, m): n points, m columns, each of them to be minimised
(`losses_from` negates what is to be maximised). Row a dominates row b when a <= b in every column and a < b in one.
No points means shape (0, m). A nan or an infinity in any row raises ValueError: such a row is better or worse than
nothing, and a search that compares it would go on with a wrong front.

The counting is done by moocore (C; https://multi-objective.github.io/moocore), imported at the first call because it
takes longer to import than this module may.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "macs": "minimize",
    "params": "minimize",
    "activations": "minimize",
    "latency": "minimize",
}
"""Objective -> what is better. The minimised ones are known before a training, and above 0."""

COSTS = ("macs", "params", "activations")
"""The exact costs, counts of at least 1, in the order in which they are shown. Latency is none: a model predicts it."""

MARGIN = 0.1
"""How far `reference_point` lies beyond the worst point, as a share of the column's range."""


def costs_of(objectives: Sequence[str]) -> tuple[str, ...]:
    """The minimised objectives, in the given order. Raises ValueError for an unknown, repeated or missing objective."""
    unknown = [name for name in objectives if name not in DIRECTIONS]
    if unknown:
        raise ValueError(f"objectives must be among {', '.join(DIRECTIONS)}, but got {unknown[0]!r}")
    if not objectives or len(set(objectives)) != len(objectives):
        raise ValueError(f"objectives must be named, each one once, but got {list(objectives)}")
    return tuple(name for name in objectives if DIRECTIONS[name] == "minimize")


def losses_from(values: Any, objectives: Sequence[str], *, log_costs: bool = False) -> Floats:
    """The losses of recorded values, shape (n, len(objectives)), columns in the order of `objectives`.

    values: columns (a mapping from name to n numbers, or a DataFrame) or n rows (mappings from name to number).
    log_costs: take log10 of the minimised columns, the scale on which fronts are drawn and volumes are measured.
    Raises ValueError for an unknown objective, one without values, or a value that is no finite number.
    """
    costs = costs_of(objectives)
    columns = [_column(values, name) for name in objectives]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"objectives must have equally many values, but got {[len(column) for column in columns]}")
    losses = np.stack([column if name in costs else -column for name, column in zip(objectives, columns, strict=True)])
    if log_costs:
        rows = [name in costs for name in objectives]
        if np.any(losses[rows] <= 0):
            raise ValueError(f"costs must exceed 0 for their logarithm, but the least is {losses[rows].min():g}")
        losses[rows] = np.log10(losses[rows])
    return np.ascontiguousarray(losses.T)


def _column(values: Any, name: str) -> Floats:
    try:
        raw: Iterable[Any] = values[name] if hasattr(values, "keys") else [row[name] for row in values]
    except KeyError:
        raise ValueError(f"objective {name!r} has no recorded values") from None
    column = np.array([np.nan if value is None else value for value in raw], dtype=np.float64)
    _require_finite(column, f"objective {name!r}")
    return column


def non_dominated(losses: ArrayLike) -> NDArray[np.bool_]:
    """Mask (n,) of the front: rows that no row dominates. Equal rows of the front are all kept."""
    points = _points(losses)
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    import moocore

    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def ranks(losses: ArrayLike) -> NDArray[np.int64]:
    """Non-domination ranks (n,): 0 the front, 1 the front of the rest, and so on (Deb et al. 2002, section III-A)."""
    points = _points(losses)
    if len(points) == 0:
        return np.zeros(0, dtype=np.int64)
    import moocore

    return np.asarray(moocore.pareto_rank(points), dtype=np.int64)


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the points dominate and what dominates `reference` (m,), in the product of the columns' units.

    Points that are not better than the reference in every column contribute nothing; no points, volume 0.
    """
    points = _points(losses)
    limit = _reference(reference, points.shape[1])
    inside = points[np.all(points < limit, axis=1)]
    if len(inside) == 0:
        return 0.0
    import moocore

    return float(moocore.hypervolume(inside, ref=limit))


def contributions(losses: ArrayLike, reference: ArrayLike) -> Floats:
    """What each point (n,) adds to the hypervolume of all others; 0 for one that is dominated or there twice."""
    points = _points(losses)
    limit = _reference(reference, points.shape[1])
    found = np.zeros(len(points))
    inside = np.flatnonzero(np.all(points < limit, axis=1))
    if len(inside):
        import moocore

        found[inside] = moocore.hv_contributions(points[inside], ref=limit)
    return found


def hypervolume_trace(losses: ArrayLike, reference: ArrayLike) -> Floats:
    """The hypervolume (n,) of the first 1, 2, ..., n rows; it never falls."""
    points = _points(losses)
    trace = np.zeros(len(points))
    front = points[:0]
    volume = hypervolume(front, reference)
    for index, point in enumerate(points):
        if not np.any(np.all(front <= point, axis=1)):
            front = np.vstack([front[~np.all(point <= front, axis=1)], point])
            # The sum over another set of boxes may differ by a last digit; a point that adds nothing takes nothing.
            volume = max(volume, hypervolume(front, reference))
        trace[index] = volume
    return trace


def reference_point(losses: ArrayLike) -> Floats:
    """A reference (m,) for `hypervolume` where none is given: worse than every row, in every column.

    The worst of each column plus a tenth of its range (so that the extremes of the front count too); plus a tenth of
    its size, at least 0.1, where all values are equal. Raises ValueError for no points.
    """
    points = _points(losses)
    if len(points) == 0:
        raise ValueError("a reference point needs at least one point, but got none")
    worst = points.max(axis=0)
    spread = worst - points.min(axis=0)
    margin = MARGIN * np.where(spread > 0, spread, np.maximum(np.abs(worst), 1.0))
    reference: Floats = np.maximum(worst + margin, np.nextafter(worst, np.inf))
    return reference


def knee(losses: ArrayLike) -> int:
    """Row of the front's knee: where giving up a little of one column stops buying much of another.

    The front is scaled so that each column runs from 0 (its best) to 1 (its worst); the knee lies farthest below the
    line through the two extremes, (0, 1) and (1, 0): the point of least sum. More than two columns: farthest below
    the plane through the unit points, again the least sum (Das 1999, "On characterizing the knee of the Pareto
    curve"). Pass logarithms of costs, else the large networks decide. Of points equally far (the only two, or a
    straight front) the one with the least first column is taken, then the first row; a lone point is its own knee.
    Raises ValueError for no points.
    """
    points = _points(losses)
    if len(points) == 0:
        raise ValueError("a knee needs at least one point, but got none")
    front = np.flatnonzero(non_dominated(points))
    best = points[front].min(axis=0)
    spread = points[front].max(axis=0) - best
    sums = ((points[front] - best) / np.where(spread > 0, spread, 1.0)).sum(axis=1)
    nearest = front[sums <= sums.min() + 1e-9]
    return int(nearest[np.argmin(points[nearest, 0])])


def _points(losses: ArrayLike) -> Floats:
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"losses must have the shape (points, objectives), but got {points.shape}")
    _require_finite(points, "losses")
    return points


def _reference(reference: ArrayLike, columns: int) -> Floats:
    limit = np.asarray(reference, dtype=np.float64)
    if limit.shape != (columns,):
        raise ValueError(f"the reference must have one number for each of {columns} objectives, but got {limit.shape}")
    _require_finite(limit, "the reference")
    return limit


def _require_finite(values: Floats, name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        where = tuple(bad[0])
        raise ValueError(f"{name} must be finite, but row {where[0]} is {values[where]}")


__all__ = [
    "DIRECTIONS",
    "MARGIN",
    "contributions",
    "costs_of",
    "hypervolume",
    "hypervolume_trace",
    "knee",
    "losses_from",
    "non_dominated",
    "ranks",
    "reference_point",
]
