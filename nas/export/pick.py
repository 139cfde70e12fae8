"""Which networks of a finished search: one trial, the knee of the front, or the most accurate ones under caps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from nas import pareto
from nas.record import Run, by_objective
from nas.units import format_count

NOTHING = "no finished network to pick from: run the search first"


def objectives_of(run: Run) -> tuple[str, ...]:
    """The objectives that a run was searched with. Raises ValueError if there is no such run."""
    return tuple(run.read_run()["config"]["objectives"])


def under(rows: pd.DataFrame, caps: Mapping[str, int]) -> pd.DataFrame:
    """The rows within the caps, keys being columns of costs. Raises ValueError naming the smallest when none is."""
    for metric, cap in caps.items():
        within = rows[rows[metric] <= cap]
        if within.empty and not rows.empty:
            smallest = format_count(int(rows[metric].min()))
            raise ValueError(
                f"max_{metric} is {format_count(cap)}, but the smallest network here has {smallest} {metric}"
            )
        rows = within
    return rows


def pick(rows: pd.DataFrame, objectives: Sequence[str], *, knee: bool = False) -> int:
    """The trial at the knee of the rows (costs on log scale) or, by default, the most accurate, the cheapest of equals.

    Raises ValueError when there are no rows.
    """
    if rows.empty:
        raise ValueError(NOTHING)
    rows = by_objective(rows)
    if knee:
        return int(rows["trial"].iloc[pareto.knee(pareto.losses_from(rows, objectives, log_costs=True))])
    return most_accurate(rows, objectives, 1)[0]


def most_accurate(rows: pd.DataFrame, objectives: Sequence[str], count: int) -> list[int]:
    """The trials of the `count` most accurate rows, or of all if there are fewer; cheaper ones first among equals.

    Raises ValueError when there are no rows.
    """
    if rows.empty:
        raise ValueError(NOTHING)
    order = ["accuracy", *pareto.costs_of(objectives), "trial"]
    ranked = by_objective(rows).sort_values(order, ascending=[name != "accuracy" for name in order])
    return [int(trial) for trial in ranked["trial"].head(count)]


def require_complete(trials: pd.DataFrame, number: int) -> int:
    """`number`, if that trial finished. Raises ValueError otherwise."""
    states = dict(zip(trials["trial"], trials["state"], strict=True))
    if states.get(number) != "complete":
        state = str(states.get(number, "unknown"))
        state += " before its full budget, so that its accuracy is not that of the others" * (state == "stopped")
        finished = ", ".join(str(trial) for trial, state in states.items() if state == "complete")
        raise ValueError(f"trial {number} is {state}: pick a complete one of {finished or 'none'}")
    return number
