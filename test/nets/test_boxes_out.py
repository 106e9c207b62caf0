"""Anchors, codes, targets, losses and the boxes that come out are those of both libraries."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import detection_golden as golden
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.box_spec import BoxHeadSpec
from spvnas_ros.nets.box_targets import BACKGROUND, IGNORED, Targets, assign_targets, box_losses, nearest_overlap
from spvnas_ros.nets.detections import candidates, detect, detections, suppressed
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.heads import HeadOutput, anchor_boxes, decode_boxes, directed, directions_of, encode_boxes

OPENPCDET = f"openpcdet_second_w4_{golden.FRAME}"
MMDET3D = f"mmdet3d_on_openpcdet_second_w4_{golden.FRAME}"


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "detection"


@pytest.fixture(scope="module")
def ops(folder: Path) -> dict[str, np.ndarray]:
    return golden.load(folder, "ops")


@pytest.fixture(scope="module")
def output(folder: Path) -> HeadOutput:
    """What the recorded head says, whose network both libraries share."""
    recorded = golden.load(folder, OPENPCDET)
    shapes = (("cls", 3), ("box", 7), ("dir_cls", 2))
    return HeadOutput(*(torch.from_numpy(recorded[f"{name}_preds"]).reshape(1, -1, n) for name, n in shapes))


def anchors_of(spec: DetectorSpec) -> Tensor:
    return anchor_boxes(spec.head, spec.bev_shape, spec.point_range)


def centred(bottom: np.ndarray) -> np.ndarray:
    """mmdetection3d's boxes, which stand on z, with z at their centre."""
    return np.concatenate([bottom[:, :2], bottom[:, 2:3] + bottom[:, 5:6] / 2, bottom[:, 3:]], axis=1)


def as_openpcdet(classes: Tensor) -> np.ndarray:
    return torch.where(classes >= 0, classes + 1, torch.where(classes == IGNORED, -1, 0)).numpy()


@pytest.mark.parametrize(("convention", "name"), [("openpcdet", OPENPCDET), ("mmdet3d", MMDET3D)])
def test_anchors_are_the_librarys(folder: Path, convention: str, name: str) -> None:
    spec = golden.spec(convention)
    anchors = anchors_of(spec)
    row = len(anchors) // spec.bev_shape[1]
    theirs = golden.load(folder, name)["anchors_row5"]
    np.testing.assert_allclose(
        anchors[5 * row : 6 * row], centred(theirs) if convention == "mmdet3d" else theirs, rtol=0, atol=4e-6
    )


def test_openpcdets_targets_and_losses(folder: Path, output: HeadOutput) -> None:
    recorded, spec = golden.load(folder, OPENPCDET), golden.spec("openpcdet")
    truth = torch.from_numpy(recorded["gt_boxes"])
    targets = assign_targets(spec.head, anchors_of(spec), truth[:, :7], truth[:, 7].long() - 1)
    assert np.array_equal(as_openpcdet(targets.classes), recorded["target/labels"])
    assert np.array_equal(targets.positive.nonzero()[:, 0], recorded["target/pos_idx"])
    np.testing.assert_allclose(targets.boxes[targets.positive], recorded["target/reg_pos"], rtol=1e-5, atol=1e-5)
    assert np.array_equal(targets.directions[targets.positive], recorded["target/dir_pos"])
    losses = box_losses(spec.head, output, [targets])
    for ours, name in ((losses.classes, "cls"), (losses.boxes, "loc"), (losses.directions, "dir")):
        theirs = golden.facts(folder, OPENPCDET)["eval_mode_losses"][f"rpn_loss_{name}"]
        assert float(ours) == pytest.approx(theirs, rel=1e-5)


def test_mmdetection3ds_targets_and_losses(folder: Path, output: HeadOutput) -> None:
    recorded, spec = golden.load(folder, MMDET3D), golden.spec("mmdet3d")
    truth = torch.from_numpy(centred(recorded["gt_bottom"]))
    targets = assign_targets(spec.head, anchors_of(spec), truth, torch.from_numpy(recorded["gt_labels"]))
    positive = targets.positive.nonzero()[:, 0]
    assert np.array_equal(positive, recorded["target/pos_idx"])
    assert np.array_equal(targets.classes[positive], recorded["target/pos_label"])
    np.testing.assert_allclose(targets.boxes[positive], recorded["target/reg_pos"], rtol=1e-5, atol=1e-5)
    assert np.array_equal(targets.directions[positive], recorded["target/dir_pos"])
    assert np.array_equal((targets.classes == IGNORED).nonzero()[:, 0], recorded["target/zero_weight_idx"])
    losses = box_losses(spec.head, output, [targets])
    for ours, name in ((losses.classes, "cls"), (losses.boxes, "bbox"), (losses.directions, "dir")):
        theirs = golden.facts(folder, MMDET3D)["losses_weighted"][f"loss_{name}"]
        assert float(ours) == pytest.approx(theirs, rel=1e-5)


