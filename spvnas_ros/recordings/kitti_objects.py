"""Reads and writes the text files of KITTI's object benchmark: labels, results and calibrations.

Format: the readme of the object development kit, https://www.cvlibs.net/datasets/kitti/eval_object.php. A line is an
object: kind, truncation, occlusion, alpha, rectangle in the picture (4), height, width, length, place of the bottom's
centre in the rectified camera's frame (3), rotation_y; results have a score behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import from_kitti_camera, image_boxes, observation_angle, to_kitti_camera
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.recordings.files import replacing

_Doubles = npt.NDArray[np.float64]

DONT_CARE: Final = "DontCare"
"""The kind of a region of the picture in which nobody labelled the objects. It has no box."""
KINDS: Final = (
    "Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc", DONT_CARE,
)  # fmt: skip
"""What an object can be; case does not count."""
NO_ANGLE: Final = -10.0
"""Alpha and rotation_y of an object whose angle is not known."""
_NO_SIZE, _NO_PLACE = -1.0, -1000.0
_FIELDS: Final = (
    "truncation", "occlusion", "alpha", "left", "top", "right", "bottom", "height", "width", "length", "x", "y", "z",
    "rotation_y", "score",
)  # fmt: skip
_CAMERA = (10, 11, 12, 9, 7, 8, 13)
"""The columns of `KittiObjects.camera` among `_FIELDS`."""


class KittiFileError(UserError):
    """A file that is none of KITTI's. The message names file and line, what was found and what was expected."""


@dataclass(frozen=True)
class KittiObjects:
    """The lines of a file, in the order of the file.

    kinds:      KITTI's word for each, such as `Car`
    truncation: float64 `[N]`, share outside the picture; -1 = not known
    occlusion:  int64 `[N]`, 0 fully visible, 1 partly, 2 largely occluded, 3 unknown; -1 = not known
    alpha:      float64 `[N]`, angle at which the camera sees it, radians; -10 = not known
    rectangles: float64 `[N, 4]`, left, top, right, bottom in the picture, pixels
    camera:     float64 `[N, 7]`: x, y, z of the bottom's centre in the camera's frame (x right, y down, z ahead),
                length, height, width, metres, and rotation_y, radians from x towards -z. Where there is no box, sizes
                are 0
    scores:     float64 `[N]`, larger = surer, any range; 0 for labels
    """

    kinds: tuple[str, ...]
    truncation: _Doubles
    occlusion: npt.NDArray[np.int64]
    alpha: _Doubles
    rectangles: _Doubles
    camera: _Doubles
    scores: _Doubles

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def has_box(self) -> npt.NDArray[np.bool_]:
        """Which objects have a box in space, bool `[N]`: the others are known in the picture alone."""
        there: npt.NDArray[np.bool_] = self.camera[:, 3:6].min(1) > 0
        return there


@dataclass(frozen=True)
class KittiCalibration:
    """Where camera and sensor are.

    camera_from_lidar: float64 `[4, 4]`, from the sensor's frame to the rectified camera's
    projection:        float64 `[3, 4]`, from there to the left colour picture (P2); None where the file has none
    """

    camera_from_lidar: _Doubles
    projection: _Doubles | None


def read_objects(path: Path, *, scored: bool, kinds: Collection[str] | None = KINDS) -> KittiObjects:
    """Reads a file of labels, or of results where `scored`.

    kinds: what an object can be; None for anything

    Raises KittiFileError that names file and line: for words that are too few or too many, that are no numbers or not
    finite, negative sizes, a rectangle whose right is left of its left, and other kinds. Raises OSError where the file
    cannot be read.
    """
    known = None if kinds is None else {kind.lower() for kind in kinds}
    words_expected = len(_FIELDS) + scored
    names, rows = [], []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}, line {number}"
        # A score in a file of labels is read over: it is somebody's result that serves as truth.
        if len(words) != words_expected and (scored or len(words) != words_expected + 1):
            hint = "; results need a score, the 16th word" if scored and len(words) == words_expected - 1 else ""
            raise KittiFileError(f"{where} has {len(words)} words, expected {words_expected}{hint}: {line.strip()!r}")
        if known is not None and words[0].lower() not in known:
            raise KittiFileError(f"{where} has the class {words[0]!r}, expected one of {', '.join(kinds or ())}")
        row = numbers(where, words[1:words_expected])
        _check(where, words[0], row)
        names.append(words[0])
        rows.append(row if scored else [*row, 0.0])
    table = np.array(rows, np.float64).reshape(-1, len(_FIELDS))
    camera = table[:, _CAMERA]
    camera[(camera[:, 3:6] < 0).any(1), 3:6] = 0
    return KittiObjects(
        tuple(names), table[:, 0], table[:, 1].astype(np.int64), table[:, 2], table[:, 3:7], camera, table[:, 14]
    )


