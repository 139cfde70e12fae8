"""How the trials trained: mean training loss by epoch."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from nas.report.recorded import Recorded
from nas.report.style import GREY, amount, escaped, family_style, finish, log_axis, words

NOTHING = "No finished trial has recorded a loss curve."
CAPTION = (
    "Mean training loss (cross-entropy) of each epoch. The front's networks are coloured by family, dominated ones are "
    "grey. A curve that still falls steeply at its end says that more epochs would change the picture."
)


@dataclass(frozen=True)
class Curve:
    """Losses of epochs 1, 2, ...; None where the loss was not finite. hover is escaped for plotly."""

    trial: int
    family: str
    losses: tuple[float | None, ...]
    on_front: bool
    hover: str


@dataclass(frozen=True)
class LossInfo:
    curves: tuple[Curve, ...]
    message: str
    caption: str


def info(recorded: Recorded) -> LossInfo:
    """The curves of the finished trials that have one, dominated ones first, so that the front lies on top."""
    on_front = set(recorded.front["trial"])
    curves = [
        Curve(
            trial=int(row["trial"]),
            family=str(row["family"]),
            losses=tuple(recorded.curves[row["trial"]]),
            on_front=row["trial"] in on_front,
            hover=f"trial {row['trial']} · {escaped(row['family'])} · {amount('accuracy', row['accuracy'])}",
        )
        for row in recorded.complete.to_dict("records")
        if recorded.curves[row["trial"]]
    ]
    ordered = tuple(sorted(curves, key=lambda curve: (curve.on_front, curve.trial)))
    return LossInfo(ordered, "" if ordered else NOTHING, CAPTION if ordered else "")


def figure(info: LossInfo) -> go.Figure:
    """One line for each trial, one legend entry for each family on the front."""
    if info.message:
        return words(info.message)
    drawn = go.Figure()
    shown: set[str] = set()
    for curve in info.curves:
        name = escaped(curve.family) if curve.on_front else "dominated"
        drawn.add_trace(_line(curve, name, legend=name not in shown))
        shown.add(name)
    drawn = finish(drawn, height=400)
    longest = max(len(curve.losses) for curve in info.curves)
    drawn.update_xaxes(title_text="epoch", **({"dtick": 1} if longest <= 20 else {}))
    positive = [loss for curve in info.curves for loss in curve.losses if loss is not None and loss > 0]
    scale = log_axis(positive) if positive else {}
    return drawn.update_yaxes(title_text="mean training loss (log scale)", **scale)


def _line(curve: Curve, name: str, *, legend: bool) -> go.Scatter:
    colour = family_style(curve.family)[0] if curve.on_front else GREY
    return go.Scatter(
        x=list(range(1, len(curve.losses) + 1)),
        y=list(curve.losses),
        mode="lines+markers",
        line={"color": colour, "width": 2.2 if curve.on_front else 1},
        marker={"size": 5 if curve.on_front else 3},
        opacity=1 if curve.on_front else 0.7,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertext=curve.hover,
        hoverinfo="text+y",
    )
