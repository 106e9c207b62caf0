"""What data sets call the same objects."""

from __future__ import annotations

from typing import Final

_SAME: Final = (frozenset({"pedestrian", "person"}), frozenset({"cyclist", "bicyclist"}))
"""KITTI's words, and those of SemanticKITTI and simulated drives."""

_KINDS: Final = {
    "rider": frozenset({"rider", "bicyclist", "motorcyclist", "cyclist"}),
    "large-vehicle": frozenset({"large-vehicle", "truck", "other-vehicle"}),
}
"""Classes of several kinds: those of the network that comes with the package."""


def words_for(kind: str) -> frozenset[str]:
    """Returns all words for a class of boxes, such as KITTI's Pedestrian, in lower case; its own among them."""
    word = kind.lower()
    if word in _KINDS:
        return _KINDS[word]
    return next((same for same in _SAME if word in same), frozenset({word}))
