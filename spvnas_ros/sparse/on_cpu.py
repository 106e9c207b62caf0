"""Sparse convolution and point-voxel exchange for training on the CPU: the loops of `kernels.cpu` under autograd.

The input gradient of a convolution is a convolution over the exchanged pairs with transposed kernel rows, so it runs
through the same tiles. The weight gradient sums outer products of gathered rows. No sum depends on the thread count.
Operands are float32, or bfloat16 where that is asked for and the CPU multiplies it; sums are float32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from spvnas_ros.kernels.cpu import bf16, gradients
from spvnas_ros.kernels.cpu.convolve import SHAPE, UNIT, Pairs, Term, aligned, column_blocks, convolve
from spvnas_ros.kernels.cpu.geometry import SPARE, TILE_ROWS, tile_pairs
from spvnas_ros.kernels.cpu.gradients import Mixture
from spvnas_ros.kernels.cpu.octree import Family, Neighbours, build_octree, cells_of, corner_rows, voxels_of_coords
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.sparse.coords import Level
from spvnas_ros.sparse.kernel_map import Exchange, KernelMap, Levels, build_levels, parent_keys

_FEWEST_PAIRS = 4096
_MOST_SHARES = 64
"""The weight gradient of a kernel row is summed in shares of `_FEWEST_PAIRS` pairs or more. All rows together have
about `_MOST_SHARES` shares."""

_FEWEST_NARROW = 8
"""A convolution of fewer channels stays in float32: it reads coordinates, which 8 bits would move by decimetres."""

_NARROW_ROWS = 512
_EXCHANGE_ROWS = 512
_SITE_ROWS = 512
_NO_ROWS = np.zeros((0, 0), np.float32)
_NO_TERM = Term(_NO_ROWS, 0, np.zeros(0, np.float32))
_NO_IDENTITY = np.zeros(0, np.int32)


def fits(*tensors: Tensor) -> bool:
    """Returns whether the compiled loops can take these tensors: float32 in main memory."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


@functools.cache
def _team_of(threads: int) -> Team:
    return Team(threads)


def team() -> Team:
    """Returns as many threads as torch may use now."""
    return _team_of(torch.get_num_threads())


