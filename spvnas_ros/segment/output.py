"""The folder that `spvnas segment` fills: what lies where in it, whether it is free, and what `--force` removes.

OUT/labels/NAME.label   for scans: SemanticKITTI's raw ids, uint32 a point, 0 = unlabelled
OUT/sequences/NN/predictions/NAME.label   the same for a data set's root, as the benchmark has it
OUT/arrays/NAME.npy     instead, where asked for: class and confidence of each point (see `label_forms`)
OUT/scans/NAME.EXT      the scans of formats that have fields, with label and confidence in them (see `label_forms`)
OUT/bag                 for a bag: a new one of the same storage with the labelled clouds and, where sought, boxes
OUT/boxes/NAME.json     with boxes, for scans (see `box_files`); of a data set's root OUT/boxes/NN/NAME.json
OUT/kitti/NAME.txt      with boxes, for scans of KITTI: its format of results
OUT/scores/NAME.npy     with `scores`: float32 [N, C], the probabilities of all classes
OUT/picture.png         the first frame
OUT/picture_median.png  the median frame, and OUT/picture_worst.png the worst one (see `gallery`)
OUT/benchmark.zip       for SemanticKITTI's test split, where asked for (see `benchmark_zip`)
OUT/report.json         with a truth: the scores, and OUT/confusion.png
OUT/summary.json        what was labelled by what; it is written last and marks a finished run
OUT/unfinished/         while a run is not finished: the labels so far (see `predictions`)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np

from spvnas_ros.errors import UserError
from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import LABEL_MAPS, LabelMap
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagWriter, check_free, encode, labelled_message
from spvnas_ros.recordings.box_bags import BOXES_TOPIC, encode_boxes
from spvnas_ros.recordings.files import replacing
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE
from spvnas_ros.recordings.scans import Cloud, Frame, Source
from spvnas_ros.segment.box_files import KittiScan, PlacedBoxes, write_document, write_kitti
from spvnas_ros.segment.label_forms import ARRAYS, SCANS, LabelForm, all_copies_of, array_file, write_array, write_npy
from spvnas_ros.segment.stored import Labelled, parts_of_result

LABELS, SEQUENCES, BAG, SCORES = "labels", "sequences", "bag", "scores"
BOXES, KITTI = "boxes", "kitti"
PICTURE, SUMMARY = "picture.png", "summary.json"
PICTURE_MEDIAN, PICTURE_WORST = "picture_median.png", "picture_worst.png"
BENCHMARK = "benchmark.zip"
REPORT, CONFUSION, UNFINISHED = "report.json", "confusion.png", "unfinished"
_BESIDE = (PICTURE, PICTURE_MEDIAN, PICTURE_WORST, SUMMARY, REPORT, CONFUSION, BENCHMARK)
"""The files of a run that lie beside labels, bag and scores."""

Write = Callable[[Frame, Callable[[], Cloud], Labelled, PlacedBoxes | None], None]
"""Takes a frame, a function that reads its cloud, its labels, and its boxes; None where nothing looked for any."""


class OutputError(UserError):
    """Results that have no place to go."""


def label_file(out: Path, name: str) -> Path:
    """Returns where the labels of the scan `name` go; "NN/NAME" is a scan of a data set's sequence NN."""
    sequence, _, stem = name.rpartition("/")
    folder = out / SEQUENCES / sequence / "predictions" if sequence else out / LABELS
    return folder / f"{stem}.label"


def scores_file(out: Path, name: str) -> Path:
    """Returns where the probabilities of the frame `name` go."""
    return out / SCORES / f"{name}.npy"


def box_file(out: Path, name: str) -> Path:
    """Returns where the boxes of the scan `name` go."""
    return out / BOXES / f"{name}.json"


def kitti_file(out: Path, name: str) -> Path:
    """Returns where the boxes of the scan `name` go as KITTI's results."""
    return out / KITTI / f"{name}.txt"


