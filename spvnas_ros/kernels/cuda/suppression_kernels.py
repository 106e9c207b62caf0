"""Triton kernels by which the better of boxes that overlap, seen from above, displaces the others.

All is computed in double precision, as in `boxes.overlap`.
"""
# No `from __future__ import annotations` here: Triton's interpreter needs the annotations as objects.

import triton
import triton.language as tl


@triton.jit
def _between(value, low, high):
    return tl.minimum(tl.maximum(value, low), high)


@triton.jit
def _edge(x, y, next_x, next_y, half_x, half_y):
    """Returns the integral of x dy, with x held to the rectangle's width, along the part of an edge in its height."""
    rise = next_y - y
    divisor = tl.where(rise == 0, 1.0, rise)
    low = _between(y, -half_y, half_y)
    high = _between(next_y, -half_y, half_y)
    start = x + _between((low - y) / divisor, 0.0, 1.0) * (next_x - x)
    end = x + _between((high - y) / divisor, 0.0, 1.0) * (next_x - x)
    run = end - start
    divisor = tl.where(run == 0, 1.0, run)
    one = (-half_x - start) / divisor
    other = (half_x - start) / divisor
    enters = _between(tl.minimum(one, other), 0.0, 1.0)
    leaves = _between(tl.maximum(one, other), 0.0, 1.0)
    before = enters * _between(start, -half_x, half_x)
    inside = (leaves - enters) * _between(start + run * (enters + leaves) / 2, -half_x, half_x)
    after = (1 - leaves) * _between(end, -half_x, half_x)
    return (before + inside + after) * (high - low)


@triton.jit
def _shared(cos_a, sin_a, a_length, a_width, cos_b, sin_b, b_length, b_width, dx, dy):
    """Returns the area that rectangles share.

    One is moved into the frame of the other. By Green's theorem the area is an integral along its edges, of a function
    that is continuous and needs no case for edges that touch or coincide.
    """
    x = cos_a * dx + sin_a * dy
    y = cos_a * dy - sin_a * dx
    cos = cos_a * cos_b + sin_a * sin_b
    sin = cos_a * sin_b - sin_a * cos_b
    # Half of the length and of the width, in the frame of `a`.
    lx = cos * (b_length / 2)
    ly = sin * (b_length / 2)
    wx = -sin * (b_width / 2)
    wy = cos * (b_width / 2)
    half_x = a_length / 2
    half_y = a_width / 2
    area = _edge(x + lx + wx, y + ly + wy, x - lx + wx, y - ly + wy, half_x, half_y)
    area += _edge(x - lx + wx, y - ly + wy, x - lx - wx, y - ly - wy, half_x, half_y)
    area += _edge(x - lx - wx, y - ly - wy, x + lx - wx, y + ly - wy, half_x, half_y)
    area += _edge(x + lx - wx, y + ly - wy, x + lx + wx, y + ly + wy, half_x, half_y)
    # What is left of zero by rounding is no overlap.
    area = tl.where(area > 1e-14 * a_length * a_width, area, 0.0)
    return tl.minimum(area, tl.minimum(a_length * a_width, b_length * b_width))