def write_results(path: Path, objects: KittiObjects) -> None:
    """Writes a file of results; whole, or not at all. Raises OSError where it cannot be written."""
    lines = []
    for index, kind in enumerate(objects.kinds):
        x, y, z, length, height, width, turn = objects.camera[index]
        row = [objects.alpha[index], *objects.rectangles[index], height, width, length, x, y, z, turn]
        # Truncation and occlusion of a result are not known. Four decimals are a tenth of a millimetre.
        lines.append(f"{kind} -1 -1 {' '.join(f'{value:.4f}' for value in row)} {objects.scores[index]:.6f}\n")
    with replacing(path) as file:
        file.write("".join(lines).encode("ascii"))


def results(
    boxes: Boxes, classes: Sequence[str], calibration: KittiCalibration, picture: tuple[int, int]
) -> KittiObjects:
    """Returns boxes in the sensor's frame as KITTI's results: those that the picture shows, at least in part.

    classes: KITTI's word for each class index
    picture: its width and height, pixels

    Raises KittiFileError where the calibration has no P2.
    """
    if calibration.projection is None:
        raise KittiFileError("the calibration has no P2, which says where in the picture the boxes are")
    camera = to_kitti_camera(boxes.boxes, calibration.camera_from_lidar)
    rectangles = image_boxes(camera, calibration.projection, picture)
    shown = (rectangles[:, 2] > rectangles[:, 0]) & (rectangles[:, 3] > rectangles[:, 1])
    camera, found = camera[shown], boxes.among(shown)
    return KittiObjects(
        tuple(classes[index] for index in found.classes),
        np.full(len(found), -1.0),
        np.full(len(found), -1, np.int64),
        observation_angle(camera),
        rectangles[shown],
        camera,
        found.scores.astype(np.float64),
    )


def lidar_boxes(objects: KittiObjects, calibration: KittiCalibration) -> _Doubles:
    """Returns the boxes `[N, 7]` of objects in the sensor's frame, as in `spvnas_ros.frame.Boxes`."""
    return from_kitti_camera(objects.camera, calibration.camera_from_lidar)


def read_calibration(path: Path) -> KittiCalibration:
    """Reads a calibration. Raises KittiFileError that names the file and the line where it is none, OSError where it
    cannot be read.
    """
    found = {
        line.split(":", 1)[0].strip(): (number, line.split(":", 1)[1].split())
        for number, line in enumerate(_text(path).splitlines(), start=1)
        if ":" in line
    }
    rectify = _matrix(path, found, "R0_rect", 3)
    velo_to_cam = _matrix(path, found, "Tr_velo_to_cam", 4)
    for name, matrix in (("R0_rect", rectify), ("Tr_velo_to_cam", velo_to_cam)):
        turn = matrix[:3, :3]
        if np.abs(turn @ turn.T - np.eye(3)).max() > 0.05 or np.linalg.det(turn) < 0:
            raise KittiFileError(
                f"{path}, line {found[name][0]}: {name} is no rotation; expected a calibration of KITTI"
            )
    projection = _matrix(path, found, "P2", 4)[:3] if "P2" in found else None
    return KittiCalibration(rectify @ velo_to_cam, projection)


def numbers(where: str, words: Sequence[str]) -> list[float]:
    """Returns words as numbers. Raises KittiFileError that says `where` a word is none, or not finite."""
    found = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            raise KittiFileError(f"{where} has {word!r}, expected a number") from None
        if not np.isfinite(value):
            raise KittiFileError(f"{where} has {word}, expected a finite number")
        found.append(value)
    return found


def _matrix(path: Path, found: dict[str, tuple[int, list[str]]], name: str, columns: int) -> _Doubles:
    """Returns a matrix of three rows, filled up to `[4, 4]`."""
    if name not in found:
        raise KittiFileError(f"{path} has no line {name!r}; expected a calibration of KITTI's object benchmark")
    number, words = found[name]
    where = f"{path}, line {number}"
    values = numbers(where, words)
    if len(values) != 3 * columns:
        raise KittiFileError(f"{where} has {len(values)} numbers for {name}, expected {3 * columns}")
    matrix = np.eye(4)
    matrix[:3, :columns] = np.reshape(values, (3, columns))
    return matrix


def _check(where: str, kind: str, row: Sequence[float]) -> None:
    """Raises KittiFileError for an object that cannot be."""
    if kind.lower() == DONT_CARE.lower():
        return
    value = dict(zip(_FIELDS, row, strict=False))
    sizes = {name: value[name] for name in ("height", "width", "length")}
    in_picture_only = all(size == _NO_SIZE for size in sizes.values()) and _NO_PLACE in (value["x"], value["z"])
    for name, size in sizes.items():
        if size < 0 and not in_picture_only:
            raise KittiFileError(f"{where} has the {name} {size:g}, expected a size of 0 or more")
    for low, high in (("left", "right"), ("top", "bottom")):
        if value[high] < value[low]:
            raise KittiFileError(
                f"{where} has {low} {value[low]:g} and {high} {value[high]:g}, expected {low} to be the smaller one"
            )


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except UnicodeDecodeError as error:
        raise KittiFileError(f"{path}: cannot be read as text: {error}") from error
