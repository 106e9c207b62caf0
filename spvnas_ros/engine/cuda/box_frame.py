"""The launches that find boxes in the features of a frame: fixed sizes, and no count that the host would ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor
from torch.nn import functional

from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.boxes.overlap import checked
from spvnas_ros.engine.cuda.packed_branch import PackedBranch, Plane
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.kernels.cuda import box_kernels, feature_kernels
from spvnas_ros.kernels.cuda.blocks import DTYPES, Precision
from spvnas_ros.kernels.cuda.geometry import Geometry
from spvnas_ros.kernels.cuda.launch import Launch
from spvnas_ros.kernels.cuda.suppression import Suppression
from spvnas_ros.nets.heads import CODE, DIRECTIONS, decode_boxes, directed

_ROW = 4
_FIELDS = CODE + 2
"""What comes out of a box: its numbers, its score and its class."""
_BLOCK = 1024
_PLANE_BLOCK = 4096
"""Values that a program of `finish_plane` ends at a time."""
_BITS = 32
_NOBODY = 2**31 - 1
_LOW_HALF = 2**32 - 1


def answer_words(branch: PackedBranch) -> int:
    """Returns the 4-byte words that the boxes of a frame take among its results: their number, then the boxes."""
    return _ROW + -(-branch.most_boxes * _FIELDS // _ROW) * _ROW


def read_boxes(words: Tensor) -> Boxes:
    """Returns the boxes in the results of a frame, int32 of `answer_words` on the host, the best score first.

    Raises BoxError for boxes that are none, as the reference does.
    """
    number, rows = int(words[0]), words[_ROW:].view(torch.float32)
    table = rows[: number * _FIELDS].view(number, _FIELDS).numpy()
    boxes = table[:, :CODE].copy()
    checked(boxes)
    boxes[:, 6] = wrapped(boxes[:, 6])
    return Boxes(boxes, table[:, CODE].copy(), table[:, CODE + 1].astype(np.uint8))


@dataclass(frozen=True)
class _Candidates:
    """Boxes before they displace each other, the best score first; those that are none are not valid.

    boxes float32 `[N, 7]`, scores float32 `[N]`, classes int64 `[N]`, valid bool `[N]`
    seen: int32 `[1]`, how many at the front score enough
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    valid: Tensor
    seen: Tensor


