"""The picture of the search: accuracy against each cost, with the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nas import pareto
from nas.arch import GENES
from nas.cost.latency_model import Measured
from nas.report.recorded import Recorded
from nas.report.style import (
    ACCENT,
    GREY,
    INK,
    LABELS,
    QUIET,
    amount,
    count,
    escaped,
    family_style,
    finish,
    log_axis,
    milliseconds,
    percent,
    seconds,
    words,
)

NOTHING = "No trial has finished yet, so there is no front to draw."
AXES = {"latency": "latency in ms"}
"""Titles of axes that are more than the cost's name."""


@dataclass(frozen=True)
class Point:
    """One trained network; accuracy in percent, costs as counts, latency as predicted; hover is escaped for plotly.

    measured: how long it took, where it was timed on the front and latency is an objective. others: accuracies with
    other seeds, in percent.
    """

    trial: int
    accuracy: float
    costs: dict[str, float]
    family: str
    on_front: bool
    hover: str
    measured: Measured | None = None
    others: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Accuracy against one cost: `stairs` are the (cost, percent) corners of the best accuracy up to each cost."""

    cost: str
    stairs: tuple[tuple[float, float], ...]
    cap: float | None


@dataclass(frozen=True)
class FrontInfo:
    """points: networks trained in full; stopped: those that stopped at a rung, with their accuracies there.

    references: trials of the papers' networks that the search was given.
    """

    points: tuple[Point, ...]
    stopped: tuple[Point, ...]
    references: frozenset[int]
    panels: tuple[Panel, ...]
    knee: int | None
    message: str
    caption: str


def info(recorded: Recorded) -> FrontInfo:
    """What will be drawn: networks trained in full, those stopped at a rung (failed and running ones are not), and a
    panel for each cost objective."""
    complete = recorded.complete
    on_front = set(recorded.front["trial"])
    points = tuple(_point(row, recorded, on_front=row["trial"] in on_front) for row in complete.to_dict("records"))
    stopped = tuple(_point(row, recorded, on_front=False) for row in recorded.stopped.to_dict("records"))
    panels = tuple(Panel(cost, _stairs(points, cost), recorded.caps.get(cost)) for cost in recorded.costs)
    given = frozenset(complete.loc[complete["reference"] != "", "trial"].tolist())
    message = "" if points else NOTHING
    return FrontInfo(points, stopped, given, panels, recorded.knee, message, _caption(recorded, len(on_front)))


def _point(row: dict[Any, Any], recorded: Recorded, *, on_front: bool) -> Point:
    times = recorded.front_times
    measured = times.networks.get(str(row["key"])) if times is not None and on_front else None
    return Point(
        trial=int(row["trial"]),
        accuracy=100 * float(row["accuracy"]),
        costs={cost: float(row[cost]) for cost in recorded.costs},
        family=str(row["family"]),
        on_front=on_front,
        hover=_hover(row, measured, recorded.others.get(int(row["trial"]), ())),
        measured=measured,
        others=tuple(100 * accuracy for accuracy in recorded.others.get(int(row["trial"]), ())),
    )


def _hover(row: dict[Any, Any], measured: Measured | None, others: Sequence[float]) -> str:
    lines = [f"<b>trial {row['trial']}</b> · {escaped(row['family'])} ({escaped(row['mechanisms'])})"]
    lines.append(f"accuracy {amount('accuracy', row['accuracy'])} · trained {seconds(row['seconds'])}")
    if others:
        lines.append(f"with other seeds {', '.join(map(percent, others))}")
    lines.append(" · ".join(f"{LABELS[name]} {count(row[name])}" for name in pareto.COSTS))
    if row["latency"] == row["latency"]:
        lines.append(f"latency predicted {milliseconds(row['latency'])}")
    if measured is not None:
        interval = f"{milliseconds(measured.low_ms)} to {milliseconds(measured.high_ms)}"
        lines.append(f"latency measured {milliseconds(measured.median_ms)} ({interval})")
    lines.extend(f"{gene} {escaped(row[gene])}" for gene in GENES)
    return "<br>".join(lines)


def _stairs(points: tuple[Point, ...], cost: str) -> tuple[tuple[float, float], ...]:
    """The front of accuracy against this one cost, from cheap to dear."""
    losses = [(-point.accuracy, point.costs[cost]) for point in points]
    mask = pareto.non_dominated(losses) if losses else ()
    kept = {(point.costs[cost], point.accuracy) for point, keep in zip(points, mask, strict=True) if keep}
    return tuple(sorted(kept))


def _volume_share(recorded: Recorded, some: pd.DataFrame) -> float:
    """Hypervolume of some networks over that of all trained in full, costs on a log scale."""
    losses = pareto.losses_from(recorded.complete, recorded.objectives, log_costs=True)
    limit = pareto.reference_point(losses)
    own = pareto.losses_from(some, recorded.objectives, log_costs=True)
    return pareto.hypervolume(own, limit) / pareto.hypervolume(losses, limit)


def _caption(recorded: Recorded, size: int) -> str:
    complete = recorded.complete
    names = ", ".join(LABELS[name] for name in recorded.objectives)
    text = (
        f"One point for each network trained in full; accuracy is that of the validation split. "
        f"Coloured: the front ({size} of {len(complete)}), networks that no other trial equals in all of "
        f"{names} and beats in one. Grey: dominated. Line: the best accuracy up to each cost. Ring: the knee. Failed "
        f"trials are not drawn. Point at a network for its genes."
    )
    given = complete[complete["reference"] != ""]
    if len(given):
        text += (
            f" Outlined: networks of the papers ({', '.join(dict.fromkeys(given['reference']))}), scaled to the space "
            f"and trained by the same recipe; their front has {100 * _volume_share(recorded, given):.0f} % of the "
            f"hypervolume of the search's."
        )
    noise = recorded.seed_noise
    if noise is not None:
        text += f" Dashes: {noise}."
    if len(recorded.stopped):
        text += (
            f" {len(recorded.stopped)} networks stopped early, with accuracies of shorter trainings that do not "
            f"compare: a click on their name shows them."
        )
    if len(recorded.costs) > 1:
        text += (
            " The front belongs to all objectives together, so some of its networks lie below a single panel's line."
        )
    return text + _on_latency(recorded)


def _on_latency(recorded: Recorded) -> str:
    """What a latency in the picture is worth, where it is an objective."""
    if recorded.latency is None:
        return ""
    text = f" Latency is predicted, from {recorded.latency}."
    times = recorded.front_times
    if times is None:
        return f"{text} The front's networks have not been timed yet."
    return (
        f"{text} Open circles with bars: the front's networks as measured afterwards on {times.conditions}, medians "
        f"with {100 * times.coverage:.1f} % intervals."
    )


def figure(info: FrontInfo) -> go.Figure:
    """Log cost axes, accuracy in percent, dashed caps; words if no trial has finished."""
    if info.message:
        return words(info.message)
    columns = len(info.panels)
    drawn = make_subplots(rows=1, cols=columns, shared_yaxes=True, horizontal_spacing=0.04)
    for column, panel in enumerate(info.panels, start=1):
        for trace in _traces(info, panel, legend=column == 1):
            drawn.add_trace(trace, row=1, col=column)
        _add_axis(drawn, info, panel, column)
    drawn.update_yaxes(title_text="validation accuracy (%)", col=1)
    return finish(drawn, height=500)


def _traces(info: FrontInfo, panel: Panel, *, legend: bool) -> list[go.Scatter]:
    dominated = [point for point in info.points if not point.on_front]
    front = [point for point in info.points if point.on_front]
    families = sorted({point.family for point in front}, key=str.lower)
    traces = [_stairs_trace(info, panel)]
    if dominated:
        traces.append(_markers(dominated, panel.cost, "dominated", {"color": GREY, "size": 7}, legend))
    for family in families:
        colour, symbol = family_style(family)
        marker = {"color": colour, "symbol": symbol, "size": 11, "line": {"color": "white", "width": 1}}
        own = [point for point in front if point.family == family]
        traces.append(_markers(own, panel.cost, escaped(family), marker, legend))
    if info.stopped:
        hollow = {"color": QUIET, "symbol": "circle-open", "size": 6}
        traces.append(_markers(list(info.stopped), panel.cost, "stopped early", hollow, legend))
        traces[-1].visible = "legendonly"
    given = [point for point in info.points if point.trial in info.references]
    if given:
        symbols = [f"{family_style(point.family)[1]}-open" for point in given]
        marker = {"color": INK, "symbol": symbols, "size": 14, "line": {"color": INK, "width": 1.5}}
        traces.append(_markers(given, panel.cost, "the papers' networks", marker, legend, hover=False))
    knee = [point for point in info.points if point.trial == info.knee]
    ring = {"color": "rgba(0,0,0,0)", "size": 19, "line": {"color": ACCENT, "width": 2}}
    traces.append(_markers(knee, panel.cost, "knee", ring, legend, hover=False))
    traces += _other_seeds(info, panel.cost, legend)
    return [*traces, *_measured_traces(front)] if panel.cost == "latency" else traces


def _other_seeds(info: FrontInfo, cost: str, legend: bool) -> list[go.Scatter]:
    """The accuracies of the same networks trained with other seeds, above and below their markers."""
    pairs = [(point, accuracy) for point in info.points for accuracy in point.others]
    if not pairs:
        return []
    return [
        go.Scatter(
            x=[point.costs[cost] for point, _ in pairs],
            y=[accuracy for _, accuracy in pairs],
            mode="markers",
            marker={"color": INK, "symbol": "line-ew-open", "size": 10},
            name="other seeds",
            legendgroup="other seeds",
            showlegend=legend,
            hovertext=[point.hover for point, _ in pairs],
            hoverinfo="text",
        )
    ]


def _measured_traces(front: list[Point]) -> list[go.Scatter]:
    """The latencies of the front as measured, with their intervals; none before it was timed."""
    pairs = [(point, point.measured) for point in front if point.measured is not None]
    if not pairs:
        return []
    return [
        go.Scatter(
            x=[measured.median_ms for _, measured in pairs],
            y=[point.accuracy for point, _ in pairs],
            error_x={
                "type": "data",
                "array": [measured.high_ms - measured.median_ms for _, measured in pairs],
                "arrayminus": [measured.median_ms - measured.low_ms for _, measured in pairs],
                "color": INK,
                "thickness": 1,
            },
            mode="markers",
            marker={"color": INK, "symbol": "circle-open", "size": 7},
            name="measured",
            hovertext=[point.hover for point, _ in pairs],
            hoverinfo="text",
        )
    ]


def _stairs_trace(info: FrontInfo, panel: Panel) -> go.Scatter:
    """Steps at the front's corners, carried on to the dearest trial: more cost bought no more accuracy."""
    last = max(point.costs[panel.cost] for point in info.points)
    corners = [*panel.stairs, (last, panel.stairs[-1][1])]
    return go.Scatter(
        x=[cost for cost, _ in corners],
        y=[accuracy for _, accuracy in corners],
        mode="lines",
        line={"shape": "hv", "color": ACCENT, "width": 1.5},
        name="front",
        showlegend=False,
        hoverinfo="skip",
    )


