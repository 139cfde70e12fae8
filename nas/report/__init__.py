"""The report of a search: pictures, tables and one self-contained page, all drawn from recorded rows.

Each picture's file has `info(recorded)`, the numbers that will be drawn, and `figure(info)`, which draws them. Nothing
here needs a live study: `results/<study>/` of last month can be drawn again today.
"""

from __future__ import annotations

import plotly.graph_objects as go

from nas.record import Run
from nas.report import front, hypervolume, importance, losses
from nas.report.landscape import write_landscape
from nas.report.page import render, write_report
from nas.report.recorded import Recorded, read


def front_figure(run: Run) -> go.Figure:
    """Accuracy against each cost objective, with the front, the caps and the knee."""
    return front.figure(front.info(read(run)))


def hypervolume_figure(run: Run) -> go.Figure:
    """Hypervolume of the finished trials, one after another."""
    return hypervolume.figure(hypervolume.info(read(run)))


def importance_figure(run: Run) -> go.Figure:
    """How much each gene decides accuracy and the first cost."""
    return importance.figure(importance.info(read(run)))


def loss_figure(run: Run) -> go.Figure:
    """Training loss of the finished trials by epoch, the front's networks highlighted."""
    return losses.figure(losses.info(read(run)))


__all__ = [
    "Recorded",
    "front_figure",
    "hypervolume_figure",
    "importance_figure",
    "loss_figure",
    "read",
    "render",
    "write_landscape",
    "write_report",
]
