"""Batch norm, gate, sum and ReLU over maps of bfloat16 in as few passes over the memory as can be; by numba.

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
Plane = tuple[Floats, Floats, Floats]
"""scale g + slope x + offset, (C) each."""

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
def transform(x_NC: Bits, line: Line, added_NC: Bits | None, relu: bool, y_NC: Bits) -> None:
    """y = scale x + shift [+ added], or the ReLU of it; what is not a number stays so."""
    pixels, channels = x_NC.shape
    for n in range(pixels):
        x_C, y_C = x_NC[n], y_NC[n]
        for c in range(channels):
            y = _wide(x_C[c]) * line[0][c] + line[1][c]
            if added_NC is not None:
                y += _wide(added_NC[n, c])
            if relu and y <= 0:
                y = np.float32(0)
            y_C[c] = _narrow(y)


@_compiled
def sums(x_NC: Bits, g_NC: Bits | None, line: Line | None, kept: tuple[Bits, Bits] | None) -> Sums:
    """Sums of g, None for x itself, and of g x (2, C); with a line, g counts where it is above 0.

    kept: y and a map of its form; g counts where y is above 0, and what counts is written there.
    """
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
                if kept is not None:
                    if _wide(kept[0][n, c]) <= 0:
                        g = np.float32(0)
                    kept[1][n, c] = _narrow(g)
                first[c] += g
                second[c] += g * x
        for c in range(channels):
            total[0, c] += first[c]
            total[1, c] += second[c]
    return total


@_compiled
def gradient(x_NC: Bits, g_NC: Bits, plane: Plane, line: Line | None, out_NC: Bits) -> None:
    """out = scale g + slope x + offset; with a line, g counts where it is above 0."""
    pixels, channels = x_NC.shape
    for n in range(pixels):
        x_C, g_C, out_C = x_NC[n], g_NC[n], out_NC[n]
        for c in range(channels):
            x, g = _wide(x_C[c]), _wide(g_C[c])
            if line is not None and x * line[0][c] + line[1][c] <= 0:
                g = np.float32(0)
            out_C[c] = _narrow(plane[0][c] * g + plane[1][c] * x + plane[2][c])


@_compiled
def gated(x_BLW: Bits, scale_BC: Floats, added_BLW: Bits, y_BLW: Bits) -> None:
    """y = relu(scale x + added); L lines an image, of W = C or some pixels' channels."""
    images, lines, width = x_BLW.shape
    for b in range(images):
        scale_W = abreast(scale_BC[b], width)
        for n in range(lines):
            x_W, added_W, y_W = x_BLW[b, n], added_BLW[b, n], y_BLW[b, n]
            for w in range(width):
                y = _wide(x_W[w]) * scale_W[w] + _wide(added_W[w])
                if y <= 0:
                    y = np.float32(0)
                y_W[w] = _narrow(y)


@_compiled
def gated_gradient(
    x_BLW: Bits, scale_BC: Floats, y_BLW: Bits, g_BLW: Bits, of_x_BLW: Bits, of_added_BLW: Bits
) -> Floats:
    """The gradients of `gated`, that of the scale returned (B, C); g counts where y is above 0."""
    images, lines, width = x_BLW.shape
    channels = scale_BC.shape[1]
    of_scale_BC = np.zeros((images, channels), np.float32)
    sum_W = np.empty(width, np.float32)
    for b in range(images):
        scale_W = abreast(scale_BC[b], width)
        sum_W[:] = 0
        for n in range(lines):
            x_W, y_W, g_W, of_x_W, of_added_W = (
                x_BLW[b, n],
                y_BLW[b, n],
                g_BLW[b, n],
                of_x_BLW[b, n],
                of_added_BLW[b, n],
            )
            for w in range(width):
                g = _wide(g_W[w])
                if _wide(y_W[w]) <= 0:
                    g = np.float32(0)
                of_added_W[w] = _narrow(g)
                of_x_W[w] = _narrow(scale_W[w] * g)
                sum_W[w] += g * _wide(x_W[w])
        for start in range(0, width, channels):
            for c in range(channels):
                of_scale_BC[b, c] += sum_W[start + c]
    return of_scale_BC


@_compiled
def norm_line(sums_2W: Sums, pixels: int, weight_C: Floats, bias_C: Floats, eps: float) -> tuple[Sums, Line]:
    """BN(x) from the sums of x and its squares, side by side or not: m, 1 / sqrt(v + eps), v (3, C); and its line.

    With m and v the mean and variance of x over its pixels, BN(x) = weight (x - m) / sqrt(v + eps) + bias.
    """
    sums_2C = _over_pixels(sums_2W, len(weight_C))
    seen_3C = np.empty((3, len(weight_C)))
    scale_C, shift_C = np.empty(len(weight_C)), np.empty(len(weight_C))
    for c in range(len(weight_C)):
        mean = sums_2C[0, c] / pixels
        variance = max(sums_2C[1, c] / pixels - mean * mean, 0.0)
        root = 1 / np.sqrt(variance + eps)
        seen_3C[0, c], seen_3C[1, c], seen_3C[2, c] = mean, root, variance
        scale_C[c] = weight_C[c] * root
        shift_C[c] = bias_C[c] - mean * scale_C[c]
    width = sums_2W.shape[1]
    return seen_3C, (abreast(scale_C, width), abreast(shift_C, width))


@_compiled
def norm_plane(sums_2W: Sums, pixels: int, weight_C: Floats, seen_3C: Sums) -> tuple[Floats, Plane]:
    """The gradient of BN(x) from the sums of g and g x: that of weight and bias (2, C); and that of x, as its plane.

    dx = weight / sqrt(v + eps) (g - sum(g) / N - (x - m) / (v + eps) sum(g (x - m)) / N) for N pixels.
    """
    sums_2C = _over_pixels(sums_2W, len(weight_C))
    gradients_2C = np.empty((2, len(weight_C)), np.float32)
    scale_C, slope_C, offset_C = np.empty(len(weight_C)), np.empty(len(weight_C)), np.empty(len(weight_C))
    for c in range(len(weight_C)):
        mean, root = seen_3C[0, c], seen_3C[1, c]
        of_weight = root * (sums_2C[1, c] - mean * sums_2C[0, c])
        gradients_2C[0, c], gradients_2C[1, c] = of_weight, sums_2C[0, c]
        scale_C[c] = weight_C[c] * root
        slope_C[c] = -scale_C[c] * root * of_weight / pixels
        offset_C[c] = -scale_C[c] * sums_2C[0, c] / pixels - slope_C[c] * mean
    width = sums_2W.shape[1]
    return gradients_2C, (abreast(scale_C, width), abreast(slope_C, width), abreast(offset_C, width))


@_compiled
def _over_pixels(sums_2W: Sums, channels: int) -> Sums:
    """Sums of pixels that lie side by side, (2, W) to (2, C)."""
    total = np.zeros((2, channels))
    for start in range(0, sums_2W.shape[1], channels):
        for c in range(channels):
            total[0, c] += sums_2W[0, start + c]
            total[1, c] += sums_2W[1, start + c]
    return total


@_compiled
def abreast(values_C: Sums, width: int) -> Floats:
    """Each channel's value, as often as pixels lie side by side."""
    repeated = np.empty(width, np.float32)
    for start in range(0, width, len(values_C)):
        for c in range(len(values_C)):
            repeated[start + c] = values_C[c]
    return repeated
