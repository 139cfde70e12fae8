"""The command line: `nas search`, `space`, `cost`, `latency`, `front`, `report`, `export`."""

from __future__ import annotations

import os
import random
import sys
import tomllib
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nas import __version__, terminal
from nas.units import format_count, format_seconds, parse_count

if TYPE_CHECKING:
    from nas.arch import Architecture
    from nas.device import Precision
    from nas.export.config import FoundNetwork
    from nas.record import Run
    from nas.search.config import SearchConfig
    from nas.space import SearchSpace

app = typer.Typer(
    name="nas",
    help="Accuracy-cost Pareto fronts of ResNet, ResNeXt, SE-Net, SK-Net and ResNeSt on your images.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Study = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a search, as in results/digits.")]
SpaceSource = Annotated[str, typer.Argument(metavar="SPACE", help="A space's TOML file, or a shipped one's name.")]
MaxMacs = Annotated[str | None, typer.Option(metavar="COUNT", help="At most this many multiply-adds, as in 20M.")]
MaxParams = Annotated[str | None, typer.Option(metavar="COUNT", help="At most this many parameters, as in 300k.")]
Knee = Annotated[bool, typer.Option("--knee", help="The front's knee: where more cost stops buying much accuracy.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A user's mistake is one sentence and exit code 2; `--debug` shows where it was raised."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app(args=[word for word in given if word != "--debug"], prog_name="nas")
    except ValueError as error:
        return _complain(error, debug, 2)
    except RuntimeError as error:  # a search that cannot go on, a device that fails: no mistake in the command
        return _complain(error, debug, 1)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _complain(error: Exception, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exc()
    print(f"nas: {error}", file=sys.stderr)
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"paretonest {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show where a mistake was found; works anywhere.")] = False,
) -> None:
    pass


@app.command()
def search(
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings from a TOML file; options win.")] = None,
    space: Annotated[str | None, typer.Option(help="A space's TOML file, or a shipped one's name. [digits]")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, an .npz file, a folder of class folders, or a torchvision set's name. [digits]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the run. [space, or space-data]")] = None,
    trials: Annotated[int | None, typer.Option(help="Trainings to reach, those of earlier calls included.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.")] = None,
    objectives: Annotated[
        str | None, typer.Option(help="accuracy and one to three of macs, params, activations. [accuracy,macs]")
    ] = None,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    sampler: Annotated[str | None, typer.Option(help="tpe, nsga2 or random. [tpe]")] = None,
    recipe: Annotated[str | None, typer.Option(help="Training recipe by name. [by the data]")] = None,
    train_images: Annotated[int | None, typer.Option(help="Train on this many images only. [all]")] = None,
    val_fraction: Annotated[
        float | None, typer.Option(help="Share of the images held out to measure accuracy.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps. [auto]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of proposals, split and trainings. [0]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder that holds the runs. [results]")] = None,
) -> None:
    """Search for the best accuracy-cost trade-offs; the same command again resumes.

    \b
    nas search
    nas search --space cifar --data cifar10.npz --trials 200 --epochs 3 --max-macs 20M
    nas search --space my_space.toml --data photos/ --objectives accuracy,macs,params
    nas search --config my_search.toml --seed 1 --study second-seed
    """
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
        "objectives": objectives,
        "max_macs": max_macs,
        "max_params": max_params,
        "sampler": sampler,
        "recipe": recipe,
        "train_images": train_images,
        "val_fraction": val_fraction,
        "device": device,
        "seed": seed,
        "out": out,
    }
    settings = read_settings(config, {name: value for name, value in options.items() if value is not None})
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


