"""Latency as an objective: the model before the first trial, and the times of the front's networks after the last.

What a model predicts for a network never changes in a study: the model is fitted once, written to latency.json, and
read again whenever the search goes on, also on another device. The times of the front are those of the device at hand.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np

from nas import record
from nas.arch import Architecture
from nas.cost.latency import Latency
from nas.cost.latency_model import Conditions, LatencyModel, Measured
from nas.record import Run
from nas.search.events import Event, FrontTimed, Modelled, Timing
from nas.search.gate import Candidate, Gate
from nas.seeds import derived_seed
from nas.space import SearchSpace

NETWORKS = 32
"""Networks that are timed for the model."""
WALKS = 1_000
"""Random walks among which they are chosen."""
ROUNDS = 15
"""Samples of each of them; the interval of their median holds it with probability 0.965."""
FRONT_ROUNDS = 30
"""Samples of each network on the front."""

Timer = Callable[..., list[Latency]]
"""As `nas.cost.latency.measure_latency`."""
Watcher = Callable[[Event], None]


@dataclass(frozen=True)
class Stopwatch:
    """Times networks of `space` on `device` as `timing` says: batch_size, threads and precision."""

    space: SearchSpace
    device: str
    timing: Mapping[str, Any]
    timer: Timer

    def times(self, networks: Mapping[str, Architecture], *, rounds: int, seed: int) -> list[Latency]:
        """Of networks by their keys, in their order, timed side by side."""
        sized = {key: (arch, self.space.input_size) for key, arch in networks.items()}
        return self.timer(sized, **self.timing, device=self.device, repeats=rounds, seed=seed)


@dataclass(frozen=True)
class LatencyObjective:
    """What a search needs where latency is an objective: the model that predicts it, and what times it."""

    run: Run
    watch: Stopwatch
    model: LatencyModel

    def time_front(self, front: Sequence[Architecture], on_event: Watcher) -> None:
        """Time the networks of the front as those of the model were, and write front_latency.json, unless it is there.

        The device may be another one than the model's: both are recorded.
        """
        networks = {arch.key: arch for arch in front}
        if not networks or self.run.measured_ms().keys() == networks.keys():
            return
        on_event(Timing(len(networks), "on the front"))
        same = {**self.watch.timing, "precision": self.model.conditions.precision}
        times = replace(self.watch, timing=same).times(networks, rounds=FRONT_ROUNDS, seed=self.model.seed)
        conditions = Conditions.of(times[0], metadata.version("torch"))
        self.run.write_front_latency(
            {
                "format": 1,
                "created": record.now(),
                "conditions": asdict(conditions),
                "samples": times[0].samples,
                "coverage": times[0].coverage,
                "seed": self.model.seed,
                "networks": [asdict(Measured.of(latency)) for latency in times],
            }
        )
        side = self.watch.space.input_size
        errors = [
            abs(self.model.of_network(arch, side) / latency.median_ms - 1)
            for arch, latency in zip(networks.values(), times, strict=True)
        ]
        on_event(FrontTimed(len(networks), str(conditions), float(np.median(errors))))


def latency_objective(
    run: Run, watch: Stopwatch, caps: Mapping[str, int], anchor: Architecture, seed: int, on_event: Watcher
) -> LatencyObjective:
    """With the study's model, which is fitted and written where it has none yet.

    caps: of the networks to time; `anchor` is within them. Raises ValueError where a study that has trials lost its
    model: another one would give their networks other latencies.
    """
    model = LatencyModel.recorded(run)
    if model is None:
        if run.trial_numbers():
            raise ValueError(f"{run.path('latency.json')} is missing: restore it or choose another study name")
        model = _new_model(run, watch, caps, anchor, derived_seed("latency", seed), on_event)
    on_event(Modelled(model))
    return LatencyObjective(run, watch, model)


def _new_model(
    run: Run, watch: Stopwatch, caps: Mapping[str, int], anchor: Architecture, seed: int, on_event: Watcher
) -> LatencyModel:
    networks = networks_to_time(watch.space, caps, anchor, seed)
    on_event(Timing(len(networks), "for the latency model"))
    times = watch.times(networks, rounds=ROUNDS, seed=seed)
    model = LatencyModel.of(networks, watch.space.input_size, times, metadata.version("torch"), seed)
    genotypes = {key: watch.space.encode(arch) for key, arch in networks.items()}
    run.write_latency({**model.to_json(), "created": record.now(), "networks": genotypes})
    return model


def networks_to_time(
    space: SearchSpace, caps: Mapping[str, int], anchor: Architecture, seed: int
) -> dict[str, Architecture]:
    """At most NETWORKS different networks within the caps, by their keys, spread evenly over the logarithm of macs.

    They come from random walks; where the caps let hardly any pass, from what lies around these and around `anchor`.
    """
    rng = random.Random(seed)
    found: dict[str, Candidate] = {}
    gate = Gate(space, caps, found)

    def take(archs: Iterable[Architecture]) -> list[Architecture]:
        taken = []
        for arch in archs:
            verdict = gate.admit(arch)
            if isinstance(verdict, Candidate):
                found[verdict.key] = verdict
                taken.append(verdict.arch)
        return taken

    queue = deque(take(space.sample(rng) for _ in range(WALKS)) + take([anchor]))
    while queue and len(found) < NETWORKS:
        queue.extend(take(space.neighbours(queue.popleft())))
    return {one.key: one.arch for one in _spread(list(found.values()))}


def _spread(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The nearest to each of NETWORKS points, evenly spaced from the least to the greatest logarithm of macs."""
    left = np.log([one.cost["macs"] for one in candidates])
    chosen = []
    for point in np.linspace(left.min(), left.max(), min(NETWORKS, len(candidates))):
        nearest = int(np.argmin(np.abs(left - point)))
        left[nearest] = np.inf
        chosen.append(candidates[nearest])
    return chosen