def check_folder(out: Path) -> None:
    """Raises OutputError where `out` is there and no folder."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, expected a folder for the results")


def check_free_or_removable(
    source: Source,
    out: Path,
    *,
    scores: bool,
    force: bool,
    results: Collection[Path] = (),
    boxes: bool = False,
    kitti: Collection[str] = (),
    form: LabelForm | None = None,
) -> None:
    """Checks that the results of a new run over `source` may go to `out`. Changes nothing.

    scores, boxes: whether they are among the results
    kitti:   names of the scans whose boxes are written as KITTI's results, too
    results: files that an earlier run has left in `out`, which `force` may replace
    form:    in which form labels are written

    Raises OutputError where `out` is no folder, has results that this run would replace without `force`, or where
    `force` would remove what is not a result: the input itself, or the labels that came with a dataset. Raises
    BagError where the new bag's name is taken.
    """
    check_folder(out)
    if source.kind == "bag":
        check_free(out / BAG, force=force)
    if force:
        _check_removable(source, out)
    mine = set(results) if force else set()
    names = [] if source.kind == "bag" else [frame.name for frame in source]
    files = [out / name for name in _BESIDE]
    files += [*(label_file(out, name) for name in names), *(scores_file(out, name) for name in names if scores)]
    files += [*(box_file(out, name) for name in names if boxes), *(kitti_file(out, name) for name in kitti)]
    form = form or LabelForm()
    if source.kind != "bag":
        files += [copy for frame in source if (copy := form.copy_of(out, frame.name, frame.file))]
        files += [array_file(out, name) for name in names if form.form == "npy"]
    if blocked := [file.parent for file in files if file.parent.exists() and not file.parent.is_dir()]:
        raise OutputError(f"{blocked[0]} is a file, expected a folder for results; move it, or name another folder")
    if taken := [file for file in files if file.exists() and file not in mine]:
        others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        if force:
            raise OutputError(f"{taken[0]}{others} would be replaced, but no run has left them; name another folder")
        raise OutputError(f"{taken[0]}{others} would be replaced; name another folder, or replace with --force")


def results_of(out: Path, names: Iterable[str]) -> list[Path]:
    """Returns the files that a run over frames of these names leaves in `out`, but for the bag."""
    files = [out / name for name in _BESIDE]
    for name in names:
        files += [
            *(label_file(out, name), scores_file(out, name), box_file(out, name), kitti_file(out, name)),
            *all_copies_of(out, name),
        ]
    return files


def check_truth_apart(truth: Iterable[Path], out: Path) -> None:
    """Raises OutputError where a file of the truth lies where labels are written: they would score themselves."""
    places = [(out / LABELS).resolve(), *(place.resolve() for place in out.glob(f"{SEQUENCES}/*/predictions"))]
    for file in truth:
        if any(file.resolve().is_relative_to(place) for place in places):
            raise OutputError(
                f"{file} is the truth, and the labels would be written there; name another folder than {out}"
            )


def remove_results(results: Iterable[Path], out: Path) -> None:
    """Removes what an earlier run left in `out`, and nothing else: other files stay, also those beside the labels.

    A bag is only removed where it holds labelled clouds. Raises OSError where something cannot be removed.
    """
    folders = set()
    for file in results:
        file.unlink(missing_ok=True)
        folders.add(file.parent)
    for folder in folders - {out}:
        with suppress(OSError):
            folder.rmdir()
    if _is_labelled_bag(out / BAG):
        shutil.rmtree(out / BAG)


def open_sink(
    source: Source,
    label_map: str,
    out: Path,
    kitti: Mapping[str, KittiScan] | None = None,
    form: LabelForm | None = None,
    classes: tuple[str, ...] = (),
) -> AbstractContextManager[Write]:
    """Returns what takes labels and boxes of the source's frames and writes them in the form that the source has.

    kitti:   the scans whose boxes are written as KITTI's results, too, by name

    form:    in which form the labels of scans are written
    classes: names of the classes that labels are indices of

    Raises OutputError where the frames are scans and the label map is unknown: their classes have no raw ids to write.
    """
    if source.kind == "bag":
        return _new_bag(out / BAG, source.storage)
    form = form or LabelForm()
    if form.raw_ids and label_map not in LABEL_MAPS:
        raise OutputError(
            f"the weights name label map {label_map!r}, so their classes have no raw ids to write; "
            f"expected one of {', '.join(LABEL_MAPS)}"
        )
    return _files_of_scans(out, LABEL_MAPS.get(label_map), kitti or {}, form, classes)


def save_scores(out: Path, name: str, result: Labelled) -> None:
    """Writes the probabilities of a frame, where there are any; whole, or not at all."""
    first = result.part(0, 1).scores
    if first is not None:
        rows = (part.scores for part in parts_of_result(result) if part.scores is not None)
        write_npy(_with_folder(scores_file(out, name)), np.float32, (len(result), first.shape[1]), rows)


@contextmanager
def _files_of_scans(
    out: Path, label_map: LabelMap | None, kitti: Mapping[str, KittiScan], form: LabelForm, classes: tuple[str, ...]
) -> Iterator[Write]:
    def write(frame: Frame, _: Callable[[], Cloud], result: Labelled, boxes: PlacedBoxes | None) -> None:
        if form.raw_ids and label_map is not None:
            with replacing(_with_folder(label_file(out, frame.name))) as file:
                for part in parts_of_result(result):
                    file.write(label_map.decode(part.labels).astype("<u4").tobytes())
        if form.form == "npy":
            write_array(_with_folder(array_file(out, frame.name)), result)
        copy = form.copy_of(out, frame.name, frame.file)
        if copy is not None and frame.file is not None:
            form.write_copy(_with_folder(copy), frame.file, result, classes)
        if boxes is not None:
            write_document(_with_folder(box_file(out, frame.name)), frame.name, boxes)
            if scan := kitti.get(frame.name):
                write_kitti(_with_folder(kitti_file(out, frame.name)), boxes, scan)

    yield write


def _with_folder(path: Path) -> Path:
    """Makes the folder of a file that will be written, and removes what a killed run has left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for half in path.parent.glob(f".{path.name}.*.part"):
        half.unlink()
    return path


