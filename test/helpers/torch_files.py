"""Torch files as torch writes them, and with another pickle in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

CONTAINERS = [
    pytest.param({}, id="zip"),
    pytest.param({"_use_new_zipfile_serialization": False}, id="legacy"),
    pytest.param({"pickle_protocol": 4}, id="zip-protocol-4"),
    pytest.param({"pickle_protocol": 5, "_use_new_zipfile_serialization": False}, id="legacy-protocol-5"),
]


def with_pickle(path: Path, pickled: bytes) -> Path:
    """The torch zip file at `path` with another pickle in it, and sound checksums."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path
