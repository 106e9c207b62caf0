"""A real HTTP server of model files, as good or bad as a test wants it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import torch

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.importers.layouts import MIT_HAN_LAB


@dataclasses.dataclass
class Site:
    """What the server serves, and how well.

    cut_after: bytes of a body after which the connection breaks, once
    ranges:    whether parts of a file can be asked for
    tags:      whether files have an ETag
    lengths:   whether the length of a body is announced
    requests:  path and Range of every request
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    cut_after: int | None = None
    ranges: bool = True
    tags: bool = True
    lengths: bool = True
    kind: str = "application/octet-stream"
    requests: list[tuple[str, str | None]] = dataclasses.field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        body = self.files.get(handler.path)
        if body is None:
            handler.send_error(404)
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if self.tags and handler.headers.get("If-Range", tag) != tag:
            start = 0
        if start >= len(body) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", self.kind)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.tags:
            handler.send_header("ETag", tag)
        handler.end_headers()
        end = len(body) if self.cut_after is None else self.cut_after
        self.cut_after = None
        handler.wfile.write(body[start:end])
        handler.close_connection = True


def published(spec: NetSpec) -> bytes:
    """A file as mit-han-lab publishes it, with random weights."""
    state = PointVoxelUNet(spec).state_dict()
    file = io.BytesIO()
    torch.save({"model": {theirs: state[ours] for theirs, ours in MIT_HAN_LAB.names().items() if ours in state}}, file)
    return file.getvalue()


def models(folder: Path) -> list[str]:
    """What the cache offers, and any unfinished file that is not kept to be continued."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def unfinished(folder: Path) -> list[Path]:
    return sorted((folder / "downloads").glob("*.part"))
