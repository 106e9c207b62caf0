"""The project's checkpoint: one `.safetensors` file that holds the weights and all that is needed to use them.

The tensors are `PointVoxelUNet.state_dict()`. The header's metadata holds one JSON document under `spvnas_ros`, with
the fields of `Facts`, a format version and the sha256 of the weights. A damaged file is therefore never taken for a
network.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.clouds.mount import SENSOR_HEIGHT
from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.files import replacing

SUFFIX = ".safetensors"
"""How the names of files with weights end."""
FORMAT = "spvnas_ros"
"""The metadata key that marks a `.safetensors` file as ours. `save_checkpoint` writes the JSON document there."""

VERSION = 5
"""The newest format this program reads. Version 2 may store float32 tensors as float16. Version 3 holds a detector of
boxes (`detector_checkpoint`), version 4 a network that gives labels and boxes, version 5 a supernet
(`supernet_checkpoint`). A file says 1 where it does not need
more, so that older programs read it. A field that a version may leave out has a default in `Facts`."""

LABELS, BOXES, SUBNETS = "labels", "boxes", "subnets"
"""What a file's network gives. A file that does not say it gives labels."""

_WITH_BOXES = 4
_MAX_LISTED = 12
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
_T = TypeVar("_T")


class CheckpointError(UserError):
    """The error for a file that does not hold a usable network, or for facts that contradict each other."""


@dataclass(frozen=True)
class TrainingRecord:
    """The record of how a network of our own was trained.

    recipe: name of the recipe
    seed:   of everything random
    steps:  number of steps after which the weights were taken
    data:   the training data
    scores: mean IoU over the classes that occur, 0..1, by the data it was measured on
    start:  the network that was trained further; None where training began with random weights
    start_sha256: sha256 of the weights of `start`
    """

    recipe: str
    seed: int
    steps: int
    data: str
    scores: Mapping[str, float] = field(default_factory=dict)
    start: str | None = None
    start_sha256: str | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """The record of how the confidences of a network were put right after its training.

    kind:         what was fitted: "one" temperature, one for each "class", or "class-bias", with biases
    temperatures: that logits were divided by: one, or one for each class
    biases:       that were added to each class' logit then; none where only temperatures were fitted
    drives:       number of scans by the name of the recording
    source, source_sha256: name of the network before, and sha256 of its weights
    held_out:     figures on the half of the scans that was not fitted on, before and after, by name
    """

    kind: str
    temperatures: tuple[float, ...]
    biases: tuple[float, ...]
    drives: Mapping[str, int]
    source: str
    source_sha256: str | None
    held_out: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The facts about a trained network. The defaults are those of a network trained on SemanticKITTI.

    name:           the network's name in reports, e.g. "spvcnn_w16"
    label_map:      name of the map from raw label ids to classes that it was trained with (`spvnas_ros.labels`)
    classes:        class names, in index order
    palette:        `(r, g, b)` 0..255 of each class
    voxel_size:     edge of the finest voxel, metres
    point_range:    x, y, z minimum then maximum, metres: where the network is to label points; None = unlimited
    intensity:      the intensity rule of its training data: "unit" (0..1), "u8", "u16", "none", "auto" or a divisor
    trained:        False for random weights, so that nobody takes the labels seriously
    provenance:     where the weights came from, for people
    published_miou: mean intersection over union on SemanticKITTI's sequence 08, percent, as its authors report it
    source_sha256:  sha256 of the file the weights were imported from
    weights_sha256: sha256 of the weights as they are stored; filled by `load_checkpoint`, not part of a comparison
    training:       how a network of our own was trained; None for one from elsewhere
    training_intensity: the intensities of its training data; None where nobody recorded them
    sensor_height:  of its training sensor above the ground, metres
    calibration:    how its confidences were put right; None where they are those of its training

    Raises CheckpointError where the facts contradict the spec or each other.
    """

    spec: NetSpec
    name: str = ""
    label_map: str = SEMANTIC_KITTI.name
    classes: tuple[str, ...] = SEMANTIC_KITTI.classes
    palette: tuple[tuple[int, int, int], ...] = SEMANTIC_KITTI.palette
    voxel_size: float = 0.05
    point_range: tuple[float, ...] | None = None
    intensity: str = "unit"
    trained: bool = True
    provenance: str = ""
    published_miou: float | None = None
    source_sha256: str | None = None
    weights_sha256: str | None = field(default=None, compare=False)
    training: TrainingRecord | None = None
    training_intensity: TrainingIntensity | None = None
    sensor_height: float = SENSOR_HEIGHT
    calibration: CalibrationRecord | None = None

    def __post_init__(self) -> None:
        if len(self.classes) != self.num_classes or len(self.palette) != self.num_classes:
            raise CheckpointError(
                f"the network has {self.num_classes} classes, found {len(self.classes)} class names and "
                f"{len(self.palette)} colours; give Facts the classes and the palette of this network"
            )
        if not (math.isfinite(self.voxel_size) and self.voxel_size > 0):
            raise CheckpointError(f"voxel_size must be a positive number of metres, found {self.voxel_size}")
        if not math.isfinite(self.sensor_height):
            raise CheckpointError(f"sensor_height must be a number of metres, found {self.sensor_height}")
        if self.spec.boxes and not math.isclose(self.spec.boxes.voxel_size, self.voxel_size):
            raise CheckpointError(
                f"voxel_size is {self.voxel_size} m, but the network's box branch is for voxels of "
                f"{self.spec.boxes.voxel_size} m"
            )
        limits = self.point_range
        if limits is not None and not (
            len(limits) == 6 and all(a < b for a, b in zip(limits[:3], limits[3:], strict=True))
        ):
            raise CheckpointError(
                f"point_range must be x, y, z minimum then x, y, z maximum in metres, or None, found {limits}"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes that the network tells apart."""
        return self.spec.num_classes


