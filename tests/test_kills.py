"""Searches in processes that are really killed: the same command ends with the record of one never killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from killed import killed, posix
from scored_search import accuracy, search, settings, study_of, trials_of

from nas.executors import Spec
from nas.executors.inline import InlineExecutor
from nas.record import Run, read_json
from nas.search import Event, Resumed, SearchConfig, run_search
from nas.search.storage import Store

TRIALS = 14
"""Past the ten random trials with which TPE begins."""
MOMENTS: dict[str, tuple[type, str, int]] = {
    "run.json is written": (Run, "write_run", 1),
    "ten values are told": (Store, "complete", 10),
    "a trial is in the study": (Store, "add", 1),
    "its spec is written": (Run, "write_spec", 1),
    "its result is written": (InlineExecutor, "wait", 1),
    "the result found is told": (Store, "complete", 1),
    "the ledger is written": (Run, "write_ledger", 2),
}
"""What had just been done when the process died -> the method that did it, and at which of its calls."""


def run_and_die(owner: type, method: str, count: int, run: Callable[[], object]) -> None:
    """Kill this process, as the system would, after `count` calls of a method."""
    original = getattr(owner, method)
    calls = 0

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        result = original(*arguments, **named)
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, deadly)
    run()


def scored(out: Path, moment: str) -> None:
    run_and_die(*MOMENTS[moment], run=lambda: search(out, sampler="tpe", trials=TRIALS))


def slowly(out: Path) -> None:
    def score(spec: Spec) -> float:
        time.sleep(0.5)  # the kills come long before the end, however fast the machine is
        return accuracy(spec)

    search(out, score, sampler="tpe", trials=TRIALS)


def real(out: Path) -> SearchConfig:
    return settings(out, trials=3, epochs=1, train_images=100)


def trained(out: Path) -> None:
    run_and_die(InlineExecutor, "submit", 2, run=lambda: run_search(real(out)))


def record_of(out: Path) -> tuple[Any, Any, Any]:
    """What must not depend on how often a search was killed: trials, study and ledger."""
    trials = trials_of(out).drop(columns=["seconds", "images_per_s"])
    study = [(trial.state.name, trial.values, trial.params) for trial in study_of(out).trials]
    return trials.to_csv(), study, read_json(out / "s" / "ledger.json")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    search(out, sampler="tpe", trials=TRIALS)
    return out


@posix
def test_a_search_killed_after_each_of_its_steps_ends_as_one_never_killed(tmp_path: Path, uninterrupted: Path) -> None:
    for moment in MOMENTS:
        killed(scored, tmp_path, moment)
    assert 0 < search(tmp_path, sampler="tpe", trials=TRIALS).added < TRIALS
    assert record_of(tmp_path) == record_of(uninterrupted)


@posix
def test_a_search_killed_at_any_time_ends_as_one_never_killed(tmp_path: Path, uninterrupted: Path) -> None:
    for after in (0.9, 1.2):
        killed(slowly, tmp_path, after=after)
    search(tmp_path, sampler="tpe", trials=TRIALS)
    assert record_of(tmp_path) == record_of(uninterrupted)


@posix
def test_a_result_that_was_not_told_is_recovered_and_not_trained_again(tmp_path: Path) -> None:
    killed(scored, tmp_path, "its result is written")
    events: list[Event] = []

    def score(_: Spec) -> float:
        raise AssertionError("nothing is left to train")

    summary = search(tmp_path, score, events.append, sampler="tpe", trials=1)
    assert Resumed(recovered=(0,), again=()) in events
    assert (summary.added, summary.failed) == (1, 0)


@posix
def test_real_trainings_killed_and_resumed_give_the_same_accuracies(tmp_path: Path) -> None:
    killed(trained, tmp_path / "killed")
    assert run_search(real(tmp_path / "killed")).added == 2
    run_search(real(tmp_path / "never"))
    resumed, never = trials_of(tmp_path / "killed"), trials_of(tmp_path / "never")
    columns = ["key", "state", "accuracy", "seed", "epochs"]
    pd.testing.assert_frame_equal(resumed[columns], never[columns])
    assert list(never["state"]) == ["complete"] * 3