@app.command()
def space(
    source: SpaceSource,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0)] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture as a page, too.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Forecast the hours of so many trainings, from a few timed steps.", min=1)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each training of the forecast.", min=1)] = 4,
    images: Annotated[
        int | None, typer.Option(help="Training images of the forecast. [those of --data]", min=1)
    ] = None,
    data: Annotated[str, typer.Option(help="Data of the forecast, as in nas search.")] = "digits",
    device: Annotated[str, typer.Option(help="Device of the forecast: auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Show a space before anything is trained: its genes, its exact size, what its networks cost, what decides it.

    \b
    nas space cifar
    nas space cifar --max-macs 20M --html cifar.html
    nas space my_space.toml --trials 200 --epochs 3 --images 40000
    """
    from nas.cost.landscape import Landscape
    from nas.space import SearchSpace

    found = SearchSpace.load(source)
    caps = found.capped(_caps(max_macs, max_params))
    landscape = Landscape(found)
    survey = landscape.survey(seed)
    effects = landscape.effects("macs", seed)
    screen = terminal.console()
    screen.print(f"{found.name}: {found.description}", highlight=False)
    screen.print(f"{survey.size:,} different networks, input {found.in_channels}x{found.input_size}x{found.input_size}")
    genes = [{"gene": gene.name, "options": ", ".join(map(str, gene.options))} for gene in found.genes]
    screen.print(terminal.table("Genes", genes, ["gene", "options"]))
    screen.print(terminal.cost_quantiles(survey, caps))
    if caps:
        asked = " and ".join(f"{name} <= {format_count(cap)}" for name, cap in caps.items())
        screen.print(f"{100 * survey.within(caps):.3g} % of the networks have {asked}", highlight=False)
    screen.print(terminal.cost_histogram(survey, "macs", caps))
    screen.print(terminal.extremes(survey, found.input_size))
    screen.print(terminal.gene_effects(effects, "macs"))
    landscape.require_within(caps)  # what was shown says why they cannot be met
    if html is not None:
        from nas.report import write_landscape

        print(write_landscape(found.name, survey, caps, effects, html))
    if trials is not None:
        forecast = _forecast(found, caps, trials, epochs, images, data, device, seed)
        screen.print(forecast, highlight=False, soft_wrap=True)


def _forecast(
    space: SearchSpace,
    caps: Mapping[str, int],
    trials: int,
    epochs: int,
    images: int | None,
    data: str,
    device: str,
    seed: int,
) -> str:
    from nas.cost.landscape import Landscape
    from nas.data import load
    from nas.executors.forecast import NETWORKS, forecast

    count = images or len(load(data, image_size=space.input_size).train)
    networks = Landscape(space).sample_within(caps, NETWORKS, seed)
    found = forecast(networks, input_size=space.input_size, images=count, epochs=epochs, trials=trials, device=device)
    mean, low, high = (format_seconds(seconds) for seconds in (found.seconds, found.low_seconds, found.high_seconds))
    slow, fast = min(found.images_per_s), max(found.images_per_s)
    return (
        f"{trials} trainings of {epochs} epochs of {count:,} images: about {mean} on {found.device} ({low} to {high}), "
        f"one at a time, evaluations left out; {len(networks)} networks timed, {slow:,.0f} to {fast:,.0f} images/s"
    )


@app.command()
def cost(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK", help="Published networks by name, or config.json files.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images. [the network's own]", min=1)] = None,
    measure: Annotated[bool, typer.Option(help="Also build each network and let fvcore count it.")] = True,
    per_stage: Annotated[bool, typer.Option("--per-stage", help="Also show what each stage costs.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Show all published networks, by formula.")] = False,
) -> None:
    """Count parameters, multiply-adds and activations, by formula and by fvcore.

    \b
    nas cost resnet50 resnext50_32x4d sknet50 resnest50
    nas cost resnest50 --per-stage --input-size 32
    nas cost results/digits/best/*/config.json --no-measure
    nas cost --list
    """
    from nas.cost.formula import cost_by_stage

    screen = terminal.console()
    if listed:
        if networks:
            raise ValueError(f"--list shows all published networks: it cannot stand beside {networks[0]!r}")
        screen.print(terminal.cost_table("Published networks, 224 x 224 pixels", _published()))
        screen.print(_PRINTED, highlight=False)
        return
    if not networks:
        raise ValueError("name a published network or a config.json: `nas cost --list` shows the names")
    sized = _sized(networks, input_size)
    rows = [_priced(found, side) for found, side in sized]
    uncounted: set[str] = set()
    if measure:
        from nas.cost.measure import measure as count

        for row, (found, side) in zip(rows, sized, strict=True):
            counted = count(found.architecture, side)
            equal = all(row[name] == getattr(counted, name) for name in ("params", "macs", "activations"))
            row |= {"fvcore": "equal" if equal else f"{counted.macs:,}", "fvcore total": counted.fvcore_total}
            uncounted.update(counted.unsupported)
    printed = [found.published if side == found.input_size else None for found, side in sized]
    if any(printed):
        for row, published in zip(rows, printed, strict=True):
            row["GFLOPs in print"] = published.gflops if published else None
            row["top-1 in print"] = published.top1 if published else None
    screen.print(terminal.cost_table("Cost", rows))
    if uncounted:
        screen.print(_uncounted(uncounted), highlight=False)
    if per_stage:
        for found, side in sized:
            parts = cost_by_stage(found.architecture, side)
            screen.print(terminal.stages_table(f"{found.label}, {side} x {side} pixels", parts))


def _priced(found: FoundNetwork, side: int) -> dict[str, Any]:
    from nas.cost.formula import cost as formula

    exact = formula(found.architecture, side)
    return {"network": found.label, "family": found.architecture.family, "input": side, **asdict(exact)}


_PRINTED = (
    "GFLOPs and top-1 (percent) are the figures in print, read in a table or recalled from the paper; "
    "recipes differ, so compare top-1 within one source only"
)


def _published() -> list[dict[str, Any]]:
    from nas.cost.formula import cost as formula
    from nas.zoo import PUBLISHED

    return [
        {
            "network": network.name,
            "paper": network.paper,
            **asdict(formula(network.architecture, network.input_size)),
            "GFLOPs": network.gflops,
            "top-1": network.top1,
            "source": network.source,
        }
        for network in PUBLISHED.values()
    ]


def _uncounted(operators: Iterable[str]) -> str:
    """fvcore's unsupported operators in words: aten::add_ is add."""
    names = sorted({operator.rpartition("::")[2].rstrip("_") for operator in operators})
    return (
        f"fvcore counts nothing for {', '.join(names)}: they are no convolution or linear layer, "
        "so macs do not depend on them"
    )


@app.command()
def latency(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NETWORK", help="Names of published networks, or files.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Also random networks of this space, file or shipped name.")] = None,
    samples: Annotated[int | None, typer.Option(help="How many random networks. [24]", min=1)] = None,
    input_size: Annotated[int | None, typer.Option(help="Side of the images. [the file's or space's]", min=1)] = None,
    batch_size: Annotated[int, typer.Option(help="Images a pass.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, or auto: bf16 on GPUs that have it.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Samples of each network.")] = 30,
    warmup: Annotated[int, typer.Option(help="Passes of each network before the first sample.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of random networks, order, weights and images.")] = 0,
) -> None:
    """Time networks side by side on this machine; from five on, say how well their costs predict the times.

    \b
    nas latency resnet50 resnext50_32x4d sknet50 resnest50
    nas latency config.json --batch-size 32 --threads 2 --device cpu
    nas latency --space cifar --samples 40 --device cuda --precision bf16
    """
    from nas.cost.formula import cost as formula
    from nas.cost.latency import measure_latency, rank_correlations

    if samples is not None and space is None:
        raise ValueError(f"--samples {samples} counts random networks of a space: give --space")
    networks = {found.label: (found.architecture, side) for found, side in _sized(names or [], input_size)}
    if space is not None:
        networks |= _random_networks(space, 24 if samples is None else samples, seed, input_size)
    if not networks:
        raise ValueError("nothing to time: name published networks or config.json files, or give --space")
    found = measure_latency(
        networks,
        batch_size=batch_size,
        threads=threads,
        precision=cast("Precision", precision),  # measure_latency refuses any other
        device=device,
        repeats=repeats,
        warmup=warmup,
        seed=seed,
    )
    costs = [formula(arch, side) for arch, side in networks.values()]
    screen = terminal.console()
    screen.print(terminal.latency_table(costs, found))
    screen.print(terminal.latency_terms(found[0]), highlight=False)
    if len(found) >= 5:
        screen.print(terminal.correlation_table(rank_correlations(costs, found, seed=seed)))


def _sized(sources: Sequence[str], input_size: int | None) -> list[tuple[FoundNetwork, int]]:
    """The networks of names and files with the side of their images, `input_size` before a network's own."""
    from nas.export.config import find_network

    sized = []
    for source in sources:
        found = find_network(source)
        side = input_size or found.input_size
        if side is None:
            raise ValueError(f"{source} names no input_size: give --input-size")
        sized.append((found, side))
    return sized


def _random_networks(
    source: str, samples: int, seed: int, input_size: int | None
) -> dict[str, tuple[Architecture, int]]:
    from nas.space import SearchSpace

    found = SearchSpace.load(source)
    side = input_size or found.input_size
    return {arch.key: (arch, side) for arch in found.sample_different(samples, random.Random(seed))}


@app.command()
def front(
    run: Study,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    knee: Knee = False,
) -> None:
    """Print the Pareto front of a search, or pick from it.

    \b
    nas front results/digits
    nas front results/digits --max-macs 500k
    nas front results/digits --knee
    """
    from nas.export.pick import objectives_of, pick, under

    found = run_at(run)
    objectives = objectives_of(found)
    rows = under(found.front(objectives), _caps(max_macs, max_params))
    if knee:
        rows = rows[rows["trial"] == pick(rows, objectives, knee=True)]
    terminal.console().print(terminal.front_table(rows, objectives))


@app.command()
def report(run: Study) -> None:
    """Write report.html again from the recorded trials.

    \b
    nas report results/digits
    """
    from nas.report import write_report

    print(write_report(run_at(run)))


@app.command()
def export(
    run: Study,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    knee: Knee = False,
    trial: Annotated[int | None, typer.Option(help="The network of this trial.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into. [RUN/best/KEY]")] = None,
) -> None:
    """Write the picked network's config.json: by default the most accurate of the front.

    \b
    nas export results/digits --knee
    nas export results/digits --max-macs 500k --out my_network
    nas export results/digits --trial 7
    """
    from nas.export.config import write_config
    from nas.export.pick import objectives_of, pick, require_complete, under

    found = run_at(run)
    objectives = objectives_of(found)
    if trial is not None:
        if knee or max_macs or max_params:
            raise ValueError("--trial picks one network: it cannot stand beside --knee, --max-macs or --max-params")
        chosen = require_complete(found.trials(), trial)
    else:
        chosen = pick(under(found.front(objectives), _caps(max_macs, max_params)), objectives, knee=knee)
    print(write_config(found, chosen, out))


def run_at(folder: Path) -> Run:
    """The run in a folder. Raises ValueError when there is none."""
    from nas.record import Run

    full = Path(os.path.normpath(folder.absolute()))
    run = Run(full.parent, full.name)
    if not run.exists():
        raise ValueError(f"{folder} holds no search: give a folder with a run.json, as in results/digits")
    return run


def _caps(max_macs: str | None, max_params: str | None) -> dict[str, int]:
    caps = {"macs": max_macs, "params": max_params}
    return {metric: parse_count(cap) for metric, cap in caps.items() if cap is not None}