def save_checkpoint(path: str | Path, net: PointVoxelUNet, facts: Facts, *, half: bool = False) -> None:
    """Writes the network and its facts to `path`. On any failure, the file that was there before stays.

    half: store kernels and matrices as float16, which halves the file; vectors (BatchNorm, biases) stay float32

    Raises CheckpointError where `facts.spec` is not the network's own, or where the file cannot be written.
    """
    path = Path(path)
    if facts.spec != net.spec:
        raise CheckpointError(f"the facts describe another network: {facts.spec}, expected {net.spec}")
    version = _WITH_BOXES if facts.spec.boxes else 2 if half else 1
    document = {"version": version} | asdict(facts) | {"spec": facts.spec.to_dict()}
    write_checkpoint(path, net, document, half=half)


def check_writable(path: Path, *, force: bool = False) -> None:
    """Checks that a command may write weights to `path`, before it works for them.

    Raises CheckpointError for a name that does not end in .safetensors, which is how weights are told apart; where
    there is no such folder; and for a file that is there already, which only `force` replaces.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise CheckpointError(f"{path} cannot be written, expected the name of a file in a folder that is there")
    if path.suffix != SUFFIX:
        raise CheckpointError(f"weights are a {SUFFIX} file, found the name {path.name!r}; name one that ends in it")
    if path.exists() and not force:
        raise CheckpointError(f"{path} would be replaced; name another file, or replace it with --force")


def write_checkpoint(path: Path, net: torch.nn.Module, facts: Mapping[str, Any], *, half: bool) -> None:
    """Writes a network and the dictionary of its facts, which holds the format's version. See `save_checkpoint`."""
    state = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    if half:
        state = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    document = {"format": FORMAT, "dtype": "float16" if half else "float32"} | dict(facts)
    document["weights_sha256"] = weights_sha256(state)
    try:
        with replacing(path) as file:
            file.write(save(state, metadata={"format": "pt", FORMAT: json.dumps(document)}))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error


