"""Stand-ins for a stopwatch: latencies that follow a formula, so that no test depends on how long anything takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.cost.latency import Latency

Rule = Callable[[Architecture, int], float]
"""Network and side of its image -> milliseconds."""


def took(name: str, ms: float, half_width: float = 0.02, **conditions: Any) -> Latency:
    """A latency whose interval is the median and so large a share of it to both sides."""
    defaults: dict[str, Any] = {"batch_size": 1, "threads": 1, "precision": "fp32", "device": "abacus", "samples": 15}
    return Latency(
        name=name,
        median_ms=ms,
        low_ms=ms * (1 - half_width),
        high_ms=ms * (1 + half_width),
        coverage=0.965,
        passes=1,
        **defaults | conditions,
    )


def by_activations(arch: Architecture, side: int) -> float:
    """A tenth of a millisecond, and one for each 10,000 activations."""
    return 0.1 + cost(arch, side).activations / 10_000


class Abacus:
    """A timer of searches that looks times up instead of taking them, and remembers what it was asked."""

    def __init__(self, rule: Rule = by_activations, device: str = "abacus") -> None:
        self.calls: list[dict[str, Any]] = []
        self._rule = rule
        self._device = device

    def __call__(self, networks: Mapping[str, tuple[Architecture, int]], **asked: Any) -> list[Latency]:
        self.calls.append({"networks": dict(networks), **asked})
        conditions = {name: asked[name] for name in ("batch_size", "threads", "precision")}
        return [
            took(name, self._rule(arch, side), device=self._device, samples=asked["repeats"], **conditions)
            for name, (arch, side) in networks.items()
        ]
