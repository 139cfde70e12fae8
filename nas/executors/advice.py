"""What would make the trainings of a search faster on this machine, in words for whoever runs it."""

from __future__ import annotations

from importlib.util import find_spec

from nas.device import Precision, resolve_device, resolve_precision
from nas.machine import usable_cores


def advice(*, workers: int, device: str, precision: Precision) -> tuple[str, ...]:
    """Sentences, none where nothing is known to help; what their figures are from is in docs/log.md."""
    found, cores = resolve_device(device), usable_cores()
    if found.type != "cpu":
        return ()
    if workers < cores:
        return (
            f"faster: --workers {cores}, a network on each core (on 2 cores 1.5 to 2 times as many in the same time)",
        )
    if resolve_precision(precision, found) == "bf16" and find_spec("numba") is None:
        return ('faster: pip install "paretonest[cpu]" (on a CPU with AMX 1.1 to 1.5 times)',)
    return ()
