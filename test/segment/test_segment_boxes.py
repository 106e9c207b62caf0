"""`spvnas segment --boxes`: objects beside the labels, as JSON, KITTI's results and messages; resumed and scored."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.recfunctions import unstructured_to_structured
from PIL import Image

from joint_networks import write_joint
from segment_results import FRAMES, PICTURES, content, document_in, files_in, write_bag
from spvnas_cli import segmented, spvnas
from spvnas_ros.boxes.conversions import moved, wrapped
from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.frame import Boxes, Segmentation
from spvnas_ros.offline.evaluation.box_evaluation import evaluate_boxes
from spvnas_ros.offline.simulation.semantic_kitti_writer import CALIBRATION, write_calibration
from spvnas_ros.perception import Detector, Perception
from spvnas_ros.recordings.box_bags import BOXES_TOPIC, boxes_topic, read_boxes
from spvnas_ros.recordings.kitti_objects import DONT_CARE, lidar_boxes, read_calibration, read_objects
from spvnas_ros.recordings.scans import Cloud, open_source, read_scan
from spvnas_ros.segment.box_files import KittiScan, PlacedBoxes, kitti_kind, kitti_scans, placed, write_kitti
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions
from tiny_detectors import FOUND, NAMES, tiny_detector, write_detector

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.fixture(scope="module")
def detector(detector_weights: Path) -> Detector:
    return Detector.load(detector_weights, device="cpu")


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """Two frames in KITTI's layout, and labels of no object."""
    folder = tmp_path / "training"
    for part in ("velodyne", "calib", "label_2"):
        (folder / part).mkdir(parents=True)
    for number in range(2):
        name = f"{number:06d}"
        street_scan(number, 16, 200)[0].tofile(folder / "velodyne" / f"{name}.bin")
        matrices = {"P2": CALIBRATION["P2"], "R0_rect": IDENTITY, "Tr_velo_to_cam": CALIBRATION["Tr"]}
        write_calibration(folder / "calib" / f"{name}.txt", matrices)
        (folder / "label_2" / f"{name}.txt").touch()
    return folder


def rows_in(document: dict[str, object]) -> np.ndarray:
    """The boxes of a file `[B, 7]`."""
    columns = ("x", "y", "z", "length", "width", "height", "yaw")
    return np.array([[box[name] for name in columns] for box in document["boxes"]]).reshape(-1, 7)  # type: ignore


def close(found: np.ndarray, expected: np.ndarray, within: float = 1e-3) -> None:
    np.testing.assert_allclose(found[:, :6], expected[:, :6], atol=within)
    np.testing.assert_allclose(wrapped(found[:, 6] - expected[:, 6]), 0, atol=within)


