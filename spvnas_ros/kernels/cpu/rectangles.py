"""How much turned rectangles cover each other, in double precision.

One rectangle is moved into the frame of the other, where that one's edges are parallel to the axes, and is cut at its
four sides (Sutherland and Hodgman, 1974). No side is ever compared with another for crossing: touching, coinciding and
degenerate rectangles are no special cases, and a rectangle covers itself to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_CORNERS = 20
"""Room for the corners of a rectangle cut four times. A cut adds one; at the very worst, where rounding makes a flat
rectangle zigzag about the cut, half as many as there are."""


@njit(cache=True, nogil=True)
def _cut(xs, ys, count, out_x, out_y, axis, sign, limit):
    """Keeps the part of a polygon where `sign` times its coordinate on the axis is at most `limit`."""
    kept = 0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        here = sign * (xs[i] if axis == 0 else ys[i])
        there = sign * (xs[j] if axis == 0 else ys[j])
        if here <= limit:
            out_x[kept], out_y[kept] = xs[i], ys[i]
            kept += 1
        if (here < limit < there) or (there < limit < here):
            share = (limit - here) / (there - here)
            # On the cut's axis the limit itself: an interpolated number would be off by its last bit.
            out_x[kept] = sign * limit if axis == 0 else xs[i] + share * (xs[j] - xs[i])
            out_y[kept] = sign * limit if axis == 1 else ys[i] + share * (ys[j] - ys[i])
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _covered(a, b, xs, ys, other_x, other_y):
    """Returns the area that two rectangles share.

    a, b: rows that begin x, y and hold length, width, yaw at 3, 4 and 6; the rest: float64 room for corners
    """
    dx, dy = b[0] - a[0], b[1] - a[1]
    reach = np.sqrt(a[3] * a[3] + a[4] * a[4]) + np.sqrt(b[3] * b[3] + b[4] * b[4])
    if 4.0 * (dx * dx + dy * dy) > reach * reach * (1.0 + 1e-12):
        return 0.0
    cos_a, sin_a = np.cos(a[6]), np.sin(a[6])
    x, y = cos_a * dx + sin_a * dy, cos_a * dy - sin_a * dx
    turn = b[6] - a[6]
    cos, sin = np.cos(turn), np.sin(turn)
    half_l, half_w = b[3] / 2, b[4] / 2
    for i in range(4):
        along = half_l if i == 0 or i == 3 else -half_l
        across = half_w if i < 2 else -half_w
        xs[i] = x + cos * along - sin * across
        ys[i] = y + sin * along + cos * across
    half_x, half_y = a[3] / 2, a[4] / 2
    count = _cut(xs, ys, 4, other_x, other_y, 0, 1.0, half_x)
    count = _cut(other_x, other_y, count, xs, ys, 0, -1.0, half_x)
    count = _cut(xs, ys, count, other_x, other_y, 1, 1.0, half_y)
    count = _cut(other_x, other_y, count, xs, ys, 1, -1.0, half_y)
    double = 0.0
    for i in range(1, count - 1):
        ux, uy = xs[i] - xs[0], ys[i] - ys[0]
        vx, vy = xs[i + 1] - xs[0], ys[i + 1] - ys[0]
        double += ux * vy - uy * vx
    return min(max(double / 2, 0.0), a[3] * a[4], b[3] * b[4])


@njit(cache=True, nogil=True)
def _shared_height(a, b):
    """Returns how much of their heights two boxes share; their z and height stand at 2 and 5."""
    up = b[2] - a[2]
    return max(min(a[5] / 2, up + b[5] / 2) - max(-a[5] / 2, up - b[5] / 2), 0.0)


@njit(cache=True, nogil=True)
def shared_areas(a, b, solid, out):
    """Fills float64 `[N, M]` with what each of `a`, float64 `[N, 7]`, shares with each of `b`, `[M, 7]`.

    solid: 0 for areas seen from above, 1 for volumes
    """
    xs, ys, other_x, other_y = np.empty(_CORNERS), np.empty(_CORNERS), np.empty(_CORNERS), np.empty(_CORNERS)
    for i in range(len(a)):
        for j in range(len(b)):
            height = _shared_height(a[i], b[j]) if solid else 1.0
            out[i, j] = height * _covered(a[i], b[j], xs, ys, other_x, other_y) if height > 0 else 0.0


@njit(cache=True, nogil=True)
def suppress(boxes, groups, threshold, kept):
    """Goes through boxes float64 `[N, 7]`, the best first, and keeps those that no kept one covers too much.

    groups: int64 `[N]`; boxes of different groups do not see each other
    threshold: a box goes when its intersection over union with a kept one is larger
    kept: int64 `[N]`, is filled with the indices; returns how many there are
    """
    xs, ys, other_x, other_y = np.empty(_CORNERS), np.empty(_CORNERS), np.empty(_CORNERS), np.empty(_CORNERS)
    count = 0
    for i in range(len(boxes)):
        free = True
        for k in range(count):
            j = kept[k]
            if groups[i] != groups[j]:
                continue
            shared = _covered(boxes[j], boxes[i], xs, ys, other_x, other_y)
            if shared > 0:
                both = boxes[i, 3] * boxes[i, 4] + boxes[j, 3] * boxes[j, 4] - shared
                if shared > threshold * both:
                    free = False
                    break
        if free:
            kept[count] = i
            count += 1
    return count
