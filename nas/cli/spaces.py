"""`nas space`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas import terminal
from nas.cli.options import MaxMacs, MaxParams, SpaceSource, caps_of
from nas.units import format_count, format_seconds

if TYPE_CHECKING:
    from nas.cost.landscape import Landscape


def space(
    source: SpaceSource,
    max_macs: MaxMacs = None,
    max_params: MaxParams = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn.", min=0)] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the picture as a page, too.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Forecast the hours of so many trainings, from a few timed steps.", min=1)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of each training of the forecast.", min=1)] = 3,
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
    caps = found.capped(caps_of(max_macs, max_params))
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
        forecast = _forecast(landscape, caps, trials, epochs, images, data, device, seed)
        screen.print(forecast, highlight=False, soft_wrap=True)


def _forecast(
    landscape: Landscape,
    caps: Mapping[str, int],
    trials: int,
    epochs: int,
    images: int | None,
    data: str,
    device: str,
    seed: int,
) -> str:
    from nas.data import load
    from nas.executors.forecast import NETWORKS, forecast

    input_size = landscape.space.input_size
    count = images or len(load(data, image_size=input_size).train)
    networks = landscape.sample_within(caps, NETWORKS, seed)
    found = forecast(networks, input_size=input_size, images=count, epochs=epochs, trials=trials, device=device)
    mean, low, high = (format_seconds(seconds) for seconds in (found.seconds, found.low_seconds, found.high_seconds))
    slow, fast = min(found.images_per_s), max(found.images_per_s)
    return (
        f"{trials} trainings of {epochs} epochs of {count:,} images: about {mean} on {found.device} ({low} to {high}), "
        f"one at a time, all in full (halving trains less), evaluations left out; {len(networks)} networks timed, "
        f"{slow:,.0f} to {fast:,.0f} images/s"
    )
