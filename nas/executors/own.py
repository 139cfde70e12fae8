"""The executor that a caller brings, or the one that a number of workers and a time limit ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nas.executors import Executor
from nas.executors.inline import InlineExecutor
from nas.executors.local import LocalExecutor


@contextlib.contextmanager
def given_or_own(
    given: Executor | None, *, workers: int, device: str, trial_timeout_s: float | None
) -> Iterator[Executor]:
    """`given`, left open; None: one that trains here, or in spawned processes where several or a limit are asked for.

    Raises ValueError for fewer than 1 worker and an unknown device.
    """
    if given is not None:
        yield given
        return
    own = _own(workers, device, trial_timeout_s)
    try:
        yield own
    finally:
        own.close()


def _own(workers: int, device: str, trial_timeout_s: float | None) -> Executor:
    from nas.executors.worker import evaluate

    if workers == 1 and trial_timeout_s is None:
        return InlineExecutor(evaluate)
    return LocalExecutor(evaluate, workers=workers, device=device, trial_timeout_s=trial_timeout_s)
