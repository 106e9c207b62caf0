"""How well objects keep their ids: MOTA and its counts (Bernardin and Stiefelhagen, EURASIP JIVP 2008), and AMOTA over
40 recalls (Weng et al., IROS 2020, as nuScenes' tracking task has it).

Class by class and drive by drive, centres seen from above:

* A frame first keeps the last pair of each object whose track is still less than the limit away; of the others as many
  as possible are paired, with the smallest sum of distances. An object without a track is a miss, a track without an
  object is false, an object whose track is another than its last one is a switch.
* MOTA = 1 - (misses + false + switches) / objects, objects being counted in every frame.
* A track's score is the mean of its boxes' scores. Recall r leaves the tracks whose score is that of the
  ceil(r * objects)-th best pair, or better, r being 1/40, 2/40, .., 1.
* AMOTA is the mean over these recalls of MOTAR = max(0, 1 - (switches + false + misses - (1 - r) objects) /
  (r objects)), where r is the recall that these tracks reach, and which is therefore 1 - (switches + false) / paired;
  0 where a recall is not reached.
* MOTA and counts are given where MOTA is best, as nuScenes does, and with all tracks.

nuScenes' tool takes 40 recalls from 0.1 on, and its r leaves out switches, so that these cancel; here they do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes

_Doubles = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.int64]

LIMITS: Final = (0.5, 1.0, 2.0, 4.0)
"""Metres between the centres; 2 is nuScenes'."""
RECALLS: Final = 40


@dataclass(frozen=True)
class TrackFrame:
    """A frame of a drive, in any frame of reference that truth and tracks share.

    truth, found:       their scores matter for `found`
    truth_ids, found_ids: int64 `[N]`, `[M]`; no two of a frame are the same

    Raises ValueError where they are not as many, or an id comes twice.
    """

    name: str
    truth: Boxes
    truth_ids: _Numbers
    found: Boxes
    found_ids: _Numbers

    def __post_init__(self) -> None:
        for boxes, ids in ((self.truth, self.truth_ids), (self.found, self.found_ids)):
            if ids.shape != (len(boxes),) or len(np.unique(ids)) < len(ids):
                raise ValueError(f"frame {self.name} has {len(boxes)} boxes and the ids {ids.tolist()[:10]}")


@dataclass(frozen=True)
class TrackCounts:
    """What happened in all frames.

    score:    least score of the tracks that were left
    found:    objects with a track, of which `switches` have another than before
    fragments: how often an object was lost and found again
    """

    score: float
    objects: int
    found: int
    switches: int
    misses: int
    false: int
    fragments: int

    @property
    def mota(self) -> float:
        """MOTA, 1 at best, below 0 with many errors."""
        return 1 - (self.misses + self.false + self.switches) / self.objects

    @property
    def motar(self) -> float:
        """MOTA of the recall that is reached, 0..1."""
        return max(0.0, 1 - (self.switches + self.false) / self.found) if self.found else 0.0


@dataclass(frozen=True)
class TrackScore:
    """The figures of a class at a distance.

    limit:      metres
    objects:    boxes of the truth in all frames; identities: different objects
    amota:      0..1; None where there is no object
    best, all:  where MOTA is best, and with all tracks; None where there is no object
    """

    kind: str
    limit: float
    objects: int
    identities: int
    amota: float | None
    best: TrackCounts | None
    all: TrackCounts | None


@dataclass(frozen=True)
class _Frame:
    """A frame of one class: ids, distances `[N, M]`, and the scores of the tracks."""

    truth: list[int]
    tracks: _Numbers
    away: _Doubles
    scores: _Doubles


def track_scores(
    drives: Sequence[Sequence[TrackFrame]], classes: Sequence[str], limits: Sequence[float] = LIMITS
) -> tuple[TrackScore, ...]:
    """Returns the figures of each class at each distance.

    drives:  their frames in order; ids mean nothing beyond a drive
    classes: the name of each class index

    Raises ValueError where a frame has another class, UserError where SciPy is missing.
    """
    _solver()
    for frame in (frame for drive in drives for frame in drive):
        for boxes in (frame.truth, frame.found):
            if (boxes.classes >= len(classes)).any():
                raise ValueError(f"frame {frame.name} has the class {boxes.classes.max()}, expected < {len(classes)}")
    scores = []
    for index, kind in enumerate(classes):
        frames = [_of_class(drive, index) for drive in drives]
        scores += [_score(frames, kind, limit) for limit in limits]
    return tuple(scores)


