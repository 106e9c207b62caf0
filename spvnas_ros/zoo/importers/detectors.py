"""The import of SECOND as OpenPCDet and mmdetection3d publish it. Every tensor of the file is accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from spvnas_ros.nets.box_spec import BoxHeadSpec, DetectorSpec
from spvnas_ros.nets.heads import CODE, DIRECTIONS
from spvnas_ros.nets.second import Second
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.cards import DETECTOR_DATA_TERMS, DetectorCard, detector_card_of_sha256
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, mismatches
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, meta_detector
from spvnas_ros.zoo.importers.detector_layouts import (
    DETECTOR_LAYOUTS,
    DetectorLayout,
    bev_blocks,
    counted,
    fitting,
    flat_kernel,
)
from spvnas_ros.zoo.importers.projects import State, convert, convert_supernet, import_checkpoint, read_weights
from spvnas_ros.zoo.importers.supernets import is_supernet
from spvnas_ros.zoo.importers.wrappers import filled, with_counters

_ENOUGH = 20
"""How many of a project's names a file must have to be one of its detectors."""

Say = Callable[[str], None]


class Detector(NamedTuple):
    """An imported detector and its facts."""

    net: Second
    facts: DetectorFacts


class WholeSupernet(NamedTuple):
    """An imported supernet, and the facts of its largest network."""

    net: Supernet
    facts: Facts


def import_either(
    source: str | Path, *, config: str | Path | None = None, kind: str | None = None, say: Say = lambda _: None
) -> Detector | WholeSupernet | tuple[PointVoxelUNet, Facts]:
    """Returns what a published checkpoint holds: a network that labels points, a detector of boxes, or a supernet.

    The arguments and errors are those of `import_checkpoint`. A detector takes neither `config` nor `kind`; with
    `config`, a supernet gives the subnet that it describes.
    """
    source = Path(source)
    if source.is_dir() and (config is not None or (source / "net.config").exists()):
        return import_checkpoint(source, config=config, kind=kind, say=say)
    source = source / "init" if source.is_dir() else source
    state, notes = read_weights(source)
    if is_supernet(state) and config is None:
        return WholeSupernet(*convert_supernet(source, state, notes, say))
    layout = layout_of(state)
    if layout is None:
        return convert(source, state, notes, config=config, kind=kind, card=None, say=say)
    if config is not None or kind is not None:
        raise CheckpointError(f"{source} holds SECOND of {layout.project}, to which no net.config and no kind belong")
    return _convert(source, state, notes, layout, None, say)


def import_detector(source: str | Path, *, card: DetectorCard | None = None, say: Say = lambda _: None) -> Detector:
    """Returns the detector in a checkpoint of OpenPCDet or mmdetection3d, and its facts.

    card: the published detector that this must be; without it, the card is looked up by the file's sha256
    say:  is told what a trainer has wrapped around the network, and what of the file is left out

    The file does not hold range, voxels, anchors and classes; they are those of the project's KITTI configuration.
    Raises CheckpointError for a file that is none of these, and names the tensors that are missing, unexpected or
    misshapen.
    """
    source = Path(source)
    state, notes = read_weights(source)
    layout = layout_of(state)
    if layout is None:
        raise CheckpointError(
            f"{source} holds no SECOND of OpenPCDet or mmdetection3d; it has {[key[:60] for key in list(state)[:4]]}"
        )
    return _convert(source, state, notes, layout, card, say)


def layout_of(state: State) -> DetectorLayout | None:
    """Returns the layout of the detector that has these tensors, None where they are no detector's."""
    scores = {layout: len(layout.names().keys() & state.keys()) for layout in DETECTOR_LAYOUTS}
    layout = max(DETECTOR_LAYOUTS, key=lambda each: scores[each])
    return layout if scores[layout] >= _ENOUGH else None


def _convert(
    source: Path, state: State, notes: list[str], layout: DetectorLayout, card: DetectorCard | None, say: Say
) -> Detector:
    sha256 = sha256_of(source)
    card = card or detector_card_of_sha256(sha256)
    try:
        if card is not None and card.kind != layout.convention:
            raise CheckpointError(f"this is not {card.name}: it holds SECOND of {layout.project}")
        net = _fill(state, layout, notes)
    except (CheckpointError, SpecError) as error:
        raise CheckpointError(f"{source}: {error}") from error
    notes.append("range, voxels, anchors and classes are not in the file; they are those of the project for KITTI")
    for note in notes:
        say(note)
    facts = DetectorFacts(
        spec=net.spec,
        name=f"{layout.convention}-second-w{net.spec.stem}",
        provenance=f"{layout.project}, imported from {source.name}",
        source_sha256=sha256,
    )
    return Detector(net, _with_card(facts, net, card) if card else facts)


