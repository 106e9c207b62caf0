"""The checkpoint of a detector: the same file as a labelling network's, whose header says that it gives boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spvnas_ros.clouds.mount import SENSOR_HEIGHT
from spvnas_ros.nets.detector_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.zoo.checkpoint import (
    BOXES,
    CheckpointError,
    TrainingRecord,
    check_kinds,
    fill,
    read_checkpoint,
    training_record,
    without_memory,
    write_checkpoint,
)

_VERSION = 3


@dataclass(frozen=True)
class DetectorFacts:
    """The facts about a trained detector. Classes, anchors, voxels and range are in its spec.

    name:           the detector's name in reports
    intensity:      the intensity rule of its training data, as in `Facts`
    trained:        False for random weights, so that nobody takes the boxes seriously
    provenance:     where the weights came from, for people
    published_ap:   3D average precision as its authors report it, percent, by class or "mean"
    source_sha256:  sha256 of the file the weights were imported from
    weights_sha256: sha256 of the weights as they are stored; filled by `load_detector`, not part of a comparison
    training:       how a detector of our own was trained; None for one from elsewhere
    sensor_height:  of its training sensor above the ground, metres
    """

    spec: DetectorSpec
    name: str = ""
    intensity: str = "unit"
    trained: bool = True
    provenance: str = ""
    published_ap: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    source_sha256: str | None = None
    weights_sha256: str | None = field(default=None, compare=False)
    training: TrainingRecord | None = None
    sensor_height: float = SENSOR_HEIGHT

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in index order."""
        return self.spec.head.names


def save_detector(path: str | Path, net: Second, facts: DetectorFacts, *, half: bool = False) -> None:
    """Writes the detector and its facts to `path`. On any failure, the file that was there before stays.

    half: store kernels and matrices as float16, which halves the file

    Raises CheckpointError where `facts.spec` is not the network's own, or where the file cannot be written.
    """
    if facts.spec != net.spec:
        raise CheckpointError(f"the facts describe another detector: {facts.spec}, expected {net.spec}")
    names = [name for name in _KINDS if name not in ("spec", "training", "weights_sha256")]
    document = {name: getattr(facts, name) for name in names} | {"published_ap": dict(facts.published_ap)}
    document |= {"version": _VERSION, "gives": BOXES, "spec": facts.spec.to_dict()}
    document["training"] = None if facts.training is None else asdict(facts.training)
    write_checkpoint(Path(path), net, document, half=half)


def load_detector(path: str | Path) -> tuple[Second, DetectorFacts]:
    """Reads a detector. It is on the CPU, in float32 and in evaluation mode.

    Raises CheckpointError for a file that is missing, cut short, damaged, not a detector's checkpoint, of a newer
    version, or whose tensors are not exactly those of the detector its header describes (it names them).
    """
    path = Path(path)
    facts, state = read_checkpoint(path, BOXES, _facts)
    try:
        net = meta_detector(facts.spec)
    except SpecError as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {error}") from error
    fill(path, net, facts.spec.family, state, facts.weights_sha256)
    return net, facts


def meta_detector(spec: DetectorSpec) -> Second:
    """Returns the detector's shapes without memory behind them.

    Raises SpecError where no tensor could have these widths.
    """
    return without_memory(lambda: Second(spec), f"no detector can be built from {spec}")


def _facts(document: Mapping[str, Any]) -> DetectorFacts:
    """Returns the facts from the header's document. Every type is checked, because the file may come from anywhere."""
    values = {name: document[name] for name in _KINDS}
    check_kinds(values, _KINDS)
    check_kinds(values["published_ap"], dict.fromkeys(values["published_ap"], (float, int)))
    values["spec"] = DetectorSpec.from_dict(values["spec"])
    if values["training"] is not None:
        values["training"] = training_record(values["training"])
    return DetectorFacts(**values)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "spec": (dict,),
    "name": (str,),
    "intensity": (str,),
    "trained": (bool,),
    "provenance": (str,),
    "published_ap": (dict,),
    "source_sha256": (str, type(None)),
    "weights_sha256": (str,),
    "training": (dict, type(None)),
    "sensor_height": (float, int),
}
