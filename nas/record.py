"""The record of a search on disk: the only reader and writer of `results/<study>/`.

    run.json       resolved configuration, seeds, versions, hardware, data digest
    space.toml     the text of the search space
    study.db       Optuna's storage
    ledger.json    what the gate let through and turned away
    latency.json, front_latency.json   where latency is an objective: the model that predicts it, the front's times
    trials.csv     one row per trial          front.csv    the non-dominated ones
    report.html    the page                   driver.lock  held by the one driver of the study
    trials/<n>/    spec.json, result.json, checkpoint.pt
    repeats/<n>-<k>/, repeats.csv   the same for trial n with its k-th other seed, and one row for each

Every file is written whole or not at all, no path leaves the results root, and whatever the files hold was computed
elsewhere: here nothing is trained, priced or proposed. All mistakes on disk raise ValueError naming the file.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

import nas
from nas import pareto
from nas.arch import Architecture
from nas.atomic import write_atomic
from nas.machine import cpu_model, usable_cores
from nas.pareto import COSTS

REPEAT_FOLDER = re.compile(r"(0|[1-9]\d*)-([1-9]\d*)", re.ASCII)
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

COLUMNS: dict[str, str] = {
    "trial": "int64",
    "state": "str",
    "accuracy": "float64",
    "macs": "int64",
    "params": "int64",
    "activations": "int64",
    "latency_ms": "float64",
    "measured_ms": "float64",
    "family": "str",
    "mechanisms": "str",
    "depth": "str",
    "width": "str",
    "cardinality": "str",
    "mixer": "str",
    "gate": "str",
    "key": "str",
    "reference": "str",
    "epochs": "Int64",
    "seconds": "float64",
    "images_per_s": "float64",
    "reason": "str",
    "seed": "int64",
}
"""Column of `Run.trials` -> dtype. No result: accuracy, seconds, images_per_s are nan, epochs <NA>, reason empty.

