"""Counts and durations as people write and read them: 300k, 40M, 1.5G; 12 min."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SCALES: dict[str, int] = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGT]?)")


def parse_count(value: str | int) -> int:
    """The whole number of at least 1 that `value` says: 40M is 40,000,000; k, M, G, T are powers of 1000.

    Raises ValueError for anything else; a fraction of one is refused, not rounded.
    """
    match = _COUNT.fullmatch(value.strip().replace("_", "")) if isinstance(value, str) else None
    if match is not None:
        count = Decimal(match[1]) * _SCALES[match[2].replace("K", "k")]
    elif isinstance(value, int) and not isinstance(value, bool):
        count = Decimal(value)
    else:
        count = Decimal(0)
    if count < 1 or count != int(count):
        raise ValueError(f"a count must be a whole number of at least 1, as in 40M, 1.5G or 300k, but got {value!r}")
    return int(count)


def format_count(count: int) -> str:
    """Three significant digits with a unit: 999, 1.5k, 40M, 4.09G."""
    if abs(count) < 1000:
        return str(count)
    rounded = float(f"{count:.2e}")  # first, because it decides the unit: 999,999 is 1M, not 1000k
    unit = next(unit for unit in reversed(_SCALES) if abs(rounded) >= _SCALES[unit])
    value = rounded / _SCALES[unit]
    return f"{value:.0f}{unit}" if abs(value) >= 100 else f"{value:.3g}{unit}"


def format_seconds(seconds: float) -> str:
    """A duration to three significant digits: 4.2 s, 12 min, 3.4 h; a dash if it is not finite."""
    if not math.isfinite(seconds):
        return "–"
    for scale, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.3g} s"