@triton.jit
def find_overlaps(
    boxes, turns, classes, valid, count, bits, words, MOST: tl.constexpr, PER_CLASS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """Stores which later boxes each box would displace, a bit for each.

    boxes float32 `[N, 7]`, the best first; turns float64 `[N, 2]`: cosine and sine of their yaw
    classes int64 `[N]`; valid int32 `[N]`; count int32 `[1]`: boxes to look at
    bits int32 `[N, words]`: bit j % 32 of word j // 32 is box j; words before a box's own, and from those of `count`
          on, are not written
    MOST: the intersection over union from which on a box is displaced
    PER_CLASS: boxes of different classes do not see each other
    """
    number = tl.load(count)
    if tl.program_id(0) * ROWS >= number:
        return
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, 32)
    live = i < number
    a = boxes + 7 * i
    a_x = tl.load(a, mask=live, other=0.0).to(tl.float64)[:, None]
    a_y = tl.load(a + 1, mask=live, other=0.0).to(tl.float64)[:, None]
    a_length = tl.load(a + 3, mask=live, other=0.0).to(tl.float64)[:, None]
    a_width = tl.load(a + 4, mask=live, other=0.0).to(tl.float64)[:, None]
    cos_a = tl.load(turns + 2 * i, mask=live, other=1.0)[:, None]
    sin_a = tl.load(turns + 2 * i + 1, mask=live, other=0.0)[:, None]
    a_valid = tl.load(valid + i, mask=live, other=0)
    a_class = tl.load(classes + i, mask=live, other=-1)
    a_reach = tl.sqrt(a_length * a_length + a_width * a_width)
    for word in range(tl.program_id(0) * ROWS // 32, (number + 31) // 32):
        j = word * 32 + lane
        there = j < number
        b = boxes + 7 * j
        b_x = tl.load(b, mask=there, other=0.0).to(tl.float64)[None, :]
        b_y = tl.load(b + 1, mask=there, other=0.0).to(tl.float64)[None, :]
        b_length = tl.load(b + 3, mask=there, other=0.0).to(tl.float64)[None, :]
        b_width = tl.load(b + 4, mask=there, other=0.0).to(tl.float64)[None, :]
        cos_b = tl.load(turns + 2 * j, mask=there, other=1.0)[None, :]
        sin_b = tl.load(turns + 2 * j + 1, mask=there, other=0.0)[None, :]
        b_valid = tl.load(valid + j, mask=there, other=0)
        dx = b_x - a_x
        dy = b_y - a_y
        reach = a_reach + tl.sqrt(b_length * b_length + b_width * b_width)
        near = 4.0 * (dx * dx + dy * dy) <= reach * reach * (1.0 + 1e-12)
        near = near & (j[None, :] > i[:, None]) & (a_valid[:, None] > 0) & (b_valid[None, :] > 0)
        if PER_CLASS:
            near = near & (tl.load(classes + j, mask=there, other=-2)[None, :] == a_class[:, None])
        found = tl.zeros([ROWS], tl.int32)
        if tl.max(tl.max(near.to(tl.int32), axis=1), axis=0) > 0:
            shared = _shared(cos_a, sin_a, a_length, a_width, cos_b, sin_b, b_length, b_width, dx, dy)
            both = a_length * a_width + b_length * b_width - shared
            much = near & (shared > 0) & (shared > MOST * both)
            found = tl.sum(much.to(tl.int32) << lane[None, :], axis=1)
        tl.store(bits + i * words + word, found, mask=live)


@triton.jit
def suppress(bits, valid, count, kept, number, words, MOST: tl.constexpr, WIDTH: tl.constexpr):
    """Goes through boxes, the best first, and keeps those that no kept one displaces. One program does it.

    bits int32 `[N, words]`: of `find_overlaps`; valid int32 `[N]`; count int32 `[1]`: boxes to look at
    kept int32 `[MOST]`: written, the boxes that stay, the best first; number int32 `[1]`: written, how many, MOST at
          the most
    WIDTH: `words`, or the next power of two
    """
    boxes = tl.load(count)
    lane = tl.arange(0, 32)
    w = tl.arange(0, WIDTH)
    blocks = (boxes + 31) // 32
    displaced = tl.zeros([WIDTH], tl.int32)
    total = 0
    for block in range(blocks):
        i = block * 32 + lane
        there = tl.load(valid + i, mask=i < boxes, other=0)
        gone = tl.sum(tl.where(w == block, displaced, 0), axis=0) | ~tl.sum(there << lane, axis=0)
        # The 32 boxes of a block one after the other; their loads do not depend on what is decided.
        for r in tl.static_range(32):
            later = tl.load(bits + (block * 32 + r) * words + block)
            gone = gone | tl.where(((gone >> r) & 1) == 0, later, 0)
        stays = ((gone >> lane) & 1) == 0
        after = (w > block) & (w < blocks)
        for r in tl.static_range(32):
            row = tl.load(bits + (block * 32 + r) * words + w, mask=after, other=0)
            displaced = displaced | tl.where(((gone >> r) & 1) == 0, row, 0)
        place = total + tl.cumsum(stays.to(tl.int32), axis=0) - stays.to(tl.int32)
        tl.store(kept + place, i, mask=stays & (place < MOST))
        total += tl.sum(stays.to(tl.int32), axis=0)
    tl.store(number, tl.minimum(total, MOST))
