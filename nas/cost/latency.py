"""How long a network takes on the machine at hand: timed, with an interval, and never inside the gate of a search.

A pass takes one batch through the network as searched: eval mode, batch norms not folded, PyTorch's eager mode,
channels_last, `torch.inference_mode`. Weights and images are converted to the precision once, beforehand; autocast
would cast the weights in every pass. Float32 convolutions on a CUDA device use TF32, as is PyTorch's default.

Machines drift: clocks fall, neighbours wake. So every round times every network once, in an order drawn anew, and a
drift meets all of them alike. The price is that all networks lie in the device's memory together.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from nas.arch import Architecture
from nas.cost.formula import Cost
from nas.device import DTYPES, Precision, device_name, resolve_device, resolve_precision
from nas.evidence import MIN_SAMPLES, Correlation, bootstrap, kendall, median, spearman
from nas.models import build
from nas.pareto import COSTS

MIN_SAMPLE_S = 1e-3
"""A sample lasts about this long or longer: shorter passes are repeated within it, and their mean is the sample."""

Clock = Callable[[], float]
Run = Callable[[], object]

_WAIT: dict[str, Callable[[torch.device], None]] = {
    "cpu": lambda _: None,
    "cuda": lambda device: torch.cuda.synchronize(device),
    "mps": lambda _: torch.mps.synchronize(),
}
"""Device type -> wait until all that was sent to it is done."""
_GIVE_BACK: dict[str, Callable[[], None]] = {
    "cpu": lambda: None,
    "cuda": torch.cuda.empty_cache,
    "mps": torch.mps.empty_cache,
}
"""Device type -> let other processes have the memory that the networks took: workers may share the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The time of one pass of `batch_size` images, and how it was measured.

    median_ms: of `samples` samples, each the mean of `passes` passes. [low_ms, high_ms] holds the true median with
    probability `coverage`, by order statistics (`nas.evidence.median`), as far as the samples are independent.
    threads: of the CPU, within one operation; on a GPU they only send work. device: the CPU's or GPU's name.
    """

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    samples: int
    passes: int
    batch_size: int
    threads: int
    precision: Precision
    device: str

    @property
    def images_per_s(self) -> float:
        return 1000 * self.batch_size / self.median_ms


@dataclass(frozen=True, slots=True)
class Timed:
    """The samples of one run: mean seconds of `passes` passes each, in the order in which they were taken."""

    passes: int
    seconds: tuple[float, ...]


def measure_latency(
    networks: Mapping[str, tuple[Architecture, int]],
    *,
    batch_size: int = 1,
    threads: int = 1,
    precision: Precision = "fp32",
    device: str = "auto",
    repeats: int = 30,
    warmup: int = 3,
    seed: int = 0,
) -> list[Latency]:
    """Times networks, given as name -> (architecture, side of its square images in pixels), side by side.

    repeats: samples of each network, at least 6. warmup: passes of each network before the first sample, at least 1.
    threads: torch's threads within one operation, as before again at the end. seed: of the order, weights and images.
    Raises ValueError, before anything is built, for a setting that cannot be used or a device that is not there.
    """
    where = resolve_device(device)
    if not networks:
        raise ValueError("latency needs at least one network to time, but got none")
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, but got {precision!r}")
    sides = {f"input_size of {name}": (side, 1) for name, (_, side) in networks.items()}
    counts = {"batch_size": (batch_size, 1), "threads": (threads, 1), "warmup": (warmup, 1), "seed": (seed, 0)}
    _require_whole({**sides, **counts, "repeats": (repeats, MIN_SAMPLES)})
    found = resolve_precision(precision, where)
    runs = [_run(arch, side, batch_size, found, where, seed) for arch, side in networks.values()]
    with _threads(threads), torch.inference_mode():
        timed = interleaved(runs, repeats=repeats, warmup=warmup, seed=seed, clock=_clock(where))
    del runs
    _GIVE_BACK[where.type]()
    latencies = []
    for name, one in zip(networks, timed, strict=True):
        middle = median([1000 * seconds for seconds in one.seconds])
        latencies.append(
            Latency(
                name=name,
                median_ms=middle.value,
                low_ms=middle.low,
                high_ms=middle.high,
                coverage=middle.coverage,
                samples=middle.n,
                passes=one.passes,
                batch_size=batch_size,
                threads=threads,
                precision=found,
                device=device_name(where),
            )
        )
    return latencies


def interleaved(
    runs: Sequence[Run], *, repeats: int, warmup: int, seed: int, clock: Clock = time.perf_counter
) -> list[Timed]:
    """Warms every run up, then times each once in each of `repeats` rounds, every round in its own order.

    A sample begins with a pass that is not timed, for the others have taken the caches: of three passes in a row on one
    CPU thread, the first took 5 to 20 % longer than the third, the second 0 to 4 %.
    """
    passes = [_passes(run, warmup, clock) for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    rng = random.Random(seed)
    for _ in range(repeats):
        rng.shuffle(order)
        for index in order:
            runs[index]()
            seconds[index].append(_time(runs[index], passes[index], clock))
    return [Timed(count, tuple(samples)) for count, samples in zip(passes, seconds, strict=True)]


def rank_correlations(
    costs: Sequence[Cost], latencies: Sequence[Latency], *, seed: int = 0
) -> dict[str, tuple[Correlation, Correlation]]:
    """Name of a cost -> Spearman's and Kendall's correlation with the latency over networks, with their intervals.

    A cost that is the same for all networks has none and is left out. Raises ValueError for fewer than 3 networks.
    """
    times = [latency.median_ms for latency in latencies]
    columns = {name: [getattr(cost, name) for cost in costs] for name in COSTS}
    return {
        name: (bootstrap(spearman, column, times, seed=seed), bootstrap(kendall, column, times, seed=seed))
        for name, column in columns.items()
        if len(set(column)) > 1
    }


def _require_whole(settings: Mapping[str, tuple[object, int]]) -> None:
    """Setting -> its value and the least that it may be."""
    for name, (value, least) in settings.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, but got {value!r}")


def _run(
    arch: Architecture, side: int, batch_size: int, precision: Precision, device: torch.device, seed: int
) -> Callable[[], Tensor]:
    """One pass of the network built from `arch`; the random numbers of others are not disturbed."""
    dtype = DTYPES.get(precision, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build(arch.canonical()).eval()
        x_BCHW = torch.randn(batch_size, arch.in_channels, side, side)
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_BCHW = x_BCHW.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    return lambda: network(x_BCHW)


def _clock(device: torch.device) -> Clock:
    """Seconds, read when the device has done all that was sent to it."""
    wait = _WAIT[device.type]

    def read() -> float:
        wait(device)
        return time.perf_counter()

    return read


def _passes(run: Run, warmup: int, clock: Clock) -> int:
    fastest = min(_time(run, 1, clock) for _ in range(warmup))
    return max(1, math.ceil(MIN_SAMPLE_S / fastest))


def _time(run: Run, passes: int, clock: Clock) -> float:
    """Mean seconds of `passes` passes in a row."""
    start = clock()
    for _ in range(passes):
        run()
    return (clock() - start) / passes


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
