"""What a process can set of its machine."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from nas import machine

FAULTS = """
import resource, sys
import torch
from nas.machine import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    torch.ones(12_000_000)
before = faults()
for _ in range(20):
    torch.ones(12_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_kept_memory_is_not_asked_for_again() -> None:
    """20 times 48 MB: glibc gives back what is larger than 32 MB, and each of the pages (23, where huge) is cleared."""

    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("leave") >= 20 * 23
    assert faults("keep") < 20


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not machine.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # a libc without mallopt
    assert not machine.keep_freed_memory()
