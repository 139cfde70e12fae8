"""Architectures priced per second: fvcore and PyTorch's counter on built networks, the formula, the formula for tables.

    python benchmarks/cost.py [--space cifar] [--seconds 5]

One thread, one process, the methods in turn over several rounds, so that what slows the machine slows them alike.
Every method prices networks of the same seeded table of valid genotypes; the counts are compared before anything is
timed. Prints a Markdown table with medians and ranges over the rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.arch import Architecture
from nas.cost import formula
from nas.cost.measure import measure
from nas.cost.table import Counts, price, random_codes
from nas.models import build
from nas.record import environment
from nas.space import SearchSpace

TABLE = 1_000_000
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Architectures priced per second, by four methods side by side.")
    parser.add_argument("--space", default="cifar", help="a space's TOML file, or a shipped one's name")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each method in each round")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load(options.space)
    codes = valid_codes(space, TABLE, options.seed)
    networks = [decoded(space, row) for row in codes[:2000]]
    check(space, codes, networks)
    methods: dict[str, Callable[[], float]] = {
        "fvcore on the built network": lambda: rate(
            lambda arch: measure(arch, space.input_size), networks, options.seconds
        ),
        "FlopCounterMode on the built network": lambda: rate(
            lambda arch: flop_counter(arch, space.input_size), networks, options.seconds
        ),
        "formula, one network at a time": lambda: rate(
            lambda arch: formula.cost(arch, space.input_size), networks, options.seconds
        ),
        f"table of {TABLE:,} genotypes": lambda: table_rate(space, codes),
    }
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(ROUNDS):
        for name, run in methods.items():
            rates[name].append(run())
    show(space, rates)


def valid_codes(space: SearchSpace, count: int, seed: int) -> Counts:
    """`count` random genotypes that name a network."""
    rng = np.random.default_rng(seed)
    found: list[Counts] = []
    while sum(map(len, found)) < count:
        codes = random_codes(space, count, rng)
        found.append(codes[price(space, codes).valid])
    return np.concatenate(found)[:count]


def decoded(space: SearchSpace, row: Counts) -> Architecture:
    return space.decode({gene.name: gene.options[code] for gene, code in zip(space.genes, row, strict=True)})


def check(space: SearchSpace, codes: Counts, networks: Sequence[Architecture]) -> None:
    """All methods agree: 2,000 networks by formula and table, 3 of them by the counters."""
    table = price(space, codes[: len(networks)])
    for row, arch in enumerate(networks):
        exact = formula.cost(arch, space.input_size)
        assert (exact.params, exact.macs, exact.activations) == tuple(table.costs[row].tolist())
    for arch in networks[:3]:
        exact = formula.cost(arch, space.input_size)
        assert measure(arch, space.input_size).macs == exact.macs
        assert flop_counter(arch, space.input_size) == 2 * exact.macs


def flop_counter(arch: Architecture, input_size: int) -> int:
    network = build(arch).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, arch.in_channels, input_size, input_size))
    return int(counter.get_total_flops())


def rate(run: Callable[[Architecture], object], networks: Sequence[Architecture], seconds: float) -> float:
    """Networks a second, taken at random for at least `seconds`."""
    rng = random.Random(0)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run(rng.choice(networks))
        done += 1
    return done / (time.perf_counter() - start)


def table_rate(space: SearchSpace, codes: Counts) -> float:
    start = time.perf_counter()
    price(space, codes)
    return len(codes) / (time.perf_counter() - start)


def show(space: SearchSpace, rates: dict[str, list[float]]) -> None:
    where = environment()
    print(f"space {space.name}, {where['cpu']}, one thread, torch {where['versions']['torch']}, {ROUNDS} rounds\n")
    print("| method | architectures/s, median (range) | times fvcore |")
    print("|---|---|---|")
    base = statistics.median(next(iter(rates.values())))
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"| {name} | {median:,.0f} ({min(values):,.0f} to {max(values):,.0f}) | {median / base:,.0f} |")


if __name__ == "__main__":
    main()
