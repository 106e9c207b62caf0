"""`spvnas segment --truth`: scores of whole recordings, against a field or label files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from segment_results import FRAMES, content, document_in, street, write_bag, write_label_files
from spvnas_cli import segmented, spvnas
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode


def expected_iou(perception: Perception) -> dict[str, float | None]:
    """From sets of points, over the whole drive."""
    both = [(street(n)[1], perception(street(n)[0]).labels) for n in range(FRAMES)]
    truth, predicted = (np.concatenate(part) for part in zip(*both, strict=True))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    found: dict[str, float | None] = {}
    for index, name in enumerate(SEMANTIC_KITTI.classes):
        right, either = (truth == index) & (predicted == index), (truth == index) | (predicted == index)
        found[name] = right.sum() / either.sum() if (truth == index).any() else None
    return found


@pytest.mark.parametrize(
    ("truth", "kind"),
    [("raw", "<u4"), ("raw", "<u2"), ("raw", "<f4"), ("class", "|u1"), ("class", "<u4"), ("files", "")],
)
def test_with_a_truth_the_scores_are_those_of_the_whole_drive(
    weights: Path, perception: Perception, tmp_path: Path, truth: str, kind: str
) -> None:
    if truth == "files":
        path, option = write_bag(tmp_path / "drive"), ("--truth", write_label_files(tmp_path / "labels"))
    else:
        path, option = write_bag(tmp_path / "drive", truth, kind), ("--truth", "label")
    status, text, _ = segmented(path, "-w", weights, "-o", tmp_path / "out", "--device", "cpu", *option)
    assert status == 0
    report, iou = document_in(tmp_path / "out", "report.json"), expected_iou(perception)
    assert report["iou"] == pytest.approx(iou)
    assert report["miou"] == pytest.approx(np.mean([value for value in iou.values() if value is not None]))
    assert report["label_map"] == "semantic-kitti"
    assert ("class indices" if truth == "class" else "raw ids") in report["truth"]
    assert re.search(r"^road +\d", text, re.MULTILINE)
    assert re.search(r"^bicycle +-", text, re.MULTILINE)
    assert (tmp_path / "out/confusion.png").read_bytes().startswith(b"\x89PNG")


def test_real_scans_as_a_bag_are_scored_against_their_own_label_files(
    shared: Path, weights: Path, perception: Perception, tmp_path: Path
) -> None:
    sequence = shared / "data/semantickitti/sequences/04"
    truth, predicted = [], []
    with BagWriter(tmp_path / "drive", "mcap") as bag:
        for stamp, file in enumerate(sorted((sequence / "velodyne").iterdir())):
            scan = np.fromfile(file, [(name, "<f4") for name in ("x", "y", "z", "intensity")])
            bag.write("/points", encode(cloud_message(scan, stamp, "lidar")), stamp)
            predicted.append(perception(scan.view(np.float32).reshape(-1, 4)).labels)
            raw = np.fromfile(sequence / "labels" / f"{file.stem}.label", np.uint32)
            truth.append(SEMANTIC_KITTI.encode(raw))
    arguments = (tmp_path / "drive", "-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--truth", sequence)
    assert segmented(*arguments)[0] == 0
    report = document_in(tmp_path / "out", "report.json")
    known = np.concatenate(truth) != 255
    right = (np.concatenate(truth) == np.concatenate(predicted))[known]
    assert report["accuracy"] == pytest.approx(right.mean())
    assert sum(report["truth_points"].values()) == known.sum() < report["points"]
    assert report["iou"]["motorcyclist"] is None


def test_the_truth_does_not_change_the_labels(weights: Path, tmp_path: Path) -> None:
    """Neither does reading it ahead teach `auto` the scale of clouds that come later."""
    with BagWriter(tmp_path / "drive") as bag:
        for stamp, scale in enumerate((1, 255)):
            points, labels = street(0)
            names = ("x", "y", "z", "intensity", "label")
            record = np.zeros(len(points), [(name, "<f4") for name in names])
            for column, name in enumerate(names[:4]):
                record[name] = points[:, column]
            record["intensity"] *= scale
            record["label"] = labels
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    for out, option in (("a", ()), ("b", ("--truth", "label"))):
        assert segmented(tmp_path / "drive", "-w", weights, "-o", tmp_path / out, *option)[0] == 0
    assert content(tmp_path / "a/bag") == content(tmp_path / "b/bag")


def test_scans_are_scored_as_evaluate_scores_them(shared: Path, weights: Path, tmp_path: Path) -> None:
    """A whole data set's root, a sequence, and one scan, each against its own labels."""
    root = shared / "data/semantickitti"
    evaluated = spvnas("evaluate", root, "-w", weights, "--json", "--device", "cpu")
    expected = json.loads(evaluated.stdout)
    options = ("-w", weights, "--device", "cpu", "--intensity", "unit")
    assert segmented(root, "--truth", root, "-o", tmp_path / "root", *options)[0] == 0
    report = document_in(tmp_path / "root", "report.json")
    for key in ("iou", "miou", "accuracy", "ece", "by_distance", "reliability", "confusion", "frames"):
        assert report[key] == expected[key], key
    sequence = root / "sequences/04"
    for name, truth in (("sequence", sequence), ("folder", sequence / "labels")):
        assert segmented(sequence, "--truth", truth, "-o", tmp_path / name, *options)[0] == 0
    scan = sequence / "velodyne/000000.bin"
    assert segmented(scan, "--truth", sequence / "labels", "-o", tmp_path / "scan", *options)[0] == 0
    assert document_in(tmp_path / "sequence", "report.json")["frames"] == 2
    assert document_in(tmp_path / "sequence", "report.json") == document_in(tmp_path / "folder", "report.json") | {
        key: document_in(tmp_path / "sequence", "report.json")[key] for key in ("truth", "ms_p50", "ms_p95")
    }
    assert document_in(tmp_path / "scan", "report.json")["frames"] == 1


