"""What each of several workers may use of one machine: a share of its cores and, with CUDA, of one GPU."""

from __future__ import annotations

from dataclasses import dataclass

from nas.machine import usable_cores

GPU_MEMORY = 0.95
"""Share of a GPU's memory that all workers on it have together; each CUDA context takes some beside it."""


@dataclass(frozen=True)
class Place:
    """One worker's share. device: the GPU, as in cuda:1; None leaves it to the trial. gpu_memory: share of it, 0..1."""

    threads: int
    device: str | None = None
    gpu_memory: float = 1.0


def places(workers: int, device: str) -> list[Place]:
    """The cores shared out evenly, one at least; with CUDA, GPU i mod count for worker i, and its memory evenly.

    `device` as `nas.device.resolve_device` reads it: "cuda" and "auto" mean every visible GPU, "cuda:1" that one.
    """
    threads = max(1, usable_cores() // workers)
    gpus = _gpus(device)
    if not gpus:
        return [Place(threads)] * workers
    taken = [gpus[worker % len(gpus)] for worker in range(workers)]
    return [Place(threads, gpu, GPU_MEMORY / taken.count(gpu)) for gpu in taken]


def _gpus(device: str) -> list[str]:
    import torch

    from nas.device import resolve_device

    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return []
    return [str(resolved)] if ":" in device else [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def settle(place: Place) -> None:
    """Keep this process to its place; to be called before it trains."""
    import torch

    torch.set_num_threads(place.threads)
    if place.device is not None:
        torch.cuda.set_per_process_memory_fraction(place.gpu_memory, torch.device(place.device))
