"""One file per training, replaced atomically, of tensors and plain values only: nothing in it can run code."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint, or only a part of one."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Readers see the file before or the file after, never a part: temporary file, flush, fsync, replace."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


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
    """The network's state dict from a checkpoint, on the CPU. Raises ValueError when the file is missing or damaged."""
    try:
        weights: dict[str, Tensor] = read_checkpoint(path)["model"]
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    return weights


def _sync_folder(folder: Path) -> None:
    """Makes the new name durable; Windows cannot open folders and needs no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
