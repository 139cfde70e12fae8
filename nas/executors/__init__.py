"""Where trainings run. The search hands in trials and takes back results; it does not see how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nas import record

Spec = Mapping[str, Any]
"""The content of a trial's spec.json."""
Result = dict[str, Any]
"""The content of a trial's result.json."""


class Executor(Protocol):
    """Runs trials, up to `capacity` at a time. Each writes result.json into its folder before it is returned."""

    @property
    def capacity(self) -> int: ...

    def submit(self, spec: Spec, folder: Path) -> None:
        """Take a trial. Never called with `capacity` trials under way."""

    def wait(self) -> Sequence[Result]:
        """The results that have come in since the last call; waits for one. Never called with none under way."""

    def close(self) -> None:
        """Give back what the executor holds; trials under way are abandoned."""


OUT_OF_MEMORY = "out of memory"
"""The reason of a training that found no memory, whatever the sizes were."""

NOTHING: Result = {
    "status": "error",
    "reason": None,
    "accuracy": None,
    "val_loss": None,
    "evaluations": [],
    "loss_curve": [],
    "epochs": 0,
    "steps": 0,
    "seconds": 0.0,
    "images_per_s": None,
    "device": None,
    "versions": {},
}
"""What a training that gave nothing reports."""


def write_outcome(spec: Spec, folder: Path, outcome: Mapping[str, Any], started: str) -> Result:
    """Write result.json of a trial, atomically, and return it. `outcome` fills in what the training gave.

    An executor that repeats trials says in `spec["attempt"]` which attempt this is.
    """
    own = {"format": 1, **{name: spec[name] for name in ("trial", "key", "rung", "full", "repeat") if name in spec}}
    own["attempts"] = spec.get("attempt", 1)
    result: Result = {**own, **NOTHING, **outcome, "started": started, "finished": record.now()}
    record.write_json(folder / "result.json", result)
    return result
