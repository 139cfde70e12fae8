"""Prepared sets: a folder of pictures, decoded once into arrays that are mapped into memory rather than read.

A set is a folder of four files; row i of each array is picture i of the source, train before test, sorted by path:

    images.npy     (N, size, size, C) uint8; a broken picture's row is black
    labels.npy     (N,) int64
    moments.npy    (N, C, 2) uint64: sum and sum of squares of each image's values by channel
    meta.json      classes, how many rows are train and test, which are broken, checksums, where it came from

The broken keep their rows, so that the split into train and validation is that of the folder itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nas
from nas.atomic import folder_atomic, write_atomic
from nas.data.folders import ClassFolders
from nas.data.images import Known, Labels, Moments, Pixels, Source, Split, channel_moments
from nas.data.pictures import Picture, all_grey, decode_one

FORMAT = 1
IMAGES, LABELS, MOMENTS, META = "images.npy", "labels.npy", "moments.npy", "meta.json"
CHUNK, AHEAD = 16, 4
"""Pictures that a thread takes at a time, and chunks for each thread that may wait to be written."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """meta.json. skipped: row and name of each broken picture. images_mtime_ns: of images.npy when it was written."""

    format: int
    name: str
    source: str
    classes: tuple[str, ...]
    size: int
    channels: int
    train: int
    test: int
    skipped: tuple[tuple[int, str], ...]
    sha256: dict[str, str]
    images_mtime_ns: int
    created: str
    versions: dict[str, str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of images.npy."""
        return (self.train + self.test, self.size, self.size, self.channels)


class _Decoded(NamedTuple):
    image_HWC: Pixels  # noqa: N815
    moments_C2: Moments  # noqa: N815


def prepare(
    root: Path,
    out: Path,
    *,
    size: int,
    grey: bool = False,
    force: bool = False,
    workers: int | None = None,
    on_image: Callable[[int, int], None] = lambda _done, _total: None,
) -> Meta:
    """Decode the class folders in `root` into the prepared set `out`, written whole or not at all.

    size, pixels a side: pictures are scaled and cut as `nas.data.load` does. grey: one channel, also for pictures in
    colour; those that are all grey have one anyway. force: replace a prepared set. workers: threads, one for each
    CPU if None; the result does not depend on them. on_image: told how many pictures of how many are done.

    Raises ValueError for what cannot be prepared, before anything is written; RuntimeError when writing fails.
    """
    workers = workers or os.cpu_count() or 1
    _check(root, out, size, workers, force)
    found = ClassFolders.of(root)
    (train, train_labels), (test, test_labels) = found.train(), found.test()
    pictures, labels = [*train, *test], np.concatenate([train_labels, test_labels])
    grey = grey or all_grey(train)
    shape = (len(pictures), size, size, 1 if grey else 3)
    _require_space(out, shape)
    try:
        with folder_atomic(out) as folder:
            with closing(_in_order(lambda some: _decode(some, size, grey), pictures, workers)) as decoded:
                checksum, moments_NC2, broken = _write_images(folder / IMAGES, decoded, shape, on_image)
            if len(broken) == len(pictures):
                raise ValueError(
                    f"none of the {len(pictures)} pictures in {root} can be read, the first is {pictures[0].name}"
                )
            np.save(folder / LABELS, labels)
            np.save(folder / MOMENTS, moments_NC2)
            meta = Meta(
                format=FORMAT,
                name=root.resolve().name,
                source=str(root),
                classes=found.classes,
                size=size,
                channels=shape[3],
                train=len(train),
                test=len(test),
                skipped=tuple((row, pictures[row].name) for row in broken),
                sha256={IMAGES: checksum, LABELS: _sha256(labels), MOMENTS: _sha256(moments_NC2)},
                images_mtime_ns=(folder / IMAGES).stat().st_mtime_ns,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                versions={"paretonest": nas.__version__} | {n: metadata.version(n) for n in ("numpy", "pillow")},
            )
            write_atomic(folder / META, json.dumps(asdict(meta), indent=1) + "\n")
    except OSError as error:
        raise RuntimeError(f"{out} could not be written: {error.strerror or error}") from error
    return meta


def is_prepared(path: Path) -> bool:
    return (path / META).is_file() and (path / IMAGES).is_file()


def stamp(path: Path) -> tuple[int, ...]:
    """Changes when the set is prepared again, or its images are touched."""
    found = [(path / name).stat() for name in (META, IMAGES)]
    return tuple(value for stat in found for value in (stat.st_mtime_ns, stat.st_size, stat.st_ino))


def read_prepared(path: Path) -> Source:
    """The set with its images mapped. Raises ValueError naming the file that is damaged or of another format.

    The checksums of labels and moments are compared at once; that of the images only where images.npy does not have
    the time at which it was written, as after a copy. If it agrees, the file gets that time: this is done once.
    """
    meta = _read_meta(path)
    images_NHWC = _mapped(path, meta)
    labels = _array(path / LABELS, meta, meta.shape[:1], np.dtype(np.int64))
    moments_NC2 = _array(path / MOMENTS, meta, (meta.shape[0], meta.channels, 2), np.dtype(np.uint64))
    names = dict(meta.skipped)
    readable = np.ones(len(labels), bool)
    readable[list(names)] = False
    known = Known(meta.sha256[IMAGES], moments_NC2)

    def read(rows: Labels) -> Split:
        kept = rows[readable[rows]]
        skipped = tuple(names[row] for row in rows[~readable[rows]].tolist())
        return Split(images_NHWC, labels[kept], skipped, rows=kept, known=known)

    return Source(
        name=meta.name,
        labels=labels[: meta.train],
        classes=meta.classes,
        read=read,
        read_test=(lambda: read(np.arange(meta.train, meta.shape[0]))) if meta.test else None,
    )


