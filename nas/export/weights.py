"""`model.safetensors`: the weights of a network, a file from which nothing can run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from nas.arch import Architecture
from nas.atomic import write_atomic
from nas.models import build

Weights = dict[str, Tensor]


def random_weights(arch: Architecture, seed: int) -> Weights:
    """The state dict of a fresh network, drawn on the CPU from `seed`; other draws are not disturbed."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"the seed of random weights must be at least 0 and below 2^63, but got {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return dict(build(arch.canonical()).state_dict())


def save_weights(path: Path, weights: Weights, about: Mapping[str, str]) -> None:
    """Write the file atomically; `about` goes into its metadata."""
    plain = {name: value.contiguous() for name, value in weights.items()}
    write_atomic(path, save(plain, metadata={"format": "pt", **about}))


def read_weights(path: Path) -> Weights:
    """Raises ValueError naming the file when it is missing or damaged."""
    try:
        weights: Weights = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"there are no weights {path}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None
    return weights
