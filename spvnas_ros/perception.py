"""The one public door: points in, labels out, and boxes where the network finds them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from spvnas_ros.clouds.cleaning import Limits, clean, key_window
from spvnas_ros.clouds.fit import Known
from spvnas_ros.clouds.intensity import reference
from spvnas_ros.engine import Engine, build_engine
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, load_checkpoint

_UNSCALED = 100.0
"""Times the training's 95th percentile."""
_MOSTLY = 0.2
"""Share of points whose intensity is above the brightest: no reflectors, but another scale."""


class Perception:
    """A trained network, ready to label clouds, and to find the boxes of objects where it has a box branch.

    Attributes:
        facts: what the weights say of themselves (classes, palette, voxel size, intensity rule, ...)
        engine: what runs the network; `engine.name` and `engine.device` tell which and where
        limits: which points it can use
    """

    def __init__(self, engine: Engine, facts: Facts) -> None:
        self.engine = engine
        self.facts = facts
        self.limits = limits_of(facts)

    @classmethod
    def load(cls, weights: str | Path, device: str = "auto", engine: str = "auto") -> Perception:
        """Load a checkpoint in the project's format (see `spvnas import`, `spvnas zoo fetch`).

        weights: path of a `.safetensors` file, or the name of a fetched model (`spvnas zoo list`)
        device:  "auto" (a CUDA device where there is one), "cpu", "cuda", "cuda:1", ...
        engine:  "auto", "cpu" (fused, numba), "torch" (the reference, any device), or another library by name, for
                 comparing (see `spvnas_ros.engine.ENGINES`)

        Raises FetchError where there is no such file or fetched model, CheckpointError for a file that is not a
        checkpoint, ValueError for an unknown engine or device, or a library that is not installed.
        """
        net, facts = load_checkpoint(resolve_weights(weights))
        return cls.from_net(net, facts, device=device, engine=engine)

    @classmethod
    def from_net(
        cls, net: PointVoxelUNet, facts: Facts | None = None, *, device: str = "auto", engine: str = "auto"
    ) -> Perception:
        """Wrap a network that is in memory; without `facts`, those of a SemanticKITTI network are assumed.

        Raises CheckpointError for facts of another network, ValueError as `load` does.
        """
        facts = facts or Facts(spec=net.spec)
        if facts.spec != net.spec:
            raise CheckpointError(f"the facts describe another network: {facts.spec}, expected {net.spec}")
        return cls(build_engine(net, facts.voxel_size, device=device, engine=engine), facts)

    @property
    def box_names(self) -> tuple[str, ...]:
        """The classes of its boxes, in index order; none without a box branch."""
        return self.facts.spec.boxes.head.names if self.facts.spec.boxes else ()

    def __call__(self, points: Points, scores: bool = False, boxes: bool = True) -> Segmentation:
        """Label every point.

        points: float32 `[N, 4]` (other numbers are converted), x, y, z in metres and intensity in 0..1; NaN and
                infinite values are allowed
        scores: also return the probabilities of all classes
        boxes:  also find boxes, in `Segmentation.boxes`, where the network has a box branch

        Points that the network cannot use get label 255 and confidence 0, and `Segmentation.unusable` counts them:
        those that are not finite, at the origin, farther than voxels can be numbered (6.5 km at 5 cm), without an
        intensity, or outside `facts.point_range`. All other labels are as without them. Intensities beyond 0..1 are
        clipped, with a warning where they are many. Raises ValueError for another shape or type.
        """
        shape = (self.engine.in_channels,)
        if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu" or points.shape[1:] != shape:
            found = f"{points.dtype} {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
            raise ValueError(
                f"points must be a float32 array [N, {self.engine.in_channels}] of x, y, z in metres and intensity "
                f"in 0..1, found {found}"
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is unlabelled
            points = np.require(points, np.float32, ["C", "W"])
        cleaned = clean(points, self.limits)
        if cleaned.too_bright > _MOSTLY * len(points):
            warnings.warn(
                f"{cleaned.too_bright} of {len(points)} intensities were above {self.limits.brightest:g} and clipped; "
                "scale them to 0..1 (spvnas_ros.clouds.intensity.Intensity does it)",
                stacklevel=2,
            )
        result = self.engine.segment(cleaned.points, scores, boxes and bool(self.box_names))
        return result if cleaned.kept is None else result.among(cleaned.kept, cleaned.unusable)


def limits_of(facts: Facts) -> Limits:
    """Returns which points a network can use, from what its weights say of themselves."""
    trained = facts.training_intensity
    # Training on intensities that are not 0..1 has seen others; the limit then only keeps out what is no intensity.
    brightest = 1.0 if trained is None or trained.p95 <= 1 else _UNSCALED * trained.p95
    return Limits(key_window(facts.voxel_size), brightest, facts.point_range)


def known_of(facts: Facts) -> Known:
    """Returns what a network knows of the clouds it was trained on, from what its weights say of themselves."""
    return Known(reference(facts.training_intensity), facts.intensity != "none", facts.sensor_height, limits_of(facts))