@contextmanager
def _new_bag(path: Path, storage: str) -> Iterator[Write]:
    for half in path.parent.glob(f".{BAG}.*.part"):  # of a run that was killed while it wrote the bag
        shutil.rmtree(half, ignore_errors=True)
    # Whether a bag of that name may be replaced was asked before the first frame was labelled.
    with BagWriter(path, storage, force=True) as bag:

        def write(frame: Frame, load: Callable[[], Cloud], result: Labelled, boxes: PlacedBoxes | None) -> None:
            message = load().message
            assert message is not None
            assert isinstance(result, Segmentation)  # only scans are cut into tiles
            bag.write(LABELLED_TOPIC, encode(labelled_message(message, result)), frame.stamp)
            if boxes is not None:
                bag.write(BOXES_TOPIC, encode_boxes(boxes.recorded(message)), frame.stamp, DETECTIONS_TYPE)

        yield write


def _check_removable(source: Source, out: Path) -> None:
    place = source.path.resolve()
    if any(place.is_relative_to((out / name).resolve()) for name in (LABELS, BAG, SCORES, SCANS, ARRAYS)):
        raise OutputError(f"{source.path} is the input, and --force would remove it; name another folder than {out}")
    sequence = (out / "velodyne").is_dir() and (out / LABELS).is_dir()
    root = any(out.glob(f"{SEQUENCES}/*/velodyne")) and any(out.glob(f"{SEQUENCES}/*/predictions"))
    if (sequence or root) and not (out / SUMMARY).exists():
        raise OutputError(
            f"{out} is a SemanticKITTI {'sequence' if sequence else 'root'} whose "
            f"{LABELS if sequence else 'predictions'}/ no run has left there, so they stay; name another folder"
        )


def _is_labelled_bag(path: Path) -> bool:
    try:
        return LABELLED_TOPIC in (path / "metadata.yaml").read_text("utf-8", "replace")
    except OSError:
        return False
