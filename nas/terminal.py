"""What people see on the terminal: tables of networks and of costs, and the progress of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from nas.units import format_count

COUNTS = ("macs", "params", "activations", "fvcore total")


def shown(name: str, value: Any) -> str:
    """A recorded value as people read it: accuracy in percent, counts with units, seconds with one decimal."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if name == "accuracy":
        return f"{100 * value:.2f} %"
    if name in COUNTS:
        return format_count(int(value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    """One line per row; numbers to the right."""
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name in columns:
        numeric = any(isinstance(row[name], (int, float)) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(shown(name, row[name]) for name in columns))
    return drawn


def front_table(front: pd.DataFrame, objectives: Sequence[str]) -> Table:
    costs = [name for name in objectives if name != "accuracy"]
    columns = ["trial", "accuracy", *costs, "family", "depth", "width", "cardinality", "mixer", "gate"]
    return table("Pareto front", front.to_dict("records"), columns)


def console() -> Console:
    """Tables keep their width in a log, so that no column is cut where nobody can widen the window."""
    found = Console()
    return found if found.is_terminal else Console(width=160)
