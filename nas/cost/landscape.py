"""A whole space by its costs: every network, the cheapest and the dearest, what caps leave, which genes decide.

A space is a set of paths from one of its starts along followers (`nas.space`), and costs add up along a path. So what
is asked of all networks is a fold over states: the extremes of a space of any size are exact and take seconds.

Shapes: N networks, 3 the costs in the order of `nas.cost.table.COSTS`.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple, TypeVar

import numpy as np

from nas.arch import Architecture, Stage
from nas.cost.formula import cost
from nas.cost.table import COSTS, Counts, PartPrices, column, price, random_codes
from nas.space import Header, Option, SearchSpace, State
from nas.units import format_count

EXHAUSTIVE = 5_000_000
"""Spaces of at most this many networks are priced to the last one (120 MB)."""
DRAWN = 20_000
"""Networks drawn of a larger space."""
GENOTYPES = 50_000
"""Random genotypes from which the effect of the genes is read."""

WALKS = 1_000
"""Random walks among which networks within caps are looked for."""

Value = TypeVar("Value")


class Path(NamedTuple):
    """The last stages of a network, and what they and the classifier cost (a tuple of the costs that are asked for)."""

    costs: tuple[int, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Extreme:
    """A network with the smallest or the greatest `value` of a cost."""

    value: int
    arch: Architecture


@dataclass(frozen=True)
class GeneEffect:
    """What one gene does to a cost by itself.

    share: how much of the variance of the cost's logarithm it explains (eta squared, 0 to 1). means: option ->
    geometric mean of the cost over the random genotypes that have it.
    """

    gene: str
    share: float
    means: dict[Option, float]


@dataclass(frozen=True, eq=False)
class Survey:
    """The costs of a space of `size` networks.

    costs (N, 3): of every network, or of networks drawn with equal chances. cheapest, dearest: by cost, exact.
    """

    size: int
    costs: Counts
    cheapest: dict[str, Extreme]
    dearest: dict[str, Extreme]

    @property
    def exhaustive(self) -> bool:
        return len(self.costs) == self.size

    def __getitem__(self, name: str) -> Counts:
        """One cost (N) by its name."""
        return column(self.costs, name)

    def histogram(self, name: str, bins: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Edges, evenly spaced on a log scale from the least cost to the greatest, and percentages between them."""
        values = self[name].astype(np.float64)
        low, high = values.min(), values.max()
        edges = np.geomspace(low, high, bins + 1) if low < high else np.array([low, low])
        edges[[0, -1]] = low, high  # a rounded edge must not lose the extremes
        counts, _ = np.histogram(values, edges)
        return tuple(edges.tolist()), tuple((100 * counts / len(values)).tolist())

    def within(self, caps: Mapping[str, int]) -> float:
        """The share (0 to 1) of the networks that meet all `caps`."""
        meets = [self[name] <= cap for name, cap in caps.items()]
        return float(np.all(meets, axis=0).mean()) if meets else 1.0


