"""The machine this process runs on, found out without importing anything heavy."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_model() -> str:
    """The model that the processor names itself, else the little that Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
