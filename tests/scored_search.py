"""Searches of the tiny space that score networks instead of training them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from nas.executors import Spec
from nas.executors.scored import ScoredExecutor
from nas.record import Run
from nas.search import Event, SearchConfig, Summary, run_search

SECONDS = 2.0
"""What each scored training claims to have taken."""


def fraction(text: str) -> float:
    """A number in 0..1 that looks random and never changes."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def accuracy(spec: Spec) -> float:
    """Larger networks are better, up to a share of chance."""
    return float(0.5 + 0.4 * spec["cost"]["params"] / 100_000 + 0.1 * fraction(spec["key"]))


DEFAULTS: dict[str, Any] = {"study": "s", "space": "tiny", "sampler": "random", "trials": 5, "halving": False}
"""All trainings in full, but where a test asks for rungs."""


def by_rung(spec: Spec) -> float:
    """Longer trainings are better."""
    return accuracy(spec) - 0.1 / float(spec["rung"] + 1)


def settings(out: Path, **changes: Any) -> SearchConfig:
    return SearchConfig.read({**DEFAULTS, "out": out, **changes})


def search(
    out: Path,
    score: Callable[[Spec], float] = accuracy,
    on_event: Callable[[Event], None] = lambda _: None,
    loss: Callable[[Spec], float | None] = lambda _: None,
    loss_curve: Callable[[Spec], Sequence[float]] = lambda _: (),
    **changes: Any,
) -> Summary:
    executor = ScoredExecutor(score, loss=loss, loss_curve=loss_curve, seconds=SECONDS)
    return run_search(settings(out, **changes), executor=executor, on_event=on_event)


def trials_of(out: Path) -> pd.DataFrame:
    return Run(out, "s").trials()


def keys_of(out: Path) -> list[str]:
    return list(trials_of(out)["key"])


def study_of(out: Path) -> optuna.Study:
    """The study as anybody reads it, with Optuna alone."""
    return optuna.load_study(study_name="s", storage=f"sqlite:///{out / 's' / 'study.db'}")
