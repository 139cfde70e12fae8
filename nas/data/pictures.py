"""Encoded pictures (JPEG, PNG, BMP, WebP) to arrays, by Pillow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling

from nas.data.images import Labels, Pixels, Split

GREY_MODES = ("1", "L", "LA", "I;16")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a file that is damaged, cut short, no picture, or so large that it looks like an attack."""


class Picture(NamedTuple):
    """An encoded picture: a file, or the bytes of one; `name` is what a person is told."""

    name: str
    content: Path | Pixels

    def open(self) -> Image.Image:
        """Only the header is read."""
        return Image.open(self.content if isinstance(self.content, Path) else BytesIO(self.content.tobytes()))


def all_grey(pictures: Sequence[Picture]) -> bool:
    """Whether every readable picture is greyscale; stops at the first in colour."""
    return all(mode in GREY_MODES for mode in _modes(pictures))


def _modes(pictures: Sequence[Picture]) -> Iterator[str]:
    for picture in pictures:
        try:
            with picture.open() as image:
                yield image.mode
        except BROKEN:
            continue


def picture_reader(
    pictures: Sequence[Picture], labels: Labels, *, size: int | None, grey: bool
) -> Callable[[Labels], Split]:
    """A reader that decodes only the pictures asked for; see `decode`."""
    return lambda indices: decode([pictures[i] for i in indices], labels[indices], size=size, grey=grey)


def decode(pictures: Sequence[Picture], labels: Labels, *, size: int | None, grey: bool) -> Split:
    """The pictures as uint8 (N, size, size, 3), or 1 channel if `grey`; broken ones are left out and named.

    size: the shorter side is scaled to it, then the centre is cut out; None: all must have one size already.
    """
    images_NHWC: Pixels | None = None
    kept: list[int] = []
    skipped: list[str] = []
    for index, picture in enumerate(pictures):
        image_HWC = decode_one(picture, size=size, grey=grey)
        if image_HWC is None:
            skipped.append(picture.name)
            continue
        if images_NHWC is None:
            images_NHWC = np.empty((len(pictures), *image_HWC.shape), np.uint8)
        if image_HWC.shape != images_NHWC.shape[1:]:
            raise ValueError(
                f"{picture.name} is {image_HWC.shape[1]}x{image_HWC.shape[0]} pixels, but the pictures before it are "
                f"{images_NHWC.shape[2]}x{images_NHWC.shape[1]}: all must have one size"
            )
        images_NHWC[len(kept)] = image_HWC
        kept.append(index)
    if images_NHWC is None:
        raise ValueError(f"none of the {len(pictures)} pictures can be read, the first is {pictures[0].name}")
    return Split(images_NHWC[: len(kept)], labels[kept], tuple(skipped))


def decode_one(picture: Picture, *, size: int | None, grey: bool) -> Pixels | None:
    """The picture as `decode` gives it, uint8 (H, W, C); None if it is broken."""
    try:
        with picture.open() as opened:
            if size is not None:
                opened.draft(None, (2 * size, 2 * size))  # the JPEG decoder drops detail that the resize would drop
            image = ImageOps.exif_transpose(opened).convert("L" if grey else "RGB")
        if size is not None:
            image = ImageOps.fit(image, (size, size), method=Resampling.BICUBIC)
    except BROKEN:
        return None
    pixels = np.asarray(image)
    return pixels[:, :, None] if grey else pixels
