"""Tables on the terminal: networks, fronts, costs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nas.arch import GENES
from nas.cost.formula import Cost, cost
from nas.cost.landscape import GeneEffect, Survey
from nas.pareto import COSTS, costs_of
from nas.units import format_count, format_seconds

if TYPE_CHECKING:
    from nas.cost.latency import Latency
    from nas.evidence import Correlation


def console() -> Console:
    """Tables keep their width in a log, so that no column is cut where nobody can widen the window."""
    found = Console()
    return found if found.is_terminal else Console(width=160)


class Counter:
    """Progress of counted work: a bar on a terminal, a plain line for each tenth of it elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begun = time.monotonic()
        screen = console()
        self._bar = None
        if screen.is_terminal and not screen.is_dumb_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=screen, transient=True)
            self._task = self._bar.add_task(what, total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif 10 * done // total > 10 * (done - 1) // total:
            left = (time.monotonic() - self._begun) * (total - done) / done
            print(f"{self._what}: {done:,} of {total:,}, about {format_seconds(left)} left", flush=True)


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
    if name == "latency":
        return f"{value:.3f} ms"
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


def front_table(
    front: pd.DataFrame,
    objectives: Sequence[str],
    other_seeds: Mapping[int, Sequence[float]] | None = None,
    *,
    what: str = "Pareto front",
) -> Table:
    """other_seeds: trial -> accuracies of the same network trained with other seeds. what: the title's first words."""
    title = f"{what}: {len(front)} network{'s' if len(front) != 1 else ''}"
    rows = front.rename(columns={"latency_ms": "predicted_ms"}).to_dict("records")
    for row in rows:
        others = (other_seeds or {}).get(row["trial"], ())
        row["other seeds"] = ", ".join(f"{100 * accuracy:.2f}" for accuracy in others) or "-"
    costs = [column for name in costs_of(objectives) for column in _FRONT_COLUMNS.get(name, (name,))]
    given = ["reference"] if (front["reference"] != "").any() else []
    again = ["other seeds"] if other_seeds else []
    return table(title, rows, ["trial", "accuracy", *again, *costs, "family", *GENES, *given])


_FRONT_COLUMNS = {"latency": ("predicted_ms", "measured_ms")}
"""Objectives that are shown otherwise than by their own column."""


QUANTILES = {"smallest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "largest": 1.0}
BINS, BAR = 16, 40
"""Lines of a histogram on the terminal, and characters of its longest bar."""


def cost_quantiles(survey: Survey, caps: Mapping[str, int]) -> Table:
    """How each cost is spread over the networks, and the share within the caps."""
    what = (
        f"all {survey.size:,} networks" if survey.exhaustive else f"{len(survey.costs):,} networks, all equally likely"
    )
    rows = []
    for name in COSTS:
        values = np.quantile(survey[name], list(QUANTILES.values()), method="inverted_cdf")
        # The ends are exact, also where the rest is a sample.
        values[[0, -1]] = survey.cheapest[name].value, survey.dearest[name].value
        counts = {label: format_count(int(value)) for label, value in zip(QUANTILES, values, strict=True)}
        cap = caps.get(name)
        share = f"{100 * survey.within({name: cap}):.1f} %" if cap is not None else "-"
        rows.append({"cost": name, **counts, "cap": format_count(cap) if cap else "none", "within the cap": share})
    return table(f"Costs of {what}", rows, list(rows[0]))


def cost_histogram(survey: Survey, name: str, caps: Mapping[str, int]) -> Table:
    """Bars on a log scale; the line that holds the cap is marked."""
    edges, shares = survey.histogram(name, BINS)
    cap = caps.get(name)
    rows = []
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        bar = "█" * round(BAR * share / max(shares)) or ("▏" if share else "")
        holds = cap is not None and low <= cap < high
        span = f"{format_count(int(low))} to {format_count(int(high))}"
        rows.append({name: span, "networks": f"{share:.1f} %", "": f"{bar}{' <- cap' if holds else ''}"})
    return table(f"Spread of {name}", rows, list(rows[0]))


def extremes(survey: Survey, input_size: int) -> Table:
    """The cheapest and the dearest network by each cost, exact."""
    rows = []
    for label, found in (("cheapest", survey.cheapest), ("dearest", survey.dearest)):
        for name in COSTS:
            arch = found[name].arch
            priced = cost(arch, input_size)
            values = {metric: getattr(priced, metric) for metric in COSTS}
            rows.append({"network": f"{label} by {name}", **values, "family": arch.family, **arch.summary()})
    return table("Extremes", rows, list(rows[0]))


def gene_effects(effects: Sequence[GeneEffect], name: str) -> Table:
    columns = ["gene", "of the spread", "options"]
    rows = [
        {
            "gene": effect.gene,
            "of the spread": f"{100 * effect.share:.1f} %",
            "options": ", ".join(f"{option}: {format_count(round(mean))}" for option, mean in effect.means.items()),
        }
        for effect in effects
    ]
    return table(f"Genes by what they do to log {name}; geometric mean of {name} for each option", rows, columns)


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
