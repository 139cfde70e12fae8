"""Trains one network in full, with the trainer of the searches, and exports it.

The record of the training is that of a search with one trial, so that all that reads a search reads it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nas import record
from nas.arch import Architecture
from nas.cost.formula import cost
from nas.data import ImageData, load
from nas.executors import Spec, write_outcome
from nas.executors.worker import threads_for
from nas.export.folder import of_trial, write_export
from nas.record import Run, driver_lock
from nas.train import EpochReport, Recipe, train

FORMAT = 1
TRIAL = 0


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """One training in full.

    origin: where the architecture comes from, `found` of a config.json. data: arguments of `nas.data.load`. epochs: the
    budget. seed: of weights, order and augmentation. device: as in `nas.device.resolve_device`.
    """

    architecture: Architecture
    origin: Mapping[str, Any]
    data: Mapping[str, Any]
    recipe: Recipe
    epochs: int
    seed: int
    device: str = "auto"


def retrain(
    wanted: Retraining, run: Run, *, device: torch.device, on_epoch: Callable[[EpochReport], None] | None = None
) -> Path:
    """Train, or go on from the checkpoint of the same training in `run`, then export to best/<key> of its folder.

    device: that of `wanted`, resolved. Raises ValueError where `run` holds another training or search, or data and
    network do not fit; RuntimeError where the loss is not finite.
    """
    data = load(**wanted.data)
    run_json, spec = _describe(wanted, run, data), _spec(wanted, run)
    with driver_lock(run):
        _start(run, run_json)
        run.write_spec(TRIAL, spec)
        begun = record.now()
        with threads_for(spec["cost"]["macs"]):
            result = train(
                wanted.architecture,
                data,
                wanted.recipe,
                epochs=wanted.epochs,
                seed=wanted.seed,
                device=wanted.device,
                checkpoint=run.checkpoint(TRIAL),
                on_epoch=on_epoch,
            )
        outcome = {**result.to_json(), "versions": record.environment()["versions"]}
        write_outcome(spec, run.trial_folder(TRIAL), outcome, begun)
        run.write_tables(("accuracy", "macs"))
    if result.status != "ok":
        raise RuntimeError(f"the training failed: {result.reason}")
    return write_export(of_trial(run, TRIAL), run.path("best", wanted.architecture.key), device=device)


def _spec(wanted: Retraining, run: Run) -> Spec:
    arch = wanted.architecture.canonical()
    return {
        "format": FORMAT,
        "study": run.study,
        "trial": TRIAL,
        "key": arch.key,
        "arch": arch.to_json(),
        "genotype": {},
        "cost": asdict(cost(arch, load(**wanted.data).size)),
        "seed": wanted.seed,
        "rung": 0,
        "budget": {"epochs": wanted.epochs},
        "full": True,
        "recipe": wanted.recipe.to_json(),
        "data": dict(wanted.data),
        "device": wanted.device,
    }


def _describe(wanted: Retraining, run: Run, data: ImageData) -> dict[str, Any]:
    """run.json."""
    config = {
        "study": run.study,
        "trials": 1,
        "epochs": wanted.epochs,
        "objectives": ["accuracy", "macs"],
        "sampler": "none: a training in full",
        "seed": wanted.seed,
        "recipe": wanted.recipe.to_json(),
        "key": wanted.architecture.key,
    }
    return {
        "format": FORMAT,
        "created": record.now(),
        "config": config,
        "origin": dict(wanted.origin),
        "space": {"fixed": {"input_size": data.size}},
        "data": data.to_json(),
        "environment": record.environment(),
    }


def _start(run: Run, described: dict[str, Any]) -> None:
    """Write run.json. Raises ValueError where there is one of anything else; only epochs may change."""
    if run.exists():
        stored = run.read_run()
        before, now = (_fixed(value) for value in (stored, described))
        differing = [name for name, value in now.items() if before.get(name) != value]
        if differing:
            raise ValueError(
                f"{run.folder} holds another training or a search: {', '.join(differing)} of it differ: "
                "name another folder"
            )
        described = {**described, "created": stored["created"]}
    run.write_run(described)


def _fixed(described: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in described["config"].items() if name != "epochs"}
    return {**config, "data": described["data"]["digest"]}
