"""The labels and boxes of a run that is not finished, on disk: one file a frame, each whole or not there.

A bag's storage after a power cut is not ours to mend (sqlite3 rolls back, mcap has lost its index), so nothing is
appended to half a bag. Instead the labels of each frame are kept in a small file of their own, and frames that have
one are not labelled again. The results are written at the end, in one go; a kill in the middle of that costs the
copying, not the labelling.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from spvnas_ros.frame import Boxes, Segmentation, Unusable
from spvnas_ros.recordings.files import replacing
from spvnas_ros.segment.output import OutputError
from spvnas_ros.segment.stored import RESULT, Labelled, StoredSegmentation

if TYPE_CHECKING:
    from typing_extensions import Self

RUN = "run.json"
_TILES = ".tiles"


@dataclass(frozen=True)
class Prediction:
    """The labels of a frame and its boxes, where something looked for any, in the frame in which the network saw it.

    segmentation: of a cloud that was cut into tiles, on disk
    ms, boxes_ms: milliseconds that the network took, and the detector beside it
    """

    segmentation: Labelled
    ms: float
    boxes_ms: float = 0.0


class Predictions:
    """The frames an unfinished run has labelled, one file each. The folder appears with the first of them.

    folder:  where they lie
    run:     what they belong to; plain JSON values
    restart: an unfinished run that lies there is removed when the first frame is kept

    Attributes:
        begun: whether an unfinished run of the same kind lies there and goes on
        found: whether an unfinished run lies there, which goes on or will be restarted

    A context manager that keeps other runs out of the results' folder. Raises OutputError where one is at work there,
    and where the folder belongs to another run and is not restarted, or is not one of these.
    """

    def __init__(self, folder: Path, run: dict[str, Any], *, restart: bool = False) -> None:
        self.folder = folder
        self._run = run
        self._lock: int | None = None
        if folder.parent.is_dir():
            self._take()
        # A run that was killed before it could write run.json leaves nothing but its temporary file.
        self.found = folder.exists() and not all(file.name.startswith(f".{RUN}.") for file in folder.iterdir())
        if self.found:
            try:
                self._check(restart=restart)
            except OutputError:
                self.close()
                raise
        self.begun = self.found and not restart
        self._open = self.begun

    def _take(self) -> None:
        """Takes the results' folder for this run alone, until the run or its process ends."""
        self._lock = os.open(self.folder.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise OutputError(
                f"another run is writing to {self.folder.parent}; wait for it, or name another folder"
            ) from error
        except OSError:  # a file system without locks
            self.close()

    def close(self) -> None:
        """Lets other runs write into the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        result = prediction.segmentation
        if not isinstance(result, Segmentation):
            return  # it is on disk already
        if not self._open:
            self._begin()
        path = self._file(name)
        path.parent.mkdir(exist_ok=True)  # of a sequence
        with replacing(path) as file:
            arrays: dict[str, Any] = {
                "labels": result.labels,
                "confidence": result.confidence,
                "ms": np.float64(prediction.ms),
                "unusable": np.array([*result.unusable.counts().values()], np.int64),
            }
            if result.scores is not None:
                arrays["scores"] = result.scores
            if (boxes := result.boxes) is not None:
                arrays |= {"boxes": boxes.boxes, "box_scores": boxes.scores, "box_classes": boxes.classes}
                arrays["boxes_ms"] = np.float64(prediction.boxes_ms)
            np.savez(file, allow_pickle=False, **arrays)

    def tiles(self, name: str) -> Path:
        """Returns the folder in which a frame is labelled tile by tile. Raises OSError where there can be none."""
        if not self._open:
            self._begin()
        return self._tiles(name)

    def _begin(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._take()
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        with replacing(self.folder / RUN) as file:
            file.write(json.dumps(self._run, indent=2).encode())
        self._open = True

    def find(self, name: str, points: int | None = None) -> Prediction | None:
        """Returns a frame's labels; None where it has none yet, or its file is damaged or of another size than said."""
        if not self._open:
            return None
        if stored := StoredSegmentation.load(self._tiles(name)):
            return Prediction(*stored)
        try:
            with np.load(self._file(name)) as file:
                labels, confidence, ms = file["labels"], file["confidence"], float(file["ms"])
                unusable = Unusable(*file["unusable"].tolist())
                scores, boxes, boxes_ms = file.get("scores"), None, 0.0
                if "boxes" in file:
                    boxes = Boxes(file["boxes"], file["box_scores"], file["box_classes"])
                    boxes_ms = float(file["boxes_ms"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None
        shape = labels.shape if points is None else (points,)
        if labels.shape != shape or confidence.shape != shape:
            return None
        return Prediction(Segmentation(labels, confidence, scores, unusable, boxes), ms, boxes_ms)

    def count(self) -> int:
        """Returns how many frames have labels."""
        return len(self.names()) if self._open else 0

    def names(self) -> list[str]:
        """Returns the names of the frames that lie in the folder, also those of a run that will be restarted."""
        files = [*self.folder.rglob("*.npz"), *(file.parent for file in self.folder.rglob(f"*{_TILES}/{RESULT}"))]
        return [str(file.relative_to(self.folder).with_suffix("")) for file in files]

    def remove(self) -> None:
        """Deletes them: the run is finished."""
        shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _tiles(self, name: str) -> Path:
        return self.folder / f"{name}{_TILES}"
