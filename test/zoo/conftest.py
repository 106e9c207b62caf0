"""Shared fixtures of the zoo's tests."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model_site import Site, published
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.cards import Card, find_card
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def file() -> bytes:
    """A small network, as mit-han-lab publishes its own."""
    return published(NetSpec.spvcnn(4))


@pytest.fixture
def card(file: bytes) -> Card:
    """A card of a model that is small enough for a test, with a published hash."""
    return dataclasses.replace(
        find_card("spvcnn-30g"),
        name="small",
        urls=("http://127.0.0.1:1/nobody-listens-here",),
        parameters=sum(p.numel() for p in PointVoxelUNet(NetSpec.spvcnn(4)).parameters()),
        sha256_prefix=hashlib.sha256(file).hexdigest()[:8],
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small, whole checkpoint."""
    path = tmp_path / "net.safetensors"
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    save_checkpoint(path, net, Facts(spec=net.spec, name="small"))
    return path
