"""How much of a table's true front do the samplers find, after how many trials?

    python benchmarks/search_quality.py --table nasbench201.csv.gz --genes 'op_*' --costs macs \\
        --accuracy c10_test_200ep --key UniqueString --samplers random,local,ehvi --workers 2

A table is a CSV file with one line for each network: columns of genes, of costs, of accuracies, and perhaps a key that
equal networks share. Genes named by --ordered are ordered (numbers), all others are not. A search sees --proxy, by
default the same column as --accuracy, the truth; several columns of a proxy, joined by "+", are noisy observations of
which each trial sees one at random, and with it the loss in the same of as many columns of --losses, which `ehvi` makes
use of (of several such lists, joined by commas, the geometric mean). No sampler gets a network twice: a proposal whose
key is taken is drawn again, at last a random network that is left.

With --rungs, budgets and what is seen after each of them, as in c10_val_12ep:12,c10_test_200ep:200, methods may end in
"+halving": networks are trained by rungs as `nas search` does it, the others to the last rung. A second table then
counts epochs, as multiples of a training in full, and only networks that were trained in full.

Reported, over the seeds: the true hypervolume of all networks evaluated, and of those on the front as the search saw
it, as shares of the whole table's, over logarithms of costs and above the --quantile of the true accuracies; and the
trials needed to reach what random search has after 200 and after 1,000 trials, and Optuna's best sampler after 200.
Deterministic, but for the seconds.
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
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.pareto import hypervolume, hypervolume_trace, non_dominated
from nas.record import environment
from nas.search.ehvi import LOSS, EHVISampler, Known, Memory, Table
from nas.search.halving import Halving, Shown
from nas.search.local_search import LocalSearchSampler

Floats = NDArray[np.float64]

REDRAWS = 20
RANDOM_MARKS = (200, 1_000)
MUCH = RANDOM_MARKS[-1]
"""Random search goes on, so that its later hypervolumes are known."""
STOCK = ("random", "nsga2", "tpe", "tpe-mv", "gp")
"""Optuna's own samplers: half of the trials are to give what the best of them has after the first of these marks."""
MARKS = (25, 50, 100, 200)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)
"""Of the epochs that all trials in full take."""
HALVING = "+halving"
NETWORKS = 1.5
"""Networks that a search by rungs begins, for each trial in full of the others."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A table as a search sees it: N networks, G genes, C costs, P columns of the proxy, rungs of B budgets."""

    space: dict[str, BaseDistribution]
    codes: NDArray[np.int64]
    options: dict[str, list[Any]]
    keys: NDArray[np.int64]
    costs: Floats
    observed: Floats
    seen_losses: Floats
    """Losses (N, P) that come with what is observed; nan: not known."""
    rungs: tuple[tuple[float, Floats], ...]
    """Budgets, ascending, and the accuracies (N, P), 0 to 1, after each; none: only trainings in full are known."""
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
        rungs = tuple(rungs_of(table, options.rungs)) if options.rungs else ()
        proxy = table[(options.proxy or options.accuracy).split("+")].to_numpy(np.float64)
        observed = rungs[-1][1] if rungs else proxy
        key = options.key.split(",") if options.key else names
        return cls(
            space=space,
            codes=codes,
            options=values,
            keys=table.groupby(key, sort=False).ngroup().to_numpy().astype(np.int64),
            costs=table[options.costs.split(",")].to_numpy(np.float64),
            observed=observed,
            seen_losses=losses_of(table, options.losses, observed.shape),
            rungs=rungs,
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
        return np.concatenate([self.costs, np.full((1, self.costs.shape[1]), np.nan)])[self._rows(table)]

    def known_keys(self, table: Table) -> NDArray[np.int64]:
        """Keys by the table; genotypes that it lacks are equal to none."""
        rows = self._rows(table)
        return np.where(rows < 0, -1 - np.arange(len(rows)), self.keys[rows])

    def _rows(self, table: Table) -> NDArray[np.int64]:
        """-1 for genotypes that the table lacks."""
        columns = [[self.code(name, value) for value in table[name].tolist()] for name in self.space]
        return np.array([self.row_of.get(code, -1) for code in zip(*columns, strict=True)], np.int64)

    def losses(self, rows: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Logarithms of costs from 0 to 1 and accuracies from -1 to 0 within the region of interest, true ones."""
        logs = np.log(self.costs)
        scaled = (logs - logs.min(axis=0)) / np.maximum(np.ptp(logs, axis=0), 1e-12)
        reach = (self.truth - self.floor) / (self.truth.max() - self.floor)
        return np.column_stack([scaled, -reach])[rows]

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MINIMIZE] * self.costs.shape[1] + [StudyDirection.MAXIMIZE]

    def frozen(self, row: int, accuracy: float, loss: float) -> FrozenTrial:
        """A finished trial."""
        values = [*self.costs[row].tolist(), accuracy]
        return create_trial(params=self.params(row), distributions=self.space, values=values, user_attrs={LOSS: loss})

    @property
    def reference(self) -> Floats:
        return np.array([1.0 + 1e-9] * self.costs.shape[1] + [0.0])

    def reported(self, rows: Sequence[int], seen: Sequence[float]) -> float:
        """True hypervolume of the networks on the front as the search saw it."""
        mask = non_dominated(np.column_stack([self.costs[list(rows)], -np.array(seen)]))
        return hypervolume(self.losses(np.array(rows)[mask]), self.reference)


def losses_of(table: pd.DataFrame, text: str, shape: tuple[int, ...]) -> Floats:
    """Losses (N, P), nan where `text` names none."""
    if not text:
        return np.full(shape, np.nan)
    found = [table[columns.split("+")].to_numpy(np.float64) for columns in text.split(",")]
    for losses in found:
        if losses.shape != shape:
            raise ValueError(
                f"--losses names {losses.shape[1]} columns; expected as many as there are of what a search sees: "
                f"{shape[1]}"
            )
    mean_NP: Floats = np.exp(np.mean(np.log(found), axis=0))
    return mean_NP


def rungs_of(table: pd.DataFrame, text: str) -> list[tuple[float, Floats]]:
    """Columns and budgets; accuracies in percent become shares."""
    found = []
    for part in text.split(","):
        columns, _, budget = part.rpartition(":")
        seen = table[columns.split("+")].to_numpy(np.float64)
        found.append((float(budget), seen / 100 if seen.max() > 1 else seen))
    return sorted(found, key=lambda rung: rung[0])


def mean_of(table: pd.DataFrame, columns: str) -> Floats:
    means: Floats = table[columns.split("+")].to_numpy(np.float64).mean(axis=1)
    return means


@dataclass(frozen=True, eq=False)
class Asked:
    """What a sampler is made for. admit: whether the network of some parameters is new."""

    problem: Problem
    seed: int
    admit: Callable[[Mapping[str, Any]], bool]
    memory: Memory


def ehvi(asked: Asked, floor: float | None = None) -> BaseSampler:
    problem = asked.problem
    known = Known(problem.known_costs, admit=asked.admit, keys=problem.known_keys, space=problem.space)
    return EHVISampler(known, seed=asked.seed, accuracy_floor=floor, memory=asked.memory)


METHODS: dict[str, Callable[[Asked], BaseSampler]] = {
    "random": lambda asked: RandomSampler(asked.seed),
    "nsga2": lambda asked: NSGAIISampler(population_size=20, seed=asked.seed),
    "tpe": lambda asked: TPESampler(seed=asked.seed),
    "tpe-mv": lambda asked: TPESampler(multivariate=True, constant_liar=True, seed=asked.seed),
    "gp": lambda asked: GPSampler(seed=asked.seed),
    "local": lambda asked: LocalSearchSampler(seed=asked.seed),
    "ehvi": ehvi,
    "ehvi-floor": lambda asked: ehvi(asked, asked.problem.seen_floor),
}


def searched(
    problem: Problem, method: str, seed: int, trials: int, pending: int
) -> tuple[list[int], list[float], float]:
    """Rows evaluated in order, until none is left, the accuracies seen, and CPU seconds; `pending` run at once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng([seed, 1])
    begun = time.process_time()
    taken: set[int] = set()
    sampler = METHODS[method](Asked(problem, seed, lambda params: problem.is_new(params, taken), Memory()))
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    rows: list[int] = []
    seen: list[float] = []
    under_way: list[tuple[optuna.Trial, int, float]] = []
    for _ in range(min(trials, len(set(problem.keys.tolist())))):
        trial, row = new_trial(problem, study, taken, rng)
        taken.add(int(problem.keys[row]))
        column = int(rng.integers(problem.observed.shape[1]))
        accuracy = float(problem.observed[row, column])
        trial.set_user_attr(LOSS, float(problem.seen_losses[row, column]))
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


@dataclass(frozen=True)
class Step:
    """A training of the network `row` to a rung, the last if `full`: what was seen, and all epochs until its end."""

    row: int
    full: bool
    seen: float
    spent: float


def halved(problem: Problem, method: str, seed: int, networks: int) -> tuple[list[Step], float]:
    """The trainings of a search by rungs, in order, and CPU seconds; epochs in multiples of a training in full."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng([seed, 1])
    begun = time.process_time()
    taken: set[int] = set()
    halving, memory, last = Halving(len(problem.rungs)), Memory(), len(problem.rungs)
    networks = min(networks, len(set(problem.keys.tolist())))
    trials: list[tuple[int, int, list[float]]] = []
    steps: list[Step] = []
    while True:
        shown = [Shown(tuple(problem.costs[row]), tuple(seen), len(seen) < last) for row, _, seen in trials]
        more = len(trials) < networks
        place = halving.next(shown, more=more)
        if place is None and not more:
            return steps, time.process_time() - begun
        if place is None:
            expected = halving.expected(shown).tolist()
            history = [
                problem.frozen(row, accuracy, float(problem.seen_losses[row, column]) if len(seen) == last else np.nan)
                for (row, column, seen), accuracy in zip(trials, expected, strict=True)
            ]
            row = proposed(problem, method, derived(seed, len(trials)), history, taken, memory, rng)
            taken.add(int(problem.keys[row]))
            place = len(trials)
            trials.append((row, int(rng.integers(problem.observed.shape[1])), []))
        row, column, seen = trials[place]
        budget, accuracies = problem.rungs[len(seen)]
        before = problem.rungs[len(seen) - 1][0] if seen else 0.0
        seen.append(float(accuracies[row, column % accuracies.shape[1]]))
        spent = (steps[-1].spent if steps else 0.0) + (budget - before) / problem.rungs[-1][0]
        steps.append(Step(row, len(seen) == last, seen[-1], spent))


def derived(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def proposed(
    problem: Problem,
    method: str,
    seed: int,
    history: Sequence[FrozenTrial],
    taken: set[int],
    memory: Memory,
    rng: np.random.Generator,
) -> int:
    """The row of a new network from a sampler that is made anew: samplers must keep nothing."""
    sampler = METHODS[method](Asked(problem, seed, lambda params: problem.is_new(params, taken), memory))
    study = optuna.create_study(directions=problem.directions, sampler=sampler)
    study.add_trials(history)
    return new_trial(problem, study, taken, rng)[1]


def outcome(problem: Problem, method: str, seed: int, trials: int, pending: int, length: int = 0) -> dict[str, Any]:
    """What a search found by trials, up to `length` of them if that is more, and by epochs; one by rungs by epochs."""
    name, by_rungs, _ = method.partition(HALVING)
    whole = hypervolume(problem.losses(np.arange(len(problem.truth))), problem.reference)
    if by_rungs:
        steps, seconds = halved(problem, name, seed, round(trials * NETWORKS))
        return {"epochs": by_epochs(problem, steps, whole, trials), "seconds": seconds / len({s.row for s in steps})}
    length = max(trials, length)
    rows, seen, seconds = searched(problem, name, seed, length, pending)
    trace = hypervolume_trace(problem.losses(rows), problem.reference) / whole
    trace = np.append(trace, np.full(length - len(rows), trace[-1]))
    reported = {mark: problem.reported(rows[:mark], seen[:mark]) / whole for mark in MARKS if mark <= trials}
    steps = [Step(row, True, value, spent) for spent, (row, value) in enumerate(zip(rows, seen, strict=True), 1)]
    found = {"trace": trace.tolist(), "reported": reported, "seconds": seconds / len(rows)}
    return found | {"epochs": by_epochs(problem, steps, whole, trials)}


def by_epochs(problem: Problem, steps: Sequence[Step], whole: float, trials: int) -> dict[str, Any]:
    """shares: of the epochs of `trials` in full -> true hypervolume of what was trained in full, of the front seen."""
    full = [step for step in steps if step.full]
    trace = hypervolume_trace(problem.losses([step.row for step in full]), problem.reference) / whole
    shares = {}
    for share in SHARES:
        done = [step for step in full if step.spent <= share * trials * (1 + 1e-9)]
        found = problem.reported([step.row for step in done], [step.seen for step in done]) / whole if done else 0.0
        shares[share] = (float(trace[len(done) - 1]) if done else 0.0, found)
    return {
        "shares": shares,
        "trace": [(step.spent, float(volume)) for step, volume in zip(full, trace, strict=True)],
        "networks": len({step.row for step in steps}),
        "full": len(full),
        "spent": steps[-1].spent,
    }


def reached(trace: Sequence[float], level: float) -> float:
    return next((float(trial) for trial, share in enumerate(trace, 1) if share >= level), float("inf"))


def quartiles(values: Sequence[float], decimals: int = 3) -> str:
    low, middle, high = (
        f"{value:.{decimals}f}" if np.isfinite(value) else "-"
        for value in np.quantile(values, [0.25, 0.5, 0.75], method="nearest").tolist()
    )
    return f"{middle} ({low} to {high})"


def goals(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """Hypervolumes to reach, medians: random's after each of its marks, then that of the best of `STOCK`."""

    def after(method: str, mark: int) -> float:
        known = [one["trace"][mark - 1] for one in found.get(method, []) if len(one["trace"]) >= mark]
        return statistics.median(known) if known else 0.0

    aims = {f"random's {mark:,}": after("random", mark) for mark in RANDOM_MARKS}
    first = RANDOM_MARKS[0]
    best = max(STOCK, key=lambda method: after(method, first))
    aims[f"{best}'s {first}"] = after(best, first)
    return {name: level for name, level in aims.items() if level}


def report(found: dict[str, list[dict[str, Any]]], trials: int) -> str:
    marks = [mark for mark in MARKS if mark <= trials]
    aims = goals(found)
    heads = [f"after {mark}" for mark in marks]
    heads += [f"worst seed after {marks[-1]}", f"reported front after {marks[-1]}"]
    heads += [f"trials to {level:.3f} ({name})" for name, level in aims.items()]
    lines = ["| sampler | " + " | ".join([*heads, "CPU s an ask"]) + " |", "|" + "---|" * (len(heads) + 2)]
    for method, outcomes in found.items():
        cells = [quartiles([one["trace"][mark - 1] for one in outcomes]) for mark in marks]
        cells.append(f"{min(one['trace'][marks[-1] - 1] for one in outcomes):.3f}")
        cells.append(quartiles([one["reported"][marks[-1]] for one in outcomes]))
        for level in aims.values():
            needed = [reached(one["trace"], level) for one in outcomes]
            middle = float(np.quantile(needed, 0.5, method="nearest"))
            cells.append(f"{middle:.0f}" if np.isfinite(middle) else "-")
        cells.append(f"{statistics.mean(one['seconds'] for one in outcomes):.3f}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report_epochs(found: dict[str, list[dict[str, Any]]], trials: int) -> str:
    """Columns: what each search was, and the hypervolume by epochs, of what was trained in full / of the front seen."""
    heads = ["networks", "in full", f"epochs, {trials} in full being 1", *(f"after {share:.0%}" for share in SHARES)]
    level = None
    if "ehvi" in found:
        level = 0.99 * statistics.median(one["epochs"]["shares"][SHARES[-1]][0] for one in found["ehvi"])
        heads.append(f"epochs to {level:.3f}, 99 % of ehvi's")
    lines = ["| sampler | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for method, outcomes in found.items():
        epochs = [one["epochs"] for one in outcomes]
        cells = [f"{statistics.median(one[name] for one in epochs):.0f}" for name in ("networks", "full")]
        cells.append(f"{statistics.median(one['spent'] for one in epochs) / trials:.2f}")
        for share in SHARES:
            cells.append(" / ".join(quartiles([one["shares"][share][column] for one in epochs]) for column in (0, 1)))
        if level is not None:
            needed = [next((spent for spent, volume in one["trace"] if volume >= level), np.inf) for one in epochs]
            cells.append(quartiles([spent / trials for spent in needed], decimals=2))
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
                pool.submit(
                    outcome, problem, method, seed, options.trials, options.pending, MUCH if method == "random" else 0
                )
                for seed in range(options.first_seed, options.first_seed + options.seeds)
            ]
            for method in methods
        }
        found = {method: [task.result() for task in each] for method, each in tasks.items()}
    in_full = {method: outcomes for method, outcomes in found.items() if HALVING not in method}
    if in_full:
        print(report(in_full, options.trials))
    if problem.rungs:
        print(f"\n{report_epochs(found, options.trials)}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--table", type=Path, required=True, help="CSV file, compressed or not")
    parser.add_argument("--genes", required=True, help="columns of genes, names or patterns, joined by commas")
    parser.add_argument("--ordered", default="", help="those of them that are ordered [none]")
    parser.add_argument("--costs", default="macs", help="columns of costs [macs]")
    parser.add_argument("--accuracy", required=True, help='column of the truth, or several, joined by "+": their mean')
    parser.add_argument("--proxy", default="", help="column that the search sees, or several [the truth]")
    parser.add_argument("--losses", default="", help="columns of losses beside those that it sees [none]")
    parser.add_argument("--rungs", default="", help="columns and budgets of trainings by rungs [none]")
    parser.add_argument("--key", default="", help="columns that equal networks share [the genes]")
    parser.add_argument("--quantile", type=float, default=0.3, help="of the accuracies, below which none counts [0.3]")
    parser.add_argument(
        "--samplers", default=",".join(METHODS), help=f"of {', '.join(METHODS)}, with {HALVING} or without [all]"
    )
    parser.add_argument("--trials", type=int, default=200, help="[200]")
    parser.add_argument("--seeds", type=int, default=10, help="[10]")
    parser.add_argument("--first-seed", type=int, default=0, help="[0]")
    parser.add_argument("--pending", type=int, default=1, help="trials under way at once [1]")
    parser.add_argument("--workers", type=int, default=1, help="processes, a seed each [1]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
