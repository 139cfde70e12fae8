"""How well do macs, params and activations rank networks by the time they take?

    python benchmarks/latency.py
    python benchmarks/latency.py --space imagenet --device cuda --precision bf16 --batch-size 256

Times random networks of a space at batch 1 and at a larger batch, and prints, in Markdown: the rank correlations with
their intervals, and the pairs of networks of nearly the same macs whose times differ most.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import torch

from nas.arch import GENES, Architecture
from nas.cost.formula import Cost, cost
from nas.cost.latency import Latency, measure_latency, rank_correlations
from nas.device import Precision
from nas.space import SearchSpace
from nas.units import format_count

SAME_MACS = 1.05
"""Two networks have nearly the same macs when these differ by at most this factor."""

SHOWN = 5
"""Pairs of disagreeing networks to print."""


@dataclass(frozen=True)
class Network:
    """One network of the sample, priced and timed."""

    arch: Architecture
    cost: Cost
    latency: Latency


def main() -> None:
    options = parse()
    space = SearchSpace.load(options.space)
    sample = space.sample_different(options.samples, random.Random(options.seed))
    networks = {arch.key: (arch, space.input_size) for arch in sample}
    costs = [cost(arch, space.input_size) for arch in sample]
    for batch_size in sorted({1, options.batch_size}):
        latencies = measure_latency(
            networks,
            batch_size=batch_size,
            threads=options.threads,
            precision=options.precision,
            device=options.device,
            repeats=options.repeats,
            seed=options.seed,
        )
        timed = [Network(*one) for one in zip(sample, costs, latencies, strict=True)]
        print(section(space.name, timed, options.seed), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--space", default="cifar", help="a space's TOML file, or a shipped one's name [cifar]")
    parser.add_argument("--samples", type=int, default=24, help="different random networks [24]")
    parser.add_argument("--batch-size", type=int, default=32, help="the larger batch; batch 1 is always timed [32]")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads [1]")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32", help="[fp32]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--repeats", type=int, default=30, help="samples of each network [30]")
    parser.add_argument("--seed", type=int, default=0, help="of networks, order, weights and images [0]")
    return parser.parse_args()


def section(space: str, timed: Sequence[Network], seed: int) -> str:
    """One batch size as Markdown."""
    latencies = [one.latency for one in timed]
    first = latencies[0]
    times = [one.median_ms for one in latencies]
    width = statistics.median((one.high_ms - one.low_ms) / one.median_ms for one in latencies)
    return f"""
### {space}, batch {first.batch_size}, {first.precision}, {first.device}, {first.threads} CPU thread(s)

Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores; n = {len(timed)} networks, seed \
{seed}; {first.samples} samples each; {min(times):.3f} to {max(times):.3f} ms; the {100 * first.coverage:.1f} % \
interval of a median is {100 * width:.1f} % wide (median over networks).

{correlations(timed, seed)}

Nearly the same macs (within {100 * (SAME_MACS - 1):.0f} %), most different times:

{disagreements(timed)}
"""


def correlations(timed: Sequence[Network], seed: int) -> str:
    found = rank_correlations([one.cost for one in timed], [one.latency for one in timed], seed=seed)
    rows = [{"cost": name, "Spearman": str(rho), "Kendall": str(tau)} for name, (rho, tau) in found.items()]
    return markdown(rows, ["cost", "Spearman", "Kendall"])


def disagreements(timed: Sequence[Network]) -> str:
    """Each network at most once, the pair with the greatest ratio of times first; the slower one stands first."""
    pairs = []
    for pair in combinations(timed, 2):
        slow, fast = sorted(pair, key=lambda one: one.latency.median_ms, reverse=True)
        if max(slow.cost.macs, fast.cost.macs) <= SAME_MACS * min(slow.cost.macs, fast.cost.macs):
            pairs.append((slow.latency.median_ms / fast.latency.median_ms, slow, fast))
    pairs.sort(key=lambda one: one[0], reverse=True)
    rows: list[dict[str, str]] = []
    taken: set[str] = set()
    for ratio, slow, fast in pairs:
        if taken.isdisjoint((slow.arch.key, fast.arch.key)) and len(rows) < 2 * SHOWN:
            taken |= {slow.arch.key, fast.arch.key}
            rows += [{"ratio": f"{ratio:.2f}", **described(slow)}, {"ratio": "", **described(fast)}]
    return markdown(rows, ["ratio", "ms", "macs", "activations", "family", *GENES]) if rows else "none"


def described(one: Network) -> dict[str, str]:
    return {
        "ms": f"{one.latency.median_ms:.3f}",
        "macs": format_count(one.cost.macs),
        "activations": format_count(one.cost.activations),
        "family": one.arch.family,
        **one.arch.summary(),
    }


def markdown(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
