"""`nas cost` and `nas latency`: networks by name or by file."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nas import terminal

if TYPE_CHECKING:
    from nas.arch import Architecture
    from nas.device import Precision
    from nas.export.config import FoundNetwork


def cost(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK", help="Published networks by name, or config.json files.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images. [the network's own]", min=1)] = None,
    measure: Annotated[bool, typer.Option(help="Also build each network and let fvcore count it.")] = True,
    per_stage: Annotated[bool, typer.Option("--per-stage", help="Also show what each stage costs.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show all published networks, by formula.")] = False,
) -> None:
    """Count parameters, multiply-adds and activations, by formula and by fvcore.

    \b
    nas cost resnet50 resnext50_32x4d sknet50 resnest50
    nas cost resnest50 --per-stage --input-size 32
    nas cost results/digits/best/*/config.json --no-measure
    nas cost --list
    """
    from nas.cost.formula import cost_by_stage

    screen = terminal.console()
    if listed:
        if networks:
            raise ValueError(f"--list shows all published networks: it cannot stand beside {networks[0]!r}")
        screen.print(terminal.cost_table("Published networks, 224 x 224 pixels", _published()))
        screen.print(_PRINTED, highlight=False)
        return
    if not networks:
        raise ValueError("name a published network or a config.json: `nas cost --list` shows the names")
    sized = _sized(networks, input_size)
    rows = [_priced(found, side) for found, side in sized]
    uncounted: set[str] = set()
    if measure:
        from nas.cost.measure import measure as count

        for row, (found, side) in zip(rows, sized, strict=True):
            counted = count(found.architecture, side)
            equal = all(row[name] == getattr(counted, name) for name in ("params", "macs", "activations"))
            row |= {"fvcore": "equal" if equal else f"{counted.macs:,}", "fvcore total": counted.fvcore_total}
            uncounted.update(counted.unsupported)
    printed = [found.published if side == found.input_size else None for found, side in sized]
    if any(printed):
        for row, published in zip(rows, printed, strict=True):
            row["GFLOPs in print"] = published.gflops if published else None
            row["top-1 in print"] = published.top1 if published else None
    screen.print(terminal.cost_table("Cost", rows))
    if uncounted:
        screen.print(_uncounted(uncounted), highlight=False)
    if per_stage:
        for found, side in sized:
            parts = cost_by_stage(found.architecture, side)
            screen.print(terminal.stages_table(f"{found.label}, {side} x {side} pixels", parts))


def _priced(found: FoundNetwork, side: int) -> dict[str, Any]:
    from nas.cost.formula import cost as formula

    exact = formula(found.architecture, side)
    return {"network": found.label, "family": found.architecture.family, "input": side, **asdict(exact)}


_PRINTED = (
    "GFLOPs and top-1 (percent) are the figures in print, read in a table or recalled from the paper; "
    "recipes differ, so compare top-1 within one source only"
)


def _published() -> list[dict[str, Any]]:
    from nas.cost.formula import cost as formula
    from nas.zoo import PUBLISHED

    return [
        {
            "network": network.name,
            "paper": network.paper,
            **asdict(formula(network.architecture, network.input_size)),
            "GFLOPs": network.gflops,
            "top-1": network.top1,
            "source": network.source,
        }
        for network in PUBLISHED.values()
    ]


def _uncounted(operators: Iterable[str]) -> str:
    """fvcore's unsupported operators in words: aten::add_ is add."""
    names = sorted({operator.rpartition("::")[2].rstrip("_") for operator in operators})
    return (
        f"fvcore counts nothing for {', '.join(names)}: they are no convolution or linear layer, "
        "so macs do not depend on them"
    )


def latency(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK", help="Names of published networks, or files.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Also random networks of this space, file or shipped name.")] = None,
    samples: Annotated[int | None, typer.Option(help="How many random networks. [24]", min=1)] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images. [the file's or space's]", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Images a pass.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, or auto: bf16 on GPUs and CPUs that have it.")
    ] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Samples of each network.")] = 30,
    warmup: Annotated[int, typer.Option(help="Passes of each network before the first sample.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of random networks, order, weights and images.")] = 0,
) -> None:
    """Time networks side by side on this machine; from five on, say how well their costs predict the times.

    \b
    nas latency resnet50 resnext50_32x4d sknet50 resnest50
    nas latency config.json --batch-size 32 --threads 2 --device cpu
    nas latency --space cifar --samples 40 --device cuda --precision bf16
    """
    from nas.cost.formula import cost as formula
    from nas.cost.latency import measure_latency, rank_correlations

    if samples is not None and space is None:
        raise ValueError(f"--samples {samples} counts random networks of a space: give --space")
    sized = _sized(list(dict.fromkeys(names or [])), input_size)
    networks = {network.label: (network.architecture, side) for network, side in sized}
    if space is not None:
        networks |= _random_networks(space, 24 if samples is None else samples, seed, input_size)
    if not networks:
        raise ValueError("nothing to time: name published networks or config.json files, or give --space")
    found = measure_latency(
        networks,
        batch_size=batch_size,
        threads=threads,
        precision=cast("Precision", precision),  # measure_latency refuses any other
        device=device,
        repeats=repeats,
        warmup=warmup,
        seed=seed,
    )
    costs = [formula(arch, side) for arch, side in networks.values()]
    screen = terminal.console()
    screen.print(terminal.latency_table(costs, found))
    screen.print(terminal.latency_terms(found[0]), highlight=False)
    if len(found) >= 5:
        screen.print(terminal.correlation_table(rank_correlations(costs, found, seed=seed)))


def _sized(sources: Sequence[str], input_size: int | None) -> list[tuple[FoundNetwork, int]]:
    """The networks of names and files with the side of their images, `input_size` before a network's own."""
    from nas.export.config import find_network

    sized = []
    for source, label in zip(sources, _labels(sources), strict=True):
        found = replace(find_network(source), label=label)
        side = input_size or found.input_size
        if side is None:
            raise ValueError(f"{source} names no input_size: give --input-size")
        sized.append((found, side))
    return sized


def _labels(sources: Sequence[str]) -> list[str]:
    """Each source by the last parts of its path, two or as many as tell all of them apart."""
    paths = [Path(source).parts for source in sources]
    tails = (["/".join(parts[-count:]) for parts in paths] for count in range(2, max(map(len, paths), default=0) + 2))
    return next((labels for labels in tails if len(set(labels)) == len(set(sources))), list(sources))


def _random_networks(
    source: str, samples: int, seed: int, input_size: int | None
) -> dict[str, tuple[Architecture, int]]:
    from nas.space import SearchSpace

    found = SearchSpace.load(source)
    side = input_size or found.input_size
    return {arch.key: (arch, side) for arch in found.sample_different(samples, random.Random(seed))}