def test_boxes_in_scans_of_kitti_are_json_and_results_that_evaluate_scores(
    kitti: Path, weights: Path, detector_weights: Path, detector: Detector, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, said, _ = segmented(kitti, "-w", weights, "--boxes", detector_weights, "-o", out, "--device", "cpu")
    assert status == 0
    names = [f"{place}/{n:06d}.{kind}" for place, kind in (("boxes", "json"), ("kitti", "txt")) for n in range(2)]
    assert files_in(out)[:4] == names
    assert f"{out}/boxes, {out}/kitti, " in said
    assert "This detector is untrained: the boxes mean nothing." in said
    points = read_scan(kitti / "velodyne/000001.bin")
    expected = detector(points)
    document = document_in(out, "boxes/000001.json")
    assert (document["frame"], document["classes"], len(document["boxes"])) == ("000001", [*NAMES], FOUND)
    close(rows_in(document), expected.boxes)
    assert [box["class"] for box in document["boxes"]] == [NAMES[index] for index in expected.classes]
    assert [box["points"] for box in document["boxes"]] == counts_inside(points, expected.boxes).tolist()
    summary = document_in(out, "summary.json")
    counts = [sum(box["class"] == name for n in range(2) for box in document_in(out, f"boxes/{n:06d}.json")["boxes"])
              for name in NAMES]  # fmt: skip
    assert summary["boxes"] == dict(zip(NAMES, counts, strict=True))
    written = [box for n in range(2) for box in document_in(out, f"boxes/{n:06d}.json")["boxes"]]
    sure = {name: sum(box["class"] == name and box["score"] >= 0.3 for box in written) for name in NAMES}
    assert summary["sure_boxes"] == sure
    shown = ", ".join(f"{count} {name}" for name, count in sure.items() if count)
    counted = f"{sum(sure.values())} of score 0.3 or more" + (f" ({shown})" if shown else "")
    assert f"{counted}, as pictures, viewer and node show them; {len(written)} from 0 on, in boxes" in said
    assert (summary["detector"], summary["detector_sha256"]) == ("tiny-second", detector.facts.weights_sha256)
    assert (summary["kitti_frames"], len(summary["boxes_ms"]), summary["min_score"]) == (2, 2, 0)
    results = read_objects(out / "kitti/000001.txt", scored=True)
    there = lidar_boxes(results, read_calibration(kitti / "calib/000001.txt"))
    assert 0 < len(there) < FOUND  # behind the camera there is no picture
    for row, score in zip(there, results.scores, strict=True):
        index = np.abs(expected.scores - score).argmin()
        close(row[None], expected.boxes[index][None])
    report = json.loads(spvnas("evaluate", kitti, "--boxes", out, "--json").stdout)
    assert (report["frames"], report["predictions"]) == (2, str(out / "kitti"))


def test_a_real_frame_of_kitti_is_scored(shared: Path, weights: Path, detector_weights: Path, tmp_path: Path) -> None:
    """Alone in its folder, without its picture; the labels are KITTI's own."""
    training, out = shared / "data/kitti/training", tmp_path / "out"
    arguments = ("-w", weights, "--boxes", detector_weights, "-o", out, "--device", "cpu", "--quiet")
    assert segmented(training / "velodyne/000002.bin", *arguments)[0] == 0
    assert {path.name for path in out.iterdir()} == {"boxes", "kitti", "labels", "picture.png", "summary.json"}
    report = json.loads(spvnas("evaluate", shared / "data/kitti", "--boxes", out, "--json").stdout)
    assert (report["frames"], report["without_results"]) == (1, 3)


@pytest.mark.parametrize("name", ["000000", "000001", "000002", "004139"])
def test_true_boxes_written_as_results_are_perfect(shared: Path, tmp_path: Path, name: str) -> None:
    training = shared / "data/kitti/training"
    truth = read_objects(training / "label_2" / f"{name}.txt", scored=False)
    calibration = read_calibration(training / "calib" / f"{name}.txt")
    which = [row for row, kind in enumerate(truth.kinds) if kind != DONT_CARE]
    boxes = lidar_boxes(truth, calibration)[which]
    names = tuple(dict.fromkeys(truth.kinds[row] for row in which))
    classes = np.array([names.index(truth.kinds[row]) for row in which], np.uint8)
    scores = np.linspace(0.9, 0.5, len(which), dtype=np.float32)
    found = PlacedBoxes(names, boxes, scores, classes, np.zeros(len(which), np.int64))
    write_kitti(tmp_path / f"{name}.txt", found, KittiScan(calibration, (1242, 375)))
    again = read_objects(tmp_path / f"{name}.txt", scored=True)
    assert again.kinds == tuple(truth.kinds[row] for row in which)
    np.testing.assert_allclose(again.camera, truth.camera[which], atol=2e-4)
    report = evaluate_boxes(shared / "data/kitti", tmp_path)
    whole = [ap for ap in report.around if ap.end is None and not ap.begin and ap.objects]
    assert whole
    assert all(ap.ap == pytest.approx(100) for ap in whole)


@given(st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3, *[st.floats(0.125, 9, width=32)] * 3,
                          st.floats(-3, 3, width=32)), max_size=6))  # fmt: skip
