"""The folder of an exported network: config.json, model.py, model.safetensors, metrics.json, README.md.

It is written beside its place, proven, and renamed: a check that fails leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas import record
from nas.arch import Architecture
from nas.atomic import folder_atomic, write_atomic
from nas.data import ImageData, load, path_of
from nas.export.card import card
from nas.export.config import FoundNetwork, network_config, trial_config
from nas.export.folding import fold
from nas.export.forms import FORMS
from nas.export.proof import MODEL, WEIGHTS, Claim, images_of, loaded, prove
from nas.export.source import model_source
from nas.export.weights import Weights, random_weights, save_weights
from nas.record import Run, write_json
from nas.train import load_weights

FILES = ("config.json", MODEL, WEIGHTS, "metrics.json", "README.md")
FORMAT = 1
"""Of metrics.json."""
PROOF_SEED = 0
"""Of the weights that the proof runs with, where the export has none."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A network and what is to be written of it.

    config: config.json. origin: where it comes from, a sentence. weights: None to write none; trained: whether they are
    those whose accuracy was recorded. data: None where nothing was trained.
    """

    config: Mapping[str, Any]
    origin: str
    weights: Weights | None
    weights_from: str
    trained: bool = False
    data: ImageData | None = None

    @property
    def architecture(self) -> Architecture:
        return Architecture.from_json(self.config["architecture"])


def of_trial(run: Run, trial: int, *, random_seed: int | None = None) -> Export:
    """A trial of a search with its trained weights, or with weights drawn by `random_seed`.

    Without both the export has no weights. Raises ValueError where the trial was not trained in full, where its data
    set cannot be had or has changed, or where its checkpoint is damaged.
    """
    config = trial_config(run, trial)
    data = load(**run.read_spec(trial)["data"])
    if data.digest != config["data"]["digest"]:
        raise ValueError(f"the data set {data.source} has changed since the search: restore the images it had then")
    config["data"] |= {"mean": list(data.mean), "std": list(data.std)}
    checkpoint = run.checkpoint(trial)
    trained = random_seed is None and checkpoint.exists()
    weights, weights_from = _weights(config, random_seed)
    if trained:
        weights, weights_from = load_weights(checkpoint), "trained"
    searched = f"The network of trial {trial} of the search {run.study}."
    origin = searched if "trial" in config["found"] else f"The network of the training in full {run.study}."
    return Export(config=config, origin=origin, weights=weights, weights_from=weights_from, trained=trained, data=data)


def of_network(found: FoundNetwork, input_size: int, *, random_seed: int | None = None) -> Export:
    """A network by file or by name, with weights drawn by `random_seed`, or without any."""
    config = network_config(found, input_size)
    published = found.published
    origin = f"The network {published.name} ({published.paper})." if published else "A network from a file."
    weights, weights_from = _weights(config, random_seed)
    return Export(config=config, origin=origin, weights=weights, weights_from=weights_from)


def _weights(config: Mapping[str, Any], random_seed: int | None) -> tuple[Weights | None, str]:
    if random_seed is None:
        return None, "none"
    return random_weights(Architecture.from_json(config["architecture"]), random_seed), f"random, seed {random_seed}"


def write_export(
    export: Export, folder: Path, *, device: torch.device, forms: Sequence[str] = (), folded: bool = False
) -> Path:
    """Write the folder, prove it, and return its path; an export that was there is replaced.

    device: where the accuracy is counted anew. forms: other ones to write, keys of `FORMS`. folded: these have their
    batch norms folded into the convolutions; model.py and its weights keep them. Raises ValueError, and leaves
    everything as it was, where a check fails or `folder` holds anything that no export wrote.
    """
    _require_ours(folder)
    if forms and export.weights is None:
        file = FORMS[forms[0]].file
        raise ValueError(f"{file} holds weights, but there are none to export: ask for random ones, or leave it out")
    if folded and not forms:
        raise ValueError("batch norms are folded in other forms than model.py: ask for one of them, or leave it out")
    arch, claim = export.architecture, _claim(export)
    with folder_atomic(folder) as made:
        write_atomic(made / MODEL, model_source(arch, export.config["input_size"], export.origin))
        if export.weights is not None:
            save_weights(made / WEIGHTS, export.weights, {"key": arch.key, "weights": export.weights_from})
        for form in (FORMS[name] for name in forms):
            network = loaded(made / MODEL, claim.weights)
            form.save(fold(network) if folded else network, made / form.file, images_of(claim)[0][:2])
        metrics = {
            "format": FORMAT,
            "key": arch.key,
            "made": record.now(),
            "weights": export.weights_from,
            "folded": folded,
            **prove(claim, made, device, folded=folded),
            "environment": record.environment(),
        }
        write_json(made / "config.json", export.config)
        write_json(made / "metrics.json", metrics)
        write_atomic(made / "README.md", card(export.config, metrics, _data_in(folder, export.data)))
    return folder


def _data_in(folder: Path, data: ImageData | None) -> str | None:
    """The data set as a command in the folder names it."""
    if data is None:
        return None
    path = path_of(data.source)
    return os.path.relpath(path.resolve(), folder.resolve()) if path else data.source


def _claim(export: Export) -> Claim:
    recorded = export.config["accuracy"] if export.trained else None
    return Claim(
        architecture=export.architecture,
        input_size=export.config["input_size"],
        weights=random_weights(export.architecture, PROOF_SEED) if export.weights is None else export.weights,
        data=export.data,
        accuracy=recorded["value"] if recorded else None,
        precision=recorded["precision"] if recorded else "fp32",
    )


def _require_ours(folder: Path) -> None:
    """An export replaces a whole folder, so it must be one that an export wrote."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder to export into")
    foreign = sorted(
        {path.name for path in folder.glob("*")} - {*FILES, *(form.file for form in FORMS.values()), "__pycache__"}
    )
    if foreign:
        raise ValueError(f"{folder} holds {foreign[0]}, which no export wrote: name a new folder")
