"""A headless Chromium that looks at the viewer, and remembers what the page asked for and complained about."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SWITCHES = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SIZE = {"width": 1000, "height": 440}
_PICTURE = {"x": 240.0, "y": 160.0, "width": 420.0, "height": 270.0}
"""Between the panels and below the notice that there is no GPU."""
_PATIENCE = 60.0
_BLOCK, _NOTABLE = 10, 32
"""Pixels to a side, and of 255: what is compared with an earlier picture."""
_STILL = 4
"""Pictures after which nothing changes any more."""
_PATCH = 5
"""Pixels to a side of a patch that can be clicked."""
_MATCH = 2
"""How far a channel may be off, of 255."""

Picture = npt.NDArray[np.uint8]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips the test where Chromium or playwright is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(_SWITCHES))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def viewer(*args: str | Path) -> Iterator[str]:
    """`spvnas view ...` as a process on a free port; gives its address, and asks for exit status 0 after SIGINT."""
    command = [sys.executable, "-m", "spvnas_ros.cli", "view", *map(str, args), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        try:
            line = run.stdout.readline()
            address = re.search(r"http://\S+", line)
            assert address, f"no address in {line!r}: {run.communicate()[1]}"
            yield address.group()
            run.send_signal(signal.SIGINT)
            _, complaints = run.communicate(timeout=_PATIENCE)
            assert (run.returncode, complaints) == (0, "")
        finally:
            run.kill()


@dataclass
class Looker:
    """A page that shows the viewer.

    requests: addresses the page asked for, WebSockets too
    errors:   what it wrote to the console as an error, and exceptions nobody caught
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, browser: Browser, address: str) -> Looker:
        """Open the page and wait until it shows a frame."""
        self = cls(browser.new_page(viewport=_SIZE))  # type: ignore[arg-type]
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.goto(address)
        self.read("frame 1 of")
        return self

    def read(self, text: str | re.Pattern[str]) -> None:
        """Wait until the page says so."""
        self.page.get_by_text(text).first.wait_for(timeout=_PATIENCE * 1e3)

    def switch(self, name: str) -> None:
        """Click a class's switch in the legend."""
        self.page.get_by_label(name, exact=True).click()

    def press(self, key: str) -> None:
        """Press a key while the picture has the keyboard."""
        self.page.keyboard.press(key)

    def click_on(self, colour: tuple[int, int, int]) -> None:
        """Click into the largest patch of this colour in the picture."""
        picture = self.picture()
        alike = (np.abs(picture.astype(np.int16) - np.array(colour, np.int16)).max(axis=2) <= _MATCH).astype(float)
        summed = np.pad(alike, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        patches = summed[_PATCH:, _PATCH:] - summed[:-_PATCH, _PATCH:] - summed[_PATCH:, :-_PATCH]
        row, column = np.unravel_index((patches + summed[:-_PATCH, :-_PATCH]).argmax(), patches.shape)
        self.page.mouse.click(_PICTURE["x"] + column + _PATCH // 2, _PICTURE["y"] + row + _PATCH // 2)

    def picture(self) -> Picture:
        """What is drawn, without the panels, uint8 `[rows, columns, 3]`."""
        shot = self.page.screenshot(clip=_PICTURE)  # type: ignore[arg-type]
        return np.asarray(Image.open(BytesIO(shot)).convert("RGB"))

    def sees(self, what: Callable[[Picture], bool]) -> Picture:
        """Wait for a picture like this, and give it."""
        end = time.monotonic() + _PATIENCE
        while not what(picture := self.picture()):
            assert time.monotonic() < end, "the picture never came to look like that"
        return picture

    def settles(self, what: Callable[[Picture], bool]) -> Picture:
        """Wait until the picture is like this and several in a row are the same: classes are drawn one by one."""
        end = time.monotonic() + _PATIENCE
        before, same = self.picture(), 0
        while same < _STILL:
            assert time.monotonic() < end, "the picture never settled to look like that"
            picture = self.picture()
            same = same + 1 if what(picture) and np.array_equal(picture, before) else 0
            before = picture
        return before


def share(picture: Picture, colour: tuple[int, int, int]) -> float:
    """How much of the picture has this colour."""
    off = np.abs(picture.astype(np.int16) - np.array(colour, np.int16)).max(axis=2)
    return float((off <= _MATCH).mean())


def changed(picture: Picture, before: Picture) -> float:
    """How much of the picture looks different. Sharpness does not count: viser draws fewer pixels on a slow machine."""
    rows, columns = (size // _BLOCK * _BLOCK for size in picture.shape[:2])
    coarse = [
        shown[:rows, :columns].reshape(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK, 3).mean(axis=(1, 3))
        for shown in (picture, before)
    ]
    return float((np.abs(coarse[0] - coarse[1]).max(axis=2) > _NOTABLE).mean())
