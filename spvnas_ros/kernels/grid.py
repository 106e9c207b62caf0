"""The numbering of voxels and kernel rows, which compiled loops and torch operations share.

A Morton key interleaves the bits of x, y and z (x is the highest bit of each triple). The batch index stands in the
bits above them.
"""

from __future__ import annotations

import math

from spvnas_ros.errors import UserError

AXIS_BITS = 18
BATCH_BITS = 9
MAX_EXTENT = 1 << AXIS_BITS
"""The number of voxels that a scan may span along an axis."""

MAX_BATCH = 1 << BATCH_BITS

KERNEL_OFFSETS = tuple((k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1) for k in range(27))
"""Row k of a 3x3x3 kernel multiplies the input voxel at this (x, y, z) offset. x runs fastest."""

CENTRE = 13

CORNERS = tuple((k >> 2 & 1, k >> 1 & 1, k & 1) for k in range(8))
"""Corners of a cell in the order of a 2x2x2 kernel's rows, which is also the order of child slots. z runs fastest."""


class KeyRangeError(UserError):
    """The error for voxels or points that span more than the keys can hold."""


def key_range_error(extent: float, unit: str = "voxels") -> KeyRangeError:
    """Returns the error for a scan that is too large. `extent` is its span along the longest axis."""
    found = f"{extent:.0f}" if math.isfinite(extent) else "more than 1e38"
    return KeyRangeError(
        f"the scan spans {found} {unit} along an axis, at most {MAX_EXTENT} can be keyed; "
        "remove stray points far from the sensor (a range crop) or use larger voxels"
    )
