"""Tables of the contents of a checkpoint, for people to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from rich.table import Table

from spvnas_ros.nets.box_spec import BoxBranchSpec
from spvnas_ros.nets.cost import StageCost, count_parameters, stage_costs
from spvnas_ros.nets.space import Space
from spvnas_ros.nets.spec import point_words
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels
from spvnas_ros.zoo.checkpoint import BOXES, SUBNETS, CalibrationRecord, Facts, TrainingRecord, gives, load_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector
from spvnas_ros.zoo.supernet_checkpoint import load_supernet

_NAMED = ("recall", "mAP", "mean of")
"""How the names of scores begin that are no mIoU."""


def describe(weights: Path, scan: Path | None = None) -> Iterator[Table]:
    """Yields a table of a checkpoint's facts and, with a scan, a table of the cost of every stage on it.

    A detector's costs are not counted.
    """
    if gives(weights) == BOXES:
        net, detector = load_detector(weights)
        yield _detector_table(weights, detector, sum(parameter.numel() for parameter in net.parameters()))
        return
    if gives(weights) == SUBNETS:
        supernet, facts = load_supernet(weights)
        yield _facts_table(weights, facts, (("supernet", _space(supernet.space)),))
    else:
        _, facts = load_checkpoint(weights)
        yield _facts_table(weights, facts)
    if scan is not None:
        points = torch.from_numpy(read_scan(scan))
        finite = points[torch.isfinite(points).all(dim=1)]
        levels = build_levels(quantize(finite, facts.voxel_size).coords)
        yield _cost_table(scan, len(points), stage_costs(facts.spec, levels))


def _space(space: Space) -> str:
    """Returns a design space in a line."""
    low, high = (" ".join(map(str, widths)) for widths in (space.lowest, space.highest))
    depths = "-".join(map(str, dict.fromkeys(space.depths)))
    return f"some 10^{len(str(space.size)) - 1} networks, widths {low} to {high}, {depths} blocks a stage"


def _facts_table(weights: Path, facts: Facts, more: tuple[tuple[str, str], ...] = ()) -> Table:
    spec = facts.spec
    widths = [spec.stem[1], *(stage.out for stage in (*spec.encoder, *spec.decoder))]
    depths = [len(stage.blocks) for stage in (*spec.encoder, *spec.decoder)]
    score = "none published" if facts.published_miou is None else f"{facts.published_miou} mIoU"
    limits = "unlimited" if facts.point_range is None else " ".join(f"{v:g}" for v in facts.point_range) + " m"
    table = Table(title=str(weights), title_justify="left")
    for header in ("fact", "value"):
        table.add_column(header, overflow="fold")
    for fact, value in (
        ("name", facts.name or "-"),
        ("network", f"{spec.family}, {point_words(spec.point_levels)}"),
        *more,
        ("parameters", f"{count_parameters(spec):,}"),
        ("widths", " ".join(map(str, widths))),
        ("residual blocks", " ".join(map(str, depths))),
        ("voxel size", f"{facts.voxel_size} m"),
        ("range", limits),
        ("intensity", _intensity(facts)),
        ("classes", f"{len(facts.classes)}: {', '.join(facts.classes)}"),
        ("label map", facts.label_map),
        *((("boxes", _branch(spec.boxes)),) if spec.boxes else ()),
        ("score", score if facts.trained else "untrained: its labels mean nothing"),
        ("training", _training(facts.training)),
        *((("confidences", _calibration(facts.calibration)),) if facts.calibration else ()),
        ("provenance", facts.provenance or "-"),
        ("source sha256", facts.source_sha256 or "-"),
        ("weights sha256", facts.weights_sha256 or "-"),
    ):
        table.add_row(fact, value)
    return table


def _calibration(record: CalibrationRecord) -> str:
    """Returns a record of a calibration in a line."""
    low, high = min(record.temperatures), max(record.temperatures)
    values = f"temperature {low:.3f}" if low == high else f"temperatures {low:.3f} to {high:.3f}"
    biases = f", biases {min(record.biases):+.2f} to {max(record.biases):+.2f}" if record.biases else ""
    drives = ", ".join(f"{name} ({scans} scans)" for name, scans in record.drives.items())
    return f"{values}{biases}, fitted on {drives}; before: {record.source} (weights sha256 {record.source_sha256})"


def _detector_table(weights: Path, facts: DetectorFacts, parameters: int) -> Table:
    spec = facts.spec
    ap = ", ".join(f"{what} {value:g}" for what, value in facts.published_ap.items())
    score = f"3D AP {ap} (KITTI, moderate, 11 positions)" if ap else "none published"
    table = Table(title=str(weights), title_justify="left")
    for header in ("fact", "value"):
        table.add_column(header, overflow="fold")
    for fact, value in (
        ("name", facts.name or "-"),
        ("network", f"{spec.family}, finds boxes, {'with' if spec.point_branch else 'without'} point branch"),
        ("convention", spec.convention),
        ("parameters", f"{parameters:,}"),
        ("widths", " ".join(map(str, spec.widths()))),
        ("voxel size", " ".join(f"{v:g}" for v in spec.voxel_size) + " m"),
        ("range", " ".join(f"{v:g}" for v in spec.point_range) + " m"),
        ("intensity", facts.intensity),
        ("classes", f"{len(facts.classes)}: {', '.join(facts.classes)}"),
        ("score", score if facts.trained else "untrained: its boxes mean nothing"),
        ("training", _training(facts.training)),
        ("provenance", facts.provenance or "-"),
        ("source sha256", facts.source_sha256 or "-"),
        ("weights sha256", facts.weights_sha256 or "-"),
    ):
        table.add_row(fact, value)
    return table


def _branch(branch: BoxBranchSpec) -> str:
    cell = branch.voxel_size * 2**branch.level * branch.merged
    limits = " ".join(f"{v:g}" for v in branch.point_range)
    return (
        f"{len(branch.head.classes)}: {', '.join(branch.head.names)}; within {limits} m, from the features at stride "
        f"{2**branch.level}, in columns of {cell:g} m"
    )


def _intensity(facts: Facts) -> str:
    if (trained := facts.training_intensity) is None:
        return facts.intensity
    return f"{facts.intensity}; in the training data {trained.median:.3g} (median), 95% up to {trained.p95:.3g}"


def _training(record: TrainingRecord | None) -> str:
    if record is None:
        return "not by this program, or not recorded"
    scores = "".join(
        f"; {what} {score:.1%}" if what.startswith(_NAMED) else f"; mIoU {score:.1%} in {what}"
        for what, score in record.scores.items()
    )
    return f"recipe {record.recipe}, seed {record.seed}, {record.steps} steps on {record.data}{scores}"


def _cost_table(scan: Path, points: int, costs: list[StageCost]) -> Table:
    table = Table(title=f"{scan.name}: {points} points", title_justify="left", show_footer=True)
    total_parameters, total_macs = sum(c.parameters for c in costs), sum(c.macs for c in costs)
    table.add_column("stage", footer="all")
    for header, footer in (
        ("stride", ""),
        ("voxels", ""),
        ("width", ""),
        ("parameters", f"{total_parameters:,}"),
        ("MACs", f"{total_macs:,}"),
        ("share", ""),
    ):
        table.add_column(header, footer=footer, justify="right")
    for c in costs:
        share = f"{c.macs / total_macs:.1%}"
        table.add_row(c.name, str(c.stride), str(c.rows), str(c.width), f"{c.parameters:,}", f"{c.macs:,}", share)
    return table
