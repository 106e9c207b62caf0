"""Labels a cloud that is larger than memory, tile by tile.

The voxels of a tile are labelled together with those around it, as far as the network sees. They are those of the whole
cloud: the same first point speaks for each, and coarse voxels stand where they do in the whole. So the labels are those
that the whole would get. A map, which no sensor sees at once, has an origin of its own in each tile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import clean
from spvnas_ros.clouds.mount import AUTO, GROUND_SHARE, Mount, Vector3, find_ground
from spvnas_ros.clouds.point_cloud2 import positions
from spvnas_ros.clouds.sensor_rules import Record, Sensor, finite_positions
from spvnas_ros.clouds.survey import MAP, SCAN, survey
from spvnas_ros.frame import UNLABELLED, Points, Segmentation, Unusable
from spvnas_ros.nets.receptive import receptive_voxels
from spvnas_ros.nets.spec import NUM_STAGES
from spvnas_ros.recordings.scans import Cloud, Frame
from spvnas_ros.segment.spool import Piece, Spool, read_rows, write_spool
from spvnas_ros.segment.stored import CONFIDENCE, LABELS, SCORES, StoredSegmentation
from spvnas_ros.segment.tile_plan import COLUMN, Tile, plan_tiles
from spvnas_ros.segment.tile_rule import TileRule

if TYPE_CHECKING:
    from spvnas_ros.perception import Perception

MAP_TILE: Final = 40.0
"""Metres along the edge of a map's tiles, at most: a network knows what lies within some tens of metres of a sensor."""
_SPREAD = 1e6
"""Metres from a map's middle: what is farther is no map's point."""
_STRIDE = 1 << NUM_STAGES
_SPOOL, _VOXELS, _DONE, _PLAN = "spool", "voxels.", "done.jsonl", "plan.json"

OnStep = Callable[[str, int, int], None]
"""Is called with what is being done, how much of it is done, and of how much in all; 0 where that is not known."""
READING, LABELLING = "reading points", "labelling tiles"


class View(Protocol):
    """How a cloud becomes what a network sees.

    words: says it in half a sentence
    """

    @property
    def perception(self) -> Perception: ...

    @property
    def words(self) -> str: ...

    def piece(self, record: Record) -> Piece:
        """Returns some of its points. Raises PointCloudError."""
        ...

    def tile(self, tile: Tile, spool: Spool, columns: list[int], rows: list[Points]) -> tuple[Points, Points | None]:
        """Returns the points of a tile, column by column, as the network sees them, and a point to add."""
        ...

    def points(self, record: Record) -> Points:
        """Returns all of some points, float32 `[n, 4]`, for pictures and scores."""
        ...


@dataclass(frozen=True)
class ScanView:
    """A scan around one sensor. The tiles have its origin, and the labels are those of the whole."""

    perception: Perception
    sensor: Sensor
    words: str = "a scan with one origin"

    def piece(self, record: Record) -> Piece:
        """Returns some of its points as `Perception` would see them."""
        points = self.sensor.points(record)
        cleaned = clean(points, self.perception.limits)
        kept = np.ones(len(points), np.bool_) if cleaned.kept is None else cleaned.kept
        return Piece(cleaned.points, cells_of(cleaned.points, self.perception.facts.voxel_size), kept, cleaned.unusable)

    def points(self, record: Record) -> Points:
        """Returns all of some points as the network sees them, float32 `[n, 4]`."""
        return self.sensor.points(record)

    def tile(
        self,
        tile: Tile,
        spool: Spool,
        columns: list[int],  # noqa: ARG002
        rows: list[Points],
    ) -> tuple[Points, Points | None]:
        """Returns the points as they are, and what keeps the coarse voxels where they are in the whole.

        That is one point beyond the surroundings of the tile, so that it changes no label there: the lower corner, from
        which voxels are counted, then stands a multiple of the largest stride from that of the whole.
        """
        points = np.concatenate(rows)
        size = self.perception.facts.voxel_size
        lowest = cells_of(points, size).min(axis=0)
        if (lowest == spool.lowest).all():
            return points, None
        halo = receptive_voxels(self.perception.facts.spec)
        outside = np.minimum(lowest[:2], np.array(tile.low) * COLUMN - halo - 1)
        corner = np.append(outside, lowest[2])
        corner = spool.lowest + (corner - spool.lowest) // _STRIDE * _STRIDE
        added = np.zeros((1, points.shape[1]), np.float32)
        added[0, :3] = corner * size
        return points, added


