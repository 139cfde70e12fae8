"""How much of a table's true front do the samplers find, after how many trials?

    python benchmarks/search_quality.py --table nasbench201.csv.gz --genes 'op_*' --costs macs \\
        --accuracy c10_test_200ep --key UniqueString --samplers random,local,ehvi --workers 2

A table is a CSV file with one line for each network: columns of genes, of costs, of accuracies, and perhaps a key that
equal networks share. Genes named by --ordered are ordered (numbers), all others are not. A search sees --proxy, by
default the same column as --accuracy, the truth; several columns of a proxy, joined by "+", are noisy observations of
which each trial sees one at random. No sampler gets a network twice: a proposal whose key is taken is drawn again, at
last a random network that is left.

Reported, over the seeds: the true hypervolume of all networks evaluated, and of those on the front as the search saw
it, as shares of the whole table's, over logarithms of costs and above the --quantile of the true accuracies; and the
trials needed to reach what random search has after 200 and after 1,000 trials. Deterministic, but for the seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: seeds run side by side

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from nas.pareto import hypervolume, hypervolume_trace, non_dominated
from nas.record import environment
from nas.search.ehvi import EHVISampler, Known, Table
from nas.search.local_search import LocalSearchSampler

Floats = NDArray[np.float64]

REDRAWS = 20
RANDOM_MARKS = (200, 1_000)
MARKS = (25, 50, 100, 200)


@dataclass(frozen=True, eq=False)
class Problem:
    """A table as a search sees it: N networks, G genes, C costs, P columns of the proxy."""

    space: dict[str, BaseDistribution]
    codes: NDArray[np.int64]
    options: dict[str, list[Any]]
    keys: NDArray[np.int64]
    costs: Floats
    observed: Floats
    truth: Floats
    floor: float
    """Accuracies below are of no interest."""
    seen_floor: float
    """The same share of the accuracies that a search sees."""

    @classmethod
    def read(cls, options: argparse.Namespace) -> Problem:
        table = pd.read_csv(options.table)
        names = [name for name in table.columns if any(fnmatchcase(name, one) for one in options.genes.split(","))]
        ordered = set(options.ordered.split(","))
        values = {name: sorted(table[name].unique().tolist()) for name in names}
        space: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(found) - 1) if name in ordered else CategoricalDistribution(found)
            for name, found in values.items()
        }
        columns = [table[name].map({value: code for code, value in enumerate(values[name])}) for name in names]
        codes = np.stack([column.to_numpy(np.int64) for column in columns], axis=1)
        truth = mean_of(table, options.accuracy)
        observed = table[(options.proxy or options.accuracy).split("+")].to_numpy(np.float64)
        key = options.key.split(",") if options.key else names
        return cls(
            space=space,
            codes=codes,
            options=values,
            keys=table.groupby(key, sort=False).ngroup().to_numpy().astype(np.int64),
            costs=table[options.costs.split(",")].to_numpy(np.float64),
            observed=observed,
            truth=truth,
            floor=float(np.quantile(truth, options.quantile)),
            seen_floor=float(np.quantile(observed, options.quantile)),
        )

    @cached_property
    def row_of(self) -> dict[tuple[int, ...], int]:
        """Codes -> the network's row."""
        return {tuple(code): row for row, code in enumerate(self.codes.tolist())}

    def code(self, name: str, value: Any) -> int:
        return int(value) if isinstance(self.space[name], IntDistribution) else self.options[name].index(value)

    def code_of(self, params: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(self.code(name, params[name]) for name in self.space)

    def is_new(self, params: Mapping[str, Any], taken: Collection[int]) -> bool:
        """Whether the table has this network and its key is not taken."""
        row = self.row_of.get(self.code_of(params))
        return row is not None and int(self.keys[row]) not in taken

    def params(self, row: int) -> dict[str, Any]:
        chosen = zip(self.space.items(), self.codes[row].tolist(), strict=True)
        return {
            name: code if isinstance(kind, IntDistribution) else self.options[name][code]
            for (name, kind), code in chosen
        }

    def known_costs(self, table: Table) -> Floats:
        """Costs by the table; nan for genotypes that it lacks."""
        columns = [[self.code(name, value) for value in table[name].tolist()] for name in self.space]
        rows = [self.row_of.get(code, -1) for code in zip(*columns, strict=True)]
        return np.concatenate([self.costs, np.full((1, self.costs.shape[1]), np.nan)])[rows]

    def losses(self, rows: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Logarithms of costs from 0 to 1 and accuracies from -1 to 0 within the region of interest, true ones."""
        logs = np.log(self.costs)
        scaled = (logs - logs.min(axis=0)) / np.maximum(np.ptp(logs, axis=0), 1e-12)
        reach = (self.truth - self.floor) / (self.truth.max() - self.floor)
        return np.column_stack([scaled, -reach])[rows]

    @property
    def reference(self) -> Floats:
        return np.array([1.0 + 1e-9] * self.costs.shape[1] + [0.0])

    def reported(self, rows: Sequence[int], seen: Sequence[float]) -> float:
        """True hypervolume of the networks on the front as the search saw it."""
        mask = non_dominated(np.column_stack([self.costs[list(rows)], -np.array(seen)]))
        return hypervolume(self.losses(np.array(rows)[mask]), self.reference)


def mean_of(table: pd.DataFrame, columns: str) -> Floats:
    means: Floats = table[columns.split("+")].to_numpy(np.float64).mean(axis=1)
    return means


Admit = Callable[[Mapping[str, Any]], bool]
"""Whether the network of these parameters is new."""


def ehvi(problem: Problem, seed: int, admit: Admit, floor: float | None = None) -> BaseSampler:
    return EHVISampler(Known(problem.known_costs, admit=admit), seed=seed, accuracy_floor=floor)


METHODS: dict[str, Callable[[Problem, int, Admit], BaseSampler]] = {
    "random": lambda _, seed, __: RandomSampler(seed),
    "nsga2": lambda _, seed, __: NSGAIISampler(population_size=20, seed=seed),
    "tpe": lambda _, seed, __: TPESampler(seed=seed),
    "tpe-mv": lambda _, seed, __: TPESampler(multivariate=True, constant_liar=True, seed=seed),
    "gp": lambda _, seed, __: GPSampler(seed=seed),
    "local": lambda _, seed, __: LocalSearchSampler(seed=seed),
    "ehvi": ehvi,
    "ehvi-floor": lambda problem, seed, admit: ehvi(problem, seed, admit, problem.seen_floor),
}


def searched(
    problem: Problem, method: str, seed: int, trials: int, pending: int
) -> tuple[list[int], list[float], float]:
    """Rows evaluated in order, until none is left, the accuracies seen, and CPU seconds; `pending` run at once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng([seed, 1])
    begun = time.process_time()
    taken: set[int] = set()
    sampler = METHODS[method](problem, seed, lambda params: problem.is_new(params, taken))
    directions = [StudyDirection.MINIMIZE] * problem.costs.shape[1] + [StudyDirection.MAXIMIZE]
    study = optuna.create_study(directions=directions, sampler=sampler)
    rows: list[int] = []
    seen: list[float] = []
    under_way: list[tuple[optuna.Trial, int, float]] = []
    for _ in range(min(trials, len(set(problem.keys.tolist())))):
        trial, row = new_trial(problem, study, taken, rng)
        taken.add(int(problem.keys[row]))
        accuracy = float(rng.choice(problem.observed[row]))
        rows.append(row)
        seen.append(accuracy)
        under_way.append((trial, row, accuracy))
        if len(under_way) >= pending:
            done, its_row, value = under_way.pop(0)
            study.tell(done, [*problem.costs[its_row], value])
    return rows, seen, time.process_time() - begun


def new_trial(
    problem: Problem, study: optuna.Study, taken: set[int], rng: np.random.Generator
) -> tuple[optuna.Trial, int]:
    for _ in range(REDRAWS):
        trial = study.ask(problem.space)
        if problem.is_new(trial.params, taken):
            return trial, problem.row_of[problem.code_of(trial.params)]
        study.tell(trial, state=TrialState.FAIL)
    left = [row for row in range(len(problem.keys)) if int(problem.keys[row]) not in taken]
    row = int(rng.choice(left))
    study.enqueue_trial(problem.params(row))
    return study.ask(problem.space), row


def outcome(problem: Problem, method: str, seed: int, trials: int, pending: int) -> dict[str, Any]:
    rows, seen, seconds = searched(problem, method, seed, trials, pending)
    whole = hypervolume(problem.losses(np.arange(len(problem.truth))), problem.reference)
    trace = hypervolume_trace(problem.losses(rows), problem.reference) / whole
    trace = np.append(trace, np.full(trials - len(rows), trace[-1]))
    reported = {mark: problem.reported(rows[:mark], seen[:mark]) / whole for mark in MARKS if mark <= trials}
    return {"trace": trace.tolist(), "reported": reported, "seconds": seconds / len(rows)}


def reached(trace: Sequence[float], level: float) -> float:
    return next((float(trial) for trial, share in enumerate(trace, 1) if share >= level), float("inf"))


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})" if np.isfinite(high) else f"{middle:.3f} ({low:.3f} to -)"