def load_checkpoint(path: str | Path) -> tuple[PointVoxelUNet, Facts]:
    """Reads a checkpoint. The network is on the CPU, in float32 and in evaluation mode.

    Raises CheckpointError for a file that is missing, cut short, damaged, not a checkpoint, of a newer version, or
    whose tensors are not exactly those of the network its header describes (it names them).
    """
    path = Path(path)
    facts, state = read_checkpoint(path, LABELS, facts_of)
    try:
        net = meta_net(facts.spec)
    except SpecError as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {error}") from error
    fill(path, net, facts.spec.family, state, facts.weights_sha256)
    return net, facts


def reader_of(path: Path, facts: Facts) -> Callable[[], PointVoxelUNet]:
    """Returns what reads the network of a checkpoint once more, also when the file was replaced or deleted meanwhile.

    facts: what was loaded from it. The reader raises CheckpointError where the file was overwritten with other weights.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # which outlives the name

    def read() -> PointVoxelUNet:
        kept = Path(f"/proc/self/fd/{file}")
        try:
            net, found = load_checkpoint(kept if kept.is_file() else path)
        except CheckpointError as error:
            # The error's own words name a path that means nothing to others.
            raise CheckpointError(
                f"{path} was damaged after it was loaded; put it back and start the program again"
            ) from error
        if found.weights_sha256 != facts.weights_sha256:
            raise CheckpointError(f"{path} was overwritten after it was loaded; start the program again")
        return net

    weakref.finalize(read, os.close, file)
    return read


def fill(path: Path, net: torch.nn.Module, family: str, state: Mapping[str, torch.Tensor], sha256: str | None) -> None:
    """Puts a file's tensors into a network without memory behind it, in float32 and in evaluation mode.

    Raises CheckpointError where the tensors are not exactly the network's own, or have another hash.
    """
    _check_tensors(path, net, family, state)
    if weights_sha256(state) != sha256:
        raise CheckpointError(f"{path} is damaged: its weights do not have the sha256 in its header; get it again")
    whole = {key: value.float() if value.dtype == torch.float16 else value for key, value in state.items()}
    net.load_state_dict(whole, assign=True)
    net.eval()


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Returns the hash of names, types, shapes and values.

    The hash does not depend on the order of the tensors or on the header around them.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def mismatches(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Returns one line for each tensor that is missing, unexpected or misshapen, up to a limit.

    Returns an empty string where all agree.
    """
    lines = [f"missing: {key}, expected {list(expected[key])}" for key in expected if key not in found]
    lines += [
        f"misshapen: {key}, expected {list(expected[key])}, found {list(shape)}"
        for key, shape in found.items()
        if key in expected and tuple(shape) != tuple(expected[key])
    ]
    lines += [f"unexpected: {key}, found {list(shape)}" for key, shape in found.items() if key not in expected]
    if len(lines) > _MAX_LISTED:
        lines[_MAX_LISTED:] = [f"... and {len(lines) - _MAX_LISTED} more"]
    return "".join(f"\n  {line}" for line in lines)


def gives(path: str | Path) -> str:
    """Returns what the network in a checkpoint gives: LABELS, BOXES or SUBNETS.

    Raises the errors of `load_checkpoint`.
    """
    path = Path(path)
    return _open(path, lambda metadata: str(_document(path, metadata).get("gives", LABELS)), tensors=False)[0]


def facts_in(path: str | Path) -> Facts:
    """Returns the facts of a network that gives labels, from a checkpoint's header alone.

    Raises the errors of `load_checkpoint`, but for what only the tensors show.
    """
    path = Path(path)
    return _open(path, lambda metadata: _parse(path, metadata, LABELS, facts_of), tensors=False)[0]


