"""The study on disk: Optuna's SQLite file with one writer.

A trial is added in one transaction, as RUNNING and with all that belongs to it. `study.ask` would commit each
parameter by itself, so a kill in between would leave a trial without some of its genes, or one that waits in a queue.

A trial that stopped at a rung is WAITING, and RUNNING again when it goes on. Whether it waits is said by our attribute,
in the same write as its accuracy; Optuna's state, a second write, follows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from nas.search.ehvi import LOSS
from nas.search.samplers import Direction, distributions, to_genotype, to_params
from nas.space import Gene, Option

ATTRIBUTE = "nas"
"""The user attribute of a trial that is ours alone: its key, its cost, the rejections before it, its family if it is a
reference, its accuracies at the rungs below the last and whether it waits there and, if it failed, the reason."""


@dataclass(frozen=True)
class Row:
    """One trial of the study; `frozen` is Optuna's view of it."""

    number: int
    genotype: dict[str, Option]
    key: str
    cost: dict[str, float]
    rejected: dict[str, int]
    reference: str
    """Family of a network that was not proposed but given; empty for all others."""
    rungs: tuple[float, ...]
    """Accuracies at the rungs finished below the last."""
    waits: bool
    """Whether it stopped at the last of them; it may go on."""
    values: tuple[float, ...] | None
    """The objectives, in their order; None unless complete."""
    frozen: FrozenTrial

    @property
    def running(self) -> bool:
        """Under way, or to be taken up again."""
        return not self.waits and not self.frozen.state.is_finished()


class StudyFileError(RuntimeError):
    """The study's file could not be read or written; the message says why."""


class Store:
    """The persistent study. Only the process that holds the driver's lock may have one.

    `rows` are all its trials in order of their numbers, read once and kept up to date. Every method raises
    StudyFileError when the file fails it: a full disk, a lock that is not given back.
    """

    def __init__(self, path: Path, study: str, genes: Sequence[Gene], directions: Sequence[Direction]) -> None:
        """Open the study in the file `path`, or make it. Raises ValueError if it has other directions."""
        self._genes = genes
        self._path = path
        with _explained(path):
            self._storage = RDBStorage(
                "sqlite:///study.db",  # a dummy, because Optuna reads a pattern in it: the creator knows the path
                engine_kwargs={"creator": lambda: _connect(path)},
                skip_compatibility_check=not path.exists(),  # it reads Optuna's whole history of schemas
            )
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=study,
                directions=list(directions),
                sampler=RandomSampler(0),
                load_if_exists=True,
            )
            stored = [direction.name.lower() for direction in self._study.directions]
            trials = self._study.get_trials(deepcopy=False)
        # load_if_exists keeps stored directions without a word.
        if stored != list(directions):
            self.close()
            raise ValueError(f"{path} holds a study with the directions {stored}, but the objectives need {directions}")
        self.rows = [self._row(number, trial) for number, trial in enumerate(trials)]
        for row in [row for row in self.rows if not row.frozen.state.is_finished()]:
            self._follow(row)

    def _row(self, number: int, trial: FrozenTrial) -> Row:
        about = trial.user_attrs[ATTRIBUTE]
        return Row(
            number=number,
            genotype=to_genotype(self._genes, trial.params),
            key=about["key"],
            cost=about["cost"],
            rejected=about["rejected"],
            reference=about.get("reference", ""),
            rungs=tuple(about.get("rungs", ())),
            waits=about.get("waits", False),
            values=None if trial.values is None else tuple(trial.values),
            frozen=trial,
        )

    def add(
        self,
        genotype: Mapping[str, Option],
        notes: Mapping[str, Any],
        *,
        key: str,
        cost: Mapping[str, float],
        rejected: Mapping[str, int],
        reference: str = "",
    ) -> Row:
        """Add a running trial. `notes` are those that the sampler left on it."""
        about = {"key": key, "cost": dict(cost), "rejected": dict(rejected)}
        if reference:
            about["reference"] = reference
        trial = create_trial(
            state=TrialState.RUNNING,
            params=to_params(self._genes, genotype),
            distributions=distributions(self._genes),
            user_attrs={ATTRIBUTE: about},
            system_attrs=dict(notes),
        )
        with _explained(self._path):
            self._study.add_trial(trial)
        self.rows.append(self._row(len(self.rows), trial))
        return self.rows[-1]

    def complete(self, number: int, values: Sequence[float], loss: float | None) -> None:
        """The trial has trained in full. A loss of its training, if there is one, becomes an attribute of its own."""
        with _explained(self._path):
            if loss is not None:
                self._storage.set_trial_user_attr(self._trial_id(number), LOSS, loss)
            told = self._study.tell(number, list(values), state=TrialState.COMPLETE)
        self.rows[number] = self._row(number, told)

    def wait(self, number: int, accuracy: float) -> Row:
        """The trial has finished a rung below the last, with this accuracy, and stops there."""
        return self._set(number, {"rungs": [*self.rows[number].rungs, accuracy], "waits": True})

    def go_on(self, number: int) -> Row:
        """The trial that waits runs again, towards the next rung."""
        return self._set(number, {"waits": False})

    def fail(self, number: int, reason: str) -> None:
        with _explained(self._path):
            self._set(number, {"reason": reason})
            told = self._study.tell(number, state=TrialState.FAIL)
        self.rows[number] = self._row(number, told)

    def _set(self, number: int, about: Mapping[str, Any]) -> Row:
        """Change entries of the trial's attribute, in one write."""
        row = self.rows[number]
        with _explained(self._path):
            trial_id = self._trial_id(number)
            self._storage.set_trial_user_attr(trial_id, ATTRIBUTE, {**row.frozen.user_attrs[ATTRIBUTE], **about})
            self.rows[number] = self._row(number, self._storage.get_trial(trial_id))
            self._follow(self.rows[number])
        return self.rows[number]

    def _follow(self, row: Row) -> None:
        """Give an unfinished trial the state that its attribute says."""
        state = TrialState.WAITING if row.waits else TrialState.RUNNING
        if row.frozen.state != state:
            with _explained(self._path):
                trial_id = self._trial_id(row.number)
                self._storage.set_trial_state_values(trial_id, state)
                self.rows[row.number] = self._row(row.number, self._storage.get_trial(trial_id))

    def _trial_id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def close(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Optuna guesses at "invalid data" whatever went wrong; SQLite knows."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise StudyFileError(f"{path} cannot be used: {cause}; once mended, the same command goes on") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Write-ahead log: one fsync a commit less, readable while it is written (measured 57 ms a trial, not 600)."""
    connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection
