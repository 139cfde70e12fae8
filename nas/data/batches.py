"""Images that live on the device, and their batches: cropped, flipped and normalised there, in channels_last order.

A crop with a flip is one gather of whole pixels from a flat table, which gives (B, H, W, C), that is channels_last.
Padding is black (pixel value 0 before normalisation), as in torchvision's RandomCrop.
Letters in shapes: N images, P = N * S * S + 1 pixels, B batch, C channels, S = H = W size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nas.data.images import ImageData, Split


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


@lru_cache(maxsize=4)  # train and validation of two sets; every trial of a process shares them
def on_device(split: Split, device: torch.device) -> DeviceImages:
    """The split's images and labels, copied to the device once."""
    channels = split.images_NHWC.shape[3]
    pixels_PC = torch.zeros(split.images_NHWC.size // channels + 1, channels, dtype=torch.uint8)
    pixels_PC[:-1] = torch.tensor(split.images_NHWC).view(-1, channels)
    labels_N = torch.tensor(split.labels)
    return DeviceImages(pixels_PC.to(device), labels_N.to(device), int(split.images_NHWC.shape[1]))


@dataclass(frozen=True)
class Normalise:
    """(pixel / 255 - mean) / std per channel, as one multiplication and one addition; mean, std on the 0..1 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: ImageData) -> Normalise:
        return cls(data.mean, data.std)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Factor and shift (C) on the device."""
        std = torch.tensor(self.std)
        return (1 / (255 * std)).to(device), (-torch.tensor(self.mean) / std).to(device)


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
    images: DeviceImages, normalise: Normalise, drawn: Draw, *, batch_size: int, crop_padding: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of (x_BCHW float32 channels_last, labels_B): every image once, in the drawn order, crop and flip."""
    factor, shift = normalise.to(images.device)
    steps = steps_per_epoch(len(images), batch_size)
    drawn = drawn.to(images.device)
    parts = (choice.tensor_split(steps) for choice in (drawn.order, drawn.top, drawn.left, drawn.flip))
    for order_B, top_B, left_B, flip_B in zip(*parts, strict=True):
        rows_BHW = _pixel_rows(images, order_B, top_B - crop_padding, left_B - crop_padding, flip_B)
        pixels_PC = images.pixels_PC.index_select(0, rows_BHW.view(-1))
        yield _image(pixels_PC, images.size, factor, shift), images.labels_N[order_B]


def plain_batches(images: DeviceImages, normalise: Normalise, *, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_BCHW float32 channels_last, labels_B) in order and only normalised; the last may be smaller."""
    factor, shift = normalise.to(images.device)
    area = images.size**2
    for start in range(0, len(images), batch_size):
        labels_B = images.labels_N[start : start + batch_size]
        pixels_PC = images.pixels_PC[start * area : (start + len(labels_B)) * area]
        yield _image(pixels_PC, images.size, factor, shift), labels_B


def _pixel_rows(images: DeviceImages, order_B: Tensor, down_B: Tensor, right_B: Tensor, flip_B: Tensor) -> Tensor:
    """(B, H, W): for each output pixel its row in the pixel table, the last (black) row outside the image."""
    size = images.size
    line = torch.arange(size, device=images.device)
    y_BH1 = (line + down_B[:, None])[:, :, None]
    x_B1W = (torch.where(flip_B[:, None], size - 1 - line, line) + right_B[:, None])[:, None, :]
    inside_BHW = (y_BH1 >= 0) & (y_BH1 < size) & (x_B1W >= 0) & (x_B1W < size)
    rows_BHW = order_B[:, None, None] * size**2 + y_BH1 * size + x_B1W
    return torch.where(inside_BHW, rows_BHW, len(images.pixels_PC) - 1)


def _image(pixels_PC: Tensor, size: int, factor: Tensor, shift: Tensor) -> Tensor:
    values_PC = pixels_PC.float().mul_(factor).add_(shift)
    return values_PC.view(-1, size, size, values_PC.shape[1]).permute(0, 3, 1, 2)
