"""The command line: `nas search`, `space`, `cost`, `front`, `report`, `export`."""

from __future__ import annotations

import os
import random
import sys
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas import __version__, terminal
from nas.units import parse_count

if TYPE_CHECKING:
    from nas.export.config import FoundNetwork
    from nas.record import Run
    from nas.search.config import SearchConfig

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
    samples: Annotated[int, typer.Option(help="Networks to price for the range of costs.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
) -> None:
    """Show a space: its genes, its exact size and what its networks cost.

    \b
    nas space cifar
    nas space my_space.toml --samples 10000
    """
    from nas.cost.formula import cost
    from nas.space import SearchSpace

    found = SearchSpace.load(source)
    size = found.size()
    rng = random.Random(seed)
    whole = size <= samples
    networks: Iterator[Any] = iter(found) if whole else (found.sample(rng) for _ in range(samples))
    costs = [cost(arch, found.input_size) for arch in islice(networks, samples)]
    screen = terminal.console()
    screen.print(f"{found.name}: {found.description}", highlight=False)
    screen.print(f"{size:,} different networks, input {found.in_channels}x{found.input_size}x{found.input_size}")
    genes = [{"gene": gene.name, "options": ", ".join(map(str, gene.options))} for gene in found.genes]
    screen.print(terminal.table("Genes", genes, ["gene", "options"]))
    screen.print(
        terminal.cost_range(costs, found.caps, "all networks" if whole else f"{samples} random walks, seed {seed}")
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
    from nas.export.config import find_network

    screen = terminal.console()
    if listed:
        if networks:
            raise ValueError(f"--list shows all published networks: it cannot stand beside {networks[0]!r}")
        screen.print(terminal.cost_table("Published networks, 224 x 224 pixels", _published()))
        screen.print(_PRINTED, highlight=False)
        return
    if not networks:
        raise ValueError("name a published network or a config.json: `nas cost --list` shows the names")
    sized = []
    for source in networks:
        found = find_network(source)
        side = input_size or found.input_size
        if side is None:
            raise ValueError(f"{source} names no input_size: give --input-size")
        sized.append((found, side))
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
