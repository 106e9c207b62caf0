"""The import of checkpoints that other projects published. Every tensor of the file is accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec, net_config_voxel_size, summary
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.cards import DATA_TERMS, Card, card_of_sha256
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, meta_net
from spvnas_ros.zoo.importers.inert_pickle import Inert
from spvnas_ros.zoo.importers.layouts import LAYOUTS, MIT_HAN_LAB, SUPERNET, Layout, MissingLayer, spec_of
from spvnas_ros.zoo.importers.supernets import STATISTICS, is_supernet, supernet_of
from spvnas_ros.zoo.importers.torch_file import read_torch_file
from spvnas_ros.zoo.importers.wrappers import ENTRIES, fill_exactly, is_trainers, unwrap, without_prefix

KINDS = ("spvcnn", "minkunet")
"""The kinds that files of mit-han-lab may need to be told apart by. An SPVNAS network is known by its names."""

State = Mapping[str, torch.Tensor]

_OWN = {
    "encoder.stem.conv.kernel": (
        ". These are this program's own names for SECOND, whose spec is not in the file: take the best.safetensors "
        "that `spvnas train` leaves, or write one with spvnas_ros.zoo.detector_checkpoint.save_detector"
    ),
    "stem.0.conv.kernel": (
        ". These are this program's own names, and the network's spec is not in the file: take the best.safetensors "
        "that `spvnas train` leaves, or write one with spvnas_ros.zoo.checkpoint.save_checkpoint"
    ),
}
"""What to do with a state of a network of this package, by the end of a name that it has."""
_PARAMETER_TOLERANCE = 0.03
"""How far a network may be from its card's parameter count. Some counts are published with one decimal of a million."""


