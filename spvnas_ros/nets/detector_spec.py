"""`DetectorSpec`: the description of a detector, SECOND or SPV-SECOND, as a value.

Both share one skeleton: a sparse encoder over voxels, a network over the bird's-eye view, and an anchor head; a point
branch may run beside the voxels (Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel
Convolution", ECCV 2020, section 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spvnas_ros.nets.box_spec import BevBlock, BoxHeadSpec, check_blocks, kitti_head
from spvnas_ros.nets.spec_checks import check_range, floats
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.sparse.sites import Triple, Window, grid_shape

CONVENTIONS = ("openpcdet", "mmdet3d")
"""The libraries whose SECOND is described: OpenPCDet 0.6 and mmdetection3d 1.4."""

FAMILIES = ("second", "spv_second")
KITTI_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)

_HALVING = Window((3, 3, 3), (2, 2, 2), (1, 1, 1))
STEPS = (_HALVING, _HALVING, Window((3, 3, 3), (2, 2, 2), (1, 1, 0)), Window((1, 1, 3), (1, 1, 2), (0, 0, 0)))
"""The strided convolutions of the sparse encoder: into its stages 1, 2 and 3, and out of it."""


@dataclass(frozen=True)
class DetectorSpec:
    """The description of a detector, without its weights.

    family:       "second" or "spv_second": where the description came from; it changes nothing
    convention:   "openpcdet" or "mmdet3d", or another name: likewise
    point_range:  x, y, z minimum, then maximum, metres
    voxel_size:   edges of the finest voxel along x, y, z, metres
    max_points:   how many points of a voxel count
    max_voxels:   how many voxels a frame may have, while training and else
    stem:         width of the convolution at full resolution
    stages:       widths of the convolutions of each of the four stages
    out:          width of the sparse encoder's output
    point_branch: whether the fine point branch runs beside the voxels (SPVConv)
    bev:          the blocks over the bird's-eye view
    head:         the box head
    in_channels:  x, y, z in metres, intensity, and so on
    eps, momentum: of every BatchNorm
    """

    family: str
    convention: str
    point_range: tuple[float, ...]
    voxel_size: tuple[float, float, float]
    max_points: int
    max_voxels: tuple[int, int]
    stem: int
    stages: tuple[tuple[int, ...], ...]
    out: int
    point_branch: bool
    bev: tuple[BevBlock, ...]
    head: BoxHeadSpec
    in_channels: int = 4
    eps: float = 1e-3
    momentum: float = 0.01

    def __post_init__(self) -> None:
        check_range(self.point_range)
        if len(self.voxel_size) != 3 or not all(math.isfinite(v) and v > 0 for v in self.voxel_size):
            raise SpecError(f"voxel_size must be three positive numbers of metres, found {self.voxel_size}")
        if self.max_points < 1 or len(self.max_voxels) != 2 or min(self.max_voxels) < 1:
            raise SpecError(
                "max_points and both max_voxels (training, else) must be positive, "
                f"found {self.max_points} and {self.max_voxels}"
            )
        if self.in_channels < 3:
            raise SpecError(f"in_channels must be at least 3 (x, y, z), found {self.in_channels}")
        if len(self.stages) != len(STEPS) or not all(self.stages):
            raise SpecError(f"a detector has {len(STEPS)} stages with a convolution at least, found {self.stages}")
        check_blocks(self.bev)
        if min(self.widths()) < 1:
            raise SpecError(f"every width must be at least 1, found {sorted(set(self.widths()))}")
        self._check_cells()

    def _check_cells(self) -> None:
        shapes = self.shapes()
        if min(min(shape) for shape in shapes) < 1:
            raise SpecError(
                f"the range {self.point_range} in voxels of {self.voxel_size} m is too small for the encoder: it has "
                f"{shapes[0]} cells, and {shapes[-1]} are left of them"
            )
        stride = math.prod(block.stride for block in self.bev)
        if any(cells * self.bev[0].stride % stride for cells in self.bev_shape):
            raise SpecError(
                f"the bird's-eye view has {shapes[-1][:2]} cells (x, y), which its strides do not divide by {stride}; "
                "choose a range that is a multiple of the coarsest cell"
            )

    def widths(self) -> tuple[int, ...]:
        """Returns every convolution's output width, in order."""
        flat = (width for stage in self.stages for width in stage)
        return (self.stem, *flat, self.out, *(width for block in self.bev for width in (block.width, block.up)))

    def shapes(self) -> tuple[Triple, ...]:
        """Returns the cells along x, y, z of every stage and of the encoder's output.

        There is one cell more along z than the range has, as in both libraries.
        """
        x, y, z = grid_shape(self.point_range, self.voxel_size)
        shapes = [(x, y, z + 1)]
        for window in STEPS:
            shapes.append(window.shape(shapes[-1]))
        return tuple(shapes)

    @property
    def bev_shape(self) -> tuple[int, int]:
        """The cells of the head's map along x and y."""
        x, y, _ = self.shapes()[-1]
        return -(-x // self.bev[0].stride), -(-y // self.bev[0].stride)

    @classmethod
    def second(
        cls,
        convention: str,
        width: int = 16,
        *,
        point_branch: bool = False,
        point_range: Sequence[float] = KITTI_RANGE,
        voxel_size: tuple[float, float, float] = (0.05, 0.05, 0.1),
    ) -> DetectorSpec:
        """Returns SECOND, or SPV-SECOND with `point_branch`, for KITTI's three classes.

        convention: "openpcdet" or "mmdet3d": order of the classes, overlaps, directions, losses and selection of the
                    library
        width:      of the stem; 16 is the published network, and every other width is in proportion

        Raises SpecError for another convention, and for a width, a range or voxels that no network has.
        """
        if convention not in CONVENTIONS:
            raise SpecError(f"the convention must be {' or '.join(map(repr, CONVENTIONS))}, found {convention!r}")
        if width < 1:
            raise SpecError(f"width must be a positive integer, found {width}")
        return cls(
            family=FAMILIES[point_branch],
            convention=convention,
            point_range=tuple(map(float, point_range)),
            voxel_size=voxel_size,
            max_points=5,
            max_voxels=(16_000, 40_000),
            stem=width,
            stages=((width,), (2 * width,) * 3, (4 * width,) * 3, (4 * width,) * 3),
            out=8 * width,
            point_branch=point_branch,
            bev=(BevBlock(8 * width, 5, 1, 16 * width), BevBlock(16 * width, 5, 2, 16 * width)),
            head=kitti_head(convention),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as dictionaries, lists and numbers that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DetectorSpec:
        """Returns the spec that `to_dict` wrote. Raises SpecError where the data does not describe a detector."""
        try:
            fields = dict(data) | {
                "point_range": floats(data["point_range"]),
                "voxel_size": floats(data["voxel_size"]),
                "max_voxels": tuple(data["max_voxels"]),
                "stages": tuple(tuple(stage) for stage in data["stages"]),
                "bev": tuple(BevBlock(**block) for block in data["bev"]),
                "head": BoxHeadSpec.from_dict(data["head"]),
            }
            return cls(**fields)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"not the description of a detector: {error}") from error
