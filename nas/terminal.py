"""Tables on the terminal: networks, fronts, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from nas.arch import GENES
from nas.cost.formula import Cost
from nas.pareto import COSTS, costs_of
from nas.units import format_count


def console() -> Console:
    """Tables keep their width in a log, so that no column is cut where nobody can widen the window."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def shown(name: str, value: Any) -> str:
    """A recorded value as people read it: accuracy in percent, counts with units, seconds with one decimal."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, str):
        return value
    if name == "accuracy":
        return f"{100 * value:.2f} %"
    if name in COSTS:
        return format_count(int(value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(title: str, rows: Sequence[Mapping[Any, Any]], columns: Sequence[str], *, exact: bool = False) -> Table:
    """One line per row; numbers to the right.

    With `exact` they are shown to the last digit: a narrow terminal folds them, where other tables are cut.
    """
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in columns:
        numeric = any(isinstance(row[name], (int, float)) for row in rows)
        wraps = exact or name == "options"
        drawn.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for row in rows:
        drawn.add_row(*(_exact(row[name]) if exact else shown(name, row[name]) for name in columns))
    return drawn


def _exact(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, (int, float)) else str(value)


def cost_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    return table(title, rows, list(rows[0]), exact=True)


def stages_table(title: str, parts: Sequence[tuple[str, Cost]]) -> Table:
    """What each part of a network costs, its share of the multiply-adds, and the whole."""
    total = sum(cost.macs for _, cost in parts)
    rows = [{"part": name, **asdict(cost), "% of macs": round(100 * cost.macs / total, 1)} for name, cost in parts]
    whole = {name: sum(getattr(cost, name) for _, cost in parts) for name in ("params", "macs", "activations")}
    return cost_table(title, [*rows, {"part": "whole", **whole, "% of macs": 100.0}])


def front_table(front: pd.DataFrame, objectives: Sequence[str]) -> Table:
    title = f"Pareto front: {len(front)} network{'s' if len(front) != 1 else ''}"
    return table(title, front.to_dict("records"), ["trial", "accuracy", *costs_of(objectives), "family", *GENES])


def cost_range(costs: Sequence[Cost], caps: Mapping[str, int], what: str) -> Table:
    """Smallest, middle and largest of each cost, and the share within the caps."""
    rows = []
    for name in COSTS:
        values = sorted(getattr(cost, name) for cost in costs)
        cap = caps.get(name)
        within = sum(value <= cap for value in values) / len(values) if cap is not None else 1.0
        spread = {"smallest": values[0], "median": values[len(values) // 2], "largest": values[-1]}
        counts = {label: format_count(value) for label, value in spread.items()}
        share = f"{100 * within:.1f} %"
        rows.append({"cost": name, **counts, "cap": format_count(cap) if cap else "none", "within the cap": share})
    return table(f"Costs of {what}", rows, list(rows[0]))
