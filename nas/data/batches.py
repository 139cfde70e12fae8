"""Batches of a split, cropped, flipped and normalised on the device, in channels_last order.

The images live on the device where they fit; else each batch's pixels are gathered on the host and follow one ahead of
their use. The batches are the same bit for bit.

A crop with a flip is one gather of whole pixels from a flat table, which gives (B, H, W, C), that is channels_last.
Padding is black (pixel value 0 before normalisation), as in torchvision's RandomCrop.
Letters in shapes: N images, P = N * S * S + 1 pixels, B batch, C channels, S = H = W size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from torch import Tensor

from nas.data.images import ImageData, Split
from nas.machine import available_memory_bytes

FREE_SHARE = {"cpu": 0.5, "cuda": 0.6, "mps": 0.5}
"""Share of the free memory that one split may take: the rest is for the networks, and for the next split."""
COPY_BYTES = 64 * 2**20
"""Pixels that are on their way to the device at a time."""


@dataclass(frozen=True, eq=False)
class DeviceImages:
    """A split on a device: its pixels as one flat uint8 table whose last row is black, and its labels."""

    pixels_PC: Tensor  # noqa: N815 -- the shape is part of the name
    labels_N: Tensor  # noqa: N815
    size: int

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def device(self) -> torch.device:
        return self.pixels_PC.device

    def tables(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each part, indices (B) of images: a pixel table with a black last row, and the images' places in it."""
        cuts = [0, *accumulate(map(len, parts))]
        places = torch.cat(list(parts)).to(self.device) if parts else None  # one copy for all of them
        return ((self.pixels_PC, places[start:stop]) for start, stop in pairwise(cuts) if places is not None)

    def blocks(self, batch_size: int) -> Iterator[Tensor]:
        """The pixels (B * H * W, C) of all images in order."""
        area = self.size**2
        for start in range(0, len(self), batch_size):
            yield self.pixels_PC[start * area : min(start + batch_size, len(self)) * area]


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """A split that stays in the host's memory or in its file; only the pixels of one batch after another come over."""

    split: Split
    labels_N: Tensor  # noqa: N815

    def __len__(self) -> int:
        return len(self.split)

    @property
    def device(self) -> torch.device:
        return self.labels_N.device

    @property
    def size(self) -> int:
        return self.split.size

    def tables(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """As those of DeviceImages, each table of one part only."""
        gathered = map(self._gather, parts) if self.device.type == "cpu" else _one_ahead(self._gather, parts)
        for pixels_PC, part in zip(gathered, parts, strict=True):
            yield pixels_PC.to(self.device, non_blocking=True), torch.arange(len(part), device=self.device)

    def blocks(self, batch_size: int) -> Iterator[Tensor]:
        parts = [torch.arange(len(self))[start : start + batch_size] for start in range(0, len(self), batch_size)]
        return (pixels_PC[:-1] for pixels_PC, _ in self.tables(parts))

    def _gather(self, indices_B: Tensor) -> Tensor:
        """In pinned memory for CUDA: torch gives it out again only when the copy that reads it is done."""
        shape = (len(indices_B), self.size, self.size, self.split.channels)
        pixels_PC = torch.empty(
            math.prod(shape[:3]) + 1, shape[3], dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        pixels_PC[-1] = 0
        self.split.gather(indices_B.numpy(), pixels_PC[:-1].view(shape).numpy())
        return pixels_PC


Images = DeviceImages | StreamedImages


def _one_ahead(work: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """`work` of each part in order; that of the next is done in a thread while the present one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: list[Future[Tensor]] = []
        for part in parts:
            waiting.append(thread.submit(work, part))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        yield from (last.result() for last in waiting)


@lru_cache(maxsize=4)  # train and validation of two sets; every trial of a process shares them
def on_device(split: Split, device: torch.device, *, resident: bool | None = None) -> Images:
    """The split for batches on the device: copied there once, or streamed.

    resident: whether to copy; None: where the pixels fit into FREE_SHARE of the memory that is free now. On the CPU a
    mapped file is never copied: the system keeps its pages in memory, once for all processes.
    """
    labels_N = torch.tensor(split.labels, device=device)
    if not (_fits(split, device) if resident is None else resident):
        return StreamedImages(split, labels_N)
    area, channels = split.size**2, split.channels
    pixels_PC = torch.zeros(len(split) * area + 1, channels, dtype=torch.uint8, device=device)
    for indices in np.array_split(np.arange(len(split)), -(-split.nbytes // COPY_BYTES) or 1):
        if len(indices):
            rows = slice(int(indices[0]) * area, (int(indices[-1]) + 1) * area)
            pixels_PC[rows] = torch.from_numpy(split.gather(indices)).view(-1, channels).to(device)
    return DeviceImages(pixels_PC, labels_N, split.size)


def _fits(split: Split, device: torch.device) -> bool:
    if device.type == "cpu" and split.is_mapped:
        return False
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory_bytes()
    return free is None or split.nbytes <= FREE_SHARE[device.type] * free


@dataclass(frozen=True)
class Normalise:
    """(pixel / 255 - mean) / std per channel, as one multiplication and one addition; mean, std on the 0..1 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: ImageData) -> Normalise:
        return cls(data.mean, data.std)

    def line(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Factor and shift (W * C) of a line of pixels: a broadcast over C alone runs 3 values at a time on the CPU."""
        std = torch.tensor(self.std)
        factor_C, shift_C = 1 / (255 * std), -torch.tensor(self.mean) / std
        return factor_C.repeat(width).to(device), shift_C.repeat(width).to(device)


@dataclass(frozen=True, eq=False)
class Draw:
    """One epoch's random choices, all (N): the order of the images and, for each place in it, crop offsets and flip.

    top, left: where the crop starts in the padded image, 0..2 * padding; `padding` itself is the image as it is.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def to(self, device: torch.device) -> Draw:
        return Draw(*(choice.to(device) for choice in (self.order, self.top, self.left, self.flip)))


def draw(images: int, *, crop_padding: int, horizontal_flip: bool, generator: torch.Generator) -> Draw:
    """Drawn on the CPU, so that every device sees the same batches; flips have probability 1/2."""
    offsets = torch.randint(0, 2 * crop_padding + 1, (2, images), generator=generator)
    flip = torch.randint(0, 2, (images,), generator=generator).bool() & horizontal_flip
    return Draw(torch.randperm(images, generator=generator), offsets[0], offsets[1], flip)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many nearly equal batches an epoch has: none over batch_size, none of one image, no image dropped.

    Batch norm cannot train on one image; where only that would keep within batch_size, a batch has one image more.
    """
    if images < 2 or batch_size < 2:
        raise ValueError(f"training needs at least 2 images and batches of 2, but got {images} images in {batch_size}s")
    return min(-(-images // batch_size), images // 2)


def train_batches(
    images: Images, normalise: Normalise, drawn: Draw, *, batch_size: int, crop_padding: int, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of (x_BCHW float32 channels_last, labels_B): every image once, in the drawn order, crop and flip.

    first: the batch, counted from 0, to begin with; the ones before it are not computed.
    """
    factor, shift = normalise.line(images.size, images.device)
    steps = steps_per_epoch(len(images), batch_size)
    assert 0 <= first <= steps
    moved = drawn.to(images.device)
    orders, *choices = (
        choice.tensor_split(steps)[first:]
        for choice in (moved.order, moved.top - crop_padding, moved.left - crop_padding, moved.flip)
    )
    outside = SHORT if len(images) * images.size**2 < SHORT else LONG
    tables = images.tables(drawn.order.tensor_split(steps)[first:])
    moves = _moves(images.size, zip(*choices, strict=True), outside)
    for (table_PC, place_B), order_B, (line_BH, column_BW) in zip(tables, orders, moves, strict=True):
        rows_BHW = _pixel_rows(images.size, place_B, line_BH, column_BW, len(table_PC) - 1)
        pixels_PC = table_PC.index_select(0, rows_BHW.view(-1))
        yield _image(pixels_PC, images.size, factor, shift), images.labels_N[order_B]


def plain_batches(images: Images, normalise: Normalise, *, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_BCHW float32 channels_last, labels_B) in order and only normalised; the last may be smaller."""
    factor, shift = normalise.line(images.size, images.device)
    for start, pixels_PC in zip(range(0, len(images), batch_size), images.blocks(batch_size), strict=True):
        yield _image(pixels_PC, images.size, factor, shift), images.labels_N[start : start + batch_size]


SHORT, LONG = 2**29, 2**60
"""What stands for a line or column outside the image, more than any pixel's row: two of them and a row make no overflow
of 32 bits, or of 64."""
AHEAD = 32
"""Batches whose moves are computed together: one by one, a dozen small operations took a tenth of a batch's time."""


def _moves(size: int, parts: Iterable[tuple[Tensor, Tensor, Tensor]], outside: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each part, crop offsets down and right and flips (B): what the lines (B, H) and the columns (B, W) of its
    outputs add to the row of an image's first pixel, `outside` for those outside the image."""
    rest = iter(parts)
    while block := list(islice(rest, AHEAD)):
        down_N, right_N, flip_N = (torch.cat(choice) for choice in zip(*block, strict=True))
        line = torch.arange(size, device=down_N.device)
        y_NH = line + down_N[:, None]
        x_NW = torch.where(flip_N[:, None], size - 1 - line, line) + right_N[:, None]
        line_NH, column_NW = (
            torch.where((place >= 0) & (place < size), place * step, outside).to(
                torch.int32 if outside == SHORT else torch.int64
            )
            for place, step in ((y_NH, size), (x_NW, 1))
        )
        counts = [len(down_B) for down_B, _, _ in block]
        yield from zip(torch.split(line_NH, counts), torch.split(column_NW, counts), strict=True)


def _pixel_rows(size: int, place_B: Tensor, line_BH: Tensor, column_BW: Tensor, black: int) -> Tensor:
    """(B, H, W): for each output pixel its row in the pixel table, the last row `black` outside the image."""
    first_BH = (place_B * size**2).to(line_BH.dtype)[:, None] + line_BH
    return (first_BH[:, :, None] + column_BW[:, None, :]).clamp_(max=black)


def _image(pixels_PC: Tensor, size: int, factor_L: Tensor, shift_L: Tensor) -> Tensor:
    values_BHL = pixels_PC.view(-1, size, len(factor_L)).float().mul_(factor_L).add_(shift_L)
    return values_BHL.view(-1, size, size, pixels_PC.shape[1]).permute(0, 3, 1, 2)
