"""Writes networks that a search has tried as checkpoints of their own, and says what to do with them next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spvnas_ros.executor import Call, Executor
from spvnas_ros.offline.search import scoring
from spvnas_ros.offline.search.drives import listed, quoted
from spvnas_ros.offline.search.search_config import SearchRecipe
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.recordings.files import replacing

_FINE_TUNE = "config/train/fine_tune.yaml"


@dataclass(frozen=True)
class Kept:
    """A network to be written.

    path:  of the checkpoint; the description gets the same name with `.json`
    name:  of the network; story: where its weights come from, for its provenance
    entry: its line in `candidates.jsonl`
    """

    path: Path
    name: str
    story: str
    entry: dict[str, Any]


def keep(networks: Sequence[Kept], exam: scoring.Exam, executor: Executor) -> None:
    """Writes networks with the supernet's weights and BatchNorm statistics of their own, as they were scored, and
    beside each its description.
    """
    calls = [
        Call(
            each.path.name,
            scoring.KEEP,
            {
                "exam": exam.to_dict(),
                "candidate": each.entry["candidate"],
                "path": str(each.path.resolve()),
                "name": each.name,
                "provenance": each.story,
            },
        )
        for each in networks
    ]
    for outcome in executor.outcomes(calls):
        outcome.value()
    for each in networks:
        write_json(each.path.with_suffix(".json"), each.entry)


def write_json(path: Path, document: Any) -> None:
    """Writes a value as JSON, the whole file or none of it."""
    with replacing(path) as file:
        file.write(json.dumps(document, indent=1).encode() + b"\n")


def fine_tuning(recipe: SearchRecipe, weights: Path, sources: Iterable[Path], label_map: str) -> str:
    """Returns the command that trains a network further on all drives of the search: those that the supernet learnt
    from and those that networks were scored on. Simulated drives for validation are used as such.

    label_map: that the drives were read with
    """
    validation = [str(folder.path.resolve()) for folder in folders(recipe.data.simulate) if folder.validates]
    words = ["spvnas", "train", _FINE_TUNE, f"start={quoted(str(weights))}"]
    words += [f"data.train={listed([str(source) for source in sources])}"]
    words += [f"data.sequences={listed((*recipe.data.learn, *recipe.data.score))}"]
    words += [f"data.validation={listed(validation)}"] if validation else []
    words += [f"data.label_map={label_map}"] if recipe.data.label_map else []
    return shlex.join([*words, f"name={quoted(f'{recipe.name}_{weights.stem}')}"])
