"""Workers on this machine are real processes: they die, hang and lack memory, and one trial at most is hurt."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from killed import killed, posix
from local_workers import accuracy, dawdle, obey, pids, score, stay
from scored_search import settings, trials_of

from nas.executors import Result
from nas.executors.local import LocalExecutor
from nas.executors.places import GPU_MEMORY, Place, places, settle
from nas.machine import usable_cores
from nas.record import Run, read_json
from nas.search import Event, Finished, Proposed, run_search

LIMIT_S = 1.5
"""Time limit of the trials that hang; no other one takes nearly as long."""
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in Linux's /proc")
PATIENCE_S = 60.0
"""After which a test that waits for other processes has failed."""

SPEC = {"key": "", "rung": 0, "full": True}


def local(workers: int = 2, **changes: Any) -> LocalExecutor:
    return LocalExecutor(obey, workers=workers, device="cpu", settle=stay, **changes)


def submit(executor: LocalExecutor, folder: Path, *trials: Sequence[str]) -> list[Path]:
    """Trials that do these deeds, one for each attempt; returns their folders."""
    folders = [folder / str(number) for number in range(len(trials))]
    for trial in folders:
        trial.mkdir(parents=True)
    for number, deeds in enumerate(trials):
        executor.submit({**SPEC, "trial": number, "key": f"key {number}", "deeds": deeds}, folders[number])
    return folders


def collect(executor: LocalExecutor, count: int) -> dict[int, Result]:
    """The next results by their trials."""
    results: dict[int, Result] = {}
    while len(results) < count:
        results |= {result["trial"]: result for result in executor.wait()}
    return results


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """A zombie does not run: who has taken over an orphan may be slow to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = local()
    yield made
    made.close()


# ---- places to work ----------------------------------------------------------------------------------------------


def test_trials_run_side_by_side_in_processes_that_stay(executor: LocalExecutor, tmp_path: Path) -> None:
    folders: list[Path] = []
    for round_ in ("first", "second"):
        folders += submit(executor, tmp_path / round_, ["meet"], ["meet"])
        results = collect(executor, 2)
        assert [results[number]["status"] for number in (0, 1)] == ["ok", "ok"]
    first, second, third, fourth = (pids(folder) for folder in folders)
    assert first != second
    assert sorted(third + fourth) == sorted(first + second)
    assert os.getpid() not in first + second


