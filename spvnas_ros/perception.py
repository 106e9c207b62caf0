"""The one public door: points in, labels out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.cleaning import usable
from spvnas_ros.engine import Engine, build_engine
from spvnas_ros.frame import UNLABELLED, Points, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, load_checkpoint


class Perception:
    """A trained network, ready to label clouds.

    Attributes:
        facts: what the weights say of themselves (classes, palette, voxel size, intensity rule, ...)
        engine: what runs the network; `engine.name` and `engine.device` tell which and where
    """

    def __init__(self, engine: Engine, facts: Facts) -> None:
        self.engine = engine
        self.facts = facts

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

    def __call__(self, points: Points, scores: bool = False) -> Segmentation:
        """Label every point.

        points: float32 `[N, 4]` (other numbers are converted), x, y, z in metres and intensity in 0..1; NaN and
                infinite values are allowed
        scores: also return the probabilities of all classes

        Points with a coordinate or an intensity that is not finite, and points outside `facts.point_range` where the
        network has one, get label 255 and confidence 0.
        Raises ValueError for another shape or type, and KeyRangeError where the finite points span more than
        2**18 voxels (13 km at 5 cm) along an axis.
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
        seen = usable(points, self.facts.point_range)
        if seen.all():
            return self.engine.segment(points, scores)
        return _spread(self.engine.segment(points[seen], scores), seen)


def _spread(part: Segmentation, where: npt.NDArray[np.bool_]) -> Segmentation:
    """Place the results of the points selected by `where` among the unlabelled rest."""
    labels = np.full(len(where), UNLABELLED, np.uint8)
    confidence = np.zeros(len(where), np.float32)
    labels[where] = part.labels
    confidence[where] = part.confidence
    if part.scores is None:
        return Segmentation(labels, confidence)
    scores = np.zeros((len(where), part.scores.shape[1]), np.float32)
    scores[where] = part.scores
    return Segmentation(labels, confidence, scores)
