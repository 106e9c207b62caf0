"""The labels of a run that is not finished, on disk: one file a frame, each whole or not there.

A bag's storage after a power cut is not ours to mend (sqlite3 rolls back, mcap has lost its index), so nothing is
appended to half a bag. Instead the labels of each frame are kept in a small file of their own, and frames that have
one are not labelled again. The results are written at the end, in one go; a kill in the middle of that costs the
copying, not the labelling.
"""

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
from spvnas_ros.segment.output import OutputError

RUN = "run.json"


@dataclass(frozen=True)
class Prediction:
    """The labels of a frame, and the milliseconds the network took."""

    segmentation: Segmentation
    ms: float


class Predictions:
    """The frames an unfinished run has labelled, one file each. The folder appears with the first of them.

    folder:  where they lie
    run:     what they belong to; plain JSON values
    restart: an unfinished run that lies there is removed when the first frame is kept

    Attributes:
        begun: whether an unfinished run of the same kind lies there and goes on

    Raises OutputError where the folder belongs to another run and is not restarted, or is not one of these.
    """

    def __init__(self, folder: Path, run: dict[str, Any], *, restart: bool = False) -> None:
        self.folder = folder
        self._run = run
        # A run that was killed before it could write run.json leaves nothing but its temporary file.
        found = folder.exists() and not all(file.name.startswith(f".{RUN}.") for file in folder.iterdir())
        if found:
            self._check(restart=restart)
        self.begun = found and not restart
        self._open = self.begun

    def _check(self, *, restart: bool) -> None:
        try:
            begun = json.loads((self.folder / RUN).read_text())
            differ = [f"{key} {begun[key]!r}, now {value!r}" for key, value in self._run.items() if begun[key] != value]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{self.folder} is not of an unfinished run; name another folder") from error
        if differ and not restart:
            raise OutputError(
                f"{self.folder} holds an unfinished run with {'; '.join(differ)}; go on with the same arguments, name "
                "another folder, or start again with --force"
            )

    def keep(self, name: str, prediction: Prediction) -> None:
        """Writes a frame's labels; whole, or not at all. Raises OSError where they cannot be written."""
        if not self._open:
            self._begin()
        result = prediction.segmentation
        path = self._file(name)
        path.parent.mkdir(exist_ok=True)  # of a sequence
        with replacing(path) as file:
            arrays: dict[str, Any] = {
                "labels": result.labels,
                "confidence": result.confidence,
                "ms": np.float64(prediction.ms),
            }
            if result.scores is not None:
                arrays["scores"] = result.scores
            np.savez(file, allow_pickle=False, **arrays)

    def _begin(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        with replacing(self.folder / RUN) as file:
            file.write(json.dumps(self._run, indent=2).encode())
        self._open = True

    def find(self, name: str, points: int | None = None) -> Prediction | None:
        """Returns a frame's labels; None where it has none yet, or its file is damaged or of another size than said."""
        if not self._open:
            return None
        try:
            with np.load(self._file(name)) as file:
                labels, confidence, ms = file["labels"], file["confidence"], float(file["ms"])
                scores = file.get("scores")
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        shape = labels.shape if points is None else (points,)
        if labels.shape != shape or confidence.shape != shape:
            return None
        return Prediction(Segmentation(labels, confidence, scores), ms)

    def count(self) -> int:
        """Returns how many frames have labels."""
        return sum(1 for _ in self.folder.rglob("*.npz")) if self._open else 0

    def remove(self) -> None:
        """Deletes them: the run is finished."""
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