@dataclass(frozen=True)
class MapView:
    """A map of many scans. Each tile is seen from its middle, at the height of a sensor above the ground there.

    middle: of the map, in its own coordinates, metres
    """

    perception: Perception
    sensor: Sensor
    middle: Vector3
    words: str = "a map of many scans, each tile with an origin in its middle"

    def moved(self, record: Record) -> npt.NDArray[np.float64]:
        """Returns the positions of some points from the middle, level, float64 `[n, 3]`."""
        found: npt.NDArray[np.float64] = positions(record) - np.array(self.middle)
        mount = self.sensor.place.mount
        return found @ mount.rotation().T if isinstance(mount, Mount) and mount != Mount(mount.z) else found

    def points(self, record: Record) -> Points:
        """Returns some points around the middle of the map, float32 `[n, 4]`, for pictures and scores."""
        return np.column_stack([self.moved(record), self.sensor.intensity.read(record)]).astype(np.float32)

    def piece(self, record: Record) -> Piece:
        """Returns some of its points, counted from the lower corner of their columns."""
        found, intensity = self.moved(record), self.sensor.intensity.read(record)
        finite = np.isfinite(found).all(axis=1)
        zero = finite & (positions(record) == 0).all(axis=1)
        with np.errstate(invalid="ignore"):
            far = finite & ~zero & (np.abs(found) > _SPREAD).any(axis=1)
        dark = finite & ~zero & ~far & ~np.isfinite(intensity)
        kept = finite & ~zero & ~far & ~dark
        unusable = Unusable(int((~finite).sum()), int(zero.sum()), int(far.sum()), int(dark.sum()))
        size = self.perception.facts.voxel_size
        cells = np.rint(found[kept] / size).astype(np.int64)
        near = found[kept]
        near[:, :2] -= cells[:, :2] // COLUMN * COLUMN * size
        points = np.column_stack([near, np.clip(intensity[kept], 0, self.perception.limits.brightest)])
        return Piece(points.astype(np.float32), cells, kept, unusable)

    def tile(self, tile: Tile, spool: Spool, columns: list[int], rows: list[Points]) -> tuple[Points, Points | None]:
        """Returns the points around the tile's middle, with the ground as far below as the network knows it."""
        edge = COLUMN * self.perception.facts.voxel_size
        middle = (np.array(tile.low) + np.array(tile.high)) / 2
        around = [each.astype(np.float64) for each in rows]
        for column, some in zip(columns, around, strict=True):
            some[:, :2] += (spool.columns[column] - middle) * edge
        points = np.concatenate(around)
        height = float(np.median(points[:, 2]))
        ground = find_ground(points[:, :3] - np.array((0, 0, height)))
        if ground is not None and ground.share > GROUND_SHARE:
            low = height - ground.height
        else:
            inside = tile.holds(spool.columns[columns])
            mine = np.concatenate([some for some, one in zip(around, inside, strict=True) if one])
            low = float(np.percentile(mine[:, 2], 5))
        points[:, 2] -= low + self.perception.facts.sensor_height
        return points.astype(np.float32), None


def cells_of(points: Points, voxel_size: float) -> npt.NDArray[np.int64]:
    """Returns the voxel of each point, int64 `[N, 3]`, counted from the sensor; rounded as `sparse.coords.quantize`."""
    return np.asarray(np.rint(points[:, :3] / np.float32(voxel_size)), np.int64)


class Stopped(Exception):
    """Labelling was asked to stop. `done` of `total` tiles are kept; both are 0 before there are any."""

    def __init__(self, done: int = 0, total: int = 0) -> None:
        super().__init__(f"{done} of {total} tiles")
        self.done, self.total = done, total