@pytest.mark.parametrize("workers", [1, 2, 10_000])
def test_cores_are_shared_out_and_every_worker_has_one(workers: int) -> None:
    shared = places(workers, "cpu")
    assert shared == [Place(threads=max(1, usable_cores() // workers))] * workers


@pytest.mark.parametrize(
    ("device", "workers", "devices", "shares"),
    [
        ("cuda", 2, ["cuda:0", "cuda:1"], [1, 1]),
        ("auto", 5, ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"], [3, 2, 3, 2, 3]),
        ("cuda:1", 2, ["cuda:1", "cuda:1"], [2, 2]),
        ("cpu", 2, [None, None], None),
    ],
)
def test_workers_are_spread_over_the_gpus_and_share_their_memory(
    device: str, workers: int, devices: list[str | None], shares: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = places(workers, device)
    assert [place.device for place in found] == devices
    assert [place.gpu_memory for place in found] == [
        GPU_MEMORY / share if shares else 1.0 for share in shares or [1, 1]
    ]


def test_a_worker_keeps_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    before = torch.get_num_threads()
    try:
        settle(Place(threads=2, device="cuda:1", gpu_memory=0.475))
        assert torch.get_num_threads() == 2
        settle(Place(threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert limits == [(0.475, torch.device("cuda:1"))]


def test_no_workers_are_too_few() -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, but got 0"):
        local(workers=0)


# ---- what befalls a trial ----------------------------------------------------------------------------------------

FATES: dict[str, tuple[tuple[str, ...], str | None, int]] = {
    "always hung": (("spin",), "took longer than 1.5 s in 3 attempts", 3),
    "nothing": (("ok",), None, 1),
    "a Ctrl-C is not for workers": (("ctrl-c",), None, 1),
    "an exception is final": (("error", "ok"), "RuntimeError: no luck", 1),
    "killed once": (("kill", "ok"), None, 2),
    "always killed": (("kill",), "the worker died (SIGKILL) in 3 attempts", 3),
    "a crash in C": (("segfault", "ok"), None, 2),
    "hung once": (("hang", "ok"), None, 2),
    "never any memory": (("memory",), "out of memory", 3),
    "memory for the second": (("memory", "ok"), None, 2),
    "one after the other": (
        ("memory", "kill", "exit"),
        "out of memory, then the worker died (SIGKILL), then the worker died (exit code 7)",
        3,
    ),
}
"""What befell the trial -> what its attempts did, the reason of its result (None: ok), and how many there were."""


@posix
def test_a_trial_is_tried_again_on_fresh_workers_and_its_fate_is_recorded(tmp_path: Path) -> None:
    """All fates side by side in three workers."""
    left = [(number, tmp_path / str(number), deeds) for number, (deeds, _, _) in enumerate(FATES.values())]
    results: dict[int, Result] = {}
    with contextlib.closing(local(workers=3, trial_timeout_s=LIMIT_S)) as executor:
        while len(results) < len(FATES):
            while left and len(FATES) - len(left) - len(results) < executor.capacity:
                number, folder, deeds = left.pop(0)
                folder.mkdir()
                executor.submit({**SPEC, "trial": number, "deeds": deeds}, folder)
            results |= {result["trial"]: result for result in executor.wait()}
    for number, (fate, (_, reason, attempts)) in enumerate(FATES.items()):
        result, folder = results[number], tmp_path / str(number)
        assert (result["reason"], result["attempts"]) == (reason, attempts), fate
        assert result["status"] == ("ok" if reason is None else "error")
        assert read_json(folder / "result.json") == result
        assert len(set(pids(folder))) == len(pids(folder)) == attempts, fate


@posix
def test_a_death_leaves_the_other_worker_at_its_trial(executor: LocalExecutor, tmp_path: Path) -> None:
    dying, other = submit(executor, tmp_path, ["meet and die", "ok"], ["outlive"])
    results = collect(executor, 2)
    assert (results[0]["attempts"], results[1]["attempts"]) == (2, 1)
    assert (len(pids(dying)), len(pids(other))) == (2, 1)


@linux
def test_the_death_of_an_idle_worker_costs_no_attempt(executor: LocalExecutor, tmp_path: Path) -> None:
    for round_ in ("first", "second"):
        (folder,) = submit(executor, tmp_path / round_, ["ok"])
        assert collect(executor, 1)[0]["attempts"] == 1
        (pid,) = pids(folder)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_running(pid))  # noqa: B023 -- called at once


@linux
def test_a_worker_that_dies_before_it_has_begun_a_trial_costs_no_attempt(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    """It looks alive for a moment after its death: here, it is only stopped when the trial is handed over."""
    (folder,) = submit(executor, tmp_path / "first", ["ok"])
    collect(executor, 1)
    (pid,) = pids(folder)
    os.kill(pid, signal.SIGSTOP)
    (folder,) = submit(executor, tmp_path / "second", ["ok"])
    os.kill(pid, signal.SIGKILL)
    assert collect(executor, 1)[0]["attempts"] == 1
    assert pids(folder) != [pid]


def test_the_start_of_a_worker_is_not_part_of_the_time_limit(tmp_path: Path) -> None:
    executor = LocalExecutor(obey, workers=1, device="cpu", trial_timeout_s=1.0, settle=dawdle)
    submit(executor, tmp_path, ["ok"])
    assert collect(executor, 1)[0]["attempts"] == 1
    executor.close()


# ---- no process is left ------------------------------------------------------------------------------------------


def at_work(executor: LocalExecutor, folder: Path) -> list[int]:
    """The pids of two workers whose trials never end."""
    hanging, spinning = submit(executor, folder, ["hang"], ["spin"])
    until(lambda: bool(pids(hanging) and pids(spinning)))
    return pids(hanging) + pids(spinning)


@linux
def test_closing_ends_every_process_and_can_be_repeated(tmp_path: Path) -> None:
    executor = local()
    workers = at_work(executor, tmp_path)
    assert all(is_running(pid) for pid in workers)
    executor.close()
    executor.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert not {child.pid for child in multiprocessing.active_children()} & set(workers)


def work_and_die(folder: Path) -> None:
    at_work(local(), folder)
    os.kill(os.getpid(), signal.SIGKILL)


@linux
def test_workers_die_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    killed(work_and_die, tmp_path)
    workers = pids(tmp_path / "0") + pids(tmp_path / "1")
    assert len(workers) == 2
    until(lambda: not any(is_running(pid) for pid in workers))


# ---- searches ----------------------------------------------------------------------------------------------------


def scoring() -> contextlib.closing[LocalExecutor]:
    return contextlib.closing(LocalExecutor(score, workers=2, device="cpu", settle=stay))


def scored(out: Path, on_event: Callable[[Event], None] = lambda _: None) -> None:
    with scoring() as executor:
        run_search(settings(out, sampler="tpe", trials=16), executor=executor, on_event=on_event)


def scored_and_killed(out: Path, after: int) -> None:
    def die(event: Event) -> None:
        if isinstance(event, Finished) and event.finished == after:
            os.kill(os.getpid(), signal.SIGKILL)

    scored(out, die)


@posix
def test_a_killed_search_loses_nothing_that_was_finished_and_trains_no_network_twice(tmp_path: Path) -> None:
    killed(scored_and_killed, tmp_path, 12)  # past the ten random trials with which TPE begins
    folders = [folder for folder in (tmp_path / "s" / "trials").iterdir() if (folder / "result.json").exists()]
    finished = {folder: (folder / "result.json").read_bytes() for folder in folders}
    assert len(finished) >= 12
    scored(tmp_path)
    assert {folder: (folder / "result.json").read_bytes() for folder in finished} == finished
    trials = trials_of(tmp_path)
    assert list(trials["state"]) == ["complete"] * 16
    assert trials["key"].is_unique
    specs = [Run(tmp_path, "s").read_spec(number) for number in range(16)]
    assert list(trials["accuracy"]) == [accuracy(spec) for spec in specs]


def test_ctrl_c_finishes_the_trials_under_way_in_all_workers(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Proposed) and event.trial == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with scoring() as executor:
        summary = run_search(settings(tmp_path, trials=9), executor=executor, on_event=interrupt)
    assert (summary.interrupted, summary.finished) == (True, 4)
    assert list(trials_of(tmp_path)["state"]) == ["complete"] * 4


def test_two_workers_train_the_networks_of_one_to_the_same_accuracies(tmp_path: Path) -> None:
    for workers in (1, 2):
        changes = {"trials": 4, "epochs": 1, "train_images": 100, "device": "cpu"}
        summary = run_search(settings(tmp_path / str(workers), workers=workers, **changes))
        assert (summary.finished, summary.failed) == (4, 0)
    columns = ["key", "state", "accuracy", "seed", "epochs"]
    one, two = trials_of(tmp_path / "1"), trials_of(tmp_path / "2")
    pd.testing.assert_frame_equal(two[columns], one[columns])


def test_workers_and_time_limit_may_change_when_a_search_goes_on(tmp_path: Path) -> None:
    with scoring() as executor:
        run_search(settings(tmp_path, trials=1), executor=executor)
        more = settings(tmp_path, trials=2, workers=2, trial_timeout_s=60)
        assert run_search(more, executor=executor).added == 1
    config = Run(tmp_path, "s").read_run()["config"]
    assert (config["workers"], config["trial_timeout_s"]) == (2, 60)
