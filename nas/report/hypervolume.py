"""Progress of the search: the hypervolume of the finished trials, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from nas import pareto
from nas.report.recorded import Recorded
from nas.report.style import ACCENT, LABELS, amount, finish, words

NOTHING = "No trial has finished yet, so there is no hypervolume to draw."


@dataclass(frozen=True)
class HypervolumeInfo:
    """volumes[i]: hypervolume of the finished trials up to trials[i]; reference: objective -> value in its own unit."""

    trials: tuple[int, ...]
    volumes: tuple[float, ...]
    reference: dict[str, float]
    message: str
    caption: str


def info(recorded: Recorded, reference: Sequence[float] | None = None) -> HypervolumeInfo:
    """reference: the worst values, in the units and order of the objectives; None takes `pareto.reference_point`."""
    complete, names = recorded.complete, recorded.objectives
    if complete.empty:
        return HypervolumeInfo((), (), {}, NOTHING, "")
    losses = pareto.losses_from(complete, names, log_costs=True)
    limit = pareto.reference_point(losses)
    if reference is not None:
        limit = pareto.losses_from([dict(zip(names, reference, strict=True))], names, log_costs=True)[0]
    values = {name: -x if name == "accuracy" else 10**x for name, x in zip(names, limit.tolist(), strict=True)}
    volumes = tuple(pareto.hypervolume_trace(losses, limit).tolist())
    return HypervolumeInfo(tuple(complete["trial"].tolist()), volumes, values, "", _caption(values, reference))


def _caption(values: dict[str, float], given: Sequence[float] | None) -> str:
    point = ", ".join(f"{LABELS[name]} {amount(name, value)}" for name, value in values.items())
    unit = " × ".join("accuracy (0 to 1)" if name == "accuracy" else f"decades of {LABELS[name]}" for name in values)
    source = "as given" if given is not None else "the worst of each plus a tenth of its range"
    return (
        f"Volume between the front and the reference point ({point}: {source}), in {unit}. Its size means little "
        f"by itself: where the line is flat, the search found nothing better. Two runs can be compared only by the "
        f"same reference point."
    )


def figure(info: HypervolumeInfo) -> go.Figure:
    """A step line over the trial numbers; words if no trial has finished."""
    if info.message:
        return words(info.message)
    trace = go.Scatter(
        x=info.trials,
        y=info.volumes,
        mode="lines+markers",
        line={"shape": "hv", "color": ACCENT, "width": 2},
        marker={"size": 5},
        hovertemplate="trial %{x}: %{y:.4f}<extra></extra>",
    )
    drawn = finish(go.Figure(trace), height=360)
    drawn.update_xaxes(title_text="trial")
    return drawn.update_yaxes(title_text="hypervolume", rangemode="tozero")
