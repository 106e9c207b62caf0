"""`spvnas view` in a real browser: colours, legend, steps, cameras, and nothing fetched from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("viser", reason="viser is not installed: pip install 'spvnas_ros[view]'")

from browser import Looker, Picture, changed, chromium, share, viewer
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import shown
from spvnas_ros.recordings.object_tables import Objects, write_objects
from spvnas_ros.segment.box_files import PlacedBoxes, write_document
from view_samples import labelled_bag

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COLOURS = dict(zip(SEMANTIC_KITTI.classes, shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette), strict=True))
RIGHT = (54, 60, 72)
"""The colour of points that are right, where errors are shown."""
SURE = (70, 190, 120)
"""The colour of full confidence."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def sequence(shared: Path, tmp_path: Path) -> Path:
    """Two real scans, an eighth of their points each (a browser without GPU is slow), and one that is cut short."""
    real = shared / "data" / "semantickitti" / "sequences" / "07"
    if not (real / "velodyne").is_dir():
        pytest.skip(f"no real scans in {real}")
    for folder, suffix, bytes_a_point in (("velodyne", "bin", 16), ("labels", "label", 4)):
        (tmp_path / folder).mkdir()
        for file in sorted((real / folder).glob(f"*.{suffix}"))[:2]:
            points = np.fromfile(file, f"V{bytes_a_point}")
            points[::8].tofile(tmp_path / folder / file.name)
    (tmp_path / "velodyne" / "999999.bin").write_bytes(bytes(1001))
    return tmp_path


def asked_hosts(look: Looker) -> set[str]:
    """Whom the page asked for anything. It may have things of its own in memory (blob:, data:)."""
    return {urlsplit(url.removeprefix("blob:")).netloc for url in look.requests if not url.startswith("data:")}


def others(picture: Picture) -> float:
    """How much has the colour of a class that is not the road."""
    return sum(share(picture, colour) for name, colour in COLOURS.items() if name != "road")


def test_real_scans_are_shown_in_class_colours_switched_and_stepped_through(browser: Browser, sequence: Path) -> None:
    with viewer(sequence) as address:
        look = Looker.at(browser, address)
        first = look.sees(lambda picture: share(picture, COLOURS["road"]) > 0.01)
        assert others(first) > 0.005

        look.switch("road")
        without = look.sees(lambda picture: share(picture, COLOURS["road"]) == 0)
        assert others(without) > 0.005
        look.page.get_by_text("none", exact=True).click()
        look.sees(lambda picture: others(picture) == 0)
        look.page.get_by_text("all", exact=True).click()
        behind = look.settles(lambda picture: share(picture, COLOURS["road"]) > 0.01)

        look.page.mouse.click(450, 300)
        look.press("1")
        look.sees(lambda picture: changed(picture, behind) > 0.1)
        look.press("3")
        look.sees(lambda picture: changed(picture, behind) < 0.02)

        look.press("n")
        look.read("frame 2 of 3")
        look.sees(lambda picture: changed(picture, behind) > 0.02)
        look.press("n")
        look.read("1001 bytes")
        look.sees(lambda picture: share(picture, COLOURS["road"]) == 0)
        look.press("p")
        look.sees(lambda picture: share(picture, COLOURS["road"]) > 0.01)

        assert asked_hosts(look) == {urlsplit(address).netloc}
        assert look.errors == []
        look.page.close()


def test_a_bag_plays_and_shows_how_sure_the_network_was(browser: Browser, tmp_path: Path) -> None:
    labelled_bag(tmp_path / "bag", frames=30, columns=300)
    with viewer(tmp_path / "bag") as address:
        look = Looker.at(browser, address)
        look.sees(lambda picture: share(picture, COLOURS["road"]) > 0.002)
        look.press(" ")
        look.read(re.compile(r"frame ([2-9]|\d\d) of 30"))
        look.press(" ")

        look.page.get_by_label("colour by").click()
        look.page.get_by_role("option", name="confidence").click()
        # The sample is sure of everything.
        sure = look.sees(lambda picture: share(picture, COLOURS["road"]) == 0)
        assert share(sure, SURE) > 0.0005
        assert look.errors == []
        look.page.close()


