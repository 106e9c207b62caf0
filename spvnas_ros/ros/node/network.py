"""What labels the node's points, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI

Perceive = Callable[[Points], Segmentation]
"""What labels points: a `Perception`, or anything that is called like one."""


@dataclass(frozen=True)
class Network:
    """What labels the points, and what it says of itself.

    sha256:     of the weights; "" where it has none
    voxel_size: metres
    classes:    their names, in the order of the labels
    palette:    `(r, g, b)` 0..255 of each class
    intensity:  the rule of its training data; "none" where it had none
    training_intensity: what that rule gave; None where the weights do not say
    trained:    False for random weights
    """

    perceive: Perceive
    name: str = ""
    sha256: str = ""
    engine: str = ""
    device: str = ""
    voxel_size: float = 0.0
    classes: tuple[str, ...] = SEMANTIC_KITTI.classes
    palette: tuple[tuple[int, int, int], ...] = SEMANTIC_KITTI.palette
    intensity: str = "unit"
    training_intensity: TrainingIntensity | None = None
    trained: bool = True

    def __str__(self) -> str:
        return (
            f"{self.name}, {len(self.classes)} classes, {self.voxel_size * 100:g} cm voxels, "
            f"engine {self.engine} on {self.device}"
        )


def load_network(weights: str, device: str, engine: str) -> Network:
    """Load a checkpoint, by its path or by the name of a fetched model.

    Raises ValueError where `weights` is empty or device or engine are unknown, FetchError or CheckpointError for
    weights that are not there or not usable.
    """
    if not weights:
        raise ValueError(
            "parameter 'weights' is not set; give a checkpoint, --ros-args -p weights:=FILE.safetensors, or the "
            "name of a fetched model (spvnas zoo list)"
        )
    from spvnas_ros.zoo.cache import resolve_weights

    path = resolve_weights(weights)
    from spvnas_ros.perception import Perception  # takes seconds, so it comes behind what may fail at once

    perception = Perception.load(path, device, engine)
    facts = perception.facts
    return Network(
        perception,
        name=facts.name or path.stem,
        sha256=facts.weights_sha256 or "",
        engine=perception.engine.name,
        device=perception.engine.device,
        voxel_size=facts.voxel_size,
        classes=facts.classes,
        palette=facts.palette,
        intensity=facts.intensity,
        training_intensity=facts.training_intensity,
        trained=facts.trained,
    )


def release_memory(device: str) -> None:
    """Give back what torch keeps of a CUDA device's memory after a network on it was let go."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def noise() -> Points:
    """Points around a sensor, for warming up."""
    return np.random.default_rng(0).uniform((-20, -20, -2, 0), (20, 20, 3, 1), (2000, 4)).astype(np.float32)
