"""Packs labels as SemanticKITTI's benchmark takes them: `sequences/11/predictions/000000.label` and so on, in a zip.

Layout: semantic-kitti-api, validate_submission.py: the zip has an entry for each folder, too. A label is uint32, the
raw id of its class (the inverse of the learning map); `description.txt` is optional, and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from spvnas_ros.labels import LABEL_MAPS, SEMANTIC_KITTI
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.output import SEQUENCES, OutputError, label_file

TEST_SCANS: Final[Mapping[str, int]] = {
    "11": 921,
    "12": 1061,
    "13": 3281,
    "14": 631,
    "15": 1901,
    "16": 1731,
    "17": 491,
    "18": 1801,
    "19": 4981,
    "20": 831,
    "21": 2721,
}
"""Scans of each sequence of the benchmark's test split, 20351 in all (KITTI's odometry benchmark)."""

_DIGITS = 6
_FOLDER = 0o40755 << 16 | 0x10
"""Unix mode and DOS attribute of a folder's entry."""


def check_benchmark(names: Sequence[str], label_map: str, scans: Mapping[str, int] = TEST_SCANS) -> None:
    """Checks that frames of these names are the benchmark's test split, and that a network's classes are its own.

    scans: how many each sequence has

    Raises OutputError, which says what is missing.
    """
    if label_map not in LABEL_MAPS or LABEL_MAPS[label_map].to_raw != SEMANTIC_KITTI.to_raw:
        raise OutputError(
            f"the weights have the classes of label map {label_map!r}, expected SemanticKITTI's 19 for its benchmark"
        )
    wanted = _frames(scans)
    there = set(names)
    if missing := [name for name in wanted if name not in there]:
        lacking = list(dict.fromkeys(name.partition("/")[0] for name in missing))
        raise OutputError(
            f"the benchmark wants every scan of sequences {min(scans)} to {max(scans)}, but {len(missing)} of "
            f"{len(wanted)} are missing, the first is {missing[0]} (of sequences {', '.join(lacking)}); name the "
            "root of SemanticKITTI with the test split's scans"
        )
    if others := there.difference(wanted):
        raise OutputError(
            f"frame {min(others)} is none of the benchmark's, whose sequence has "
            f"{scans.get(min(others).partition('/')[0], 0)} scans, counted from 0"
        )


def write_benchmark(
    out: Path,
    path: Path,
    points: Callable[[str], int],
    scans: Mapping[str, int] = TEST_SCANS,
    on_packed: Callable[[None], None] = lambda _: None,
) -> Path:
    """Packs the labels that a run left in `out`; whole, or not at all.

    path:      the zip
    points:    how many points the frame of a name has
    on_packed: is called after each frame

    Raises OutputError where labels are missing or are not as many as points, and OSError where it cannot be written.
    """
    for name in _frames(scans):
        file = label_file(out, name)
        size = file.stat().st_size if file.is_file() else -1
        if size != 4 * points(name):
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise OutputError(
                f"{file} {found}, expected the labels of {points(name)} points; no {path.name} was written"
            )
    with replacing(path) as target, ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for folder in ("", *(part for sequence in scans for part in (f"{sequence}/", f"{sequence}/predictions/"))):
            entry = ZipInfo(f"{SEQUENCES}/{folder}")
            entry.external_attr = _FOLDER
            archive.writestr(entry, b"")
        for name in _frames(scans):
            file = label_file(out, name)
            archive.write(file, file.relative_to(out).as_posix())
            on_packed(None)
    return path


def _frames(scans: Mapping[str, int]) -> list[str]:
    return [f"{sequence}/{number:0{_DIGITS}d}" for sequence, count in scans.items() for number in range(count)]
