"""The official fake: evaluates without training, for tests, dry runs and recorded tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas import record
from nas.executors import Result, Spec
from nas.executors.inline import InlineExecutor


class ScoredExecutor(InlineExecutor):
    """Takes a network's accuracy (0..1) from `score(spec)`; an exception in it fails the trial with its message."""

    def __init__(self, score: Callable[[Spec], float], *, seconds: float = 0.0) -> None:
        """`seconds`: what each result claims that its training took."""

        def evaluate(spec: Spec, folder: Path) -> Result:
            now = record.now()
            result: Result = {
                "format": 1,
                "trial": spec["trial"],
                "key": spec["key"],
                "status": "ok",
                "reason": None,
                "accuracy": None,
                "loss_curve": [],
                "epochs": spec["epochs"],
                "steps": 0,
                "seconds": seconds,
                "images_per_s": None,
                "device": "scored",
                "started": now,
                "finished": now,
                "versions": {},
            }
            try:
                result["accuracy"] = float(score(spec))
            except Exception as error:
                result |= {"status": "error", "reason": f"{type(error).__name__}: {error}"}
            record.write_json(folder / "result.json", result)
            return result

        super().__init__(evaluate)
