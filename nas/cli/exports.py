"""`nas export`, `nas evaluate` and `nas retrain`: networks that leave, and what is done with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import Device, Knee, MaxMacs, MaxParams, caps_of
from nas.cli.runs import run_at

if TYPE_CHECKING:
    from nas.export.config import FoundNetwork
    from nas.export.folder import Export
    from nas.record import Run
    from nas.train import EpochReport, Recipe


def export(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a search.")] = None,
    arch: Annotated[
        str | None, typer.Option(metavar="NETWORK", help="In place of RUN: a config.json, or a published name.")
    ] = None,
    knee: Knee = False,
    trial: Annotated[int | None, typer.Option(help="The network of this trial.")] = None,
    all_front: Annotated[bool, typer.Option("--all-front", help="Every network of the front.")] = False,
    top: Annotated[int | None, typer.Option(metavar="K", help="The K most accurate networks.", min=1)] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images, with --arch. [its own]", min=1)] = None,
    random_weights: Annotated[
        int | None, typer.Option(metavar="SEED", help="Weights drawn by this seed, in place of trained ones.", min=0)
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help='Also model.onnx; needs pip install "paretonest[onnx]".')
    ] = False,
    pt2: Annotated[bool, typer.Option("--pt2", help="Also model.pt2, for torch.export.load.")] = False,
    torchscript: Annotated[
        bool, typer.Option("--torchscript", help="Also model.torchscript, for torch.jit.load.")
    ] = False,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold batch norms into the convolutions of these other forms.")
    ] = False,
    device: Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; of several networks, the folder of theirs. [RUN/best/KEY]")
    ] = None,
) -> None:
    """Write networks that work without this tool: by default the most accurate one of the front.

    A folder holds model.py (plain PyTorch), model.safetensors (the trained weights), config.json, README.md and
    metrics.json, which shows that they are the network that was searched.

    \b
    nas export results/digits --knee
    nas export results/digits --max-macs 500k --out my_network
    nas export results/digits --trial 7
    nas export results/digits --all-front --out networks
    nas export results/digits --top 3 --onnx --fold
    nas export --arch resnest50 --out resnest50
    nas export --arch my_network/config.json --random-weights 0 --out fresh
    """
    from nas.device import resolve_device
    from nas.export.folder import write_export

    where = resolve_device(device)
    forms = [name for name, asked in (("onnx", onnx), ("pt2", pt2), ("torchscript", torchscript)) if asked]
    ways = {"--knee": knee, "--trial": trial is not None, "--all-front": all_front, "--top": top is not None}
    _require_one([way for way, given in ways.items() if given])
    caps = caps_of(max_macs, max_params)
    if trial is not None and caps:
        raise ValueError("--trial picks one network: it cannot stand beside --max-macs or --max-params")
    if arch is not None:
        _require_alone(arch, run is not None or bool(caps) or any(ways.values()), out)
        assert out is not None
        print(write_export(_named(arch, input_size, random_weights), out, device=where, forms=forms, folded=fold))
        return
    if run is None:
        raise ValueError("nothing to export: give the folder of a search, or --arch with a config.json or a name")
    if input_size is not None:
        raise ValueError(f"--input-size {input_size} belongs to --arch: a search has its own")
    found = run_at(run)
    picked = _picked(found, caps, knee=knee, trial=trial, all_front=all_front, top=top)
    for made, place in _exports(found, picked, random_weights, out, several=all_front or top is not None):
        print(write_export(made, place, device=where, forms=forms, folded=fold), flush=True)
        if made.weights is None:
            print(f"{place}: no weights, as its trial has no checkpoint in {run}", file=sys.stderr)


def _require_one(ways: list[str]) -> None:
    if len(ways) > 1:
        raise ValueError(f"{ways[0]} cannot stand beside {ways[1]}: pick networks in one way")


def _require_alone(arch: str, picks: bool, out: Path | None) -> None:
    if picks:
        raise ValueError(f"--arch {arch} names the network: it cannot stand beside a search or a pick from one")
    if out is None:
        raise ValueError(f"--arch {arch} belongs to no search: give the folder to write as --out")


def _named(source: str, input_size: int | None, random_weights: int | None) -> Export:
    from nas.export.config import find_network
    from nas.export.folder import of_network

    found = find_network(source)
    side = input_size or found.input_size
    if side is None:
        raise ValueError(f"{source} names no input_size: give --input-size")
    return of_network(found, side, random_seed=random_weights)


def _picked(
    run: Run, caps: Mapping[str, int], *, knee: bool, trial: int | None, all_front: bool, top: int | None
) -> list[int]:
    """The numbers of the trials to export."""
    from nas.export.pick import most_accurate, objectives_of, pick, require_complete, under

    objectives = objectives_of(run)
    if trial is not None:
        return [require_complete(run.trials(), trial)]
    if top is not None:
        trials = run.trials()
        return most_accurate(under(trials[trials["state"] == "complete"], caps), objectives, top)
    rows = under(run.front(objectives), caps)
    one = pick(rows, objectives, knee=knee)
    return [int(number) for number in rows["trial"]] if all_front else [one]


def _exports(
    run: Run, trials: list[int], random_weights: int | None, out: Path | None, *, several: bool
) -> Iterator[tuple[Export, Path]]:
    """Each export with its folder: several networks get one each, named by their keys."""
    from nas.export.folder import of_trial

    for trial in trials:
        made = of_trial(run, trial, random_seed=random_weights)
        key = str(made.config["key"])
        own = run.path("best", key) if out is None else out
        yield made, own / key if several and out is not None else own


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported folder.")],
    data: Annotated[str | None, typer.Option(help="A data set, as `nas search` takes it. [that of the search]")] = None,
    device: Device = "auto",
) -> None:
    """Count the accuracy of an exported network again, with its model.py and model.safetensors.

    Runs model.py, which is code: evaluate no folder that you do not trust.

    \b
    nas evaluate my_network
    nas evaluate my_network --data new_photos/
    """
    from nas.device import resolve_device
    from nas.export.rescore import rescore

    for split, found in rescore(folder, data, resolve_device(device)).items():
        print(
            f"{split}: {100 * found['value']:.2f} % ({100 * found['low']:.2f} to {100 * found['high']:.2f} % with "
            f"{100 * found['confidence']:.0f} % confidence), {found['right']:,} of {found['images']:,} images"
        )


def retrain(
    arch: Annotated[str, typer.Option(metavar="NETWORK", help="A config.json, or a published name.")],
    epochs: Annotated[int, typer.Option(help="Epochs of the training.", min=1)],
    out: Annotated[Path, typer.Option(help="Folder of the training; its export is in OUT/best/KEY.")],
    data: Annotated[str | None, typer.Option(help="A data set, as `nas search` takes it. [that of the file]")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="digits, cifar or imagenet. [that of the file, or by data]")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="cycle, branch or average. [that of the recipe]")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of train held out. [that of the file, or 0.2]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.", min=0)] = 0,
    device: Device = "auto",
) -> None:
    """Train one network in full and export it. The same command again goes on where it was stopped.

    More epochs go on too, unless the schedule is cycle.

    \b
    nas retrain --arch my_network/config.json --epochs 100 --out results/full
    nas retrain --arch resnest50 --data imagenet-224 --epochs 90 --out results/resnest50
    """
    from nas.device import resolve_device
    from nas.export.config import origin
    from nas.machine import keep_freed_memory
    from nas.record import Run
    from nas.retrain import Retraining
    from nas.retrain import retrain as train_in_full

    where = resolve_device(device)
    keep_freed_memory()
    network, known = _known(arch)
    settings = _data_settings(known, data, network.input_size, val_fraction)
    full = Path(os.path.normpath(out.absolute()))
    wanted = Retraining(
        architecture=network.architecture,
        origin=known.get("found") or origin(network),
        data=settings,
        recipe=_recipe(known, settings, recipe, schedule),
        epochs=epochs,
        seed=seed,
        device=device,
    )
    try:
        print(train_in_full(wanted, Run(full.parent, full.name), device=where, on_epoch=_show_epoch))
    except KeyboardInterrupt:
        print("stopped: the same command goes on from its last checkpoint, half a minute back or so", file=sys.stderr)
        raise typer.Exit(130) from None


def _show_epoch(report: EpochReport) -> None:
    print(
        f"epoch {report.epoch} of {report.epochs}: loss {report.loss:.4f}, {report.images_per_s:,.0f} images/s",
        flush=True,
    )


def _known(source: str) -> tuple[FoundNetwork, Mapping[str, Any]]:
    """The network, and the content of its file; {} for a published one."""
    from nas.export.config import find_network
    from nas.record import read_json

    found = find_network(source)
    return found, {} if found.published else read_json(Path(source))


def _data_settings(
    known: Mapping[str, Any], source: str | None, image_size: int | None, val_fraction: float | None
) -> dict[str, Any]:
    """Arguments of `nas.data.load`: those in the file, with a source and a share that were given in their place."""
    before = known.get("data") or {}
    if source is None and "source" not in before:
        raise ValueError("the network's file names no data set: give --data")
    share = val_fraction if val_fraction is not None else before.get("val_fraction", 0.2)
    return {
        "source": source or before["source"],
        "image_size": before.get("image_size") or image_size,
        "val_fraction": share,
        "seed": before.get("seed", 0),
    }


def _recipe(known: Mapping[str, Any], data: Mapping[str, Any], name: str | None, schedule: str | None) -> Recipe:
    from nas.data import load
    from nas.train import RECIPES, Recipe, recipe_for

    if name is not None and name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, but got {name!r}")
    stored = known.get("recipe")
    values = stored if stored and name is None else RECIPES[name or recipe_for(load(**data))].to_json()
    return Recipe.from_json({**values, **({"schedule": schedule} if schedule is not None else {})})
