"""The page: one self-contained HTML file that opens from the disk and asks the network for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import nas
from nas.atomic import write_atomic
from nas.record import Run
from nas.report import front, hypervolume, importance, losses, tables
from nas.report.recorded import Recorded, read
from nas.report.style import ACCENT, FONT, GREY, INK, LABELS, PLOTLY, QUIET


@dataclass(frozen=True)
class Picture:
    """A section of the page: a drawing with its caption, or the message that says why there is none."""

    anchor: str
    title: str
    drawing: Markup
    message: str
    caption: str


def write_report(run: Run) -> Path:
    """Write report.html of a run, also of one that is not finished, and return its path.

    Raises ValueError naming the file if the record is missing or damaged.
    """
    write_atomic(run.report_html, render(read(run)))
    return run.report_html


def render(recorded: Recorded) -> str:
    """The HTML text of the page; the same record gives the same text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files("nas.report").joinpath("page.html").read_text(encoding="utf-8"))
    drawn = _pictures(recorded)
    return template.render(
        study=recorded.study,
        objectives=", ".join(LABELS[name] for name in recorded.objectives),
        space=recorded.config.get("space", ""),
        summary=tables.summary(recorded),
        pictures=drawn,
        front=tables.front(recorded),
        settings=tables.settings(recorded),
        environment=tables.environment(recorded),
        ledger=tables.ledger(recorded),
        failures=tables.failures(recorded),
        rungs=tables.rungs(recorded),
        latency=tables.latency(recorded),
        space_text=recorded.space,
        # The script is the library's own text; what it draws is escaped where it is computed.
        plotly=Markup(get_plotlyjs()) if any(picture.drawing for picture in drawn) else "",
        version=nas.__version__,
        colours={"accent": ACCENT, "ink": INK, "quiet": QUIET, "grey": GREY},
        font=Markup(FONT),
    )


def _pictures(recorded: Recorded) -> list[Picture]:
    of_front, of_volume = front.info(recorded), hypervolume.info(recorded)
    of_genes, of_losses = importance.info(recorded), losses.info(recorded)
    return [
        _picture("front", "The front", front.figure(of_front), of_front.message, of_front.caption),
        _picture("hypervolume", "Progress", hypervolume.figure(of_volume), of_volume.message, of_volume.caption),
        _picture("importance", "Which genes decide", importance.figure(of_genes), of_genes.message, of_genes.caption),
        _picture("losses", "Training", losses.figure(of_losses), of_losses.message, of_losses.caption),
    ]


def _picture(anchor: str, title: str, figure: go.Figure, message: str, caption: str) -> Picture:
    if message:
        return Picture(anchor, title, Markup(""), message, "")
    drawing = figure.to_html(
        full_html=False, include_plotlyjs=False, include_mathjax=False, div_id=f"figure-{anchor}", config=PLOTLY
    )
    return Picture(anchor, title, Markup(drawing), "", caption)
