"""Where trainings run. The search hands in trials and takes back results; it does not see how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

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
