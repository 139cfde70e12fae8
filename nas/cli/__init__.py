"""The command line: one module for each group of verbs, which are plain functions; here they become `nas`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from nas import __version__
from nas.cli import data
from nas.cli.exports import evaluate, export, retrain
from nas.cli.networks import cost, latency
from nas.cli.runs import front, repeat, report
from nas.cli.searches import search
from nas.cli.spaces import space

VERBS: tuple[Callable[..., None], ...] = (
    search,
    space,
    cost,
    latency,
    front,
    report,
    repeat,
    export,
    evaluate,
    retrain,
)

app = typer.Typer(
    name="nas",
    help="Accuracy-cost Pareto fronts of ResNet, ResNeXt, SE-Net, SK-Net and ResNeSt on your images.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


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


for verb in VERBS:
    app.command()(verb)
app.add_typer(data.app)
