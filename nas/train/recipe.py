"""How a network is trained: every setting typed, checked and recorded; presets by kind of data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from nas.data import ImageData
from nas.device import Precision

Optimizer = Literal["sgd_nesterov"]
Schedule = Literal["cycle", "branch", "average"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one training, proxy or full; the budget in epochs and the seed are not part of it.

    Raises ValueError naming the setting, its value and what was expected.
    """

    optimizer: Optimizer = "sgd_nesterov"
    """Stochastic gradient descent with Nesterov momentum."""

    learning_rate: float
    """Highest learning rate, at the end of the warm-up, for this batch size; above 0."""

    momentum: float = 0.9
    """Momentum per step, above 0 and below 1."""

    weight_decay: float
    """L2 penalty per step on the weights of convolutions and linear layers (not batch norm, not biases); at least 0."""

    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes, at least 0 and below 1 (arXiv:1512.00567, section 7)."""

    clip_norm: float | None = None
    """Greatest norm of all gradients together in a step: longer ones are cut to it (arXiv:1211.5063, algorithm 1).

    With the recipe `cifar`, networks of the shipped spaces have norms of 0.8 to 2.3, ResNet-50 begins with 300.
    """

    batch_size: int
    """Images a step, at least 2. An epoch is cut into equal batches of at most so many."""

    schedule: Schedule = "average"
    """How the rate falls, and so whether a larger budget continues a smaller one: see `nas.train.schedule`."""

    warmup_fraction: float = 0.2
    """cycle: share of the budget's steps during which the learning rate rises from 0, at least 0 and below 1."""

    warmup_steps: int = 20
    """branch and average: steps during which the learning rate rises from 0, at least 0."""

    cooldown_fraction: float = 0.25
    """branch: share of a budget's steps in which the rate falls to 0 before an evaluation, above 0 and below 1."""

    crop_padding: int
    """Pixels of black added on each side before a random crop of the image's size; at least 0."""

    horizontal_flip: bool
    """Mirror half of the images, drawn anew every epoch; wrong where mirroring changes the class, as for digits."""

    bn_momentum: float = 0.3
    """Weight of the newest batch in batch norm's running statistics, above 0, at most 1; 0.1 lags in short runs."""

    precision: Precision = "auto"
    """Arithmetic of the layers: fp32, or bf16 or fp16 autocast; auto: bf16 on CUDA devices and CPUs that have it."""

    channels_last: bool = True
    """Memory layout of images and weights: (B, H, W, C) if true, (B, C, H, W) if false."""

    zero_init_residual: bool = False
    """Each residual branch starts as zero, its last batch norm's scale (arXiv:1706.02677, section 5.1).

    Helps long trainings; in ones of some hundred steps the branches have no time to grow, and accuracy falls.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_type(field.name, getattr(self, field.name), str(field.type))
        for name, (accepts, expected) in _LIMITS.items():
            value = getattr(self, name)
            if not accepts(value):
                raise ValueError(f"recipe {name} must be {expected}, but got {value!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """The recipe of plain JSON values: every setting and no other, but for those that came later.

        Raises ValueError naming the key.
        """
        value = _BEFORE | dict(value)
        known = [field.name for field in fields(cls)]
        unknown = [key for key in value if key not in known]
        missing = [name for name in known if name not in value]
        if unknown:
            raise ValueError(f"recipe has the unknown key {unknown[0]!r}; the known keys are {', '.join(known)}")
        if missing:
            raise ValueError(f"recipe lacks the key {missing[0]!r}")
        return cls(**value)


_BEFORE: dict[str, Any] = {"clip_norm": None}
"""Settings that older records lack -> what trainings did then."""

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((int, float), "a finite number"),
    "float | None": ((int, float, type(None)), "a finite number or null"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "Schedule": ((str,), f"one of {', '.join(get_args(Schedule))}"),
    "Optimizer": ((str,), f"one of {', '.join(get_args(Optimizer))}"),
    "Precision": ((str,), f"one of {', '.join(get_args(Precision))}"),
}
"""Written type of a setting -> the Python types that it takes, and its name for people."""

_LIMITS: dict[str, tuple[Any, str]] = {
    "optimizer": (lambda value: value in get_args(Optimizer), f"one of {', '.join(get_args(Optimizer))}"),
    "learning_rate": (lambda value: value > 0, "above 0"),
    "momentum": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "weight_decay": (lambda value: value >= 0, "at least 0"),
    "label_smoothing": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "clip_norm": (lambda value: value is None or value > 0, "above 0, or null"),
    "batch_size": (lambda value: value >= 2, "at least 2"),
    "warmup_fraction": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "schedule": (lambda value: value in get_args(Schedule), f"one of {', '.join(get_args(Schedule))}"),
    "warmup_steps": (lambda value: value >= 0, "at least 0"),
    "cooldown_fraction": (lambda value: 0 < value < 1, "above 0 and below 1"),
    "crop_padding": (lambda value: value >= 0, "at least 0"),
    "bn_momentum": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "precision": (lambda value: value in get_args(Precision), f"one of {', '.join(get_args(Precision))}"),
}


def _require_type(name: str, value: object, written: str) -> None:
    types, expected = _TYPES[written]
    right = isinstance(value, types) and (written == "bool" or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"recipe {name} must be {expected}, but got {value!r}")


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        learning_rate=0.4,
        weight_decay=5e-4,
        batch_size=64,
        crop_padding=0,
        horizontal_flip=False,
        precision="fp32",  # networks of less than a million MACs gain nothing from bf16
    ),
    "cifar": Recipe(
        learning_rate=0.2, weight_decay=5e-4, clip_norm=2.0, batch_size=128, crop_padding=4, horizontal_flip=True
    ),
    "imagenet": Recipe(
        learning_rate=0.2,
        weight_decay=5e-5,
        clip_norm=2.0,
        batch_size=256,
        crop_padding=16,
        horizontal_flip=True,
        bn_momentum=0.1,
        zero_init_residual=True,
    ),
}
"""Presets for networks of 10 thousand to 30 million parameters and short budgets."""


def recipe_for(data: ImageData) -> str:
    """The name of the preset that fits the images: small greyscale ones must not be mirrored, they may be digits."""
    if data.size <= 16 or (data.channels == 1 and data.size <= 32):
        return "digits"
    return "cifar" if data.size <= 64 else "imagenet"