def _markers(
    points: list[Point], cost: str, name: str, marker: dict[str, Any], legend: bool, *, hover: bool = True
) -> go.Scatter:
    return go.Scatter(
        x=[point.costs[cost] for point in points],
        y=[point.accuracy for point in points],
        mode="markers",
        marker=marker,
        name=name,
        legendgroup=name,
        showlegend=legend,
        hovertext=[point.hover for point in points],
        hoverinfo="text" if hover else "skip",
    )


def _add_axis(drawn: go.Figure, info: FrontInfo, panel: Panel, column: int) -> None:
    label = AXES.get(panel.cost, LABELS[panel.cost])
    ends = [point.costs[panel.cost] for point in (*info.points, *info.stopped)] + ([panel.cap] if panel.cap else [])
    if panel.cost == "latency":
        ends += [end for point in info.points if (one := point.measured) for end in (one.low_ms, one.high_ms)]
    drawn.update_xaxes(title_text=f"{label} (log scale)", row=1, col=column, **log_axis(ends))
    if panel.cap:
        axis = "" if column == 1 else str(column)
        drawn.add_shape(
            type="line",
            x0=panel.cap,
            x1=panel.cap,
            y0=0,
            y1=1,
            xref=f"x{axis}",
            yref=f"y{axis} domain",
            line={"color": INK, "width": 1.2, "dash": "dash"},
        )
        # On a log axis plotly takes the place of a shape in counts, but that of an annotation in powers of ten.
        drawn.add_annotation(
            text=f"cap {count(panel.cap)}",
            x=log10(panel.cap),
            y=0.0,
            xref=f"x{axis}",
            yref=f"y{axis} domain",
            xanchor="right",
            yanchor="bottom",
            textangle=-90,
            showarrow=False,
            font={"color": QUIET, "size": 13},
        )