reference is the family of a paper's network that the search was given, else empty. latency_ms is what the study's
model predicts, nan where latency is no objective; measured_ms the median of a network that was timed on the front, nan
for others.
"""

REPEAT_COLUMNS: dict[str, str] = {
    "trial": "int64",
    "repeat": "int64",
    "state": "str",
    "accuracy": "float64",
    "seconds": "float64",
    "reason": "str",
    "seed": "int64",
}
"""Column of `Run.repeats` -> dtype."""

PACKAGES = ("torch", "optuna", "fvcore", "numpy", "pandas", "scikit-learn", "moocore", "numba", "plotly")


def empty_ledger() -> dict[str, Any]:
    """The gate's ledger before the first proposal; saved_seconds estimates the training time of what was rejected."""
    return {
        "proposed": 0,
        "accepted": 0,
        "rejected": {"invalid": 0, "duplicate": 0, "over_cap": 0},
        "saved_seconds": 0.0,
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically. JSON has no nan or infinity: null stands for them."""
    try:
        text = json.dumps(_plain(value), indent=1, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{path.name} must hold plain JSON values, but {error}") from None
    write_atomic(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ValueError naming the file if it is missing or damaged."""
    value = read_json_or_none(path)
    if value is None:
        raise ValueError(f"{path} is missing: name a finished search, or run the search that writes it")
    return value


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, None if there is no such file. Raises ValueError naming the file if it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds {type(value).__name__}, not an object")
    return value


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged ({what}): restore or delete it, then run the same search again")


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one study under the results root. Nothing is made before something is written.

    Raises ValueError for a study name that does not match `STUDY_NAME`, and, at each use, for a path that leads out
    of the root (through a symbolic link).
    """

    root: Path
    study: str

    def __post_init__(self) -> None:
        if not isinstance(self.study, str) or not STUDY_NAME.fullmatch(self.study):
            shown = repr(self.study) if len(str(self.study)) <= 80 else f"{len(str(self.study))} characters"
            raise ValueError(
                f"study name must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit, "
                f"but got {shown}"
            )

    def path(self, *parts: str) -> Path:
        """A path in the study's folder, refused if it leads out of the root."""
        path = self.root.joinpath(self.study, *parts)
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a loop of links
            inside = False
        if not inside:
            raise ValueError(f"{path} leads out of the results folder {self.root}: remove the link")
        return path

    @property
    def folder(self) -> Path:
        return self.path()

    @property
    def study_db(self) -> Path:
        return self.path("study.db")

    @property
    def report_html(self) -> Path:
        return self.path("report.html")

    @property
    def trials_csv(self) -> Path:
        return self.path("trials.csv")

    @property
    def front_csv(self) -> Path:
        return self.path("front.csv")

    def exists(self) -> bool:
        """Whether the study has been started: its run.json is there."""
        return self.path("run.json").is_file()

    def write_run(self, value: Mapping[str, Any]) -> None:
        write_json(self.path("run.json"), value)

    def read_run(self) -> dict[str, Any]:
        return read_json(self.path("run.json"))

    def write_space(self, text: str) -> None:
        """Copy the text of the space's TOML file."""
        write_atomic(self.path("space.toml"), text)

    def read_space(self) -> str:
        path = self.path("space.toml")
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: run the search that writes it") from None
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from None

    def write_ledger(self, value: Mapping[str, Any]) -> None:
        write_json(self.path("ledger.json"), value)

    def read_ledger(self) -> dict[str, Any]:
        """The gate's ledger; `empty_ledger` before the first is written."""
        return {**empty_ledger(), **(read_json_or_none(self.path("ledger.json")) or {})}

    def write_latency(self, value: Mapping[str, Any]) -> None:
        write_json(self.path("latency.json"), value)

    def read_latency(self) -> dict[str, Any] | None:
        """The model of latencies with the networks that it was fitted to; None where there is none."""
        return read_json_or_none(self.path("latency.json"))

    def write_front_latency(self, value: Mapping[str, Any]) -> None:
        write_json(self.path("front_latency.json"), value)

    def read_front_latency(self) -> dict[str, Any] | None:
        """How long the networks of the front took when they were timed; None before that."""
        return read_json_or_none(self.path("front_latency.json"))

    def measured_ms(self) -> dict[str, float]:
        """Key of each network in front_latency.json -> median in milliseconds. Raises ValueError if it is damaged."""
        value = self.read_front_latency()
        try:
            return {str(one["key"]): float(one["median_ms"]) for one in value["networks"]} if value else {}
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.path("front_latency.json"), f"{type(error).__name__}: {error}") from None

    def trial_folder(self, trial: int) -> Path:
        """The folder of a trial. Raises ValueError unless `trial` is a whole number of at least 0."""
        if isinstance(trial, bool) or not isinstance(trial, int) or trial < 0:
            raise ValueError(f"trial must be a whole number of at least 0, but got {trial!r}")
        return self.path("trials", str(trial))

    def checkpoint(self, trial: int) -> Path:
        return self._of_trial(trial, "checkpoint.pt")

    def write_spec(self, trial: int, value: Mapping[str, Any]) -> None:
        self._write_trial(trial, "spec.json", value)

    def read_spec(self, trial: int) -> dict[str, Any]:
        return read_json(self._of_trial(trial, "spec.json"))

    def write_result(self, trial: int, value: Mapping[str, Any]) -> None:
        """Write a trial's result. Raises ValueError if it is "ok" without a finite accuracy."""
        if value.get("status") == "ok" and not _is_finite(value.get("accuracy")):
            raise ValueError(f"the result of trial {trial} is ok, but its accuracy is {value.get('accuracy')!r}")
        self._write_trial(trial, "result.json", value)

    def read_result(self, trial: int) -> dict[str, Any] | None:
        """A trial's result; None while it is running."""
        return read_json_or_none(self._of_trial(trial, "result.json"))

    def _of_trial(self, trial: int, name: str) -> Path:
        return self.path("trials", self.trial_folder(trial).name, name)

    def _write_trial(self, trial: int, name: str, value: Mapping[str, Any]) -> None:
        path = self._of_trial(trial, name)
        if value.get("trial") != trial:
            raise ValueError(f"{name} of trial {trial} must name that trial, but it names {value.get('trial')!r}")
        write_json(path, value)

    def repeat_folder(self, trial: int, repeat: int) -> Path:
        """The folder of a trial's training with its `repeat`-th other seed, from 1 on."""
        return self.path("repeats", f"{trial}-{repeat}")

    def write_repeat_spec(self, trial: int, repeat: int, value: Mapping[str, Any]) -> None:
        write_json(self.repeat_folder(trial, repeat) / "spec.json", value)

    def read_repeat(self, trial: int, repeat: int) -> dict[str, Any] | None:
        """The result of a training with another seed; None before it has ended."""
        return read_json_or_none(self.repeat_folder(trial, repeat) / "result.json")

    def repeats(self) -> pd.DataFrame:
        """All trainings with other seeds, with the columns of `REPEAT_COLUMNS` and the states of `trials`."""
        found = sorted(
            (int(match[1]), int(match[2]))
            for spec in self.path("repeats").glob("*/spec.json")
            if (match := REPEAT_FOLDER.fullmatch(spec.parent.name))
        )
        rows = [
            {
                "trial": trial,
                "repeat": repeat,
                **_outcome(self.read_repeat(trial, repeat)),
                "seed": read_json(self.repeat_folder(trial, repeat) / "spec.json").get("seed", -1),
            }
            for trial, repeat in found
        ]
        return _frame(rows, REPEAT_COLUMNS)

    def other_seeds(self) -> dict[int, list[float]]:
        """Trial -> its accuracies with other seeds, of those trainings that succeeded; no others, no entry."""
        repeats = self.repeats()
        complete = repeats[repeats["state"] == "complete"]
        found: dict[int, list[float]] = {}
        for trial, accuracy in zip(complete["trial"].tolist(), complete["accuracy"].tolist(), strict=True):
            found.setdefault(trial, []).append(accuracy)
        return found

    def trial_numbers(self) -> list[int]:
        """The trials that have a spec.json, in order."""
        specs = self.path("trials").glob("*/spec.json")
        names = [spec.parent.name for spec in specs]
        return sorted(int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name)

    def trials(self) -> pd.DataFrame:
        """All trials in order, with the columns and dtypes of `COLUMNS`; no trials, no rows.

        state: "running" without a result; with status ok "complete", or "stopped" where the training has more rungs to
        go, of which the last result is shown; else "failed". macs, params and activations are
        counts, accuracy is the fraction 0..1 on the validation split, seconds are those of the training.
        """
        measured = self.measured_ms()
        rows = [self._row(trial, measured) for trial in self.trial_numbers()]
        return _frame(rows, COLUMNS)

    def _row(self, trial: int, measured: Mapping[str, float]) -> dict[str, Any]:
        path = self._of_trial(trial, "spec.json")
        spec = self.read_spec(trial)
        try:
            arch = Architecture.from_json(spec["arch"])
            cost: dict[str, Any] = {name: int(spec["cost"][name]) for name in COSTS}
            cost["latency_ms"] = float(spec["cost"]["latency"]) if "latency" in spec["cost"] else math.nan
            known = {"key": str(spec["key"]), "seed": int(spec["seed"])}
        except KeyError as error:
            raise _damaged(path, f"it lacks the key {error}") from None
        except (TypeError, ValueError) as error:
            raise _damaged(path, str(error)) from None
        return {
            "trial": trial,
            **cost,
            **known,
            "reference": str(spec.get("reference", "")),
            "measured_ms": measured.get(str(known["key"]), math.nan),
            "family": arch.family,
            "mechanisms": "+".join(sorted(arch.mechanisms)),
            **arch.summary(),
            **_outcome(self.read_result(trial)),
        }

    def front(self, objectives: Sequence[str]) -> pd.DataFrame:
        """The complete trials that no complete trial dominates, sorted by the first cost (see `front_of`)."""
        return front_of(self.trials(), objectives)

    def write_tables(self, objectives: Sequence[str]) -> None:
        """Write trials.csv and front.csv, and repeats.csv where there are repeats."""
        trials, repeats = self.trials(), self.repeats()
        write_atomic(self.trials_csv, _csv(trials))
        write_atomic(self.front_csv, _csv(front_of(trials, objectives)))
        if len(repeats):
            write_atomic(self.path("repeats.csv"), _csv(repeats))


