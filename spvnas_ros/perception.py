"""The two public doors: points in, labels (and boxes, where the network finds them) out (`Perception`), and points in,
boxes out (`Detector`). `load` opens the one that a checkpoint is for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from spvnas_ros.clouds.cleaning import Cleaned, Limits, clean, key_window
from spvnas_ros.clouds.fit import Known
from spvnas_ros.clouds.intensity import reference
from spvnas_ros.engine import Engine, build_engine, resolve_device
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points, Segmentation
from spvnas_ros.nets.box_spec import BoxHeadSpec
from spvnas_ros.nets.detections import detections
from spvnas_ros.nets.heads import anchor_boxes
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import BOXES, LABELS, CheckpointError, Facts, facts_in, gives, load_checkpoint, reader_of
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector

_UNSCALED = 100.0
"""Times the training's 95th percentile."""
_MOSTLY = 0.2
"""Share of points whose intensity is above the brightest: no reflectors, but another scale."""


_RUN_DETECTORS = ("auto", "torch")


class Perception:
    """A trained network, ready to label clouds, and to find the boxes of objects where it has a box branch.

    Attributes:
        facts: what the weights say of themselves (classes, palette, voxel size, intensity rule, ...)
        engine: what runs the network; `engine.name` and `engine.device` tell which and where
        limits: which points it can use
        min_score: least score of a box that comes out; None without a box branch
    """

    def __init__(self, engine: Engine, facts: Facts, *, min_score: float | None = None) -> None:
        self.engine = engine
        self.facts = facts
        self.limits = limits_of(facts)
        branch = facts.spec.boxes
        self.min_score = None if branch is None else branch.head.selection.score if min_score is None else min_score

    @classmethod
    def load(
        cls,
        weights: str | Path,
        device: str = "auto",
        engine: str = "auto",
        *,
        precision: str = "auto",
        min_score: float | None = None,
    ) -> Perception:
        """Load a checkpoint in the project's format (see `spvnas import`, `spvnas zoo fetch`).

        weights: path of a `.safetensors` file, or the name of a fetched model (`spvnas zoo list`)
        device:  "auto" (a CUDA device where there is one), "cpu", "cuda", "cuda:1", ...
        engine:  "auto", "cpu" (fused, numba), "torch" (the reference, any device), or another library by name, for
                 comparing (see `spvnas_ros.engine.ENGINES`)
        precision: of features and weights: "auto" (the fastest of the engine that labels as float32 does), "fp32", on
                 the CPU "int16" and "int8", on CUDA "fp16" and "bf16" (see `spvnas_ros.engine.PRECISIONS`)
        min_score: least score of a box that comes out, 0..1; None for what the network's head says

        Raises FetchError where there is no such file or fetched model, CheckpointError for a file that is not a
        checkpoint or of a detector, ValueError for an unknown engine or device, a library that is not installed, or a
        least score where the network finds no boxes.
        """
        path = resolve_weights(weights)
        if gives(path) == BOXES:
            raise CheckpointError(
                f"{path} holds a network that gives boxes, expected one that gives labels; `spvnas inspect -w` shows "
                "what it is, and `spvnas segment` takes it with --boxes, beside one for the labels"
            )
        net, facts = load_checkpoint(path)
        if min_score is not None:
            _check_score(min_score)
            if net.boxes is None:
                raise UserError(
                    f"{path} finds no boxes, so there is no least score of them to choose; a detector does (--boxes)"
                )
            head = _scored_from(net.boxes.spec.head, min_score)
            net.boxes.spec = replace(net.boxes.spec, head=head)
            net.spec = replace(net.spec, boxes=net.boxes.spec)
        built = build_engine(
            net, facts.voxel_size, device=device, engine=engine, precision=precision, trained=facts.trained,
            again=reader_of(path, facts),
        )  # fmt: skip
        return cls(built, facts, min_score=min_score)

    @classmethod
    def from_net(
        cls,
        net: PointVoxelUNet,
        facts: Facts | None = None,
        *,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
    ) -> Perception:
        """Wrap a network that is in memory; without `facts`, those of a SemanticKITTI network are assumed.

        Raises CheckpointError for facts of another network, ValueError as `load` does.
        """
        facts = facts or Facts(spec=net.spec)
        if facts.spec != net.spec:
            raise CheckpointError(f"the facts describe another network: {facts.spec}, expected {net.spec}")
        built = build_engine(
            net, facts.voxel_size, device=device, engine=engine, precision=precision, trained=facts.trained
        )
        return cls(built, facts)

    @property
    def box_names(self) -> tuple[str, ...]:
        """The classes of its boxes, in index order; none without a box branch."""
        return self.facts.spec.boxes.head.names if self.facts.spec.boxes and self.engine.finds_boxes else ()

    def __call__(
        self, points: Points, scores: bool = False, *, labels: bool = True, boxes: bool = True
    ) -> Segmentation:
        """Label every point, and find the objects.

        points: float32 `[N, 4]` (other numbers are converted), x, y, z in metres and intensity in 0..1; NaN and
                infinite values are allowed
        scores: also return the probabilities of all classes; they come with labels only
        labels: label the points; without it all are unlabelled, and what only the labels need is not computed
        boxes:  find boxes, in `Segmentation.boxes`, where the network has a box branch

        Points that the network cannot use get label 255 and confidence 0, and `Segmentation.unusable` counts them:
        those that are not finite, at the origin, farther than voxels can be numbered (6.5 km at 5 cm), without an
        intensity, or outside `facts.point_range`. All other labels are as without them. Intensities beyond 0..1 are
        clipped, with a warning where they are many. Raises ValueError for another shape or type.
        """
        cleaned = _cleaned(points, self.engine.in_channels, self.limits)
        result = self.engine.segment(cleaned.points, scores and labels, boxes and bool(self.box_names), labels)
        return result if cleaned.kept is None else result.among(cleaned.kept, cleaned.unusable)

    @property
    def labels_first(self) -> bool:
        """Whether the engine has the labels before it looks for boxes; see `in_two`."""
        return bool(self.box_names) and hasattr(self.engine, "segment_in_two")

    def in_two(self, points: Points, on_labels: Callable[[Segmentation], None]) -> Segmentation:
        """Label every point and find the objects, as a call does, and hand over the labels before the boxes are there.

        on_labels: called with the labels, once; where the engine finds both at a time, with the boxes, too. It must not
                   ask for another cloud: the engine is still at this one

        Raises what a call raises, and what `on_labels` raises.
        """
        cleaned = _cleaned(points, self.engine.in_channels, self.limits)

        def whole(found: Segmentation) -> Segmentation:
            return found if cleaned.kept is None else found.among(cleaned.kept, cleaned.unusable)

        if self.labels_first:
            in_two = cast(Any, self.engine).segment_in_two
            return whole(in_two(cleaned.points, lambda found: on_labels(whole(found))))
        result = whole(self.engine.segment(cleaned.points, False, bool(self.box_names)))
        on_labels(result)
        return result


