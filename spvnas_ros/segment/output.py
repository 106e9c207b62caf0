"""The folder that `spvnas segment` fills: what lies where in it, whether it is free, and what `--force` removes.

OUT/labels/NAME.label   for scans: SemanticKITTI's raw ids, uint32 a point, 0 = unlabelled
OUT/bag                 for a bag: a new one of the same storage with the labelled clouds
OUT/scores/NAME.npy     with `scores`: float32 [N, C], the probabilities of all classes
OUT/picture.png         the first frame
OUT/summary.json        the figures of the summary
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from spvnas_ros.recordings.bags import LABELLED_TOPIC, check_free
from spvnas_ros.recordings.scans import Source

LABELS, BAG, SCORES, PICTURE, SUMMARY = "labels", "bag", "scores", "picture.png", "summary.json"


class OutputError(ValueError):
    """Results that have no place to go."""


def check_output(source: Source, out: Path, *, scores: bool, force: bool) -> None:
    """Whether the results of `source` may go to `out`. Nothing is changed.

    Raises OutputError where `out` is no folder, has results that this run would replace without `force`, or where
    `force` would remove what is not a result: the input itself, or the labels that came with a dataset. Raises
    BagError where the new bag's name is taken.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, expected a folder for the results")
    if source.kind == "bag":
        check_free(out / BAG, force=force)
    if force:
        _check_removable(source, out)
        return
    names = [] if source.kind == "bag" else [frame.name for frame in source]
    files = [out / PICTURE, out / SUMMARY, *(out / LABELS / f"{name}.label" for name in names)]
    files += [out / SCORES / f"{name}.npy" for name in names if scores]
    if taken := [file for file in files if file.exists()]:
        others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise OutputError(f"{taken[0]}{others} would be replaced; name another folder, or replace with --force")


def remove_results(out: Path) -> None:
    """Remove what an earlier run left in `out`, and nothing else: other files stay, also inside labels/ and scores/.

    A bag is only removed where it holds labelled clouds. Raises OSError where something cannot be removed.
    """
    for name in (PICTURE, SUMMARY):
        (out / name).unlink(missing_ok=True)
    for folder, pattern in ((out / LABELS, "*.label"), (out / SCORES, "*.npy")):
        for file in folder.glob(pattern):
            file.unlink()
        with suppress(OSError):
            folder.rmdir()
    if _is_labelled_bag(out / BAG):
        shutil.rmtree(out / BAG)


def _check_removable(source: Source, out: Path) -> None:
    place = source.path.resolve()
    if any(place.is_relative_to((out / name).resolve()) for name in (LABELS, BAG, SCORES)):
        raise OutputError(f"{source.path} is the input, and --force would remove it; name another folder than {out}")
    dataset = (out / "velodyne").is_dir() and (out / LABELS).is_dir()
    if dataset and not (out / SUMMARY).exists():
        raise OutputError(
            f"{out} is a SemanticKITTI sequence whose {LABELS}/ no run has left there, so they stay; "
            "name another folder"
        )


def _is_labelled_bag(path: Path) -> bool:
    try:
        return LABELLED_TOPIC in (path / "metadata.yaml").read_text("utf-8", "replace")
    except OSError:
        return False
