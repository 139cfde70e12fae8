"""The accuracy of an exported folder, counted anew, also on other images than those it was searched on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas.arch import Architecture
from nas.data import ImageData, load
from nas.data.batches import Normalise
from nas.export.proof import MODEL, WEIGHTS, counted, loaded, splits_of
from nas.export.weights import read_weights
from nas.record import read_json

SPLIT = ("image_size", "val_fraction", "seed", "train_images")
"""Settings of `nas.data.load` that config.json holds beside the source."""


def rescore(folder: Path, source: str | None, device: torch.device) -> dict[str, dict[str, Any]]:
    """The accuracy of model.py with model.safetensors by split, each with its interval, in float32.

    source: a data set; None for that of config.json. It is split, and its images are scaled and normalised, as
    config.json says. Runs model.py. Raises ValueError where a file is missing or damaged, or the data does not fit.
    """
    config = read_json(folder / "config.json")
    known = config.get("data") or {}
    data = _data(config, known, source, folder)
    network = loaded(folder / MODEL, read_weights(folder / WEIGHTS))
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(tuple(known["mean"]), tuple(known["std"])) if "mean" in known else None
    return {name: counted(network, split(), data, device, normalise) for name, split in splits_of(data).items()}


def _data(config: Mapping[str, Any], known: Mapping[str, Any], source: str | None, folder: Path) -> ImageData:
    if source is None and "source" not in known:
        raise ValueError(f"{folder / 'config.json'} names no data set: give --data")
    settings = {name: known[name] for name in SPLIT if name in known}
    data = load(source or known["source"], **{"image_size": config["input_size"], **_given(settings)})
    arch = Architecture.from_json(config["architecture"])
    data.require(
        in_channels=arch.in_channels, num_classes=arch.num_classes, input_size=data.size, where=str(folder / MODEL)
    )
    classes = known.get("classes", list(data.classes))
    if list(data.classes) != classes:
        first = next((mine, its) for mine, its in zip(data.classes, classes, strict=True) if mine != its)
        raise ValueError(f"the data {data.source} has a class {first[0]!r} where {folder} was trained on {first[1]!r}")
    return data


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
