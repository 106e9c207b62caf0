"""Shared fixtures of the importers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden"
