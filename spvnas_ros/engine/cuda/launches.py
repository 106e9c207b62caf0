"""The buffers of one capacity and the launches of a whole frame, which are the same for every scan that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from spvnas_ros.engine.cuda.box_frame import BoxFrame, answer_words, read_boxes
from spvnas_ros.engine.cuda.layout import build_layout
from spvnas_ros.engine.cuda.packed_branch import PackedBranch, pack_branch
from spvnas_ros.engine.cuda.packed_weights import Packed, input_width, multiprocessors_of, pack_step, split, split_input
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion, PointMean
from spvnas_ros.frame import Boxes
from spvnas_ros.kernels.cuda import feature_kernels as kernels
from spvnas_ros.kernels.cuda.blocks import TILE_ROWS, Precision, capability_of
from spvnas_ros.kernels.cuda.geometry import Capacity, Gather, Geometry, cells_of_points
from spvnas_ros.kernels.cuda.launch import Launch, run
from spvnas_ros.nets.box_branch import BoxBranch
from spvnas_ros.nets.spec import NUM_STAGES

LEVELS = NUM_STAGES + 1

_HEADER = 4
"""The 4-byte words at the front of the input. The first holds the number of points; the others keep the points aligned.
"""
_ROW = 4
"""Words per entry of the status, so that each entry has an aligned address that a kernel can take."""
_POINTS_BLOCK = 1024
_MEAN_ROWS = 16
_SUM_ROWS = 16
_NO_END = {"RESIDUAL": False, "RELU": False, "LIMIT": 0.0}
"""Constants of a convolution whose sums `add_parts` finishes."""
_HALF_LIMIT = 65504.0
"""Above this, float16 is infinite."""


@dataclass(frozen=True)
class Wanted:
    """What a frame is asked for. What neither needs is not run."""

    labels: bool = True
    boxes: bool = False


LABELS = Wanted()


class Network:
    """A plan's weights on a device in one precision.

    branch: the network's box branch, None without one
    capability, multiprocessors: of the GPU that the kernels are for, where it is not the device

    Raises HalfRangeError for weights that do not fit.
    """

    def __init__(
        self,
        plan: Plan,
        voxel_size: float,
        precision: Precision,
        device: torch.device,
        tile_rows: tuple[int, ...] = TILE_ROWS,
        capability: int | None = None,
        multiprocessors: int | None = None,
        branch: BoxBranch | None = None,
    ) -> None:
        capability = capability_of(device) if capability is None else capability
        self.multiprocessors = multiprocessors_of(device) if multiprocessors is None else multiprocessors
        self.plan = plan
        self.precision = precision
        self.device = device
        self.tile_rows = tile_rows
        self.limit = _HALF_LIMIT if precision == "fp16" else 0.0
        self.voxel_size = torch.tensor(voxel_size, dtype=torch.float32, device=device)
        self.packed = [pack_step(plan, step, precision, device, tile_rows, capability) for step in plan.steps]
        self.branch: PackedBranch | None = None
        if branch is not None:
            self.branch = pack_branch(branch, plan, precision, device, tile_rows, capability)
        self.for_boxes = plan.for_boxes() if self.branch else ()
        names = self.branch.names if self.branch else ()
        self.names = ("the input", *(step.name for step in plan.steps), *names)


@dataclass(frozen=True)
class Status:
    """The report of a frame about itself.

    voxels:    found at each level
    extent:    voxels spanned along the longest axis, less one
    farthest:  largest coordinate in voxels
    overflows: names of steps whose results half precision cannot hold
    """

    voxels: tuple[int, ...]
    extent: float
    farthest: float
    overflows: tuple[str, ...]


class Frame:
    """Buffers on the device for scans of a capacity.

    input:  int32 `[words]`, which the host writes: the number of points and the points' bits
    output: int32 `[words]`, which the host reads: status, boxes, confidence and labels
    logits: float32 `[voxels, classes]`
    """

    def __init__(self, network: Network, capacity: Capacity, launch: Launch = run) -> None:
        plan, device, channels = network.plan, network.device, network.plan.slots[INPUT].width
        self.network = network
        self.capacity = capacity
        self._launch = launch
        self.input = torch.zeros(_HEADER + capacity.points * channels, dtype=torch.int32, device=device)
        self.points = self.input[_HEADER:].view(torch.float32).view(capacity.points, channels)
        self._status_words = _ROW * (LEVELS + 1 + len(network.names))
        self.box_words = answer_words(network.branch) if network.branch else 0
        words = self._status_words + self.box_words + capacity.points + capacity.points // 4
        self.output = torch.zeros(words, dtype=torch.int32, device=device)
        self._status = self.output[: self._status_words].view(-1, _ROW)
        self.geometry = Geometry(capacity, network.tile_rows, device, self._status[:LEVELS], launch)
        self._extent = self._status[LEVELS].view(torch.float32)[:2]
        self._flags = self._status[LEVELS + 1 :]
        self._confidence, self._labels = self._results(self.output)
        layout = build_layout(plan, capacity.voxels, network.precision)
        self._arena = torch.zeros(layout.total, dtype=torch.uint8, device=device)
        self._features = layout.views(self._arena, capacity.voxels, network.precision)
        self._partial = torch.empty(self._most_partial_sums(), device=device)
        self.logits = torch.zeros(capacity.voxels[0], plan.num_classes, device=device)
        self._voxel_labels = torch.zeros(capacity.voxels[0], dtype=torch.uint8, device=device)
        self._voxel_confidence = torch.zeros(capacity.voxels[0], device=device)
        self._boxes: BoxFrame | None = None

    def _results(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Returns views of confidence float32 and labels uint8 `[points capacity]` in an output buffer.

        The buffer may be on the host or on the device.
        """
        start = self._status_words + self.box_words
        confidence, labels = torch.split(output[start:], [self.capacity.points, self.capacity.points // 4])
        return confidence.view(torch.float32), labels.view(torch.uint8)

    def write(self, staging: Tensor, points: Tensor) -> Tensor:
        """Packs a scan float32 `[N, C]` into a host buffer like `input`. Returns the part of it that must be sent."""
        used = _HEADER + points.numel()
        staging[0] = len(points)
        staging[_HEADER:used] = points.reshape(-1).view(torch.int32)
        return staging[:used]

    def read(self, staging: Tensor, number: int) -> tuple[Status, Tensor, Tensor]:
        """Returns status, labels uint8 and confidence float32 `[number]` from a host buffer like `output`."""
        status = staging[: self._status_words].view(-1, _ROW)
        extent, farthest = status[LEVELS].view(torch.float32)[:2].tolist()
        flags = status[LEVELS + 1 :, 0].tolist()
        overflows = tuple(name for name, flag in zip(self.network.names, flags, strict=True) if flag)
        confidence, labels = self._results(staging)
        found = Status(tuple(status[:LEVELS, 0].tolist()), extent, farthest, overflows)
        return found, labels[:number], confidence[:number]

    def read_boxes(self, staging: Tensor) -> Boxes:
        """Returns the boxes from a host buffer like `output`. The network must have a box branch."""
        return read_boxes(staging[self._status_words :][: self.box_words])

    def told(self, wanted: Wanted, staging: Tensor) -> Tensor:
        """Returns the part of a buffer like `output` that holds what is wanted: the front without labels, else all."""
        return staging if wanted.labels else staging[: self._status_words + self.box_words]

    def run(self, wanted: Wanted = LABELS) -> None:
        """Computes `output` from `input`. It only launches kernels and never waits for the device.

        The buffers for boxes are made when they are first wanted, which takes a network with a box branch.
        """
        self.find_voxels()
        self.geometry.find_neighbours()
        self.compute(None if wanted.labels else self.network.for_boxes)
        if wanted.boxes:
            self._find_boxes()
        if wanted.labels:
            self._label_points()

    def _find_boxes(self) -> None:
        network = self.network
        branch = network.branch
        if branch is None:
            raise ValueError("the network has no box branch")
        if self._boxes is None:
            flags = self._flags[1 + len(network.plan.steps) :]
            answer = self.output[self._status_words :][: self.box_words]
            self._boxes = BoxFrame(
                branch, self.geometry, network.precision, network.device, network.limit, flags, answer, self._launch
            )
        self._boxes.run(self._features[branch.taken])

    def _label_points(self) -> None:
        grid = (triton.cdiv(self.capacity.points, _POINTS_BLOCK),)
        self._launch(
            kernels.label_points, grid,
            self._voxel_labels, self._voxel_confidence, self.geometry.inverse, self.geometry.number, self._labels,
            self._confidence, BLOCK=_POINTS_BLOCK,
        )  # fmt: skip

    def run_voxels(self, cells: Tensor, feats: Tensor) -> None:
        """Computes `logits` from distinct voxels `[N, 4]` (batch, x, y, z) with features `[N, C]`, both on the host.

        The cells count from a corner that is aligned to the coarsest voxel.
        """
        geometry, number = self.geometry, len(cells)
        geometry.number.fill_(number)
        geometry.cells[:number] = cells.int().to(self.network.device)
        self.points[:number] = feats.to(self.network.device)
        geometry.find_voxels()
        geometry.find_neighbours()
        self.compute()

    def find_voxels(self) -> None:
        """Runs the first part of `run`. After it the status tells how many voxels there are."""
        geometry = self.geometry
        geometry.number.copy_(self.input[:1])
        cells_of_points(
            self.points, geometry.number, self.network.voxel_size, geometry.cells, geometry.low, self._extent
        )
        geometry.find_voxels()

    def compute(self, steps: Sequence[int] | None = None) -> None:
        """Computes the voxels' logits, labels and confidence from the geometry and `points`.

        steps: the indices of those that are run, in order; by default all
        """
        self._flags.zero_()
        self._gather_inputs()
        plan = self.network.plan
        for index in range(len(plan.steps)) if steps is None else steps:
            step, packed = plan.steps[index], self.network.packed[index]
            if isinstance(step, PointMean):
                self._mean(step)
            elif packed is None:
                raise ValueError(f"step {step.name} has no weights")
            elif isinstance(step, PointFusion):
                self._fuse(step, packed, self._flags[index + 1])
            elif index == len(plan.steps) - 1:
                self._classify(step, packed)
            else:
                self._convolve(step, packed, self._flags[index + 1])

    def _gather_inputs(self) -> None:
        plan, rows = self.network.plan, 64
        self._launch(
            kernels.gather_inputs, (triton.cdiv(self.capacity.voxels[0], rows),),
            self.points, self.geometry.first, self.geometry.sizes[0], self._features[INPUT], self._flags[0],
            plan.slots[INPUT].width, SPLIT=split_input(self.network.precision),
            WIDTH=input_width(plan, self.network.precision), LIMIT=self.network.limit, BLOCK=rows,
        )  # fmt: skip

    def _convolve(self, step: Convolution, packed: Packed, flag: Tensor) -> None:
        voxels, blocks, out = self.capacity.voxels[step.level], packed.blocks, self._features[step.out]
        gather, size = self._gather(step), self.geometry.sizes[step.level]
        sources = step.sources if step.kind != "pointwise" else ()
        skips = step.pointwise if step.kind != "pointwise" else step.sources
        # The output stands in for an input that the step does not have. The kernel never reads it.
        features = self._features[sources[0].slot] if sources else out
        skip = self._features[skips[0].slot] if skips else out
        residual = out if step.residual is None else self._features[step.residual]
        inputs = self.geometry.cells if gather is None else gather.inputs
        order = (None, None, None) if gather is None else (gather.rows, gather.lists, gather.lengths)
        rows, lists, lengths = (inputs if tensor is None else tensor for tensor in order)
        parts, is_sorted = self._parts(step, packed), order[0] is not None
        end = {"RESIDUAL": step.residual is not None, "RELU": step.relu, "LIMIT": self.network.limit}
        self._launch(
            kernels.convolve, (triton.cdiv(voxels, blocks.rows), packed.out // blocks.columns, parts),
            features, packed.kernel, inputs, rows, lists, lengths, size, skip, packed.skip, packed.bias, residual,
            out if parts == 1 else self._partial, flag,
            voxels, features.stride(0), skip.stride(0), residual.stride(0), out.stride(0), packed.out_width,
            VOLUME=len(packed.kernel), LISTED=32, SORTED=is_sorted, WIDTH=packed.width, SKIP_WIDTH=packed.skip_width,
            OUT=packed.out, **(end if parts == 1 else _NO_END), SPLIT=parts > 1,
            ROWS=blocks.rows, COLUMNS=blocks.columns, DEPTH=blocks.depth, **blocks.options,
        )  # fmt: skip
        if parts > 1:
            self._launch(
                kernels.add_parts, (triton.cdiv(voxels, _SUM_ROWS), packed.out // blocks.columns),
                self._partial, parts, rows, size, packed.bias, residual, out, flag,
                voxels, residual.stride(0), out.stride(0), packed.out_width,
                SORTED=is_sorted, OUT=packed.out, **end, ROWS=_SUM_ROWS, COLUMNS=blocks.columns,
            )  # fmt: skip

    def _parts(self, step: Convolution, packed: Packed) -> int:
        """Returns the number of parts into which the sums of a convolution's tiles are split.

        It is one where a tile has few kernel rows.
        """
        if step.kind not in ("neighbours", "halving"):
            return 1
        tiles = triton.cdiv(self.capacity.voxels[step.level], packed.blocks.rows)
        return split(tiles * (packed.out // packed.blocks.columns), self.network.multiprocessors)

    def _most_partial_sums(self) -> int:
        """Returns the number of partial sums of the step that has most of them."""
        needs = [0]
        for step, packed in zip(self.network.plan.steps, self.network.packed, strict=True):
            if isinstance(step, Convolution) and packed is not None and (parts := self._parts(step, packed)) > 1:
                needs.append(parts * self.capacity.voxels[step.level] * packed.out)
        return max(needs)

    def _gather(self, step: Convolution) -> Gather | None:
        """Returns the gather of the step's convolution, None for a pointwise one."""
        geometry, level = self.geometry, step.level
        gathers: dict[str, Callable[[], Gather | None]] = {
            "neighbours": lambda: geometry.neighbours[level],
            "halving": lambda: geometry.halvings[level],
            "doubling": lambda: geometry.doublings[level],
        }
        return gathers[step.kind]() if step.kind in gathers else None

    def _fuse(self, step: PointFusion, packed: Packed, flag: Tensor) -> None:
        geometry, blocks, level = self.geometry, packed.blocks, step.level
        points, voxels, out = (self._features[slot] for slot in (step.points, step.voxels, step.out))
        grid = (triton.cdiv(self.capacity.voxels[0], blocks.rows), packed.out // blocks.columns)
        self._launch(
            kernels.fuse_points, grid,
            points, packed.kernel, packed.bias, voxels, geometry.keys[0], geometry.ancestors[level],
            geometry.tables[level], geometry.sizes[0], out, flag,
            self.capacity.voxels[level], points.stride(0), voxels.stride(0), out.stride(0), packed.out_width,
            LEVEL=level, WIDTH=packed.width, OUT=packed.out, LIMIT=self.network.limit,
            ROWS=blocks.rows, COLUMNS=blocks.columns, DEPTH=blocks.depth, **blocks.options,
        )  # fmt: skip

    def _mean(self, step: PointMean) -> None:
        points, out = self._features[step.points], self._features[step.out]
        columns = min(64, triton.next_power_of_2(out.shape[1]))
        grid = (triton.cdiv(self.capacity.voxels[step.level], _MEAN_ROWS), triton.cdiv(out.shape[1], columns))
        self._launch(
            kernels.mean_points, grid,
            points, self.geometry.starts[step.level], self.geometry.sizes[step.level], self.geometry.sizes[0], out,
            points.stride(0), out.stride(0), out.shape[1], ROWS=_MEAN_ROWS, COLUMNS=columns,
        )  # fmt: skip

    def _classify(self, step: Convolution, packed: Packed) -> None:
        features, blocks = self._features[step.sources[0].slot], packed.blocks
        self._launch(
            kernels.classify, (triton.cdiv(self.capacity.voxels[0], blocks.rows),),
            features, packed.skip, packed.bias, self.geometry.sizes[0], self.logits, self._voxel_labels,
            self._voxel_confidence, features.stride(0), self.network.plan.num_classes,
            WIDTH=packed.skip_width, OUT=packed.out, ROWS=blocks.rows, DEPTH=blocks.depth, **blocks.options,
        )  # fmt: skip
