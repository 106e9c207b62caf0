"""Label every cloud of a bag into a new bag, and say how good the labels are: what `spvnas bag` does.

OUT/bag             a new bag of the same storage with the labelled clouds
OUT/report.json     figures of the run and, with a truth, the scores; it is written last and marks a finished run
OUT/confusion.png   with a truth
OUT/unfinished/     while a run is not finished: run.json, which says of what, and NUMBER.npz, the labels of each cloud

A run that was interrupted or killed goes on when the same command is given again. What a bag's storage has on disk
after a power cut is not ours to say (sqlite3 rolls back, mcap has lost its index), so nothing is appended to half a
bag. Instead the labels of each cloud are kept in a small file of their own, which appears whole or not at all; what is
there is not labelled again. The bag is written at the end, in one go and under a temporary name, and takes its name
when it is closed; a kill in the middle of that costs the copying, not the labelling. Clouds that are labelled already
are still read, because the intensity rule `auto` must see them to scale the rest as an unbroken run would.

Weights, engine, device, intensity rule and bag must be those the run was begun with; anything else is an error.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from spvnas_ros.offline.evaluation.confusion_picture import save_confusion
from spvnas_ros.offline.evaluation.metrics import Score, confusion_matrix, score
from spvnas_ros.offline.evaluation.report import Report, describe
from spvnas_ros.offline.evaluation.truth import Truth, open_truth
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagWriter, check_free, encode, labelled_message
from spvnas_ros.recordings.scans import Source, open_source
from spvnas_ros.segment.predictions import RUN, Prediction, Predictions
from spvnas_ros.segment.run import (
    FRAME_ERRORS,
    INTERRUPTED,
    OutputError,
    Skipped,
    frames_until_damage,
    progress_bar,
    stop_on_signal,
)

if TYPE_CHECKING:
    from spvnas_ros.offline.datasets import LabelField
    from spvnas_ros.perception import Perception

BAG, REPORT, CONFUSION, UNFINISHED = "bag", "report.json", "confusion.png", "unfinished"

OnFrame = Callable[[Skipped | None], None]
Stopped = Callable[[], bool]


class Interrupted(Exception):
    """The run was asked to stop. What it has labelled is kept."""


@dataclass(frozen=True)
class BagRun:
    """A bag, a network, and where the results go.

    weights:   the weights' name, for the report
    intensity: the rule `source` was opened with, for the report
    truth:     what the labels are compared with, if anything
    """

    source: Source
    perception: Perception
    out: Path
    weights: str
    intensity: str
    truth: Truth | None = None

    def finished(self) -> Report | None:
        """The report in `out`, if this very run has finished before. Raises OutputError where it is of another."""
        path = self.out / REPORT
        if not path.exists():
            return None
        try:
            report = Report.load(path)
        except ValueError as error:
            raise OutputError(f"{error}; name another folder") from error
        facts, truth = self._facts(), self.truth.description if self.truth else None
        if report.truth != truth or any(getattr(report, key) != value for key, value in facts.items()):
            raise OutputError(f"{path} is of another run; name another folder, or replace it with --force")
        return report

    def start(self, *, force: bool = False) -> Predictions:
        """Begin, or go on where an earlier run stopped; with `force` from the beginning, and replace its results.

        Raises OutputError where `out` cannot take the results, BagError where the new bag's name is taken.
        """
        if self.out.exists() and not self.out.is_dir():
            raise OutputError(f"{self.out} is a file, expected a folder for the results")
        folder = self.out / UNFINISHED
        if force:
            if (folder / RUN).is_file():
                shutil.rmtree(folder)
            for name in (REPORT, CONFUSION):
                (self.out / name).unlink(missing_ok=True)
        if not folder.exists():
            check_free(self.out / BAG, force=force)
        for half in self.out.glob(f".{BAG}.*.part"):  # of a run that was killed while it wrote the bag
            shutil.rmtree(half, ignore_errors=True)
        size = sum(file.stat().st_size for file in _files(self.source.path))
        return Predictions(folder, self._facts() | {"clouds": len(self.source), "bytes": size})

    def label(
        self, predictions: Predictions, on_frame: OnFrame = lambda _: None, stopped: Stopped = bool
    ) -> list[Skipped]:
        """Label what is not labelled yet; returns the clouds that cannot be. Raises Interrupted."""
        skipped: list[Skipped] = []
        warm = False

        def skip(name: str, error: Exception) -> None:
            skipped.append(Skipped(name, str(error)))
            on_frame(skipped[-1])

        for frame in frames_until_damage(self.source, skip):
            if stopped():
                raise Interrupted
            try:
                points = frame.load().points
                if predictions.find(frame.name, len(points)) is None:
                    if not warm:
                        # The first cloud of a process pays for memory and compiled kernels: not what is measured.
                        self.perception(points)
                        warm = True
                    begun = perf_counter()
                    result = self.perception(points)
                    predictions.keep(frame.name, Prediction(result, (perf_counter() - begun) * 1e3))
            except FRAME_ERRORS as error:
                skip(frame.name, error)
                continue
            on_frame(None)
        return skipped

    def write(
        self,
        predictions: Predictions,
        skipped: list[Skipped],
        on_frame: OnFrame = lambda _: None,
        stopped: Stopped = bool,
    ) -> Report:
        """Write bag, picture and report from what is labelled, and clear up.

        Raises Interrupted, BagError or OSError; the new bag is then not there, and the labels are kept.
        """
        facts = self.perception.facts
        confusion = np.zeros((facts.num_classes, facts.num_classes + 1), np.int64)
        ms: list[float] = []
        points = 0
        left_out = {entry.name for entry in skipped}
        with BagWriter(self.out / BAG, self.source.storage, force=True) as bag:
            for frame in frames_until_damage(self.source, lambda *_: None):
                if stopped():
                    raise Interrupted
                if frame.name in left_out:
                    continue
                message = frame.load().message
                assert message is not None
                prediction = predictions.find(frame.name, message.height * message.width)
                if prediction is None:
                    raise OutputError(f"the labels of cloud {frame.name} have vanished from {predictions.folder}")
                result = prediction.segmentation
                bag.write(LABELLED_TOPIC, encode(labelled_message(message, result)), frame.stamp)
                if self.truth:
                    truth = self.truth.read(int(frame.name), message)
                    confusion += confusion_matrix(truth, result.labels, facts.num_classes)
                ms.append(prediction.ms)
                points += len(result)
                on_frame(None)
        found = score(confusion, facts.classes) if self.truth else None
        report = self._report(ms, points, skipped, found)
        if found:
            save_confusion(self.out / CONFUSION, found, facts, f"{self.source.path.name}, {facts.name}")
        report.save(self.out / REPORT)
        predictions.remove()
        return report

    def _facts(self) -> dict[str, Any]:
        """What must be the same for two runs to be one: names of fields of the report."""
        facts, engine = self.perception.facts, self.perception.engine
        return {
            "source": str(self.source.path.resolve()),
            "topic": self.source.topic,
            "weights_sha256": facts.weights_sha256,
            "engine": engine.name,
            "device": str(engine.device),
            "intensity": self.intensity,
        }

    def _report(self, ms: list[float], points: int, skipped: list[Skipped], found: Score | None) -> Report:
        facts = self.perception.facts
        p50, p95 = (float(value) for value in np.percentile(ms, (50, 95))) if ms else (None, None)
        return Report(
            **self._facts(),
            network=facts.name,
            weights=self.weights,
            trained=facts.trained,
            label_map=facts.label_map,
            clouds=len(ms),
            points=points,
            ms_p50=p50,
            ms_p95=p95,
            skipped=tuple(skipped),
            truth=self.truth.description if self.truth else None,
            score=found,
        )


def run(
    path: Path,
    weights: str,
    out: Path,
    *,
    truth: LabelField | Path | None = None,
    device: str = "auto",
    engine: str = "auto",
    intensity: str = "auto",
    topic: str | None = None,
    force: bool = False,
) -> int:
    """`BagRun` as a command: loads what is named, shows progress, prints the report. Returns the exit status.

    truth: a field of the clouds, or a folder of .label files
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    with open_source(path, intensity=intensity, topic=topic) as source:
        if source.kind != "bag":
            raise OutputError(f"{path} is a {source.kind} of scans, expected a rosbag2; for scans: spvnas segment")
        from spvnas_ros.perception import Perception

        perception = Perception.load(weights, device=device, engine=engine)
        known = open_truth(source.path, source.topic, truth, perception.facts) if truth else None
        job = BagRun(source, perception, out, Path(weights).name, intensity, known)
        report = None if force else job.finished()
        if report:
            console.print(f"{out} is finished: nothing to do (--force labels again)")
        else:
            report = _work(job, console, force=force)
        if report is None:
            return INTERRUPTED
    for part in describe(report):
        console.print(part)
    results = (out / name for name in (BAG, CONFUSION, REPORT) if name != CONFUSION or report.score)
    console.print(", ".join(map(str, results)))
    return 0 if report.complete else 1


def _work(job: BagRun, console: Console, *, force: bool) -> Report | None:
    """Both passes over the bag, with their bars; None where the run was interrupted."""
    predictions = job.start(force=force)
    try:
        with stop_on_signal() as stopped:
            with progress_bar(len(job.source)) as on_frame:
                skipped = job.label(predictions, on_frame, stopped.is_set)
            with progress_bar(len(job.source) - len(skipped), "writing") as on_frame:
                return job.write(predictions, skipped, on_frame, stopped.is_set)
    except Interrupted:
        done = sum(1 for _ in predictions.folder.glob("*.npz"))
        console.print(f"Interrupted: {done} of {len(job.source)} clouds are labelled; the same command goes on there.")
        return None


def _files(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
