"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.units import parse_count

StudyFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a search, as in results/digits.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
SpaceSource = Annotated[str, typer.Argument(metavar="SPACE", help="A space's TOML file, or a shipped one's name.")]
MaxMacs = Annotated[str | None, typer.Option(metavar="COUNT", help="At most this many multiply-adds, as in 20M.")]
MaxParams = Annotated[str | None, typer.Option(metavar="COUNT", help="At most this many parameters, as in 300k.")]
Knee = Annotated[bool, typer.Option("--knee", help="The front's knee: where more cost stops buying much accuracy.")]
TrialTimeout = Annotated[
    float | None, typer.Option(help="Seconds after which a training counts as hung and is tried again. [none]")
]


def caps_of(max_macs: str | None, max_params: str | None) -> dict[str, int]:
    """The caps that were given, as whole numbers."""
    caps = {"macs": max_macs, "params": max_params}
    return {metric: parse_count(cap) for metric, cap in caps.items() if cap is not None}
