"""The gate before training, its ledger, and what passes it when the sampler finds nothing new.

valid -> canonical -> not seen -> within the caps (exact cost) -> train
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.cost.latency_model import LatencyModel
from nas.seeds import derived_seed
from nas.space import InvalidGenotype, Option, SearchSpace

ENUMERABLE = 20_000
"""Spaces of at most this many networks are searched to the last one."""
SAMPLES = 200
"""Random networks looked at before neighbours and enumeration."""
NEARBY = 2_000
"""Networks looked at around the front."""

Rejection = Literal["invalid", "duplicate", "over_cap"]
REJECTIONS: tuple[Rejection, ...] = get_args(Rejection)


@dataclass(frozen=True)
class Candidate:
    """A network that may be trained: valid, new and within the caps."""

    arch: Architecture
    key: str
    cost: dict[str, float]


class Gate:
    """Decides on networks of `space`; `seen` holds the keys of the study and may grow outside.

    latency: predicts the networks' latency where it is an objective; no cap looks at it.
    """

    def __init__(
        self,
        space: SearchSpace,
        caps: Mapping[str, int],
        seen: Collection[str] = (),
        latency: LatencyModel | None = None,
    ) -> None:
        self.space = space
        self.caps = dict(caps)
        self.latency = latency
        self._seen = seen

    def check(self, genotype: Mapping[str, Option]) -> Candidate | Rejection:
        """The network of a sampler's choices, or why it is not trained."""
        try:
            arch = self.space.decode(genotype)
        except InvalidGenotype:
            return "invalid"
        return self.admit(arch)

    def admit(self, arch: Architecture) -> Candidate | Rejection:
        key = arch.key
        if not self.is_new(key):
            return "duplicate"
        costs = self.price(arch)
        return Candidate(arch, key, costs) if self.within(costs) else "over_cap"

    def is_new(self, key: str) -> bool:
        return key not in self._seen

    def price(self, arch: Architecture) -> dict[str, float]:
        """The exact costs, and the latency in milliseconds where a model predicts it."""
        side = self.space.input_size
        exact: dict[str, float] = asdict(cost(arch, side))
        return exact if self.latency is None else {**exact, "latency": self.latency.of_network(arch, side)}

    def within(self, costs: Mapping[str, float]) -> bool:
        return all(costs[metric] <= cap for metric, cap in self.caps.items())


@dataclass(frozen=True)
class Ledger:
    """What the sampler proposed and what became of it.

    Each accepted trial carries the rejections before it, in the same row of the study, so that the sum is exact
    however often the search was killed. Networks that the sampler did not propose (see `Unseen`) count as accepted.
    """

    accepted: int
    rejected: dict[str, int]
    spared: int
    """Trials before which a network that could have been trained was turned away."""
    mean_seconds: float
    """Of one finished training."""

    @classmethod
    def of(cls, rejected: Iterable[Mapping[str, int]], seconds: Sequence[float]) -> Ledger:
        """`rejected`: reason -> count of each trial; `seconds`: of each finished training."""
        rows = list(rejected)
        total: dict[str, int] = {reason: sum(row.get(reason, 0) for row in rows) for reason in REJECTIONS}
        spared = sum(row.get("duplicate", 0) + row.get("over_cap", 0) > 0 for row in rows)
        return cls(len(rows), total, spared, sum(seconds) / len(seconds) if seconds else 0.0)

    @property
    def proposed(self) -> int:
        return self.accepted + sum(self.rejected.values())

    @property
    def saved_seconds(self) -> float:
        """The trainings that the gate spared, at the mean price of one.

        At most one for each trial: without the gate the first proposal would have been trained, not all that were
        redrawn. An invalid genotype could not have been trained at all.
        """
        return self.spared * self.mean_seconds

    def to_json(self) -> dict[str, Any]:
        return {
            "proposed": self.proposed,
            "accepted": self.accepted,
            "rejected": dict(self.rejected),
            "saved_seconds": round(self.saved_seconds, 3),
        }


class Unseen:
    """Finds a network that passes the gate without a sampler: at random, then near the front, then by enumeration."""

    def __init__(self, gate: Gate, seed: int) -> None:
        self._gate = gate
        self._seed = seed

    def find(self, number: int, front: Sequence[Architecture]) -> Candidate | None:
        """A network for trial `number`, or None when none is found; in a small space none is then left."""
        rng = random.Random(derived_seed("unseen", self._seed, number))
        for search in (self._sampled(rng), self._near(rng, front), self._enumerated(rng)):
            found = next(search, None)
            if found is not None:
                return found
        return None

    def _sampled(self, rng: random.Random) -> Iterator[Candidate]:
        return self._passing(self._gate.space.sample(rng) for _ in range(SAMPLES))

    def _passing(self, archs: Iterable[Architecture]) -> Iterator[Candidate]:
        verdicts = (self._gate.admit(arch) for arch in archs)
        return (verdict for verdict in verdicts if isinstance(verdict, Candidate))

    def _near(self, rng: random.Random, front: Sequence[Architecture]) -> Iterator[Candidate]:
        """Breadth first from the front through networks within the caps, so that the nearest unseen one comes first."""
        queue = deque(rng.sample(list(front), len(front)))
        visited = {arch.key for arch in queue}
        while queue and len(visited) < NEARBY:
            neighbours = self._gate.space.neighbours(queue.popleft())
            for arch in rng.sample(neighbours, len(neighbours)):
                if arch.key in visited:
                    continue
                visited.add(arch.key)
                verdict = self._gate.admit(arch)
                if isinstance(verdict, Candidate):
                    yield verdict
                if verdict != "over_cap":
                    queue.append(arch)

    def _enumerated(self, rng: random.Random) -> Iterator[Candidate]:
        left = [candidate for candidate in self.under_caps if self._gate.is_new(candidate.key)]
        yield from rng.sample(left, len(left))

    @cached_property
    def under_caps(self) -> tuple[Candidate, ...]:
        """Every network within the caps, seen or not; empty for a space too large to enumerate."""
        space = self._gate.space
        if not is_small(space):
            return ()
        unbiased = Gate(space, self._gate.caps, latency=self._gate.latency)
        verdicts = (unbiased.admit(arch) for arch in space)
        return tuple(verdict for verdict in verdicts if isinstance(verdict, Candidate))

    def exhausted(self) -> str:
        """Why `find` came back with nothing, in words."""
        if is_small(self._gate.space):
            return f"space exhausted: all {len(self.under_caps)} networks under the caps are trained"
        return f"no unseen network under the caps was found in {SAMPLES} samples and {NEARBY} networks near the front"


def is_small(space: SearchSpace) -> bool:
    return space.size() <= ENUMERABLE
