"""`nas front`, `nas report` and `nas repeat`: what a search found, and how much of it is luck."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas import terminal
from nas.cli.options import Device, Knee, MaxMacs, MaxParams, StudyFolder, TrialTimeout, caps_of

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
    screen.print(terminal.front_table(rows, objectives, found.other_seeds()))
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


def repeat(
    run: StudyFolder,
    seeds: Annotated[int, typer.Option(help="Other seeds for each network, those of earlier calls included.")] = 2,
    trials: Annotated[str | None, typer.Option(help="Complete trials, as in 3,7,12. [the front]")] = None,
    workers: Annotated[int, typer.Option(help="Trainings side by side.")] = 1,
    device: Device = "auto",
    trial_timeout: TrialTimeout = None,
) -> None:
    """Train the networks of a front again with other seeds, and show how much of their accuracy is luck.

    \b
    nas repeat results/digits
    nas repeat results/digits --seeds 5 --workers 4
    nas repeat results/digits --trials 3,7
    """
    from nas.export.pick import objectives_of
    from nas.machine import keep_freed_memory
    from nas.record import front_of
    from nas.repeat import repeat as train_again
    from nas.report import write_report
    from nas.report.recorded import noise_of

    found = run_at(run)
    objectives = objectives_of(found)
    chosen = _numbers(trials)
    keep_freed_memory()
    with terminal.Counter("trained again") as counter:
        done = train_again(
            found,
            seeds=seeds,
            trials=chosen,
            workers=workers,
            device=device,
            trial_timeout_s=trial_timeout,
            on_done=counter.show,
        )
    rows, others = found.trials(), found.other_seeds()
    if chosen is None:
        what, shown = "Pareto front", front_of(rows, objectives)
    else:
        what, shown = "Trained again", rows[rows["trial"].isin(chosen)]
    screen = terminal.console()
    screen.print(terminal.front_table(shown, objectives, others, what=what))
    noise = noise_of(shown, others)
    if noise is not None:
        screen.print(f"{noise}", highlight=False, soft_wrap=True)
    print(f"{done.added} of {done.wanted} trainings added by this call")
    print(f"report: {write_report(found)}", flush=True)
    if done.interrupted:
        print("interrupted: the same command goes on")
        raise typer.Exit(130)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f"--trials must be numbers joined by commas, as in 3,7,12, but got {text!r}")
    return [int(word) for word in words]


def run_at(folder: Path) -> Run:
    """The run in a folder. Raises ValueError when there is none."""
    from nas.record import Run

    full = Path(os.path.normpath(folder.absolute()))
    run = Run(full.parent, full.name)
    if not run.exists():
        raise ValueError(f"{folder} holds no search: give a folder with a run.json, as in results/digits")
    return run
