"""A network that gives labels and boxes: where its columns stand, what does not change them, that all of it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_branch import branch_anchors, columns_of, scan_corners, shifted
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.box_targets import assign_targets, box_losses
from spvnas_ros.nets.cost import stage_costs
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.heads import HeadOutput
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.unet import LabelsAndBoxes, PointVoxelUNet
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, load_checkpoint, save_checkpoint

CLASSES = (
    BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35),
    BoxClass("person", (0.7, 0.7, 1.75), -1.65, 0.4, 0.25),
)
EDGE = 0.2


def branch(level: int = 2, merged: int = 1, reach: float = 25.6) -> BoxBranchSpec:
    return BoxBranchSpec.around(EDGE, CLASSES, width=4, reach=reach, level=level, merged=merged)


def small(point_branch: bool = True, level: int = 2) -> NetSpec:
    plain = NetSpec.of((4, 4, 6, 8, 8, 8, 8, 6, 4), (1,) * 8, point_branch=point_branch, num_classes=5)
    return replace(plain, boxes=branch(level))


def network(spec: NetSpec) -> PointVoxelUNet:
    torch.manual_seed(0)
    return PointVoxelUNet(spec).eval()


def cloud(seed: int, count: int = 2000, reach: float = 30.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-reach, -reach, -4, 0), (reach, reach, 4, 1), (count, 4))
    return torch.from_numpy(points.astype(np.float32))


@torch.no_grad()
def answer(net: PointVoxelUNet, *clouds: torch.Tensor) -> LabelsAndBoxes:
    voxels = [quantize(points, EDGE, number) for number, points in enumerate(clouds)]
    coords = torch.cat([each.coords for each in voxels])
    feats = torch.cat([points[each.first] for points, each in zip(clouds, voxels, strict=True)])
    return net.labels_and_boxes(coords, feats, len(clouds))


@given(
    st.integers(0, 2**20),
    st.integers(0, 4),
    st.integers(1, 2),
    st.tuples(*[st.floats(-40, 40)] * 3),
    st.tuples(*[st.integers(-(10**4), 10**4)] * 3),
)
def test_every_voxel_stands_in_its_column(
    seed: int, level: int, merged: int, moved: tuple[float, float, float], counted: tuple[int, int, int]
) -> None:
    """From wherever voxels are counted: the column's cell, moved by the shift, holds the voxel, to the last bit."""
    spec = branch(level, merged)
    points = cloud(seed, 300)
    points[:, :3] += torch.tensor(moved)
    voxels = quantize(points, EDGE)
    coords = voxels.coords.long() + torch.tensor([0, *counted])
    corners = scan_corners(coords, points[voxels.first], EDGE, 1)
    assert (corners[0] + coords[:, 1:] == torch.round(points[voxels.first, :3] / torch.tensor(EDGE)).long()).all()
    there = build_levels(coords).levels[level]
    columns = columns_of(spec, there, corners)
    edge = EDGE * 2**level
    assert float(columns.shifts.abs().max()) <= edge / 2 + 1e-6
    middles = (corners + there.coords[:, 1:] * 2**level + (2**level - 1) / 2) * EDGE
    low = torch.tensor(spec.point_range[:3]) + columns.shifts[0]
    cells = (middles - low) / edge
    inside = ((cells >= 0) & (cells < torch.tensor(spec.cells))).all(1)
    rows = columns.kernel_map.in_rows
    assert sorted(rows.tolist()) == torch.nonzero(inside).squeeze(1).tolist()
    places = columns.places[columns.kernel_map.out_rows]
    wide, _ = spec.columns
    torch.testing.assert_close(places % wide, (cells[rows, 0] / merged).floor().long())
    torch.testing.assert_close(places // wide, (cells[rows, 1] / merged).floor().long())
    numbers = torch.repeat_interleave(torch.arange(spec.volume), torch.tensor(columns.kernel_map.sizes))
    torch.testing.assert_close(numbers // merged**2, cells[rows, 2].floor().long())


def test_anchors_stand_in_the_middle_of_their_cells() -> None:
    spec = branch()
    anchors = branch_anchors(spec).reshape(*spec.head_cells[::-1], len(CLASSES), 2, 7)
    edge = EDGE * 4
    assert anchors.shape[:2] == (64, 64)
    x = -25.6 + (torch.arange(64) + 0.5) * edge
    torch.testing.assert_close(anchors[:, :, 1, 0, 0], x.expand(64, 64))
    torch.testing.assert_close(anchors[:, :, 0, 1, 1], x[:, None].expand(64, 64))
    moved = shifted(anchors[0, 0, 0], torch.tensor([0.1, -0.2, 0.3]))
    torch.testing.assert_close(moved - anchors[0, 0, 0], torch.tensor([[0.1, -0.2, 0, 0, 0, 0, 0]] * 2))


@pytest.mark.parametrize("point_branch", [True, False])
def test_the_labels_are_those_of_the_network_without_boxes(point_branch: bool) -> None:
    net = network(small(point_branch))
    alone = PointVoxelUNet(replace(net.spec, boxes=None)).eval()
    alone.load_state_dict({key: value for key, value in net.state_dict().items() if not key.startswith("boxes.")})
    points = cloud(1)
    voxels = quantize(points, EDGE)
    with torch.no_grad():
        logits = alone(voxels.coords, points[voxels.first])
        assert torch.equal(net(voxels.coords, points[voxels.first]), logits)
    assert torch.equal(answer(net, points).logits, logits)


def test_a_scan_has_the_same_boxes_in_any_batch() -> None:
    net = network(small())
    clouds = [cloud(1), cloud(2, 500), cloud(3, 3, 5.0), cloud(4, 50) + 500.0]
    together = answer(net, *clouds)
    assert together.boxes.classes.shape == (4, 64 * 64 * 4, 2)
    for row, points in enumerate(clouds):
        alone = answer(net, points)
        torch.testing.assert_close(together.shifts[row], alone.shifts[0])
        for name in ("classes", "boxes", "directions"):
            torch.testing.assert_close(
                getattr(together.boxes, name)[row], getattr(alone.boxes, name)[0], rtol=1e-4, atol=1e-5
            )
    # All that is seen of a cloud outside the range is that nothing is there.
    empty = net.labels_and_boxes(torch.zeros((0, 4)), torch.zeros((0, 4)), 1)
    torch.testing.assert_close(empty.boxes.classes[0], together.boxes.classes[3], rtol=1e-4, atol=1e-5)


def test_voxels_may_be_counted_from_anywhere() -> None:
    net, points = network(small()), cloud(5)
    voxels = quantize(points, EDGE)
    feats = points[voxels.first]
    with torch.no_grad():
        base = net.labels_and_boxes(voxels.coords, feats, 1)
        moved = net.labels_and_boxes(voxels.coords + torch.tensor([0, 16, -32, 48]), feats, 1)
        corners = torch.round(feats[:1, :3] / torch.tensor(EDGE)).long() - voxels.coords[:1, 1:]
        told = net.labels_and_boxes(voxels.coords, feats.half().float(), 1, corners=corners)
    torch.testing.assert_close(moved.boxes.boxes, base.boxes.boxes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.shifts, base.shifts)
    torch.testing.assert_close(told.shifts, base.shifts)


def test_boxes_come_out_where_they_were_learnt() -> None:
    """What the head would say of true boxes, by the rules of training, comes out as these boxes."""
    spec = branch()
    truth = torch.tensor([[4.1, -7.3, -0.9, 4.0, 1.8, 1.5, 0.4], [-9.2, 3.3, -0.8, 0.8, 0.6, 1.7, -2.0]])
    for seed in range(8):
        shift = columns_of(spec, build_levels(quantize(cloud(seed, 50), EDGE).coords).levels[2], torch.tensor(
            [[seed - 150, 2 * seed - 149, -20]]
        )).shifts[0]  # fmt: skip
        anchors = shifted(branch_anchors(spec), shift)
        targets = assign_targets(spec.head, anchors, truth, torch.tensor([0, 1]))
        scores = torch.full((1, len(anchors), 2), -9.0)
        found = targets.positive
        scores[0, found, targets.classes[found]] = 9.0
        turned = torch.nn.functional.one_hot(targets.directions, 2)[None].float()
        (boxes,) = detections(spec.head, HeadOutput(scores, targets.boxes[None], turned), anchors)
        assert isinstance(boxes, Boxes)
        order = np.argsort(boxes.classes)
        np.testing.assert_allclose(boxes.boxes[order], truth.numpy(), atol=1e-3)


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_gradient_reaches_every_parameter(level: int) -> None:
    spec = small(level=level)
    if level == 0:
        spec = replace(spec, boxes=replace(branch(0, 2, 6.4), width=3))
    net = network(spec).train()
    points = cloud(6, 3000, 7.0)
    points[:, 2] = points[:, 2].clamp(-3, 3)
    voxels = quantize(points, EDGE)
    said = net.labels_and_boxes(voxels.coords, points[voxels.first], 1)
    assert spec.boxes is not None
    anchors = shifted(branch_anchors(spec.boxes), said.shifts[0])
    truth = torch.tensor([[1.0, 2.0, -0.9, 4.3, 2.0, 1.6, 0.3], [-3.0, 1.0, -0.8, 0.7, 0.7, 1.75, 1.0]])
    targets = assign_targets(spec.boxes.head, anchors, truth, torch.tensor([0, 1]))
    assert bool(targets.positive.any())
    box_losses(spec.boxes.head, said.boxes, [targets]).total.backward(retain_graph=True)
    reached = {name for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert {name for name, _ in net.named_parameters() if name.startswith("boxes.")} <= reached
    said.logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


def test_real_scans_go_through(shared: Path) -> None:
    net = network(replace(small(), num_classes=19))
    points = torch.from_numpy(read_scan(shared / "data" / "kitti" / "training" / "velodyne" / "000000.bin"))
    said = answer(net, points[:, :4])
    assert torch.isfinite(said.boxes.boxes).all()
    assert said.logits.shape[1] == 19


def test_without_a_branch_boxes_are_refused() -> None:
    net = PointVoxelUNet(replace(small(), boxes=None))
    with pytest.raises(ValueError, match="no box branch"):
        net.labels_and_boxes(torch.zeros((0, 4)), torch.zeros((0, 4)), 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reach": 25.0}, "a multiple of"),
        ({"level": 5}, "level must be 0 to 4"),
        ({"merged": 0}, "merged must be a whole number from 1 on"),
        ({"bottom": 3.0, "top": -3.0}, "point_range must be"),
        ({"width": 0}, "width must be a whole number from 1 on"),
        ({"level": 0, "merged": 4}, "too large"),
        ({"reach": math.nan}, "reach must be a number"),
        ({"reach": "25.6"}, "reach must be a number, found '25.6'"),
        ({"reach": 1e6}, "expected a multiple of|cells, expected"),
        ({"level": 1.5}, "level must be a whole number"),
        ({"momentum": 5}, r"momentum must be in 0\.\.1"),
        ({"classes": ["car"]}, "classes must be BoxClass"),
        ({"classes": [CLASSES[0]] * 2}, "each with a name of its own"),
        ({"classes": [replace(CLASSES[0], bottom=math.nan)]}, "bottom must be a number"),
        ({"classes": [replace(CLASSES[0], size=(4.0, math.inf, 1.0))]}, "must have a positive size"),
    ],
)
def test_branches_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BoxBranchSpec.around(EDGE, **({"reach": 25.6, "classes": CLASSES} | wrong))  # type: ignore[arg-type]


def test_the_description_travels_with_the_weights(tmp_path: Path) -> None:
    net = network(small())
    facts = Facts(spec=net.spec, classes=tuple("abcde"), palette=((1, 2, 3),) * 5, voxel_size=EDGE)
    save_checkpoint(tmp_path / "net.safetensors", net, facts)
    loaded, again = load_checkpoint(tmp_path / "net.safetensors")
    assert again == facts
    assert torch.equal(answer(loaded, cloud(7)).boxes.boxes, answer(net, cloud(7)).boxes.boxes)
    assert "boxes" not in replace(net.spec, boxes=None).to_dict()
    for wrong in ({"score": "x"}, {"score": -3}, {"boxes": -1}, {"overlap": math.nan}, {"per_class": 1}):
        document = net.spec.to_dict()
        document["boxes"]["head"]["selection"] |= wrong
        with pytest.raises(SpecError, match=next(iter(wrong))):
            NetSpec.from_dict(document)
    with pytest.raises(CheckpointError, match=r"box branch is for voxels of 0\.2 m"):
        replace(facts, voxel_size=0.1)


def test_the_dense_layers_cost_what_they_multiply() -> None:
    net, points = network(small()), cloud(8)
    seen = []

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor], out: torch.Tensor) -> None:
        per_output = inputs[0].shape[1] * layer.kernel_size[0] ** 2  # type: ignore[index, operator]
        if isinstance(layer, torch.nn.ConvTranspose2d):
            per_output = inputs[0].shape[1]  # each output meets one input
        seen.append(out.numel() * per_output)

    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            module.register_forward_hook(count)  # type: ignore[arg-type]
    levels = build_levels(quantize(points, EDGE).coords)
    voxels = quantize(points, EDGE)
    with torch.no_grad():
        net.labels_and_boxes(voxels.coords, points[voxels.first], 1, levels)
    assert net.spec.boxes is not None
    (boxes,) = (each for each in stage_costs(net.spec, levels) if each.name == "boxes")
    assert boxes.macs - len(levels.levels[2]) * net.spec.level_width(2) * net.spec.boxes.width == sum(seen)
    assert net.boxes is not None
    assert boxes.parameters == sum(parameter.numel() for parameter in net.boxes.parameters())
