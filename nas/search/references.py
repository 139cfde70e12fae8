"""The papers' networks, scaled to a search space: a search is measured against them under its own recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nas.search.gate import Candidate, Gate
from nas.space import InvalidGenotype, Option, SearchSpace

FAMILIES: dict[str, dict[str, Option]] = {
    "ResNet": {"cardinality": 1, "radix": 0, "kernels": "3", "gate": "none"},
    "ResNeXt": {"cardinality": 32, "radix": 0, "kernels": "3", "gate": "none"},
    "SE-Net": {"cardinality": 1, "radix": 0, "kernels": "3", "gate": "cse", "reduction": 16},
    "SK-Net": {"cardinality": 32, "radix": 0, "kernels": "3+5", "gate": "none"},
    "ResNeSt": {
        "cardinality": 1,
        "radix": 2,
        "kernels": "3",
        "gate": "none",
        "stem": "deep",
        "shortcut": "avgpool_then_conv1x1",
        "avd": "after_mixer",
    },
}
"""Family -> gene -> the choice of the paper's main network (ResNet-50, ResNeXt-50 32x4d, SE-ResNet-50, SKNet-50,
ResNeSt-50 2s1x64d), alike in all stages."""
SIZES = ("depth", "width", "width_multiplier")
"""Genes by which a network is scaled, all of them together."""
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far up their options."""


@dataclass(frozen=True)
class Reference:
    """A scaled network of a paper, and the genotype that gives it."""

    family: str
    candidate: Candidate
    genotype: dict[str, Option]


def references(gate: Gate) -> list[Reference]:
    """Each family's least, middle and greatest network that the gate's space holds and its caps allow, each once.

    Families that the space does not hold are left out. The smallest of every family come first.
    """
    found = [_spread(list(_scaled(gate, family))) for family in FAMILIES]
    ranked = [reference for rank in range(3) for some in found for reference in some[rank : rank + 1]]
    return list({reference.candidate.key: reference for reference in ranked}.values())


def _scaled(gate: Gate, family: str) -> Iterator[Reference]:
    # One that has been trained is a reference all the same, so this gate has seen none.
    unbiased = Gate(gate.space, gate.caps, latency=gate.latency)
    for scale in SCALES:
        genotype = _genotype(gate.space, family, scale)
        verdict = unbiased.check(genotype) if genotype is not None else "invalid"
        if isinstance(verdict, Candidate) and verdict.arch.family == family:
            yield Reference(family, verdict, gate.space.encode(verdict.arch))


def _genotype(space: SearchSpace, family: str, scale: float) -> dict[str, Option] | None:
    wanted = FAMILIES[family]
    chosen: dict[str, Option] = {}

    def choose(name: str, options: Sequence[Option]) -> Option:
        gene = name.partition(".")[0]
        if gene in SIZES:
            chosen[name] = options[round(scale * (len(options) - 1))]
        else:
            chosen[name] = _nearest(options, wanted[gene]) if gene in wanted else options[0]
        return chosen[name]

    try:
        space.walk(choose)
    except InvalidGenotype:
        return None
    return chosen


def _nearest(options: Sequence[Option], wanted: Option) -> Option:
    """The option itself, or the number that is nearest by its ratio, or the first."""
    if wanted in options or not isinstance(wanted, int):
        return wanted if wanted in options else options[0]
    numbers = [option for option in options if isinstance(option, (int, float)) and option > 0]
    return min(numbers, key=lambda option: abs(math.log(option / wanted)), default=options[0])


def _spread(some: list[Reference]) -> list[Reference]:
    """The first, the middle and the last of networks in ascending order of size."""
    return [some[place] for place in dict.fromkeys((0, (len(some) - 1) // 2, len(some) - 1))] if some else []
