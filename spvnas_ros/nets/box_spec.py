"""`BoxHeadSpec` and `BoxBranchSpec`: the descriptions of anchor heads and of the branch that finds boxes, as values.

Reference: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from spvnas_ros.nets.spec_checks import check_counts, check_numbers, check_range, floats
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.sparse.sites import Triple, grid_shape

_COARSEST = 4
"""The coarsest level of a network that labels points."""
_MOST_ROWS = 255
"""Kernel rows of a column that the compiled convolutions can number."""

_MOST_CELLS = 2**24
"""Cells of a bird's-eye view that a machine has memory for."""
_MOST_CLASSES = 255
"""Classes are uint8."""


@dataclass(frozen=True)
class BoxClass:
    """A class of boxes and its anchors.

    size:     length, width and height of the anchors, metres
    bottom:   height of the anchors' lower side, metres in the sensor's frame
    positive: overlap from which an anchor shall find a box
    negative: overlap below which it shall find none; between the two it is left alone
    """

    name: str
    size: tuple[float, float, float]
    bottom: float
    positive: float
    negative: float


@dataclass(frozen=True)
class Selection:
    """Which of the decoded boxes come out.

    score:     the least score
    anchors:   how many of the anchors with the highest scores are looked at
    overlap:   two boxes that overlap more are one
    per_class: every class is looked at by itself, and an anchor can come out in several; else each anchor has its best
               class, and boxes of all classes displace each other
    boxes:     how many come out at most
    """

    score: float
    anchors: int
    overlap: float
    per_class: bool
    boxes: int

    def __post_init__(self) -> None:
        check_numbers("a selection's", {"score": self.score, "overlap": self.overlap}, 0, 1)
        check_counts("a selection's", {"anchors": self.anchors, "boxes": self.boxes})
        if not isinstance(self.per_class, bool):
            raise SpecError(f"a selection's per_class must be true or false, found {self.per_class!r}")


@dataclass(frozen=True)
class BoxHeadSpec:
    """The description of an anchor head and of how it is trained.

    classes:          in the order of the head's channels
    rotations:        yaw of the anchors, radians
    direction_offset: where the first of the two directions begins, radians
    own_class:        an anchor sees the boxes of its own class only; else those of every class, and learns their class
    forced:           "any": an object's best anchors are its own however low they overlap; "above_negative": only from
                      the class's negative limit on
    normalised:       what the losses are divided by: "frame", each frame's positive anchors, then the frames; "batch",
                      the positive anchors of all frames
    weights:          of the losses of classes, boxes and directions
    class_deviation:  of the class layer's random weights; None for those of torch
    box_deviation:    of the box layer's random weights
    selection:        which boxes come out
    """

    classes: tuple[BoxClass, ...]
    rotations: tuple[float, ...]
    direction_offset: float
    own_class: bool
    forced: str
    normalised: str
    weights: tuple[float, float, float]
    class_deviation: float | None
    box_deviation: float
    selection: Selection

    def __post_init__(self) -> None:
        if not self.classes or not self.rotations:
            raise SpecError("a box head has at least one class and one rotation, found none")
        if len(self.classes) > _MOST_CLASSES or len({each.name for each in self.classes}) < len(self.classes):
            raise SpecError(
                f"a box head has at most {_MOST_CLASSES} classes, each with a name of its own, found "
                f"{len(self.classes)}: {', '.join(str(each.name) for each in self.classes[:8])}"
            )
        for each in self.classes:
            if not (isinstance(each.name, str) and each.name):
                raise SpecError(f"a class of boxes must have a name, found {each.name!r}")
            if len(each.size) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in each.size):
                raise SpecError(f"the anchors of {each.name} must have a positive size, found {each.size}")
            check_numbers(f"the anchors of {each.name}:", {"bottom": each.bottom}, -math.inf, math.inf)
            if not 0 <= each.negative <= each.positive <= 1:
                raise SpecError(
                    f"the overlaps of {each.name} must be 0 <= negative <= positive <= 1, found negative "
                    f"{each.negative} and positive {each.positive}"
                )
        numbers = {f"rotation {i}": value for i, value in enumerate(self.rotations)}
        numbers |= {"direction_offset": self.direction_offset, "box_deviation": self.box_deviation}
        check_numbers("a box head's", numbers, -math.inf, math.inf)
        if len(self.weights) != 3:
            raise SpecError(f"a box head has three weights of losses, found {self.weights}")
        check_numbers("a box head's", {f"weight {i}": value for i, value in enumerate(self.weights)}, 0, math.inf)
        if self.forced not in ("any", "above_negative") or self.normalised not in ("frame", "batch"):
            raise SpecError(
                "forced must be 'any' or 'above_negative' and normalised 'frame' or 'batch', "
                f"found {self.forced!r} and {self.normalised!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in the head's order."""
        return tuple(each.name for each in self.classes)

    @property
    def anchors_per_cell(self) -> int:
        """The number of anchors at every cell of the bird's-eye view."""
        return len(self.classes) * len(self.rotations)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoxHeadSpec:
        """Returns the spec that `asdict` wrote. Raises SpecError where the data does not describe a box head."""
        try:
            fields = dict(data) | {
                "classes": tuple(BoxClass(**(each | {"size": floats(each["size"])})) for each in data["classes"]),
                "rotations": floats(data["rotations"]),
                "weights": floats(data["weights"]),
                "selection": Selection(**data["selection"]),
            }
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"not the description of a box head: {error}") from error