def report(found: dict[str, list[dict[str, Any]]], trials: int) -> str:
    marks = [mark for mark in MARKS if mark <= trials]
    goals = {}
    for mark in RANDOM_MARKS:
        known = [one["trace"][mark - 1] for one in found.get("random", []) if len(one["trace"]) >= mark]
        if known:
            goals[mark] = statistics.median(known)
    heads = [f"after {mark}" for mark in marks]
    heads += [f"worst seed after {marks[-1]}", f"reported front after {marks[-1]}"]
    heads += [f"trials to {level:.3f} (random's {mark})" for mark, level in goals.items()]
    lines = ["| sampler | " + " | ".join([*heads, "CPU s an ask"]) + " |", "|" + "---|" * (len(heads) + 2)]
    for method, outcomes in found.items():
        cells = [quartiles([one["trace"][mark - 1] for one in outcomes]) for mark in marks]
        cells.append(f"{min(one['trace'][marks[-1] - 1] for one in outcomes):.3f}")
        cells.append(quartiles([one["reported"][marks[-1]] for one in outcomes]))
        for level in goals.values():
            needed = [reached(one["trace"], level) for one in outcomes]
            middle = float(np.quantile(needed, 0.5, method="nearest"))
            cells.append(f"{middle:.0f}" if np.isfinite(middle) else "-")
        cells.append(f"{statistics.mean(one['seconds'] for one in outcomes):.3f}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parse()
    problem = Problem.read(options)
    methods = options.samplers.split(",")
    where = environment()
    print(f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, optuna {where['versions']['optuna']}")
    print(
        f"{options.table.name}: {len(problem.truth):,} networks, {len(set(problem.keys.tolist())):,} different; ",
        end="",
    )
    print(f"{options.seeds} seeds, medians (quartiles); {options.pending} trials at once\n", flush=True)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        tasks = {
            method: [
                pool.submit(outcome, problem, method, seed, length(method, options), options.pending)
                for seed in range(options.first_seed, options.first_seed + options.seeds)
            ]
            for method in methods
        }
        found = {method: [task.result() for task in each] for method, each in tasks.items()}
    print(report(found, options.trials))


def length(method: str, options: argparse.Namespace) -> int:
    """Random search goes on, so that its later hypervolumes are known."""
    trials: int = options.trials
    return max(trials, RANDOM_MARKS[-1]) if method == "random" else trials


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--table", type=Path, required=True, help="CSV file, compressed or not")
    parser.add_argument("--genes", required=True, help="columns of genes, names or patterns, joined by commas")
    parser.add_argument("--ordered", default="", help="those of them that are ordered [none]")
    parser.add_argument("--costs", default="macs", help="columns of costs [macs]")
    parser.add_argument("--accuracy", required=True, help='column of the truth, or several, joined by "+": their mean')
    parser.add_argument("--proxy", default="", help="column that the search sees, or several [the truth]")
    parser.add_argument("--key", default="", help="columns that equal networks share [the genes]")
    parser.add_argument("--quantile", type=float, default=0.3, help="of the accuracies, below which none counts [0.3]")
    parser.add_argument("--samplers", default=",".join(METHODS), help=f"of {', '.join(METHODS)} [all]")
    parser.add_argument("--trials", type=int, default=200, help="[200]")
    parser.add_argument("--seeds", type=int, default=10, help="[10]")
    parser.add_argument("--first-seed", type=int, default=0, help="[0]")
    parser.add_argument("--pending", type=int, default=1, help="trials under way at once [1]")
    parser.add_argument("--workers", type=int, default=1, help="processes, a seed each [1]")
    return parser.parse_args()


if __name__ == "__main__":
    main()
