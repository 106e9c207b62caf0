"""The labels of a run that is not finished, on disk: one file a cloud, each whole or not there."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from spvnas_ros.frame import Segmentation
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.run import OutputError

RUN = "run.json"


@dataclass(frozen=True)
class Prediction:
    """The labels of a cloud, and the milliseconds the network took."""

    segmentation: Segmentation
    ms: float


class Predictions:
    """The clouds an unfinished run has labelled, one file each.

    folder: where they lie
    run:    what they belong to; plain JSON values

    Raises OutputError where the folder belongs to another run, or is not one of these.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # A run that was killed before it could write run.json leaves nothing but its temporary file.
        if all(file.name.startswith(f".{RUN}.") for file in folder.iterdir()):
            with replacing(folder / RUN) as file:
                file.write(json.dumps(run, indent=2).encode())
        else:
            self._check(run)

    def _check(self, run: dict[str, Any]) -> None:
        try:
            begun = json.loads((self.folder / RUN).read_text())
            differ = [f"{key} {begun[key]!r}, now {value!r}" for key, value in run.items() if begun[key] != value]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.folder} is not of an unfinished run; name another folder") from error
        if differ:
            raise OutputError(
                f"{self.folder} holds an unfinished run with {'; '.join(differ)}; go on with the same arguments, name "
                "another folder, or start again with --force"
            )

    def keep(self, name: str, prediction: Prediction) -> None:
        """Write a cloud's labels; whole, or not at all. Raises OSError where they cannot be written."""
        result = prediction.segmentation
        with replacing(self._file(name)) as file:
            np.savez(file, labels=result.labels, confidence=result.confidence, ms=np.float64(prediction.ms))

    def find(self, name: str, points: int) -> Prediction | None:
        """A cloud's labels, None where it has none yet (or its file is damaged, or of another number of points)."""
        try:
            with np.load(self._file(name)) as file:
                labels, confidence, ms = file["labels"], file["confidence"], float(file["ms"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        if labels.shape != (points,) or confidence.shape != (points,):
            return None
        return Prediction(Segmentation(labels, confidence), ms)

    def remove(self) -> None:
        """Delete them: the run is finished."""
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
