"""One trainer for proxy and full budgets: seeded, resumable, without host synchronisation in its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas.arch import Architecture
from nas.data import ImageData, Split
from nas.data.batches import Normalise, draw, on_device, plain_batches, steps_per_epoch, train_batches
from nas.device import FUSED, Precision, autocast, resolve_device, resolve_precision
from nas.models import build
from nas.train.checkpoint import DamagedCheckpoint, read_checkpoint, save_checkpoint, set_aside
from nas.train.recipe import Recipe
from nas.train.schedule import learning_rate

EVAL_BATCH = 512
_GENERATOR = Lock()
"""torch's global generator draws the weights: trainings in threads of one process must not share a draw."""


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch: which (1..epochs), its mean training loss, seconds and images/s since the training began."""

    epoch: int
    epochs: int
    loss: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training gave.

    accuracy: share (0..1) of the validation split, None if the training diverged. loss_curve: mean training loss of
    each epoch, label smoothing included. seconds: wall time of all parts of the training, set-up and evaluation left
    out; images_per_s: training images over it. epochs, steps: done, not planned. notes: what a person should know.
    """

    status: Literal["ok", "diverged"]
    reason: str | None
    accuracy: float | None
    loss_curve: tuple[float, ...]
    epochs: int
    steps: int
    seconds: float
    images_per_s: float
    device: str
    precision: str
    parameters: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a loss that is not finite, which JSON cannot say, becomes null."""
        losses = [loss if math.isfinite(loss) else None for loss in self.loss_curve]
        return asdict(self) | {"loss_curve": losses, "notes": list(self.notes)}


@dataclass
class _Training:
    """A training under way: what a checkpoint holds, and where it runs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    accuracy: float | None = None

    @property
    def diverged(self) -> bool:
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": len(self.losses),
            "losses": list(self.losses),
            "seconds": self.seconds,
            "accuracy": self.accuracy,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.losses, self.seconds, self.accuracy = list(state["losses"]), state["seconds"], state["accuracy"]


def train(
    arch: Architecture,
    data: ImageData,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: str = "auto",
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> TrainResult:
    """Trains `arch` from weights drawn by `seed`, for `epochs` epochs, and evaluates it once on the validation split.

    checkpoint: a file written at the end, when `on_epoch` raises, and at epoch ends at least `checkpoint_every_s`
    seconds apart. If it exists it is continued; a finished one gives its result at once. A damaged one is set aside as
    *.corrupt, said in the result's notes, and the training starts again. The same seed gives the same batches on every
    device, and the same numbers on one CPU with one number of threads, in one go or in parts.

    A loss that is not finite at the end of an epoch ends the training with status "diverged". Raises ValueError when
    data, budget, seed or device cannot be used, or when the checkpoint is that of another training.
    """
    _require_budget(epochs, seed)
    where = resolve_device(device)
    size = data.size  # an architecture takes any input size
    data.require(in_channels=arch.in_channels, num_classes=arch.num_classes, input_size=size, where="the architecture")
    identity = {"key": arch.key, "recipe": recipe.to_json(), "seed": seed, "epochs": epochs, "data": data.digest}
    training = _start(arch, recipe, seed, where)
    notes = _resume(training, checkpoint, identity)
    _run(training, data, recipe, identity, checkpoint, checkpoint_every_s, on_epoch)
    return _result(training, data, recipe, notes)


def evaluate(
    model: nn.Module,
    split: Split,
    data: ImageData,
    *,
    device: torch.device,
    batch_size: int = EVAL_BATCH,
    precision: Precision = "fp32",
) -> float:
    """Share (0..1) of the split's images that the model, on `device`, classifies rightly in eval mode.

    `data` gives the normalisation. An image with a logit that is not finite counts as wrong.
    """
    if len(split) == 0:
        raise ValueError("a split to evaluate on needs at least one image, but got 0")
    was_training = model.training
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=device)
    with torch.inference_mode(), autocast(device, resolve_precision(precision, device)):
        for x_BCHW, labels_B in plain_batches(on_device(split, device), Normalise.of(data), batch_size=batch_size):
            logits_BC = model(x_BCHW)
            right += ((logits_BC.argmax(dim=1) == labels_B) & logits_BC.isfinite().all(dim=1)).sum()
    model.train(was_training)
    return int(right) / len(split)


def _require_budget(epochs: int, seed: int) -> None:
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, but got {epochs}")
    if seed < 0:
        raise ValueError(f"the seed of a training must be at least 0, but got {seed}")


def _start(arch: Architecture, recipe: Recipe, seed: int, device: torch.device) -> _Training:
    model = _seeded_model(arch, recipe, seed)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    precision = resolve_precision(recipe.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return _Training(model, _optimizer(model, recipe, device), scaler, device, precision)


def _seeded_model(arch: Architecture, recipe: Recipe, seed: int) -> nn.Module:
    """Weights drawn on the CPU from `seed`, alike for every description of one key; other draws are not disturbed."""
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(arch.canonical(), zero_init_residual=recipe.zero_init_residual)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = recipe.bn_momentum
    return model


def _optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]  # batch norm and biases
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    fused = device.type in FUSED
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True, fused=fused, foreach=not fused
    )