@dataclass(frozen=True)
class BevBlock:
    """A block of the network over the bird's-eye view: a strided 3x3 convolution, others, and an upsampling.

    width:  of its convolutions; layers: how many follow the first; stride: of the first, and in all of the upsampling
    up:     width of what it hands to the head
    """

    width: int
    layers: int
    stride: int
    up: int


@dataclass(frozen=True)
class BoxBranchSpec:
    """The description of the branch that finds boxes in the features of a network that labels points.

    The voxels of one level are summed up in columns, each height with a kernel of its own; the columns are the
    bird's-eye view.

    level:       of the features that it takes: the voxels there are `2**level` finest voxels wide; 0 to 4
    merged:      edge of a column, in voxels of that level
    point_range: x, y, z minimum, then maximum, metres: where boxes are found
    voxel_size:  edge of the finest voxel, metres
    width:       of the columns' features
    bev:         the blocks over the bird's-eye view
    head:        the box head
    eps, momentum: of every BatchNorm
    """

    level: int
    merged: int
    point_range: tuple[float, ...]
    voxel_size: float
    width: int
    bev: tuple[BevBlock, ...]
    head: BoxHeadSpec
    eps: float = 1e-3
    momentum: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.point_range)
        check_numbers("a box branch's", {"voxel_size": self.voxel_size}, 0, math.inf)
        check_numbers("a box branch's", {"eps": self.eps}, 0, 1)
        check_numbers("a box branch's", {"momentum": self.momentum}, 0, 1)
        check_counts("a box branch's", {"merged": self.merged, "width": self.width})
        if isinstance(self.level, bool) or not isinstance(self.level, int):
            raise SpecError(f"a box branch's level must be a whole number, found {self.level!r}")
        if self.voxel_size == 0 or self.eps == 0:
            raise SpecError(f"voxel_size and eps must be positive, found {self.voxel_size} and {self.eps}")
        if not 0 <= self.level <= _COARSEST:
            raise SpecError(f"level must be 0 to {_COARSEST}, found {self.level}")
        check_blocks(self.bev)
        if min(self.width, *(min(block.width, block.up) for block in self.bev)) < 1:
            raise SpecError(f"every width of the box branch must be at least 1, found {self.width} and {self.bev}")
        x, y, z = self.cells
        if self.volume > _MOST_ROWS or z < 1:
            raise SpecError(
                f"a column of {self.merged} x {self.merged} x {z} voxels is too large or empty: its kernel has "
                f"{self.volume} rows, expected 1 to {_MOST_ROWS}; choose a coarser level, fewer merged voxels or a "
                "lower range"
            )
        step = self.merged * math.prod(block.stride for block in self.bev)
        edge = self.voxel_size * 2**self.level
        for axis, count in zip("xy", (x, y), strict=True):
            low, high = (self.point_range["xyz".index(axis) + end] for end in (0, 3))
            if count % step or abs(count * edge - (high - low)) > 0.01 * edge:
                raise SpecError(
                    f"the range along {axis} is {high - low:g} m, expected a multiple of {step * edge:g} m, so a reach "
                    f"of one of {step * edge / 2:g} m (columns of {self.merged * edge:g} m, and the strides of the "
                    "bird's-eye view)"
                )
        if x * y > _MOST_CELLS:
            raise SpecError(
                f"the bird's-eye view has {x} x {y} cells, expected {_MOST_CELLS} at most; choose a smaller range"
            )

    @property
    def cells(self) -> Triple:
        """The voxels of the level along x, y and z of the range."""
        return grid_shape(self.point_range, (self.voxel_size * 2**self.level,) * 3)

    @property
    def volume(self) -> int:
        """The number of kernel rows of a column; x runs fastest, then y."""
        return self.merged**2 * self.cells[2]

    @property
    def columns(self) -> tuple[int, int]:
        """The cells of the bird's-eye view along x and y."""
        x, y, _ = self.cells
        return x // self.merged, y // self.merged

    @property
    def head_cells(self) -> tuple[int, int]:
        """The cells of the head's map along x and y."""
        x, y = self.columns
        return x // self.bev[0].stride, y // self.bev[0].stride

    @classmethod
    def around(
        cls,
        voxel_size: float,
        classes: Sequence[BoxClass],
        *,
        width: int = 16,
        reach: float = 51.2,
        bottom: float = -3.2,
        top: float = 3.2,
        level: int = 2,
        merged: int = 1,
        momentum: float = 0.1,
    ) -> BoxBranchSpec:
        """Returns a branch that finds boxes all around the vehicle.

        The bird's-eye view has three blocks, each half as fine and twice as wide as the one before. What little is
        done at full resolution costs most, so the first block is the shortest.

        width:       of the columns' features and of the first block
        reach:       how far along x and y, metres
        bottom, top: the heights that are looked at, metres in the sensor's frame

        Raises SpecError where these do not fit each other.
        """
        check_numbers("a box branch's", {"reach": reach, "voxel_size": voxel_size}, 0, math.inf)
        if wrong := [each for each in classes if not isinstance(each, BoxClass)]:
            raise SpecError(f"classes must be BoxClass, found {wrong[0]!r}")
        return cls(
            level=level,
            merged=merged,
            point_range=(-reach, -reach, bottom, reach, reach, top),
            voxel_size=voxel_size,
            width=width,
            bev=(
                BevBlock(width, 1, 1, width),
                BevBlock(2 * width, 2, 2, width),
                BevBlock(4 * width, 3, 2, width),
            ),
            head=replace(kitti_head("openpcdet"), classes=tuple(classes)),
            momentum=momentum,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoxBranchSpec:
        """Returns the spec that `asdict` wrote. Raises SpecError where the data does not describe a box branch."""
        try:
            fields = dict(data) | {
                "point_range": floats(data["point_range"]),
                "bev": tuple(BevBlock(**block) for block in data["bev"]),
                "head": BoxHeadSpec.from_dict(data["head"]),
            }
            return cls(**fields)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"not the description of a box branch: {error}") from error


