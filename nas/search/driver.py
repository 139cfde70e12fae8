"""The driver of a search: propose, gate, train to a rung, record, go on or stop, until enough networks are trained.

The driver is the only writer of the study. What it knows lies on disk before anything is built on it: a trial is in
the study before its spec.json, that before its training, and its result.json before its values are told. So the same
command, run again after a kill at any moment, goes on where the search was.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from nas import record
from nas.arch import Architecture
from nas.cost.landscape import Landscape
from nas.cost.latency import measure_latency
from nas.data import ImageData, load
from nas.device import device_name, resolve_device, resolve_precision
from nas.executors import Executor, Result, Spec
from nas.executors.advice import advice
from nas.executors.own import given_or_own
from nas.pareto import DIRECTIONS, costs_of, losses_from, non_dominated
from nas.record import Run
from nas.search.config import SearchConfig
from nas.search.events import Ended, Event, Finished, GoesOn, Interrupted, Proposed, Resumed, Started, Summary
from nas.search.gate import REJECTIONS, Candidate, Gate, Ledger, Unseen
from nas.search.halving import LEAST_STEPS, Halving, Shown, rungs
from nas.search.known import known
from nas.search.latency import LatencyObjective, Stopwatch, Timer, latency_objective
from nas.search.references import references
from nas.search.samplers import Proposer, Setting, Shared, shared
from nas.search.storage import Row, Store
from nas.seeds import derived_seed
from nas.space import Option, SearchSpace
from nas.train import RECIPES, Recipe, budget_steps, recipe_for

FORMAT = 1
ATTEMPTS = 20
"""Proposals of the sampler for one trial before the driver looks for an unseen network itself.

With 50, TPE took 1.9 times the CPU time over 150 scored trials of the digits space; the hypervolumes differed by less
than those of the 3 seeds.
"""
SAME_FAILURES = 5
"""The search stops when this many trials fail for one reason and none has ever succeeded.