class Detector:
    """A trained detector, ready to find objects in clouds.

    Attributes:
        facts:  what the weights say of themselves (spec, intensity rule, provenance, ...)
        names:  of the classes, in index order
        limits: which points it can use
        device: where it runs, as torch names it
        min_score: least score of a box that comes out
    """

    def __init__(
        self, net: Second, facts: DetectorFacts, *, device: str = "auto", min_score: float | None = None
    ) -> None:
        """Takes a detector that is in memory, and moves it. The arguments are those of `load`.

        Raises CheckpointError for facts of another detector, ValueError as `load` does.
        """
        if facts.spec != net.spec:
            raise CheckpointError(f"the facts describe another detector: {facts.spec}, expected {net.spec}")
        place = resolve_device(device)
        self.facts, self.names, self.device = facts, facts.classes, str(place)
        self.limits = Limits(key_window(min(facts.spec.voxel_size)), 1.0, facts.spec.point_range)
        head = facts.spec.head
        if min_score is not None:
            _check_score(min_score)
            head = _scored_from(head, min_score)
        self.min_score = head.selection.score
        self._net, self._head = net.to(place).eval(), head
        self._anchors = anchor_boxes(head, facts.spec.bev_shape, facts.spec.point_range).to(place)

    @classmethod
    def load(cls, weights: str | Path, device: str = "auto", *, min_score: float | None = None) -> Detector:
        """Load a detector in the project's format (see `spvnas train`, `spvnas import`, `spvnas zoo fetch`).

        weights:   path of a `.safetensors` file, or the name of a fetched model (`spvnas zoo list`)
        device:    "auto" (a CUDA device where there is one), "cpu", "cuda", "cuda:1", ...
        min_score: least score of a box that comes out, 0..1; None for what the detector's head says

        Raises FetchError where there is no such file or fetched model, CheckpointError for a file that is not a
        checkpoint or of a network that labels points, ValueError for an unknown device or another score.
        """
        path = resolve_weights(weights)
        if gives(path) == LABELS:
            # Its boxes come from the features of its labels, so that what runs it is the engine behind Perception.
            also = (
                "and boxes: Perception.load loads it, its results have them as .boxes, and `spvnas segment` takes it "
                "with --weights, without --boxes"
                if facts_in(path).spec.boxes
                else "alone; Perception.load loads it, and `spvnas segment` takes it with --weights"
            )
            raise CheckpointError(
                f"a Detector is a network that gives boxes alone (SECOND or SPV-SECOND); {path} gives labels {also}"
            )
        return cls(*load_detector(path), device=device, min_score=min_score)

    @property
    def known(self) -> Known:
        """What it knows of the clouds it was trained on."""
        return Known(reference(None), self.facts.intensity != "none", self.facts.sensor_height, self.limits)

    @torch.no_grad()
    def __call__(self, points: Points) -> Boxes:
        """Find the objects, the best score first.

        points: float32 `[N, C]` (other numbers are converted), x, y, z in metres and intensity in 0..1; NaN and
                infinite values are allowed

        The boxes are in the frame of the points. Points that the detector cannot use are left out, those outside its
        range among them; they change no box. Intensities beyond 0..1 are clipped, with a warning where they are many.
        Raises ValueError for another shape or type.
        """
        cleaned = _cleaned(points, self.facts.spec.in_channels, self.limits)
        cloud = torch.from_numpy(cleaned.points).to(self.device)
        coords, feats = self._net.voxels([cloud])
        if not len(coords):
            return Boxes.none()
        return detections(self._head, self._net(coords, feats, 1), self._anchors)[0]


