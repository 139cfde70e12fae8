"""The progress of a search: a live table on a terminal, one plain line for each trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pandas as pd
from rich.console import Group, RenderableType
from rich.live import Live

from nas.arch import GENES
from nas.pareto import costs_of
from nas.search.events import (
    Ended,
    Event,
    Finished,
    FrontTimed,
    GoesOn,
    Interrupted,
    Modelled,
    Proposed,
    Resumed,
    Started,
    Summary,
    Timing,
)
from nas.terminal import console, front_table, shown, table
from nas.units import format_count

LAST = 12
"""Finished trials that the live table keeps in sight."""


class Progress:
    """Draws the events of a search: a live table on a terminal, one plain line for each elsewhere."""

    def __init__(self) -> None:
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if self._live_wanted() else None
        self._started: Started | None = None
        self._done: list[Finished] = []
        self._running: dict[int, Proposed | GoesOn] = {}
        self._begun = time.monotonic()

    def _live_wanted(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """The driver's `on_event`."""
        match event:
            case Timing():
                networks = "1 network" if event.networks == 1 else f"{event.networks} networks"
                self._say(f"timing {networks} {event.what}, side by side")
            case Modelled():
                self._say(f"latency is predicted from {event.model}")
            case FrontTimed():
                self._say(
                    f"measured on the front: {event.networks} on {event.conditions}; half of the predictions are "
                    f"within {100 * event.median_error:.1f} %"
                )
            case Started():
                self._started = event
                self._say(*_opening(event))
            case Resumed() if event.recovered or event.again:
                kept = [*event.recovered, *event.again]
                self._say(f"resuming: trials {', '.join(map(str, kept))} were under way")
            case Proposed() | GoesOn():
                self._running[event.trial] = event
            case Finished():
                self._running.pop(event.trial, None)
                self._done.append(event)
                if self._live is None:
                    self._say(_line(event))
            case Interrupted():
                self._say("stopping after the trials under way; Ctrl-C again abandons them to their checkpoints")
            case Ended() | Resumed():
                pass
        if self._live is not None and self._started is not None and not isinstance(event, Ended):
            self._live.update(self._picture(), refresh=True)

    def end(self, summary: Summary, front: pd.DataFrame, objectives: Sequence[str]) -> None:
        """The last words of a search: its front as a table and what the gate saved."""
        rejected = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in summary.ledger.rejected.items())
        self._console.print(front_table(front, objectives))
        stopped = summary.finished - summary.complete - summary.failed
        share = f"{100 * summary.trained:.0f} % of the steps that all would have taken"
        self._say(
            f"{summary.ended}; {summary.failed} failed, {summary.added} added in {summary.seconds:.0f} s",
            *([f"trained in full: {summary.complete}, stopped early: {stopped}; {share}"] if stopped else []),
            f"never trained: {rejected} (about {summary.ledger.saved_seconds:.0f} s of training saved)",
        )

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        assert self._started is not None
        rows: list[dict[str, Any]] = [_row(event) for event in self._done[-LAST:]]
        running = [
            {"trial": e.trial, "state": "training", "accuracy": None, "seconds": None, **e.cost, **e.summary}
            for e in self._running.values()
        ]
        columns = ["trial", "state", "accuracy", *costs_of(self._started.objectives), *GENES, "seconds"]
        return Group(table("Trials", rows + running, columns), self._footer())

    def _footer(self) -> str:
        assert self._started is not None
        finished = self._done[-1].finished if self._done else self._started.finished
        accuracies = [event.accuracy for event in self._done if event.accuracy is not None]
        best = f", best accuracy of this call {shown('accuracy', max(accuracies))}" if accuracies else ""
        left = self._started.trials - finished
        pace = (time.monotonic() - self._begun) / len(self._done) if self._done else None
        remaining = f", about {left * pace / 60:.1f} min left" if pace is not None and left else ""
        return f"{finished} of {self._started.trials} trials{best}{remaining}"


def _opening(event: Started) -> tuple[str, ...]:
    caps = ", ".join(f"{name} <= {format_count(cap)}" for name, cap in event.caps.items()) or "no caps"
    done = f", {event.finished} of them done" if event.finished else ""
    return (
        f"space {event.space}: {event.networks:,} networks, {caps}; objectives {', '.join(event.objectives)}",
        f"{event.trials} trials of {_rungs(event.budgets)}, by {event.sampler}{done} -> {event.folder}",
        f"trainings: {event.workers} at a time, in {event.precision}, on {event.device}",
        *event.advice,
    )


def _rungs(budgets: Sequence[Mapping[str, int]]) -> str:
    """As in "1, 3 or 9 epochs"."""
    *lower, full = [number for budget in budgets for number in budget.values()]
    (unit,) = budgets[-1]
    return f"{', '.join(map(str, lower))} or {full} {unit}" if lower else f"{full} {unit} each"


def _row(event: Finished) -> dict[str, Any]:
    plain = {"trial": event.trial, "state": event.state, "accuracy": event.accuracy, "seconds": event.seconds}
    return {**plain, **event.cost, **event.summary}


def _line(event: Finished) -> str:
    ((unit, length),) = event.budget.items()
    outcomes = {
        "complete": shown("accuracy", event.accuracy),
        "stopped": f"{shown('accuracy', event.accuracy)} after {length} {unit}",
        "failed": f"failed: {event.reason}",
    }
    genes = " ".join(f"{name} {event.summary[name]}" for name in GENES)
    costs = ", ".join(
        f"{shown(name, event.cost[name])} {name}" for name in ("macs", "params", "latency") if name in event.cost
    )
    return (
        f"[{event.finished}/{event.trials}] trial {event.trial}: {outcomes[event.state]}, {costs}, {genes}, "
        f"{event.seconds:.1f} s"
    )