def test_crafted_targets_are_openpcdets(ops: dict[str, np.ndarray]) -> None:
    spec = DetectorSpec.second("openpcdet", 4, point_range=ops["assign/range"])
    truth = torch.from_numpy(ops["assign/gt"])
    targets = assign_targets(spec.head, anchors_of(spec), truth[:, :7], truth[:, 7].long() - 1)
    assert np.array_equal(as_openpcdet(targets.classes), ops["assign/labels"])
    assert np.array_equal(targets.positive.nonzero()[:, 0], ops["assign/pos_idx"])
    np.testing.assert_allclose(targets.boxes[targets.positive], ops["assign/reg_pos"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_a_box_that_no_anchor_touches_is_nobodys(convention: str) -> None:
    spec = golden.spec(convention)
    far = torch.tensor([[300.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]])
    targets = assign_targets(spec.head, anchors_of(spec), far, torch.tensor([0]))
    assert (targets.classes == BACKGROUND).all()
    assert not targets.boxes.any()


@torch.no_grad()
def test_the_full_range_has_openpcdets_targets_and_boxes(shared: Path, folder: Path) -> None:
    recorded, net = golden.load(folder, f"{OPENPCDET}_full"), golden.trained_once(folder, full=True)
    head, anchors = net.spec.head, anchors_of(net.spec)
    out = net(*net.voxels([torch.from_numpy(golden.in_range(golden.points(shared), net.spec.point_range))]), 1)
    assert_boxes_are(recorded, head, out, anchors)
    (boxes,) = detect(net, [torch.from_numpy(golden.points(shared))])
    np.testing.assert_allclose(boxes.boxes[:, :6], recorded["post/final_boxes"][:, :6], rtol=1e-3, atol=1e-3)
    assert boxes.classes.tolist() == (recorded["post/final_labels"] - 1).tolist()
    truth = torch.from_numpy(recorded["gt_boxes"])
    targets = assign_targets(head, anchors, truth[:, :7], truth[:, 7].long() - 1)
    assert np.array_equal(targets.positive.nonzero()[:, 0], recorded["target/pos_idx"])
    assert np.array_equal(targets.classes[targets.positive] + 1, recorded["target/pos_label"])
    np.testing.assert_allclose(targets.boxes[targets.positive], recorded["target/reg_pos"], rtol=1e-5, atol=1e-5)
    assert np.array_equal((targets.classes == IGNORED).nonzero()[:, 0], recorded["target/ignored_idx"])
    facts = golden.facts(folder, OPENPCDET)["full_range"]
    nothing = assign_targets(head, anchors, truth[:0, :7], truth[:0, 7].long())
    for each, name in ((targets, "losses"), (nothing, "losses_without_gt")):
        losses = box_losses(head, out, [each])
        for ours, part in ((losses.classes, "cls"), (losses.boxes, "loc"), (losses.directions, "dir")):
            assert float(ours) == pytest.approx(facts[name][f"rpn_loss_{part}"], rel=1e-5)


def assert_boxes_are(recorded: dict[str, np.ndarray], head: BoxHeadSpec, out: HeadOutput, anchors: Tensor) -> None:
    found = candidates(head, out, anchors)
    order = np.argsort(recorded["post/pre_idx"])
    assert np.array_equal(found.anchors, recorded["post/pre_idx"][order])
    np.testing.assert_allclose(found.boxes, recorded["post/pre_boxes"][order], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.scores, recorded["post/pre_scores"][order], rtol=1e-4, atol=1e-5)
    assert np.array_equal(found.classes + 1, recorded["post/pre_labels"][order])
    kept = suppressed(head, found)
    assert np.array_equal(kept.anchors, recorded["post/final_idx"])
    assert np.array_equal(kept.classes + 1, recorded["post/final_labels"])
    np.testing.assert_allclose(kept.boxes, recorded["post/final_boxes"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(kept.scores, recorded["post/final_scores"], rtol=1e-4, atol=1e-5)


def test_openpcdets_boxes_come_out(folder: Path, output: HeadOutput) -> None:
    spec = golden.spec("openpcdet")
    assert_boxes_are(golden.load(folder, OPENPCDET), spec.head, output, anchors_of(spec))


def test_mmdetection3ds_boxes_come_out(folder: Path, output: HeadOutput) -> None:
    recorded, spec = golden.load(folder, MMDET3D), golden.spec("mmdet3d")
    kept = suppressed(spec.head, candidates(spec.head, output, anchors_of(spec)))
    assert np.array_equal(kept.classes, recorded["pred_labels"])
    np.testing.assert_allclose(kept.boxes, centred(recorded["pred_boxes_bottom"]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(kept.scores, recorded["pred_scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_what_comes_out_travels_as_boxes(output: HeadOutput, convention: str) -> None:
    spec = golden.spec(convention)
    anchors = anchors_of(spec)
    empty = HeadOutput(output.classes - 100, output.boxes, output.directions)
    parts = ("classes", "boxes", "directions")
    both = HeadOutput(*(torch.cat([getattr(output, part), getattr(empty, part)]) for part in parts))
    first, second = detections(spec.head, both, anchors)
    kept = suppressed(spec.head, candidates(spec.head, output, anchors))
    assert len(first) == len(kept) > 0
    assert isinstance(first, Boxes)
    assert (np.diff(first.scores) <= 0).all()
    assert (np.abs(first.boxes[:, 6]) <= math.pi + 1e-6).all()
    turns = (kept.boxes[:, 6].numpy() - first.boxes[:, 6]) / (2 * math.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)
    assert len(second) == 0


def test_a_code_that_means_no_box_does_not_come_out(output: HeadOutput) -> None:
    spec = golden.spec("openpcdet")
    anchors = anchors_of(spec)
    best = candidates(spec.head, output, anchors).anchors[0]
    boxes = output.boxes.clone()
    boxes[0, best, 3] = 1000.0
    found = candidates(spec.head, replace(output, boxes=boxes), anchors)
    assert best not in found.anchors
    assert len(found) == len(candidates(spec.head, output, anchors)) - 1


def test_codes_and_overlaps_are_openpcdets(ops: dict[str, np.ndarray]) -> None:
    truth, anchors = torch.from_numpy(ops["coder/gt"]), torch.from_numpy(ops["coder/anchor"])
    codes = encode_boxes(truth, anchors)
    np.testing.assert_allclose(codes, ops["coder/target"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decode_boxes(codes, anchors), ops["coder/decoded"], rtol=1e-5, atol=1e-5)
    a, b = torch.from_numpy(ops["iou/a"]), torch.from_numpy(ops["iou/b"])
    np.testing.assert_allclose(nearest_overlap(a, b), ops["iou/nearest_bev"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "offset"), [("openpcdet_0.78539", 0.78539), ("mmdet3d_-1.5707", -math.pi / 2), ("mmdet3d_0.7854", 0.7854)]
)
def test_directions_are_the_librarys(ops: dict[str, np.ndarray], name: str, offset: float) -> None:
    assert np.array_equal(directions_of(torch.from_numpy(ops["dir/yaw"]), offset), ops[f"dir/target_{name}"])


def test_the_directions_begin_elsewhere_in_the_two_libraries() -> None:
    offsets = [golden.spec(convention).head.direction_offset for convention in ("openpcdet", "mmdet3d")]
    assert [int(directions_of(torch.zeros(1), offset)) for offset in offsets] == [1, 0]
    yaws = [[float(directed(torch.tensor([0.3]), torch.tensor([k]), o)) for k in (0, 1)] for o in offsets]
    np.testing.assert_allclose(yaws, [[3.4416, 6.5832], [0.3, 3.4416]], atol=1e-4)


@given(yaw=st.floats(-20, 20), offset=st.floats(-4, 4))
def test_a_yaw_comes_back_from_its_direction(yaw: float, offset: float) -> None:
    assume(0.01 < (yaw - offset) % math.pi < math.pi - 0.01)  # on the edge of a half circle either side is right
    there = torch.tensor([yaw], dtype=torch.float64)
    back = directed(there + math.pi, directions_of(there, offset), offset)
    assert math.cos(float(back - there)) == pytest.approx(1, abs=1e-6)


def test_losses_of_a_batch_are_divided_as_each_library_does(output: HeadOutput) -> None:
    crowd, calm = torch.full((len(output.classes[0]),), BACKGROUND), torch.full((len(output.classes[0]),), BACKGROUND)
    crowd[:30], calm[0] = 0, 0
    zeros = torch.zeros(len(crowd), 7), torch.zeros(len(crowd), dtype=torch.long)
    targets = [Targets(each, *zeros) for each in (crowd, calm)]
    both = HeadOutput(*(torch.cat([part, part]) for part in (output.classes, output.boxes, output.directions)))
    frame, batch = (golden.spec(convention).head for convention in ("openpcdet", "mmdet3d"))
    alone = [[box_losses(head, output, [each]).boxes for each in targets] for head in (frame, batch)]
    torch.testing.assert_close(box_losses(frame, both, targets).boxes, (alone[0][0] + alone[0][1]) / 2)
    torch.testing.assert_close(box_losses(batch, both, targets).boxes, (30 * alone[1][0] + alone[1][1]) / 31)