def _fill(state: State, layout: DetectorLayout, notes: list[str]) -> Second:
    """Returns the network with these tensors; `notes` gets what was added and left out for it."""
    names = layout.names()
    if layout.counter in state:
        notes.append(f"left out as the trainer's own: {layout.counter}")
        state = {key: value for key, value in state.items() if key != layout.counter}
    spec = _spec({names[key]: tuple(value.shape) for key, value in state.items() if key in names}, layout)
    net = meta_detector(spec)
    expected = net.state_dict()
    theirs = {ours: key for key, ours in names.items() if ours in expected}
    state, counters = with_counters(state, {theirs[key]: value for key, value in expected.items()})
    notes += counters
    state = _with_flat_kernels(state, {theirs[key]: tuple(v.shape) for key, v in expected.items()}, notes)
    if lines := mismatches(
        {theirs[key]: tuple(value.shape) for key, value in expected.items()},
        {key: tuple(value.shape) for key, value in state.items()},
    ):
        raise CheckpointError(f"it does not hold exactly the tensors of the SECOND that it should be:{lines}")
    filled(net, theirs, state)
    return net


def _with_flat_kernels(
    state: State, expected: Mapping[str, tuple[int, ...]], notes: list[str]
) -> dict[str, torch.Tensor]:
    """Returns the state with sparse kernels as `[volume, in, out]`, where they fit.

    All kernels of a file have one layout. Those that do not fit it stay as they are, to be named.
    """
    kernels = {key: value for key, value in state.items() if len(expected.get(key, ())) == 3}
    layouts = fitting(kernels, expected)
    if not layouts:
        return dict(state)
    if len(layouts) > 1:
        raise CheckpointError(
            f"the layout of its sparse kernels cannot be told, {' and '.join(layouts)} fit: every layer has as many "
            "inputs as outputs"
        )
    notes.append(f"sparse kernels are in the layout of {layouts[0]}")
    flat = {key: flat_kernel(value, layouts[0]) for key, value in kernels.items() if value.ndim == 5}
    return {key: flat[key] if key in flat and flat[key].shape == expected[key] else v for key, v in state.items()}


def _spec(shapes: Mapping[str, tuple[int, ...]], layout: DetectorLayout) -> DetectorSpec:
    """Returns the spec of the detector whose tensors, by their names in `Second`, have these shapes."""

    def width(unit: str) -> int:
        return shapes[f"{unit}.norm.weight"][0]

    try:
        stages = []
        for i in range(4):
            stage = f"encoder.stages.{i}.layers"
            layers = counted(lambda j, stage=stage: f"{stage}.{j}.norm.weight" in shapes)  # type: ignore[misc]
            stages.append(tuple(width(f"{stage}.{j}") for j in range(layers)))
        spec = DetectorSpec.second(layout.convention)
        return replace(
            spec,
            stem=width("encoder.stem"),
            stages=tuple(stages),
            out=width("encoder.out"),
            bev=tuple(bev_blocks(shapes)),
            head=_head(spec.head, shapes["head.boxes.bias"][0], shapes["head.directions.bias"][0]),
        )
    except (KeyError, IndexError) as error:
        wanted = next((key for key, ours in layout.names().items() if ours == error.args[0]), str(error.args[0]))
        raise CheckpointError(f"it lacks {wanted}, without which the network's widths are unknown") from error


def _head(head: BoxHeadSpec, codes: int, directions: int) -> BoxHeadSpec:
    """Returns the head for KITTI's three classes, or for cars alone."""
    per_class = len(head.rotations) * CODE
    classes = codes // per_class
    if classes not in (1, len(head.classes)) or codes % per_class or directions * CODE != codes * DIRECTIONS:
        raise CheckpointError(
            f"its head has {codes} channels for boxes and {directions} for directions; only SECOND for KITTI's "
            f"{len(head.classes)} classes ({', '.join(head.names)}) or for cars alone is imported"
        )
    return head if classes > 1 else replace(head, classes=tuple(c for c in head.classes if c.name == "Car"))


def _with_card(facts: DetectorFacts, net: Second, card: DetectorCard) -> DetectorFacts:
    count = sum(parameter.numel() for parameter in net.parameters())
    if (count, len(facts.classes)) != (card.parameters, card.classes):
        raise CheckpointError(
            f"this is not {card.name}: the network has {count:,} parameters and {len(facts.classes)} classes, "
            f"{card.upstream} has {card.parameters:,} and {card.classes}"
        )
    return replace(
        facts,
        name=card.name,
        provenance=f"{card.project}, {card.upstream} ({card.licence}; {DETECTOR_DATA_TERMS})",
        published_ap=card.ap,
    )
