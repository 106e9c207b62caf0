"""BatchNorm over rows with the ReLU behind it and a residual before that, in two passes either way, compiled.

Sums over rows are float64 or of a few float32 values, always in one order. Formulas: Ioffe and Szegedy, "Batch
Normalization", ICML 2015.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.team import take_ticket

TILE_ROWS = 256
"""Rows that a thread takes at a time."""

_ZERO = np.float32(0)


def tiles_of(num: int) -> int:
    """Returns how many tiles `num` rows are."""
    return -(-num // TILE_ROWS)


def in_order(partial: np.ndarray) -> np.ndarray:
    """Returns the sum of the tiles' sums, float64 `[2, columns]`, always in their order."""
    total: np.ndarray = partial.sum(axis=0)
    return total


@njit(cache=True, nogil=True)
def sum_moments(counter, num, x, partial):
    """Computes the sums and the sums of squares of every column over each tile of rows.

    x: float32 `[num, columns or more]`; partial: float64 `[tiles, 2, columns]`
    """
    while True:
        tile = take_ticket(counter.ctypes.data)
        if tile >= partial.shape[0]:
            return
        sums, squares = partial[tile, 0], partial[tile, 1]
        sums[:], squares[:] = 0, 0
        first, stop = tile * TILE_ROWS, min(num, (tile + 1) * TILE_ROWS)
        quads = first + (stop - first) // 4 * 4
        for i in range(first, quads, 4):
            for c in range(sums.shape[0]):
                p, q = np.float64(x[i, c]), np.float64(x[i + 1, c])
                r, s = np.float64(x[i + 2, c]), np.float64(x[i + 3, c])
                sums[c] += (p + q) + (r + s)
                squares[c] += (p * p + q * q) + (r * r + s * s)
        for i in range(quads, stop):
            for c in range(sums.shape[0]):
                p = np.float64(x[i, c])
                sums[c] += p
                squares[c] += p * p


@njit(cache=True, nogil=True)
def apply_norm(counter, x, residual, relu, scale, shift, mean, out):
    """Computes tiles of `act((x - mean) * scale + shift + residual)`.

    x: float32 `[n, columns or more]`; residual: the same, or `[0, 0]`; scale, shift, mean: float32 `[columns]`
    out: float32 `[n, columns]`
    """
    columns = out.shape[1]
    while True:
        first = take_ticket(counter.ctypes.data) * TILE_ROWS
        if first >= out.shape[0]:
            return
        for i in range(first, min(out.shape[0], first + TILE_ROWS)):
            # What is no number passes, as in torch's ReLU.
            if residual.shape[0] > 0 and relu:
                for c in range(columns):
                    y = (x[i, c] - mean[c]) * scale[c] + shift[c] + residual[i, c]
                    out[i, c] = _ZERO if y <= 0 else y
            elif residual.shape[0] > 0:
                for c in range(columns):
                    out[i, c] = (x[i, c] - mean[c]) * scale[c] + shift[c] + residual[i, c]
            elif relu:
                for c in range(columns):
                    y = (x[i, c] - mean[c]) * scale[c] + shift[c]
                    out[i, c] = _ZERO if y <= 0 else y
            else:
                for c in range(columns):
                    out[i, c] = (x[i, c] - mean[c]) * scale[c] + shift[c]


@njit(cache=True, nogil=True)
def mask_gradients(counter, grad, result, out):
    """Computes tiles of the gradients before the ReLU from those behind it, `[n, columns or more]`, and its result.

    result: float32 `[n, columns]`; out: the same
    """
    while True:
        first = take_ticket(counter.ctypes.data) * TILE_ROWS
        if first >= out.shape[0]:
            return
        for i in range(first, min(out.shape[0], first + TILE_ROWS)):
            for c in range(out.shape[1]):
                out[i, c] = _ZERO if result[i, c] <= 0 else grad[i, c]


@njit(cache=True, nogil=True)
def sum_gradients(counter, num, x, grad, relu, scale, shift, mean, partial):
    """Sums, over each tile of rows, the gradients before the ReLU and their products with the distance from the mean.

    x, grad: float32 `[num, columns or more]`; relu: the gradient is that behind a ReLU, whose mask is computed again
    scale, shift, mean: float32 `[columns]`; partial: float64 `[tiles, 2, columns]`
    """
    while True:
        tile = take_ticket(counter.ctypes.data)
        if tile >= partial.shape[0]:
            return
        sums, products = partial[tile, 0], partial[tile, 1]
        sums[:], products[:] = 0, 0
        first, stop = tile * TILE_ROWS, min(num, (tile + 1) * TILE_ROWS)
        quads = first + (stop - first) // 4 * 4
        for i in range(first, quads, 4):
            if relu:
                for c in range(sums.shape[0]):
                    a, b, m = scale[c], shift[c], mean[c]
                    p = _ZERO if (x[i, c] - m) * a + b <= 0 else grad[i, c]
                    q = _ZERO if (x[i + 1, c] - m) * a + b <= 0 else grad[i + 1, c]
                    r = _ZERO if (x[i + 2, c] - m) * a + b <= 0 else grad[i + 2, c]
                    s = _ZERO if (x[i + 3, c] - m) * a + b <= 0 else grad[i + 3, c]
                    sums[c] += np.float64((p + q) + (r + s))
                    low, high = p * (x[i, c] - m) + q * (x[i + 1, c] - m), r * (x[i + 2, c] - m) + s * (x[i + 3, c] - m)
                    products[c] += np.float64(low + high)
            else:
                for c in range(sums.shape[0]):
                    m = mean[c]
                    p, q, r, s = grad[i, c], grad[i + 1, c], grad[i + 2, c], grad[i + 3, c]
                    sums[c] += np.float64((p + q) + (r + s))
                    low, high = p * (x[i, c] - m) + q * (x[i + 1, c] - m), r * (x[i + 2, c] - m) + s * (x[i + 3, c] - m)
                    products[c] += np.float64(low + high)
        for i in range(quads, stop):
            for c in range(sums.shape[0]):
                p = _ZERO if relu and (x[i, c] - mean[c]) * scale[c] + shift[c] <= 0 else grad[i, c]
                sums[c] += np.float64(p)
                products[c] += np.float64(p * (x[i, c] - mean[c]))


@njit(cache=True, nogil=True)
def input_gradients(counter, x, grad, relu, scale, shift, mean, slope, level, out):
    """Computes tiles of the input's gradient, `scale * gradient before the ReLU + slope * (x - mean) + level`.

    Arguments as in `sum_gradients`. slope, level: float32 `[columns]`; out: float32 `[n, columns]`
    """
    columns = out.shape[1]
    while True:
        first = take_ticket(counter.ctypes.data) * TILE_ROWS
        if first >= out.shape[0]:
            return
        for i in range(first, min(out.shape[0], first + TILE_ROWS)):
            if relu:
                for c in range(columns):
                    p = _ZERO if (x[i, c] - mean[c]) * scale[c] + shift[c] <= 0 else grad[i, c]
                    out[i, c] = scale[c] * p + (slope[c] * (x[i, c] - mean[c]) + level[c])
            else:
                for c in range(columns):
                    out[i, c] = scale[c] * grad[i, c] + (slope[c] * (x[i, c] - mean[c]) + level[c])
