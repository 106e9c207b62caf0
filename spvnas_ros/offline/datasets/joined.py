"""Several data sets one after another, or a selection of their scans."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from spvnas_ros.offline.datasets.scan import Inventory, Looked

Scan = TypeVar("Scan")
ScanOut = TypeVar("ScanOut", covariant=True)


class Source(Protocol[ScanOut]):
    """Scans of any kind that are accessed by number; see `scan.ScanDataset`, which adds what labelled ones have."""

    def name(self, index: int, /) -> str: ...

    def look(self) -> list[Looked]: ...

    def inventory(self) -> Inventory: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ScanOut: ...


class Several(Generic[Scan]):
    """Several data sets one after another, or a selection of their scans.

    parts: at least one data set
    rows:  numbers of the selected scans, in this order; None = all
    """

    def __init__(self, parts: Sequence[Source[Scan]], rows: Sequence[int] | None = None) -> None:
        self._parts = tuple(parts)
        self._ends = tuple(itertools.accumulate(len(part) for part in parts))
        self._rows = range(self._ends[-1]) if rows is None else rows

    def name(self, index: int, /) -> str:
        """Returns the name of a scan, with the number of its data set where there are several."""
        part, row = self._place(index)
        name = self._parts[part].name(row)
        return f"{name} (source {part + 1} of {len(self._parts)})" if len(self._parts) > 1 else name

    def look(self) -> list[Looked]:
        """Returns some clouds of each data set's sensors."""
        return [looked for part in self._parts if len(part) for looked in part.look()]

    def inventory(self) -> Inventory:
        """Returns the inventories of all data sets, whatever is selected of them."""
        several = len(self._parts) > 1
        return {
            f"source {number}: {name}" if several else name: size
            for number, part in enumerate(self._parts, 1)
            for name, size in part.inventory().items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> Scan:
        part, row = self._place(index)
        return self._parts[part][row]

    def _place(self, index: int) -> tuple[int, int]:
        row = self._rows[index]
        part = bisect.bisect_right(self._ends, row)
        return part, row - (self._ends[part - 1] if part else 0)

    def spread(self, count: int) -> Several[Scan]:
        """Returns `count` evenly spread scans of these; returns all where `count` is 0 or there are not more scans."""
        return Several(self._parts, self._spread(count))

    def _spread(self, count: int) -> Sequence[int]:
        if not 0 < count < len(self):
            return self._rows
        rows = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()
        return [self._rows[row] for row in rows]
