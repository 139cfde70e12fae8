"""Batch norm, sum and ReLU over maps of bfloat16 in as few passes over the memory as there can be; compiled by numba.

torch runs them one after another, each at the rate of the memory: they are more than half of a step of a network whose
convolutions AMX computes. Shapes in names: N pixels of all images, C channels (or some pixels' channels side by side).
bfloat16 stands as its bits, int16; sums are of float32 within blocks of pixels, and of float64 over them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bits = NDArray[np.int16]
Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
Line = tuple[Floats, Floats]
"""scale x + shift, (C) each."""

BLOCK = 256
_compiled = njit(nogil=True, error_model="numpy", fastmath={"nsz", "contract", "reassoc"})
_inlined = njit(inline="always")


@_inlined
def _wide(bits: Any) -> Any:
    """bfloat16 to float32."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@_inlined
def _narrow(value: Any) -> Any:
    """float32 to bfloat16, to the nearest, ties to even."""
    bits = np.float32(value).view(np.uint32)
    return np.int16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@_compiled
def image_sums(x_BPC: Bits) -> Floats:
    """Sums over the pixels P of each image (B, C)."""
    images, pixels, channels = x_BPC.shape
    sums = np.zeros((images, channels), np.float32)
    for b in range(images):
        sum_C = sums[b]
        for p in range(pixels):
            x_C = x_BPC[b, p]
            for c in range(channels):
                sum_C[c] += _wide(x_C[c])
    return sums


@_compiled
def transform(x_NC: Bits, scale_C: Floats, shift_C: Floats, added_NC: Bits | None, relu: bool, y_NC: Bits) -> None:
    """y = scale x + shift [+ added], or the ReLU of it; what is not a number stays so."""
    pixels, channels = x_NC.shape
    for n in range(pixels):
        x_C, y_C = x_NC[n], y_NC[n]
        for c in range(channels):
            y = _wide(x_C[c]) * scale_C[c] + shift_C[c]
            if added_NC is not None:
                y += _wide(added_NC[n, c])
            if relu and y <= 0:
                y = np.float32(0)
            y_C[c] = _narrow(y)


@_compiled
def sums(x_NC: Bits, g_NC: Bits | None, line: Line | None) -> Sums:
    """Sums of g, None for x itself, and of g x (2, C); with a line, g counts where it is above 0."""
    pixels, channels = x_NC.shape
    total = np.zeros((2, channels))
    first = np.empty(channels, np.float32)
    second = np.empty(channels, np.float32)
    for start in range(0, pixels, BLOCK):
        first[:] = 0
        second[:] = 0
        for n in range(start, min(start + BLOCK, pixels)):
            x_C = x_NC[n]
            for c in range(channels):
                x = _wide(x_C[c])
                g = x if g_NC is None else _wide(g_NC[n, c])
                if line is not None and x * line[0][c] + line[1][c] <= 0:
                    g = np.float32(0)
                first[c] += g
                second[c] += g * x
        for c in range(channels):
            total[0, c] += first[c]
            total[1, c] += second[c]
    return total


@_compiled
def gradient(
    x_NC: Bits, g_NC: Bits, scale_C: Floats, slope_C: Floats, offset_C: Floats, line: Line | None, out_NC: Bits
) -> None:
    """out = scale g + slope x + offset; with a line, g counts where it is above 0."""
    pixels, channels = x_NC.shape
    for n in range(pixels):
        x_C, g_C, out_C = x_NC[n], g_NC[n], out_NC[n]
        for c in range(channels):
            x, g = _wide(x_C[c]), _wide(g_C[c])
            if line is not None and x * line[0][c] + line[1][c] <= 0:
                g = np.float32(0)
            out_C[c] = _narrow(scale_C[c] * g + slope_C[c] * x + offset_C[c])
