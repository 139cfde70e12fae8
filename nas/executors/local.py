"""Several spawned processes on this machine. A crash, a hang or a lack of memory hurts one trial, which is tried again.

docs/decisions/0007-local-workers.md says why the pool is our own.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from nas import record
from nas.executors import OUT_OF_MEMORY, Result, Spec, write_outcome
from nas.executors.places import Place, places, settle
from nas.machine import keep_freed_memory

ATTEMPTS = 3
"""Of one trial, each but the first on a fresh worker."""
START_S = 300.0
"""What a worker may take to start, the time limit of a trial apart: imports, a GPU's context."""
EXIT_S = 10.0
"""A killed process is waited for so long. One that a driver of the system holds is then left behind."""

Evaluate = Callable[[Spec, Path], Result]


class LocalExecutor:
    """Calls `evaluate(spec, folder)` in up to `workers` spawned processes, one trial at a time in each.

    `evaluate` and `settle` are functions of a module, found by name in the workers; a script that searches with
    workers needs the usual `if __name__ == "__main__"`. Workers start with the first trials and stay, so that data
    sets stay in their memory. An exception is a result and final; a worker that dies, takes longer than
    `trial_timeout_s` seconds (loading the data included) or runs out of memory is replaced by a fresh one, where the
    trial goes on from its checkpoint. After 3 attempts it has failed. Workers do not hear Ctrl-C, and die with the
    process that made them.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        *,
        workers: int,
        device: str = "auto",
        trial_timeout_s: float | None = None,
        settle: Callable[[Place], None] = settle,
    ) -> None:
        """`settle` prepares a new worker for its share of the machine. Raises ValueError for an unknown device."""
        if workers < 1:
            raise ValueError(f"workers must be at least 1, but got {workers}")
        limit_s = math.inf if trial_timeout_s is None else trial_timeout_s
        self._workers = [_Worker(evaluate, settle, place, limit_s) for place in places(workers, device)]

    @property
    def capacity(self) -> int:
        return len(self._workers)

    def submit(self, spec: Spec, folder: Path) -> None:
        idle = next(worker for worker in self._workers if worker.trial is None)
        idle.begin(_Trial(spec, folder, record.now()))

    def wait(self) -> Sequence[Result]:
        while True:
            busy = [worker for worker in self._workers if worker.trial is not None]
            left_s = min(worker.deadline for worker in busy) - time.monotonic()
            signs = [sign for worker in busy for sign in worker.signs]
            connection.wait(signs, timeout=None if left_s == math.inf else max(left_s, 0.0))
            results = [result for worker in busy if (result := _conclude(worker)) is not None]
            if results:
                return results

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


@dataclass(frozen=True)
class _Trial:
    spec: Spec
    folder: Path
    started: str
    troubles: tuple[str, ...] = ()
    """What ended the attempts before, in words."""

    @property
    def attempt(self) -> int:
        return len(self.troubles) + 1


def _conclude(worker: _Worker) -> Result | None:
    """The result of the worker's trial; None while it is under way, be it on a fresh worker."""
    trial = worker.trial
    assert trial is not None
    answer = worker.answer()
    if answer is None:
        return None
    if isinstance(answer, dict) and answer["reason"] != OUT_OF_MEMORY:
        worker.trial = None
        return answer
    begun = worker.begun
    worker.stop()
    if not begun:
        worker.begin(trial)  # fresh now, so that this happens once
        return None
    trouble = answer if isinstance(answer, str) else OUT_OF_MEMORY
    if trial.attempt < ATTEMPTS:
        # A result of this attempt must not be taken for the trial's, should the driver die now.
        (trial.folder / "result.json").unlink(missing_ok=True)
        worker.begin(replace(trial, troubles=(*trial.troubles, trouble)))
        return None
    return answer if isinstance(answer, dict) else _failed(trial, (*trial.troubles, trouble))