class BoxFrame:
    """Buffers for the boxes of scans of a capacity, and what fills them.

    Of the bird's-eye view there is all, of its columns as many as there are voxels of the level.

    flags:  int32 `[names, 4]`, a row for each of the branch's `names`, which is set where half precision does not do
    answer: int32 `[answer_words]`, is filled with the boxes
    limit:  above which a result cannot be stored; 0 for none

    Attributes:
        head: float32 `[cells, width]`, what is said of the anchors of each cell of the head's map: the classes' scores
              before the sigmoid, then the codes, then the directions
        flags: the rows of `flags` by name
    """

    def __init__(
        self,
        branch: PackedBranch,
        geometry: Geometry,
        precision: Precision,
        device: torch.device,
        limit: float,
        flags: Tensor,
        answer: Tensor,
        launch: Launch,
    ) -> None:
        self._branch, self._geometry, self._limit, self._launch = branch, geometry, limit, launch
        self.flags = dict(zip(branch.names, flags, strict=True))
        self._device = device
        self._number, self._table = answer[:1], answer[_ROW:].view(torch.float32)
        spec, voxels = branch.spec, geometry.capacity.voxels[branch.spec.level]
        if spec.volume * voxels >= 2**31:
            raise UserError(
                f"found a scan that needs room for {spec.volume} x {voxels} places in columns, expected less than "
                "2**31; use engine 'torch'"
            )
        self._listed = -(-spec.volume // _BITS) * _BITS
        tiles = triton.cdiv(voxels, branch.columns.blocks.rows)

        def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        wide, deep = spec.columns
        self._places, self._kernel_rows, self._leading = (integers(voxels) for _ in range(3))
        self._leads, self._columns = integers(wide * deep), integers(_ROW)[:1]
        self._inputs, self._rows = integers(spec.volume, voxels), integers(voxels)
        self._lists, self._lengths = integers(tiles, self._listed), integers(tiles)
        dtype, cells = DTYPES[precision], spec.head_cells[0] * spec.head_cells[1]
        self._view = torch.zeros(deep * wide, branch.columns.out_width, dtype=dtype, device=device)
        self._raised = torch.zeros(cells, branch.head.skip_width, dtype=dtype, device=device)
        self._cells = torch.full((_ROW,), cells, dtype=torch.int32, device=device)[:1]
        self.head = torch.zeros(cells, branch.head.out_width, device=device)
        self._keys = integers(cells * spec.head.anchors_per_cell, dtype=torch.int64)
        rule = spec.head.selection
        self._suppression = Suppression(
            branch.candidates, branch.most_boxes, rule.overlap, rule.per_class, device, launch
        )
        kinds, classes = spec.head.anchors_per_cell, len(spec.head.classes)
        self._parts = (0, kinds * classes, kinds * (classes + CODE))
        self._steps = torch.arange(max(classes, CODE, DIRECTIONS), device=device)

    def run(self, features: Tensor) -> None:
        """Fills the answer from the features `[voxels, width]` of the level. It only launches and never waits."""
        shift = self._find_columns()
        self._sum_columns(features)
        self._raise_views()
        self._say()
        self._select(shift)

    def _find_columns(self) -> Tensor:
        """Fills the gather of the columns. Returns the shift float32 `[3]` of the bird's-eye view, see `Columns`."""
        branch, geometry, spec = self._branch, self._geometry, self._branch.spec
        level, side = spec.level, 2**spec.level
        # As in `columns_of`.
        corner = geometry.low[1:].long()
        base = torch.round((branch.corner - corner) / side).long()
        shift = (corner + base * side - 0.5) * spec.voxel_size - branch.low
        voxels, (wide, deep) = len(self._places), spec.columns
        grid, size = (triton.cdiv(voxels, _BLOCK),), geometry.sizes[level]
        self._leads.fill_(_NOBODY)
        self._launch(
            box_kernels.mark_columns, grid,
            geometry.keys[level], size, base, self._places, self._kernel_rows, self._leads, wide, deep, spec.cells[2],
            MERGED=spec.merged, BLOCK=_BLOCK,
        )  # fmt: skip
        self._launch(box_kernels.mark_leads, grid, self._places, self._leads, size, self._leading, voxels, BLOCK=_BLOCK)
        ranks = torch.cumsum(self._leading, 0, dtype=torch.int32)
        self._inputs.fill_(-1)
        self._launch(
            box_kernels.gather_columns, grid,
            self._places, self._kernel_rows, self._leads, ranks, size, self._inputs, self._rows, self._columns, voxels,
            BLOCK=_BLOCK,
        )  # fmt: skip
        rows = branch.columns.blocks.rows
        self._launch(
            box_kernels.list_kernel_rows, (triton.cdiv(voxels, rows),),
            self._inputs, self._columns, self._lists, self._lengths, voxels,
            VOLUME=spec.volume, LISTED=self._listed, BLOCK=rows,
        )  # fmt: skip
        moved: Tensor = shift.float()
        return moved

    def _sum_columns(self, features: Tensor) -> None:
        """Fills the bird's-eye view. Cells whose column holds no voxel stay 0."""
        packed, blocks, view, voxels = self._branch.columns, self._branch.columns.blocks, self._view, len(self._places)
        view.zero_()
        self._launch(
            feature_kernels.convolve, (triton.cdiv(voxels, blocks.rows), packed.out // blocks.columns, 1),
            features, packed.kernel, self._inputs, self._rows, self._lists, self._lengths, self._columns, view,
            packed.skip, packed.bias, view, view, self.flags[self._branch.names[0]],
            voxels, features.stride(0), view.stride(0), view.stride(0), view.stride(0), packed.out_width,
            VOLUME=len(packed.kernel), LISTED=self._listed, SORTED=True, WIDTH=packed.width, SKIP_WIDTH=0,
            OUT=packed.out, RESIDUAL=False, RELU=True, LIMIT=self._limit, SPLIT=False,
            ROWS=blocks.rows, COLUMNS=blocks.columns, DEPTH=blocks.depth, **blocks.options,
        )  # fmt: skip

    def _raise_views(self) -> None:
        """Runs the network over the bird's-eye view. What its blocks hand to the head lies side by side."""
        wide, deep = self._branch.spec.columns
        feats, start = self._view.view(1, deep, wide, -1).permute(0, 3, 1, 2), 0
        for stage in self._branch.stages:
            for plane in stage.layers:
                sums = convolved(feats, plane)
                rows = sums.permute(0, 2, 3, 1).contiguous()
                self._finish(rows, plane, rows.view(-1, rows.shape[3]), rows.shape[3])
                feats = rows.permute(0, 3, 1, 2)
            rows = convolved(feats, stage.up).permute(0, 2, 3, 1).contiguous()
            self._finish(rows, stage.up, self._raised[:, start:], stage.up.width)
            start += stage.up.width

    def _finish(self, rows: Tensor, plane: Plane, out: Tensor, width: int) -> None:
        cells, stride = rows.shape[1] * rows.shape[2], rows.shape[3]
        columns = min(64, triton.next_power_of_2(width))
        self._launch(
            box_kernels.finish_plane, (triton.cdiv(cells, _PLANE_BLOCK // columns), triton.cdiv(width, columns)),
            rows, plane.bias, out, self.flags[plane.name], cells, stride, out.stride(0), width,
            LIMIT=self._limit, ROWS=_PLANE_BLOCK // columns, COLUMNS=columns,
        )  # fmt: skip

    def _say(self) -> None:
        """Computes what the head says of every anchor, in float32, and keys of the anchors that score enough."""
        packed, blocks, head, raised = self._branch.head, self._branch.head.blocks, self.head, self._raised
        self._launch(
            feature_kernels.convolve, (triton.cdiv(len(head), blocks.rows), packed.out // blocks.columns, 1),
            head, packed.kernel, self._cells, self._cells, self._cells, self._cells, self._cells, raised, packed.skip,
            packed.bias, head, head, self._cells,
            len(head), head.stride(0), raised.stride(0), head.stride(0), head.stride(0), packed.out_width,
            VOLUME=0, LISTED=0, SORTED=False, WIDTH=0, SKIP_WIDTH=packed.skip_width, OUT=packed.out, RESIDUAL=False,
            RELU=False, LIMIT=0.0, SPLIT=False, ROWS=blocks.rows, COLUMNS=blocks.columns, DEPTH=blocks.depth,
            **blocks.options,
        )  # fmt: skip
        rule = self._branch.spec.head
        self._launch(
            box_kernels.score_anchors, (triton.cdiv(len(self._keys), _BLOCK),),
            head, self._keys, len(self._keys), head.stride(0),
            PER_CELL=rule.anchors_per_cell, CLASSES=len(rule.classes), LEAST=rule.selection.score, BLOCK=_BLOCK,
        )  # fmt: skip

    def _select(self, shift: Tensor) -> None:
        """Fills the answer with the boxes that stay."""
        found = self._candidates(shift)
        self._suppression.run(found.boxes, found.classes, found.valid, found.seen, self._number)
        kept, most = self._suppression.kept, self._branch.most_boxes
        numbers = torch.cat([found.boxes, found.scores[:, None], found.classes[:, None].float()], dim=1)
        self._table[: most * _FIELDS].view(most, _FIELDS).copy_(numbers.index_select(0, kept))

    def _candidates(self, shift: Tensor) -> _Candidates:
        """Returns the boxes of the best anchors.

        As `nets.detections.candidates`, for a number of anchors that is fixed.
        """
        head, branch = self._branch.spec.head, self._branch
        rule, kinds, classes = head.selection, head.anchors_per_cell, len(head.classes)
        keys = torch.topk(self._keys, min(rule.anchors, len(self._keys))).values
        enough = keys > 0
        anchors = (_LOW_HALF - (keys & _LOW_HALF)).masked_fill(~enough, 0)
        if rule.per_class:
            # Of equal scores the first anchor is first, whatever its class.
            anchors, order = torch.sort(anchors.masked_fill(~enough, _LOW_HALF))
            enough = enough[order]
            anchors = anchors.masked_fill(~enough, 0)
        cells, kind = torch.div(anchors, kinds, rounding_mode="floor"), anchors % kinds
        scores = torch.sigmoid(self._numbers(cells, kind, 0, classes))
        placed = branch.kinds[kind]
        placed[:, 0] = branch.xs[cells % len(branch.xs)]
        placed[:, 1] = branch.ys[torch.div(cells, len(branch.xs), rounding_mode="floor")]
        placed[:, :2] += shift[:2]
        boxes = decode_boxes(self._numbers(cells, kind, 1, CODE), placed)
        turned = self._numbers(cells, kind, 2, DIRECTIONS).argmax(dim=1)
        boxes[:, 6] = directed(boxes[:, 6], turned, head.direction_offset)
        if rule.per_class:
            every = torch.arange(scores.numel(), device=self._device)
            bits = scores.reshape(-1).view(torch.int32).long()
            wanted = (enough[:, None] & (scores > rule.score)).reshape(-1)
            keys = (bits << 32 | (_LOW_HALF - every)).masked_fill(~wanted, 0).sort(descending=True).values
            enough = keys > 0
            rows = (_LOW_HALF - (keys & _LOW_HALF)).masked_fill(~enough, 0)
            owner, kind = torch.div(rows, classes, rounding_mode="floor"), rows % classes
            found, score = boxes[owner], scores.reshape(-1)[rows]
        else:
            score, kind = scores.max(dim=1)
            found = boxes
        seen = enough.sum(dtype=torch.int32)[None]
        return _Candidates(found, score, kind, enough & torch.isfinite(found).all(dim=1), seen)

    def _numbers(self, cells: Tensor, kinds: Tensor, part: int, count: int) -> Tensor:
        """Returns what the head says of some anchors: `count` numbers `[anchors, count]` of one of its three parts."""
        first = cells * self.head.stride(0) + self._parts[part] + kinds * count
        return self.head.view(-1)[first[:, None] + self._steps[:count]]


def convolved(feats: Tensor, plane: Plane) -> Tensor:
    """Returns features `[1, Cin, Y, X]` convolved, without bias, float sums in the features' precision.

    On CUDA by cuDNN as torch calls it, but never in TF32 and always by an algorithm with a fixed order, without regard
    to torch's settings, which belong to the whole process.
    """
    padding, stride = (0 if plane.transposed else 1,) * 2, (plane.stride,) * 2
    if feats.device.type != "cuda":
        if plane.transposed:
            return functional.conv_transpose2d(feats, plane.weight, stride=stride)
        return functional.conv2d(feats, plane.weight, stride=stride, padding=padding)
    benchmark, deterministic, tf32 = False, True, False
    if plane.transposed:
        return torch.cudnn_convolution_transpose(
            feats, plane.weight, padding, (0, 0), stride, (1, 1), 1, benchmark, deterministic, tf32
        )
    return torch.cudnn_convolution(feats, plane.weight, padding, stride, (1, 1), 1, benchmark, deterministic, tf32)
