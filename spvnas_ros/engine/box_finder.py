"""Boxes from the features of the pass that labels, on the CPU: what the engine runs behind its own steps.

BatchNorm is folded into the convolutions, features lie channels last in memory that is kept between frames, and of the
head only the classes are computed everywhere: boxes and directions are for anchors that score enough. The network over
the bird's-eye view runs in float32 or in bfloat16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from spvnas_ros.engine.plan import fold
from spvnas_ros.frame import Boxes
from spvnas_ros.kernels.cpu.box_columns import best_classes, sum_columns
from spvnas_ros.kernels.cpu.team import Team
from spvnas_ros.nets.bev import BevStage, PlaneConvNorm
from spvnas_ros.nets.box_branch import BoxBranch, base_of, branch_anchors
from spvnas_ros.nets.detections import boxes_of, decoded, strongest
from spvnas_ros.nets.heads import CODE, DIRECTIONS

Array = npt.NDArray[np.float32]

_LINES = 16
_ANCHORS = 16384


@dataclass(frozen=True)
class _Plane:
    """A convolution over the bird's-eye view with its BatchNorm folded in, and the ReLU behind it."""

    kernel: Tensor
    bias: Tensor
    stride: int

    @classmethod
    def of(cls, layer: PlaneConvNorm, dtype: torch.dtype) -> _Plane:
        kernel, bias = _folded(layer, layer.conv.weight)
        kernel = kernel.to(dtype, memory_format=torch.channels_last)
        return cls(kernel, bias.to(dtype), int(layer.conv.stride[0]))

    def __call__(self, feats: Tensor) -> Tensor:
        return functional.conv2d(feats, self.kernel, self.bias, self.stride, 1).relu_()


@dataclass(frozen=True)
class _Up:
    """A transposed convolution whose kernel is as large as its stride: a matrix for each cell, laid out as `size` by
    `size` cells.

    matrix: `[Cin, size * size * Cout]`
    """

    matrix: Tensor
    bias: Tensor
    size: int

    @classmethod
    def of(cls, layer: PlaneConvNorm, dtype: torch.dtype) -> _Up:
        kernel, bias = _folded(layer, layer.conv.weight.transpose(0, 1))  # [Cout, Cin, size, size]
        size = kernel.shape[2]
        matrix = kernel.permute(1, 2, 3, 0).reshape(kernel.shape[1], -1)
        return cls(matrix.to(dtype).contiguous(), bias.to(dtype).repeat(size * size), size)

    def into(self, out: Tensor, feats: Tensor) -> None:
        """Writes the result for feats `[1, Cin, y, x]` into `out`, float32 `[y * size, x * size, Cout]`."""
        y, x = feats.shape[2:]
        flat = feats.permute(0, 2, 3, 1).reshape(y * x, -1)
        found = torch.addmm(self.bias, flat, self.matrix).relu_()
        size = self.size
        out.view(y, size, x, size, -1).copy_(found.view(y, x, size, size, -1).transpose(1, 2))


def bfloat_is_fast() -> bool:
    """Returns whether this CPU multiplies bfloat16 itself, for torch and by numba's settings (NUMBA_CPU_*).

    Others convolve it, too, but slower than float32.
    """
    from spvnas_ros.kernels.cpu.bf16 import available

    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    torch_has = has_onednn and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch_has and available()