def _failed(trial: _Trial, troubles: Sequence[str]) -> Result:
    alike = len(set(troubles)) == 1
    reason = f"{troubles[0]} in {len(troubles)} attempts" if alike else ", then ".join(troubles)
    spec = {**trial.spec, "attempt": trial.attempt}
    return write_outcome(spec, trial.folder, {"status": "error", "reason": reason}, trial.started)


# ---- one worker, seen from outside -------------------------------------------------------------------------------

_SPAWN = multiprocessing.get_context("spawn")  # a forked process could not use CUDA


class _Worker:
    """A place, the process that works there, if one has been started, and the trial that it has in hand."""

    def __init__(self, evaluate: Evaluate, settle: Callable[[Place], None], place: Place, limit_s: float) -> None:
        self.trial: _Trial | None = None
        self.deadline = math.inf
        """On the monotonic clock; for the trial in hand."""
        self.begun = False
        """Whether what befalls the worker befalls the trial in hand. A fresh worker's start is part of its trial."""
        self._evaluate = evaluate
        self._settle = settle
        self._place = place
        self._limit_s = limit_s
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def signs(self) -> list[Connection | int]:
        """What becomes ready when there is an answer."""
        assert self._process is not None and self._connection is not None
        return [self._connection, self._process.sentinel]

    def begin(self, trial: _Trial) -> None:
        self.begun = self._process is None or not self._process.is_alive()
        if self.begun:
            self.stop()
            self._start()
        assert self._connection is not None
        self.trial = trial
        self.deadline = time.monotonic() + START_S + self._limit_s
        device = {} if self._place.device is None else {"device": self._place.device}
        spec = {**trial.spec, **device, "attempt": trial.attempt}
        with contextlib.suppress(OSError):  # a worker that has died this moment: `answer` will say so
            self._connection.send((self._evaluate, spec, trial.folder))

    def _start(self) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(theirs, self._settle, self._place), daemon=True)
        with _unheard_ctrl_c():
            self._process.start()
        theirs.close()  # from now on a dead worker is an end of file

    def answer(self) -> Result | str | None:
        """The result of the trial, or what has befallen the worker instead, in words; None while it works."""
        assert self._process is not None and self._connection is not None
        alive = self._process.is_alive()  # asked first: what a worker sends before it dies counts
        try:
            while self._connection.poll():
                message: Result | None = self._connection.recv()
                if message is not None:
                    return message
                self.begun = True
                self.deadline = time.monotonic() + self._limit_s
        except (EOFError, OSError):
            alive = False
        if not alive:
            self._process.join(EXIT_S)
            return f"the worker died ({_ending(self._process.exitcode)})"
        return f"took longer than {self._limit_s:g} s" if time.monotonic() >= self.deadline else None

    def stop(self) -> None:
        """Kill the process, if there is one; its trial is abandoned."""
        self.trial = None
        if self._process is not None:
            self._process.kill()
            self._process.join(EXIT_S)
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-exitcode, f"signal {-exitcode}")


@contextlib.contextmanager
def _unheard_ctrl_c() -> Iterator[None]:
    """A process that is started here never hears Ctrl-C, not even while it imports: it inherits what is blocked."""
    if os.name != "posix":
        yield
        return
    resource_tracker.ensure_running()  # its own start, which the first spawn makes, would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- one worker, seen from inside --------------------------------------------------------------------------------


def _work(driver: Connection, settle: Callable[[Place], None], place: Place) -> None:
    """Evaluate what comes through the pipe until it ends. A trial is answered by None, as it begins, then a result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    keep_freed_memory()  # before torch is imported, by `settle` or by the first trial
    settle(place)
    with contextlib.suppress(EOFError):
        while True:
            evaluate, spec, folder = driver.recv()
            driver.send(None)
            driver.send(evaluate(spec, folder))


def _die_with_the_driver() -> None:
    """A killed driver cannot say goodbye, and its successor will take the trial up again."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
