"""Evaluates in the calling process, one network at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nas.executors import Result, Spec


class InlineExecutor:
    """Calls `evaluate(spec, folder)` in `wait`; `nas.executors.worker.evaluate` trains the network.

    The worker gives a small network one thread; a larger one uses all cores.
    """

    capacity = 1

    def __init__(self, evaluate: Callable[[Spec, Path], Result]) -> None:
        self._evaluate = evaluate
        self._submitted: list[tuple[Spec, Path]] = []

    def submit(self, spec: Spec, folder: Path) -> None:
        self._submitted.append((spec, folder))

    def wait(self) -> Sequence[Result]:
        return [self._evaluate(*self._submitted.pop(0))]

    def close(self) -> None:
        self._submitted.clear()
