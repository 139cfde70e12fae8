"""The official fake: evaluates without training, for tests, dry runs and recorded tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nas import record
from nas.executors import Result, Spec, write_outcome
from nas.executors.inline import InlineExecutor


class ScoredExecutor(InlineExecutor):
    """Takes a network's accuracy (0..1) from `score(spec)`; an exception in it fails the trial with its message."""

    def __init__(
        self,
        score: Callable[[Spec], float],
        *,
        loss: Callable[[Spec], float | None] = lambda _: None,
        loss_curve: Callable[[Spec], Sequence[float]] = lambda _: (),
        seconds: float = 0.0,
    ) -> None:
        """loss: gives its validation loss, None: none. loss_curve: gives its training losses, epoch by epoch.

        seconds: what each result claims that its training took.
        """

        def evaluate(spec: Spec, folder: Path) -> Result:
            started = record.now()
            outcome: dict[str, Any] = {**spec["budget"], "seconds": seconds, "device": "scored"}
            try:
                losses = {"val_loss": loss(spec), "loss_curve": list(loss_curve(spec))}
                outcome |= {"status": "ok", "accuracy": float(score(spec)), **losses}
            except Exception as error:
                outcome |= {"status": "error", "reason": f"{type(error).__name__}: {error}"}
            return write_outcome(spec, folder, outcome, started)

        super().__init__(evaluate)
