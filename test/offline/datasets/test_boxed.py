"""KITTI's object set and simulated drives as one protocol of scans with boxes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection_golden import CROP, FRAME, facts, load
from labelled_files import write_kitti
from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.boxes.inside import counts_inside, rows_inside
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.datasets.boxed import BoxedDrives, join_boxed, open_boxed
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.recordings.object_tables import HEADER, Objects, read_objects_of, write_objects


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street in three formats, seen by a small sensor that does not deskew."""
    out = tmp_path_factory.mktemp("boxed") / "drive"
    plan = Plan("vlp16", 2, seed=6, kind="urban", formats=("semantic-kitti", "kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [2]
    return out


def test_boxes_of_a_drive_hold_the_points_of_their_objects(drive: Path) -> None:
    dataset = open_boxed(drive)
    assert isinstance(dataset, BoxedDrives)
    kinds = set()
    for index in range(len(dataset)):
        scan, instances = dataset[index], dataset.scans[index].instances
        assert scan.labels is not None
        objects = scan.objects
        kinds |= set(objects.kinds)
        assert (objects.boxes[:, 0] < 0).any()
        assert (objects.boxes[:, 0] > 0).any()
        assert set(objects.occlusion.tolist()) == {0, 1, 2}
        assert objects.counts.sum() == (instances > 0).sum()
        assert (np.abs(objects.boxes[:, 6]) <= np.float32(np.pi)).all()
        for row, rows in enumerate(rows_inside(scan.points, objects.boxes + np.float32((0, 0, 0, 0.3, 0.3, 0.3, 0)))):
            own, counts = np.unique(instances[rows][instances[rows] > 0], return_counts=True)
            best = own[counts.argmax()]
            # Echoes on an edge lie between the object and what is behind it; of few points, that may be one.
            assert counts.max() >= min(0.8 * objects.counts[row], objects.counts[row] - 1), objects.kinds[row]
            assert (instances == best).sum() == objects.counts[row]
            label = np.bincount(scan.labels[instances == best], minlength=256).argmax()
            assert SEMANTIC_KITTI.classes[label] == objects.kinds[row]
    assert kinds <= set(SEMANTIC_KITTI.classes[:8])
    assert {"car", "bicycle", "bicyclist"} <= kinds


def test_both_formats_of_a_drive_agree(drive: Path) -> None:
    around, ahead = open_boxed(drive), open_boxed(drive / "kitti")
    for index in range(2):
        table, lines = around[index].objects, ahead[index].objects
        assert 0 < len(lines) < len(table)
        for row, box in enumerate(lines.boxes):
            nearest = int(np.abs(table.boxes[:, :3] - box[:3]).sum(1).argmin())
            # KITTI's files have two decimals; where the road slopes, what is tall leans a little against the table's.
            np.testing.assert_allclose(box[:6], table.boxes[nearest, :6], atol=0.05)
            assert wrapped(box[6] - table.boxes[nearest, 6]) == pytest.approx(0, abs=0.02)
            assert lines.occlusion[row] == table.occlusion[nearest]


def test_kitti_frames_are_what_openpcdet_learns_from(shared: Path) -> None:
    dataset = open_boxed(shared / "data" / "kitti")
    index = [dataset.name(i) for i in range(len(dataset))].index(FRAME)
    scan, recorded = dataset[index], load(shared / "golden" / "detection", "openpcdet_second_w4_004139")
    low, high = np.float32(CROP[:2]), np.float32(CROP[3:5])
    within = scan.points[((scan.points[:, :2] >= low) & (scan.points[:, :2] <= high)).all(1)]
    digest = hashlib.sha256(within.tobytes()).hexdigest()
    assert digest.startswith(facts(shared / "golden" / "detection", "openpcdet_second_w4_004139")["sha_masked_points"])
    assert scan.objects.kinds == tuple(map(str, recorded["gt_names"]))
    np.testing.assert_allclose(scan.objects.boxes[:, :6], recorded["gt_lidar"][:, :6], atol=1e-4)
    np.testing.assert_allclose(wrapped(scan.objects.boxes[:, 6] - recorded["gt_lidar"][:, 6]), 0, atol=1e-6)
    assert scan.labels is None
    np.testing.assert_array_equal(scan.objects.counts, counts_inside(scan.points, scan.objects.boxes))
    assert (scan.objects.counts > 0).all()


def test_several_sources_are_one(drive: Path, shared: Path) -> None:
    parts = [open_boxed(drive), open_boxed(shared / "data" / "kitti")]
    joined = join_boxed(parts)
    assert len(joined) == 6
    assert joined.name(2) == "000000 (source 2 of 2)"
    assert joined[5].name == parts[1][3].name
    assert [joined.spread(2).name(i) for i in range(2)] == [joined.name(0), joined.name(5)]
    changed = joined.inventory()
    table = drive / "boxes" / "00" / "000001.csv"
    before = table.read_bytes()
    table.write_bytes(before.replace(b"car,", b"bus,", 1))
    try:
        assert {name for name, size in joined.inventory().items() if changed[name] != size} == {
            "source 1: boxes/00/000001.csv"
        }
    finally:
        table.write_bytes(before)


def test_tables_are_read_back(tmp_path: Path) -> None:
    objects = Objects(
        ("car", "a, kind"),
        np.array([[1, 2, 3, 4, 5, 6, -3.1], [0.5, 0, 0, 0, 0, 0, 0]], np.float32),
        np.array([7, 0]),
        np.array([2, -1]),
    )
    write_objects(tmp_path / "a.csv", objects)
    found = read_objects_of(tmp_path / "a.csv")
    assert found.kinds == objects.kinds
    np.testing.assert_allclose(found.boxes, objects.boxes, atol=1e-4)
    np.testing.assert_array_equal(found.counts, objects.counts)
    np.testing.assert_array_equal(found.occlusion, objects.occlusion)
    assert found.ids is None
    known = replace(objects, ids=np.array([5, 2**40]))
    write_objects(tmp_path / "b.csv", known)
    np.testing.assert_array_equal(read_objects_of(tmp_path / "b.csv").ids, known.ids)
    np.testing.assert_array_equal(known.among(np.array([1, 0])).ids, [2**40, 5])
    assert Objects.joined([known, known]).ids is None
    with pytest.raises(ValueError, match="no two the same"):
        replace(objects, ids=np.array([5, 5]))
    write_objects(tmp_path / "none.csv", Objects.none())
    assert len(read_objects_of(tmp_path / "none.csv")) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car,1,2,3", r"line 3 has 4 words, expected 11"),
        ("car,1,2,3,4,5,6,nan,7,0,4", r"line 3: box 0 of the line has the yaw nan"),
        ("car,1,2,3,-4,5,6,0,7,0,4", r"line 3: box 0 of the line has the length -4, expected a size of 0 or more"),
        ("car,1,2,3,4,5,6,0,7.5,0,4", r"line 3: .*'7.5'"),
        ("car,1,2,3,4,5,6,0,7,0,", r"line 3: .*''.*; expected numbers, and whole ones for points, occlusion and id"),
        ("car,1,2,3,4,5,6,0,7,0,3", r"line 3 has the id 3 of line 2, expected each object once"),
        (f"car,1,2,3,4,5,6,0,7,0,{10**30}", r"line 3 has the number 10+, expected 9007199254740992 at most"),
        ("car,1,2,x,4,5,6,0,7,0,4", r"line 3: .*'x'"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(drive: Path, line: str, message: str) -> None:
    table = drive / "boxes" / "00" / "000000.csv"
    before = table.read_text()
    table.write_text(f"{','.join(HEADER)}\ncar,1,2,3,4,5,6,0,7,0,3\n{line}\n")
    try:
        with pytest.raises(DatasetError, match=rf"000000\.csv, {message}"):
            open_boxed(drive)[0]
        table.write_text("kind,x\n")
        with pytest.raises(DatasetError, match=r"000000\.csv, line 1 has 'kind,x', expected 'kind,x,y"):
            open_boxed(drive)[0]
        table.unlink()
        with pytest.raises(
            DatasetError, match=r"000000\.csv is missing \(one of 1\); .* --format semantic-kitti,boxes"
        ):
            open_boxed(drive)
    finally:
        table.write_text(before)


def test_what_has_no_boxes_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist; expected KITTI's object set"):
        open_boxed(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="has no boxes; expected"):
        open_boxed(tmp_path)
    root = write_kitti(tmp_path, ["Unicorn" + " 0" * 14], np.ones((1, 4)))
    with pytest.raises(DatasetError, match=r"000007\.txt, line 1 has the class 'Unicorn', expected one of Car"):
        open_boxed(root)[0]
    with pytest.raises(DatasetError, match="no sequences '08' to choose"):
        open_boxed(root, sequences="08")
