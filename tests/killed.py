"""Processes that are really killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

FORK = multiprocessing.get_context("forkserver") if os.name == "posix" else None
PRELOAD = ["nas.search", "nas.executors.worker", "alembic.script", "sklearn.datasets", "sklearn.model_selection"]

posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


def killed(target: Callable[..., None], *arguments: Any, after: float | None = None) -> None:
    """Run in a process of its own, which kills itself, or is killed after so many seconds."""
    assert FORK is not None
    FORK.set_forkserver_preload(PRELOAD)
    child = FORK.Process(target=target, args=arguments)
    child.start()
    child.join(after)
    if after is not None:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL
