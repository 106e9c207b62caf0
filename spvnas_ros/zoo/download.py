"""The download of one file over HTTP, which continues where an earlier try was cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from spvnas_ros.zoo.cache import FetchError

_CHUNK = 1 << 16
_TIMEOUT_S = 30.0

Progress = Callable[[int, int | None], None]
"""A function that is called with the bytes that are there and the bytes of the whole file, None where the server does
not say."""


class _Response(Protocol):
    status: int
    headers: HTTPMessage

    def read(self, amount: int, /) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class _Note:
    """The server's description of a file of which we hold a part. It is kept beside the part.

    validator: its ETag or date, by which the server can tell whether the file is still the same; "" if it gave none
    total:     its length in bytes
    """

    url: str
    validator: str
    total: int | None


def download(url: str, path: Path, progress: Progress | None = None) -> None:
    """Downloads the file at `url` to `path`.

    If `path` already holds a part from an earlier call, only the rest is asked for, on the condition that the file on
    the server is still the same. If it is not, or if the server cannot do that, the whole file is downloaded again.

    Raises FetchError for an address that cannot be reached, an answer that is not the file, a connection that is cut
    (the part stays, for the next call) and a folder that cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise FetchError(f"{url} is not an http or https address; use --from for a file on this machine")
    try:
        _Download(url, path, progress).run()
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(f"cannot write {path}: {error.strerror or error}") from error


def forget(path: Path) -> None:
    """Removes a download, whole or in part."""
    path.unlink(missing_ok=True)
    _note_path(path).unlink(missing_ok=True)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


class _Download:
    def __init__(self, url: str, path: Path, progress: Progress | None) -> None:
        self._url = url
        self._path = path
        self._progress = progress or (lambda *_: None)

    def run(self) -> None:
        note = self._read_note()
        done = self._path.stat().st_size if note and self._path.exists() else 0
        if note and done and done == note.total:
            return
        response = self._open(note, done)
        if response is None:
            note, done = None, 0
            response = self._open(note, done)
        if response is None:
            raise FetchError(f"{self._url}: the server sends only a part of the file")
        try:
            self._receive(response, note, done)
        finally:
            response.close()

    def _open(self, note: _Note | None, done: int) -> _Response | None:
        """Returns the server's answer, None where the server cannot continue our part of the file."""
        headers = {"User-Agent": "spvnas_ros", "Accept-Encoding": "identity"}
        if note and done:
            headers["Range"] = f"bytes={done}-"
            if note.validator:
                headers["If-Range"] = note.validator
        try:
            response: _Response = urlopen(Request(self._url, headers=headers), timeout=_TIMEOUT_S)
        except HTTPError as error:
            if done and error.code == 416:
                return None
            raise FetchError(f"{self._url}: the server answers {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise FetchError(f"cannot reach {self._url}: {reason}") from error
        if response.headers.get_content_type() == "text/html":
            response.close()
            raise FetchError(f"{self._url}: the server sends a web page where the file should be")
        if response.status == 206 and not (note and _continues(response.headers, note, done)):
            response.close()
            return None
        return response

    def _receive(self, response: _Response, note: _Note | None, done: int) -> None:
        if response.status != 206 or note is None:
            done = 0
            note = _Note(self._url, _validator(response.headers), _length(response.headers))
            self._path.unlink(missing_ok=True)
            _note_path(self._path).write_text(json.dumps(asdict(note)), "utf-8")
        with self._path.open("ab") as file:
            self._progress(done, note.total)
            while chunk := self._read(response, done, note):
                file.write(chunk)
                done += len(chunk)
                self._progress(done, note.total)
        if note.total is not None and done != note.total:
            raise self._cut(done, note)

    def _read(self, response: _Response, done: int, note: _Note) -> bytes:
        try:
            return response.read(_CHUNK)
        except (OSError, HTTPException) as error:
            raise self._cut(done, note) from error

    def _cut(self, done: int, note: _Note) -> FetchError:
        of = "" if note.total is None else f" of {note.total:,}"
        return FetchError(
            f"{self._url}: the connection was cut after {done:,}{of} bytes; run the same command again to go on"
        )

    def _read_note(self) -> _Note | None:
        try:
            note = _Note(**json.loads(_note_path(self._path).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return note if note.url == self._url else None


def _continues(headers: HTTPMessage, note: _Note, done: int) -> bool:
    """Returns whether a partial answer is the rest of the file of which we hold a part."""
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
    if not span:
        return False
    start, end, total = (int(number) for number in span.groups())
    unchanged = not note.validator or _validator(headers) in ("", note.validator)
    return start == done and end + 1 == total == note.total and unchanged


def _validator(headers: HTTPMessage) -> str:
    """Returns the ETag of an answer, or its date where the ETag is weak or missing.

    A weak ETag promises no equal bytes, and may not be used to continue a file.
    """
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _length(headers: HTTPMessage) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
