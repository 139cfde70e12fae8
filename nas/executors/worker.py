"""Trains one network: the same function for every executor."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas import record
from nas.arch import Architecture
from nas.atomic import write_atomic
from nas.data import load
from nas.executors import OUT_OF_MEMORY, Result, Spec, write_outcome
from nas.train import Recipe, train

SMALL_MACS = 5_000_000
"""Multiply-adds an image below which threads wait for each other more than they help, and collapse on busy cores."""

MEMORY_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")
"""How torch's allocators say it."""


def evaluate(spec: Spec, folder: Path) -> Result:
    """Train the network of `spec`, from the checkpoint in `folder` if there is one.

    Every exception becomes a result of status "error" with a reason of one line; its traceback goes to error.txt.
    result.json is written before the return, so that a driver which dies loses no finished training. A
    KeyboardInterrupt passes: the training is then taken up again from its checkpoint.
    """
    started = record.now()
    try:
        with threads_for(spec["cost"]["macs"]):
            outcome = _train(spec, folder)
    except Exception as error:
        write_atomic(folder / "error.txt", traceback.format_exc())
        outcome = {"status": "error", "reason": reason_of(error)}
    outcome = {**outcome, "versions": record.environment()["versions"]}
    return write_outcome(spec, folder, outcome, started)


@contextlib.contextmanager
def threads_for(macs: int) -> Iterator[None]:
    """One thread for a small network, torch's own number for any other."""
    before = torch.get_num_threads()
    if macs < SMALL_MACS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(spec: Spec, folder: Path) -> dict[str, Any]:
    return train(
        Architecture.from_json(spec["arch"]),
        load(**spec["data"]),  # the data layer keeps the last sets of a process in memory
        Recipe.from_json(spec["recipe"]),
        **spec["budget"],
        seed=spec["seed"],
        device=spec["device"],
        checkpoint=folder / "checkpoint.pt",
    ).to_json()


def reason_of(error: Exception) -> str:
    """One line: out of memory in these words, whatever the sizes were, else the error's name and first line."""
    text = str(error)
    if isinstance(error, MemoryError) or any(phrase in text.lower() for phrase in MEMORY_PHRASES):
        return OUT_OF_MEMORY
    first = text.strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
