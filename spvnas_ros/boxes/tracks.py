"""Follows boxed objects from frame to frame: who is who, and how fast. A Kalman filter for each object, greedy
association, and counts by which tracks begin and end; pure functions on a frozen state.

```python
state = TrackState()
for stamp, pose, boxes in frames:                     # nanoseconds; odom from sensor; frame.Boxes
    state, tracked = track(state, boxes, stamp, pose)
    tracked.ids                                       # as the boxes are ordered, -1 = not yet sure
```

* Motion: constant velocity under continuous white noise of the acceleration, so that two short steps are one long one
  (Bar-Shalom, Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, 2001, 6.2.2); height, sizes
  and heading are random walks. The noise is the same in every direction: a turned frame gives the same tracks.
* Gate: overlap seen from above, as AB3DMOT has it (Weng et al., IROS 2020), or the distance of the centres by its
  uncertainty: at 10 Hz two boxes of one running person need not cover each other.
* Association, class by class: greedy as CenterPoint's (Yin et al., CVPR 2021), the likeliest pair first, by
  d^2 + 2 ln S.
* Birth and death by counts of hits and misses, as in AB3DMOT. As there, a heading that is off by more than a quarter
  turn is taken for the other end; here votes, and a sure motion, decide which end is the front.

| the stamp | what happens |
| --- | --- |
| is later, by `longest` at most | objects move on; one that is not found is missed |
| is the same (a second cloud of the moment) | nothing moves, nothing is missed or gets surer |
| is earlier, or later by more than `longest` | all is forgotten; ids go on, none is given again |

In the sensor's own frame (no pose) what stands moves and turns when the vehicle does: ids are less stable there, and
velocities are relative. A change between pose and none forgets all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import moved, wrapped
from spvnas_ros.boxes.overlap import BoxError, bev_overlap, checked
from spvnas_ros.frame import Boxes

_Doubles = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.int64]

NO_ID: Final = -1
"""The id of an object that is not yet sure to be one."""
_LATEST: Final = 2**62
_FARTHEST: Final = 1e6
"""Metres from the sensor to a box, at most; a hundred times as many from the fixed frame's origin to the sensor."""
_VOTES: Final = 3.0
"""Most votes for a front, so that a front that was wrong for long is turned within a few frames."""
_FORWARD: Final = 2.0
"""Metres a second from which an object moves with its front ahead."""


class TrackError(BoxError):
    """A stamp or a pose that is none, or scores that are no numbers."""


@dataclass(frozen=True)
class TrackRules:
    """When tracks begin and end, and how far an object may be from where it was expected.

    hits:       moments in which an object has to be found before it gets an id, 1 or more; a miss begins anew
    misses:     moments in which it may not be found; with the next it is forgotten
    longest:    nanoseconds for which it may not be found, and between two frames
    begin:      least score with which a track begins; lower ones only go on with one
    overlap:    intersection over union, seen from above, from which a box may be that object
    sigmas:     or the distance of the centres, in standard deviations; within 1 m, 3/4 of the object's length and the
                way of a new object since it was found, and without a pose another metre
    most:       tracks; of more, those that were missed longest, and then the shortest, are forgotten
    """

    hits: int = 2
    misses: int = 10
    longest: int = 1_500_000_000
    begin: float = 0.0
    overlap: float = 0.1
    sigmas: float = 3.0
    most: int = 1000


RULES: Final = TrackRules()