def test_labels_are_compared_with_their_truth_and_a_point_is_read(browser: Browser, tmp_path: Path) -> None:
    road, building = (SEMANTIC_KITTI.classes.index(name) for name in ("road", "building"))
    points, truth = street_scan(3, 32, 400)
    for folder, labels in (("labels", truth), ("wrong", np.where(truth == road, building, truth).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        SEMANTIC_KITTI.decode(labels).tofile(tmp_path / folder / "000000.label")
    (tmp_path / "velodyne").mkdir()
    points.tofile(tmp_path / "velodyne/000000.bin")
    with viewer(tmp_path, "--labels", tmp_path / "wrong") as address:
        look = Looker.at(browser, address)
        known = int((truth != 255).sum())
        look.read(f"{1 - (truth == road).sum() / known:.1%} of {known:,} with a truth are right")
        first = look.sees(lambda picture: share(picture, COLOURS["building"]) > 0.01)
        assert share(first, COLOURS["road"]) == 0

        look.page.get_by_text("errors", exact=True).first.click()
        errors = look.sees(lambda picture: share(picture, COLOURS["vegetation"]) == 0 < share(picture, RIGHT))
        assert share(errors, COLOURS["building"]) > 0.01
        look.click_on(COLOURS["building"])
        look.read("true class")
        rows = (row.split("\t") for row in look.page.locator("table").inner_text().splitlines())
        read = dict(rows)
        assert (read["class"], read["true class"]) == ("building", "road")
        assert read.keys() >= {"intensity", "range"}

        look.press("t")
        look.sees(lambda picture: share(picture, COLOURS["road"]) > 0.01)
        assert look.page.get_by_label("colour by").input_value() == "truth"
        assert look.page.get_by_text("true class").count() == 0
        look.press("c")
        look.sees(lambda picture: share(picture, COLOURS["road"]) == 0 < share(picture, COLOURS["vegetation"]))
        look.press("x")
        look.sees(lambda picture: share(picture, RIGHT) > 0.01)
        assert asked_hosts(look) == {urlsplit(address).netloc}
        assert look.errors == []
        look.page.close()


def mint(picture: Picture) -> float:
    """How much has the colour of true boxes, which the page makes paler."""
    red, green, blue = np.moveaxis(picture.astype(np.int16), 2, 0)
    return float(((green - red > 60) & (blue - red > 25) & (green > blue)).mean())


def bluish(picture: Picture) -> float:
    """How much has the colour of a box of cars. No point is a car's."""
    red, green, blue = np.moveaxis(picture.astype(np.int16), 2, 0)
    return float(((blue - green > 25) & (green - red > 25) & (blue > 180)).mean())


def test_boxes_are_shown_with_true_ones_hidden_by_score_and_class_and_read(browser: Browser, tmp_path: Path) -> None:
    sequence, run = tmp_path / "set/sequences/00", tmp_path / "run"
    points, truth = street_scan(3, 32, 400)
    road = truth == SEMANTIC_KITTI.classes.index("road")
    for name, rows in (
        ("velodyne/000000.bin", points[road]),
        ("labels/000000.label", SEMANTIC_KITTI.decode(truth[road])),
    ):
        (sequence / name).parent.mkdir(parents=True)
        rows.tofile(sequence / name)
    boxes = np.array([[-1, 3, -0.9, 4.2, 1.8, 1.5, 0.3], [-1, -3, -0.9, 4.2, 1.8, 1.5, 0.3]])
    (tmp_path / "set/boxes/00").mkdir(parents=True)
    one = np.ones(1, np.int64)
    write_objects(tmp_path / "set/boxes/00/000000.csv", Objects(("car",), boxes[1:].astype(np.float32), one, one))
    found = PlacedBoxes(("car",), boxes[:1], np.full(1, 0.6, np.float32), np.zeros(1, np.uint8), one)
    (run / "boxes/00").mkdir(parents=True)
    write_document(run / "boxes/00/000000.json", "00/000000", found)
    (run / "summary.json").write_text("{}")
    with viewer(tmp_path / "set", "--boxes", run) as address:
        look = Looker.at(browser, address)
        look.read("boxes: 1 found, 1 true")
        look.read("1 · 1 true")
        both = look.sees(lambda picture: mint(picture) > 0.001 and bluish(picture) > 0.001)
        assert mint(both) > 0.001
        look.page.get_by_role("slider").last.press("End")  # of the least score
        look.read("0 of 1 · 1 true")
        look.sees(lambda picture: mint(picture) > 0.001 and bluish(picture) == 0)
        look.page.get_by_label("car", exact=True).last.click()
        look.sees(lambda picture: mint(picture) == bluish(picture) == 0)
        look.page.get_by_label("car", exact=True).last.click()
        look.sees(lambda picture: mint(picture) > 0.001)
        look.page.mouse.click(450, 200)
        look.press("b")
        look.sees(lambda picture: mint(picture) == 0)
        look.press("b")
        look.sees(lambda picture: mint(picture) > 0.001)
        assert look.errors == []
        look.page.close()
