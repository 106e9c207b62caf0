"""The occupied cells of a cloud with the mean of the first points in each, as `sparse.sites.mean_voxels` defines it."""

from __future__ import annotations

import numpy as np
from numba import njit

from spvnas_ros.kernels.cpu.bounded_grid import slot_of


@njit(cache=True, nogil=True)
def mean_cells(points, low, edges, shape, max_points, max_cells):
    """Returns cells int64 `[M, 3]` in the order of their first points, means float32 `[M, C]` and counts int64 `[M]`.

    points: float32 `[N, C]`; low, edges, shape: float32 `[3]`, as float32 arithmetic finds a point's cell
    """
    n, channels = points.shape
    room = min(n, max_cells)
    bits = 4
    while (1 << bits) < 2 * room:
        bits += 1
    table = np.full(1 << bits, -1, np.int32)
    keys, counts = np.empty(room, np.int64), np.zeros(room, np.int64)
    cells, sums = np.empty((room, 3), np.int64), np.zeros((room, channels), np.float32)
    found = 0
    for i in range(n):
        x = np.floor((points[i, 0] - low[0]) / edges[0])
        y = np.floor((points[i, 1] - low[1]) / edges[1])
        z = np.floor((points[i, 2] - low[2]) / edges[2])
        # NaN fails every comparison.
        if not (0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]):
            continue
        key = (np.int64(z) * np.int64(shape[1]) + np.int64(y)) * np.int64(shape[0]) + np.int64(x)
        slot = slot_of(key, bits)
        while table[slot] >= 0 and keys[table[slot]] != key:
            slot = (slot + 1) & (table.shape[0] - 1)
        row = table[slot]
        if row < 0:
            if found == max_cells:
                continue
            row = found
            table[slot], keys[row] = row, key
            cells[row, 0], cells[row, 1], cells[row, 2] = np.int64(x), np.int64(y), np.int64(z)
            found += 1
        if counts[row] < max_points:
            for c in range(channels):
                sums[row, c] += points[i, c]
            counts[row] += 1
    for row in range(found):
        for c in range(channels):
            sums[row, c] /= np.float32(counts[row])
    return cells[:found].copy(), sums[:found].copy(), counts[:found].copy()
