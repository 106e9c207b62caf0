"""Loops behind a box branch: the sum of voxels in the columns of the bird's-eye view, and the best class of anchors."""

from __future__ import annotations

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.team import take_ticket


@njit(cache=True, nogil=True)
def sum_columns(counter, lines_per_tile, cells, base, limits, merged, feats, kernel, bias, seen, out):
    """Sums the features of the voxels in each column, by the kernel row of their place in it, with bias and ReLU.

    cells:  int32 `[n, 3]`, x, y, z of the voxels; what lies outside of `base` and `limits` beyond it stands nowhere
    merged: voxels to a side of a column
    feats:  float32 `[n, Cin or more]`
    kernel: float32 `[volume, Cin, Cout]`, its rows in the order (z, y, x)
    seen:   uint8 `[Y, X]`, to be filled: which columns hold a voxel
    out:    float32 `[Y, X, Cout]`, to be filled; columns without a voxel are zero

    A tile is some lines of the view. Each tile looks at all voxels, in their order, so sums do not depend on threads.
    """
    deep, wide, width = out.shape
    channels = kernel.shape[1]
    while True:
        begin = take_ticket(counter.ctypes.data) * lines_per_tile
        if begin >= deep:
            return
        end = min(deep, begin + lines_per_tile)
        out[begin:end] = 0
        seen[begin:end] = 0
        for i in range(len(cells)):
            y = cells[i, 1] - base[1]
            if y < begin * merged or y >= end * merged or y >= limits[1]:
                continue
            x, z = cells[i, 0] - base[0], cells[i, 2] - base[2]
            if x < 0 or x >= limits[0] or z < 0 or z >= limits[2]:
                continue
            row = (z * merged + y % merged) * merged + x % merged
            column = out[y // merged, x // merged]
            seen[y // merged, x // merged] = 1
            for c in range(channels):
                value = feats[i, c]
                if value != 0:
                    for o in range(width):
                        column[o] += value * kernel[row, c, o]
        for y in range(begin, end):
            for x in range(wide):
                if seen[y, x]:
                    for o in range(width):
                        out[y, x, o] = max(out[y, x, o] + bias[o], np.float32(0))


@njit(cache=True, nogil=True)
def best_classes(counter, rows_per_tile, logits, best):
    """Stores the largest of each row of `logits`, float32 `[A, classes]`, in `best`, float32 `[A]`."""
    while True:
        begin = take_ticket(counter.ctypes.data) * rows_per_tile
        if begin >= len(logits):
            return
        for i in range(begin, min(len(logits), begin + rows_per_tile)):
            top = logits[i, 0]
            for c in range(1, logits.shape[1]):
                top = max(top, logits[i, c])
            best[i] = top
