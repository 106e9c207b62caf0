"""Goes through the frames of a recording, whole or in parts, and says which of them are cut into tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.bags import BagError
from spvnas_ros.recordings.scans import Cloud, Frame, Record, Source
from spvnas_ros.segment.run_options import SegmentOptions
from spvnas_ros.segment.stored import Labelled
from spvnas_ros.segment.tiles import View, view_of

if TYPE_CHECKING:
    from spvnas_ros.perception import Perception


def frames_until_damage(source: Source, skip: Callable[[str, Exception], None]) -> Iterator[Frame]:
    """Yields the source's frames; a bag that turns out damaged on the way ends there, and `skip` is told."""
    frames = iter(source)
    while True:
        try:
            frame = next(frames, None)
        except BagError as error:
            skip("the rest", error)
            return
        if frame is None:
            return
        yield frame


class Views:
    """How frames that are cut into tiles are seen; each is looked at once."""

    def __init__(self, source: Source, perception: Perception, options: SegmentOptions) -> None:
        self._source, self._perception, self._rule = source, perception, options.tiles
        self._found: dict[str, View | None] = {}

    def of(self, frame: Frame, load: Callable[[], Cloud]) -> View | None:
        """Returns how a frame, which `load` reads, is seen; None where it is not cut. Raises ScanError."""
        if frame.name not in self._found:
            if frame.scan is not None and self._rule.cuts and self._source.sensor.open:
                self._source.look()  # what the rules leave open, all of the recording decides, not a piece
            alone = len(self._source) == 1
            self._found[frame.name] = view_of(
                frame, load, self._perception, self._source.sensor, self._rule, alone=alone
            )
        return self._found[frame.name]


def with_parts(frame: Frame, result: Labelled) -> Iterator[tuple[Record, Segmentation]]:
    """Yields the records of a frame, some points at a time, with their labels."""
    assert frame.scan is not None
    at = 0
    for record in frame.scan.pieces():
        yield record, result.part(at, at + len(record))
        at += len(record)