Of several workers' trials so many more as begin before the first failure is known: they may all be dear, and cheaper
networks may have enough memory.
"""
TABLES_SHARE = 0.02
"""Share of the wall time that may go into rewriting the tables, which read every trial's files; at the end they are
always written."""


class SearchStopped(RuntimeError):
    """The search cannot go on; the message says why."""


def run_search(
    config: SearchConfig,
    *,
    executor: Executor | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    timer: Timer = measure_latency,
) -> Summary:
    """Run or resume the search of `config` until its number of trials have finished.

    executor: where trainings run, left open for the caller to close; None trains in this process, or in
    `config.workers` spawned ones where several or a time limit are asked for. timer: times networks in this process
    where latency is an objective.
    Ctrl-C once finishes the trials under way, twice abandons them to their checkpoints; both return a summary.
    Raises ValueError, before any training, for settings, data or caps that cannot be met and for a study that was
    started with other settings; SearchStopped when all trials fail for one reason.
    """
    plan = _plan(config)
    with _quiet_optuna(), record.driver_lock(plan.run):
        _enter(plan)
        latency = _latency(plan, timer, on_event)
        directions = [DIRECTIONS[name] for name in config.objectives]
        store = Store(plan.run.study_db, config.study, plan.space.genes, directions)
        try:
            with given_or_own(
                executor, workers=config.workers, device=config.device, trial_timeout_s=config.trial_timeout_s
            ) as running:
                return _Search(plan, store, running, on_event, latency).run()
        finally:
            store.close()


@dataclass(frozen=True)
class _Plan:
    """A search whose settings have been checked and resolved."""

    config: SearchConfig
    run: Run
    space: SearchSpace
    caps: dict[str, int]
    anchor: Architecture
    """A network within the caps."""
    data: ImageData
    recipe: dict[str, Any]
    budgets: tuple[dict[str, int], ...]
    """Of the rungs, as `nas.train.train` takes them; the last is that of a training in full."""

    @property
    def lengths(self) -> list[int]:
        """The budgets of the rungs, in the unit of the settings."""
        return [length for budget in self.budgets for length in budget.values()]

    @property
    def data_settings(self) -> dict[str, Any]:
        """The arguments of `nas.data.load`."""
        return {
            "source": self.config.data,
            "image_size": self.space.input_size,
            "val_fraction": self.config.val_fraction,
            "seed": self.config.seed,
            "train_images": self.config.train_images,
        }


def _plan(config: SearchConfig) -> _Plan:
    space = SearchSpace.load(config.space)
    caps = space.capped(config.caps)
    anchor = Landscape(space).require_within(caps)
    data = load(
        config.data,
        image_size=space.input_size,
        val_fraction=config.val_fraction,
        seed=config.seed,
        train_images=config.train_images,
    )
    data.require(
        in_channels=space.in_channels,
        num_classes=space.num_classes,
        input_size=space.input_size,
        where=f"space {space.name}",
    )
    resolve_device(config.device)
    run = Run(config.out, config.study)
    recipe = _recipe(config, data)
    budgets = _budgets(config, data, recipe)
    if config.min_accuracy is not None and config.sampler != "ehvi" and len(budgets) == 1:
        raise ValueError(
            f"only ehvi and halving heed min_accuracy = {config.min_accuracy:g}, but the sampler is {config.sampler} "
            "and every training is in full: leave it out"
        )
    return _Plan(config, run, space, caps, anchor, data, recipe.to_json(), budgets)


def _recipe(config: SearchConfig, data: ImageData) -> Recipe:
    name = config.recipe or recipe_for(data)
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, but got {name!r}")
    return replace(RECIPES[name], precision=config.precision or RECIPES[name].precision)


def _budgets(config: SearchConfig, data: ImageData, recipe: Recipe) -> tuple[dict[str, int], ...]:
    ((unit, budget),) = config.budget.items()
    if not config.halving:
        return (config.budget,)
    steps = budget_steps(data, recipe, epochs=1, steps=None) if unit == "epochs" else 1
    return tuple({unit: rung} for rung in rungs(budget, math.ceil(LEAST_STEPS / steps)))


def _latency(plan: _Plan, timer: Timer, on_event: Callable[[Event], None]) -> LatencyObjective | None:
    if plan.config.timing is None:
        return None
    watch = Stopwatch(plan.space, plan.config.device, plan.config.timing, timer)
    return latency_objective(plan.run, watch, plan.caps, plan.anchor, plan.config.seed, on_event)


# ---- run.json ----------------------------------------------------------------------------------------------------

_FREE = ("study", "space", "data", "trials", "device", "workers", "trial_timeout_s", "out")
"""Settings that may differ when a search goes on; the space and the data are compared by content."""

_RESOLVED = {
    *("max_macs", "max_params", "precision", "halving"),
    *("latency_batch_size", "latency_threads", "latency_precision"),
}
"""Settings in whose place what follows from them is recorded."""


def _enter(plan: _Plan) -> None:
    """Write run.json and space.toml, or compare them with those of the search that is resumed."""
    described = _describe(plan)
    if not plan.run.exists():
        if plan.run.study_db.exists():
            raise ValueError(f"{plan.run.study_db} has no run.json beside it: restore it or choose another study name")
        plan.run.write_space(plan.space.text)
        plan.run.write_run(described)
        return
    stored = plan.run.read_run()
    if stored.get("format") != FORMAT:
        raise ValueError(f"run.json of study {plan.config.study!r} has format {stored.get('format')!r}, not {FORMAT}")
    changes = _changes(_fixed_part(stored), _fixed_part(described))
    if changes:
        lines = "".join(f"\n  {change}" for change in changes)
        raise ValueError(
            f"study {plan.config.study!r} was started with other settings: restore them or choose another name{lines}"
        )
    if stored["config"] != described["config"]:
        plan.run.write_run({**stored, "config": described["config"]})


def _describe(plan: _Plan) -> dict[str, Any]:
    settings = plan.config.model_dump(mode="json", exclude=_RESOLVED)
    value = {
        "format": FORMAT,
        "created": record.now(),
        "config": {
            **settings,
            "latency": plan.config.timing,
            "rungs": plan.lengths if len(plan.budgets) > 1 else None,
            "caps": plan.caps,
            "recipe": plan.recipe,
        },
        "space": plan.space.to_json(),
        "data": plan.data.to_json(),
        "environment": record.environment(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _fixed_part(described: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same when a search goes on."""
    config = {name: value for name, value in described["config"].items() if name not in _FREE}
    return {"config": config, "space": described["space"], "data": {"digest": described["data"]["digest"]}}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each key that differs, as in "space.genes.depth: [1, 2] -> [1, 2, 3]"."""
    lines: list[str] = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _changes(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {_shown(old)} -> {_shown(new)}")
    return lines


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


# ---- the loop ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pick:
    """The network of the next trial, with what the study keeps of how it was found."""

    candidate: Candidate
    genotype: dict[str, Option]
    notes: dict[str, Any]
    rejected: dict[str, int]
    reference: str = ""
    """Its family, if it was not proposed but is one of the papers'."""


