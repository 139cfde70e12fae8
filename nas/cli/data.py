"""`nas data`: what is done to images before a search."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from nas import terminal
from nas.units import format_seconds

NAMED = 50
"""Broken pictures that are named on the screen; meta.json names them all."""

app = typer.Typer(
    name="data",
    help="Prepare images for searches: nas data prepare.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _verbs() -> None:
    pass


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Class folders, or train/ and test/ of them.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels: scaled, then cut from the centre.", min=1)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Name of the prepared set, which is a folder of arrays.")],
    workers: Annotated[int | None, typer.Option(help="Threads that decode. [one a CPU]", min=1)] = None,
    grey: Annotated[bool, typer.Option("--grey", help="One channel, also for pictures in colour.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a prepared set of this name.")] = False,
) -> None:
    """Decode a folder of pictures once, into a set that every search and worker maps from the same file.

    Broken pictures are named and left out. The set is written whole or not at all.

    \b
    nas data prepare photos --size 64 --out photos-64
    nas search --space my_space.toml --data photos-64
    nas data prepare imagenet --size 112 --out /fast/imagenet-112 --workers 16
    """
    from nas.data.prepared import prepare as decode

    begun = time.monotonic()
    with terminal.Counter("pictures") as counter:
        meta = decode(folder, out, size=size, grey=grey, force=force, workers=workers, on_image=counter.show)
    in_test = sum(row >= meta.train for row, _ in meta.skipped)
    train, test = meta.train - (len(meta.skipped) - in_test), meta.test - in_test
    print(
        f"{out}: {train:,} train and {test:,} test images of {size}x{size}x{meta.channels} in {len(meta.classes)} "
        f"classes, {math.prod(meta.shape) / 1e6:,.1f} MB, in {format_seconds(time.monotonic() - begun)}"
    )
    if meta.skipped:
        print(f"broken and left out, {len(meta.skipped):,}:")
        for _, name in meta.skipped[:NAMED]:
            print(f"  {os.fsencode(name).decode(errors='replace')}")
        if len(meta.skipped) > NAMED:
            print(f"  and {len(meta.skipped) - NAMED:,} more, all named in {out / 'meta.json'}")