def view_of(
    frame: Frame,
    load: Callable[[], Cloud],
    perception: Perception,
    sensor: Sensor,
    rule: TileRule,
    *,
    alone: bool,
) -> View | None:
    """Returns how a scan is seen where it is cut into tiles: a large one, a map, or any that is to be cut; else None.

    load:  reads it, where it is not large
    alone: whether it is the only one of its recording

    What kind of cloud it is, is only asked where nobody has said where the sensor is. Raises ScanError where it is
    malformed.
    """
    if frame.scan is None or not rule.cuts:
        return None
    large, place = frame.scan.large, sensor.place
    if not (large or rule.all or place.by_itself):
        return None
    # The clouds of a folder are looked at, too: each may be a part of a map.
    found = finite_positions(frame.scan.sample() if large else load().record)
    if place.by_itself:
        seen = survey(found, alone=alone, height=place.sensor_height)
        if seen.kind == MAP:
            return MapView(perception, sensor, seen.place)
        place = replace(place, origin=seen.place if seen.kind == SCAN else None, by_itself=False)
    elif place.origin == AUTO:
        place = replace(place, origin=place.origin_of(found))
    if not (large or rule.all):
        return None
    fixed = copy(sensor)
    fixed.place = place
    return ScanView(perception, fixed)


def label_tiles(
    folder: Path,
    pieces: Iterable[Record],
    view: View,
    edge: float | None,
    *,
    announced: int = 0,
    scores: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda *_: None,
) -> tuple[StoredSegmentation, float]:
    """Labels a cloud, and returns its labels and how many milliseconds the network took.

    folder: where everything is kept, also what an interrupted call has left, which goes on there
    pieces: the records of the cloud, in order
    edge:   metres along a tile's edge, at most; None for what the points allow
    announced: about how many points there are

    Raises Stopped where `stopped` says so, asked before each piece and each tile; ScanError, PointCloudError where the
    cloud cannot be read; OSError where the disk is full.
    """
    perception = view.perception
    spool = Spool.load(folder / _SPOOL)
    if spool is None:
        rmtree(folder, ignore_errors=True)
        (folder / _SPOOL).mkdir(parents=True)

        def read() -> Iterator[Piece]:
            count = 0
            for record in pieces:
                if stopped():
                    raise Stopped
                yield view.piece(record)
                count += len(record)
                on_step(READING, count, announced)

        spool = write_spool(folder / _SPOOL, read())
    classes = perception.facts.spec.num_classes
    size, halo = perception.facts.voxel_size, receptive_voxels(perception.facts.spec)
    if edge is None and isinstance(view, MapView):
        edge = MAP_TILE
    tiles = plan_tiles(
        spool.columns, np.diff(spool.voxels), halo, None if edge is None else max(1.0, edge / (COLUMN * size))
    )
    done, ms = _done(folder, len(tiles), int(spool.voxels[-1]), classes if scores else 0)
    on_step(LABELLING, len(done), len(tiles))
    for number, tile in enumerate(tiles):
        if number in done:
            continue
        if stopped():
            raise Stopped(len(done), len(tiles))
        took = _label_tile(folder, spool, view, tile, halo, scores)
        with (folder / _DONE).open("a") as file:
            file.write(json.dumps([number, took]) + "\n")
        done.add(number)
        ms += took
        on_step(LABELLING, len(done), len(tiles))
    result = replace(_by_point(folder, spool, classes if scores else 0), tiles=len(tiles), words=view.words)
    result.save(ms)
    rmtree(folder / _SPOOL)
    for name in (LABELS, CONFIDENCE, SCORES):
        (folder / f"{_VOXELS}{name}").unlink(missing_ok=True)
    return result, ms


def _done(folder: Path, tiles: int, voxels: int, classes: int) -> tuple[set[int], float]:
    """Returns which tiles an interrupted call has labelled, and how long that took; makes room for all."""
    plan = json.dumps([tiles, voxels, classes])
    if (folder / _PLAN).is_file() and (folder / _PLAN).read_text() == plan:
        done, ms = set[int](), 0.0
        for line in (folder / _DONE).read_text().splitlines() if (folder / _DONE).exists() else []:
            try:
                number, took = json.loads(line)
            except ValueError:
                continue  # the last line of a killed run
            done.add(number)
            ms += took
        return done, ms
    (folder / _DONE).unlink(missing_ok=True)
    for name, width in ((LABELS, 1), (CONFIDENCE, 4), (SCORES, 4 * classes)):
        with (folder / f"{_VOXELS}{name}").open("wb") as file:
            file.truncate(voxels * width)
    (folder / _PLAN).write_text(plan)
    return set(), 0.0


