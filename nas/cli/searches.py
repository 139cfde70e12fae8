"""`nas search`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import MaxMacs, MaxParams, TrialTimeout

if TYPE_CHECKING:
    from nas.search.config import SearchConfig


def search(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings from a TOML file; options win.")] = None,
    space: Annotated[str | None, typer.Option(help="A space's TOML file, or a shipped one's name. [digits]")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, an .npz file, class folders, a prepared set, or a torchvision set's name. [digits]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the run. [space, or space-data]")] = None,
    trials: Annotated[int | None, typer.Option(help="Networks to train, those of earlier calls included.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of a training in full. [3]")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of a training, in place of epochs.")] = None,
    halving: Annotated[
        bool | None, typer.Option(help="Stop what promises little at 1/16 and 1/4 of the budget. [--halving]")
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="accuracy and one to three of macs, params, activations, latency. [accuracy,macs]"),
    ] = None,
    latency_batch_size: Annotated[int | None, typer.Option(help="Images a pass whose time is the latency. [1]")] = None,
    latency_threads: Annotated[int | None, typer.Option(help="CPU threads of that pass. [1]")] = None,
    latency_precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16 or auto, of that pass. [fp32]")
    ] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Accuracy (0 to 1) below which a network is of no interest. [found out]")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ehvi, tpe, local, nsga2 or random. [ehvi]")] = None,
    seed_with: Annotated[
        str | None, typer.Option(help="zoo: begin with the papers' networks, scaled to the space. [nothing]")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Training recipe by name. [by the data]")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16, or auto: bf16 on GPUs and CPUs that have it. [by the recipe]")
    ] = None,
    train_images: Annotated[int | None, typer.Option(help="Train on this many images only. [all]")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the images held out to measure accuracy.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [auto]")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trainings side by side, on shared cores or shared over the GPUs. [1]")
    ] = None,
    trial_timeout: TrialTimeout = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals, split and trainings. [0]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds the runs. [results]")] = None,
) -> None:
    """Search for the best accuracy-cost trade-offs; the same command again resumes.

    \b
    nas search
    nas search --space cifar --data cifar10.npz --trials 200 --epochs 3 --max-macs 20M
    nas search --workers 4 --trial-timeout 600
    nas search --space my_space.toml --data photos/ --objectives accuracy,macs,params
    nas search --objectives accuracy,latency --latency-batch-size 8
    nas search --config my_search.toml --seed 1 --study second-seed
    """
    from nas.machine import keep_freed_memory
    from nas.progress import Progress
    from nas.record import Run
    from nas.report import write_report
    from nas.search.driver import run_search

    options = {
        "space": space,
        "data": data,
        "study": study,
        "trials": trials,
        "epochs": epochs,
        "steps": steps,
        "halving": halving,
        "objectives": objectives,
        "latency_batch_size": latency_batch_size,
        "latency_threads": latency_threads,
        "latency_precision": latency_precision,
        "max_macs": max_macs,
        "max_params": max_params,
        "min_accuracy": min_accuracy,
        "sampler": sampler,
        "seed_with": seed_with,
        "recipe": recipe,
        "precision": precision,
        "train_images": train_images,
        "val_fraction": val_fraction,
        "device": device,
        "workers": workers,
        "trial_timeout_s": trial_timeout,
        "seed": seed,
        "out": out,
    }
    settings = read_settings(config, {name: value for name, value in options.items() if value is not None})
    keep_freed_memory()
    with Progress() as screen:
        summary = run_search(settings, on_event=screen.show)
    run = Run(settings.out, settings.study)
    screen.end(summary, run.front(settings.objectives), settings.objectives)
    print(f"report: {write_report(run)}", flush=True)  # it takes some seconds, so the front is shown first
    if summary.interrupted:
        raise typer.Exit(130)
    if summary.failed == summary.finished:
        raise typer.Exit(1)


def read_settings(file: Path | None, options: Mapping[str, Any]) -> SearchConfig:
    """Settings of the TOML file, overridden by the options given. The study is named after space and data."""
    from nas.search.config import SearchConfig

    values = {**_read_toml(file), **options} if file is not None else dict(options)
    if isinstance(values.get("objectives"), str):
        values["objectives"] = [name.strip() for name in values["objectives"].split(",")]
    if "study" not in values:
        names = [Path(str(values.get(name, "digits"))).stem for name in ("space", "data")]
        values["study"] = "-".join(dict.fromkeys(names))
    return SearchConfig.read(values, where=str(file) if file is not None else "search")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file} is not valid TOML: {error}") from None
