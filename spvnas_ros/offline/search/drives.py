"""The drives of a search: which scans the supernet learns from, and on which others its subnets are scored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from spvnas_ros.clouds.cleaning import Limits, clean, key_window
from spvnas_ros.frame import Points
from spvnas_ros.nets.layers import Sizes
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.datasets.file_pairs import FileDataset
from spvnas_ros.offline.search.search_config import DataSplit
from spvnas_ros.offline.training.config import ConfigError, Recipe
from spvnas_ros.offline.training.data import Joined, open_training, open_validation
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import build_levels

_SIZED_SCANS = 4
"""Scans whose mean geometry counts for the cost of networks."""
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_RUN_CONFIG = "config.yaml"


def sources_of(split: DataSplit) -> list[Path]:
    """Returns the folders of the training drives."""
    simulated = [folder.path for folder in folders(split.simulate) if not folder.validates]
    return [*map(Path, split.train), *simulated]


@dataclass(frozen=True)
class Drives:
    """Scans in SemanticKITTI's layout.

    learn: those that the supernet learns from; score: others, on which networks are scored
    """

    learn: Joined
    score: Joined

    @classmethod
    def open(
        cls, sources: Sequence[str | Path], learn: Sequence[str], score: Sequence[str], count: int, label_map: str
    ) -> Drives:
        """Opens the sequences `learn` and `score` of the sources; of the latter `count` scans, evenly spread, 0 = all.

        Raises DatasetError where they are not there, and ConfigError where both have a scan.
        """
        parts = [[_open(Path(source), which, label_map) for source in sources] for which in (learn, score)]
        if both := files_of(parts[0]) & files_of(parts[1]):
            raise ConfigError(
                f"data.learn ({', '.join(learn)}) and data.score ({', '.join(score)}) have {len(both)} scan(s) in "
                f"common, such as {min(both)}; networks must be scored on drives that the supernet has not seen"
            )
        return cls(Joined(parts[0]), Joined(parts[1]).spread(count))

    def sizes(self, voxel_size: float) -> Sizes:
        """Returns the mean sizes of the geometry of a few scans of `score`."""
        some = self.score.spread(_SIZED_SCANS)
        return sizes_of([usable(some[index].points, voxel_size) for index in range(len(some))], voxel_size)


def _open(source: Path, sequences: Sequence[str], label_map: str) -> FileDataset:
    dataset = open_dataset(source, label_map=label_map, sequences=list(sequences))
    if not isinstance(dataset, FileDataset):
        raise DatasetError(f"{source} is not in SemanticKITTI's layout, by whose sequences a search splits its drives")
    return dataset


def files_of(parts: Sequence[Any]) -> set[Path]:
    """Returns the scans of data sets, of those that consist of files."""
    return {
        (part.folder / file.scan).resolve() for part in parts if isinstance(part, FileDataset) for file in part.files
    }


def check_unseen(split: DataSplit, checkpoint: Path, label_map: str) -> str | None:
    """Raises ConfigError where the supernet learnt from scans on which networks are to be scored, or was validated on
    them. Returns a remark where nothing tells what it learnt from, None where all is well.

    checkpoint: of the supernet; the training's folder, in which it lies, tells
    """
    config = checkpoint.parent / _RUN_CONFIG
    try:
        recipe = load_recipe(config)
    except (OSError, ConfigError):
        return (
            f"what {checkpoint} learnt from is not recorded beside it ({config}), so that it has not seen the drives "
            f"of data.score ({', '.join(split.score)}) is taken for granted"
        )
    score = files_of([_open(source, split.score, label_map) for source in sources_of(split)])
    for what, opened in (("learnt from", open_training), ("was validated on", open_validation)):
        if both := score & _files(opened, recipe):
            raise ConfigError(
                f"{checkpoint} {what} {len(both)} of the {len(score)} scans of data.score, such as {min(both)}; "
                "networks must be scored on training drives that it has not seen: leave other sequences out of its "
                "training, or choose others for data.score"
            )
    return None


def _files(opened: Any, recipe: Recipe) -> set[Path]:
    try:
        joined = opened(recipe.data)
    except DatasetError:
        return set()  # those drives are no longer there, so none of them is scored on
    return set() if joined is None else files_of(joined.parts)


def training_changes(split: DataSplit) -> list[str]:
    """Returns what a supernet's recipe is given so that it learns from these drives: `key=value`."""
    sources = [str(source) for source in sources_of(split)]
    simulate = replace(split.simulate, scenes=0)
    return [
        f"data.train={listed(sources)}",
        f"data.sequences={listed(split.learn)}",
        f"data.simulate={{folder: {quoted(simulate.folder)}, sensors: {listed(simulate.sensors)}, scenes: 0, "
        f"validation_scenes: {simulate.validation_scenes}, scans: {simulate.scans}, interval: {simulate.interval}, "
        f"seed: {simulate.seed}, mount_height: {list(simulate.mount_height)}, mount_tilt: {simulate.mount_tilt}}}",
    ]


def listed(words: Sequence[str]) -> str:
    """Returns a list of words as YAML has it in a line, for `key=value` behind a recipe."""
    return f"[{', '.join(map(quoted, words))}]"


def quoted(word: str) -> str:
    """Returns a word so that YAML takes it for a word and not for a number or anything else, if there is need."""
    if _PLAIN.fullmatch(word) and yaml.safe_load(word) == word:
        return word
    return json.dumps(word, ensure_ascii=False)  # YAML reads it, and a shell's quotes stay readable around it


def usable(points: Points, voxel_size: float) -> Points:
    """Returns the points of a scan that a network gets."""
    return clean(points, Limits(key_window(voxel_size))).points


def sizes_of(scans: Sequence[Points], voxel_size: float) -> Sizes:
    """Returns the mean sizes of the geometry of scans."""
    coords = [quantize(torch.from_numpy(scan), voxel_size, batch=number).coords for number, scan in enumerate(scans)]
    return Sizes.of(build_levels(torch.cat(coords)), len(scans))