def test_boxes_stay_where_they_are_in_the_clouds_own_frame(rows: list[tuple[float, ...]]) -> None:
    """Whatever origin and mount the cloud was moved by, for the network."""
    found = Boxes(
        np.array(rows, np.float32).reshape(-1, 7), np.linspace(1, 0.5, len(rows), dtype=np.float32),
        np.zeros(len(rows), np.uint8),
    )  # fmt: skip
    for origin, mount in ((None, None), ("500000,5400000,200", None), ("1,2,3", "z=0.6,yaw=90"), (None, "roll=180")):
        sensor = Sensor(place=PlaceRule.parse(origin, mount))
        record = unstructured_to_structured(np.ones((3, 3)), np.dtype([(name, "f8") for name in "xyz"]))
        there = placed(found, ("car",), Cloud(np.ones((3, 4), np.float32), record), sensor)
        placement = sensor.placement(record)
        back = there.boxes if placement is None else moved(there.boxes, placement.matrix())
        close(back, found.boxes.astype(float), 1e-4)
        if placement is not None:
            np.testing.assert_allclose(placement.apply(there.boxes[:, :3]), found.boxes[:, :3], atol=1e-4)


@pytest.mark.parametrize("mount", [None, "yaw=-90", "z=1.73,pitch=10"])
def test_the_points_of_a_box_are_counted_where_it_is_written(mount: str | None) -> None:
    points = street_scan(0, 16, 200)[0]
    record = np.zeros(len(points), [(name, "f8") for name in ("x", "y", "z")])
    record["x"], record["y"], record["z"] = points[:, 0] + 500000.0, points[:, 1] + 5400000.0, points[:, 2]
    sensor = Sensor(place=PlaceRule.parse("500000,5400000,0", mount))
    placement = sensor.placement(record)
    assert placement is not None
    seen = placement.apply(np.stack([record[axis] for axis in "xyz"], axis=1))
    rows = np.random.default_rng(0).choice(len(points), 20, replace=False)
    boxes = np.column_stack([seen[rows], np.full((20, 3), (4.0, 2.0, 1.5)), np.linspace(-3, 3, 20)])
    found = Boxes(boxes.astype(np.float32), np.linspace(1, 0.5, 20, dtype=np.float32), np.zeros(20, np.uint8))
    cloud = Cloud(np.column_stack([seen, points[:, 3]]).astype(np.float32), record)
    there = placed(found, ("car",), cloud, sensor)
    own = np.stack([record[axis] for axis in "xyz"], axis=1)
    for box, count in zip(there.boxes, there.counts, strict=True):
        c, s = np.cos(box[6]), np.sin(box[6])
        local = (own - box[:3]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        assert abs(int((np.abs(local) <= box[3:6] / 2).all(axis=1).sum()) - count) <= 1  # one on a face
    assert there.counts.max() > 10


def test_a_map_at_another_height_has_its_boxes_in_its_own_coordinates(
    weights: Path, detector: Detector, tmp_path: Path
) -> None:
    """And the detector sees the scan at the height of its own training sensor."""
    points = street_scan(0, 16, 200)[0]
    record = np.zeros(len(points), [(name, "f8") for name in ("x", "y", "z", "intensity")])
    record["x"], record["y"] = 500000 - points[:, 1].astype(float), 5400000 + points[:, 0].astype(float)
    record["z"], record["intensity"] = points[:, 2] + 1.0, points[:, 3]
    np.save(tmp_path / "map.npy", record)
    low = write_detector(tmp_path / "low.safetensors", sensor_height=0.73)
    arguments = (tmp_path / "map.npy", "-w", weights, "--device", "cpu", "--quiet", "--boxes", low)
    place = ("--origin", "500000,5400000,0", "--mount", "z=0.73,yaw=-90")
    assert segmented(*arguments, *place, "-o", tmp_path / "out")[0] == 0
    lifted = detector(points + np.array([0, 0, 1, 0], np.float32))
    document = document_in(tmp_path / "out", "boxes/map.json")
    rows = rows_in(document)
    np.testing.assert_allclose(rows[:, 2:6], lifted.boxes[:, 2:6], atol=0.01)
    np.testing.assert_allclose(wrapped(rows[:, 6] - lifted.boxes[:, 6] - np.pi / 2), 0, atol=0.01)
    np.testing.assert_allclose(rows[:, 0], 500000 - lifted.boxes[:, 1], atol=0.01)
    np.testing.assert_allclose(rows[:, 1], 5400000 + lifted.boxes[:, 0], atol=0.01)
    assert not (tmp_path / "out/kitti").exists()


def test_boxes_of_a_bag_are_messages_with_the_clouds_stamp_and_frame(
    weights: Path, detector_weights: Path, detector: Detector, tmp_path: Path
) -> None:
    drive = write_bag(tmp_path / "drive", storage="mcap")
    arguments = (drive, "-w", weights, "--device", "cpu")
    assert segmented(*arguments, "--boxes", detector_weights, "-o", tmp_path / "out")[0] == 0
    assert segmented(*arguments, "-o", tmp_path / "plain")[0] == 0
    assert files_in(tmp_path / "out")[1:] == files_in(tmp_path / "plain")[1:]
    assert content(tmp_path / "out/bag") == content(tmp_path / "plain/bag")
    messages = read_boxes(tmp_path / "out/bag", boxes_topic(tmp_path / "out/bag", None, "--topic"))
    assert [(message.stamp, message.frame_id) for message in messages] == [
        (10**9 + number, "lidar") for number in range(FRAMES)
    ]
    with open_source(drive) as source:
        expected = [detector(frame.load().points) for frame in source]
    for message, boxes in zip(messages, expected, strict=True):
        close(message.boxes, boxes.boxes, 1e-5)
        assert message.names == tuple(NAMES[index] for index in boxes.classes)
    report = spvnas("evaluate", tmp_path / "out/bag", "--boxes", tmp_path / "out", "--truth", BOXES_TOPIC, "--json")
    assert "would be compared with itself" in report.stderr
    shutil.copytree(tmp_path / "out/bag", tmp_path / "truth")
    report = spvnas("evaluate", tmp_path / "truth", "--boxes", tmp_path / "out", "--json")
    assert {round(each["ap"], 6) for each in json.loads(report.stdout)["around"] if each["objects"]} == {100}
    assert spvnas("evaluate", drive, "--boxes", tmp_path / "plain").exit_code == 1


def test_sequences_of_a_root_stay_apart(scans: Path, weights: Path, detector_weights: Path, tmp_path: Path) -> None:
    for sequence in ("00", "08"):
        shutil.copytree(scans, tmp_path / f"root/sequences/{sequence}/velodyne")
    arguments = (tmp_path / "root", "-w", weights, "--boxes", detector_weights, "--min-score", 1, "--device", "cpu")
    status, said, _ = segmented(*arguments, "-o", tmp_path / "out")
    assert status == 0
    assert "a frame (p50): 0 of score 1 or more\n" in said
    assert files_in(tmp_path / "out")[:6] == [f"boxes/{s}/{n:06d}.json" for s in ("00", "08") for n in range(3)]
    assert document_in(tmp_path / "out", "boxes/08/000002.json")["frame"] == "08/000002"


def test_a_stopped_run_goes_on_with_its_boxes_and_with_no_other_detector(
    kitti: Path, perception: Perception, detector: Detector, tmp_path: Path
) -> None:
    out, done, asked = tmp_path / "out", [], SegmentOptions(detector=detector)
    with open_source(kitti) as source:
        with pytest.raises(Interrupted):
            segment(source, perception, out, asked, on_frame=done.append, stopped=lambda: bool(done))
        kept = out / "unfinished/000000.npz"
        before = kept.stat().st_mtime_ns, kept.read_bytes()
        other = Detector.load(write_detector(tmp_path / "other.safetensors", 1), device="cpu")
        stricter = Detector(tiny_detector(), detector.facts, device="cpu", min_score=0.5)
        for options, said in (
            (SegmentOptions(detector=other), "detector_sha256"),
            (SegmentOptions(), "detector_sha256"),
            (SegmentOptions(detector=stricter), "min_score"),
        ):
            with pytest.raises(OutputError, match=f"unfinished run with .*{said} .*, now .*start again with --force"):
                segment(source, perception, out, options)
        times: list[tuple[int, bytes]] = []
        summary = segment(
            source, perception, out, asked,
            on_written=lambda _: times.append((kept.stat().st_mtime_ns, kept.read_bytes())),
        )  # fmt: skip
        segment(source, perception, tmp_path / "whole", asked)
        assert (times[0], len(summary.boxes_ms)) == (before, 2)
        for name in files_in(tmp_path / "whole"):
            if name != "summary.json":
                assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        with pytest.raises(OutputError, match="would be replaced"):
            segment(source, perception, out)


def test_force_takes_the_boxes_of_a_run_away_and_no_others(
    kitti: Path, perception: Perception, detector: Detector, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "boxes").mkdir(parents=True)
    (out / "boxes/000001.json").write_text("mine")
    with open_source(kitti) as source:
        for force, said in ((False, "or replace with --force"), (True, "but no run has left them")):
            with pytest.raises(OutputError, match=rf"boxes/000001\.json would be replaced.* {said}"):
                segment(source, perception, out, SegmentOptions(detector=detector, force=force))
        (out / "boxes/000001.json").rename(out / "boxes/mine.json")
        segment(source, perception, out, SegmentOptions(detector=detector))
        segment(source, perception, out, SegmentOptions(force=True))
    labels = [f"labels/{number:06d}.label" for number in range(2)]
    assert files_in(out) == ["boxes/mine.json", *labels, *PICTURES, "summary.json"]


class Both:
    """A network that gives labels and boxes in one pass."""

    box_names = ("cone", "wheelbarrow")
    min_score = 0.1

    def __init__(self, perception: Perception) -> None:
        self._perception, self.facts, self.engine = perception, perception.facts, perception.engine

    def __call__(self, points: np.ndarray, scores: bool = False, *, boxes: bool = True) -> Segmentation:
        found = Boxes(np.array([[5, 0, -1, 1, 1, 1, 0]], np.float32), np.ones(1, np.float32), np.ones(1, np.uint8))
        return replace(self._perception(points, scores), boxes=found if boxes else None)


def test_boxes_of_the_labelling_network_itself_are_written_too(
    kitti: Path, perception: Perception, detector: Detector, tmp_path: Path
) -> None:
    both = Both(perception)
    with open_source(kitti) as source:
        summary = segment(source, both, tmp_path / "out")  # type: ignore[arg-type]
        other = segment(source, both, tmp_path / "other", SegmentOptions(detector=detector))  # type: ignore[arg-type]
    assert (other.detector, sum(other.boxes.values())) == ("tiny-second", 2 * FOUND)  # a detector takes their place
    assert (summary.detector, summary.boxes, summary.boxes_ms) == ("tiny", {"cone": 0, "wheelbarrow": 2}, [])
    assert document_in(tmp_path / "out", "boxes/000000.json")["boxes"][0]["class"] == "wheelbarrow"
    assert read_objects(tmp_path / "out/kitti/000000.txt", scored=True).kinds == ("Misc",)


def test_the_picture_says_how_large_it_is_and_else_it_is_kittis_usual_one(kitti: Path) -> None:
    (kitti / "image_2").mkdir()
    Image.new("RGB", (1224, 370)).save(kitti / "image_2/000000.png")
    (kitti / "image_2/000001.png").write_bytes(b"no picture")
    with open_source(kitti) as source:
        assert [scan.picture for scan in kitti_scans(source).values()] == [(1224, 370), (1242, 375)]


@pytest.mark.parametrize(
    ("text", "said"),
    [("P2: 1 2 3\n", "has no line 'R0_rect'"), (None, "has no line 'P2', which says where in the picture boxes are")],
)
def test_a_calibration_that_is_none_ends_the_run_before_anything_is_labelled(
    kitti: Path, weights: Path, detector_weights: Path, tmp_path: Path, text: str | None, said: str
) -> None:
    path = kitti / "calib/000001.txt"
    path.write_text(path.read_text().split("\n", 1)[1] if text is None else text)
    arguments = (kitti, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    status, _, error = segmented(*arguments, "--boxes", detector_weights)
    assert (status, error.count("\n")) == (1, 1)
    assert f"{path} {said}" in error
    assert not (tmp_path / "out").exists()
    assert segmented(*arguments)[0] == 0  # without boxes nobody asks for it


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--boxes", "WEIGHTS"),
            "gives labels alone; Perception.load loads it, and `spvnas segment` takes it with --weights",
        ),
        (("--boxes", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("-w", "DETECTOR"), "holds a network that gives boxes, expected one that gives labels"),
        (("--min-score", "0.5"), "finds no boxes, so there is no least score of them to choose"),
    ],
)
def test_files_in_the_wrong_place_are_one_sentence(
    kitti: Path, weights: Path, detector_weights: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    option, value = options
    file = {"WEIGHTS": weights, "DETECTOR": detector_weights}.get(value, value)
    status, _, error = segmented(kitti, "-o", tmp_path / "out", "-w", weights, "--device", "cpu", option, file)
    assert status != 0
    assert said in error
    assert not (tmp_path / "out").exists()


def test_the_words_for_classes_are_kittis() -> None:
    words = {"car": "Car", "Person": "Pedestrian", "bicyclist": "Cyclist", "Van": "Van", "bus": "Misc"}
    assert {name: kitti_kind(name) for name in words} == words


def test_the_least_score_is_also_that_of_a_networks_own_boxes(weights: Path, tmp_path: Path) -> None:
    scan = street_scan(0, 16, 200)[0]
    (tmp_path / "scans").mkdir()
    scan.tofile(tmp_path / "scans/a.bin")
    joint, out = write_joint(tmp_path / "joint.safetensors", scan), tmp_path / "out"
    plain = Perception.load(joint, device="cpu")
    whole = plain(scan).boxes
    assert whole is not None
    least = round(float(np.sort(whole.scores)[len(whole) // 2]), 3)
    more = Perception.load(joint, device="cpu", min_score=0.0)
    assert (plain.min_score, more.min_score) == (0.1, 0.0)
    assert len(more(scan).boxes or ()) > len(whole)
    arguments = (tmp_path / "scans", "-o", out, "--device", "cpu", "--quiet")
    assert segmented(*arguments, "-w", joint, "--min-score", least)[0] == 0
    summary = document_in(out, "summary.json")
    assert (summary["min_score"], len(summary["boxes_ms"])) == (least, 1)
    assert 0 < summary["boxes_ms"][0] < summary["ms"][0]
    assert sum(summary["boxes"].values()) == len(document_in(out, "boxes/a.json")["boxes"])
    assert sum(summary["boxes"].values()) == (whole.scores >= least).sum()
    assert f"(min_score {least}, now 0.9)" in segmented(*arguments, "-w", joint, "--min-score", 0.9)[2]
    assert "(other weights; min_score " in segmented(*arguments, "-w", weights)[2]
    assert "finds no boxes" in segmented(*arguments, "-w", weights, "--min-score", 0.9)[2]
    (tmp_path / "label_2").mkdir()
    said = spvnas("evaluate", tmp_path, "--boxes", out).output
    assert "whose boxes are in boxes/*.json alone" in said
    assert "--boxes" not in said