@dataclass(frozen=True)
class Gather:
    """The computation of one side of a kernel map from the other side.

    mirrored: kernel row k of the map is row K - 1 - k in `pairs`; num_out: rows of the computed side
    """

    pairs: Pairs
    mirrored: bool
    num_out: int

    def run(self, team: Team, feats: Tensor, kernel: Tensor, transposed: bool) -> Tensor:
        """Computes `out[o] += feats[i] @ kernel[k]` over the pairs, or with `kernel[k].T` where `transposed`."""
        volume, *channels = kernel.shape
        inner, columns = reversed(channels) if transposed else channels
        padded = SHAPE.pad(columns)
        packed = aligned(volume * inner * padded)
        team.run(
            gradients.pack_panels, kernel.numpy(), self.mirrored, transposed, _blocks(padded), packed
        )  # fmt: skip
        out = torch.empty((self.num_out + 1, padded))
        out[self.num_out] = 0
        team.run(
            convolve, self.num_out, self.pairs, _NO_IDENTITY, Term(feats.numpy(), inner, packed),
            _NO_TERM, _NO_TERM, _NO_TERM, np.zeros(padded, np.float32), _NO_ROWS, False, out.numpy(),
        )  # fmt: skip
        return out[: self.num_out, :columns]

    def run_narrow(self, team: Team, feats: Tensor, kernel: Tensor, transposed: bool) -> Tensor:
        """Computes what `run` does from features in the form of `narrow`, and a kernel that is rounded likewise."""
        volume, *channels = kernel.shape
        columns = channels[0 if transposed else 1]
        padded = bf16.pad(columns)
        blocks = bf16.column_blocks(padded)
        packed = aligned(volume * feats.shape[1] // 2 * padded)
        team.run(
            bf16.pack_panels, kernel.numpy().view(np.uint32), self.mirrored, transposed, blocks, packed.view(np.uint16)
        )
        out = torch.empty((self.num_out + 1, padded))
        out[self.num_out] = 0
        team.run(bf16.convolve, self.num_out, self.pairs, _halves(feats), packed.view(np.uint32), blocks, out.numpy())
        return out[: self.num_out, :columns]


def narrow(team: Team, feats: Tensor) -> Tensor:
    """Returns features `[n, C]` rounded to bfloat16 as int16 `[n, padded]`, for the loops of `kernels.cpu.bf16`."""
    feats = feats.detach().contiguous()
    out = torch.empty((len(feats), bf16.pad(feats.shape[1])), dtype=torch.int16)
    team.run(bf16.narrow_rows, _NARROW_ROWS, feats.shape[1], feats.numpy().view(np.uint32), _halves(out))
    return out


def _halves(feats: Tensor) -> np.ndarray:
    halves: np.ndarray = feats.numpy().view(np.uint16)
    return halves


def product(feats: Tensor, kernel: Tensor) -> Tensor:
    """Returns `feats @ kernel` with operands rounded to bfloat16, those of the gradients too, and sums in float32.

    feats: float32 `[n, Cin]`, one row at least; kernel: float32 `[Cin, Cout]`; the CPU multiplies bfloat16
    """
    num = len(feats)
    rows = np.arange(num)
    padded = -(-num // UNIT) * UNIT
    starts = np.append(np.arange(0, num, _NARROW_ROWS), padded).astype(np.int32)
    ins = np.zeros(padded + SPARE, np.int32)
    outs = np.full(padded + SPARE, num, np.int32)
    ins[:num] = outs[:num] = rows
    same = Gather(Pairs(starts, ins, outs, 1, _NARROW_ROWS), False, num)
    tiled = TiledConvolution(same, same, rows, rows, _tasks(np.array([num])))
    out: Tensor = _NarrowConvolution.apply(feats, kernel[None], tiled)
    return out


def fits_narrow(feats: Tensor, kernel: Tensor) -> bool:
    """Returns whether products of these may be of bfloat16: the CPU multiplies it, and the features are no coordinates.

    kernel: `[..., Cin, Cout]`
    """
    return fits(feats, kernel) and kernel.shape[-2] >= _FEWEST_NARROW and multiplies_bf16()


@functools.cache
def multiplies_bf16() -> bool:
    """Returns whether this CPU multiplies bfloat16, so that narrow operands are faster."""
    return bf16.available()


@dataclass(frozen=True)
class TiledConvolution:
    """A convolution over one kernel map by compiled loops, as a `sparse.kernel_map.Convolver`.

    in_rows, out_rows: int64 `[P]`, the pairs by kernel row; tasks: int64 `[T, 3]` (kernel row, first pair, last pair)
    """

    forward: Gather
    backward: Gather
    in_rows: np.ndarray
    out_rows: np.ndarray
    tasks: np.ndarray

    def fits(self, feats: Tensor, kernel: Tensor) -> bool:
        """Returns whether features and kernel are float32 in main memory."""
        return fits(feats, kernel)

    def __call__(self, feats: Tensor, kernel: Tensor, narrow: bool = False) -> Tensor:
        """Convolves as `sparse.conv3d` does."""
        kind = _NarrowConvolution if narrow and fits_narrow(feats, kernel) else _Convolution
        out: Tensor = kind.apply(feats, kernel, self)
        return out

    def transposed(self) -> TiledConvolution:
        """Returns the convolution over the same pairs with input and output exchanged."""
        return TiledConvolution(self.backward, self.forward, self.out_rows, self.in_rows, self.tasks)

    def kernel_gradient(self, team: Team, feats: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
        """Returns `sum of feats[i].T @ grad[o]` over the pairs of every kernel row."""
        _, channels, columns = kernel.shape
        padded = SHAPE.pad(columns)
        partial = torch.empty((len(self.tasks), -(-channels // SHAPE.rows) * SHAPE.rows, padded)).numpy()
        team.run(
            gradients.sum_outer_products, self.tasks, self.in_rows, self.out_rows, feats.numpy(), grad.numpy(),
            _blocks(padded), partial,
        )  # fmt: skip
        out = torch.empty_like(kernel, memory_format=torch.contiguous_format)
        team.run(gradients.add_partial, self.tasks, partial, out.numpy())
        return out

    def narrow_kernel_gradient(self, team: Team, feats: Tensor, grad: Tensor, kernel: Tensor) -> Tensor:
        """Returns what `kernel_gradient` does from features and gradients in the form of `narrow`."""
        partial = torch.empty((len(self.tasks), feats.shape[1], grad.shape[1])).numpy()
        team.run(
            bf16.sum_outer_products, self.tasks, self.in_rows, self.out_rows, _halves(feats), _halves(grad),
            bf16.column_blocks(grad.shape[1]), partial,
        )  # fmt: skip
        out = torch.empty_like(kernel, memory_format=torch.contiguous_format)
        team.run(gradients.add_partial, self.tasks, partial, out.numpy())
        return out


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, tiled: TiledConvolution) -> Tensor:
        ctx.save_for_backward(feats, kernel)
        ctx.tiled = tiled
        return tiled.forward.run(team(), feats.detach().contiguous(), kernel.detach().contiguous(), transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feats, kernel = (t.detach().contiguous() for t in ctx.saved_tensors)
        grad = grads[0].contiguous()
        threads, tiled = team(), ctx.tiled
        grad_feats = tiled.backward.run(threads, grad, kernel, transposed=True) if ctx.needs_input_grad[0] else None
        grad_kernel = tiled.kernel_gradient(threads, feats, grad, kernel) if ctx.needs_input_grad[1] else None
        return grad_feats, grad_kernel, None


class _NarrowConvolution(Function):
    """A convolution that keeps its features in bfloat16 for the backward pass."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, tiled: TiledConvolution) -> Tensor:
        threads = team()
        halves = narrow(threads, feats)
        ctx.save_for_backward(halves, kernel)
        ctx.tiled = tiled
        return tiled.forward.run_narrow(threads, halves, kernel.detach().contiguous(), transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        halves, kernel = ctx.saved_tensors
        kernel = kernel.detach().contiguous()
        threads, tiled = team(), ctx.tiled
        grad = narrow(threads, grads[0])
        wanted = ctx.needs_input_grad
        grad_feats = tiled.backward.run_narrow(threads, grad, kernel, transposed=True) if wanted[0] else None
        grad_kernel = tiled.narrow_kernel_gradient(threads, halves, grad, kernel) if wanted[1] else None
        return grad_feats, grad_kernel, None


class _Mix(Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, there: Mixture, back: Mixture) -> Tensor:
        ctx.back = back
        return _mix(there, feats.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _mix(ctx.back, grads[0]), None, None


def _mix(mixture: Mixture, feats: Tensor) -> Tensor:
    out = torch.empty((len(mixture.starts) - 1, feats.shape[1]))
    team().run(gradients.mix_rows, _EXCHANGE_ROWS, mixture, feats.contiguous().numpy(), out.numpy())
    return out


@dataclass(frozen=True)
class MixedExchange:
    """A point-voxel exchange at one level by compiled loops, as a `sparse.kernel_map.Exchange`.

    interpolation: points from voxels; mean: voxels from points; `_back`: the transposed matrix of each
    """

    interpolation: Mixture
    interpolation_back: Mixture
    mean: Mixture
    mean_back: Mixture

    def fits(self, feats: Tensor) -> bool:
        """Returns whether features are float32 in main memory."""
        return fits(feats)

    def to_points(self, voxels: Tensor) -> Tensor:
        """Interpolates as `sparse.devoxelize` does."""
        out: Tensor = _Mix.apply(voxels, self.interpolation, self.interpolation_back)
        return out

    def to_voxels(self, points: Tensor) -> Tensor:
        """Averages as `sparse.voxelize` does."""
        out: Tensor = _Mix.apply(points, self.mean, self.mean_back)
        return out


class SamePlace:
    """The exchange at level 0, where every point is its voxel."""

    def fits(self, feats: Tensor) -> bool:
        """Returns whether the features are a matrix."""
        return feats.ndim == 2

    def to_points(self, voxels: Tensor) -> Tensor:
        """Returns the voxels' features unchanged."""
        return voxels

    def to_voxels(self, points: Tensor) -> Tensor:
        """Returns the points' features unchanged."""
        return points


def build_training_levels(coords: Tensor, depth: int, point_levels: Collection[int]) -> Levels:
    """Builds the same levels as `sparse.build_levels`, with compiled convolutions and exchanges in them.

    The compiled octree finds the voxels and pairs.

    coords:       integer `[N, 4]` (batch, x, y, z) in main memory, every row once
    depth:        how often the resolution is halved
    point_levels: where points and voxels exchange features

    Raises the errors of `build_levels`.
    """
    if coords.ndim != 2 or coords.shape[1] != 4 or len(coords) == 0:
        return build_levels(coords, depth)
    array = coords.long().numpy()
    cloud = voxels_of_coords(array, depth)
    if len(cloud.keys) != len(array):
        raise ValueError("coords holds the same voxel more than once; quantize the points first")
    threads = team()
    keys, families, neighbours = build_octree(threads, cloud.keys, depth)
    levels = _levels(coords, cloud.keys, families)
    stages = range(depth)
    around = threads.map(lambda i: _neighbour_map(neighbours[i], TILE_ROWS[i]), range(depth + 1))
    halvings = threads.map(lambda i: _halving_map(keys[i], families[i], TILE_ROWS[i : i + 2]), stages)
    parents = tuple(torch.from_numpy(family.parents).long() for family in families)
    order = torch.from_numpy(cloud.first).long()
    plain = Levels(levels, parents, tuple(around), tuple(halvings), order)
    cells = cells_of(cloud.keys)
    coarse = [level for level in point_levels if level > 0]
    mixed = threads.map(lambda level: _exchange(plain, level, cells, neighbours[level]), coarse)
    exchanges: dict[int, Exchange] = {0: SamePlace(), **dict(zip(coarse, mixed, strict=True))}
    return dataclasses.replace(plain, exchanges=exchanges)


def site_map(in_rows: np.ndarray, out_rows: np.ndarray, sizes: np.ndarray, sides: Sequence[Neighbours]) -> KernelMap:
    """Returns the map of these pairs, with a compiled convolution where there are any.

    in_rows, out_rows: int64 `[P]`, by kernel row; each kernel row leads to an output once at most
    sizes: int64 `[K]`, pairs of each kernel row
    sides: the pairs as compressed rows of the outputs, then of the inputs; the outputs' alone where the map is its own
           mirror: a pair at row k is one at row K - 1 - k with the roles exchanged
    """
    volume, nums = len(sizes), [len(side.starts) - 1 for side in sides]
    rows = torch.from_numpy(in_rows), torch.from_numpy(out_rows), tuple(sizes.tolist())
    if not len(in_rows):
        return KernelMap(*rows, nums[-1], nums[0])
    tiles = [tile_pairs(*side, volume, _SITE_ROWS, padding=0) for side in sides]
    gathers = Gather(tiles[0], False, nums[0]), Gather(tiles[-1], len(sides) == 1, nums[-1])
    tiled = TiledConvolution(*gathers, in_rows, out_rows, _tasks(sizes))
    return KernelMap(*rows, nums[-1], nums[0], tiled)


def _levels(coords: Tensor, keys: np.ndarray, families: Sequence[Family]) -> tuple[Level, ...]:
    origin = coords.long().amin(0) >> len(families) << len(families)
    origin[0] = 0  # keys hold the batch index itself
    levels = [Level.from_keys(torch.from_numpy(keys), origin)]
    for family in families:
        finer = levels[-1]
        firsts = torch.from_numpy(family.first_child[:-1]).long()
        levels.append(Level.from_keys(parent_keys(finer.keys[firsts]), finer.origin >> 1))
    return tuple(levels)


def _neighbour_map(neighbours: Neighbours, tile_rows: int) -> KernelMap:
    num = len(neighbours.starts) - 1
    pairs = tile_pairs(*neighbours, 27, tile_rows, padding=0)
    # A pair at offset d is a pair at -d with the roles exchanged, so one set of tiles serves both directions.
    return _kernel_map(neighbours, 27, Gather(pairs, False, num), Gather(pairs, True, num))


def _halving_map(keys: np.ndarray, family: Family, tile_rows: Sequence[int]) -> KernelMap:
    slots = (keys & 7).astype(np.uint8)
    down = Neighbours(family.first_child, slots, np.arange(len(keys), dtype=np.int32))
    one_each = np.arange(len(keys) + 1, dtype=np.int32)
    fine_rows, coarse_rows = tile_rows
    halving = Gather(tile_pairs(*down, 8, coarse_rows, padding=0), False, len(family.masks))
    doubling = Gather(tile_pairs(one_each, slots, family.parents, 8, fine_rows, padding=0), False, len(keys))
    return _kernel_map(down, 8, halving, doubling)


def _kernel_map(compressed: Neighbours, volume: int, forward: Gather, backward: Gather) -> KernelMap:
    in_rows, out_rows, sizes = gradients.by_kernel_row(*compressed, volume)
    tiled = TiledConvolution(forward, backward, in_rows, out_rows, _tasks(sizes))
    rows = torch.from_numpy(in_rows), torch.from_numpy(out_rows)
    return KernelMap(*rows, tuple(sizes.tolist()), backward.num_out, forward.num_out, tiled)


def _tasks(sizes: np.ndarray) -> np.ndarray:
    """Divides every kernel row's pairs into shares, int64 `[T, 3]` (kernel row, first pair, last pair)."""
    share = max(_FEWEST_PAIRS, int(sizes.sum()) // _MOST_SHARES)
    ends = np.cumsum(sizes)
    tasks = [
        (k, first, min(first + share, end))
        for k, (size, end) in enumerate(zip(sizes.tolist(), ends.tolist(), strict=True))
        for first in range(end - size, end, share)
    ]
    return np.array(tasks, np.int64).reshape(-1, 3)


def _exchange(levels: Levels, level: int, cells: np.ndarray, neighbours: Neighbours) -> MixedExchange:
    num_points, num_voxels = len(cells), len(levels.levels[level])
    ancestors = levels.ancestors(level).int().numpy()
    interpolation = gradients.interpolating_mixture(cells, ancestors, corner_rows(neighbours), level)
    starts = np.searchsorted(ancestors, np.arange(num_voxels + 1)).astype(np.int32)
    shares = (1 / np.diff(starts)).astype(np.float32)[ancestors]
    mean = Mixture(starts, np.arange(num_points, dtype=np.int32), shares)
    mean_back = Mixture(np.arange(num_points + 1, dtype=np.int32), ancestors, shares)
    return MixedExchange(interpolation, gradients.transpose_mixture(interpolation, num_voxels), mean, mean_back)


def _blocks(padded: int) -> np.ndarray:
    return np.array(column_blocks(padded), np.int64)