def import_checkpoint(
    source: str | Path,
    *,
    config: str | Path | None = None,
    kind: str | None = None,
    card: Card | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[PointVoxelUNet, Facts]:
    """Returns the network in a published checkpoint, and its facts.

    source: a file of mit-han-lab (`init`) or mmdetection3d (`.pth`), or a folder with `init` and `net.config`
    config: the `net.config` of an SPVNAS network; its tensors are compared with it. Without one the spec is read from
            the tensors
    kind:   "spvcnn" or "minkunet" for files of mit-han-lab, whose tensors have the same names. Without it, point
            transforms whose BatchNorms have never seen a point mean MinkUNet, which does not use them
    card:   the published model that this must be; without it, the card is looked up by the file's sha256
    say:    is told what a trainer has wrapped around the network, and what of the file is left out

    Raises CheckpointError for a file that is none of these, and names the tensors that are missing, unexpected or
    misshapen.
    """
    source = Path(source)
    if source.is_dir():
        config = config or next(iter(source.glob("net.config")), None)
        source = source / "init"
    return convert(source, *read_weights(source), config=config, kind=kind, card=card, say=say)


def convert(
    source: Path,
    state: State,
    notes: list[str],
    *,
    config: str | Path | None,
    kind: str | None,
    card: Card | None,
    say: Callable[[str], None],
) -> tuple[PointVoxelUNet, Facts]:
    """Returns the network that the tensors of `source` make, as `import_checkpoint` does."""
    sha256 = sha256_of(source)
    card = card or card_of_sha256(sha256)
    described = None if config is None else _read_config(Path(config))
    try:
        if is_supernet(state):
            layout, net = SUPERNET, _cut_out(state, described, notes)
        else:
            layout = _recognise(state)
            net = _convert(state, layout, kind or (card.kind if card else None), described, notes)
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    for note in notes:
        say(note)
    facts = Facts(
        spec=net.spec,
        name=_name(net.spec),
        label_map=layout.label_map,
        voxel_size=_voxel_size(described or {}),
        provenance=f"{layout.project}, imported from {source.name}",
        source_sha256=sha256,
    )
    return net, _with_card(facts, net, card) if card else facts


def convert_supernet(
    source: Path, state: State, notes: list[str], say: Callable[[str], None] = lambda _: None
) -> tuple[Supernet, Facts]:
    """Returns the supernet that the tensors of `source` make, and the facts of its largest network.

    Raises CheckpointError, which names the tensors that are missing, unexpected or misshapen.
    """
    try:
        supernet = supernet_of(state, notes)
        _check_classes(supernet.net.spec)
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    for note in notes:
        say(note)
    return supernet, Facts(
        spec=supernet.net.spec,
        name="spvnas-supernet",
        label_map=SUPERNET.label_map,
        voxel_size=supernet.space.voxel_sizes[0],
        provenance=f"{SUPERNET.project}, imported from {source.name}",
        source_sha256=sha256_of(source),
    )


def _cut_out(state: State, described: Mapping[str, Any] | None, notes: list[str]) -> PointVoxelUNet:
    """Returns the subnet of a supernet that a net.config describes."""
    if described is None:
        raise CheckpointError(
            "this is an SPVNAS supernet, which holds many networks and is none itself; name the one to cut out of it "
            "(--config net.config), or keep it whole: `spvnas import` without --config"
        )
    supernet, spec = supernet_of(state, notes), NetSpec.from_net_config(described)
    if not supernet.holds(spec):
        raise CheckpointError(
            f"the supernet ({summary(supernet.net.spec)}) does not hold the network of net.config ({summary(spec)})"
        )
    _check_classes(spec)
    notes.append(STATISTICS)
    return supernet.subnet_of(spec)


def read_weights(source: Path) -> tuple[State, list[str]]:
    """Returns the tensors in the file, by the names that their project gave them, and what was looked through."""
    content = read_torch_file(source)
    if isinstance(content, Inert):
        raise CheckpointError(
            f"{source} holds a pickled object of class {content.name}, which is not rebuilt; "
            "expected a dictionary of tensors (save the network's state_dict())"
        )
    content, notes = unwrap(content)
    if not isinstance(content, dict) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        found = f"the entries {[str(k)[:40] for k in content][:8]}" if isinstance(content, dict) else "something else"
        raise CheckpointError(
            f"{source} holds {found}; expected a dictionary of tensors, or one under "
            f"{', '.join(map(repr, ENTRIES))} or the like"
        )
    content = {key: value for key, value in content.items() if isinstance(value, torch.Tensor) or not is_trainers(key)}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{source}: entry {str(key)[:80]!r} is a {type(value).__name__}, expected a tensor")
        # A few bytes can claim to be any number of equal values. Weights are stored one by one.
        if value.numel() * value.itemsize > value.untyped_storage().nbytes():
            raise CheckpointError(f"{source}: {key[:80]} claims the shape {list(value.shape)}, but stores fewer values")
    state, prefix_notes = without_prefix(content)
    return state, [*notes, *prefix_notes]


def _recognise(state: State) -> Layout:
    scores = {layout: len(layout.names().keys() & state.keys()) for layout in LAYOUTS}
    layout = max(LAYOUTS, key=lambda candidate: (candidate.marker in state, scores[candidate]))
    if not scores[layout]:
        own = next((hint for key, hint in _OWN.items() if any(name.endswith(key) for name in state)), "")
        raise CheckpointError(
            "not a network of this family: none of its tensors has a name that SPVCNN, MinkUNet or SPVNAS of "
            "mit-han-lab or mmdetection3d, or SECOND of OpenPCDet or mmdetection3d use; it has "
            f"{[key[:60] for key in list(state)[:4]]}{own}"
        )
    return layout


def _convert(
    state: State, layout: Layout, kind: str | None, config: Mapping[str, Any] | None, notes: list[str]
) -> PointVoxelUNet:
    """Returns the network; `notes` gets what was added for it."""
    names = layout.names()
    family = _family({names.get(key, key): value for key, value in state.items()}, layout, kind)
    if layout is MIT_HAN_LAB and family == "minkunet":
        state = {key: value for key, value in state.items() if not names.get(key, "").startswith("points.")}
    spec = _spec({names[key]: value for key, value in state.items() if key in names}, family, layout, config)
    if layout.searched:
        state = _with_cut_classifier(state, layout, spec)
    return _fill(spec, state, names, notes)


def _family(ours: State, layout: Layout, kind: str | None) -> str:
    if kind not in (None, "spvnas", *KINDS):
        raise CheckpointError(f"the kind must be {' or '.join(KINDS)}, found {kind!r}")
    if layout.searched:
        if kind not in (None, "spvnas"):
            raise CheckpointError(f"it holds an SPVNAS network, but {kind} was asked for")
        return "spvnas"
    if kind == "spvnas":
        raise CheckpointError("it holds an SPVCNN or a MinkUNet, but an SPVNAS network was asked for")
    if kind is not None:
        return kind
    points = {key: value for key, value in ours.items() if key.startswith("points.")}
    return "minkunet" if not points or (layout is MIT_HAN_LAB and _never_ran(points)) else "spvcnn"


def _never_ran(points: State) -> bool:
    """Returns whether the statistics of the point transforms' BatchNorms are still those they began with."""
    means = (value for key, value in points.items() if key.endswith("running_mean"))
    variances = (value for key, value in points.items() if key.endswith("running_var"))
    return all(bool((m == 0).all()) for m in means) and all(bool((v == 1).all()) for v in variances)


def _spec(ours: State, family: str, layout: Layout, config: Mapping[str, Any] | None) -> NetSpec:
    if layout.searched and config is not None:
        return NetSpec.from_net_config(config)
    if config is not None and "output_channels" in config:
        raise CheckpointError("the net.config is that of an SPVNAS network, but the tensors are not")
    try:
        return spec_of({key: tuple(value.shape) for key, value in ours.items()}, family, layout)
    except MissingLayer as error:
        layer = str(error.args[0])
        wanted = [theirs for theirs, name in layout.names().items() if name.startswith(f"{layer}.")]
        raise CheckpointError(f"a whole layer is missing: {', '.join(wanted)}") from error


def _with_cut_classifier(state: State, layout: Layout, spec: NetSpec) -> State:
    """Cuts the classifier of an SPVNAS subnet to the network's width.

    The subnet keeps the classifier of the supernet, and its network uses the first columns.
    """
    key, width = f"{layout.classifier}.weight", spec.decoder[-1].out
    weight = state.get(key)
    wider = weight is not None and weight.ndim == 2 and weight.shape[1] > width
    return {**state, key: weight[:, :width]} if weight is not None and wider else state


def _fill(spec: NetSpec, state: State, names: Mapping[str, str], notes: list[str]) -> PointVoxelUNet:
    """Returns the network with these tensors, which have their project's names."""
    net = meta_net(spec)
    notes += fill_exactly(net, spec.family, names, state)
    _check_classes(spec)
    return net


def _check_classes(spec: NetSpec) -> None:
    if spec.num_classes != len(SEMANTIC_KITTI.classes):
        raise CheckpointError(
            f"the network tells {spec.num_classes} classes apart, whose names the file does not hold; "
            f"only networks with the {len(SEMANTIC_KITTI.classes)} classes of SemanticKITTI are imported"
        )


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read the network description {path}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"the network description {path} must be a JSON object")
    return config


def _voxel_size(config: Mapping[str, Any]) -> float:
    """Returns the edge of a voxel, metres.

    The models of both projects were trained with 5 cm, and net.config says so.
    """
    try:
        return net_config_voxel_size(config)
    except SpecError as error:
        raise CheckpointError(str(error)) from error


def _name(spec: NetSpec) -> str:
    return spec.family if spec.family == "spvnas" else f"{spec.family}-w{spec.stem[0]}"


def _with_card(facts: Facts, net: PointVoxelUNet, card: Card) -> Facts:
    count = sum(parameter.numel() for parameter in net.parameters())
    if abs(count / card.parameters - 1) > _PARAMETER_TOLERANCE:
        raise CheckpointError(
            f"this is not {card.name}: the network has {count:,} parameters, {card.upstream} has {card.parameters:,}"
        )
    return replace(
        facts,
        name=card.name,
        provenance=f"{card.project}, {card.upstream} ({card.licence}; {DATA_TERMS})",
        published_miou=card.miou,
    )
