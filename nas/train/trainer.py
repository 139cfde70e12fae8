"""One trainer for proxy and full budgets: seeded, resumable, without host synchronisation in its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nas.arch import Architecture
from nas.data import ImageData
from nas.data.batches import Normalise, draw, on_device, steps_per_epoch, train_batches
from nas.device import resolve_device
from nas.train.checkpoint import DamagedCheckpoint, read_checkpoint, save_checkpoint, set_aside
from nas.train.evaluation import evaluate, recalibrate
from nas.train.recipe import Recipe
from nas.train.schedule import learning_rate, trunk_steps
from nas.train.state import Training, copied_state, start

RECALIBRATION_IMAGES = 512
"""Training images, in whole batches, from which averaged weights get their batch-norm statistics.

Of 10 networks on digits after 54 steps, accuracies with 512 images differ from those with 2,048 by .003 in the mean,
with 256 by .006; one of the 287 validation images is .0035.
"""
SAVING_SHARE = 0.01
"""Of a training's time may go into checkpoints on the way: those of large networks take a second and more."""


@dataclass(frozen=True)
class EpochReport:
    """An epoch, or its part within the budget: number (1..epochs), mean loss, seconds and images/s since the start."""

    epoch: int
    epochs: int
    loss: float
    seconds: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training gave.

    accuracy: share (0..1) of the validation split, val_loss: its mean cross-entropy; None if the training diverged.
    loss_curve: mean training loss of each epoch begun (of the trunk, where the schedule branches off), label smoothing
    included. evaluations: (steps, accuracy, val_loss) of each budget at which it was evaluated. epochs: those begun.
    steps: of the evaluated network; where it diverged, those until then. spent_steps: all that this training and the
    smaller budgets before it took, thrown-away branches included. seconds: wall time of all these, set-up and
    evaluation left out; images_per_s: training images over it. notes: what a person should know.
    """

    status: Literal["ok", "diverged"]
    reason: str | None
    accuracy: float | None
    val_loss: float | None
    evaluations: tuple[tuple[int, float, float], ...]
    loss_curve: tuple[float, ...]
    epochs: int
    steps: int
    spent_steps: int
    seconds: float
    images_per_s: float
    device: str
    precision: str
    parameters: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a loss that is not finite, which JSON cannot say, becomes null."""
        losses = [_finite(loss) for loss in self.loss_curve]
        evaluations = [[steps, accuracy, _finite(loss)] for steps, accuracy, loss in self.evaluations]
        own: dict[str, Any] = {"loss_curve": losses, "val_loss": _finite(self.val_loss), "notes": list(self.notes)}
        return asdict(self) | own | {"evaluations": evaluations}


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def train(
    arch: Architecture,
    data: ImageData,
    recipe: Recipe,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int,
    device: str = "auto",
    compiled: bool = False,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> TrainResult:
    """Trains `arch` from weights drawn by `seed` for a budget, and evaluates it once on the validation split.

    epochs, steps: the budget, one of the two. checkpoint: a file written at the end, when `on_epoch` raises, and
    whenever `checkpoint_every_s` seconds have passed since, or more where it takes long to write (`SAVING_SHARE`). If
    it exists it is continued: the same budget is finished, or, where it is finished, gives its result at once; with
    the schedules "branch" and "average" a larger budget goes on from the smaller one. A damaged file is set aside as
    *.corrupt, said in the result's notes, and the training starts again. The same seed gives the same batches on
    every device, and the same numbers on one CPU with one number of threads, in one go or in parts, whatever budgets
    were evaluated on the way.

    compiled: steps run through torch.compile, for long trainings: the first step takes up to some minutes, a CPU needs
    a C++ compiler for it, and the numbers are rounded otherwise than without.

    A loss that is not finite at the end of an epoch ends the training with status "diverged". Raises ValueError when
    data, budget, seed or device cannot be used, or when the checkpoint is that of another training.
    """
    budget = budget_steps(data, recipe, epochs=epochs, steps=steps)
    if seed < 0:
        raise ValueError(f"the seed of a training must be at least 0, but got {seed}")
    where = resolve_device(device)
    size = data.size  # an architecture takes any input size
    data.require(in_channels=arch.in_channels, num_classes=arch.num_classes, input_size=size, where="the architecture")
    run = _Run(start(arch, recipe, seed, where, compiled=compiled), arch, data, recipe, seed, budget, checkpoint)
    notes = run.resume()
    run.to_budget(checkpoint_every_s, on_epoch)
    return run.result(notes)


def budget_steps(data: ImageData, recipe: Recipe, *, epochs: int | None, steps: int | None) -> int:
    """A budget in optimiser steps. Raises ValueError unless it is given once, and is at least 1."""
    given = {name: value for name, value in (("epochs", epochs), ("steps", steps)) if value is not None}
    if len(given) != 1:
        raise ValueError(f"a budget must be given in epochs or in steps, but got {given or 'neither'}")
    (name, value), *_ = given.items()
    if value < 1:
        raise ValueError(f"{name} must be at least 1, but got {value}")
    return value if name == "steps" else value * steps_per_epoch(len(data.train), recipe.batch_size)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The CPU generator of an epoch's order and augmentation: a function of seed and epoch, not of what came before."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass
class _Run:
    """One call of `train`."""

    training: Training
    arch: Architecture
    data: ImageData
    recipe: Recipe
    seed: int
    budget: int
    checkpoint: Path | None

    @property
    def epoch_steps(self) -> int:
        return steps_per_epoch(len(self.data.train), self.recipe.batch_size)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued."""
        own = {"key": self.arch.key, "recipe": self.recipe.to_json(), "seed": self.seed, "data": self.data.digest}
        return own | {"budget": self.budget if self.recipe.schedule == "cycle" else None}

    def resume(self) -> tuple[str, ...]:
        """Continues from the checkpoint, if there is one of this training; returns what a person should know."""
        if self.checkpoint is None:
            return ()
        try:
            content = read_checkpoint(self.checkpoint)
        except FileNotFoundError:
            return ()
        except DamagedCheckpoint as error:
            return (f"{error}: moved to {set_aside(self.checkpoint).name}, training started again",)
        differing = [name for name, value in self.identity.items() if content.get(name) != value]
        if differing:
            raise ValueError(
                f"{self.checkpoint} belongs to another training: its {', '.join(differing)} differ from this one's; "
                f"name another file, or remove it"
            )
        if content["step"] > trunk_steps(self.budget, self.recipe) and self.budget not in content["evaluations"]:
            raise ValueError(
                f"{self.checkpoint} is already at step {content['step']}, beyond a budget of {self.budget} steps: "
                f"ask for a larger one, or name another file"
            )
        self.training.restore(content)
        return (f"continued after step {content['step']} of {self.budget}",)

    def save(self) -> None:
        if self.checkpoint is not None:
            save_checkpoint(self.checkpoint, {**self.identity, **self.training.state()})

    def to_budget(self, checkpoint_every_s: float, on_epoch: Callable[[EpochReport], None] | None) -> None:
        """Trains to the end of the budget or until the loss is bad, saves on the way, evaluates once."""
        training = self.training
        if self.budget in training.evaluations or training.diverged:
            return
        due = time.monotonic() + checkpoint_every_s
        trunk = trunk_steps(self.budget, self.recipe)
        while training.step < trunk and not training.diverged:
            whole = self._part(training, trunk, pause=due)
            if (began := time.monotonic()) >= due:
                self.save()
                ended = time.monotonic()
                due = ended + max(checkpoint_every_s, (ended - began) / SAVING_SHARE)
            if whole:
                self._tell(training, on_epoch)
        if not training.diverged:
            self._evaluate(on_epoch)
        self.save()

    def _tell(self, training: Training, on_epoch: Callable[[EpochReport], None] | None) -> None:
        if on_epoch is not None:
            try:
                on_epoch(self._report(training))
            except BaseException:  # whoever stops a training here, Ctrl-C included, can go on from this step
                self.save()
                raise

    def _evaluate(self, on_epoch: Callable[[EpochReport], None] | None) -> None:
        if self.recipe.schedule == "branch":
            self._evaluate_branch(on_epoch)
        elif self.recipe.schedule == "average":
            self._evaluate_average()
        else:
            self._measure(self.training.model)

    def _evaluate_branch(self, on_epoch: Callable[[EpochReport], None] | None) -> None:
        training, branch = self.training, self.training.branch()
        while branch.step < self.budget and not branch.diverged:
            self._part(branch, self.budget)
            self._tell(branch, on_epoch)
        training.spent, training.seconds = branch.spent, branch.seconds
        if branch.diverged:
            training.losses = branch.losses
            return
        self._measure(branch.model)
        training.evaluated = dict(branch.model.state_dict())

    def _evaluate_average(self) -> None:
        training = self.training
        count = math.ceil(RECALIBRATION_IMAGES / self.recipe.batch_size)
        batches = islice(self._batches(training, epoch=0, first=0), count)
        with training.averaged() as model:
            recalibrate(model, batches, device=training.device, precision=training.precision)
            self._measure(model)
            training.evaluated = copied_state(model)

    def _measure(self, model: nn.Module) -> None:
        training = self.training
        found = evaluate(model, self.data.val, self.data, device=training.device, precision=training.precision)
        training.evaluations[self.budget] = (found.accuracy, found.loss)

    def _part(self, training: Training, stop: int, pause: float = math.inf) -> bool:
        """To the end of the epoch or to step `stop`; the loss is read once, at its end.

        False: on the way there, after a step at the time `pause`, where nothing is read: what follows must not depend
        on how long a step took.
        """
        began = time.monotonic()
        epoch, first = divmod(training.step, self.epoch_steps)
        training.model.train()
        for x_BCHW, labels_B in islice(self._batches(training, epoch, first), stop - training.step):
            rate = learning_rate(training.step, self.budget, self.recipe)
            training.take_step(x_BCHW, labels_B, rate, self.recipe)
            if time.monotonic() >= pause:
                break
        epoch_ends = training.step % self.epoch_steps == 0
        if whole := epoch_ends or training.step == stop:
            training.end_part(epoch=epoch, whole=epoch_ends)
        training.seconds += time.monotonic() - began
        return whole

    def _batches(self, training: Training, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `first` on; they depend on the seed and the epoch's number alone."""
        images = on_device(self.data.train, training.device)
        drawn = draw(
            len(images),
            crop_padding=self.recipe.crop_padding,
            horizontal_flip=self.recipe.horizontal_flip,
            generator=epoch_generator(self.seed, epoch),
        )
        batches = train_batches(
            images,
            Normalise.of(self.data),
            drawn,
            batch_size=self.recipe.batch_size,
            crop_padding=self.recipe.crop_padding,
            first=first,
        )
        for x_BCHW, labels_B in batches:
            yield (x_BCHW if self.recipe.channels_last else x_BCHW.contiguous()), labels_B

    def _images_per_s(self, training: Training) -> float:
        images = training.spent * len(self.data.train) / self.epoch_steps
        return images / training.seconds if training.seconds else 0.0

    def _report(self, training: Training) -> EpochReport:
        epochs = -(-self.budget // self.epoch_steps)
        speed = self._images_per_s(training)
        return EpochReport(len(training.losses), epochs, training.losses[-1], training.seconds, speed)

    def result(self, notes: tuple[str, ...]) -> TrainResult:
        training = self.training
        begun = len(training.losses)
        accuracy, val_loss = training.evaluations.get(self.budget, (None, None))
        return TrainResult(
            status="diverged" if training.diverged else "ok",
            reason=f"the training loss of epoch {begun} is {training.losses[-1]}" if training.diverged else None,
            accuracy=accuracy,
            val_loss=val_loss,
            evaluations=tuple((steps, *found) for steps, found in sorted(training.evaluations.items())),
            loss_curve=tuple(training.losses),
            epochs=begun,
            steps=training.step if training.diverged else self.budget,
            spent_steps=training.spent,
            seconds=training.seconds,
            images_per_s=self._images_per_s(training),
            device=str(training.device),
            precision=training.precision,
            parameters=sum(parameter.numel() for parameter in training.model.parameters()),
            notes=notes,
        )