class _Search:
    def __init__(
        self,
        plan: _Plan,
        store: Store,
        executor: Executor,
        on_event: Callable[[Event], None],
        latency: LatencyObjective | None,
    ) -> None:
        self._plan = plan
        self._config = plan.config
        self._run = plan.run
        self._store = store
        self._executor = executor
        self._on_event = on_event
        self._rows = store.rows
        self._seen = {row.key for row in self._rows}
        self._latency = latency
        self._gate = Gate(plan.space, plan.caps, self._seen, latency.model if latency is not None else None)
        self._unseen = Unseen(self._gate, plan.config.seed)
        self._references = references(self._gate) if plan.config.seed_with == "zoo" else []
        self._halving = Halving(len(plan.budgets), accuracy_floor=plan.config.min_accuracy)
        self._told = Setting(known(self._gate, plan.config.objectives), plan.config.min_accuracy)
        self._seconds = {row.number: seconds for row in self._rows if (seconds := self._seconds_of(row)) is not None}
        self._again: list[Row] = []
        self._under_way: set[int] = set()
        self._failures: list[str] = []
        self._added = 0
        self._ended_trainings = 0
        self._stopping = False
        self._exhausted = ""
        self._begun = time.monotonic()
        self._tables_due = self._begun

    def run(self) -> Summary:
        self._on_event(self._started())
        try:
            self._recover()
            with _on_interrupt(self._interrupt), contextlib.suppress(KeyboardInterrupt):
                self._loop()
                self._time_front()
        finally:
            self._write_tables()
        summary = self._summary()
        self._on_event(Ended(summary))
        return summary

    def _loop(self) -> None:
        while True:
            while self._has_room() and self._begin():
                pass
            if not self._under_way:
                return
            for result in self._executor.wait():
                self._under_way.discard(result["trial"])
                self._finish(result)

    def _time_front(self) -> None:
        if self._latency is not None and not self._stopping:
            self._latency.time_front(self._front(), self._on_event)

    def _has_room(self) -> bool:
        return len(self._under_way) < self._executor.capacity and not self._stopping

    @property
    def _finished(self) -> int:
        return sum(not row.running or bool(row.rungs) for row in self._rows)

    # beginning a trial

    def _begin(self) -> bool:
        """Hand a trial to the executor; False when there is none to begin."""
        more = len(self._rows) < self._config.trials
        row = self._again.pop(0) if self._again else self._going_on(more=more) or self._next()
        if row is None and more:  # the space is exhausted, so none has to wait for others
            row = self._going_on()
        if row is None:
            return False
        arch = self._plan.space.decode(row.genotype)
        spec = self._spec(row, arch)
        self._run.write_spec(row.number, spec)
        self._on_event(
            GoesOn(row.number, row.key, row.cost, arch.summary(), self._budget(row))
            if row.rungs
            else Proposed(row.number, row.key, row.cost, arch.summary(), row.rejected)
        )
        self._executor.submit(spec, self._run.trial_folder(row.number))
        self._under_way.add(row.number)
        return True

    def _budget(self, row: Row) -> dict[str, int]:
        """Of the rung that the trial is under way to."""
        return self._plan.budgets[len(row.rungs)]

    def _going_on(self, *, more: bool = False) -> Row | None:
        """The trial that goes on to its next rung, if one should; references all do. more: as in `Halving.next`."""
        number = next((row.number for row in self._rows if row.waits and row.reference), None)
        if number is None:
            number = self._halving.next(self._shown(), more=more)
        return None if number is None else self._store.go_on(number)

    def _shown(self) -> list[Shown]:
        accuracy = self._config.objectives.index("accuracy")
        costs = costs_of(self._config.objectives)
        return [
            Shown(
                costs=tuple(row.cost[name] for name in costs),
                accuracies=row.rungs if row.values is None else (*row.rungs, row.values[accuracy]),
                waits=row.waits,
            )
            for row in self._rows
        ]

    def _next(self) -> Row | None:
        """Enter a new trial in the study, if there is one to enter."""
        if len(self._rows) >= self._config.trials:
            return None
        pick = self._pick()
        if pick is None:
            self._exhausted = self._unseen.exhausted()
            return None
        found = pick.candidate
        row = self._store.add(
            pick.genotype,
            pick.notes,
            key=found.key,
            cost=found.cost,
            rejected=pick.rejected,
            reference=pick.reference,
        )
        self._seen.add(found.key)
        return row

    def _pick(self) -> _Pick | None:
        """A reference that is due, the sampler's first proposal that passes the gate, or else an unseen network."""
        number = len(self._rows)
        directions = [DIRECTIONS[name] for name in self._config.objectives]
        history = self._history()
        proposer = Proposer(
            self._plan.space, directions, self._config.sampler, self._told, self._config.seed, number, history
        )
        rejected: dict[str, int] = dict.fromkeys(REJECTIONS, 0)
        if number < len(self._references):
            given = self._references[number]
            return _Pick(given.candidate, given.genotype, proposer.draw(0).notes, rejected, given.family)
        for attempt in range(ATTEMPTS):
            draw = proposer.draw(attempt)
            verdict = self._gate.check(draw.genotype)
            if isinstance(verdict, Candidate):
                return _Pick(verdict, draw.genotype, draw.notes, rejected)
            rejected[verdict] += 1
        found = self._unseen.find(number, [*self._front(), self._plan.anchor])
        if found is None:
            return None
        # The sampler's notes go with the trial all the same: without them NSGA-II would leave it out of its generation.
        return _Pick(found, self._plan.space.encode(found.arch), draw.notes, rejected)

    def _history(self) -> list[Shared]:
        """The trials as samplers see them: those stopped at a rung with the accuracy that they promise in full."""
        promised = self._halving.expected(self._shown())
        return [
            shared(row.frozen, [{**row.cost, "accuracy": accuracy}[name] for name in self._config.objectives])
            if row.rungs and not row.frozen.state.is_finished()
            else shared(row.frozen)
            for row, accuracy in zip(self._rows, promised.tolist(), strict=True)
        ]

    def _front(self) -> list[Architecture]:
        complete = [row for row in self._rows if row.values is not None]
        objectives = self._config.objectives
        values = [dict(zip(objectives, row.values or (), strict=True)) for row in complete]
        mask = non_dominated(losses_from(values, objectives)) if values else np.zeros(0, dtype=bool)
        return [self._plan.space.decode(row.genotype) for row, on_front in zip(complete, mask, strict=True) if on_front]

    def _spec(self, row: Row, arch: Architecture) -> Spec:
        return {
            "format": FORMAT,
            "study": self._config.study,
            "trial": row.number,
            "key": row.key,
            "arch": arch.to_json(),
            "genotype": row.genotype,
            "cost": row.cost,
            "seed": derived_seed("train", self._config.seed, row.number),
            "reference": row.reference,
            "rung": len(row.rungs),
            "budget": self._budget(row),
            "full": self._is_last(row),
            "recipe": self._plan.recipe,
            "data": self._plan.data_settings,
            "device": self._config.device,
        }

    def _is_last(self, row: Row) -> bool:
        return len(row.rungs) == len(self._plan.budgets) - 1

    # finishing a trial

    def _finish(self, result: Result) -> None:
        row = self._rows[result["trial"]]
        reason = _failure(result)
        if reason is not None:
            self._store.fail(row.number, reason)
            self._failures.append(reason)
        elif self._is_last(row):
            known = {**row.cost, "accuracy": result["accuracy"]}
            values = [known[name] for name in self._config.objectives]
            self._store.complete(row.number, values, _loss(result))
        else:
            self._store.wait(row.number, result["accuracy"])
        if reason is None:
            self._seconds[row.number] = float(result["seconds"])
        self._ended_trainings += 1
        self._added += not row.rungs
        if time.monotonic() >= self._tables_due:
            self._write_tables()
        self._on_event(
            Finished(
                trial=row.number,
                key=row.key,
                state="failed" if reason is not None else "complete" if self._is_last(row) else "stopped",
                accuracy=result["accuracy"] if reason is None else None,
                budget=self._budget(row),
                cost=row.cost,
                summary=self._plan.space.decode(row.genotype).summary(),
                seconds=float(result["seconds"]),
                reason=reason,
                finished=self._finished,
                trials=self._config.trials,
            )
        )
        self._stop_if_hopeless(row)

    def _stop_if_hopeless(self, last: Row) -> None:
        enough = SAME_FAILURES + self._config.workers - 1
        hopeless = len(self._failures) >= enough and len(set(self._failures)) == 1
        if hopeless and all(row.values is None and not row.rungs for row in self._rows):
            folder = self._run.trial_folder(last.number)
            raise SearchStopped(
                f"the first {len(self._failures)} trials all failed for one reason: {self._failures[0]} (see {folder})"
            )

    def _write_tables(self) -> None:
        """What people read, all of it derived from the study and the results."""
        begun = time.monotonic()
        self._run.write_ledger(self._ledger().to_json())
        self._run.write_tables(self._config.objectives)
        ended = time.monotonic()
        self._tables_due = ended + (ended - begun) / TABLES_SHARE

    def _ledger(self) -> Ledger:
        return Ledger.of((row.rejected for row in self._rows), list(self._seconds.values()))

    # resuming and stopping

    def _recover(self) -> None:
        """Enter trainings that ended without being told; put those under way in the queue."""
        if not self._rows:
            return
        recovered = []
        for row in [row for row in self._rows if row.running]:
            result = self._run.read_result(row.number)
            if result is not None and result.get("key") == row.key and result.get("rung", 0) == len(row.rungs):
                self._finish(result)
                recovered.append(row.number)
            else:
                self._again.append(row)
        self._on_event(Resumed(tuple(recovered), tuple(row.number for row in self._again)))

    def _seconds_of(self, row: Row) -> float | None:
        result = self._run.read_result(row.number) if row.values is not None or row.waits else None
        return None if result is None else float(result["seconds"])

    def _interrupt(self) -> None:
        """First call: stop asking. Second: leave now."""
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        self._on_event(Interrupted(tuple(sorted(self._under_way))))

    def _started(self) -> Started:
        config, device = self._config, resolve_device(self._config.device)
        precision = resolve_precision(self._plan.recipe["precision"], device)
        return Started(
            study=config.study,
            folder=self._run.folder,
            space=self._plan.space.name,
            networks=self._plan.space.size(),
            objectives=config.objectives,
            caps=self._plan.caps,
            sampler=config.sampler,
            budgets=self._plan.budgets,
            trials=config.trials,
            finished=self._finished,
            device=device_name(device),
            precision=precision,
            workers=config.workers,
            advice=advice(workers=config.workers, device=device, precision=precision),
        )

    def _summary(self) -> Summary:
        return Summary(
            study=self._config.study,
            folder=self._run.folder,
            finished=self._finished,
            complete=sum(row.values is not None for row in self._rows),
            failed=sum(row.frozen.state == TrialState.FAIL for row in self._rows),
            added=self._added,
            trained=self._trained(),
            interrupted=self._stopping,
            ended=self._ended(),
            ledger=self._ledger(),
            seconds=time.monotonic() - self._begun,
        )

    def _trained(self) -> float:
        """The mean share of a training in full that those trained at all have had."""
        lengths = self._plan.lengths
        reached = [len(row.rungs) + (row.values is not None) for row in self._rows]
        done = [lengths[count - 1] / lengths[-1] for count in reached if count]
        return sum(done) / len(done) if done else 0.0

    def _ended(self) -> str:
        so_far = f"{self._finished} of {self._config.trials} trials are finished"
        if self._exhausted:
            return self._exhausted
        if self._stopping and (self._finished < self._config.trials or any(row.running for row in self._rows)):
            return f"interrupted: {so_far}; the same command goes on"
        if self._ended_trainings == 0:
            return f"nothing to add: {self._finished} trials are finished, {self._config.trials} were asked for"
        return f"all {self._config.trials} trials are finished"


def _failure(result: Result) -> str | None:
    """Why a result is no accuracy to tell; None if it is one."""
    accuracy = result["accuracy"]
    if result["status"] != "ok":
        return str(result["reason"] or result["status"])
    if accuracy is None or not math.isfinite(accuracy):
        return f"the accuracy is {accuracy}"
    return None


def _loss(result: Result) -> float | None:
    """The geometric mean of validation loss and mean training loss, or the first where there is no other.

    On few validation images an accuracy is much a matter of luck, and so is their loss; the training loss is less so
    (training speed, arXiv:2006.04492), but says something else. The mean leans on the one that spreads more.
    """
    val_loss, curve = result.get("val_loss"), result.get("loss_curve")
    if val_loss is None or not curve:
        return val_loss
    return math.sqrt(val_loss * fmean(curve))


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def _on_interrupt(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` for Ctrl-C and for a polite kill, as long as the block runs; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: act()) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
