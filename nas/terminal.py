"""Tables on the terminal: networks, fronts, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from nas.arch import GENES
from nas.cost.formula import Cost
from nas.pareto import COSTS, costs_of
from nas.units import format_count

if TYPE_CHECKING:
    from nas.cost.latency import Latency
    from nas.evidence import Correlation


def console() -> Console:
    """Tables keep their width in a log, so that no column is cut where nobody can widen the window."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


def shown(name: str, value: Any) -> str:
    """A value as people read it: accuracy in percent, counts with units, ms to the microsecond, else one decimal."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, str):
        return value
    if name == "accuracy":
        return f"{100 * value:.2f} %"
    if name in COSTS:
        return format_count(int(value))
    if name.endswith("_ms"):
        return f"{value:.3f}"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(title: str, rows: Sequence[Mapping[Any, Any]], columns: Sequence[str]) -> Table:
    """One line per row; numbers to the right."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in columns:
        numeric = any(isinstance(row[name], (int, float)) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", no_wrap=name not in ("options",))
    for row in rows:
        drawn.add_row(*(shown(name, row[name]) for name in columns))
    return drawn


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


def latency_table(costs: Sequence[Cost], latencies: Sequence[Latency]) -> Table:
    rows = [
        {
            "network": latency.name,
            **{name: getattr(cost, name) for name in COSTS},
            "latency_ms": latency.median_ms,
            "low_ms": latency.low_ms,
            "high_ms": latency.high_ms,
            "images/s": latency.images_per_s,
        }
        for cost, latency in zip(costs, latencies, strict=True)
    ]
    return table("Latency", rows, list(rows[0]))


def latency_terms(latency: Latency) -> str:
    """How these latencies, which differ in network only, were measured."""
    return (
        f"{latency.device}, batch {latency.batch_size}, {latency.precision}, {latency.threads} CPU "
        f"thread{'s' if latency.threads != 1 else ''}, torch {metadata.version('torch')}; median of "
        f"{latency.samples} interleaved samples, {100 * latency.coverage:.1f} % interval by order statistics"
    )


def correlation_table(correlations: Mapping[str, tuple[Correlation, Correlation]]) -> Table:
    n = next(iter(correlations.values()))[0].n if correlations else 0
    rows = [{"cost": name, "Spearman": str(rho), "Kendall": str(tau)} for name, (rho, tau) in correlations.items()]
    return table(
        f"Rank correlation with latency, {n} networks, 95 % interval",
        rows,
        ["cost", "Spearman", "Kendall"],
    )