def load(
    weights: str | Path, device: str = "auto", engine: str = "auto", precision: str = "auto"
) -> Perception | Detector:
    """Load a checkpoint of either kind: a `Perception` where it labels points, a `Detector` where it gives boxes alone.

    The arguments and errors are those of `Perception.load`. A detector runs in torch alone: raises ValueError where
    `engine` is neither "auto" nor "torch", or `precision` neither "auto" nor "fp32".
    """
    path = resolve_weights(weights)
    if gives(path) == LABELS:
        return Perception.load(path, device, engine, precision=precision)
    if engine not in _RUN_DETECTORS:
        raise UserError(
            f"engine {engine!r} runs no network that gives boxes alone, such as {path}; choose one of "
            f"{', '.join(_RUN_DETECTORS)}"
        )
    if precision not in ("auto", "fp32"):
        raise UserError(f"a network that gives boxes alone, such as {path}, runs in fp32, not in {precision!r}")
    return Detector.load(path, device)


def _check_score(min_score: float) -> None:
    if not 0 <= min_score <= 1:
        raise UserError(f"the least score of a box is {min_score}, expected a number in 0..1")


def _scored_from(head: BoxHeadSpec, min_score: float) -> BoxHeadSpec:
    return replace(head, selection=replace(head.selection, score=min_score))


def _cleaned(points: Points, channels: int, limits: Limits) -> Cleaned:
    """Takes what a network of so many channels can use out of a cloud; see `Perception.__call__`."""
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu" or points.shape[1:] != (channels,):
        found = f"{points.dtype} {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
        raise ValueError(
            f"points must be a float32 array [N, {channels}] of x, y, z in metres and intensity in 0..1, found {found}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is not seen
        points = np.require(points, np.float32, ["C", "W"])
    cleaned = clean(points, limits)
    if cleaned.too_bright > _MOSTLY * len(points):
        warnings.warn(
            # Without numbers: Python keeps and prints each text that differs, which would be one for every cloud.
            f"more than a fifth of a cloud's intensities were above {limits.brightest:g} and clipped; "
            "scale them to 0..1 (spvnas_ros.clouds.intensity.Intensity does it)",
            stacklevel=3,
        )
    return cleaned


def limits_of(facts: Facts) -> Limits:
    """Returns which points a network can use, from what its weights say of themselves."""
    trained = facts.training_intensity
    # Training on intensities that are not 0..1 has seen others; the limit then only keeps out what is no intensity.
    brightest = 1.0 if trained is None or trained.p95 <= 1 else _UNSCALED * trained.p95
    return Limits(key_window(facts.voxel_size), brightest, facts.point_range)


def known_of(facts: Facts) -> Known:
    """Returns what a network knows of the clouds it was trained on, from what its weights say of themselves."""
    return Known(reference(facts.training_intensity), facts.intensity != "none", facts.sensor_height, limits_of(facts))