def _frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=columns[name]) for name in columns})


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _outcome(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns that a result fills."""
    numbers = {name: (result or {}).get(name) for name in ("accuracy", "seconds", "images_per_s", "epochs")}
    if result is None:
        return {"state": "running", "reason": "", **numbers}
    if result.get("status") == "ok" and _is_finite(result.get("accuracy")):
        return {"state": "complete" if result.get("full", True) else "stopped", "reason": "", **numbers}
    reason = result.get("reason") or f"status {result.get('status')}"
    return {"state": "failed", "reason": str(reason), **numbers}


def front_of(trials: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The rows of `trials` that are complete and that no complete row dominates.

    Sorted by the first cost among the objectives, then by falling accuracy, then by trial; networks of equal values
    are all kept. Raises ValueError for an unknown objective.
    """
    complete = trials[trials["state"] == "complete"]
    values = by_objective(complete)
    front = values[pareto.non_dominated(pareto.losses_from(values, objectives))]
    order = [*pareto.costs_of(objectives)[:1], "accuracy", "trial"]
    rising = [name != "accuracy" for name in order]
    return trials.loc[front.sort_values(order, ascending=rising).index].reset_index(drop=True)


def by_objective(trials: pd.DataFrame) -> pd.DataFrame:
    """The same rows, each objective under its own name: a column has the unit in its name, latency_ms, too."""
    return trials.rename(columns={"latency_ms": "latency"})


def _csv(frame: pd.DataFrame) -> str:
    """CSV text. A text cell that a spreadsheet would run as a formula gets an apostrophe in front."""
    safe = frame.copy()
    for name in (name for name, dtype in (COLUMNS | REPEAT_COLUMNS).items() if dtype == "str" and name in safe):
        safe[name] = [f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in safe[name]]
    return safe.to_csv(index=False, lineterminator="\n")


@contextmanager
def driver_lock(run: Run) -> Iterator[None]:
    """Hold the study for this process: a second driver would train everything twice and spoil the storage.

    The lock dies with its process. Raises ValueError naming the holder if another process has it.
    """
    path = run.path("driver.lock")
    holder = run.path("driver.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"study {run.study!r} is being searched by {_holder(holder)}: wait or stop it") from None
    try:
        write_json(holder, {"pid": os.getpid(), "host": socket.gethostname(), "since": now()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        value = read_json(path)
    except ValueError:  # it has only just taken the lock, or died
        return "another process"
    return f"process {value.get('pid')} on {value.get('host')} since {value.get('since')}"


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Where this process runs: python, platform, cpu, cores it may use, CUDA devices, versions of us and `PACKAGES`.

    Nothing is imported to find out: versions come from the installed metadata, and the devices are [] unless torch
    has been imported already.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "cuda": _cuda_devices(),
        "versions": {"paretonest": nas.__version__, **{name: _version(name) for name in PACKAGES}},
    }


def _cuda_devices() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


@cache  # reading it takes a millisecond, every result.json holds it, and a running process has one
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
