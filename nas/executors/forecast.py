"""How long a search will train on this device, from a few timed steps of a few of its networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.arch import Architecture
from nas.cost.formula import cost
from nas.data import ImageData, Split
from nas.executors.worker import threads_for
from nas.train import RECIPES, EpochReport, Recipe, recipe_for, resolve_device, train

NETWORKS = 6
"""Networks that are timed."""
STEPS = 4
"""Steps of an epoch that is timed; one of as many goes before it to warm up."""
CPU_STEP_MACS = 10_000_000_000
"""Multiply-adds of a forward pass to which a timed batch is cut on a CPU, where speed hardly depends on its size."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of training, one training at a time, evaluations left out.

    low_seconds, high_seconds: two standard errors of the mean over the timed networks, nothing if there is only one.
    images_per_s: of each of them.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    images_per_s: tuple[float, ...]
    device: str


def forecast(
    networks: Sequence[Architecture], *, input_size: int, images: int, epochs: int, trials: int, device: str
) -> Forecast:
    """Times `networks`, a sample of those that will be trained, for `trials` trainings of `epochs` of `images`."""
    if not networks:
        raise ValueError("a forecast needs at least 1 network to time, but got none")
    speeds = [images_per_s(arch, input_size, device) for arch in networks]
    seconds = [trials * epochs * images / speed for speed in speeds]
    mean = sum(seconds) / len(seconds)
    error = math.sqrt(sum((each - mean) ** 2 for each in seconds) / max(len(seconds) - 1, 1) / len(seconds))
    low = max(mean - 2 * error, min(seconds))
    return Forecast(mean, low, mean + 2 * error, tuple(speeds), str(resolve_device(device)))


def images_per_s(arch: Architecture, input_size: int, device: str) -> float:
    """Training images a second in the trainer's own loop, on random images, after a warm-up."""
    macs = cost(arch, input_size).macs
    recipe = RECIPES[recipe_for(_random_images(arch, input_size, 2))]
    recipe = _cut(recipe, macs) if resolve_device(device).type == "cpu" else recipe
    reports: list[EpochReport] = []
    with threads_for(macs):
        train(
            arch,
            _random_images(arch, input_size, STEPS * recipe.batch_size),
            recipe,
            epochs=2,
            seed=0,
            device=device,
            on_epoch=reports.append,
        )
    return STEPS * recipe.batch_size / (reports[1].seconds - reports[0].seconds)


def _cut(recipe: Recipe, macs: int) -> Recipe:
    return replace(recipe, batch_size=min(recipe.batch_size, max(8, CPU_STEP_MACS // macs)))


def _random_images(arch: Architecture, size: int, count: int) -> ImageData:
    rng = np.random.default_rng(0)

    def split(images: int) -> Split:
        pixels = rng.integers(0, 256, (images, size, size, arch.in_channels), dtype=np.uint8)
        return Split(pixels, np.arange(images, dtype=np.int64) % arch.num_classes)

    classes = tuple(str(label) for label in range(arch.num_classes))
    return ImageData(name="random", source="random images", classes=classes, train=split(count), val=split(2))
