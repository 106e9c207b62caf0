"""A file that gives no more than it has, for libraries that ask for what its lengths announce."""

from __future__ import annotations

from io import BufferedReader, FileIO
from pathlib import Path


class BoundedFile(BufferedReader):
    """A file whose `read` asks for no more than is there: Python allocates what is asked for, and lengths may lie.

    Raises OSError where it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


class BoundedPath:
    """What rosbags asks of a path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        return self._path.exists()

    def open(self, _: str) -> BoundedFile:
        return BoundedFile(self._path)

    def __str__(self) -> str:
        return str(self._path)