def kitti_head(convention: str) -> BoxHeadSpec:
    """Returns the box head of SECOND for KITTI's three classes, "openpcdet" or "mmdet3d"."""
    theirs = convention == "openpcdet"
    others = (0.5, 0.35) if theirs else (0.35, 0.2)
    car = BoxClass("Car", (3.9, 1.6, 1.56), -1.78, 0.6, 0.45)
    pedestrian = BoxClass("Pedestrian", (0.8, 0.6, 1.73), -0.6, *others)
    cyclist = BoxClass("Cyclist", (1.76, 0.6, 1.73), -0.6, *others)
    return BoxHeadSpec(
        classes=(car, pedestrian, cyclist) if theirs else (pedestrian, cyclist, car),
        rotations=(0.0, 1.57),
        direction_offset=0.78539 if theirs else -math.pi / 2,
        own_class=theirs,
        forced="any" if theirs else "above_negative",
        normalised="frame" if theirs else "batch",
        weights=(1.0, 2.0, 0.2),
        class_deviation=None if theirs else 0.01,
        box_deviation=0.001 if theirs else 0.01,
        selection=Selection(0.1, 4096, 0.01, False, 500) if theirs else Selection(0.1, 100, 0.01, True, 50),
    )


def branch_difference(one: BoxBranchSpec, other: BoxBranchSpec) -> str:
    """Returns in what two branches differ, such as "level 1 and 2"."""
    pairs = ((each.name, getattr(one, each.name), getattr(other, each.name)) for each in fields(BoxBranchSpec))
    return "; ".join(f"{name} {a} and {b}" if name != "head" else "its head" for name, a, b in pairs if a != b)


def check_blocks(blocks: Sequence[BevBlock]) -> None:
    """Raises SpecError where there is no block, or one without a stride."""
    if not blocks or min(min(b.layers for b in blocks), min(b.stride - 1 for b in blocks)) < 0:
        raise SpecError(f"the bird's-eye view needs blocks with strides from 1 on, found {blocks}")
