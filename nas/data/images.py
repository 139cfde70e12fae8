"""The values of the data layer: a split, a data set ready for a search, and what a reader hands over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, H, W, C) with H = W, uint8 0..255, and labels (N,) in 0..classes-1. Both arrays are read-only.

    `skipped` names the images that could not be decoded and so are missing.
    """

    images_NHWC: Pixels  # noqa: N815 -- the shape is part of the name
    labels: Labels
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.images_NHWC.shape
        if len(shape) != 4 or shape[1] != shape[2]:
            raise ValueError(f"images must be square and of shape (N, H, W, C), but got {shape}")
        if self.labels.shape != shape[:1]:
            raise ValueError(f"{shape[0]} images need as many labels, but got {self.labels.shape[0]}")
        self.images_NHWC.flags.writeable = False  # one set is shared by every trial of a process
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set as a search sees it: train and validation in memory, test only on request.

    mean, std: per channel, of the train split, on the 0..1 scale; std is at least 1/255, so that a constant channel
    can be divided by it. digest: SHA-256 (hex) over the classes, images and labels of train and validation.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    read_test: Callable[[], Split] | None = field(default=None, repr=False)
    digest: str = field(init=False)
    mean: tuple[float, ...] = field(init=False)
    std: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        mean, std = channel_statistics(self.train.images_NHWC)
        object.__setattr__(self, "digest", _digest(self.classes, (self.train, self.val)))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def channels(self) -> int:
        return int(self.train.images_NHWC.shape[3])

    @property
    def size(self) -> int:
        """Height and width of every image, in pixels."""
        return int(self.train.images_NHWC.shape[1])

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images of train and validation that could not be decoded."""
        return (*self.train.skipped, *self.val.skipped)

    @property
    def has_test(self) -> bool:
        return self.read_test is not None

    def test(self) -> Split:
        """The test split, decoded now: for one final evaluation, never for a search. ValueError if there is none."""
        if self.read_test is None:
            raise ValueError(f"{self.source} has no test split: add one, or evaluate on the validation split")
        return self.read_test()

    def require(self, *, in_channels: int, num_classes: int, input_size: int, where: str) -> None:
        """Raises ValueError when `where` (a space, an architecture) was made for other images, saying what to set."""
        wanted = {"in_channels": in_channels, "num_classes": num_classes, "input_size": input_size}
        found = {"in_channels": self.channels, "num_classes": self.num_classes, "input_size": self.size}
        differing = [name for name in wanted if wanted[name] != found[name]]
        if differing:
            said = ", ".join(f"{name} = {wanted[name]}" for name in differing)
            mend = ", ".join(f"{name} = {found[name]}" for name in differing)
            raise ValueError(
                f"{where} has {said}, but the data {self.source} needs {mend}: set that, or give other data"
            )


@dataclass(frozen=True)
class Source:
    """What a reader hands over: labels first, pixels on demand, so that only the chosen images are decoded.

    read: indices into `labels` -> those images in that order, less the ones that cannot be decoded.
    """

    name: str
    labels: Labels
    classes: tuple[str, ...]
    read: Callable[[Labels], Split]
    read_test: Callable[[], Split] | None = None


def array_reader(images_NHWC: Pixels, labels: Labels) -> Callable[[Labels], Split]:
    """The reader of images that are in memory already."""
    return lambda indices: Split(images_NHWC[indices], labels[indices])


def channel_statistics(images_NHWC: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale, exact: by counting the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images_NHWC.shape[3]):
        share = np.bincount(images_NHWC[..., channel].ravel(), minlength=256) / max(images_NHWC[..., channel].size, 1)
        mean = float(share @ values)
        means.append(mean)
        stds.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1 / 255))
    return tuple(means), tuple(stds)


def label_codes(values: NDArray[np.generic], where: str) -> tuple[Labels, tuple[str, ...]]:
    """Labels as 0..n-1 in the sorted order of the values (whole numbers or strings), and the values as names."""
    flat = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    if flat.ndim != 1 or flat.dtype.kind not in "iuU":
        raise ValueError(f"{where} must be a list of whole numbers or strings, but is {values.dtype} {values.shape}")
    names, codes = np.unique(flat, return_inverse=True)
    return codes.astype(np.int64), tuple(str(name) for name in names)


def codes_of(values: NDArray[np.generic], names: Sequence[str], where: str) -> Labels:
    """Labels of another split by the same table of values; ValueError for a value that train does not have."""
    codes, found = label_codes(values, where)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(f"{where} has the label {unknown[0]!r}, which no train image has")
    table = np.array([names.index(name) for name in found], dtype=np.int64)
    return table[codes]


def _digest(classes: tuple[str, ...], splits: tuple[Split, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for split in splits:
        digest.update(repr(split.images_NHWC.shape).encode())
        digest.update(np.ascontiguousarray(split.images_NHWC).data)
        digest.update(np.ascontiguousarray(split.labels).astype("<i8").data)
    return digest.hexdigest()
