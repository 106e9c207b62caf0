"""Voxel coordinates and their Morton keys.

A key interleaves the bits of x, y and z (x is the highest bit of each triple). The batch index stands in the bits above
them. In key order, the children of a voxel lie side by side, and `key >> 3` is the parent's key. The lowest three bits
are the child's slot, which is also its row in a 2x2x2 kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spvnas_ros.kernels.grid import AXIS_BITS, MAX_EXTENT, KeyRangeError, key_range_error

_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def encode(coords: Tensor) -> Tensor:
    """Returns the Morton keys int64 `[N]` of coords `[N, 4]` (batch, x, y, z), each axis in `[0, 2**18)`."""
    c = coords.long()
    return (c[:, 0] << 3 * AXIS_BITS) | (_spread(c[:, 1]) << 2) | (_spread(c[:, 2]) << 1) | _spread(c[:, 3])


def decode(keys: Tensor) -> Tensor:
    """Returns the coords int64 `[N, 4]` (batch, x, y, z) of Morton keys: the inverse of `encode`."""
    axes = [_compact(keys >> shift) for shift in (2, 1, 0)]
    return torch.stack([keys >> 3 * AXIS_BITS, *axes], dim=1)


def _spread(v: Tensor) -> Tensor:
    """Moves bit i of `v` to bit 3 i."""
    for shift, mask in _SPREAD:
        v = (v | (v << shift)) & mask
    return v


def _compact(v: Tensor) -> Tensor:
    """Moves bit 3 i of `v` to bit i, for the 18 bits of an axis."""
    v = v & (_SPREAD[-1][1] & ((1 << 3 * AXIS_BITS) - 1))
    masks = [mask for _, mask in reversed(_SPREAD[:-1])] + [0x1FFFFF]
    for (shift, _), mask in zip(reversed(_SPREAD), masks, strict=True):
        v = (v | (v >> shift)) & mask
    return v


@dataclass(frozen=True)
class Level:
    """The occupied voxels at one resolution, sorted by key.

    keys:   int64 `[n]`, strictly increasing: `encode(coords - origin)`
    coords: int64 `[n, 4]` (batch, x, y, z) in units of this level's voxel
    origin: int64 `[4]`, the corner from which the keys count
    """

    keys: Tensor
    coords: Tensor
    origin: Tensor

    @classmethod
    def sort(cls, coords: Tensor, origin: Tensor) -> tuple[Level, Tensor]:
        """Returns the level of distinct voxels `[n, 4]`, and the caller's row of each, int64 `[n]`.

        No voxel may lie before `origin`.
        """
        keys, rows = torch.sort(encode(coords - origin))
        return cls.from_keys(keys, origin), rows

    @classmethod
    def from_keys(cls, keys: Tensor, origin: Tensor) -> Level:
        return cls(keys, decode(keys) + origin, origin)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, coords: Tensor) -> Tensor:
        """Returns the rows int64 `[N]` of the voxels at `coords` `[N, 4]` (any integers), -1 where there is none."""
        if not len(self):
            return coords.new_full((len(coords),), -1, dtype=torch.long)
        coords = coords - self.origin
        inside = ((coords[:, 1:] >= 0) & (coords[:, 1:] < MAX_EXTENT)).all(dim=1)
        keys = encode(torch.where(inside[:, None], coords, 0))
        rows = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        return torch.where(inside & (self.keys[rows] == keys), rows, -1)


@dataclass(frozen=True)
class Voxels:
    """The occupied voxels of a cloud.

    coords:  int32 `[M, 4]` (batch, x, y, z) in voxels from the cloud's lower corner, sorted by Morton key
    first:   int64 `[M]`, the first point (in the cloud's order) that fell into each voxel
    inverse: int64 `[N]`, the voxel of each point
    """

    coords: Tensor
    first: Tensor
    inverse: Tensor


def quantize(points: Tensor, voxel_size: float, batch: int = 0) -> Voxels:
    """Returns the voxels of a cloud as the published models see them: `round(xyz / voxel_size)` from the lower corner.

    points: float32 `[N, 3 or more]`, x, y, z in metres first, all finite

    Raises KeyRangeError for a cloud that spans 2**18 voxels or more, or that reaches 2**31 voxels from the origin.
    Reference: `SemanticKITTIInternal.__getitem__` in mit-han-lab/spvnas.
    """
    # The divisor is a tensor: CUDA turns division by a number into multiplication, which rounds differently.
    scaled = torch.round(points[:, :3].float() / torch.tensor(voxel_size, device=points.device))
    if len(scaled) == 0:
        none = torch.zeros(0, dtype=torch.long, device=points.device)
        return Voxels(none.new_zeros((0, 4), dtype=torch.int32), none, none)
    low, high = scaled.amin(0), scaled.amax(0)
    extent = float((high - low).max())
    if not extent < MAX_EXTENT:
        raise key_range_error(extent + 1)
    if float(scaled.abs().max()) >= 2**31:
        raise KeyRangeError(
            f"points lie {float(points[:, :3].abs().max()):.3g} m from the origin, where float32 cannot tell voxels of "
            f"{voxel_size} m apart; move the cloud into the sensor's frame"
        )
    cells = scaled.int() - low.int()
    keys = encode(torch.cat([cells.new_full((len(cells), 1), batch), cells], dim=1))
    sorted_keys, order = torch.sort(keys, stable=True)
    unique, ranks, counts = torch.unique_consecutive(sorted_keys, return_inverse=True, return_counts=True)
    inverse = torch.empty_like(order)
    inverse[order] = ranks
    first = order[torch.cumsum(counts, 0) - counts]
    return Voxels(decode(unique).int(), first, inverse)