def _label_tile(folder: Path, spool: Spool, view: View, tile: Tile, halo: int, scores: bool) -> float:
    """Labels the voxels of a tile; returns the milliseconds that the network took."""
    perception = view.perception
    size = perception.facts.voxel_size
    columns = np.flatnonzero(tile.holds(spool.columns, -(-halo // COLUMN)))
    inside = tile.holds(spool.columns[columns])
    low, high = np.array(tile.low) * COLUMN - halo, np.array(tile.high) * COLUMN + halo
    rows: list[Points] = []
    for column, one in zip(columns, inside, strict=True):
        points = spool.voxels_of(int(column))
        if not one:
            # Of a map, they are counted from the column's corner. A voxel more or less does no harm there.
            cells = cells_of(points, size)[:, :2]
            if isinstance(view, MapView):
                cells = cells + spool.columns[column] * COLUMN
            points = points[((cells >= low) & (cells < high)).all(axis=1)]
        rows.append(points)
    points, added = view.tile(tile, spool, columns.tolist(), rows)
    begun = perf_counter()
    result = _segment(perception, points, added, scores)
    took = (perf_counter() - begun) * 1e3
    at = 0
    for column, one, some in zip(columns, inside, rows, strict=True):
        if one:
            part = result.part(at, at + len(some))
            _put(folder / f"{_VOXELS}{LABELS}", int(spool.voxels[column]), part.labels)
            _put(folder / f"{_VOXELS}{CONFIDENCE}", int(spool.voxels[column]), part.confidence)
            if part.scores is not None:
                _put(folder / f"{_VOXELS}{SCORES}", int(spool.voxels[column]), part.scores)
        at += len(some)
    return took


def _segment(perception: Perception, points: Points, added: Points | None, scores: bool) -> Segmentation:
    cleaned = clean(points, perception.limits)
    seen = cleaned.points if added is None else np.concatenate([cleaned.points, added])
    result = perception.engine.segment(np.ascontiguousarray(seen), scores)
    if added is not None:
        result = result.part(0, len(cleaned.points))
    return result if cleaned.kept is None else result.among(cleaned.kept, cleaned.unusable)


def _put(path: Path, row: int, values: npt.NDArray[Any]) -> None:
    values = np.ascontiguousarray(values)
    with path.open("r+b") as file:
        file.seek(row * values.itemsize * (values.shape[1] if values.ndim > 1 else 1))
        file.write(values.tobytes())


def _by_point(folder: Path, spool: Spool, classes: int) -> StoredSegmentation:
    """Writes the labels of the voxels for every point, in the order of the file."""
    voxels = int(spool.voxels[-1])
    labels = read_rows(folder / f"{_VOXELS}{LABELS}", np.uint8, 0, voxels)
    confidence = read_rows(folder / f"{_VOXELS}{CONFIDENCE}", np.float32, 0, voxels)
    outside = 0
    with (folder / LABELS).open("wb") as one, (folder / CONFIDENCE).open("wb") as two:
        for rows in spool.members():
            there = rows >= 0
            label, sure = np.full(len(rows), UNLABELLED, np.uint8), np.zeros(len(rows), np.float32)
            label[there], sure[there] = labels[rows[there]], confidence[rows[there]]
            outside += int(np.count_nonzero(label[there] == UNLABELLED))
            one.write(label.tobytes())
            two.write(sure.tobytes())
    if classes:
        with (folder / SCORES).open("wb") as file:
            table = (
                np.memmap(folder / f"{_VOXELS}{SCORES}", np.float32, "r", shape=(voxels, classes)) if voxels else None
            )
            for rows in spool.members():
                values = np.zeros((len(rows), classes), np.float32)
                if table is not None:
                    values[rows >= 0] = table[rows[rows >= 0]]
                file.write(values.tobytes())
    unusable = replace(spool.unusable, outside=spool.unusable.outside + outside)
    return StoredSegmentation(folder, spool.total, classes, unusable)