def _of_class(drive: Sequence[TrackFrame], index: int) -> list[_Frame]:
    total: dict[int, list[float]] = {}
    for frame in drive:
        mine = frame.found.classes == index
        for identity, score in zip(frame.found_ids[mine].tolist(), frame.found.scores[mine].tolist(), strict=True):
            total.setdefault(identity, []).append(score)
    mean = {identity: sum(scores) / len(scores) for identity, scores in total.items()}
    frames = []
    for frame in drive:
        theirs, mine = frame.truth.classes == index, frame.found.classes == index
        places = [
            boxes.boxes[rows, :2].astype(np.float64) for boxes, rows in ((frame.truth, theirs), (frame.found, mine))
        ]
        ids = frame.found_ids[mine]
        frames.append(
            _Frame(
                frame.truth_ids[theirs].tolist(),
                ids,
                np.linalg.norm(places[0][:, None] - places[1][None], axis=2),
                np.array([mean[identity] for identity in ids.tolist()], np.float64),
            )
        )
    return frames


def _score(drives: Sequence[Sequence[_Frame]], kind: str, limit: float) -> TrackScore:
    objects = sum(len(frame.truth) for drive in drives for frame in drive)
    identities = sum(len({identity for frame in drive for identity in frame.truth}) for drive in drives)
    if not objects:
        return TrackScore(kind, limit, 0, 0, None, None, None)
    counts, paired = _counted(drives, limit, -math.inf)
    paired = np.sort(paired)[::-1]
    ranks = [math.ceil(step * objects / RECALLS - 1e-9) for step in range(1, RECALLS + 1)]
    reached = [float(paired[max(rank, 1) - 1]) for rank in ranks if max(rank, 1) <= len(paired)]
    cuts = {least: _counted(drives, limit, least)[0] for least in dict.fromkeys(reached)}
    amota = sum(cuts[least].motar for least in reached) / RECALLS
    best = max([*cuts.values(), counts], key=lambda each: each.mota)
    return TrackScore(kind, limit, objects, identities, amota, best, counts)


def _counted(drives: Sequence[Sequence[_Frame]], limit: float, least: float) -> tuple[TrackCounts, _Doubles]:
    """Returns the counts of the tracks of at least some score, and the scores of all pairs."""
    objects = found = switches = false = fragments = 0
    scores: list[float] = []
    for drive in drives:
        last: dict[int, int] = {}
        lost: set[int] = set()
        for frame in drive:
            left = frame.scores >= least
            tracks, away = frame.tracks[left].tolist(), frame.away[:, left]
            pairs = _pairs(frame.truth, tracks, away, last, limit)
            objects, found, false = objects + len(frame.truth), found + len(pairs), false + len(tracks) - len(pairs)
            for row, column in pairs.items():
                identity = frame.truth[row]
                switches += last.get(identity, tracks[column]) != tracks[column]
                fragments += identity in lost
                last[identity] = tracks[column]
            lost |= {identity for row, identity in enumerate(frame.truth) if row not in pairs and identity in last}
            lost -= {frame.truth[row] for row in pairs}
            scores += frame.scores[left][list(pairs.values())].tolist()
    counts = TrackCounts(
        least if math.isfinite(least) else 0.0, objects, found, switches, objects - found, false, fragments
    )
    return counts, np.array(scores)


def _pairs(truth: list[int], tracks: list[int], away: _Doubles, last: dict[int, int], limit: float) -> dict[int, int]:
    """Returns which column of `away` each row has."""
    columns = {identity: column for column, identity in enumerate(tracks)}
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for row, identity in enumerate(truth):
        column = columns.get(last[identity]) if identity in last else None
        if column is not None and column not in taken and away[row, column] < limit:
            pairs[row] = column
            taken.add(column)
    rows = np.array([row for row in range(len(truth)) if row not in pairs], np.int64)
    free = np.array([column for column in range(len(tracks)) if column not in taken], np.int64)
    near = away[np.ix_(rows, free)]
    # Rows and columns without any partner are most of them.
    rows, near = rows[(near < limit).any(1)], near[(near < limit).any(1)]
    free, near = free[(near < limit).any(0)], near[:, (near < limit).any(0)]
    if len(rows):
        # A pair that is too far apart costs more than all others together, so as many as possible are near.
        cost = np.where(near < limit, near, 2 * limit * (min(near.shape) + 1))
        for row, column in zip(*_assigned(cost), strict=True):
            if near[row, column] < limit:
                pairs[int(rows[row])] = int(free[column])
    return pairs


def _assigned(cost: _Doubles) -> tuple[_Numbers, _Numbers]:
    if min(cost.shape) == 1:
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        return np.array([row]), np.array([column])
    rows, columns = _solver()(cost)
    return rows, columns


def _solver() -> Callable[[_Doubles], tuple[_Numbers, _Numbers]]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        raise UserError("scoring tracks needs scipy; install it: pip install 'spvnas_ros[tracks]'") from error
    found: Callable[[_Doubles], tuple[_Numbers, _Numbers]] = linear_sum_assignment
    return found
