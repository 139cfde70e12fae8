"""The picture of a space before anything is trained: how its costs are spread and which genes move them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nas.atomic import write_atomic
from nas.cost.landscape import GeneEffect, Survey
from nas.cost.table import COSTS
from nas.report.style import ACCENT, INK, LABELS, PLOTLY, count, escaped, finish, log_axis

BINS = 60


@dataclass(frozen=True)
class Panel:
    """Shares (percent of the networks) between the `edges` of a cost, one edge more than shares."""

    cost: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    cap: int | None


@dataclass(frozen=True)
class LandscapeInfo:
    """effects: the first cost's; title: one line on what is drawn."""

    title: str
    panels: tuple[Panel, ...]
    effects: tuple[GeneEffect, ...]


def info(name: str, survey: Survey, caps: Mapping[str, int], effects: Sequence[GeneEffect]) -> LandscapeInfo:
    """What will be drawn of the space `name`; `effects` are those of MACs."""
    which = "all of them" if survey.exhaustive else f"{len(survey.costs):,} drawn with equal chances"
    title = f"Space {name}: {survey.size:,} networks, {which}"
    panels = [Panel(cost, *survey.histogram(cost, BINS), caps.get(cost)) for cost in COSTS]
    return LandscapeInfo(title, tuple(panels), tuple(effects))


def figure(info: LandscapeInfo) -> go.Figure:
    """A histogram for each cost on a log axis, caps dashed; below, the share of the spread that each gene explains."""
    columns = len(info.panels)
    drawn = make_subplots(
        rows=2,
        cols=columns,
        specs=[[{} for _ in range(columns)], [{"colspan": columns}, *[None] * (columns - 1)]],
        vertical_spacing=0.2,
        row_heights=[0.55, 0.45],
    )
    for column, panel in enumerate(info.panels, start=1):
        _draw_panel(drawn, panel, column)
    effects = [effect for effect in info.effects if effect.share > 0]
    drawn.add_trace(
        go.Bar(
            x=[escaped(effect.gene) for effect in effects],
            y=[100 * effect.share for effect in effects],
            marker={"color": ACCENT},
            hovertext=[_means(effect) for effect in effects],
            hoverinfo="text",
        ),
        row=2,
        col=1,
    )
    drawn.update_yaxes(title_text="share of networks (%)", row=1, col=1)
    drawn.update_yaxes(title_text="of the spread of log MACs (%)", row=2, col=1)
    finish(drawn, height=760)
    return drawn.update_layout(title={"text": escaped(info.title)}, showlegend=False, margin={"t": 72}, bargap=0.1)


def _draw_panel(drawn: go.Figure, panel: Panel, column: int) -> None:
    middles = [(low * high) ** 0.5 for low, high in zip(panel.edges, panel.edges[1:], strict=False)]
    spans = [f"{count(low)} to {count(high)}" for low, high in zip(panel.edges, panel.edges[1:], strict=False)]
    drawn.add_trace(
        go.Scatter(
            x=middles,
            y=panel.shares,
            mode="lines",
            line={"shape": "hvh", "color": ACCENT, "width": 1.5},
            fill="tozeroy",
            hovertext=[f"{span}: {share:.2f} %" for span, share in zip(spans, panel.shares, strict=True)],
            hoverinfo="text",
        ),
        row=1,
        col=column,
    )
    if panel.cap:
        drawn.add_vline(panel.cap, line={"color": INK, "width": 1.2, "dash": "dash"}, row=1, col=column)
    ends = [panel.edges[0], panel.edges[-1], *([panel.cap] if panel.cap else [])]
    drawn.update_xaxes(title_text=f"{LABELS[panel.cost]} (log scale)", row=1, col=column, **log_axis(ends))


def _means(effect: GeneEffect) -> str:
    lines = [f"{escaped(option)}: {count(mean)} MACs" for option, mean in effect.means.items()]
    return "<br>".join([f"<b>{escaped(effect.gene)}</b>, geometric means", *lines])


def write_landscape(
    name: str, survey: Survey, caps: Mapping[str, int], effects: Sequence[GeneEffect], path: Path
) -> Path:
    """Write the picture as one page that needs no network, and return its path."""
    drawn = figure(info(name, survey, caps, effects))
    write_atomic(path, drawn.to_html(include_plotlyjs=True, include_mathjax=False, config=PLOTLY))
    return path
