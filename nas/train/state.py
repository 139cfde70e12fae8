"""A training under way: what a checkpoint holds, and one step of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from nas.arch import Architecture
from nas.device import FUSED, Precision, autocast, resolve_precision
from nas.models import build
from nas.train.recipe import Recipe
from nas.train.schedule import average_weight

_GENERATOR = Lock()
"""torch's global generator draws the weights: trainings in threads of one process must not share a draw."""


@dataclass
class Training:
    """A network, its optimiser and how far they have come.

    forward: what a step calls, the model or its compiled form. parameters: the model's, in its order. step: steps of
    the trunk. spent: all steps, those of thrown-away branches included. losses: the mean loss of each epoch begun;
    loss_sum, loss_images: of the epoch under way, on the device. average: the running average of the parameters, where
    the recipe wants one. evaluations: accuracy and loss on the validation split, by budget in steps. evaluated: the
    weights that gave the last of them, where they are not those of the trunk.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    precision: Precision
    loss_sum: Tensor
    average: list[Tensor] | None = None
    evaluated: dict[str, Tensor] | None = None
    loss_images: int = 0
    step: int = 0
    spent: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    evaluations: dict[int, tuple[float, float]] = field(default_factory=dict)
    parameters: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())  # walking through the modules takes as long as a small layer

    @property
    def diverged(self) -> bool:
        return bool(self.losses) and not math.isfinite(self.losses[-1])

    def take_step(self, x_BCHW: Tensor, labels_B: Tensor, rate: float, recipe: Recipe) -> None:
        """One step of gradient descent; nothing is read back from the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(self.device, self.precision):
            loss = nn.functional.cross_entropy(self.forward(x_BCHW), labels_B, label_smoothing=recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.spent += 1
        self.loss_sum += loss.detach() * len(labels_B)
        self.loss_images += len(labels_B)
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, average_weight(self.step))

    def end_part(self, *, epoch: int, whole: bool) -> None:
        """Read the mean loss of epoch number `epoch` (from 0) so far; `whole`: the next step begins another."""
        del self.losses[epoch:]
        self.losses.append(float(self.loss_sum) / self.loss_images)
        if whole:
            self.loss_sum, self.loss_images = torch.zeros_like(self.loss_sum), 0

    def branch(self) -> Training:
        """A copy that goes on by itself, not compiled."""
        model, optimizer, scaler = copy.deepcopy((self.model, self.optimizer, self.scaler))
        return replace(
            self,
            model=model,
            forward=model,
            optimizer=optimizer,
            scaler=scaler,
            loss_sum=self.loss_sum.clone(),
            losses=list(self.losses),
            average=None,
        )

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with the averaged weights, until the block ends; whatever the block changes in it is undone."""
        assert self.average is not None
        trunk = copied_state(self.model)
        try:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.average)
            yield self.model
        finally:
            self.model.load_state_dict(trunk)

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "evaluated": self.evaluated,
            "loss_sum": self.loss_sum,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            for mean, value in zip(self.average, state["average"], strict=True):
                mean.copy_(value)
        self.evaluated = state["evaluated"]
        self.loss_sum.copy_(state["loss_sum"])
        for name in _PLAIN:
            setattr(self, name, copy.copy(state[name]))


_PLAIN = ("loss_images", "step", "spent", "seconds", "losses", "evaluations")
"""Fields of a training that a checkpoint holds as they are."""


def copied_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict as it is now, whatever becomes of the model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def start(arch: Architecture, recipe: Recipe, seed: int, device: torch.device, *, compiled: bool = False) -> Training:
    """A training before its first step: weights drawn by `seed`."""
    model = _seeded_model(arch, recipe, seed)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    precision = resolve_precision(recipe.precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    return Training(
        model=model,
        forward=torch.compile(model) if compiled else model,
        optimizer=_optimizer(model, recipe, device),
        scaler=scaler,
        device=device,
        precision=precision,
        loss_sum=torch.zeros((), device=device),
        average=[mean.detach().clone() for mean in model.parameters()] if recipe.schedule == "average" else None,
    )


def _seeded_model(arch: Architecture, recipe: Recipe, seed: int) -> nn.Module:
    """Weights drawn on the CPU from `seed`, alike for every description of one key; other draws are not disturbed."""
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = build(arch.canonical(), zero_init_residual=recipe.zero_init_residual)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
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
