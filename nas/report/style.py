"""One look for all pictures: colours, numbers with units, and text that plotly cannot mistake for markup."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from nas.units import format_seconds

ACCENT = "#0b5cad"
INK = "#1d2733"
QUIET = "#5b6775"
GREY = "#b9c1ca"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"

FAMILIES: dict[str, tuple[str, str]] = {
    "ResNet": ("#3d9bd9", "circle"),
    "ResNeXt": ("#1f4e8c", "square"),
    "SE-Net": ("#d98c00", "diamond"),
    "SK-Net": ("#00875f", "triangle-up"),
    "ResNeSt": ("#c8451b", "triangle-down"),
    "hybrid": ("#b0559a", "star"),
    "mixed": ("#5d5d6b", "cross"),
}
"""Family -> (colour, marker): told apart without colours as well (after Okabe and Ito's palette)."""

# Plotly's tool bar offers by default to upload the chart: a report sends nothing anywhere.
PLOTLY: dict[str, Any] = {
    "displayModeBar": "hover",
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "responsive": True,
    "showSendToCloud": False,
}

LABELS = {
    "accuracy": "accuracy",
    "macs": "MACs",
    "params": "parameters",
    "activations": "activations",
    "latency": "latency",
}
SPACE = "\u00a0"


def escaped(value: object) -> str:
    """Text for plotly, which draws <b>, <a> and the like: shown as it was written."""
    return html.escape(str(value), quote=False)


def family_style(family: str) -> tuple[str, str]:
    return FAMILIES.get(family, (INK, "circle-open"))


def count(value: float) -> str:
    """A count to three digits, with k, M, G or T: 12345678 is 12.3 M."""
    value = float(f"{value:.3g}")
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{SPACE}{suffix}"
    return f"{value:.3g}"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}{SPACE}%"


def seconds(value: float) -> str:
    """A duration: 4.2 s, 12 min, 3.4 h; a dash if there is none."""
    return format_seconds(value).replace(" ", SPACE)


def milliseconds(value: float) -> str:
    """Four digits, as in 3.214 ms; a dash if there is none."""
    return f"{value:.4g}{SPACE}ms" if math.isfinite(value) else "–"


def amount(name: str, value: float) -> str:
    """The value of an objective with its unit: accuracy in percent, latency in milliseconds, costs as counts."""
    return {"accuracy": percent, "latency": milliseconds}.get(name, count)(value)


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Settings of a plotly log axis around `values`: some air at both ends, ticks at 1, 2, 5, 10, ...

    Powers of ten alone where there are many; plotly's own ticks where fewer than two would be seen.
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    air = 0.05 * (high - low) or 0.2
    first, last = math.floor(low), math.ceil(high)
    digits = (1, 2, 5) if last - first <= 5 else (1,)
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
    seen = [tick for tick in ticks if low - air <= math.log10(tick) <= high + air]
    labels = {"tickvals": seen, "ticktext": [count(tick) for tick in seen]} if len(seen) > 1 else {"tickformat": ".3s"}
    return {"type": "log", "range": [low - air, high + air], **labels}


def finish(figure: go.Figure, height: int = 440) -> go.Figure:
    """The common layout: white, legible, legend above the picture."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 64, "r": 24, "t": 48, "b": 56},
        font={"family": FONT, "size": 14, "color": INK},
        hoverlabel={"font": {"family": FONT, "size": 13}, "align": "left"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        colorway=[ACCENT],
    )
    axis = {
        "title_font": {"size": 14},
        "tickfont": {"size": 13},
        "linecolor": GREY,
        "showline": True,
        "ticks": "outside",
    }
    figure.update_xaxes(**axis, gridcolor="#eceff3")
    figure.update_yaxes(**axis, gridcolor="#eceff3", zeroline=False)
    return figure


def words(message: str) -> go.Figure:
    """A picture that says why there is nothing to draw."""
    figure = finish(go.Figure(), height=160)
    figure.add_annotation(text=escaped(message), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)
