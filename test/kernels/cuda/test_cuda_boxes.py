"""The box branch on the device is the one that `nets.box_branch` defines, on whole real scans and at every level.

The features are random: what comes before the branch is tested elsewhere, and takes Triton's interpreter too long.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import on_device  # isort: skip  # first: it decides how triton runs
from spvnas_ros.engine.cuda.box_frame import BoxFrame, answer_words, read_boxes
from spvnas_ros.engine.cuda.packed_branch import pack_branch
from spvnas_ros.engine.cuda.packed_weights import HalfRangeError
from spvnas_ros.engine.plan import Plan, PointMean, Slot
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.kernels.cuda.blocks import DTYPES, Precision, pad
from spvnas_ros.kernels.cuda.geometry import Capacity, Geometry, cells_of_points
from spvnas_ros.kernels.cuda.launch import run
from spvnas_ros.nets.box_branch import BoxBranch, branch_anchors, columns_of, shifted
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass, Selection
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.heads import HeadOutput
from spvnas_ros.sparse import build_levels, quantize

DEVICE, TILE_ROWS = on_device.DEVICE, on_device.TILE_ROWS
EDGE, WIDTH = 0.2, 5
CLASSES = (
    BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),
    BoxClass("person", (0.7, 0.7, 1.75), -1.65, 0.4, 0.25),
)


def branch_at(level: int, selection: Selection) -> BoxBranch:
    """A branch whose width fills no block and whose BatchNorms have something to say."""
    torch.manual_seed(level)
    spec = BoxBranchSpec.around(EDGE, CLASSES, width=6, reach=12.8, level=level, merged=2 if level < 2 else 1)
    branch = BoxBranch(replace(spec, head=replace(spec.head, selection=selection)), WIDTH).eval()
    with torch.no_grad():
        for module in branch.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.3, 0.6)
                module.bias.normal_(0.2, 0.1)
        branch.head.classes.weight.mul_(3)
        branch.head.classes.bias.fill_(-2.5)
    return branch


def frame_of(branch: BoxBranch, precision: Precision, geometry: Geometry, names: list[str]) -> tuple[BoxFrame, Tensor]:
    """The branch's frame over a geometry, and its answer; fills `names` with those of its steps."""
    plan = Plan((PointMean("last", 0, 0, 0),), (Slot(branch.spec.level, WIDTH),) * 2, 1, taken=1)
    packed = pack_branch(branch, plan, precision, DEVICE, TILE_ROWS)
    names[:] = packed.names
    flags = torch.zeros(len(names), 4, dtype=torch.int32, device=DEVICE)
    answer = torch.zeros(answer_words(packed), dtype=torch.int32, device=DEVICE)
    limit = 65504.0 if precision == "fp16" else 0.0
    return BoxFrame(packed, geometry, precision, DEVICE, limit, flags, answer, run), answer


def voxels_of(scan: np.ndarray) -> tuple[Geometry, Tensor]:
    """A geometry with a scan's voxels, and the voxel from which they are counted."""
    points = torch.from_numpy(scan).to(DEVICE)
    levels = build_levels(quantize(torch.from_numpy(scan), EDGE).coords)
    geometry = Geometry(Capacity.with_room(len(scan), [len(each) for each in levels.levels]), TILE_ROWS, DEVICE)
    geometry.number.fill_(len(points))
    room = torch.zeros(geometry.capacity.points, points.shape[1], device=DEVICE)
    room[: len(points)] = points
    extent = torch.zeros(2, device=DEVICE)
    cells_of_points(room, geometry.number, torch.tensor(EDGE, device=DEVICE), geometry.cells, geometry.low, extent)
    geometry.find_voxels()
    return geometry, geometry.low[1:].long().cpu()


def reference(branch: BoxBranch, scan: np.ndarray, feats: Tensor, corner: Tensor) -> tuple[HeadOutput, Boxes]:
    level = build_levels(quantize(torch.from_numpy(scan), EDGE).coords).levels[branch.spec.level]
    with torch.inference_mode():
        columns = columns_of(branch.spec, level, corner[None])
        said = branch(feats, columns, 1)
        (boxes,) = detections(branch.spec.head, said, shifted(branch_anchors(branch.spec), columns.shifts[0]))
    return said, boxes


SELECTIONS = (Selection(0.1, 4096, 0.01, False, 500), Selection(0.12, 60, 0.2, True, 30))


