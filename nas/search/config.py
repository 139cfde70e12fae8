"""The settings of a search, checked at the edge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from nas.checked import checked
from nas.device import Precision
from nas.pareto import COSTS, DIRECTIONS
from nas.record import STUDY_NAME
from nas.search.samplers import SAMPLERS
from nas.units import parse_count

Count = Annotated[int, BeforeValidator(parse_count)]


class SearchConfig(BaseModel):
    """Every setting of a search. `SearchConfig.read` reports a mistake in one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str = Field(pattern=f"^{STUDY_NAME.pattern}$")
    """Name of the run and of its folder under `out`."""
    space: str = "digits"
    """Path of a space's TOML file, or the name of a shipped space."""
    data: str = "digits"
    """Source of the images, as `nas.data.load` reads it."""
    trials: int = Field(40, ge=1)
    """Networks to train, to the first rung at least, failed ones included; a resumed search counts those it has."""
    epochs: int = Field(3, ge=1)
    """Epochs of a training in full."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps of a training in full, in place of epochs."""
    halving: bool = True
    """Stop networks of little promise at a sixteenth and a quarter of the budget; False trains all of them in full."""
    objectives: tuple[str, ...] = ("accuracy", "macs")
    """Accuracy and one to three of macs, params, activations, latency."""
    latency_batch_size: int | None = Field(None, ge=1)
    """Images a pass whose time is the latency; None: 1."""
    latency_threads: int | None = Field(None, ge=1)
    """CPU threads of that pass; None: 1."""
    latency_precision: Precision | None = None
    """Arithmetic of that pass; None: fp32."""
    min_accuracy: float | None = Field(None, ge=0, lt=1)
    """Networks less accurate than this are of no interest (ehvi, halving); None: what most of the networks exceed."""
    max_macs: Count | None = None
    """Cap on multiply-adds, as in 40M; together with the space's own cap the tighter one holds."""
    max_params: Count | None = None
    """Cap on parameters, as in 300k."""
    sampler: str = "ehvi"
    seed_with: Literal["zoo"] | None = None
    """zoo: the first trials are the papers' networks, scaled to the space, and all of them are trained in full."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    seed: int = Field(0, ge=0)
    """Seed of proposals, split and trainings."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the training images held out to measure accuracy."""
    train_images: int | None = Field(None, ge=1)
    """Train on this many images only."""
    recipe: str | None = None
    """Name of the training recipe; None lets the data decide."""
    precision: Precision | None = None
    """Arithmetic of the layers, auto, fp32, bf16 or fp16; None: as in the recipe."""
    workers: int = Field(1, ge=1)
    """Trainings side by side, each in a process of its own; they share the cores, the GPUs and their memory."""
    trial_timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Seconds after which an attempt at a training, loading the data included, is given up as hung."""
    out: Path = Path("results")
    """Folder that holds the runs."""

    @classmethod
    def read(cls, settings: Mapping[str, Any], where: str = "search") -> SearchConfig:
        """Raises ValueError: one sentence with key, value and what was expected; `where` names the settings' origin."""
        return checked(cls, settings, where)

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in DIRECTIONS]
        if unknown or "accuracy" not in value or not 2 <= len(value) <= 4 or len(set(value)) < len(value):
            costs = ", ".join((*COSTS, "latency"))
            raise ValueError(f"the objectives must be accuracy and one to three of {costs}, each once")
        return value

    @field_validator("latency_batch_size", "latency_threads", "latency_precision")
    @classmethod
    def _of_latency(cls, value: Any, info: ValidationInfo) -> Any:
        objectives = info.data.get("objectives", ("latency",))
        if value is not None and "latency" not in objectives:
            raise ValueError(f"it says how latency is timed, which is none of the objectives {', '.join(objectives)}")
        return value

    @field_validator("sampler")
    @classmethod
    def _sampler(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise ValueError(f"the sampler must be one of {', '.join(SAMPLERS)}")
        return value

    @field_validator("steps")
    @classmethod
    def _steps(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "epochs" in info.data and info.data["epochs"] != cls.model_fields["epochs"].default:
            raise ValueError(f"a budget is given in epochs or in steps, but epochs is {info.data['epochs']} as well")
        return value

    @property
    def timing(self) -> dict[str, Any] | None:
        """How latency is timed, as `nas.cost.latency.measure_latency` takes it; None where it is no objective."""
        if "latency" not in self.objectives:
            return None
        return {
            "batch_size": self.latency_batch_size or 1,
            "threads": self.latency_threads or 1,
            "precision": self.latency_precision or "fp32",
        }

    @property
    def budget(self) -> dict[str, int]:
        """How long a training in full lasts, as `nas.train.train` takes it."""
        return {"epochs": self.epochs} if self.steps is None else {"steps": self.steps}

    @property
    def caps(self) -> dict[str, int]:
        """The caps of the settings; those of the space come on top."""
        own = {"macs": self.max_macs, "params": self.max_params}
        return {metric: cap for metric, cap in own.items() if cap is not None}