def test_a_scans_own_field_is_a_truth_too(weights: Path, perception: Perception, tmp_path: Path) -> None:
    points, labels = street(0)
    record = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", "intensity")] + [("category", "u1")])
    for column, name in enumerate(("x", "y", "z", "intensity")):
        record[name] = points[:, column]
    record["category"] = labels
    np.save(tmp_path / "scan.npy", record)
    arguments = ("-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--truth", "category")
    assert segmented(tmp_path / "scan.npy", *arguments)[0] == 0
    known = labels != 255
    right = (perception(points).labels == labels)[known].mean()
    assert document_in(tmp_path / "out", "report.json")["accuracy"] == pytest.approx(right)


def test_points_without_a_place_have_no_truth(weights: Path, tmp_path: Path) -> None:
    """As in a data set; all others count, also those that the network could not label."""
    points, labels = street(0)
    points[:50, 0] = np.nan
    folder = tmp_path / "drive"
    folder.mkdir()
    points.tofile(folder / "0.bin")
    SEMANTIC_KITTI.decode(labels).tofile(folder / "0.label")
    assert segmented(folder, "-w", weights, "-o", tmp_path / "out", "--truth", folder, "--device", "cpu")[0] == 0
    counted = document_in(tmp_path / "out", "report.json")["truth_points"]
    assert sum(counted.values()) == (labels[50:] != 255).sum()


