"""Trains networks of a search again with other seeds, so that it shows how much of an accuracy is luck.

All else is as in the search: recipe, budget in full, data and split. These are no trials: the search, its gate and its
front do not know of them. Each is recorded in `repeats/` of the study's folder; the same call adds what is missing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nas.data import load
from nas.executors import Executor, Spec
from nas.executors.own import given_or_own
from nas.export.pick import NOTHING, objectives_of, require_complete
from nas.record import Run, driver_lock
from nas.seeds import derived_seed


@dataclass(frozen=True)
class Repeats:
    """What a call of `repeat` did: trainings asked for, those that it added, and whether Ctrl-C ended it early."""

    wanted: int
    added: int
    interrupted: bool


def repeat(
    run: Run,
    *,
    seeds: int,
    trials: Sequence[int] | None = None,
    workers: int = 1,
    device: str = "auto",
    trial_timeout_s: float | None = None,
    executor: Executor | None = None,
    on_done: Callable[[int, int], None] = lambda _done, _wanted: None,
) -> Repeats:
    """Train each network with `seeds` other seeds, those of earlier calls included, and write the tables anew.

    trials: complete ones; None: those on the front. executor: where trainings run, None makes one of `workers` as
    `run_search` does. on_done: called with the number of trainings done and wanted. Ctrl-C keeps what is finished.
    Raises ValueError for fewer than 1 seed, trials that are not complete or none at all, data that is not the search's,
    and a study that another process holds.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, but got {seeds}")
    with driver_lock(run):
        objectives = objectives_of(run)
        chosen = _chosen(run, objectives, trials)
        specs = [_spec(run, trial, number, device) for number in range(1, seeds + 1) for trial in chosen]
        _require_same_data(run, specs[0])
        missing = [spec for spec in specs if run.read_repeat(spec["trial"], spec["repeat"]) is None]
        added, interrupted = 0, True
        with contextlib.suppress(KeyboardInterrupt):
            with given_or_own(executor, workers=workers, device=device, trial_timeout_s=trial_timeout_s) as running:
                for added in _trained(run, missing, running):
                    on_done(len(specs) - len(missing) + added, len(specs))
            interrupted = False
        run.write_tables(objectives)
    return Repeats(len(specs), added, interrupted)


def _chosen(run: Run, objectives: Sequence[str], trials: Sequence[int] | None) -> list[int]:
    """The numbers of complete trials, at least one."""
    chosen = run.front(objectives)["trial"].tolist() if trials is None else list(dict.fromkeys(trials))
    if not chosen:
        raise ValueError(NOTHING)
    found = run.trials()
    return [require_complete(found, trial) for trial in chosen]


def _spec(run: Run, trial: int, number: int, device: str) -> Spec:
    own = run.read_spec(trial)
    return {**own, "repeat": number, "seed": derived_seed("repeat", own["seed"], number), "device": device}


def _require_same_data(run: Run, spec: Spec) -> None:
    if load(**spec["data"]).digest != (run.read_run().get("data") or {}).get("digest"):
        raise ValueError(
            f"the data {spec['data']['source']} is not what {run.folder} was searched on: restore it, or search anew"
        )


def _trained(run: Run, specs: Sequence[Spec], executor: Executor) -> Iterator[int]:
    """Yields the number of trainings that have ended, 1, 2, ..."""
    waiting = list(specs)
    under_way = ended = 0
    while waiting or under_way:
        while waiting and under_way < executor.capacity:
            spec = waiting.pop(0)
            run.write_repeat_spec(spec["trial"], spec["repeat"], spec)
            executor.submit(spec, run.repeat_folder(spec["trial"], spec["repeat"]))
            under_way += 1
        for _ in executor.wait():
            under_way, ended = under_way - 1, ended + 1
            yield ended