def _check(root: Path, out: Path, size: int, workers: int, force: bool) -> None:
    for name, value in (("size", size), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")
    if not root.is_dir():
        raise ValueError(f"{root} must be a folder of class folders, but is {'a file' if root.exists() else 'missing'}")
    if out.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{out} must lie outside of {root}, where it would be taken for a class")
    if out.exists() and not force:
        raise ValueError(f"{out} exists already: give another name, or --force to replace it")
    if out.exists() and not is_prepared(out):
        raise ValueError(f"{out} is no prepared set, and only such a one is replaced: give another name")


def _require_space(out: Path, shape: tuple[int, ...]) -> None:
    images, size, _, channels = shape
    needed = images * (size**2 * channels + 8 + 16 * channels)
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{images:,} images of {size}x{size}x{channels} need {needed / 1e9:.3g} GB, "
            f"but {place} has {free / 1e9:.3g} GB free: choose a smaller --size or another disk"
        )


def _decode(pictures: Sequence[Picture], size: int, grey: bool) -> list[_Decoded | None]:
    """In a thread: Pillow lets go of the interpreter's lock while it decodes and scales."""
    images = (decode_one(picture, size=size, grey=grey) for picture in pictures)
    return [None if image_HWC is None else _Decoded(image_HWC, channel_moments(image_HWC)) for image_HWC in images]


def _in_order(
    work: Callable[[Sequence[Picture]], list[_Decoded | None]], pictures: Sequence[Picture], workers: int
) -> Generator[_Decoded | None, None, None]:
    """What `work` makes of the pictures, in their order; at most AHEAD chunks a thread are kept waiting."""
    with ThreadPoolExecutor(workers) as threads:
        waiting: deque[Future[list[_Decoded | None]]] = deque()
        try:
            for start in range(0, len(pictures), CHUNK):
                waiting.append(threads.submit(work, pictures[start : start + CHUNK]))
                if len(waiting) == AHEAD * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _write_images(
    path: Path,
    decoded: Iterator[_Decoded | None],
    shape: tuple[int, int, int, int],
    on_image: Callable[[int, int], None],
) -> tuple[str, Moments, list[int]]:
    """Written in a row, not through a map: a full disk is then an error, where a map would kill the process."""
    digest = hashlib.sha256()
    moments_NC2 = np.zeros((shape[0], shape[3], 2), np.uint64)
    broken: list[int] = []
    black = np.zeros(shape[1:], np.uint8)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row, image in enumerate(decoded):
            if image is None:
                broken.append(row)
            else:
                moments_NC2[row] = image.moments_C2
            pixels = (black if image is None else image.image_HWC).tobytes()
            digest.update(pixels)
            file.write(pixels)
            on_image(row + 1, shape[0])
    return digest.hexdigest(), moments_NC2, broken


def _read_meta(path: Path) -> Meta:
    try:
        values: dict[str, Any] = json.loads((path / META).read_text(encoding="utf-8"))
        found = values["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path / META} is damaged: prepare the set again") from None
    if found != FORMAT:
        raise ValueError(f"{path} has the format {found!r}, but this version reads {FORMAT}: prepare the set again")
    try:
        values["sha256"] = {name: values["sha256"][name] for name in (IMAGES, LABELS, MOMENTS)}
        skipped = tuple((int(row), str(name)) for row, name in values.pop("skipped"))
        return Meta(**values | {"classes": tuple(values["classes"]), "skipped": skipped})
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path / META} is damaged: prepare the set again") from None


def _mapped(path: Path, meta: Meta) -> Pixels:
    file = path / IMAGES
    images_NHWC = _loaded(file, meta.shape, np.dtype(np.uint8), mapped=True)
    stat = file.stat()
    if stat.st_mtime_ns != meta.images_mtime_ns:
        _require_checksum(file, images_NHWC, meta)
        with suppress(OSError):  # a set that is read-only is compared at every start
            os.utime(file, ns=(stat.st_atime_ns, meta.images_mtime_ns))
    return images_NHWC


def _array(file: Path, meta: Meta, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    array = _loaded(file, shape, dtype, mapped=False)
    _require_checksum(file, array, meta)
    return array


def _loaded(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, mapped: bool) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise ValueError(f"{file} is damaged or missing: prepare the set again") from None
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{file} must be {dtype} {shape}, but is {array.dtype} {array.shape}: prepare the set again")
    return array


def _require_checksum(file: Path, array: NDArray[Any], meta: Meta) -> None:
    if _sha256(array) != meta.sha256[file.name]:
        raise ValueError(f"{file} is damaged, its checksum is not that in {META}: prepare the set again")


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
