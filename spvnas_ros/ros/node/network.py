"""Loads the network that labels the node's points and finds objects, and describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spvnas_ros.clouds.fit import Known
from spvnas_ros.frame import Points, Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.palettes import SPVNAS, Colour, box_colours, shown
from spvnas_ros.zoo.cache import resolve_weights

if TYPE_CHECKING:
    from spvnas_ros.nets.box_spec import Selection
    from spvnas_ros.perception import Detector


class Perceive(Protocol):
    """What labels points and finds objects in one pass: a `Perception`, or any function with this signature."""

    def __call__(self, points: Points, /, *, labels: bool, boxes: bool) -> Segmentation:
        """Returns the labels of all points, if they are asked for, and the boxes, if they are and it finds any."""
        ...


_SENSOR_HEIGHT, _WALL, _FARTHEST, _ROUGH = 1.73, 40.0, 80.0, 0.03
"""Metres: of the cloud to warm up with."""


@dataclass(frozen=True)
class Network:
    """The network that runs, and its description.

    sha256:             hash of the weights; "" where they have none
    voxel_size:         metres
    classes:            names of the classes of points, in the order of the labels; none where it labels no points
    palette:            `(r, g, b)` 0..255 in which each of them is shown
    box_names:          names of the classes of boxes, in index order; none where it finds no objects
    box_palette:        `(r, g, b)` 0..255 in which each of these is shown
    least_score:        boxes with less do not come out of it, 0..1
    most_boxes:         so many come out at most
    known:              what it knows of clouds: intensities, height of the sensor, points that it can use
    trained:            False for random weights
    range_counts:       says how much was beyond what its precision holds, by what to call it
    rehearse:           labels a cloud, and finds boxes if asked to, without an answer; None where `perceive` has to
    in_two:             labels a cloud, hands the labels over, and then finds the boxes; None where both come at a time
    """

    perceive: Perceive
    name: str = ""
    sha256: str = ""
    engine: str = ""
    device: str = ""
    precision: str = "fp32"
    voxel_size: float = 0.0
    classes: tuple[str, ...] = SEMANTIC_KITTI.classes
    palette: tuple[Colour, ...] = shown(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)
    box_names: tuple[str, ...] = ()
    box_palette: tuple[Colour, ...] = ()
    least_score: float = 0.0
    most_boxes: int = 0
    known: Known = field(default_factory=Known)
    trained: bool = True
    range_counts: Callable[[], Mapping[str, int]] = dict
    rehearse: Callable[[Points, bool], None] | None = None
    in_two: Callable[[Points, Callable[[Segmentation], None]], Segmentation] | None = None

    def __str__(self) -> str:
        gives = [f"{len(self.classes)} classes"] if self.classes else []
        gives += [f"boxes of {', '.join(self.box_names)}"] if self.box_names else []
        return (
            f"{self.name}, {', '.join(gives)}, {self.voxel_size * 100:g} cm voxels, engine {self.engine} "
            f"in {self.precision} on {self.device}"
        )

    def warm_up(self) -> None:
        """Labels clouds that nobody sent: compiled code and memory are there when the first one comes.

        The memory is for a cloud of 64 beams; where the first cloud is much smaller, the engine begins anew.
        """
        boxes = bool(self.box_names)
        if self.rehearse is None:
            self.perceive(noise(), labels=bool(self.classes), boxes=boxes)
        else:
            for _ in range(2):  # what the first one keeps is taken from what it would leave behind
                self.rehearse(large_cloud(), boxes)


def load_network(weights: str, device: str, engine: str, palette: str = SPVNAS, precision: str = "auto") -> Network:
    """Loads a checkpoint, by its path or by the name of a fetched model: one that labels points, finds objects or both.

    palette: name of the colours to show, one of `spvnas_ros.palettes.PALETTES`

    Raises ValueError where `device`, `engine` or `precision` is unknown. Raises FetchError or CheckpointError where the
    weights are missing or cannot be used.
    """
    path = resolve_weights(weights)
    # takes seconds, so it comes after the checks that are quick
    from spvnas_ros.perception import Detector, known_of, load

    loaded = load(path, device, engine, precision)
    if isinstance(loaded, Detector):
        return _of_detector(loaded, path.stem, palette)
    facts = loaded.facts
    network = Network(
        loaded,
        name=facts.name or path.stem,
        sha256=facts.weights_sha256 or "",
        engine=loaded.engine.name,
        device=loaded.engine.device,
        precision=loaded.engine.precision,
        voxel_size=facts.voxel_size,
        classes=facts.classes,
        palette=shown(facts.classes, facts.palette, palette),
        known=known_of(facts),
        trained=facts.trained,
        range_counts=getattr(loaded.engine, "range_counts", dict),
        rehearse=getattr(loaded.engine, "rehearse", None),
        in_two=loaded.in_two if loaded.labels_first else None,
    )
    if facts.spec.boxes is None or not loaded.box_names:
        return network
    colours = box_colours(loaded.box_names, facts.classes, facts.palette, palette)
    return _with_boxes(network, loaded.box_names, colours, facts.spec.boxes.head.selection)


def _of_detector(detector: Detector, stem: str, palette: str) -> Network:
    def perceive(points: Points, /, *, labels: bool, boxes: bool) -> Segmentation:  # noqa: ARG001 (it has none)
        return Segmentation.unlabelled(len(points), detector(points) if boxes else None)

    facts = detector.facts
    network = Network(
        perceive,
        name=facts.name or stem,
        sha256=facts.weights_sha256 or "",
        engine="torch",
        device=detector.device,
        voxel_size=facts.spec.voxel_size[0],
        classes=(),
        palette=(),
        known=detector.known,
        trained=facts.trained,
    )
    colours = box_colours(detector.names, SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette, palette)
    return _with_boxes(network, detector.names, colours, facts.spec.head.selection)


def _with_boxes(network: Network, names: tuple[str, ...], colours: tuple[Colour, ...], selection: Selection) -> Network:
    return replace(
        network, box_names=names, box_palette=colours, least_score=selection.score, most_boxes=selection.boxes
    )


def release_memory(device: str) -> None:
    """Returns cached CUDA memory to the device, after a network on it was freed. On another device it does nothing."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def noise() -> Points:
    """Returns random points around a sensor, float32 `[2000, 4]`."""
    return np.random.default_rng(0).uniform((-20, -20, -2, 0), (20, 20, 3, 1), (2000, 4)).astype(np.float32)


def large_cloud() -> Points:
    """Returns a cloud of a sensor with 64 beams between walls, float32 `[131072, 4]`, in some milliseconds.

    Much in it is nearer than the walls, so that it has about as many voxels of every size as streets have.
    """
    rng = np.random.default_rng(0)
    azimuth = np.linspace(0, 2 * np.pi, 2048, dtype=np.float32)[:, None] + 0.001
    elevation = np.radians(np.linspace(2, -24.8, 64, dtype=np.float32))
    down, aside = np.maximum(np.sin(-elevation), 1e-3), np.abs(np.sin(azimuth)) * np.cos(elevation)
    reach = np.minimum(np.minimum(_SENSOR_HEIGHT / down, _WALL / aside), _FARTHEST)
    reach *= rng.uniform(0.5, 1, (256, 64)).repeat(8, 0)
    level = reach * np.cos(elevation)
    places = np.stack((level * np.cos(azimuth), level * np.sin(azimuth), -reach * down), axis=-1).reshape(-1, 3)
    points = rng.random((len(places), 4), np.float32)
    points[:, :3] = places + _ROUGH * (2 * points[:, :3] - 1)
    return points
