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
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import shown
from view_samples import labelled_bag

if TYPE_CHECKING:
    from playwright.sync_api import Browser

COLOURS = dict(zip(SEMANTIC_KITTI.classes, shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette), strict=True))
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

        # The page may have things of its own in memory (blob:, data:).
        asked = [urlsplit(url.removeprefix("blob:")) for url in look.requests if not url.startswith("data:")]
        assert {url.netloc for url in asked} == {urlsplit(address).netloc}
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
