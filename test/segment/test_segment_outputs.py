"""`spvnas segment`: every kind of source becomes labels or a bag, and what is wrong with a frame is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from segment_results import PICTURES, labels_in
from spvnas_cli import SPVNAS, segmented
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.engine.sample_street import street_scan, write_drive_bag
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source, read_scan
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions
from spvnas_ros.zoo.checkpoint import Facts


def test_a_folder_of_scans_becomes_label_files_a_picture_and_a_summary(
    scans: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    done = subprocess.run(
        [SPVNAS, "segment", scans, "--weights", weights, "--out", out, "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")  # no progress bar where nobody looks
    assert re.search(
        r"3 frame\(s\), [\d,]+ points labelled by tiny \(engine cpu(?:, \w+)?, device cpu\): [\d.]+ ms", done.stdout
    )
    assert "(p50)" in done.stdout
    assert "(p95)" in done.stdout
    assert "untrained" in done.stdout
    labels = labels_in(out)
    assert list(labels) == ["000000", "000001", "000002"]
    for name, raw in labels.items():
        expected = perception(read_scan(scans / f"{name}.bin")).labels
        np.testing.assert_array_equal(raw, SEMANTIC_KITTI.decode(expected))
        np.testing.assert_array_equal(SEMANTIC_KITTI.encode(raw), expected)
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["trained"], summary["skipped"]) == (3, False, [])
    assert summary["points"] == sum(summary["classes"].values()) == sum(map(len, labels.values()))
    assert sorted(os.listdir(out)) == ["labels", *PICTURES, "summary.json"]


def test_a_sequence_of_semantickitti_keeps_its_names_and_its_own_labels(
    shared: Path, weights: Path, tmp_path: Path
) -> None:
    sequence = shared / "data/semantickitti/sequences/04"
    status, _, error = segmented(sequence, "-w", weights, "-o", tmp_path / "out", "--engine", "cpu")
    assert (status, error) == (0, "")
    for name, raw in labels_in(tmp_path / "out").items():
        assert len(raw) == len(np.fromfile(sequence / "labels" / f"{name}.label", np.uint32))
    status, _, error = segmented(sequence, "-w", weights, "-o", sequence)
    assert status == 1
    assert "000000.label and 1 more would be replaced" in error


def test_one_scan_of_another_format_is_labelled(weights: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", street_scan(0, 16, 200)[0][:, :3])
    status, out, _ = segmented(tmp_path / "cloud.npy", "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert out.startswith("1 frame(s)")
    assert list(labels_in(tmp_path / "out")) == ["cloud"]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_real_bag_becomes_a_bag_of_labelled_clouds(
    shared: Path, perception: Perception, tmp_path: Path, storage: str
) -> None:
    path = shared / f"data/bags/vlp16_pointcloud2_{storage}"
    with open_source(path) as source:
        summary = segment(source, perception, tmp_path)
        expected = [perception(frame.load().points) for frame in source]
    assert (summary.frames, summary.points, summary.complete) == (4, 116827, True)
    with BagReader(path) as before, BagReader(tmp_path / "bag") as after:
        assert (after.topic, after.storage, len(after)) == (LABELLED_TOPIC, storage, 4)
        for old, new, result in zip(before, after, expected, strict=True):
            assert new.stamp == old.stamp
            points, labelled = decode(old.decode()), decode(new.decode())
            for name in points.dtype.names or ():
                assert points[name].tobytes() == labelled[name].tobytes()
            np.testing.assert_array_equal(labelled["label"], result.labels)
            np.testing.assert_array_equal(labelled["confidence"], result.confidence)
    assert sorted(os.listdir(tmp_path)) == ["bag", *PICTURES, "summary.json"]


def test_a_bad_scan_is_skipped_told_and_counted(scans: Path, weights: Path, tmp_path: Path) -> None:
    (scans / "000000.bin").write_bytes(b"not a scan")
    (scans / "000003.bin").write_bytes(bytes(17))
    status, out, error = segmented(scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 1
    assert re.search(r"skipped 000000: .*000000\.bin: 10 bytes are no multiple of 16", error)
    assert re.search(r"skipped 000003: .*000003\.bin: 17 bytes", error)
    assert out.startswith("2 frame(s)")
    assert "2 frame(s) could not be labelled" in out
    assert list(labels_in(tmp_path / "out")) == ["000001", "000002"]
    assert (tmp_path / "out" / "picture.png").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [skipped["name"] for skipped in summary["skipped"]] == ["000000", "000003"]


def test_a_bad_cloud_is_left_out_of_the_new_bag(perception: Perception, tmp_path: Path) -> None:
    points = np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    good, bad = (encode(cloud_message(array, 0, "lidar")) for array in (points, points[["x", "y"]].copy()))
    with BagWriter(tmp_path / "in") as bag:
        for stamp, raw in enumerate((good, bad, good)):
            bag.write("/points", raw, stamp)
    told = []
    with open_source(tmp_path / "in") as source:
        summary = segment(source, perception, tmp_path / "out", on_frame=told.append)
    assert [skipped and skipped.name for skipped in told] == [None, "000001", None]
    assert not summary.complete
    with BagReader(tmp_path / "out/bag") as after:
        assert [cloud.stamp for cloud in after] == [0, 2]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_bag_that_is_damaged_on_the_way_is_labelled_up_to_there(
    perception: Perception, tmp_path: Path, storage: str
) -> None:
    write_drive_bag(tmp_path / "drive", 6, columns=400, storage=storage)
    file = next(p for p in (tmp_path / "drive").iterdir() if p.suffix != ".yaml")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = bytes(8192)
    file.write_bytes(content)
    with open_source(tmp_path / "drive") as source:
        summary = segment(source, perception, tmp_path / "out")
    assert 1 <= summary.frames < 6
    assert summary.skipped[-1].name == "the rest"
    assert "is damaged" in summary.skipped[-1].reason
    with BagReader(tmp_path / "out/bag") as after:
        assert len(list(after)) == summary.frames


def test_scores_are_saved_where_they_are_asked_for(drive: Path, weights: Path, tmp_path: Path) -> None:
    assert segmented(drive, "-w", weights, "-o", tmp_path / "out", "--scores", "--device", "cpu")[0] == 0
    files = sorted((tmp_path / "out/scores").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.npy" for number in range(4)]
    with BagReader(tmp_path / "out/bag") as bag:
        for file, cloud in zip(files, bag, strict=True):
            scores, points = np.load(file), decode(cloud.decode())
            assert (scores.dtype, scores.shape) == (np.float32, (len(points), 19))
            np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-4)
            np.testing.assert_array_equal(scores.argmax(axis=1), points["label"])


def test_what_is_unlabelled_is_raw_id_0_and_in_no_class(perception: Perception, tmp_path: Path) -> None:
    points = street_scan(0, 16, 100)[0]
    points[::2, 1] = np.nan
    points.tofile(tmp_path / "half.bin")
    with open_source(tmp_path / "half.bin") as source:
        summary = segment(source, perception, tmp_path / "out")
    raw = labels_in(tmp_path / "out")["half"]
    assert (raw[::2] == 0).all()
    assert (raw[1::2] > 0).all()
    assert sum(summary.classes.values()) == len(points[1::2])
    assert list(summary.classes.values()) == sorted(summary.classes.values(), reverse=True)


def test_the_intensity_rule_reaches_the_network(perception: Perception, tmp_path: Path) -> None:
    points = street_scan(0, 16, 100)[0]
    points[:, 3] *= 255
    points.tofile(tmp_path / "s.bin")
    found = {}
    for rule, scaled in (("u8", points[:, 3] / 255), ("unit", points[:, 3]), ("none", points[:, 3] * 0)):
        with open_source(tmp_path / "s.bin", intensity=rule) as source:
            segment(source, perception, tmp_path / rule, SegmentOptions(scores=True))
        found[rule] = np.load(tmp_path / rule / "scores/s.npy")
        given = np.column_stack((points[:, :3], scaled))
        np.testing.assert_array_equal(found[rule], perception(given, scores=True).scores)
    assert not np.array_equal(found["u8"], found["unit"])
    assert not np.array_equal(found["u8"], found["none"])


def test_weights_whose_label_map_is_unknown_can_label_bags_but_not_scans(
    scans: Path, drive: Path, tmp_path: Path
) -> None:
    spec = NetSpec.spvcnn(4)
    other = Perception.from_net(PointVoxelUNet(spec).eval(), Facts(spec=spec, label_map="my-farm"), device="cpu")
    with open_source(scans) as source, pytest.raises(OutputError, match="label map 'my-farm'"):
        segment(source, other, tmp_path / "a")
    with open_source(drive) as source:
        assert segment(source, other, tmp_path / "b").frames == 4


def test_a_data_sets_root_becomes_the_benchmarks_predictions(
    shared: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    root = shared / "data/semantickitti"
    status, said, error = segmented(root, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert (status, error) == (0, "")
    assert str(tmp_path / "out/sequences") in said
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*.label")}
    scans = list(root.glob("sequences/*/velodyne/*.bin"))
    assert found == {f"sequences/{scan.parts[-3]}/predictions/{scan.stem}.label" for scan in scans}
    expected = perception(read_scan(root / "sequences/04/velodyne/000000.bin", "unit")).labels
    raw = np.fromfile(tmp_path / "out/sequences/04/predictions/000000.label", np.uint32)
    np.testing.assert_array_equal(raw, SEMANTIC_KITTI.decode(expected))


def test_pictures_have_the_palette_that_is_asked_for_and_no_other_one_goes(weights: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "cloud.npy", street_scan(0, 16, 200)[0])
    shown = {}
    for palette in ("spvnas", "semantic-kitti"):
        out = tmp_path / palette
        arguments = (tmp_path / "cloud.npy", "-w", weights, "-o", out, "--device", "cpu", "--palette", palette)
        assert segmented(*arguments)[0] == 0
        shown[palette] = (out / "picture.png").read_bytes()
    assert shown["spvnas"] != shown["semantic-kitti"]
    status, _, error = segmented(*arguments[:-1], "kitti", "-o", tmp_path / "other")
    assert status == 1
    assert "unknown palette 'kitti', expected one of spvnas, semantic-kitti" in error
    assert not (tmp_path / "other").exists()
