"""A data set as a sensor with fewer beams would have seen it: what real scans of a 64-beam sensor say about others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.augment.sensor import beam_drop
from spvnas_ros.offline.datasets import LabelledScan, ScanDataset
from spvnas_ros.offline.datasets.scan import Inventory, Looked


@dataclass(frozen=True)
class Thinned:
    """A `ScanDataset` that keeps `beams` evenly spaced rings of the `source` of each scan.

    Scan i always keeps the same ones. It raises AugmentationError where there are more beams than the source has.
    """

    scans: ScanDataset
    beams: int
    source: int = 64

    @property
    def label_map(self) -> LabelMap:
        """The map that turned raw ids into classes."""
        return self.scans.label_map

    @property
    def boxes_only(self) -> bool:
        """Whether only points in boxes have a truth."""
        return self.scans.boxes_only

    def name(self, index: int, /) -> str:
        """Returns the name of a scan."""
        return self.scans.name(index)

    def look(self) -> list[Looked]:
        """Returns some clouds with all their beams."""
        return self.scans.look()

    def inventory(self) -> Inventory:
        """Returns what tells the whole scans from others."""
        return self.scans.inventory()

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int, /) -> LabelledScan:
        scan = self.scans[index]
        return beam_drop(scan, np.random.default_rng(index), beams=(self.beams,), source=self.source)
