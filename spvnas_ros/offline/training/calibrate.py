"""Fits the confidences of a trained network on labelled scans and writes it anew: what `spvnas calibrate` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED, Segmentation
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.datasets import DatasetError, LabelField, ScanDataset, is_bag, open_dataset
from spvnas_ros.offline.evaluation.dataset_evaluation import prelabelled
from spvnas_ros.offline.evaluation.report import skipped_line
from spvnas_ros.offline.evaluation.tally import SURE, Tally
from spvnas_ros.offline.training.adapt_task import logits_of
from spvnas_ros.offline.training.batch import VoxelDataset
from spvnas_ros.offline.training.calibration import KINDS, ONE, Calibration, fit
from spvnas_ros.perception import limits_of
from spvnas_ros.segment.first_look import first_look, tell
from spvnas_ros.segment.progress import INTERRUPTED, Skipped, progress_bar, stop_on_signal
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import CalibrationRecord, Facts, check_writable, load_checkpoint, save_checkpoint

BEST: Final = "best"
"""The kind with the smallest negative log-likelihood on the scans that it was not fitted on."""

SCANS: Final = 24
"""Scans of each drive where nobody says otherwise."""
_WIDEST = 3.0
"""The largest margin of temperatures."""
_PER_SCAN = 10_000
"""Labelled points of a scan that are looked at, drawn at random."""


@dataclass(frozen=True)
class Figures:
    """How far confidences can be trusted, in shares of 1: means over the drives, each with the same weight.

    nll:      negative log-likelihood of the true labels
    ece:      expected calibration error
    sure:     points with a confidence over `SURE`
    wrong:    share of these that are wrong
    mistakes: points that are wrong with a confidence over `SURE`
    changed:  points whose label is another than before
    """

    nll: float
    accuracy: float
    ece: float
    sure: float
    wrong: float
    mistakes: float
    changed: float


@dataclass(frozen=True)
class Outcome:
    """What was fitted.

    before: figures on the scans that were held out, of the network as it was
    after:  by kind; fitted on the other half of the scans
    chosen: the kind that was written; its values are fitted on all scans
    margin: of the temperatures over those that were fitted
    """

    before: Figures
    after: Mapping[str, Figures]
    chosen: str
    calibration: Calibration
    drives: Mapping[str, int]
    margin: float = 1.0


@dataclass(frozen=True)
class _Drive:
    """What the network says of some points of a drive's scans: logits float32 `[n, C]` and labels int64 `[n]` each."""

    name: str
    scans: tuple[tuple[Tensor, Tensor], ...]

    @property
    def halves(self) -> tuple[_Drive, _Drive]:
        """The first scans and the last ones: in drives of several streets, other streets."""
        middle = len(self.scans) // 2
        return replace(self, scans=self.scans[:middle]), replace(self, scans=self.scans[middle:])


def calibrate(drives: Sequence[_Drive], kind: str = ONE, margin: float = 1.0) -> Outcome:
    """Fits each kind on one half of each drive's scans and judges it on the other; then the chosen one on all.

    kind:   one of `KINDS`, or BEST
    margin: temperatures are so many times what was fitted: scans to come are less well known than these

    Raises DatasetError for a drive with a single scan.
    """
    for drive in drives:
        if len(drive.scans) < 2:
            raise DatasetError(
                f"{drive.name} has {len(drive.scans)} scan(s) with labels, expected two at least: one half is fitted "
                "on, the other one judges"
            )
    firsts, lasts = zip(*(drive.halves for drive in drives), strict=True)
    after = {each: _figures(lasts, fit(*_together(firsts), each).flatter(margin)) for each in KINDS}
    chosen = min(after, key=lambda each: after[each].nll) if kind == BEST else kind
    names = {drive.name: len(drive.scans) for drive in drives}
    found = fit(*_together(drives), chosen).flatter(margin)
    return Outcome(_figures(lasts, Calibration()), after, chosen, found, names, margin)


