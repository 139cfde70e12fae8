"""One file per training, replaced atomically, of tensors and plain values only: nothing in it can run code.

The hundreds of tensors of a training are joined to one of each type: one copy from the device, one record of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.atomic import write_atomic

FORMAT = 4
UNJOINED = 3
"""The format before, with every tensor by itself, which is still read."""
PLACE = "place"
"""The only key of a dict that stands for a tensor."""


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint, or only a part of one."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Readers see the file before or the file after, never a part; without power, perhaps the one before."""
    joined = _join(content)
    write_atomic(path, lambda file: torch.save(joined, file), name_lasts=False)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content, tensors on the CPU. Raises DamagedCheckpoint naming the file, FileNotFoundError if there is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises six unrelated types, EOFError to KeyError, for files cut short or foreign
        raise DamagedCheckpoint(f"{path} cannot be read as a checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or "format" not in content or not content.keys() & {"model", "tree"}:
        raise DamagedCheckpoint(f"{path} is a file of torch, but no checkpoint of a training")
    if content["format"] not in (FORMAT, UNJOINED):
        raise ValueError(f"{path} has checkpoint format {content['format']!r}, but this version reads {FORMAT}")
    return content if content["format"] == UNJOINED else _divide(content)


def _join(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file: the tensors of one type and device in a row, and a tree that says which stands where."""
    groups: dict[str, list[Tensor]] = {}
    tree = _without_tensors(content, groups)
    return {
        "format": FORMAT,
        "tree": tree,
        "layouts": {name: [(tuple(x.shape), _is_channels_last(x)) for x in group] for name, group in groups.items()},
        "tensors": {name: torch.cat([_flat(x) for x in group]) for name, group in groups.items()},
    }


def _without_tensors(tree: Any, groups: dict[str, list[Tensor]]) -> Any:
    """`tree` with a place instead of each tensor, which is put at the end of its group."""
    if isinstance(tree, Tensor):
        name = f"{tree.dtype} {tree.device}"
        group = groups.setdefault(name, [])
        group.append(tree)
        return {PLACE: (name, len(group) - 1)}
    return _rebuilt(tree, lambda branch: _without_tensors(branch, groups))


def _divide(joined: Mapping[str, Any]) -> dict[str, Any]:
    """What `_join` was given; every tensor has memory of its own and the layout that it had."""
    groups: dict[str, list[Tensor]] = {}
    for name, layouts in joined["layouts"].items():
        parts = joined["tensors"][name].split([math.prod(shape) for shape, _ in layouts])
        groups[name] = [_shaped(part, *layout) for part, layout in zip(parts, layouts, strict=True)]
    content: dict[str, Any] = _with_tensors(joined["tree"], groups)
    return content


def _with_tensors(tree: Any, groups: Mapping[str, list[Tensor]]) -> Any:
    if isinstance(tree, dict) and tree.keys() == {PLACE}:
        name, index = tree[PLACE]
        return groups[name][index]
    return _rebuilt(tree, lambda branch: _with_tensors(branch, groups))


def _rebuilt(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with its branches changed; what is neither dict nor list has none."""
    if isinstance(tree, Mapping):
        return {name: change(branch) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [change(branch) for branch in tree]
    return tree


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _flat(x: Tensor) -> Tensor:
    """In the order of its memory."""
    return (x.permute(0, 2, 3, 1) if _is_channels_last(x) else x).reshape(-1)


def _shaped(flat: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    if not channels_last:
        return flat.view(shape).clone()
    batch, channels, height, width = shape
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2).clone()


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
