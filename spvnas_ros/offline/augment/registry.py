"""Lists every augmentation by its name, and what each does to boxes: for recipes of labels and of boxes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from spvnas_ros.offline.augment.boxed_objects import object_noise, sample_objects
from spvnas_ros.offline.augment.geometric import flip, jitter, rotate, scale, shift
from spvnas_ros.offline.augment.mixing import lasermix, polarmix
from spvnas_ros.offline.augment.sensor import (
    beam_drop,
    intensity_drop,
    intensity_gamma,
    intensity_noise,
    intensity_scale,
    point_drop,
    range_crop,
)


class Boxes(Enum):
    """What an augmentation does to the boxes of a scan.

    STAY:    nothing
    COUNTED: boxes stay, but other points may lie in them
    MOVE:    boxes move with their points
    ADDED:   boxes of other scans come, with their points, from a database of objects
    MIXED:   boxes go and come with their points, of this scan and of a partner
    """

    STAY = "stay"
    COUNTED = "counted"
    MOVE = "move"
    ADDED = "added"
    MIXED = "mixed"


@dataclass(frozen=True)
class Known:
    """An augmentation: a function of a scan (mixing: and of a partner), a generator and options by name.

    needs_boxes: it is for scans with boxes alone
    defaults:    of its options on scans with boxes, where these differ from the function's own
    """

    function: Callable[..., Any]
    boxes: Boxes
    needs_boxes: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name that a config uses."""
        return self.function.__name__


_ALL = (
    Known(sample_objects, Boxes.ADDED, needs_boxes=True),
    Known(object_noise, Boxes.MOVE, needs_boxes=True),
    # With boxes, the defaults are those of SECOND (Yan et al., Sensors 2018).
    Known(rotate, Boxes.MOVE, defaults={"degrees": (-45.0, 45.0)}),
    Known(scale, Boxes.MOVE),
    Known(flip, Boxes.MOVE, defaults={"x": 0.0}),
    Known(shift, Boxes.MOVE),
    Known(jitter, Boxes.COUNTED),
    Known(beam_drop, Boxes.COUNTED),
    Known(point_drop, Boxes.COUNTED),
    Known(range_crop, Boxes.COUNTED),
    Known(intensity_scale, Boxes.STAY),
    Known(intensity_gamma, Boxes.STAY),
    Known(intensity_noise, Boxes.STAY),
    Known(intensity_drop, Boxes.STAY),
    Known(lasermix, Boxes.MIXED),
    Known(polarmix, Boxes.MIXED),
)

BOXED: Final[Mapping[str, Known]] = {known.name: known for known in _ALL}
"""Augmentations of scans with boxes."""

LABELLED: Final[Mapping[str, Known]] = {name: known for name, known in BOXED.items() if not known.needs_boxes}
"""Augmentations of scans with labels alone."""
