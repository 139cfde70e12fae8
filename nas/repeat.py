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
from nas.export.pick import require_complete
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
    Raises ValueError for fewer than 1 seed, trials that are not complete, data that has changed since the search, and
    a study that another process holds.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, but got {seeds}")
    with driver_lock(run):
        recorded = run.read_run()
        objectives = recorded["config"]["objectives"]
        found = run.trials()
        chosen = run.front(objectives)["trial"].tolist() if trials is None else trials
        numbers = [require_complete(found, trial) for trial in dict.fromkeys(chosen)]
        wanted = [(trial, number) for number in range(1, seeds + 1) for trial in numbers]
        specs = [_spec(run, trial, number, device) for trial, number in wanted]
        if specs:
            _require_same_data(specs[0], recorded["data"]["digest"])
        missing = [spec for spec in specs if run.read_repeat(spec["trial"], spec["repeat"]) is None]
        done = len(specs) - len(missing)
        interrupted = True
        with contextlib.suppress(KeyboardInterrupt):
            with given_or_own(executor, workers=workers, device=device, trial_timeout_s=trial_timeout_s) as running:
                for _ in _trained(run, missing, running):
                    done += 1
                    on_done(done, len(specs))
            interrupted = False
        run.write_tables(objectives)
    return Repeats(len(specs), done - len(specs) + len(missing), interrupted)


def _spec(run: Run, trial: int, number: int, device: str) -> Spec:
    own = run.read_spec(trial)
    seed = derived_seed("repeat", own["seed"], number)
    return {**own, "repeat": number, "seed": seed, "device": device}


def _require_same_data(spec: Spec, digest: str) -> None:
    if load(**spec["data"]).digest != digest:
        raise ValueError(f"the data {spec['data']['source']} has changed since the search: restore it, or search anew")


def _trained(run: Run, specs: Sequence[Spec], executor: Executor) -> Iterator[None]:
    """Yields once for each training that has ended."""
    waiting = list(specs)
    under_way = 0
    while waiting or under_way:
        while waiting and under_way < executor.capacity:
            spec = waiting.pop(0)
            run.write_repeat_spec(spec["trial"], spec["repeat"], spec)
            executor.submit(spec, run.repeat_folder(spec["trial"], spec["repeat"]))
            under_way += 1
        for _ in executor.wait():
            under_way -= 1
            yield
