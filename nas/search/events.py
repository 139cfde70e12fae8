"""What a search tells whoever watches it. The driver prints nothing; the command line draws these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.cost.latency_model import LatencyModel
from nas.search.gate import Ledger


@dataclass(frozen=True)
class Timing:
    """Networks are about to be timed, side by side: for the latency model, or those on the front at the end."""

    networks: int
    what: str


@dataclass(frozen=True)
class Modelled:
    """Latencies are predicted by this model, fitted now or, where the search goes on, when it began."""

    model: LatencyModel


@dataclass(frozen=True)
class FrontTimed:
    """The networks on the front have been timed."""

    networks: int
    conditions: str
    median_error: float
    """Relative error of the predictions that half of them do not exceed."""


@dataclass(frozen=True)
class Started:
    """The settings are checked, the study is open; nothing is trained yet."""

    study: str
    folder: Path
    space: str
    networks: int
    """Size of the space."""
    objectives: tuple[str, ...]
    caps: dict[str, int]
    sampler: str
    budgets: tuple[dict[str, int], ...]
    """Of the rungs, in epochs or steps; the last is that of a training in full."""
    trials: int
    """Networks to train."""
    finished: int
    """Those already trained, to the first rung at least."""
    device: str
    """What people call it."""
    precision: str
    workers: int
    advice: tuple[str, ...]
    """What would make trainings by our own executors faster on this machine, in sentences."""


@dataclass(frozen=True)
class Resumed:
    """A search that had ended or died goes on."""

    recovered: tuple[int, ...]
    """Trials whose training had ended without being entered in the study: entered now."""
    again: tuple[int, ...]
    """Trials that were under way: trained on from their checkpoints."""


@dataclass(frozen=True)
class Proposed:
    """A network passed the gate and its training begins."""

    trial: int
    key: str
    cost: dict[str, float]
    summary: dict[str, str]
    """The genes in words."""
    rejected: dict[str, int]
    """Proposals turned away before this one, by reason."""


@dataclass(frozen=True)
class GoesOn:
    """A training that had stopped at a rung goes on to the next."""

    trial: int
    key: str
    cost: dict[str, float]
    summary: dict[str, str]
    budget: dict[str, int]
    """Of the next rung."""


@dataclass(frozen=True)
class Finished:
    """A training ended, or stopped at a rung, and is entered in the study."""

    trial: int
    key: str
    state: str
    """complete, stopped or failed"""
    accuracy: float | None
    """On the validation split, 0..1; None if failed."""
    budget: dict[str, int]
    """After which it was measured."""
    cost: dict[str, float]
    summary: dict[str, str]
    seconds: float
    reason: str | None
    finished: int
    trials: int


@dataclass(frozen=True)
class Interrupted:
    """The user asked to stop: trials under way are finished, no more are begun."""

    under_way: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """How a search ended."""

    study: str
    folder: Path
    finished: int
    """Trials of the study that are complete, stopped at a rung, or failed."""
    complete: int
    failed: int
    added: int
    """Of these, trained for the first time, or failed, by this call."""
    trained: float
    """What the trainings took of those that all trials in full would have taken, 0..1, failed ones left out."""
    interrupted: bool
    ended: str
    """Why it ended, in words."""
    ledger: Ledger
    seconds: float
    """Wall time of this call."""


@dataclass(frozen=True)
class Ended:
    summary: Summary


Event = Timing | Modelled | Started | Resumed | Proposed | GoesOn | Finished | Interrupted | FrontTimed | Ended