def test_a_bad_cloud_is_left_out_told_and_counted(weights: Path, tmp_path: Path) -> None:
    points = np.ones(50, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("label", "u1")])
    good, bad = (encode(cloud_message(array, 0, "lidar")) for array in (points, points[["x", "y"]].copy()))
    with BagWriter(tmp_path / "in") as bag:
        for stamp, raw in enumerate((good, bad, good)):
            bag.write("/points", raw, stamp)
    status, said, error = segmented(tmp_path / "in", "-w", weights, "-o", tmp_path / "out", "--truth", "label")
    assert status == 1
    assert "skipped 000001" in error
    assert "1 frame(s) could not be labelled, the first is 000001" in said
    assert [stamp for stamp, _ in content(tmp_path / "out/bag")] == [0, 2]
    assert document_in(tmp_path / "out", "report.json")["truth_points"]["bicycle"] == 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing",), "missing does not exist"),
        (("scans", "--truth", "few"), "holds no labels of scan 1 of scans; expected few/1.label or few/labels/1.label"),
        (("drive", "--truth", "truth"), "no field 'truth'"),
        (("drive", "--truth", "x"), "not whole"),
        (("drive", "--truth", "odd"), r"does not list raw label id\(s\) \[1234\]"),
        (("drive", "--truth", "odd", "--label-ids", "class"), r"class indices must be 0 to 18.*\[1234\]"),
        (("drive", "--truth", "odd", "--label-ids", "colour"), "label ids are 'colour'"),
        (("drive", "--truth", "missing/labels"), "is no folder"),
        (("drive", "--truth", "scans"), "no .label files"),
        (("drive", "--truth", "few"), "1 .label files, but .* 2 clouds"),
        (("drive", "--truth", "short"), "has 8 bytes, but frame 000000 of .* has 30 points"),
        (("drive", "--out", "file"), "is a file"),
        (("drive", "--weights", "file"), "file"),
    ],
)
def test_what_the_user_can_mend_is_said_before_anything_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, files in (("scans", 0), ("few", 1), ("short", 2)):
        Path(folder).mkdir()
        np.zeros((30, 4), np.float32).tofile(f"{folder}/0.bin")
        np.zeros((30, 4), np.float32).tofile(f"{folder}/1.bin")
        for number in range(files):
            np.zeros(2, np.uint32).tofile(f"{folder}/{number}.label")
    Path("file").write_text("hello")
    record = np.full(30, 0.5, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("odd", "u2")])
    record["odd"] = 1234
    with BagWriter("drive") as bag:
        for stamp in range(2):
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
    defaults = [] if "--weights" in arguments else ["--weights", weights]
    defaults += [] if "--out" in arguments else ["--out", "out"]
    status, out, error = segmented(*arguments, *defaults)
    assert (status, out) == (1, "")
    assert re.search(says, error)
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_options_that_would_be_lost_are_refused(weights: Path, tmp_path: Path) -> None:
    for option in (("--label-ids", "raw"), ("--network-labels",), ("--truth", tmp_path, "--network-labels")):
        status, _, error = segmented(tmp_path, "-w", weights, "-o", tmp_path / "out", *option)
        assert status == 2
        assert "go with --truth FIELD" in " ".join(error.replace("│", "").split())


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("layout", ["flat", "link", "sequence after a bag"])
def test_labels_never_take_the_place_of_the_truth(
    weights: Path, tmp_path: Path, layout: str, force: tuple[str, ...]
) -> None:
    """A network that is scored against its own labels is always right."""
    source = tmp_path / "scans"
    scans = source / "velodyne" if layout.startswith("sequence") else source
    scans.mkdir(parents=True)
    (source / "labels").mkdir()
    points, labels = street(0)
    points.tofile(scans / "0.bin")
    SEMANTIC_KITTI.decode(labels).tofile(source / "labels/0.label")
    before = (source / "labels/0.label").read_bytes()
    out = source
    if layout == "link":
        out = tmp_path / "out"
        out.mkdir()
        (out / "labels").symlink_to(source / "labels")
    if layout.startswith("sequence"):
        assert segmented(write_bag(tmp_path / "bag"), "-w", weights, "-o", source)[0] == 0
    options = ("-w", weights, "--device", "cpu", *force)
    for truth in (("--truth", source / "labels"), ()):
        status, _, error = segmented(source, *truth, "-o", out, *options)
        assert status == 1, truth
        assert error.startswith("spvnas: ")
        assert (source / "labels/0.label").read_bytes() == before
    assert not (out / "report.json").exists()


def test_a_truth_of_the_same_name_elsewhere_is_another_truth(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, labels = street(0)
    (tmp_path / "scans").mkdir()
    points.tofile(tmp_path / "scans/0.bin")
    for name, truth in (("a", labels), ("b", np.roll(labels, 1))):
        (tmp_path / name / "labels").mkdir(parents=True)
        SEMANTIC_KITTI.decode(truth).tofile(tmp_path / name / "labels/0.label")
    arguments = (tmp_path / "scans", "-w", weights, "-o", tmp_path / "out", "--device", "cpu", "--truth", "labels")
    monkeypatch.chdir(tmp_path / "a")
    assert segmented(*arguments)[0] == 0
    monkeypatch.chdir(tmp_path / "b")
    status, _, error = segmented(*arguments)
    assert (status, "is of another run" in error) == (1, True)
