"""Label a whole source, frame by frame, into a folder (see `spvnas_ros.segment.output`): what `spvnas segment` does.

Nothing is written, and with `force` nothing is removed, before a frame has been labelled. So a run that labels none
leaves everything as it was.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.frame import Segmentation
from spvnas_ros.kernels.grid import KeyRangeError
from spvnas_ros.labels import LABEL_MAPS, LabelMap
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagError, BagWriter, encode, labelled_message
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.scans import Cloud, Frame, ScanError, Source
from spvnas_ros.segment.output import BAG, LABELS, PICTURE, SCORES, SUMMARY, check_output, remove_results
from spvnas_ros.segment.output import OutputError as OutputError
from spvnas_ros.segment.picture import save_picture

if TYPE_CHECKING:
    from spvnas_ros.perception import Perception
    from spvnas_ros.segment.command import ReportedIntensity
    from spvnas_ros.zoo.checkpoint import Facts

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

FRAME_ERRORS = (ScanError, PointCloudError, KeyRangeError)
"""What is wrong with one frame and says nothing of the next."""

Write = Callable[[Frame, Cloud, Segmentation], None]


@dataclass(frozen=True)
class Skipped:
    """A frame that could not be labelled, and why."""

    name: str
    reason: str


@dataclass
class Summary:
    """What a run did.

    ms:                 milliseconds each frame took, in order, of the network alone: no reading, no writing, and not
                        the first call, which pays for memory and compiled kernels (the first frame is labelled twice)
    classes:            points by class name, the most frequent first; unlabelled points are in none of them
    intensity:          the rule that scaled the intensities, where it is known
    intensity_divisors: what that rule divided them by, each change once; empty where there were no intensities
    """

    source: str
    network: str
    trained: bool
    engine: str
    device: str
    frames: int = 0
    points: int = 0
    interrupted: bool = False
    ms: list[float] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    intensity: str | None = None
    intensity_divisors: list[float] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether there were frames, and all of them were labelled."""
        return self.frames > 0 and not self.skipped and not self.interrupted

    def percentile(self, percent: float) -> float:
        """Of the milliseconds a frame; NaN without frames."""
        return float(np.percentile(self.ms, percent)) if self.ms else float("nan")


def segment(
    source: Source,
    perception: Perception,
    out: Path,
    *,
    scores: bool = False,
    force: bool = False,
    intensity: ReportedIntensity | None = None,
    on_frame: Callable[[Skipped | None], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Label every frame of `source` into the folder `out`.

    scores:    also keep the probabilities of all classes
    force:     remove the results of an earlier run once the first frame is labelled
    intensity: the rule `source` was opened with, for the summary
    on_frame:  called after each frame, with what was wrong if it was skipped
    stopped:   asked before each frame; True ends the run, and what was labelled until then is kept

    A frame that cannot be read or labelled is skipped. Raises OutputError where results are in the way, BagError or
    OSError where they cannot be written; a new bag is then not there at all.
    """
    facts, engine = perception.facts, perception.engine
    check_output(source, out, scores=scores, force=force)
    _check_label_map(source, facts)
    summary = Summary(str(source.path), facts.name, facts.trained, engine.name, str(engine.device))
    counts = np.zeros(256, np.int64)
    write: Write | None = None

    def skip(name: str, error: Exception) -> None:
        summary.skipped.append(Skipped(name, str(error)))
        on_frame(summary.skipped[-1])

    with ExitStack() as sink:
        for frame in frames_until_damage(source, skip):
            if stopped():
                summary.interrupted = True
                break
            try:
                cloud = frame.load()
                if write is None:
                    perception(cloud.points, scores)
                start = perf_counter()
                result = perception(cloud.points, scores)
                elapsed = perf_counter() - start
            except FRAME_ERRORS as error:
                skip(frame.name, error)
                continue
            if write is None:
                if force:
                    remove_results(out)
                write = sink.enter_context(_open_sink(source, facts, out, force=force))
                title = f"{source.path.name or source.path}, {frame.name}"
                save_picture(out / PICTURE, cloud.points, result.labels, facts, title)
            write(frame, cloud, result)
            if result.scores is not None:
                _save_scores(out / SCORES / f"{frame.name}.npy", result.scores)
            summary.frames += 1
            summary.points += len(result)
            summary.ms.append(elapsed * 1e3)
            counts += np.bincount(result.labels, minlength=256)
            on_frame(None)
    order = np.argsort(-counts[: len(facts.classes)], kind="stable")
    summary.classes = {facts.classes[i]: int(counts[i]) for i in order if counts[i]}
    if intensity is not None:
        summary.intensity, summary.intensity_divisors = intensity.rule, list(intensity.divisors)
    if summary.frames:
        _save_summary(out / SUMMARY, summary)
    return summary


def frames_until_damage(source: Source, skip: Callable[[str, Exception], None]) -> Iterator[Frame]:
    """The source's frames; a bag that turns out damaged on the way ends there, and that is said."""
    frames = iter(source)
    while True:
        try:
            frame = next(frames, None)
        except BagError as error:
            skip("the rest", error)
            return
        if frame is None:
            return
        yield frame


def _check_label_map(source: Source, facts: Facts) -> None:
    if source.kind != "bag" and facts.label_map not in LABEL_MAPS:
        raise OutputError(
            f"the weights name label map {facts.label_map!r}, so their classes have no raw ids to write; "
            f"expected one of {', '.join(LABEL_MAPS)}"
        )


def _open_sink(source: Source, facts: Facts, out: Path, *, force: bool) -> AbstractContextManager[Write]:
    if source.kind == "bag":
        return _new_bag(out / BAG, source.storage, force)
    return _label_files(out / LABELS, LABEL_MAPS[facts.label_map])


@contextmanager
def _label_files(folder: Path, label_map: LabelMap) -> Iterator[Write]:
    folder.mkdir(parents=True, exist_ok=True)

    def write(frame: Frame, _: Cloud, result: Segmentation) -> None:
        with replacing(folder / f"{frame.name}.label") as file:
            file.write(label_map.decode(result.labels).astype("<u4").tobytes())

    yield write


@contextmanager
def _new_bag(path: Path, storage: str, force: bool) -> Iterator[Write]:
    with BagWriter(path, storage, force=force) as bag:

        def write(frame: Frame, cloud: Cloud, result: Segmentation) -> None:
            assert cloud.message is not None
            bag.write(LABELLED_TOPIC, encode(labelled_message(cloud.message, result)), frame.stamp)

        yield write


def _save_scores(path: Path, scores: npt.NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.save(file, scores)


def _save_summary(path: Path, summary: Summary) -> None:
    document = asdict(summary) | {"ms_p50": summary.percentile(50), "ms_p95": summary.percentile(95)}
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2).encode() + b"\n")


@contextmanager
def progress_bar(count: int, doing: str = "labelling") -> Iterator[Callable[[Skipped | None], None]]:
    """A bar on stderr where that is a terminal. Skipped frames are told in any case."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=count)

        def on_frame(skipped: Skipped | None) -> None:
            if skipped:
                progress.console.print(f"skipped {skipped.name}: {skipped.reason}")
            progress.advance(task)

        yield on_frame


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM end the run after the frame at hand, so that nothing is half written; a second one at once."""
    stopped = threading.Event()

    def stop(number: int, _: object) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
