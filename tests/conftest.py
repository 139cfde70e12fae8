"""The test processes: one thread each, as two with two threads take several times as long on two cores; and Ctrl-C.

What several files test is made here.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in the processes that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored


@pytest.fixture(scope="module")
def quality() -> Iterator[ModuleType]:
    """benchmarks/search_quality.py"""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
        yield importlib.import_module("search_quality")