class Landscape:
    """What the networks of one space cost."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._parts = PartPrices(space)

    def survey(self, seed: int, *, exhaustive: int = EXHAUSTIVE, drawn: int = DRAWN) -> Survey:
        """All networks of a space of at most `exhaustive`, `drawn` random ones of a larger space."""
        size = self.space.size()
        costs = self.everything() if size <= exhaustive else self.draw(drawn, random.Random(seed))
        return Survey(
            size, costs, {name: self.cheapest(name) for name in COSTS}, {name: self.dearest(name) for name in COSTS}
        )

    def everything(self) -> Counts:
        """The costs (N, 3) of every network, each once; N is the size of the space."""

        def join(entries: Sequence[tuple[Stage, Counts, Counts]]) -> Counts:
            return np.concatenate([own + rest for _, own, rest in entries])

        return np.concatenate([own + rest for _, own, rest in self._fold(lambda own: own[None], join)])

    def draw(self, count: int, rng: random.Random) -> Counts:
        """The costs (count, 3) of networks drawn with replacement, each network of the space equally likely."""
        urns = self._fold(
            lambda own: _Urn(((own, None),), (1,)), lambda entries: _Urn.of([(own, urn) for _, own, urn in entries])
        )
        whole = _Urn.of([(own, urn) for _, own, urn in urns])
        return np.array([whole.draw(rng) for _ in range(count)], np.int64).reshape(-1, len(COSTS))

    def cheapest(self, name: str) -> Extreme:
        """A network with the smallest cost `name` in the space."""
        return self._extreme(name, 1)

    def dearest(self, name: str) -> Extreme:
        """A network with the greatest cost `name` in the space."""
        return self._extreme(name, -1)

    def _extreme(self, name: str, sign: int) -> Extreme:
        found = self._least((name,), lambda paths: [min(paths, key=lambda path: sign * path.costs[0])])
        header, path = min(found, key=lambda end: sign * end[1].costs[0])
        return Extreme(path.costs[0], self.space.network(header, path.stages))

    def require_within(self, caps: Mapping[str, int]) -> Architecture:
        """A network that meets all `caps`. Raises ValueError naming the smallest costs when none does."""
        if not caps:
            return next(iter(self.space))
        least = {name: self.cheapest(name) for name in caps}
        for found in least.values():
            if self._meets(found.arch, caps):
                return found.arch
        apart = all(found.value <= caps[name] for name, found in least.items())
        if apart:
            # The cheapest by one cost is too dear by another: look at every compromise.
            for header, path in self._least(tuple(caps), _non_dominated):
                arch = self.space.network(header, path.stages)
                if self._meets(arch, caps):
                    return arch
        asked = " and ".join(f"max_{name} = {format_count(cap)}" for name, cap in caps.items())
        smallest = " and ".join(f"{found.value:,} {name}" for name, found in least.items())
        raise ValueError(
            f"no network of space {self.space.name} meets {asked}: "
            f"the smallest cost is {smallest}{', in different networks' if apart else ''}"
        )

    def sample_within(self, caps: Mapping[str, int], count: int, seed: int) -> list[Architecture]:
        """At most `count` networks that meet all `caps`: random walks, or a cheap network where none of 1,000 does.

        Raises ValueError naming the smallest costs when no network meets the caps.
        """
        anchor = self.require_within(caps)
        rng = random.Random(seed)
        walks = (self.space.sample(rng) for _ in range(WALKS))
        return list(islice((arch for arch in walks if self._meets(arch, caps)), count)) or [anchor]

    def _meets(self, arch: Architecture, caps: Mapping[str, int]) -> bool:
        own = cost(arch, self.space.input_size)
        return all(getattr(own, name) <= cap for name, cap in caps.items())

    def _least(self, names: tuple[str, ...], best: Callable[[list[Path]], list[Path]]) -> list[tuple[Header, Path]]:
        """For each header the networks that are `best` by the costs `names`, in each state those of its followers."""
        columns = [COSTS.index(name) for name in names]

        def add(own: Counts, path: Path, stages: tuple[Stage, ...] = ()) -> Path:
            sums = tuple(int(own[column]) + value for column, value in zip(columns, path.costs, strict=True))
            return Path(sums, (*stages, *path.stages))

        nothing = Path((0,) * len(columns), ())
        folded = self._fold(
            lambda own: [add(own, nothing)],
            lambda entries: best([add(own, path, (stage,)) for stage, own, paths in entries for path in paths]),
        )
        return [(header, add(own, path)) for header, own, paths in folded for path in paths]

    def _fold(
        self, end: Callable[[Counts], Value], join: Callable[[Sequence[tuple[Stage, Counts, Value]]], Value]
    ) -> list[tuple[Header, Counts, Value]]:
        """For each header the costs of its stem, and the value of all that may follow it.

        The value of a state is `join` of the stages that may come next, each with its costs and the value behind it;
        behind the last stage it is `end` of the classifier's costs. What leads to no network is left out.
        """
        folded = []
        for header, start in self.space.starts().items():
            values: dict[State, Value | None] = {}

            def value(
                state: State, header: Header = header, values: dict[State, Value | None] = values
            ) -> Value | None:
                if state not in values:
                    behind = ((stage, value(after)) for stage, after in self.space.followers(state).items())
                    entries = [
                        (stage, self._parts.stage(header, state.stages, state.in_channels, stage), rest)
                        for stage, rest in behind
                        if rest is not None
                    ]
                    if state.stages == self.space.stages:
                        values[state] = end(self._parts.classifier(header, state.in_channels))
                    else:
                        values[state] = join(entries) if entries else None
                return values[state]

            whole = value(start)
            if whole is not None:
                folded.append((header, self._parts.stem(header), whole))
        return folded

    def effects(self, name: str, seed: int, *, genotypes: int = GENOTYPES) -> tuple[GeneEffect, ...]:
        """What each gene does to the cost `name`, the strongest first, over random genotypes that name a network."""
        codes = random_codes(self.space, genotypes, np.random.default_rng(seed))
        priced = price(self.space, codes, self._parts)
        logs = np.log(priced[name][priced.valid])
        found = []
        for gene, chosen in zip(self.space.genes, codes[priced.valid].T, strict=True):
            counts = np.bincount(chosen, minlength=len(gene.options))
            means = np.bincount(chosen, logs, len(gene.options)) / np.maximum(counts, 1)
            between = float(counts @ (means - logs.mean()) ** 2)
            total = float(np.square(logs - logs.mean()).sum())
            seen = zip(gene.options, counts, means, strict=True)
            shown = {option: float(np.exp(mean)) for option, count, mean in seen if count}
            found.append(GeneEffect(gene.name, between / total if np.ptp(logs) > 0 else 0.0, shown))
        return tuple(sorted(found, key=lambda effect: -effect.share))


@dataclass(frozen=True, eq=False)
class _Urn:
    """Networks to draw from with equal chances: costs of a part with what lies behind it, and running counts."""

    parts: tuple[tuple[Counts, _Urn | None], ...]
    upto: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[Counts, _Urn]]) -> _Urn:
        return cls(tuple(parts), tuple(accumulate(urn.upto[-1] for _, urn in parts)))

    def draw(self, rng: random.Random) -> Counts:
        own, urn = self.parts[bisect_right(self.upto, rng.randrange(self.upto[-1]))]
        return own + urn.draw(rng) if urn else own


def _non_dominated(paths: list[Path]) -> list[Path]:
    """The paths that no other equals or beats in all costs, one of each kind."""
    kept: list[Path] = []
    for path in sorted(paths, key=lambda path: path.costs):
        if not any(all(a <= b for a, b in zip(one.costs, path.costs, strict=True)) for one in kept):
            kept.append(path)
    return kept