def read_checkpoint(
    path: Path, wanted: str, parse: Callable[[Mapping[str, Any]], _T]
) -> tuple[_T, dict[str, torch.Tensor]]:
    """Returns the facts in a checkpoint's header, read by `parse`, and its tensors.

    Raises CheckpointError for a file that holds no whole checkpoint or whose network gives something else.
    """
    return _open(path, lambda metadata: _parse(path, metadata, wanted, parse))


def _open(
    path: Path, parse: Callable[[Mapping[str, str]], _T], *, tensors: bool = True
) -> tuple[_T, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; expected a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse(file.metadata() or {})
            # Copies: the mapped file may be overwritten in place while the network lives.
            return facts, {key: file.get_tensor(key).clone() for key in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole .safetensors file ({error}); it may be cut short, or a .pth file, "
            "which `spvnas import` converts"
        ) from error


def _parse(path: Path, metadata: Mapping[str, str], wanted: str, parse: Callable[[Mapping[str, Any]], _T]) -> _T:
    document = _document(path, metadata)
    if (found := document.get("gives", LABELS)) != wanted:
        raise CheckpointError(
            f"{path} holds a network that gives {found}, expected one that gives {wanted}; "
            "`spvnas inspect -w` shows what it is"
        )
    try:
        return parse(document)
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {error}") from error
    except _MALFORMED as error:
        raise CheckpointError(f"{path} has a malformed header: {error!r}") from error


def _document(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if FORMAT not in metadata:
        raise CheckpointError(
            f"{path} is a .safetensors file of somebody else: its metadata has {sorted(metadata)}, expected {FORMAT!r}"
        )
    try:
        document: dict[str, Any] = json.loads(metadata[FORMAT])
        version = document["version"]
        if document["format"] != FORMAT or type(version) is not int or version < 1:
            raise CheckpointError(f"found format {document['format']!r}, version {version!r}")
        if version > VERSION:
            raise CheckpointError(f"it has format version {version}, this program reads up to {VERSION}; update it")
        return document
    except CheckpointError as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {error}") from error
    except _MALFORMED as error:
        raise CheckpointError(f"{path} has a malformed header: {error!r}") from error


def facts_of(document: Mapping[str, Any]) -> Facts:
    """Returns the facts from the header's document. Every type is checked, because the file may come from anywhere."""
    values = {f.name: document[f.name] for f in fields(Facts) if f.name not in _LATER}
    values |= {name: document.get(name) for name in _KINDS if name in _LATER}
    check_kinds(values, _KINDS)
    values["spec"] = NetSpec.from_dict(values["spec"])
    values["classes"] = tuple(_all_are(str, "classes", values["classes"]))
    values["palette"] = tuple(_colour(entry) for entry in values["palette"])
    if values["point_range"] is not None:
        values["point_range"] = tuple(float(value) for value in values["point_range"])
    if values["training"] is not None:
        values["training"] = training_record(values["training"])
    if (found := values["training_intensity"]) is not None:
        values["training_intensity"] = TrainingIntensity(
            *_all_are(float, "training_intensity", (found["median"], found["p95"]))
        )
    if (found := values["calibration"]) is not None:
        values["calibration"] = _calibration(found)
    values["sensor_height"] = SENSOR_HEIGHT if values["sensor_height"] is None else float(values["sensor_height"])
    return Facts(**values)


def check_kinds(values: Mapping[str, Any], expected: Mapping[str, tuple[type, ...]]) -> None:
    """Raises CheckpointError where a value of a header is not of one of the types that are expected under its name."""
    for name, kinds in expected.items():
        if not isinstance(values[name], kinds) or (isinstance(values[name], bool) and bool not in kinds):
            raise CheckpointError(f"{name} is {values[name]!r}, expected {' or '.join(k.__name__ for k in kinds)}")


def training_record(data: Mapping[str, Any]) -> TrainingRecord:
    """Returns the record in a header. Raises CheckpointError where it is none."""
    values = {name: data[name] for name in _RECORD_KINDS if name not in _LATER}
    values |= {name: data.get(name) for name in _RECORD_KINDS if name in _LATER}
    check_kinds(values, _RECORD_KINDS)
    _all_are(float, "the scores", values["scores"].values())
    return TrainingRecord(**values)


def _calibration(data: Mapping[str, Any]) -> CalibrationRecord:
    values = {name: data[name] for name in _CALIBRATION_KINDS}
    check_kinds(values, _CALIBRATION_KINDS)
    for name in ("temperatures", "biases"):
        values[name] = tuple(_all_are(float, name, values[name]))
    _all_are(int, "the scans of drives", values["drives"].values())
    _all_are(float, "figures of the calibration", values["held_out"].values())
    return CalibrationRecord(**values)


_CALIBRATION_KINDS: Mapping[str, tuple[type, ...]] = {
    "kind": (str,),
    "temperatures": (list,),
    "biases": (list,),
    "drives": (dict,),
    "source": (str,),
    "source_sha256": (str, type(None)),
    "held_out": (dict,),
}
_KINDS: Mapping[str, tuple[type, ...]] = {
    "spec": (dict,),
    "name": (str,),
    "label_map": (str,),
    "classes": (list,),
    "palette": (list,),
    "voxel_size": (float, int),
    "point_range": (list, type(None)),
    "intensity": (str,),
    "trained": (bool,),
    "provenance": (str,),
    "published_miou": (float, int, type(None)),
    "source_sha256": (str, type(None)),
    "weights_sha256": (str,),
    "training": (dict, type(None)),
    "training_intensity": (dict, type(None)),
    "sensor_height": (float, int, type(None)),
    "calibration": (dict, type(None)),
}
_RECORD_KINDS: Mapping[str, tuple[type, ...]] = {
    "recipe": (str,),
    "seed": (int,),
    "steps": (int,),
    "data": (str,),
    "scores": (dict,),
    "start": (str, type(None)),
    "start_sha256": (str, type(None)),
}
_LATER = ("training", "training_intensity", "sensor_height", "calibration", "start", "start_sha256")
"""The fields that the first files of this format do not have."""


def _colour(entry: Any) -> tuple[int, int, int]:
    red, green, blue = _all_are(int, "palette", entry)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise CheckpointError(f"a palette entry must be three numbers 0..255, found {entry}")
    return red, green, blue


def _all_are(kind: type, name: str, values: Iterable[Any]) -> list[Any]:
    values = list(values)
    if wrong := [value for value in values if type(value) is not kind]:
        raise CheckpointError(f"{name} must be of type {kind.__name__}, found {wrong[0]!r}")
    return values


def _check_tensors(path: Path, net: torch.nn.Module, family: str, state: Mapping[str, torch.Tensor]) -> None:
    expected = net.state_dict()
    if lines := mismatches(
        {key: tuple(value.shape) for key, value in expected.items()},
        {key: tuple(value.shape) for key, value in state.items()},
    ):
        raise CheckpointError(f"{path} does not hold exactly the tensors of the {family} in its header:{lines}")
    for key, value in state.items():
        if value.dtype != expected[key].dtype and not _is_half(value, expected[key]):
            raise CheckpointError(f"{path}: {key} is {value.dtype}, expected {expected[key].dtype}")


def _is_half(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == torch.float16 and expected.dtype == torch.float32 and expected.ndim > 1


def meta_net(spec: NetSpec) -> PointVoxelUNet:
    """Returns the network's shapes without memory behind them.

    Raises SpecError where no tensor could have these widths.
    """
    return without_memory(lambda: PointVoxelUNet(spec), f"no network can be built from {spec}")


def without_memory(build: Callable[[], _T], failure: str) -> _T:
    """Returns what `build` builds, with shapes but no memory. Raises SpecError, which begins with `failure`."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise SpecError(f"{failure}: {error}") from error
