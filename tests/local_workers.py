"""What the workers of tests do instead of training. Workers import this module, so it leaves torch alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas import record
from nas.executors import OUT_OF_MEMORY, Result, Spec, write_outcome
from nas.executors.places import Place

OK = {"status": "ok", "accuracy": 0.5}


def stay(_: Place) -> None:
    """A `settle` that needs no torch."""


def dawdle(_: Place) -> None:
    """A `settle` that takes longer than the trial may."""
    time.sleep(1.3)


def obey(spec: Spec, folder: Path) -> Result:
    """Do what the trial's spec has for this attempt; its last deed is repeated."""
    started = record.now()
    _leave_pid(folder)
    deeds = spec["deeds"]
    return write_outcome(spec, folder, DEEDS[deeds[min(spec["attempt"], len(deeds)) - 1]](folder), started)


def score(spec: Spec, folder: Path) -> Result:
    """Larger networks are better."""
    _leave_pid(folder)
    return write_outcome(spec, folder, {"status": "ok", "accuracy": accuracy(spec)}, record.now())


def _leave_pid(folder: Path) -> None:
    with (folder / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")


def accuracy(spec: Spec) -> float:
    return float(spec["cost"]["params"] / 1_000_000)


def pids(folder: Path) -> list[int]:
    """Of the processes in which a trial was attempted."""
    try:
        return [int(line) for line in (folder / "pids").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _die_by(number: int) -> Callable[[Path], dict[str, Any]]:
    def die(_: Path) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        time.sleep(600)
        return OK

    return die


def _exit(_: Path) -> dict[str, Any]:
    os._exit(7)


def _hang(_: Path) -> dict[str, Any]:
    time.sleep(600)
    return OK


def _spin(_: Path) -> dict[str, Any]:
    ends = time.monotonic() + 600
    while time.monotonic() < ends:
        pass
    return OK


def _hear_ctrl_c(_: Path) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGINT)
    return OK


def _meet(folder: Path) -> dict[str, Any]:
    """Ends when the neighbouring trial has begun as well."""
    others = [other for other in folder.parent.iterdir() if other != folder]
    while not all(pids(other) for other in others):
        time.sleep(0.01)
    return OK


def _meet_and_die(folder: Path) -> dict[str, Any]:
    _meet(folder)
    return DEEDS["kill"](folder)


def _outlive(folder: Path) -> dict[str, Any]:
    """Ends after all neighbouring trials."""
    others = [other for other in folder.parent.iterdir() if other != folder]
    while not all((other / "result.json").exists() for other in others):
        time.sleep(0.01)
    return OK


DEEDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "ok": lambda _: OK,
    "error": lambda _: {"status": "error", "reason": "RuntimeError: no luck"},
    "memory": lambda _: {"status": "error", "reason": OUT_OF_MEMORY},
    "kill": _die_by(getattr(signal, "SIGKILL", signal.SIGTERM)),
    "segfault": _die_by(signal.SIGSEGV),
    "exit": _exit,
    "hang": _hang,
    "spin": _spin,
    "ctrl-c": _hear_ctrl_c,
    "meet": _meet,
    "meet and die": _meet_and_die,
    "outlive": _outlive,
}
