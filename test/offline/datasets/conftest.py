"""Shared fixtures of the data sets' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelled_files import write_scan


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Sequences 00, 08 and 120, of two, one and one scans."""
    write_scan(tmp_path / "sequences" / "00", "000002", [10, 40, 0], first=1)
    write_scan(tmp_path / "sequences" / "00", "000010", [10 | 7 << 16, 252 | 8 << 16, 60, 13])
    write_scan(tmp_path / "sequences" / "08", "000000", [40])
    write_scan(tmp_path / "sequences" / "120", "000000", [81])
    return tmp_path