def _together(drives: Sequence[_Drive]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns logits and labels of all points, and weights: every drive has the same sum."""
    logits = torch.cat([logits for drive in drives for logits, _ in drive.scans])
    labels = torch.cat([labels for drive in drives for _, labels in drive.scans])
    sizes = [sum(len(own) for _, own in drive.scans) for drive in drives]
    return logits, labels, torch.cat([torch.full((size,), 1 / (len(drives) * size)) for size in sizes])


def _figures(drives: Sequence[_Drive], calibration: Calibration) -> Figures:
    rows = []
    for drive in drives:
        before, labels, _ = _together([drive])
        logits = calibration.of_logits(before)
        confidence, found = logits.softmax(dim=1).max(dim=1)
        tally = Tally([str(index) for index in range(logits.shape[1])])
        said = Segmentation(found.to(torch.uint8).numpy(), confidence.numpy())
        tally.add(np.zeros((len(labels), 4), np.float32), labels.to(torch.uint8).numpy(), said)
        sure, changed = tally.sureness(), (found != before.argmax(dim=1)).double().mean()
        likely = functional.cross_entropy(logits, labels)
        accuracy = (found == labels).double().mean()
        rows.append([
            *map(float, (likely, accuracy)), tally.calibration_error() or 0.0,
            sure.points or 0.0, sure.wrong or 0.0, sure.mistakes or 0.0, float(changed),
        ])  # fmt: skip
    return Figures(*np.mean(rows, axis=0).tolist())


def written(net: PointVoxelUNet, facts: Facts, source: str, outcome: Outcome) -> tuple[PointVoxelUNet, Facts]:
    """Returns the network with its confidences put right, and its facts, with the record.

    source: what the network before is called

    Scores are left out where labels may be others.
    """
    after = outcome.after[outcome.chosen]
    record = CalibrationRecord(
        kind=outcome.chosen,
        temperatures=outcome.calibration.temperatures,
        biases=outcome.calibration.biases,
        drives=outcome.drives,
        source=source,
        source_sha256=facts.weights_sha256,
        held_out={
            f"{name}_{when}": value
            for when, figures in (("before", outcome.before), ("after", after))
            for name, value in asdict(figures).items()
            if (name, when) != ("changed", "before")
        },
    )
    same = outcome.chosen == ONE
    training = replace(facts.training, scores={}) if facts.training and not same else facts.training
    told = facts.provenance or "of unknown origin"
    wider = "" if outcome.margin == 1 else f" with a margin of {outcome.margin:g}"
    return outcome.calibration.of_net(net), replace(
        facts,
        provenance=f"confidences fitted on {sum(outcome.drives.values())} labelled scans{wider}, {told}",
        published_miou=facts.published_miou if same else None,
        source_sha256=None,
        weights_sha256=None,
        training=training,
        calibration=record,
    )


def run(
    drives: Sequence[Path],
    weights: str,
    out: Path,
    *,
    kind: str = ONE,
    margin: float = 1.0,
    scans: int | None = None,
    half: bool = False,
    force: bool = False,
    as_json: bool = False,
    label_map: str | None = None,
    sequences: str | None = None,
    topic: str | None = None,
    field: LabelField | None = None,
    intensity: str | None = None,
    intensity_field: str | None = None,
    origin: str | None = None,
    mount: str | None = None,
    quiet: bool = False,
) -> int:
    """`calibrate` as a command: writes the network and prints what was fitted, with `as_json` as one JSON object.

    Returns the exit status: 0; 1 where scans were left out; 130 after Ctrl-C, with nothing written.

    force: replaces a file that is there
    margin: temperatures are so many times what was fitted; with one above 1 they need not help on the held-out scans
    scans: of each drive, evenly spread; None for `SCANS`, or as many as there are
    The other arguments are those of `dataset_evaluation.run`

    Raises UserError where there is nothing to fit on, where it does not help on the scans that were held out, or where
    the network cannot be fitted or written.
    """
    if kind not in (*KINDS, BEST):
        raise UserError(f"--by is {kind!r}, expected one of {', '.join((*KINDS, BEST))}")
    if not 1 <= margin <= _WIDEST:
        raise UserError(f"--margin is {margin:g}, expected 1 (what fits the scans) to {_WIDEST:g} (much less sure)")
    check_writable(out, force=force)
    if (topic is not None or field is not None) and not any(map(is_bag, drives)):
        raise UserError(
            "none of the drives is a bag, so that there is no topic and no field of labels to choose: leave --topic, "
            "--truth, --label-ids and --network-labels out"
        )
    net, facts = load_checkpoint(resolve_weights(weights))
    if not facts.trained:
        raise UserError(f"{weights} is untrained, so nothing can be learnt of when it is right")
    place = replace(PlaceRule.parse(origin, mount), sensor_height=facts.sensor_height)
    opened = []
    for path in drives:
        bag = is_bag(path)
        dataset = open_dataset(
            path,
            label_map=label_map or facts.label_map,
            sequences=sequences,
            topic=topic if bag else None,
            field=field if bag else None,
            intensity=intensity,
            intensity_field=intensity_field,
            place=place,
        )
        _check(path, dataset, facts)
        if warning := prelabelled(path):
            print(warning, file=sys.stderr)
        for looked in dataset.look():
            tell([*looked.remarks, *first_look(looked.clouds, looked.sensor, facts)], quiet=quiet)
        opened.append(dataset)
    if scans is not None and scans > (most := max(map(len, opened))):
        raise UserError(f"--scans is {scans}, but no drive has more than {most}; give that or less, or leave it out")
    rows = [
        np.unique(np.linspace(0, len(each) - 1, min(scans or SCANS, len(each))).round().astype(int)) for each in opened
    ]
    skipped: list[Skipped] = []
    said = []
    with progress_bar(sum(map(len, rows))) as on_scan, stop_on_signal() as stopped:
        for name, dataset, own in zip(_names(drives), opened, rows, strict=True):
            samples = VoxelDataset(
                dataset, voxel_size=facts.voxel_size, max_voxels=None, limits=limits_of(facts), keep_points=True
            )
            found = []
            for row in own.tolist():
                if stopped.is_set():
                    print("interrupted; nothing was written", file=sys.stderr)
                    return INTERRUPTED
                result = _said(net, samples, row)
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    found.append(result)
                on_scan(result if isinstance(result, Skipped) else None)
            said.append(_Drive(name, tuple(found)))
    outcome = calibrate(said, kind, margin)
    before, after = outcome.before.nll, outcome.after[outcome.chosen].nll
    if after >= before and margin == 1:  # with a margin it is not meant to fit these scans
        raise UserError(
            f"nothing is written: on the scans that were held out, {outcome.chosen!r} is no better than leaving the "
            f"network as it is (negative log-likelihood {after:.3f} after, {before:.3f} before); give more scans, from "
            "more places"
        )
    changed, told = written(net, facts, Path(weights).name, outcome)
    save_checkpoint(out, changed, told, half=half)
    if as_json:
        print(json.dumps(asdict(outcome) | {"weights": str(out), "skipped": [asdict(each) for each in skipped]}))
    else:
        _print(outcome, facts, out, skipped)
    return 1 if skipped else 0


def _said(net: PointVoxelUNet, samples: VoxelDataset, row: int) -> tuple[Tensor, Tensor] | Skipped:
    """Returns what the network says of some labelled points of a scan, or why it says nothing."""
    sample = samples[row]
    if sample.skipped:
        return sample.skipped[0]
    assert sample.points is not None
    assert sample.inverse is not None
    known = np.flatnonzero(sample.points.labels != UNLABELLED)
    if not len(known):
        return Skipped(sample.name, "none of its points has a label that counts")
    some = np.random.default_rng(row).permutation(known)[:_PER_SCAN]
    logits = logits_of(net, sample, torch.device("cpu")).float()
    labels = torch.from_numpy(sample.points.labels[some].astype(np.int64))
    return logits[torch.from_numpy(sample.inverse[some])], labels


def _check(path: Path, dataset: ScanDataset, facts: Facts) -> None:
    if dataset.label_map.classes != facts.classes:
        raise DatasetError(
            f"label map {dataset.label_map.name!r} has the classes {', '.join(dataset.label_map.classes)}; the network "
            f"has {', '.join(facts.classes)}"
        )
    if not len(dataset):
        raise DatasetError(f"{path} holds no scans")
    if dataset.boxes_only:
        raise DatasetError(f"in {path} only points in boxes have a truth, expected labels of all points")


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the ends of paths that tell them apart. Raises UserError where a drive is given twice."""
    parts = [path.resolve().parts[1:] for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("a drive is given twice; give each once, all count the same")


def _print(outcome: Outcome, facts: Facts, out: Path, skipped: Sequence[Skipped]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("held-out scans", no_wrap=True)
    for title in ("-log p", "ECE", "sure", "wrong", "mistakes", "accuracy", "relabelled"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, row in (("before", outcome.before), *outcome.after.items()):
        shares = (row.ece, row.sure, row.wrong, row.mistakes, row.accuracy, row.changed)
        mark = f"{name} *" if name == outcome.chosen else name
        table.add_row(mark, f"{row.nll:.3f}", *(f"{share:.1%}" for share in shares))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    console.print(
        f"sure: confidence over {SURE:g}; wrong: of these; mistakes: both, of all points; ECE: calibration error"
    )
    if outcome.margin != 1:
        console.print(f"figures are with the margin of {outcome.margin:g}, which is not meant to fit these scans")
    drives = ", ".join(f"{name} ({scans} scans)" for name, scans in outcome.drives.items())
    console.print(f"half of the scans fitted, half held out; * was fitted on all and written: {drives}")
    found = outcome.calibration
    if len(found.temperatures) == 1:
        wider = "" if outcome.margin == 1 else f", {outcome.margin:g} times what was fitted"
        console.print(f"temperature {found.temperatures[0]:.3f}{wider}; labels stay")
    else:
        for number, name in enumerate(facts.classes):
            bias = f", bias {found.biases[number]:+.3f}" if found.biases else ""
            console.print(f"{name:<14} temperature {found.temperatures[number]:.3f}{bias}")
        console.print("labels may be others than before: score the network anew")
    if skipped:
        console.print(skipped_line(skipped, "read"))
    console.print(str(out))
