"""Finds what is to be said, once, about the clouds that come: nobody wants their labels, their frame is no sensor's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_UNWATCHED_CLOUDS = 10
"""Clouds in a row after which it is told that nobody subscribes; a subscriber needs a moment to be found."""

_FIXED_FRAMES = ("map", "odom", "odom_combined", "earth", "utm", "world", "ecef", "camera_init")
"""Frames that stand still. LiDAR odometry publishes its registered clouds in `camera_init`."""
_VEHICLE_FRAMES = ("base_link", "base_footprint", "base_stabilized", "base", "ego_vehicle")


@dataclass
class Remarks:
    """Finds what is to be said about the clouds of a node, and says each only once.

    frames: the names of the frames in which clouds have come
    """

    frames: set[str] = field(default_factory=set)
    _unwatched: int = 0

    def begin(self) -> None:
        """Has it said again that nobody subscribes; the node has become active."""
        self._unwatched = 0

    def on_watched(self) -> None:
        """Counts a cloud that somebody wants labelled."""
        if self._unwatched < _UNWATCHED_CLOUDS:
            self._unwatched = 0

    def on_unwatched(self, text: Callable[[], str]) -> str:
        """Counts a cloud that nobody wants labelled. Returns what is to be said, mostly "", else the text."""
        self._unwatched += 1
        return text() if self._unwatched == _UNWATCHED_CLOUDS else ""

    def on_frame(self, frame: str, is_set: Callable[[str], bool]) -> str:
        """Returns what is to be said about the frame of a cloud, mostly "".

        is_set: returns whether a parameter of this name is set to something
        """
        if frame in self.frames:
            return ""
        self.frames.add(frame)
        return frame_complaint(frame, is_set)


def frame_complaint(frame: str, is_set: Callable[[str], bool]) -> str:
    """Returns why a frame cannot be a sensor's, and what to do; "" where it can, or where parameters provide for it.

    frame:  the frame of a cloud's header; of a name such as `/car/base_link` the last part counts
    is_set: returns whether a parameter of this name is set to something
    """
    name = frame.rstrip("/").rpartition("/")[2].lower()
    if not name:
        if not (needing := [each for each in ("sweeps.count", "target_frame") if is_set(each)]):
            return ""
        return f"clouds have no frame_id, and {needing[0]} needs one to ask TF: set the frame in the sensor's driver"
    if is_set("target_frame"):
        return ""
    if name in _FIXED_FRAMES and not is_set("origin"):
        return (
            f"clouds come in the frame {frame}, which stands still, but the network expects the sensor at the origin: "
            "subscribe to the driver's own clouds, or set target_frame to the sensor's TF frame"
        )
    if name in _VEHICLE_FRAMES and not is_set("mount.z"):
        return (
            f"clouds come in the frame {frame}, the vehicle's, but the network expects the sensor at the origin, and "
            "heights count: subscribe to the driver's own clouds, or set target_frame to the sensor's TF frame or "
            f"mount.z to the height of {frame} above the ground"
        )
    return ""


def nobody_subscribes(topics: Sequence[str], disabled: str | None) -> str:
    """Returns the text for clouds of which nobody wants labels or objects.

    topics:   names of the topics, one of which needs a subscriber
    disabled: the topic that has a subscriber but is not offered, if there is one
    """
    listed = f"{', '.join(topics[:-1])} or {topics[-1]}" if len(topics) > 1 else topics[0]
    text = f"clouds come, but they are not labelled: subscribe to {listed}"
    return text + (f"; {disabled} has a subscriber, but color.enabled is false" if disabled else "")
