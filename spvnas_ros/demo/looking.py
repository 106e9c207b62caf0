"""Starts the viewer as a user does, asks for its page and, where a browser is installed, takes a screenshot of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.request import ProxyHandler, build_opener

import numpy as np
from PIL import Image

from spvnas_ros.workers import command_of

if TYPE_CHECKING:
    from playwright.sync_api import Error, Page

_PATIENCE = 240.0
"""Seconds. A browser without a GPU draws slowly, and more slowly on a busy machine."""

_SIZE = (1440, 810)
_MIDDLE = (260, 200, 1080, 780)
"""The part of the picture between the panels, in pixels: left, top, right, bottom."""

_SWITCHES = (
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NO_NOTICE = ".mantine-Notification-root {display: none}"
"""Hides the notice that the page shows in a browser without a GPU."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_BRIGHT, _ENOUGH = 90, 0.01
"""Points have a brightness above `_BRIGHT` (of 255); the page's background is darker. The picture shows a scene where
more than the share `_ENOUGH` of its middle is bright.
"""


class LookError(Exception):
    """The viewer did not start, its page did not come, or the page drew no scene."""


class BrowserError(Exception):
    """The browser of this machine cannot be used. This is not a fault of the viewer."""


@dataclass(frozen=True)
class Look:
    """What the viewer showed.

    title:      the title of the page, as read over HTTP
    screenshot: the picture; None where none was taken
    why_not:    the reason why no picture was taken
    """

    title: str
    screenshot: Path | None = None
    why_not: str = ""


def missing_viewer() -> str:
    """Returns what is not installed for the viewer and how to install it, or "" where nothing is missing."""
    if find_spec("viser") is None:
        return "viser is not installed: pip install 'spvnas_ros[view]'"
    return ""


def look(bag: Path, picture: Path) -> Look:
    """Starts `spvnas view` on a bag, reads its page, takes a screenshot where a browser runs here, and ends the viewer.

    picture: the file that takes the screenshot

    Raises LookError.
    """
    with _viewer(bag) as address:
        title = _ask(address)
        browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        if find_spec("playwright") is None:
            return Look(title, why_not="playwright is not installed: pip install 'spvnas_ros[test]'")
        if browser is None:
            return Look(title, why_not="no Chromium is installed (Debian, Ubuntu: apt install chromium)")
        try:
            _photograph(browser, address, picture)
        except BrowserError as error:
            return Look(title, why_not=str(error))
        return Look(title, picture)


@contextmanager
def _viewer(bag: Path) -> Iterator[str]:
    command = command_of("spvnas_ros.cli", "view", str(bag), "--port", "0")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment) as run,
    ):
        assert run.stdout is not None
        try:
            address = re.search(r"http://\S+", run.stdout.readline())
            if address is None:
                run.terminate()
                run.wait(_PATIENCE)
                complaints.seek(0)
                raise LookError(f"the viewer did not start: {complaints.read().strip()}")
            yield address.group()
        finally:
            run.send_signal(signal.SIGINT)
            try:
                run.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                run.kill()


def _ask(address: str) -> str:
    """Returns the title of the page. The request ignores the proxies that the environment may name."""
    try:
        with build_opener(ProxyHandler({})).open(address, timeout=_PATIENCE) as answer:
            page = answer.read().decode(errors="replace")
    except OSError as error:
        raise LookError(f"{address} did not answer: {error}") from error
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    if title is None:
        raise LookError(f"{address} answered with something that is no page")
    return title.group(1).strip()


def _photograph(browser: str, address: str, picture: Path) -> None:
    """Writes a screenshot of the page to the file `picture`.

    Raises BrowserError where the browser does not start, and LookError where the page draws no points in time.
    """
    from playwright.sync_api import Error, sync_playwright

    switches = [*_SWITCHES, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as driver:
        try:
            window = driver.chromium.launch(executable_path=browser, args=switches, timeout=_PATIENCE * 1e3)
        except Error as error:
            raise BrowserError(f"{browser} does not start: {_first_line(error)}") from error
        try:
            picture.write_bytes(_scene(window.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]}), address))
        except Error as error:
            raise LookError(f"the page does not work in {browser}: {_first_line(error)}") from error
        finally:
            window.close()


def _scene(page: Page, address: str) -> bytes:
    """Returns the page as PNG once it has drawn its points. Raises LookError where it draws none."""
    page.set_default_timeout(_PATIENCE * 1e3)
    page.goto(address)
    page.add_style_tag(content=_NO_NOTICE)
    end, before = time.monotonic() + _PATIENCE, 0.0
    while time.monotonic() < end:
        shot = page.screenshot()
        lit = _lit(shot)
        # Two equal pictures in a row mean that the scene is complete.
        if lit > _ENOUGH and lit == before:
            return shot
        before = lit
    raise LookError(f"the browser drew no scene in {_PATIENCE:.0f} s")


def _first_line(error: Error) -> str:
    return error.message.partition("\n")[0]


def _lit(png: bytes) -> float:
    """Returns the share of bright pixels in the middle of the picture, 0..1."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB").crop(_MIDDLE))
    return float((pixels.max(axis=2) > _BRIGHT).mean())