@pytest.mark.parametrize(
    ("level", "selection", "precision"),
    [(0, 0, "fp32"), (1, 1, "fp32"), (2, 0, "fp16"), (2, 1, "fp32"), (3, 0, "fp32"), (4, 0, "fp32"), (4, 1, "fp16")],
)
def test_boxes_in_a_whole_scan_are_those_of_the_definition(
    full_scan: np.ndarray, level: int, selection: int, precision: Precision
) -> None:
    """Off the range's voxels, too: the scan is moved, and what lies beyond the range stands in no column."""
    scan = full_scan[::8] + np.float32([3.07, -1.21, 0.4, 0])
    branch = branch_at(level, SELECTIONS[selection])
    geometry, corner = voxels_of(scan)
    names: list[str] = []
    frame, answer = frame_of(branch, precision, geometry, names)
    size = int(geometry.sizes[level, 0])
    feats = torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(1))
    stored = torch.zeros(geometry.capacity.voxels[level], pad(WIDTH), dtype=DTYPES[precision], device=DEVICE)
    stored[:size, :WIDTH] = feats.to(DEVICE)
    with torch.inference_mode():
        frame.run(stored)
    said, expected = reference(branch, scan, feats, corner)
    kinds = branch.spec.head.anchors_per_cell
    counts = [kinds * each.shape[2] for each in (said.classes, said.boxes, said.directions)]
    parts = torch.split(frame.head[:, : sum(counts)].cpu(), counts, dim=1)
    for ours, theirs in zip(parts, (said.classes, said.boxes, said.directions), strict=True):
        error = (ours.reshape(theirs[0].shape) - theirs[0]).abs().max() / theirs.abs().max()
        assert error <= (1e-4 if precision == "fp32" else 2e-2)
    found = read_boxes(answer.cpu())
    assert len(expected) > 3
    if precision == "fp32":
        np.testing.assert_array_equal(found.classes, expected.classes)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
        with torch.inference_mode():
            frame.run(stored)
        np.testing.assert_array_equal(read_boxes(answer.cpu()).boxes, found.boxes)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_boxes_ask_the_device_nothing(selection: Selection) -> None:
    """Like `test_a_frame_asks_the_device_nothing`: on the device without data, asking for a value is an error."""
    branch, device, launched = branch_at(2, selection), torch.device("meta"), list[str]()
    geometry = Geometry(Capacity(1024, (1024,) * 5), TILE_ROWS, device)
    plan = Plan((PointMean("last", 0, 0, 0),), (Slot(2, WIDTH),) * 2, 1, taken=1)
    packed = pack_branch(branch, plan, "fp16", device, TILE_ROWS)
    flags, answer = (torch.zeros(shape, dtype=torch.int32, device=device) for shape in ((40, 4), answer_words(packed)))

    def record(kernel: Any, *_: object, **__: object) -> None:
        launched.append(kernel.__name__)

    frame = BoxFrame(packed, geometry, "fp16", device, 65504.0, flags[: len(packed.names)], answer, record)
    with torch.inference_mode():
        frame.run(torch.zeros(1024, pad(WIDTH), dtype=torch.float16, device=device))
    assert launched[0] == "mark_columns"
    assert launched.count("finish_plane") == len(packed.names) - 1
    assert launched[-2:] == ["find_overlaps", "suppress"]


def test_values_that_half_precision_cannot_hold_are_found_in_the_birds_eye_view(full_scan: np.ndarray) -> None:
    branch, names = branch_at(4, SELECTIONS[0]), list[str]()
    geometry, _ = voxels_of(full_scan[::50])
    with torch.no_grad():
        branch.bev.stages[1].layers[0].norm.bias.fill_(1e5)
    frame, _ = frame_of(branch, "fp16", geometry, names)
    with torch.inference_mode():
        frame.run(torch.zeros(geometry.capacity.voxels[4], pad(WIDTH), dtype=torch.float16, device=DEVICE))
    raised = [name for name, flag in frame.flags.items() if int(flag[0])]
    assert raised[0] == "boxes.bev.1.layers.0"
    with torch.no_grad():
        branch.bev.stages[0].up.norm.weight.fill_(1e7)
    with pytest.raises(HalfRangeError, match=r"the weights of boxes\.bev\.0\.up"):
        frame_of(branch, "fp16", geometry, names)


def test_a_selection_that_compares_too_many_boxes_is_refused(full_scan: np.ndarray) -> None:
    branch = branch_at(0, Selection(0.1, 20_000, 0.1, True, 100))
    assert math.prod(branch.spec.head_cells) * branch.spec.head.anchors_per_cell == 16384
    with pytest.raises(UserError, match=r"compares 32768 boxes with each other, expected .*16384 at most"):
        frame_of(branch, "fp32", voxels_of(full_scan[::50])[0], [])
