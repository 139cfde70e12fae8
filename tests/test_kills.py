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
from optuna.storages import RDBStorage
from scored_search import by_rung, search, settings, study_of, trials_of

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
    "the ledger is written": (Run, "write_ledger", 1),
}
"""What had just been done when the process died -> the method that did it, and at which of its calls."""
RUNG_MOMENTS: dict[str, tuple[type, str, int]] = {
    "five trials have waited": (Store, "wait", 5),
    "a trial goes on": (Store, "go_on", 1),
    "its spec is written": (Run, "write_spec", 1),
    "its result is written": (InlineExecutor, "wait", 1),
    "a trial waits, but Optuna does not know": (RDBStorage, "set_trial_user_attr", 1),
    "a trial goes on, but Optuna does not know": (RDBStorage, "set_trial_user_attr", 1),
    "the ledger is written": (Run, "write_ledger", 1),
}
SEARCHES: dict[str, tuple[dict[str, Any], dict[str, tuple[type, str, int]]]] = {
    "tpe, in full": ({"sampler": "tpe"}, MOMENTS),
    "ehvi, rungs": ({"sampler": "ehvi", "halving": True, "steps": 320}, RUNG_MOMENTS),
}
"""Name -> settings, and the moments at which it is killed."""


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


def scored(out: Path, name: str, moment: str) -> None:
    changes, moments = SEARCHES[name]
    run_and_die(*moments[moment], run=lambda: search(out, by_rung, trials=TRIALS, **changes))


def slowly(out: Path, name: str) -> None:
    def score(spec: Spec) -> float:
        time.sleep(0.5)  # the kills come long before the end, however fast the machine is
        return by_rung(spec)

    search(out, score, trials=TRIALS, **SEARCHES[name][0])


def real(out: Path) -> SearchConfig:
    return settings(out, trials=4, steps=72, halving=True, train_images=100)


def trained(out: Path, submitted: int) -> None:
    run_and_die(InlineExecutor, "submit", submitted, run=lambda: run_search(real(out)))


def record_of(out: Path) -> tuple[Any, Any, Any]:
    """What must not depend on how often a search was killed: trials, study and ledger."""
    trials = trials_of(out).drop(columns=["seconds", "images_per_s"])
    study = [(trial.state.name, trial.values, trial.params) for trial in study_of(out).trials]
    return trials.to_csv(), study, read_json(out / "s" / "ledger.json")


@pytest.fixture(scope="module", params=SEARCHES)
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("uninterrupted")
    search(out, by_rung, trials=TRIALS, **SEARCHES[request.param][0])
    return request.param, out


@posix
def test_a_search_killed_after_each_of_its_steps_ends_as_one_never_killed(
    tmp_path: Path, uninterrupted: tuple[str, Path]
) -> None:
    name, never = uninterrupted
    changes, moments = SEARCHES[name]
    for moment in moments:
        killed(scored, tmp_path, name, moment)
    assert 0 < search(tmp_path, by_rung, trials=TRIALS, **changes).added < TRIALS
    assert record_of(tmp_path) == record_of(never)


@posix
def test_a_search_killed_at_any_time_ends_as_one_never_killed(tmp_path: Path, uninterrupted: tuple[str, Path]) -> None:
    name, never = uninterrupted
    for after in (0.9, 1.2):
        killed(slowly, tmp_path, name, after=after)
    search(tmp_path, by_rung, trials=TRIALS, **SEARCHES[name][0])
    assert record_of(tmp_path) == record_of(never)


@posix
def test_a_result_that_was_not_told_is_recovered_and_not_trained_again(tmp_path: Path) -> None:
    killed(scored, tmp_path, "tpe, in full", "its result is written")
    events: list[Event] = []

    def score(_: Spec) -> float:
        raise AssertionError("nothing is left to train")

    summary = search(tmp_path, score, events.append, sampler="tpe", trials=1)
    assert Resumed(recovered=(0,), again=()) in events
    assert (summary.added, summary.failed) == (1, 0)


@posix
def test_real_trainings_killed_and_resumed_give_the_same_accuracies(tmp_path: Path) -> None:
    for submitted in (2, 4):  # the first that goes on, and the next, before they are trained
        killed(trained, tmp_path / "killed", submitted)
    assert run_search(real(tmp_path / "killed")).complete > 0
    run_search(real(tmp_path / "never"))
    resumed, never = trials_of(tmp_path / "killed"), trials_of(tmp_path / "never")
    columns = ["key", "state", "accuracy", "seed", "epochs"]
    pd.testing.assert_frame_equal(resumed[columns], never[columns])
    assert set(never["state"]) == {"complete"}  # few enough to be the audit of the rung