def _folded(layer: PlaneConvNorm, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a kernel `[Cout, ...]` and its bias with the layer's BatchNorm in them."""
    last, bias = fold(kernel.flatten(1).T[None].float(), layer.norm)
    return torch.from_numpy(last[0].T.reshape(kernel.shape)), torch.from_numpy(bias)


class BoxFinder:
    """The box branch of a network in eval mode, on a team of threads.

    level:  of the features that it takes, see `BoxBranchSpec`
    narrow: whether the network over the bird's-eye view runs in bfloat16, where `bfloat_is_fast`; else all is float32.
            Columns, head and boxes are float32 always

    One frame at a time may be in it.
    """

    def __init__(self, branch: BoxBranch, team: Team, narrow: bool = False) -> None:
        spec, head = branch.spec, branch.head
        self.level = spec.level
        self._spec, self._team = spec, team
        self._anchors = branch_anchors(spec)
        self._dtype = torch.bfloat16 if narrow else torch.float32
        with torch.no_grad():
            self._columns = fold(branch.columns.conv.kernel, branch.columns.norm)
            stages = [stage for stage in branch.bev.stages if isinstance(stage, BevStage)]
            self._blocks = [[_Plane.of(layer, self._dtype) for layer in _layers(stage)] for stage in stages]
            self._ups = [_Up.of(stage.up, self._dtype) for stage in stages]
            self._classes = _matrix(head.classes)
            self._boxes, self._directions = _matrix(head.boxes), _matrix(head.directions)
        wide, deep = spec.columns
        across, along = spec.head_cells
        self._seen = np.zeros((deep, wide), np.uint8)
        self._view = np.zeros((deep, wide, spec.width), np.float32)
        self._handed = torch.zeros((along, across, sum(block.up for block in spec.bev)))
        self._logits = torch.empty((along * across, self._classes[0].shape[1]))
        self._best = np.empty(len(self._anchors), np.float32)

    @staticmethod
    def begin_forked() -> None:
        """Has torch work on one thread in a forked process: it would wait for its others, which only the parent has."""
        torch.set_num_threads(1)

    @torch.inference_mode()
    def __call__(self, feats: Array, cells: npt.NDArray[np.int32], corner: npt.NDArray[np.int64]) -> Boxes:
        """Returns the boxes of one scan, the best score first.

        feats:  `[n, C or more]`, of the level's voxels
        cells:  `[n, 3]`, x, y, z of these voxels, in the level's voxels
        corner: `[3]`, the finest voxel from which they are counted, see `scan_corners`
        """
        spec, selection = self._spec, self._spec.head.selection
        base, shift = (each[0] for each in base_of(spec, torch.from_numpy(corner)[None]))
        limits, (kernel, bias) = np.array(spec.cells), self._columns
        self._team.run(
            sum_columns, _LINES, cells, base.numpy(), limits, spec.merged, feats, kernel, bias, self._seen, self._view
        )
        self._look()
        classes = len(spec.head.classes)
        logits = self._logits.view(-1, classes)
        self._team.run(best_classes, _ANCHORS, logits.numpy(), self._best)
        rows = torch.from_numpy(np.flatnonzero(self._best >= _least_logit(selection.score)))
        scores = torch.sigmoid(logits[rows])
        kept = strongest(selection, scores.amax(dim=1))
        rows, scores = rows[kept], scores[kept]
        per_cell = spec.head.anchors_per_cell
        cell, place = rows // per_cell, rows % per_cell
        handed = self._handed.view(len(self._logits), -1)[cell]
        codes, directions = (
            torch.addmm(bias, handed, matrix).view(len(rows), per_cell, width)[torch.arange(len(rows)), place]
            for (matrix, bias), width in ((self._boxes, CODE), (self._directions, DIRECTIONS))
        )
        anchors = self._anchors[rows]
        anchors[:, :2] += shift[:2]
        return boxes_of(spec.head, decoded(spec.head, rows, scores, codes, directions, anchors))

    def _look(self) -> None:
        """Runs the network over the bird's-eye view, and the classes of the head."""
        feats = torch.from_numpy(self._view).permute(2, 0, 1)[None].to(self._dtype)
        begin = 0
        for block, up, layers in zip(self._spec.bev, self._ups, self._blocks, strict=True):
            for layer in layers:
                feats = layer(feats)
            up.into(self._handed[:, :, begin : begin + block.up], feats)
            begin += block.up
        matrix, bias = self._classes
        torch.addmm(bias, self._handed.view(len(self._logits), -1), matrix, out=self._logits)


def _layers(stage: BevStage) -> list[PlaneConvNorm]:
    return [layer for layer in stage.layers if isinstance(layer, PlaneConvNorm)]


def _matrix(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Returns a 1x1 convolution as a matrix `[Cin, Cout]` and its bias."""
    assert layer.bias is not None
    return layer.weight.detach().float().flatten(1).T.contiguous(), layer.bias.detach().float()


def _least_logit(score: float) -> float:
    """Returns a logit that is a little less than any whose sigmoid reaches `score` in float32."""
    if score <= 0:
        return -math.inf
    score = min(max(score, 1e-7), 1 - 1e-7)
    return math.log(score / (1 - score)) - 0.01
