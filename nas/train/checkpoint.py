"""One file per training, replaced atomically, of tensors and plain values only: nothing in it can run code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.atomic import write_atomic

FORMAT = 3


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint, or only a part of one."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Readers see the file before or the file after, never a part; without power, perhaps the one before."""
    write_atomic(path, lambda file: torch.save({"format": FORMAT, **content}, file), name_lasts=False)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content, tensors on the CPU. Raises DamagedCheckpoint naming the file, FileNotFoundError if there is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises six unrelated types, EOFError to KeyError, for files cut short or foreign
        raise DamagedCheckpoint(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "format" not in content or "model" not in content:
        raise DamagedCheckpoint(f"{path} is a file of torch, but no checkpoint of a training")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has checkpoint format {content['format']!r}, but this version reads {FORMAT}")
    return content


def set_aside(path: Path) -> Path:
    """Moves a damaged file out of the way, to *.corrupt beside it, so that it can be looked at."""
    return path.replace(path.with_name(path.name + ".corrupt"))


def load_weights(path: Path) -> dict[str, Tensor]:
    """The state dict that was evaluated last, on the CPU; before any evaluation that of the training as it stands.

    Raises ValueError when the file is missing or damaged.
    """
    try:
        content = read_checkpoint(path)
        weights: dict[str, Tensor] = content.get("evaluated") or content["model"]
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    return weights
