"""Scores the labels of a recording while `segment` writes them: what `spvnas segment --truth` adds."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from spvnas_ros.clouds.cleaning import usable
from spvnas_ros.frame import Segmentation
from spvnas_ros.offline.datasets.label_field import LabelField
from spvnas_ros.offline.evaluation.confusion_picture import save_confusion
from spvnas_ros.offline.evaluation.metrics import accuracy
from spvnas_ros.offline.evaluation.report import Report, Tallies, describe, scored
from spvnas_ros.offline.evaluation.truth import Truth, open_truth
from spvnas_ros.palettes import SPVNAS
from spvnas_ros.recordings.scans import Cloud, Frame, Source
from spvnas_ros.segment.output import CONFUSION
from spvnas_ros.segment.summary import Summary
from spvnas_ros.zoo.checkpoint import Facts


class TruthJudge:
    """Compares labels with a truth; a `segment.run.Judge`.

    known: the truth
    facts: of the weights: classes and colours
    palette: name of the colours in the picture
    """

    def __init__(self, known: Truth, facts: Facts, palette: str = SPVNAS) -> None:
        self.truth, self.files = known.description, known.files
        self._known, self._facts, self._palette = known, facts, palette
        self._tallies = Tallies(facts.classes)

    @classmethod
    def open(cls, source: Source, where: LabelField | Path, facts: Facts, palette: str = SPVNAS) -> TruthJudge:
        """Reads the truth about a source once, to know that it fits. Raises what `open_truth` raises."""
        truth = open_truth(source.path, source.topic, where, facts, source.columns or None)
        return cls(truth, facts, palette)

    def add(self, frame: Frame, cloud: Cloud, result: Segmentation) -> float | None:
        """Counts a frame, and returns its accuracy; None where it has no truth.

        Raises TruthError or LabelFieldError where its truth cannot be read.
        """
        seen = usable(cloud.points)  # as in a data set: a point without a place has no truth
        truth = self._known.read(frame.name, cloud.record)
        part = Segmentation(result.labels[seen], result.confidence[seen])
        self._tallies.add(frame.name, cloud.points[seen], truth[seen], part)
        return accuracy(truth[seen], part.labels)

    def save(self, summary: Summary, out: Path) -> None:
        """Writes `report.json` and `confusion.png`."""
        run, summary.truth_place = summary.run, dict(self._known.place)
        report = Report(
            source=run.source,
            topic=run.topic,
            network=summary.network,
            weights=summary.weights,
            weights_sha256=run.weights_sha256,
            trained=summary.trained,
            truth=self.truth,
            label_map=summary.label_map,
            engine=run.engine,
            precision=run.precision,
            device=run.device,
            views=1,
            frames=summary.frames,
            points=summary.points,
            ms_p50=summary.percentile(50),
            ms_p95=summary.percentile(95),
            skipped=tuple(summary.skipped),
            pictures=tuple(summary.pictures),
            **scored(self._tallies),
        )
        title = f"{Path(run.source).name}, {summary.network or summary.weights}"
        save_confusion(out / CONFUSION, report.score, self._facts, title, self._palette)
        report.save(out)


def print_report(out: Path, console: Console) -> None:
    """Prints the scores that lie in a run's folder."""
    for part in describe(Report.load(out)):
        console.print(part)
