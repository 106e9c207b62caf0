"""Boxes as lines over a picture of points: outlines with the front filled, cut to what the view shows, and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from spvnas_ros.boxes.conversions import CORNERS, box_corners
from spvnas_ros.frame import Boxes
from spvnas_ros.palettes import Colour

_Doubles = npt.NDArray[np.float64]
_EDGES: Final = [(a, b) for a in range(8) for b in range(a) if np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]
_FRONT: Final = (0, 1, 3, 2)
_ROOF: Final = (0, 2, 6, 4)
"""The corners of these faces, in order around them."""
_CASING: Final = (8, 10, 15, 190)
"""Around lines, so that they stand out from points of their own colour."""
_FAINT, _MARK = 46, 190
"""Opacity 0..255 of the filled faces, and of the arrow on the roof that points to the front."""
_SMALLEST: Final = 9.0
"""Pixels: a box that is drawn smaller has no room for a text."""
_LARGEST: Final = 1e6
"""Metres; what is larger, or farther away, is no object."""


@dataclass(frozen=True)
class View:
    """How points become pixels.

    matrix: `[3, 4]`, homogeneous: of column, row and depth
    size:   width and height, pixels
    nearest, farthest: depths between which something is shown
    """

    matrix: _Doubles
    size: tuple[int, int]
    nearest: float = 0.5
    farthest: float = 2.0

    def project(self, points: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Returns homogeneous pixels `[..., 3]` of points `[..., 3]`, in their type."""
        matrix = self.matrix.astype(points.dtype)
        seen: npt.NDArray[np.floating] = points @ matrix[:, :3].T + matrix[:, 3]
        return seen

    def margins(self, seen: npt.NDArray[np.floating]) -> _Doubles:
        """Returns how far homogeneous pixels `[..., 3]` are inside each border `[..., 6]`; negative is outside."""
        column, row, depth = np.moveaxis(seen.astype(np.float64), -1, 0)
        width, height = self.size
        sides = (column, width * depth - column, row, height * depth - row)
        return np.stack([depth - self.nearest, self.farthest - depth, *sides], -1)


def draw_boxes(canvas: Image.Image, view: View, boxes: Boxes, colours: Sequence[Colour], width: int) -> None:
    """Draws boxes over a view, the far ones first.

    colours: of the classes, by index
    width:   of the lines, pixels
    """
    draw = ImageDraw.Draw(canvas, "RGBA")
    boxes = _drawable(boxes)
    corners = view.project(box_corners(boxes.boxes))
    for index in np.lexsort((boxes.scores, -corners[:, :, 2].mean(1))).tolist():
        box, colour = corners[index], colours[boxes.classes[index]]
        front_left, front_right, rear_right, rear_left = roof = box[[*_ROOF]]
        arrow = np.array([front_left + front_right, front_left + rear_left, front_right + rear_right]) / 2
        faces = ((roof, _FAINT), (box[[*_FRONT]], _FAINT), (arrow, _MARK))
        for face, opacity in faces:
            if len(outline := _cut_face(view, face)) > 2:
                draw.polygon([tuple(pixel) for pixel in outline.tolist()], (*colour, opacity))
        lines = [line for a, b in _EDGES if (line := _cut_line(view, box[a], box[b])) is not None]
        for stroke, thick in ((_CASING, width + 4), ((*colour, 255), width)):
            for line in lines:
                draw.line(line, stroke, thick)


def write_scores(
    picture: Image.Image,
    corner: tuple[int, int],
    view: View,
    boxes: Boxes,
    colours: Sequence[Colour],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    scale: int,
    others: Sequence[tuple[float, float, float, float]] = (),
) -> None:
    """Writes the scores above boxes that were drawn, the best first, where no other text is in the way.

    corner: of the view in the picture; scale: how many of the view's pixels are one of the picture
    others: left, top, right, bottom of the texts that are there
    """
    draw = ImageDraw.Draw(picture)
    boxes = _drawable(boxes)
    boxes = boxes.among(np.argsort(-boxes.scores, kind="stable"))
    taken = [*others]
    for index, (left, top, right, bottom) in _rectangles(view, boxes):
        if max(right - left, bottom - top) / scale < _SMALLEST:
            continue
        at = (corner[0] + (left + right) / 2 / scale, corner[1] + top / scale - 3)
        text = f"{boxes.scores[index]:.2f}"
        place = draw.textbbox(at, text, font, "mb")
        inside = place[0] > corner[0] and place[1] > corner[1] and place[2] < corner[0] + view.size[0] / scale
        if inside and not any(_meet(place, other) for other in taken):
            taken.append(place)
            colour = _light(colours[boxes.classes[index]])
            draw.text(at, text, colour, font, "mb", stroke_width=2, stroke_fill=_CASING[:3])


def _rectangles(view: View, boxes: Boxes) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Yields the index of each box that lies wholly in the view, and left, top, right, bottom, pixels."""
    corners = view.project(box_corners(boxes.boxes))
    for index in np.flatnonzero((view.margins(corners) >= 0).all((1, 2))).tolist():
        pixels = corners[index, :, :2] / corners[index, :, 2:]
        (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
        yield index, (left, top, right, bottom)


def _drawable(boxes: Boxes) -> Boxes:
    return boxes.among(np.flatnonzero((np.abs(boxes.boxes) < _LARGEST).all(axis=1)))


def _cut_line(view: View, a: _Doubles, b: _Doubles) -> tuple[float, ...] | None:
    """Returns the part of a line between homogeneous pixels that the view shows, as pixels; None without any."""
    begin, end = view.margins(a), view.margins(b)
    if ((begin < 0) & (end < 0)).any():
        return None
    crossing = begin / np.where(begin == end, 1.0, begin - end)
    enter, leave = crossing[begin < 0].max(initial=0.0), crossing[end < 0].min(initial=1.0)
    if enter > leave:
        return None
    first, last = a + enter * (b - a), a + leave * (b - a)
    return (*(first[:2] / first[2]).tolist(), *(last[:2] / last[2]).tolist())


def _cut_face(view: View, face: _Doubles) -> _Doubles:
    """Returns the outline, pixels `[n, 2]`, of what the view shows of a face with homogeneous corners `[m, 3]`.

    Border by border (Sutherland and Hodgman, "Reentrant Polygon Clipping", 1974); n is 0 where it shows nothing.
    """
    for border in range(6):
        margins = view.margins(face)[:, border] if len(face) else np.zeros(0)
        kept: list[_Doubles] = []
        for index in range(len(face)):
            before, after = margins[index - 1], margins[index]
            if (before < 0) != (after < 0):
                kept.append(face[index - 1] + before / (before - after) * (face[index] - face[index - 1]))
            if after >= 0:
                kept.append(face[index])
        face = np.array(kept).reshape(-1, 3)
    return face[:, :2] / face[:, 2:]


def _meet(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _light(colour: Colour) -> Colour:
    """Halfway to white: dark classes could not be read."""
    red, green, blue = ((value + 255) // 2 for value in colour)
    return red, green, blue
