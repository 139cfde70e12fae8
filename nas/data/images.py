"""The values of the data layer: a split, a data set ready for a search, and what a reader hands over."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Moments = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Known:
    """What a prepared set keeps about its pixels, so that nobody reads them all to learn it.

    checksum: SHA-256 (hex) of all pixels. moments_MC2: sum and sum of squares of each image's values by channel.
    """

    checksum: str
    moments_MC2: Moments  # noqa: N815 -- the shape is part of the name


@dataclass(frozen=True, eq=False)
class Split:
    """N square images, uint8 0..255, and labels (N,) in 0..classes-1. No array of a split can be written to.

    pool_MHWC: the pixels that the images are taken from, in memory or mapped from a file. rows (N,): image i is
    pool_MHWC[rows[i]]; None if the images are the pool itself. Thus the splits of one large file share its pixels.
    `skipped` names the images that could not be decoded and so are missing. `known`: of the pool, where it is mapped.
    """

    pool_MHWC: Pixels  # noqa: N815 -- the shape is part of the name
    labels: Labels
    skipped: tuple[str, ...] = ()
    rows: Labels | None = None
    known: Known | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = self.pool_MHWC.shape
        if len(shape) != 4 or shape[1] != shape[2]:
            raise ValueError(f"images must be square and of shape (N, H, W, C), but got {shape}")
        images = len(self.pool_MHWC if self.rows is None else self.rows)
        if self.labels.shape != (images,):
            raise ValueError(f"{images} images need as many labels, but got {self.labels.shape[0]}")
        for array in (self.pool_MHWC, self.labels, self.rows):
            if array is not None:
                array.flags.writeable = False  # one set is shared by every trial of a process

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Height and width of every image, in pixels."""
        return int(self.pool_MHWC.shape[1])

    @property
    def channels(self) -> int:
        return int(self.pool_MHWC.shape[3])

    @property
    def nbytes(self) -> int:
        """Of the pixels of its images."""
        return len(self) * self.size**2 * self.channels

    @property
    def is_mapped(self) -> bool:
        """Whether the pixels lie in a file, and in memory only as far as the system keeps them there."""
        return isinstance(self.pool_MHWC, np.memmap)

    @property
    def images_NHWC(self) -> Pixels:  # noqa: N802
        """All images: a copy of them where they are rows of a pool, so nothing for a large set."""
        return self.pool_MHWC if self.rows is None else self.gather(np.arange(len(self)))

    def gather(self, indices_B: Labels, out_BHWC: Pixels | None = None) -> Pixels:
        """The images of these indices, copied; into `out_BHWC` if it is given."""
        rows_B = indices_B if self.rows is None else self.rows[indices_B]
        assert len(rows_B) == 0 or 0 <= rows_B.min() <= rows_B.max() < len(self.pool_MHWC)
        # Checked above, because only "clip" lets numpy write into `out` without a buffer.
        return np.take(np.asarray(self.pool_MHWC), rows_B, axis=0, out=out_BHWC, mode="clip")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set as a search sees it: train and validation, test only on request.

    mean, std: per channel, of the train split, on the 0..1 scale; std is at least 1/255, so that a constant channel
    can be divided by it. digest: SHA-256 (hex) over the classes, images and labels of train and validation; of a
    prepared set, over its checksum and the rows in place of the images.
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
        mean, std = channel_statistics(self.train)
        object.__setattr__(self, "digest", _digest(self.classes, (self.train, self.val)))
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @property
    def channels(self) -> int:
        return self.train.channels

    @property
    def size(self) -> int:
        """Height and width of every image, in pixels."""
        return self.train.size

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the images of train and validation that could not be decoded."""
        return (*self.train.skipped, *self.val.skipped)

    def to_json(self) -> dict[str, Any]:
        """What a record says of the data, as plain JSON values; train and val are numbers of images."""
        return {
            "name": self.name,
            "digest": self.digest,
            "classes": list(self.classes),
            "size": self.size,
            "channels": self.channels,
            "train": len(self.train),
            "val": len(self.val),
        }

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


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on the 0..1 scale, from sums that are exact."""
    sums_C2 = _counted_sums(split.images_NHWC) if split.known is None else _known_sums(split, split.known)
    count = max(len(split) * split.size**2, 1)
    means = tuple(first / count / 255 for first, _ in sums_C2)
    # In whole numbers of any size: nothing is lost where the two terms are nearly equal.
    variances = [(count * second - first**2) / count**2 for first, second in sums_C2]
    return means, tuple(max(math.sqrt(variance), 1.0) / 255 for variance in variances)


def channel_moments(image_HWC: Pixels) -> Moments:
    """(C, 2): the sum and the sum of squares of the values of each channel."""
    values_PC = image_HWC.reshape(-1, image_HWC.shape[-1]).astype(np.uint64)
    return np.stack([values_PC.sum(axis=0), (values_PC**2).sum(axis=0)], axis=1)


def _counted_sums(images_NHWC: Pixels) -> list[tuple[int, int]]:
    values = np.arange(256)
    counts = [np.bincount(images_NHWC[..., c].ravel(), minlength=256) for c in range(images_NHWC.shape[3])]
    return [(int(count @ values), int(count @ values**2)) for count in counts]


def _known_sums(split: Split, known: Known) -> list[tuple[int, int]]:
    moments_NC2 = known.moments_MC2 if split.rows is None else known.moments_MC2[split.rows]
    return [(int(first), int(second)) for first, second in moments_NC2.sum(axis=0)]


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
        digest.update(repr((len(split), split.size, split.size, split.channels)).encode())
        if split.known is None:
            digest.update(np.ascontiguousarray(split.images_NHWC).data)
        else:
            rows = np.arange(len(split)) if split.rows is None else split.rows
            digest.update(split.known.checksum.encode())
            digest.update(rows.astype("<i8").data)
        digest.update(np.ascontiguousarray(split.labels).astype("<i8").data)
    return digest.hexdigest()
