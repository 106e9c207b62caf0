"""Loads the network that labels the node's points, and describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from spvnas_ros.clouds.fit import Known
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import SPVNAS, shown
from spvnas_ros.zoo.cache import resolve_weights

Perceive = Callable[[Points], Segmentation]
"""Labels points: a `Perception`, or any function with the same signature."""


@dataclass(frozen=True)
class Network:
    """The network that labels the points, and its description.

    sha256:             hash of the weights; "" where they have none
    voxel_size:         metres
    classes:            names of the classes, in the order of the labels
    palette:            `(r, g, b)` 0..255 in which each class is shown
    known:              what it knows of clouds: intensities, height of the sensor, points that it can use
    trained:            False for random weights
    """

    perceive: Perceive
    name: str = ""
    sha256: str = ""
    engine: str = ""
    device: str = ""
    voxel_size: float = 0.0
    classes: tuple[str, ...] = SEMANTIC_KITTI.classes
    palette: tuple[tuple[int, int, int], ...] = shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)
    known: Known = field(default_factory=Known)
    trained: bool = True

    def __str__(self) -> str:
        return (
            f"{self.name}, {len(self.classes)} classes, {self.voxel_size * 100:g} cm voxels, "
            f"engine {self.engine} on {self.device}"
        )


def load_network(weights: str, device: str, engine: str, palette: str = SPVNAS) -> Network:
    """Loads a checkpoint, by its path or by the name of a fetched model.

    palette: name of the colours to show, one of `spvnas_ros.palettes.PALETTES`

    Raises ValueError where `device` or `engine` is unknown. Raises FetchError or CheckpointError where the weights are
    missing or cannot be used.
    """
    path = resolve_weights(weights)
    from spvnas_ros.perception import Perception, known_of  # takes seconds, so it comes after the checks that are quick

    perception = Perception.load(path, device, engine)
    facts = perception.facts
    return Network(
        partial(perception, boxes=False),
        name=facts.name or path.stem,
        sha256=facts.weights_sha256 or "",
        engine=perception.engine.name,
        device=perception.engine.device,
        voxel_size=facts.voxel_size,
        classes=facts.classes,
        palette=shown(facts.classes, facts.palette, palette),
        known=known_of(facts),
        trained=facts.trained,
    )


def release_memory(device: str) -> None:
    """Returns cached CUDA memory to the device, after a network on it was freed. On another device it does nothing."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def noise() -> Points:
    """Returns random points around a sensor, float32 `[2000, 4]`, for the warm-up."""
    return np.random.default_rng(0).uniform((-20, -20, -2, 0), (20, 20, 3, 1), (2000, 4)).astype(np.float32)