def _resume(training: _Training, checkpoint: Path | None, identity: dict[str, Any]) -> tuple[str, ...]:
    """Continues from the checkpoint, if there is one of this training; returns what a person should know."""
    if checkpoint is None:
        return ()
    try:
        content = read_checkpoint(checkpoint)
    except FileNotFoundError:
        return ()
    except DamagedCheckpoint as error:
        return (f"{error}: moved to {set_aside(checkpoint).name}, training started again",)
    differing = [name for name, value in identity.items() if content.get(name) != value]
    if differing:
        raise ValueError(
            f"{checkpoint} belongs to another training: its {', '.join(differing)} differ from this one's; "
            f"name another file, or remove it"
        )
    training.restore(content)
    return (f"continued after epoch {content['epoch']} of {identity['epochs']}",)


def _run(
    training: _Training,
    data: ImageData,
    recipe: Recipe,
    identity: dict[str, Any],
    checkpoint: Path | None,
    checkpoint_every_s: float,
    on_epoch: Callable[[EpochReport], None] | None,
) -> None:
    """Trains to the end of the budget or until the loss is bad, saves on the way, evaluates once."""
    if training.accuracy is not None or training.diverged:
        return

    def save() -> None:
        if checkpoint is not None:
            save_checkpoint(checkpoint, {**identity, **training.state()})

    saved = time.monotonic()
    while len(training.losses) < identity["epochs"] and not training.diverged:
        _epoch(training, data, recipe, epochs=identity["epochs"], seed=identity["seed"])
        if time.monotonic() - saved >= checkpoint_every_s:
            save()
            saved = time.monotonic()
        if on_epoch is not None:
            try:
                on_epoch(_report(training, data, identity["epochs"]))
            except BaseException:  # whoever stops a training here, Ctrl-C included, can go on from this epoch
                save()
                raise
    if not training.diverged:
        training.accuracy = evaluate(
            training.model, data.val, data, device=training.device, precision=training.precision
        )
    save()


def _epoch(training: _Training, data: ImageData, recipe: Recipe, *, epochs: int, seed: int) -> None:
    """One epoch, whose batches depend on the seed and its number alone; the loss is read once, at its end."""
    start = time.monotonic()
    images = on_device(data.train, training.device)
    epoch = len(training.losses)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    drawn = draw(
        len(images),
        crop_padding=recipe.crop_padding,
        horizontal_flip=recipe.horizontal_flip,
        generator=epoch_generator(seed, epoch),
    )
    batches = train_batches(
        images, Normalise.of(data), drawn, batch_size=recipe.batch_size, crop_padding=recipe.crop_padding
    )
    training.model.train()
    loss_sum = torch.zeros((), device=training.device)
    for step, (x_BCHW, labels_B) in enumerate(batches, start=epoch * steps):
        for group in training.optimizer.param_groups:
            group["lr"] = learning_rate(step, epochs * steps, recipe)
        x_BCHW = x_BCHW if recipe.channels_last else x_BCHW.contiguous()
        loss_sum += _step(training, x_BCHW, labels_B, recipe.label_smoothing) * len(labels_B)
    training.losses.append(float(loss_sum) / len(images))
    training.seconds += time.monotonic() - start


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The CPU generator of an epoch's order and augmentation: a function of seed and epoch, not of what came before."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _step(training: _Training, x_BCHW: Tensor, labels_B: Tensor, label_smoothing: float) -> Tensor:
    """One step of gradient descent; returns its loss, still on the device."""
    with autocast(training.device, training.precision):
        loss = nn.functional.cross_entropy(training.model(x_BCHW), labels_B, label_smoothing=label_smoothing)
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    training.scaler.step(training.optimizer)
    training.scaler.update()
    return loss.detach()


def _images_per_s(training: _Training, data: ImageData) -> float:
    return len(training.losses) * len(data.train) / training.seconds if training.seconds else 0.0


def _report(training: _Training, data: ImageData, epochs: int) -> EpochReport:
    speed = _images_per_s(training, data)
    return EpochReport(len(training.losses), epochs, training.losses[-1], training.seconds, speed)


def _result(training: _Training, data: ImageData, recipe: Recipe, notes: tuple[str, ...]) -> TrainResult:
    done = len(training.losses)
    return TrainResult(
        status="diverged" if training.diverged else "ok",
        reason=f"the training loss of epoch {done} is {training.losses[-1]}" if training.diverged else None,
        accuracy=training.accuracy,
        loss_curve=tuple(training.losses),
        epochs=done,
        steps=done * steps_per_epoch(len(data.train), recipe.batch_size),
        seconds=training.seconds,
        images_per_s=_images_per_s(training, data),
        device=str(training.device),
        precision=training.precision,
        parameters=sum(parameter.numel() for parameter in training.model.parameters()),
        notes=notes,
    )
