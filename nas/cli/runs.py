"""`nas front` and `nas report`: what a search found."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nas import terminal
from nas.cli.options import Knee, MaxMacs, MaxParams, StudyFolder, caps_of

if TYPE_CHECKING:
    from nas.record import Run


def front(
    run: StudyFolder,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    knee: Knee = False,
) -> None:
    """Print the Pareto front of a search, or pick from it.

    \b
    nas front results/digits
    nas front results/digits --max-macs 500k
    nas front results/digits --knee
    """
    from nas.cost.latency_model import LatencyModel
    from nas.export.pick import objectives_of, pick, under

    found = run_at(run)
    objectives = objectives_of(found)
    rows = under(found.front(objectives), caps_of(max_macs, max_params))
    if knee:
        rows = rows[rows["trial"] == pick(rows, objectives, knee=True)]
    screen = terminal.console()
    screen.print(terminal.front_table(rows, objectives))
    model = LatencyModel.recorded(found)
    if model is not None:
        screen.print(f"latency is predicted from {model}", highlight=False, soft_wrap=True)


def report(run: StudyFolder) -> None:
    """Write report.html again from the recorded trials.

    \b
    nas report results/digits
    """
    from nas.report import write_report

    print(write_report(run_at(run)))


def run_at(folder: Path) -> Run:
    """The run in a folder. Raises ValueError when there is none."""
    from nas.record import Run

    full = Path(os.path.normpath(folder.absolute()))
    run = Run(full.parent, full.name)
    if not run.exists():
        raise ValueError(f"{folder} holds no search: give a folder with a run.json, as in results/digits")
    return run
