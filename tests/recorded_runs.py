"""Hand-made studies on disk, as a search would leave them: small, seeded, nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nas.arch import Architecture, Conv, Gate, Kernel, Mixer, SelectiveKernel, SplitAttention, Stage, Stem
from nas.record import Run

GENES: dict[str, tuple[str | int, ...]] = {
    "depth": (1, 2, 3),
    "width": (16, 32, 48, 64),
    "cardinality": (1, 2, 4),
    "mixer": ("conv", "sk", "split", "hybrid"),
    "gate": ("none", "cse", "scse"),
}
SHORT, LONG = Kernel(3), Kernel(3, 2)
MIXERS: dict[str | int, Mixer] = {
    "conv": Conv(),
    "sk": SelectiveKernel(kernels=(SHORT, LONG), hidden=8),
    "split": SplitAttention(radix=2, hidden=8),
    "hybrid": SplitAttention(radix=2, hidden=8, kernels=(SHORT, LONG)),
}


def architecture(genotype: Mapping[str, str | int]) -> Architecture:
    """Three stages of bottlenecks that double their width, on 1x8x8 images of 10 classes."""
    width, gate = int(genotype["width"]), genotype["gate"]
    gates = {"none": Gate(), "cse": Gate(kind="cse", hidden=4), "scse": Gate(kind="scse", hidden=4)}
    stages = tuple(
        Stage(
            depth=int(genotype["depth"]),
            out_channels=width << index,
            inner_channels=(width << index) // 2,
            stride=min(index + 1, 2),
            projects=True,
            cardinality=int(genotype["cardinality"]),
            mixer=MIXERS[genotype["mixer"]],
            gate=gates[str(gate)],
        )
        for index in range(3)
    )
    stem = Stem(kind="conv3x3", channels=(width,), strides=(1,))
    return Architecture(in_channels=1, num_classes=10, stem=stem, block="bottleneck", stages=stages)


def genotype(**genes: str | int) -> dict[str, str | int]:
    return {name: options[0] for name, options in GENES.items()} | genes


def spec(trial: int, genes: Mapping[str, str | int], **cost: int) -> dict[str, Any]:
    """A spec.json; the costs are of a plausible size and rise with every gene, but are no count of the network."""
    arch = architecture(genes)
    extra = {"conv": 1.0, "sk": 1.9, "split": 1.3, "hybrid": 1.5}[str(genes["mixer"])]
    size = int(genes["width"]) ** 2 * int(genes["depth"]) * extra / math.sqrt(int(genes["cardinality"]))
    counts = {"params": int(30 * size), "macs": int(500 * size), "activations": int(40 * size)}
    return {
        "format": 1,
        "study": "made",
        "trial": trial,
        "key": arch.key,
        "arch": arch.to_json(),
        "genotype": dict(genes),
        "cost": counts | cost,
        "seed": 1000 + trial,
        "epochs": 8,
        "recipe": {},
        "data": {"source": "digits", "image_size": None, "val_fraction": 0.2, "seed": 0, "train_images": None},
        "device": "auto",
    }


def result(trial: int, accuracy: float | None = 0.9, **other: Any) -> dict[str, Any]:
    """A result.json of eight epochs: ok unless said otherwise."""
    return {
        "format": 1,
        "trial": trial,
        "key": "",
        "status": "ok",
        "reason": None,
        "accuracy": accuracy,
        "loss_curve": [2.3 * 0.6**epoch + 0.05 for epoch in range(8)],
        "epochs": 8,
        "steps": 96,
        "seconds": 3.5,
        "images_per_s": 2900.0,
        "device": "cpu",
        "started": "2026-11-20T10:00:00+00:00",
        "finished": "2026-11-20T10:00:03+00:00",
        "versions": {"torch": "2.13.0"},
    } | other


def failure(trial: int, reason: str, status: str = "diverged") -> dict[str, Any]:
    return result(trial, None, status=status, reason=reason, loss_curve=[2.5, None], epochs=2)


def make_run(
    root: Path, study: str = "made", trials: int = 40, objectives: tuple[str, ...] = ("accuracy", "macs")
) -> Run:
    """Distinct random networks, most complete; every ninth failed; of 20 and more the last is still running."""
    run = Run(root, study)
    config = {
        "study": study,
        "space": "digits",
        "data": "digits",
        "trials": trials,
        "epochs": 8,
        "objectives": list(objectives),
        "caps": {"macs": 12_000_000},
        "sampler": "tpe",
        "seed": 0,
    }
    run.write_run({"format": 1, "config": config, "environment": {"cpu": "a made-up CPU", "cores": 2}, "data": "ab12"})
    run.write_space('name = "digits"\n')
    rejected = {"invalid": 4, "duplicate": 9, "over_cap": 17}
    run.write_ledger({"proposed": trials + 30, "accepted": trials, "rejected": rejected, "saved_seconds": 210.0})
    generator = np.random.default_rng(7)
    seen: set[str] = set()
    while len(seen) < trials:
        genes = {name: options[generator.integers(len(options))] for name, options in GENES.items()}
        if architecture(genes).key in seen:
            continue
        trial = len(seen)
        seen.add(architecture(genes).key)
        run.write_spec(trial, spec(trial, genes))
        if trial < 19 or trial < trials - 1:
            run.write_result(trial, _made_result(trial, genes, generator))
    return run


def _made_result(trial: int, genes: Mapping[str, str | int], generator: np.random.Generator) -> dict[str, Any]:
    if trial % 9 == 4:
        return failure(trial, "loss became nan in epoch 2" if trial % 2 else "the loss of epoch 1 is infinite")
    skill = {"conv": 0.0, "sk": 0.012, "split": 0.015, "hybrid": 0.02}[str(genes["mixer"])]
    size = math.log(int(genes["width"]) * int(genes["depth"])) / 5
    gate = 0.0 if genes["gate"] == "none" else 0.008
    accuracy = min(0.84 + 0.13 * size + skill + gate + float(generator.normal(0, 0.012)), 0.995)
    slow = 0.5 + 2.0 * (1 - accuracy) + 0.1 * float(generator.random())
    curve = [2.3 * slow**epoch + 0.3 * (1 - accuracy) for epoch in range(8)]
    return result(trial, round(accuracy, 4), loss_curve=curve, seconds=round(2 + 4 * size, 2))
