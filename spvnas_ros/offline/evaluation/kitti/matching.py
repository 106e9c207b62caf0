"""Which detection finds which object: the loops over all frames, compiled. README.md has the rules in words.

Objects and detections of all frames lie in one row; `*_starts`, int64 `[F + 1]`, says where each frame's begin. Their
states are those of one class and difficulty. `overlaps` holds frame after frame float64 `[objects, detections]`, flat,
from `overlap_starts`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

COUNTS, IGNORED, ABSENT = 0, 1, -1
"""States: it counts; finding it, or being it, is neither right nor wrong; it does not exist."""


@njit(cache=True, nogil=True)
def scores_of_found(object_starts, detection_starts, overlap_starts, objects, detections, scores, overlaps, least, out):
    """Pass 1: fills `out` with the scores of the detections that find an object that counts; returns how many.

    In file order, each object takes, of the free detections that overlap it by more than `least`, the one with the
    highest score, those that are ignored included.
    """
    count = 0
    taken = np.zeros(len(detections), np.bool_)
    for frame in range(len(object_starts) - 1):
        first, end = detection_starts[frame], detection_starts[frame + 1]
        for i in range(object_starts[frame], object_starts[frame + 1]):
            if objects[i] == ABSENT:
                continue
            row = overlap_starts[frame] + (i - object_starts[frame]) * (end - first)
            best = -1
            for j in range(first, end):
                if detections[j] == ABSENT or taken[j] or not overlaps[row + j - first] > least:
                    continue
                if best < 0 or scores[j] > scores[best]:
                    best = j
            if best < 0:
                continue
            taken[best] = True
            if objects[i] == COUNTS and detections[best] == COUNTS:
                out[count] = scores[best]
                count += 1
    return count


@njit(cache=True, nogil=True)
def right_and_wrong(
    object_starts,
    detection_starts,
    overlap_starts,
    objects,
    detections,
    scores,
    overlaps,
    least,
    turned,
    excused,
    thresholds,
    right,
    wrong,
    similarity,
):
    """Pass 2: fills right, wrong (int64) and similarity (float64), `[T]`, for each of the thresholds `[T]`.

    Of the detections with at least the threshold's score, each object takes the one that overlaps it most, one that
    counts before one that is ignored. What counts and is not taken is wrong, unless it is excused.

    turned:  like `overlaps`, (1 + cos(difference of alpha)) / 2
    excused: bool, detections in a region of the picture without labels
    """
    taken = np.zeros(len(detections), np.bool_)
    for t in range(len(thresholds)):
        taken[:] = False
        for frame in range(len(object_starts) - 1):
            first, end = detection_starts[frame], detection_starts[frame + 1]
            for i in range(object_starts[frame], object_starts[frame + 1]):
                if objects[i] == ABSENT:
                    continue
                row = overlap_starts[frame] + (i - object_starts[frame]) * (end - first)
                best = -1
                for j in range(first, end):
                    if detections[j] == ABSENT or taken[j] or scores[j] < thresholds[t]:
                        continue
                    overlap = overlaps[row + j - first]
                    if not overlap > least:
                        continue
                    if detections[j] == IGNORED:
                        if best < 0:  # the first of these, however much another overlaps
                            best = j
                    elif best < 0 or detections[best] == IGNORED or overlap > overlaps[row + best - first]:
                        best = j
                if best < 0:
                    continue
                taken[best] = True
                if objects[i] == COUNTS and detections[best] == COUNTS:
                    right[t] += 1
                    similarity[t] += turned[row + best - first]
            for j in range(first, end):
                free = detections[j] == COUNTS and scores[j] >= thresholds[t] and not taken[j]
                if free and not excused[j]:
                    wrong[t] += 1
