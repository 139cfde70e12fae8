"""How well do short trainings rank networks, and which schedule ranks best for its steps?

    python benchmarks/fidelity.py --data cifar10.npz --rows fidelity.csv --workers 2
    python benchmarks/fidelity.py --rows fidelity.csv --report

Trains random networks of a space under two regimes (an equal-cost band, and the whole range of costs; a third, "all",
takes every network of a small space), with several seeds, by every schedule and to every budget. Each finished training
is appended to the file of rows, so the same command goes on after an interruption. The report, in Markdown, gives for
each schedule and budget the rank correlation with the longest training of another seed by one schedule for all, against
two controls: MACs alone, and the longest training of one seed against that of another, the ceiling that noise sets.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np
import torch

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.data import load
from nas.evidence import kendall, spearman
from nas.machine import keep_freed_memory
from nas.record import environment
from nas.space import SearchSpace
from nas.train import RECIPES, recipe_for, train
from nas.train.recipe import Schedule

BAND = 1.1
"""Networks of the equal-cost band differ in MACs by at most this factor."""
POOL = 4000
"""Random networks among which those of a regime are chosen."""


@dataclass(frozen=True)
class Row:
    """The accuracy of one network, trained by one schedule from one seed to one budget of steps.

    spent_steps: all steps that a climb through the smaller budgets to this one took. train_loss: its mean over the
    epochs; nan in rows of before it was noted.
    """

    regime: str
    key: str
    macs: int
    seed: int
    schedule: str
    budget: int
    spent_steps: int
    accuracy: float
    val_loss: float
    seconds: float
    train_loss: float = math.nan


@dataclass(frozen=True)
class Task:
    """The trainings of one network from one seed by one schedule, to all budgets."""

    regime: str
    arch: Architecture
    macs: int
    seed: int
    schedule: Schedule
    budgets: tuple[int, ...]
    data: dict[str, Any]
    recipe: str | None
    device: str


def main() -> None:
    options = parse()
    if not options.report:
        for _ in run(tasks(options), options.rows, options.workers):
            print(".", end="", flush=True)
        print()
    print(report(read(options.rows), options.reference))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="CSV file of the finished trainings")
    parser.add_argument("--report", action="store_true", help="train nothing, report what the rows say")
    parser.add_argument("--data", default="digits", help="as in nas search [digits]")
    parser.add_argument("--space", default="cifar", help="a space's TOML file, or a shipped one's name [cifar]")
    parser.add_argument("--networks", type=int, default=24, help="networks in each regime [24]")
    parser.add_argument("--regimes", default="band,range", help="of band, range, all (every network) [band,range]")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each training [2]")
    parser.add_argument("--images", type=int, default=10_000, help="training images [10000]")
    parser.add_argument("--budgets", default="20,40,80,160,320", help="steps, rising [20,40,80,160,320]")
    parser.add_argument("--schedules", default=",".join(get_args(Schedule)), help="[all]")
    parser.add_argument("--reference", default="average", help="schedule whose longest are the truth [average]")
    parser.add_argument("--band-quantile", type=float, default=0.1, help="where in the MACs the band begins [0.1]")
    parser.add_argument("--max-macs", type=float, default=math.inf, help="no network above, in either regime [none]")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="[0.1]")
    parser.add_argument("--recipe", default=None, help="[by the data]")
    parser.add_argument("--device", default="auto", help="[auto]")
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each [1]")
    return parser.parse_args()


def tasks(options: argparse.Namespace) -> list[Task]:
    """Every task, seed by seed, so that an interrupted run has whole seeds."""
    space = SearchSpace.load(options.space)
    data = {
        "source": options.data,
        "image_size": space.input_size,
        "val_fraction": options.val_fraction,
        "train_images": options.images,
    }
    budgets = tuple(sorted(int(steps) for steps in options.budgets.split(",")))
    regimes = options.regimes.split(",")
    networks = [("all", arch, cost(arch, space.input_size).macs) for arch in space] if "all" in regimes else []
    if set(regimes) & {"band", "range"}:
        networks += chosen(space, options.networks, options.band_quantile, options.max_macs)
    return [
        Task(regime, arch, macs, seed, schedule, budgets, data, options.recipe, options.device)
        for seed in range(options.seeds)
        for (regime, arch, macs), schedule in itertools.product(networks, options.schedules.split(","))
        if regime in regimes
    ]


def chosen(
    space: SearchSpace, count: int, band_quantile: float, max_macs: float
) -> list[tuple[str, Architecture, int]]:
    """`count` networks of the band that begins at a quantile of the MACs, and `count` spread evenly over log MACs."""
    rng = random.Random(0)
    pool = {arch.key: arch for arch in (space.sample(rng) for _ in range(POOL))}
    priced = sorted(((cost(arch, space.input_size).macs, key) for key, arch in pool.items()))
    priced = [(macs, key) for macs, key in priced if macs <= max_macs]
    begin = priced[int(band_quantile * len(priced))][0]
    band = [(macs, key) for macs, key in priced if begin <= macs <= BAND * begin]
    if len(band) < count:
        raise ValueError(f"the band from {begin:,} MACs holds {len(band)} networks, but {count} are asked for")
    aims = np.geomspace(priced[0][0], priced[-1][0], count)
    free = list(priced)
    spread = []
    for aim in aims:
        nearest = min(free, key=lambda one: abs(math.log(one[0] / aim)))
        free.remove(nearest)
        spread.append(nearest)
    return [
        (regime, pool[key], macs)
        for regime, found in (("band", rng.sample(band, count)), ("range", spread))
        for macs, key in found
    ]


def run(todo: Sequence[Task], path: Path, workers: int) -> Iterator[None]:
    """Trains what `path` lacks, and appends the rows of each task when it is finished."""
    done = {(row.regime, row.key, row.seed, row.schedule, row.budget) for row in read(path)}
    left = [
        task
        for task in todo
        if any((task.regime, task.arch.key, task.seed, task.schedule, budget) not in done for budget in task.budgets)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=as_worker) as pool:
        for future in as_completed([pool.submit(climb, task) for task in left]):
            append(path, future.result())
            yield


def as_worker() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def climb(task: Task) -> list[Row]:
    """One budget after the other; schedules whose larger budgets continue the smaller ones do."""
    data = load(**task.data)
    recipe = replace(RECIPES[task.recipe or recipe_for(data)], schedule=task.schedule)
    rows: list[Row] = []
    spent, seconds = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for budget in task.budgets:
            fresh = task.schedule == "cycle"
            checkpoint = None if fresh else Path(folder) / "checkpoint.pt"
            result = train(
                task.arch, data, recipe, steps=budget, seed=task.seed, device=task.device, checkpoint=checkpoint
            )
            spent = (spent if fresh else 0) + result.spent_steps
            seconds = (seconds if fresh else 0.0) + result.seconds
            accuracy = result.accuracy or 0.0  # a diverged training ranks last
            loss = math.inf if result.val_loss is None else result.val_loss
            known = (task.regime, task.arch.key, task.macs, task.seed, task.schedule, budget)
            train_loss = math.inf if result.val_loss is None else fmean(result.loss_curve)
            rows.append(Row(*known, spent, accuracy, loss, round(seconds, 2), train_loss))
    return rows


def read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{field.name: kinds[str(field.type)](line[field.name]) for field in fields(Row) if field.name in line})
            for line in csv.DictReader(file)
        ]


def append(path: Path, rows: Sequence[Row]) -> None:
    """With the columns that the file has, which may be of before one was added; all of them in a new file."""
    fresh = not path.is_file()
    names = [field.name for field in fields(Row)]
    if not fresh:
        with path.open(newline="", encoding="utf-8") as file:
            names = next(csv.reader(file))
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def report(rows: Sequence[Row], reference: str) -> str:
    where = environment()
    lines = [f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, torch {where['versions']['torch']}"]
    for regime in sorted({row.regime for row in rows}):
        lines += ["", *section(regime, [row for row in rows if row.regime == regime], reference)]
    return "\n".join(lines)


def section(regime: str, rows: Sequence[Row], reference: str) -> list[str]:
    """Only networks that have every schedule, budget and seed are compared."""
    seeds = sorted({row.seed for row in rows})
    kinds = sorted({(row.schedule, row.budget) for row in rows})
    found = {(row.key, row.seed, row.schedule, row.budget): row for row in rows}
    macs = {row.key: row.macs for row in rows}
    keys = [key for key in macs if all((key, seed, *kind) in found for seed in seeds for kind in kinds)]
    if len(seeds) < 2 or len(keys) < 3:
        return [f"{regime}: {len(keys)} networks with {len(seeds)} seeds are whole: too few to compare"]
    longest = max(budget for _, budget in kinds)
    if (reference, longest) not in kinds:
        there = ", ".join(sorted({schedule for schedule, _ in kinds}))
        return [f"{regime}: no trainings by {reference}, the reference: choose another of {there}"]
    spent = {kind: max(row.spent_steps for row in rows if (row.schedule, row.budget) == kind) for kind in kinds}

    def column(seed: int, kind: tuple[str, int], score: Callable[[Row], float]) -> list[float]:
        return [score(found[(key, seed, *kind)]) for key in keys]

    truth = {seed: column(seed, (reference, longest), by_accuracy) for seed in seeds}

    def against_others(values: Callable[[int], list[float]]) -> str:
        """Mean over the pairs of different seeds: values of one, longest training of the other."""
        pairs = [(values(a), truth[b]) for a, b in itertools.permutations(seeds, 2)]
        if any(len(set(x)) < 2 or len(set(y)) < 2 for x, y in pairs):
            return "- | -"
        rho, tau = (np.mean([measure(x, y) for x, y in pairs]) for measure in (spearman, kendall))
        return f"{rho:.2f} | {tau:.2f}"

    best = [accuracy for values in truth.values() for accuracy in values]
    prices = [macs[key] for key in keys]
    lines = [
        f"**{regime}**: {len(keys)} networks of {min(prices):,} to {max(prices):,} MACs, {len(seeds)} seeds; "
        f"accuracies of the longest trainings by {reference} {min(best):.3f} to {max(best):.3f}",
        "",
        "| schedule | steps | steps spent on the way | Spearman | Kendall | Spearman by loss | Kendall by loss |",
        "|---|---|---|---|---|---|---|",
        f"| MACs alone | 0 | 0 | {against_others(lambda _: [float(price) for price in prices])} | - | - |",
    ]
    for kind in kinds:
        ceiling = " (the ceiling)" if kind == (reference, longest) else ""
        shown = " | ".join(
            against_others(lambda seed, kind=kind, score=score: column(seed, kind, score))  # type: ignore[misc]
            for score in (by_accuracy, by_loss)
        )
        lines.append(f"| {kind[0]}{ceiling} | {kind[1]} | {spent[kind]} | {shown} |")
    return lines


def by_accuracy(row: Row) -> float:
    return row.accuracy


def by_loss(row: Row) -> float:
    """A diverged training ranks last."""
    return -min(row.val_loss, 1e9)


if __name__ == "__main__":
    main()
