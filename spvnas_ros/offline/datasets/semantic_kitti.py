"""Opens scans in SemanticKITTI's layout: `sequences/08/velodyne/000123.bin`, `sequences/08/labels/000123.label`.

Layout, classes and splits: Behley et al., ICCV 2019, http://semantic-kitti.org. Simulated drives have this layout, too.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from pathlib import Path

from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.file_pairs import FileDataset, ScanFile, pair_files, settle
from spvnas_ros.offline.datasets.scan import DatasetError

SPLITS = {"train": (0, 1, 2, 3, 4, 5, 6, 7, 9, 10), "val": (8,), "test": tuple(range(11, 22))}
"""Sequences of each official split; the labels of `test` are not public."""

Sequences = str | int | Sequence[str | int] | None
"""`train`, `val`, `test`; numbers such as 8, `08`, `000-039` and `00,02,04-07`; a list of these; None for all
sequences.
"""

_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
_SEQUENCES, _SCANS, _LABELS = "sequences", "velodyne", "labels"


def is_semantic_kitti(folder: Path) -> bool:
    """Tells whether a folder holds sequences, or is a sequence."""
    return (folder / _SEQUENCES).is_dir() or bool(_found(folder)) or _is_sequence(folder)


def open_semantic_kitti(folder: Path, label_map: LabelMap, sensor: Sensor, sequences: Sequences = None) -> FileDataset:
    """Opens the scans of some sequences, in order. Of a split, only the sequences that exist are taken.

    folder: a folder that holds the folder `sequences`, the sequences themselves, or the files of one sequence

    Raises DatasetError where a sequence or a label file is missing.
    """
    files: list[ScanFile] = []
    problems: dict[str, DatasetError] = {}
    whole: list[str] = []
    for sequence in _choose(folder, sequences):
        try:
            files += pair_files(folder, sequence / _SCANS, sequence / _LABELS, f"{sequence.resolve().name}/")
            whole.append(sequence.name)
        except DatasetError as error:
            problems[sequence.name] = error
    if problems:
        first = next(iter(problems.values()))
        advice = (
            f". {'Sequence' if len(problems) == 1 else 'Sequences'} {', '.join(problems)} cannot be used; choose "
            f"others: --sequences {','.join(whole)} (or --split; in a recipe data.sequences)"
        )
        raise DatasetError(f"{first}{advice if whole else ''}")
    return FileDataset(folder, tuple(files), label_map, settle(sensor, [folder / file.scan for file in files]))


def _choose(folder: Path, wanted: Sequences) -> list[Path]:
    if _is_sequence(folder):
        if wanted is not None:
            raise DatasetError(f"{folder} is one sequence, so none can be chosen; name the folder above it")
        return [folder]
    root = folder / _SEQUENCES if (folder / _SEQUENCES).is_dir() else folder
    found = _found(root)
    listed = ", ".join(path.name for path in found.values()) or "none"
    chosen = list(found) if wanted is None else _numbers(wanted, found)
    if missing := [number for number in chosen if number not in found]:
        raise DatasetError(f"{root} has no sequence {missing[0]:02d}; found {listed}")
    if not chosen:
        raise DatasetError(f"{root} has no sequence of {wanted or 'any number'}; found {listed}")
    return [found[number] for number in chosen]


def _found(root: Path) -> dict[int, Path]:
    """Returns the sequences by number, in order."""
    folders = [path for path in root.iterdir() if path.name.isdecimal() and _is_sequence(path)]
    return {int(path.name): path for path in sorted(folders, key=lambda path: int(path.name))}


def _is_sequence(folder: Path) -> bool:
    return (folder / _SCANS).is_dir() and not (folder / "label_2").is_dir()


def _numbers(wanted: str | int | Sequence[str | int], found: Container[int]) -> list[int]:
    """Returns the wanted sequences in the order of the request, each once. Of a split, only the sequences that exist
    are taken.
    """
    parts = [wanted] if isinstance(wanted, str | int) else wanted
    numbers: list[int] = []
    for word in (word.strip() for part in parts for word in str(part).split(",")):
        if word in SPLITS:
            numbers += [number for number in SPLITS[word] if number in found]
            continue
        match = _RANGE.fullmatch(word)
        if not match:
            raise DatasetError(
                f"sequences are {wanted!r}, expected {', '.join(SPLITS)}, or numbers such as 8, 08, 000-039 or 00,02"
            )
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(numbers))