@dataclass(frozen=True)
class _Tracks:
    """`T` objects in the fixed frame, in the order in which they were first seen.

    place:    float64 `[T, 2]`, x and y; velocity: `[T, 2]`, m/s
    spread:   `[T, 3]`: variance of a coordinate, covariance with its velocity, variance of the velocity; x and y alike
    slow:     `[T, 5]`: z, length, width, height, yaw
    doubt:    `[T, 3]`: variances of z, of each size, of the yaw
    votes:    `[T]`, for the front as it is
    score:    `[T]`, mean of the detections'
    ids:      int64 `[T]`
    hits, misses: int64 `[T]`, moments in which it was found so far, and in which it was not since
    seen:     int64 `[T]`, the last of the former, nanoseconds
    """

    ids: _Numbers
    classes: npt.NDArray[np.uint8]
    place: _Doubles
    velocity: _Doubles
    spread: _Doubles
    slow: _Doubles
    doubt: _Doubles
    votes: _Doubles
    score: _Doubles
    hits: _Numbers
    misses: _Numbers
    seen: _Numbers

    @classmethod
    def none(cls) -> _Tracks:
        return _begun(np.zeros((0, 7)), np.zeros(0), np.zeros(0, np.uint8), 0, True)

    def __len__(self) -> int:
        return len(self.ids)

    def among(self, which: npt.NDArray[Any]) -> _Tracks:
        return _Tracks(**{each.name: getattr(self, each.name)[which] for each in fields(self)})

    def followed_by(self, others: _Tracks) -> _Tracks:
        both = {each.name: (getattr(self, each.name), getattr(others, each.name)) for each in fields(self)}
        return _Tracks(**{name: np.concatenate(pair) for name, pair in both.items()})

    def boxes(self) -> _Doubles:
        return np.column_stack((self.place, self.slow))


@dataclass(frozen=True)
class TrackState:
    """What is known of the objects after a frame. It never changes: `track` returns the next one.

    stamp:   of the last frame, nanoseconds; None before the first
    next_id: the next object's id
    framed:  whether the last frame had a pose
    """

    stamp: int | None = None
    next_id: int = 1
    framed: bool = False
    tracks: _Tracks = field(default_factory=_Tracks.none, repr=False)

    def __len__(self) -> int:
        """Returns the number of objects that are followed, unsure ones too."""
        return len(self.tracks)

    def forgotten(self) -> TrackState:
        """Returns a state without objects, whose ids go on."""
        return TrackState(next_id=self.next_id)


@dataclass(frozen=True)
class Tracked:
    """The objects of a frame, in the order in which they came.

    boxes:      in the sensor's frame, as their tracks have them: smoothed, with the front where it was
    ids:        int64 `[B]`, from 1; -1 = not yet sure. No two are the same
    velocities: float32 `[B, 3]`, m/s over the fixed frame, in the directions of the sensor's axes
    deviations: float32 `[B]`, standard deviation of the velocity, m/s
    confidence: float32 `[B]`, mean score of the track's detections so far
    restarted:  whether all that was known had to be forgotten first
    """

    boxes: Boxes
    ids: _Numbers
    velocities: npt.NDArray[np.float32]
    deviations: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    restarted: bool = False

    def __len__(self) -> int:
        return len(self.ids)


def track(
    state: TrackState, boxes: Boxes, stamp: int, pose: npt.ArrayLike | None = None, rules: TrackRules = RULES
) -> tuple[TrackState, Tracked]:
    """Returns the state after a frame, and the frame's objects with their ids.

    boxes: in the sensor's frame; their order changes nothing
    stamp: nanoseconds, of any clock
    pose:  float `[4, 4]`, a fixed frame from the sensor's, z up or nearly; None takes the sensor's frame for fixed

    Raises BoxError for boxes that are none, TrackError for scores, stamps and poses that are none.
    """
    fixed, framed = _pose(pose), pose is not None
    rows = checked(boxes.boxes)
    if (np.abs(rows) > _FARTHEST).any():
        raise TrackError(f"a box has the number {np.abs(rows).max():g}, expected {_FARTHEST:g} m at most")
    scores = boxes.scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise TrackError(f"box {int(np.flatnonzero(~np.isfinite(scores))[0])} has no finite score")
    if not -_LATEST < stamp < _LATEST:
        raise TrackError(f"the stamp is {stamp} ns, expected one within 146 years of 0")
    gap = 0 if state.stamp is None else stamp - state.stamp
    restarted = state.stamp is not None and (not 0 <= gap <= rules.longest or state.framed != framed)
    if restarted:
        state, gap = state.forgotten(), 0

    # In an order of their own, boxes that come in another order give the same tracks to the last bit.
    order = np.lexsort((*rows.T[::-1], boxes.classes, -scores))
    found = moved(rows[order], fixed)
    scores, classes = scores[order], boxes.classes[order]
    known = state.tracks
    if state.stamp is not None and gap > 0:
        # Only now the last moment is over: all its clouds have come.
        known = _alive(known, state.stamp, stamp, rules)
    tracks = _predicted(known, gap / 1e9, framed)
    mine, theirs = _associated(tracks, found, classes, stamp, fixed, framed, rules)
    tracks = _updated(tracks, mine, found[theirs], scores[theirs], stamp, framed)

    owner = np.full(len(found), -1)
    owner[theirs] = mine
    fresh = np.flatnonzero((owner < 0) & (scores >= rules.begin))
    owner[fresh] = len(tracks) + np.arange(len(fresh))
    tracks = tracks.followed_by(_begun(found[fresh], scores[fresh], classes[fresh], stamp, framed))
    tracks, next_id = _named(tracks, owner, state.next_id, rules)

    tracked = _answer(tracks, owner, found, boxes.scores[order], classes, fixed, framed, restarted)
    back = np.argsort(order)
    return TrackState(stamp, next_id, framed, _most(tracks, rules)), _reordered(tracked, back)


