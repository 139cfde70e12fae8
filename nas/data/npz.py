"""Data sets in one .npz file: plain arrays, or JPEG bytes. Nothing in it is unpickled.

Arrays: x_train, y_train and, if there is a test split, x_test, y_test. Images are uint8 0..255 or floats 0..1, of shape
(N, H, W), (N, H, W, C) or (N, C, H, W) with H = W. Labels are whole numbers or strings, mapped to 0..n-1 in sorted
order.

JPEG: for split train and, if there is one, test: {split}_jpeg, uint8, the bytes of all files joined; {split}_offsets,
whole numbers (N + 1), file i is jpeg[offsets[i]:offsets[i + 1]]; {split}_labels (N). All pictures have one square size.

Both take `classes`, the names in the sorted order of the labels.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.data.images import Labels, Pixels, Source, Split, array_reader, codes_of, label_codes
from nas.data.pictures import Picture, all_grey, decode, picture_reader

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
Array = NDArray[np.generic]


def read_npz(path: Path) -> Source:
    """Raises ValueError naming the file and the array that is missing or wrong."""
    names = _names(path)
    if {"x_train", "y_train"} <= names:
        return _read_arrays(path, names)
    if {"train_jpeg", "train_offsets", "train_labels"} <= names:
        return _read_jpeg(path, names)
    raise ValueError(
        f"{path} must have the arrays x_train and y_train, or train_jpeg, train_offsets and train_labels, "
        f"but has {', '.join(sorted(names)) or 'none'}"
    )


def _read_arrays(path: Path, names: set[str]) -> Source:
    labels, values = label_codes(_array(path, "y_train"), f"y_train of {path}")
    images_NHWC = to_bytes_nhwc(_array(path, "x_train"), f"x_train of {path}")
    _require_as_many(path, "x_train", len(images_NHWC), len(labels))

    def read_test() -> Split:
        test_NHWC = to_bytes_nhwc(_array(path, "x_test"), f"x_test of {path}")
        test_labels = codes_of(_array(path, "y_test"), values, f"y_test of {path}")
        _require_as_many(path, "x_test", len(test_NHWC), len(test_labels))
        return Split(test_NHWC, test_labels)

    return Source(
        name=path.stem,
        labels=labels,
        classes=_classes(path, names, values),
        read=array_reader(images_NHWC, labels),
        read_test=read_test if {"x_test", "y_test"} <= names else None,
    )


def _read_jpeg(path: Path, names: set[str]) -> Source:
    pictures = _pictures(path, "train")
    labels, values = label_codes(_array(path, "train_labels"), f"train_labels of {path}")
    _require_as_many(path, "train_offsets", len(pictures), len(labels))
    grey = all_grey(pictures)

    def read_test() -> Split:
        files = _pictures(path, "test")
        test_labels = codes_of(_array(path, "test_labels"), values, f"test_labels of {path}")
        _require_as_many(path, "test_offsets", len(files), len(test_labels))
        return decode(files, test_labels, size=None, grey=grey)

    return Source(
        name=path.stem,
        labels=labels,
        classes=_classes(path, names, values),
        read=picture_reader(pictures, labels, size=None, grey=grey),
        read_test=read_test if {"test_jpeg", "test_offsets", "test_labels"} <= names else None,
    )


def to_bytes_nhwc(images: Array, where: str) -> Pixels:
    """uint8 (N, H, W, C) of any accepted array; ValueError in words for another type, range or shape."""
    if images.dtype != np.uint8:
        images = _bytes_of_floats(images, where)
    if images.ndim == 3 and images.shape[1] == images.shape[2]:
        return np.ascontiguousarray(images[:, :, :, None], dtype=np.uint8)
    if images.ndim != 4:
        raise ValueError(
            f"{where} must have the shape (N, H, W), (N, H, W, C) or (N, C, H, W) with H = W, but has {images.shape}"
        )
    _, first, second, third = images.shape
    if (first == second) == (second == third):
        why = "is ambiguous" if first == second else "is not square in either order"
        raise ValueError(f"{where} must be of square images, (N, H, W, C) or (N, C, H, W), but {images.shape} {why}")
    ordered = images if first == second else images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(ordered, dtype=np.uint8)


def _bytes_of_floats(images: Array, where: str) -> Pixels:
    if images.dtype.kind != "f":
        raise ValueError(f"{where} must be uint8 (0..255) or floats from 0 to 1, but is {images.dtype}")
    floats = np.asarray(images, dtype=np.float32)
    if floats.size and not (floats.min() >= 0 and floats.max() <= 1):
        raise ValueError(
            f"{where} must be uint8 or floats from 0 to 1, but goes from {floats.min():g} to {floats.max():g}"
        )
    return np.rint(floats * 255).astype(np.uint8)


def _pictures(path: Path, split: str) -> list[Picture]:
    joined = _array(path, f"{split}_jpeg")
    offsets = _array(path, f"{split}_offsets")
    if joined.dtype != np.uint8 or joined.ndim != 1:
        raise ValueError(f"{split}_jpeg of {path} must be uint8 bytes in a row, but is {joined.dtype} {joined.shape}")
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or not _covers(offsets.astype(np.int64), len(joined)):
        raise ValueError(
            f"{split}_offsets of {path} must be whole numbers rising from 0 to the {len(joined)} bytes of {split}_jpeg"
        )
    edges = [int(edge) for edge in offsets.astype(np.int64)]
    content = joined.astype(np.uint8, copy=False)
    return [Picture(f"{split} image {i}", content[start:end]) for i, (start, end) in enumerate(pairwise(edges))]


def _covers(offsets: Labels, length: int) -> bool:
    return len(offsets) >= 2 and offsets[0] == 0 and offsets[-1] == length and bool(np.all(np.diff(offsets) >= 0))


def _classes(path: Path, names: set[str], values: Sequence[str]) -> tuple[str, ...]:
    if "classes" not in names:
        return tuple(values)
    given = _array(path, "classes")
    if given.dtype.kind not in "iuU" or given.shape != (len(values),):
        raise ValueError(
            f"classes of {path} must be {len(values)} names, one for each label, but is {given.dtype} {given.shape}"
        )
    return tuple(str(name) for name in given)


def _names(path: Path) -> set[str]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return set(archive.files)
    except (*UNREADABLE, AttributeError, TypeError):  # the last two: a bare .npy array under another name
        raise ValueError(f"{path} cannot be read as an .npz file of arrays: it is damaged or of another kind") from None


def _array(path: Path, name: str) -> Array:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            array: Array = archive[name]
            return array
    except UNREADABLE:
        raise ValueError(f"{name} of {path} cannot be read: it is damaged, or an array of Python objects") from None


def _require_as_many(path: Path, images: str, count: int, labels: int) -> None:
    if count != labels:
        raise ValueError(f"{images} of {path} must have one image for each label, but has {count} for {labels}")
