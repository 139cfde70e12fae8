"""What a search sees: images and labels, with a validation split held out of train and test left untouched.

A set is the embedded digits, an .npz file, a folder of class folders, a prepared set, or a torchvision set by name.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from nas.data import folders, prepared
from nas.data.digits import read_digits
from nas.data.images import ImageData, Source, Split
from nas.data.npz import read_npz
from nas.data.sets import SETS, read_set
from nas.data.splitting import hold_out

__all__ = ["ImageData", "Split", "load", "path_of"]


def load(
    source: str,
    *,
    image_size: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    train_images: int | None = None,
) -> ImageData:
    """The data set `source`, split by `seed`.

    source: "digits", a torchvision name, an .npz file, a folder of class folders, or what `nas data prepare` made of
    one: the same images, mapped from their file instead of read into memory.

    image_size: pixels a side to which a folder's pictures are brought, needed there; other sources keep their size.
    val_fraction: share of train held out for validation, above 0 and below 1, stratified by class.
    train_images: keep only so many train images, stratified by class; validation does not change.

    The same arguments give the same images and digest; the test split never depends on `seed`. The last two sets stay
    in memory and are returned again while their files are unchanged. Raises ValueError naming what is wrong.
    """
    _check(image_size, val_fraction, seed, train_images)
    place = path_of(source)
    return _load(source, place, _stamp(place), image_size, val_fraction, seed, train_images)


def _check(image_size: int | None, val_fraction: float, seed: int, train_images: int | None) -> None:
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be above 0 and below 1, but got {val_fraction}")
    if seed < 0:
        raise ValueError(f"the seed of the data split must be at least 0, but got {seed}")
    for name, value in (("image_size", image_size), ("train_images", train_images)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")


def path_of(source: str) -> Path | None:
    """The file or folder that `source` means, None for a name. Raises ValueError where it is neither."""
    if source == "digits" or source in SETS:
        return None
    path = Path(source).expanduser().absolute()
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    known = f"digits, {', '.join(SETS)}, the path of an .npz file, of a folder of class folders or of a prepared set"
    problem = "is a file of another kind" if path.is_file() else "is neither a known name nor an existing path"
    raise ValueError(f"data must be one of {known}, but {source!r} {problem}")


def _stamp(path: Path | None) -> tuple[int, ...]:
    """It changes with the content."""
    if path is None:
        return ()
    if path.is_dir():
        return prepared.stamp(path) if prepared.is_prepared(path) else folders.stamp(path)
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=2)  # every trial of a process trains on the same set
def _load(
    source: str,
    place: Path | None,
    stamp: tuple[int, ...],  # noqa: ARG001 -- part of the cache's key: a changed file is read again
    image_size: int | None,
    val_fraction: float,
    seed: int,
    train_images: int | None,
) -> ImageData:
    read = _read(source, place, image_size)
    if len(read.classes) < 2:
        raise ValueError(f"{source} must have at least 2 classes, but has {len(read.classes)}")
    train_indices, val_indices = hold_out(read.labels, read.classes, val_fraction, seed, train_images)
    train, val = read.read(train_indices), read.read(val_indices)
    _require_every_class(source, read.classes, {"train": train, "validation": val})
    return ImageData(
        name=read.name, source=source, classes=read.classes, train=train, val=val, read_test=read.read_test
    )


def _read(source: str, place: Path | None, image_size: int | None) -> Source:
    if place is None:
        return read_digits() if source == "digits" else read_set(source)
    if place.is_file():
        return read_npz(place)
    if prepared.is_prepared(place):
        return prepared.read_prepared(place)
    if image_size is None:
        raise ValueError(f"the pictures of the folder {source} need an image_size, but none is given")
    return folders.read_folder(place, image_size)


def _require_every_class(source: str, classes: tuple[str, ...], splits: dict[str, Split]) -> None:
    """Pictures that cannot be decoded may have been a class's last ones."""
    for name, split in splits.items():
        lost = np.flatnonzero(np.bincount(split.labels, minlength=len(classes)) == 0)
        if len(lost):
            broken = f", {len(split.skipped)} of its pictures are broken" if split.skipped else ""
            raise ValueError(f"{source} has no readable {name} image of the class {classes[lost[0]]}{broken}")
