"""Besides the first frame, a run shows the worst one and the median, and says what decided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segment_results import FRAMES, PICTURES, document_in, street, write_bag
from spvnas_cli import segmented, spvnas
from spvnas_ros.frame import UNLABELLED, Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.gallery import choose, mean_confidence
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.picture import save_picture
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=9))
def test_the_worst_frame_has_the_lowest_value_and_as_many_are_above_the_median_as_below(
    values: list[float | None],
) -> None:
    chosen = {picture.shows: picture for picture in choose([(str(n), v) for n, v in enumerate(values)], "accuracy")}
    known = sorted(value for value in values if value is not None)
    assert list(chosen) == (["first", "median", "worst"] if len(known) > 1 else ["first"] if values else [])
    for picture in chosen.values():
        assert (picture.frame, picture.value) == (str(picture.number), values[picture.number])
    if len(known) > 1:
        assert chosen["worst"].value == known[0]
        assert chosen["median"].value == known[len(known) // 2]


def test_points_without_a_label_do_not_make_a_frame_unsure() -> None:
    labels = np.array([1, UNLABELLED, 2], np.uint8)
    assert mean_confidence(Segmentation(labels, np.array([0.5, 0, 1], np.float32))) == 0.75
    assert mean_confidence(Segmentation(labels[1:2], np.zeros(1, np.float32))) is None


def shown(path: Path) -> np.ndarray:
    """The picture below its title."""
    return np.asarray(Image.open(path))[70:]


@pytest.mark.parametrize("truth", [True, False])
def test_a_run_shows_its_worst_and_its_median_frame_and_says_what_decided(
    weights: Path, perception: Perception, tmp_path: Path, truth: bool
) -> None:
    out = tmp_path / "out"
    drive = write_bag(tmp_path / "drive", "raw")
    option = ("--truth", "label") if truth else ()
    status, text, _ = segmented(drive, "-w", weights, "-o", out, "--device", "cpu", *option)
    assert status == 0
    values = []
    for number in range(FRAMES):
        points, labels = street(number)
        result = perception(points)
        known = labels != 255
        values.append((labels == result.labels)[known].mean() if truth else result.confidence.mean(dtype=np.float64))
    order = np.argsort(values)
    by = "accuracy" if truth else "mean confidence"
    places = {"first": 0, "median": int(order[FRAMES // 2]), "worst": int(order[0])}
    expected = [
        {"file": file, "shows": shows, "frame": f"{place:06d}", "number": place, "by": by}
        | {"value": pytest.approx(values[place])}
        for file, (shows, place) in zip(PICTURES, places.items(), strict=True)
    ]
    for name in ("summary.json", *(["report.json"] if truth else [])):
        assert document_in(out, name)["pictures"] == expected
    for file, place in zip(PICTURES, places.values(), strict=True):
        points = street(place)[0]
        save_picture(tmp_path / "p.png", points, perception(points).labels, perception.facts)
        np.testing.assert_array_equal(shown(out / file), shown(tmp_path / "p.png"))
    worst = f"picture_worst.png: the worst frame, {places['worst']:06d}, {by} {values[places['worst']]:.1%}"
    assert worst in text
    assert "picture_median.png: the median frame" in text


def test_force_takes_the_pictures_of_the_earlier_run_away_and_nobody_elses(
    scans: Path, perception: Perception, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "picture_worst.png").write_bytes(b"mine")
    with open_source(scans) as source:
        for force in (False, True):
            with pytest.raises(OutputError, match=r"picture_worst.png would be replaced"):
                segment(source, perception, out, SegmentOptions(force=force))
        (out / "picture_worst.png").unlink()
        segment(source, perception, out)
    assert {file.name for file in out.glob("*.png")} == set(PICTURES)
    with open_source(scans / "000001.bin") as source:
        segment(source, perception, out, SegmentOptions(force=True))
    assert [file.name for file in out.glob("*.png")] == ["picture.png"]


def test_evaluate_shows_them_too(weights: Path, perception: Perception, tmp_path: Path) -> None:
    accuracy = []
    for number in range(3):
        points, truth = street(number)
        for folder, name, rows in (("velodyne", "bin", points), ("labels", "label", SEMANTIC_KITTI.decode(truth))):
            # Every sequence has a scan of this name: the number tells them apart.
            path = tmp_path / "set/sequences" / f"{number:02d}" / folder / f"000000.{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.tofile(path)
        accuracy.append((perception(points).labels == truth)[truth != 255].mean())
    command = ("evaluate", tmp_path / "set", "-w", weights, "--device", "cpu")
    assert json.loads(spvnas(*command, "--json").stdout)["pictures"] == []
    done = spvnas(*command, "-o", tmp_path / "out")
    assert done.exit_code == 0
    pictures = document_in(tmp_path / "out", "report.json")["pictures"]
    assert [picture["number"] for picture in pictures] == [0, *(int(n) for n in np.argsort(accuracy)[[1, 0]])]
    assert f"accuracy {min(accuracy):.1%}" in done.stdout
    for file, picture in zip(PICTURES, pictures, strict=True):
        points = street(picture["number"])[0]
        save_picture(tmp_path / "p.png", points, perception(points).labels, perception.facts)
        np.testing.assert_array_equal(shown(tmp_path / "out" / file), shown(tmp_path / "p.png"))