def _pose(pose: npt.ArrayLike | None) -> _Doubles:
    if pose is None:
        return np.eye(4)
    matrix = np.asarray(pose, np.float64)
    if matrix.shape != (4, 4) or not (np.abs(matrix) <= 100 * _FARTHEST).all():
        raise TrackError(f"the pose is {matrix.tolist()}, expected [4, 4] numbers, {100 * _FARTHEST:g} m at most")
    turn = matrix[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        raise TrackError(f"the pose turns by {turn.tolist()}, expected a rotation")
    return matrix


# How sure a detection is, and how an object may move, follow from its length (metres), whatever its class is called:
# persons have 0.8 m, cars 4.3 m.


def _noise(boxes: _Doubles) -> _Doubles:
    """Returns the standard deviation of a detection's centre, metres `[N]`."""
    return 0.2 + 0.05 * np.minimum(boxes[:, 3], 12)


def _fastest(boxes: _Doubles, framed: bool) -> _Doubles:
    """Returns the standard deviation of a new object's velocity, m/s `[N]`; the vehicle's own may be in it."""
    return np.clip(4 * boxes[:, 3], 2.0 if framed else _MOST_SPEED, _MOST_SPEED)


def _agility(tracks: _Tracks, framed: bool) -> _Doubles:
    """Returns the spectral density of an object's acceleration, m^2/s^3 `[T]`."""
    return np.clip(0.5 * tracks.slow[:, 1], 0.5 if framed else _MOST_AGILITY, _MOST_AGILITY)


def _reach(tracks: _Tracks, stamp: int, framed: bool) -> _Doubles:
    """Returns how far a box may be from where its object was expected, metres `[T]`, however little is known."""
    speed = _fastest(tracks.boxes(), framed)
    return (1.0 if framed else 2.0) + 0.75 * tracks.slow[:, 1] + speed * (stamp - tracks.seen) / 1e9


_MOST_SPEED, _MOST_AGILITY = 12.0, 3.0
_Z, _SIZE, _TURN = 0.1, 0.2, 0.1
"""Standard deviations of a detection's height above ground and sizes, metres, and heading, radians."""
_DRIFT: Final = np.array([0.1, 0.001, 0.3])
"""By how much their variances grow in a second."""


def _predicted(tracks: _Tracks, seconds: float, framed: bool) -> _Tracks:
    variance, shared, velocity = tracks.spread.T
    agility = _agility(tracks, framed)
    spread = np.column_stack(
        (
            variance + 2 * seconds * shared + seconds**2 * velocity + agility * seconds**3 / 3,
            shared + seconds * velocity + agility * seconds**2 / 2,
            velocity + agility * seconds,
        )
    )
    place = tracks.place + seconds * tracks.velocity
    return replace(tracks, place=place, spread=spread, doubt=tracks.doubt + seconds * _DRIFT)


def _associated(
    tracks: _Tracks,
    found: _Doubles,
    classes: npt.NDArray[np.uint8],
    stamp: int,
    fixed: _Doubles,
    framed: bool,
    rules: TrackRules,
) -> tuple[_Numbers, _Numbers]:
    """Returns rows of tracks and of the boxes that are theirs: the likeliest pair first, each once."""
    if not len(tracks) or not len(found):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    away = np.linalg.norm(tracks.place[:, None] - found[None, :, :2], axis=2)
    variance = tracks.spread[:, None, 0] + _noise(found)[None] ** 2
    same = tracks.classes[:, None] == classes[None]
    near = same & (away <= np.minimum(rules.sigmas * np.sqrt(variance), _reach(tracks, stamp, framed)[:, None]))
    # What covers each other is not farther apart than half of both diagonals.
    halves = (np.hypot(tracks.slow[:, 1], tracks.slow[:, 2])[:, None] + np.hypot(found[:, 3], found[:, 4])[None]) / 2
    if (unsure := same & ~near & (away < halves)).any():
        ours, theirs = (np.flatnonzero(unsure.any(axis)) for axis in (1, 0))
        # Far from the origin of a map, coordinates have fewer digits than corners need.
        shift = np.array([*fixed[:2, 3], 0, 0, 0, 0, 0])
        covered = bev_overlap(tracks.boxes()[ours] - shift, found[theirs] - shift) >= rules.overlap
        near[np.ix_(ours, theirs)] |= covered & unsure[np.ix_(ours, theirs)]
    mine, theirs = np.nonzero(near)
    cost = away[mine, theirs] ** 2 / variance[mine, theirs] + 2 * np.log(variance[mine, theirs])
    pairs = []
    free_tracks, free_boxes = np.ones(len(tracks), np.bool_), np.ones(len(found), np.bool_)
    for pair in np.lexsort((mine, theirs, cost)).tolist():
        row, column = int(mine[pair]), int(theirs[pair])
        if free_tracks[row] and free_boxes[column]:
            free_tracks[row] = free_boxes[column] = False
            pairs.append((row, column))
    chosen = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


def _updated(tracks: _Tracks, rows: _Numbers, found: _Doubles, scores: _Doubles, stamp: int, framed: bool) -> _Tracks:
    """Returns tracks with what was found of some of them."""
    place, velocity, spread = tracks.place.copy(), tracks.velocity.copy(), tracks.spread.copy()
    slow, doubt, votes, score = tracks.slow.copy(), tracks.doubt.copy(), tracks.votes.copy(), tracks.score.copy()
    hits, seen = tracks.hits.copy(), tracks.seen.copy()

    variance, shared, speed = spread[rows].T
    total = variance + _noise(found) ** 2
    gain, pull = variance / total, shared / total
    off = found[:, :2] - place[rows]
    place[rows] += gain[:, None] * off
    velocity[rows] += pull[:, None] * off
    spread[rows] = np.column_stack(((1 - gain) * variance, (1 - gain) * shared, np.maximum(speed - pull * shared, 0.0)))

    off = found[:, 2:] - slow[rows]
    turn = wrapped(off[:, 4])
    turned = np.abs(turn) > np.pi / 2
    off[:, 4] = np.where(turned, wrapped(turn + np.pi), turn)
    gains = doubt[rows] / (doubt[rows] + np.array([_Z, _SIZE, _TURN]) ** 2)
    slow[rows] += gains[:, [0, 1, 1, 1, 2]] * off
    slow[rows, 4] = wrapped(slow[rows, 4])
    doubt[rows] *= 1 - gains

    votes[rows] += np.where(turned, -scores, scores)
    if framed:
        ahead = (velocity[rows] * np.column_stack((np.cos(slow[rows, 4]), np.sin(slow[rows, 4])))).sum(1)
        # Only a speed that is sure tells where the front is.
        known = np.abs(ahead) > _FORWARD + 3 * np.sqrt(spread[rows, 2])
        votes[rows] += np.where(known, 2 * np.sign(ahead), 0)
    wrong = rows[votes[rows] < 0]
    slow[wrong, 4] = wrapped(slow[wrong, 4] + np.pi)
    votes[rows] = np.minimum(np.abs(votes[rows]), _VOTES)

    score[rows] += (scores - score[rows]) / (hits[rows] + 1)
    hits[rows] += seen[rows] < stamp
    seen[rows] = stamp
    return replace(
        tracks,
        place=place,
        velocity=velocity,
        spread=spread,
        slow=slow,
        doubt=doubt,
        votes=votes,
        score=score,
        hits=hits,
        seen=seen,
    )


def _begun(found: _Doubles, scores: _Doubles, classes: npt.NDArray[np.uint8], stamp: int, framed: bool) -> _Tracks:
    count = len(found)
    none = np.zeros(count)
    return _Tracks(
        ids=np.full(count, NO_ID),
        classes=classes,
        place=found[:, :2],
        velocity=np.zeros((count, 2)),
        spread=np.column_stack((_noise(found) ** 2, none, _fastest(found, framed) ** 2)),
        slow=found[:, 2:],
        doubt=np.tile(np.array([_Z, _SIZE, _TURN]) ** 2, (count, 1)),
        votes=np.clip(scores, 0, _VOTES),
        score=scores,
        hits=np.ones(count, np.int64),
        misses=np.zeros(count, np.int64),
        seen=np.full(count, stamp, np.int64),
    )


def _named(tracks: _Tracks, owner: _Numbers, next_id: int, rules: TrackRules) -> tuple[_Tracks, int]:
    """Returns tracks of which those that are sure by now have an id, the surest detection's first, and the next id."""
    there = owner[owner >= 0]
    sure = there[(tracks.ids[there] == NO_ID) & (tracks.hits[there] >= rules.hits)]
    ids = tracks.ids.copy()
    ids[sure] = next_id + np.arange(len(sure))
    return replace(tracks, ids=ids), next_id + len(sure)


def _alive(tracks: _Tracks, last: int, now: int, rules: TrackRules) -> _Tracks:
    """Returns the tracks that were not missed too often, the moment `last` being over, nor for too long by `now`."""
    misses = np.where(tracks.seen == last, 0, tracks.misses + 1)
    alive = np.where(tracks.ids == NO_ID, misses == 0, misses <= rules.misses) & (now - tracks.seen <= rules.longest)
    return replace(tracks, misses=misses).among(alive)


def _most(tracks: _Tracks, rules: TrackRules) -> _Tracks:
    if len(tracks) <= rules.most:
        return tracks
    return tracks.among(np.sort(np.lexsort((-tracks.hits, -tracks.seen))[: rules.most]))


def _answer(
    tracks: _Tracks,
    owner: _Numbers,
    found: _Doubles,
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.uint8],
    fixed: _Doubles,
    framed: bool,
    restarted: bool,
) -> Tracked:
    """Returns the boxes of a frame as their tracks have them; those without a track as they were found."""
    has = owner >= 0
    mine = owner[has]
    shown, velocity = found.copy(), np.zeros((len(found), 3))
    shown[has], velocity[has, :2] = tracks.boxes()[mine], tracks.velocity[mine]
    ids, deviation = np.full(len(found), NO_ID), np.full(len(found), 0.0)
    ids[has] = tracks.ids[mine]
    deviation[has] = np.sqrt(tracks.spread[mine, 2])
    deviation[~has] = _fastest(found[~has], framed)
    confidence = scores.astype(np.float64)
    confidence[has] = tracks.score[mine]
    there = moved(shown, np.linalg.inv(fixed)).astype(np.float32)
    return Tracked(
        Boxes(there, scores, classes),
        ids,
        (velocity @ fixed[:3, :3]).astype(np.float32),
        deviation.astype(np.float32),
        confidence.astype(np.float32),
        restarted,
    )


def _reordered(tracked: Tracked, rows: _Numbers) -> Tracked:
    return replace(
        tracked,
        boxes=tracked.boxes.among(rows),
        ids=tracked.ids[rows],
        velocities=tracked.velocities[rows],
        deviations=tracked.deviations[rows],
        confidence=tracked.confidence[rows],
    )
