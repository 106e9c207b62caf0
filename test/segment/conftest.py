"""Recordings to label, and what came of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spvnas_ros.engine.sample_street import street_scan, write_drive_bag


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of three scans of a street."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(3):
        street_scan(number, 16, 360)[0].tofile(folder / f"{number:06d}.bin")
    return folder


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A bag of four clouds of a street."""
    write_drive_bag(tmp_path / "drive", 4, beams=16, columns=200)
    return tmp_path / "drive"
