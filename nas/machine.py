"""The machine this process runs on, found out without importing anything heavy."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path


def cpu_model() -> str:
    """The model that the processor names itself, else the little that Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def available_memory_bytes() -> int | None:
    """Memory that can be had without swapping; all there is where the system tells no more, None if not even that."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return None


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """From now on this process reuses the memory that it frees instead of giving it back; False where it cannot.

    By default glibc returns every large block to the system, which clears each of its pages when it is asked for
    again: in training on the CPU, every activation of every step. Large blocks are also asked for in huge pages, if
    torch has allocated nothing yet. For processes of our own, as the settings are theirs as a whole, and their memory
    stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # read by torch at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))  # -1: never
