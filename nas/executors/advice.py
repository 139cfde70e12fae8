"""What would make the trainings of a search faster on this machine, in words for whoever runs it."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from nas.device import Precision
from nas.machine import available_memory_bytes, usable_cores

WORKER_BYTES = 2**30
"""What a worker may need: one that trains networks of 14M MACs on images of 32 x 32 took .9 to 1.1 GB."""


def advice(*, workers: int, device: torch.device, precision: Precision) -> tuple[str, ...]:
    """Sentences, none where nothing is known to help; what their figures are from is in docs/log.md.

    device, precision: resolved.
    """
    if device.type != "cpu":
        return ()
    cores, memory = usable_cores(), available_memory_bytes()
    most = cores if memory is None else min(cores, memory // WORKER_BYTES)
    if workers < most:
        return (f"faster: --workers {most}, so many networks side by side (on 2 cores 1.5 to 2 times as many an hour)",)
    if workers >= cores and precision == "bf16" and find_spec("numba") is None:
        return ('faster: pip install "paretonest[cpu]" (on a CPU with AMX 1.1 to 1.5 times)',)
    return ()
