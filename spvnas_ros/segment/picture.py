"""A labelled scan as a picture: from above and from the driver's seat, in class colours, with boxes and a legend.

Drawn with numpy and Pillow alone: points become small discs in a depth buffer, twice as large as the picture, are
shaded by how far their surroundings stand out in front of them (eye-dome lighting, Boucheny 2009), and are halved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from spvnas_ros.boxes.choice import SURE
from spvnas_ros.frame import UNLABELLED, Boxes, Points
from spvnas_ros.palettes import SPVNAS, Colour, box_colours, colour_table
from spvnas_ros.segment.box_lines import View, draw_boxes, write_scores

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

SIZE = (1600, 900)
RANGES = (10.0, 20.0, 50.0)
"""What the top view can show, metres to each side; the smallest one that holds nearly all points is taken."""

_SCALE = 2
MARGIN = 24
_HEADER = 64
_TOP_VIEW = 788
_DRIVER_HEIGHT = 400
_BAR_HEIGHT = 12
_LEGEND_ROW = 30

BACKGROUND = (13, 16, 23)
PANEL = (18, 22, 31)
LINES = (43, 51, 66)
TEXT = (226, 232, 240)
FAINT = (128, 140, 158)
WARNING = (255, 184, 77)

_CAMERA = (-0.08, 0.0, 0.03)
"""Behind and above the sensor, in ranges: from the sensor itself its rings would be lines, and the road a fan."""
_PITCH = np.radians(4.0)
_HORIZON = 0.2
"""Height of the horizon without pitch, from the top: a LiDAR sees little of the sky."""
_HALF_WIDTH = np.tan(np.radians(37.0))
_NEAREST, _FARTHEST = 1.0, 120.0
_DENSE = 120_000
_PAD = 8
"""Pixels around a view that take the discs of points at its edge; no disc is larger."""
_GLANCE = 3
"""How many pixels away the eye-dome lighting looks."""
_DARKEST = 0.25
_OUT_OF_SIGHT = 1e4
"""Metres; leaves NaN and infinity out too."""
_EMPTY = np.uint32(0xFFFFFFFF)
_FAR = (1 << 24) - 2

Colours = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PicturedBoxes:
    """Objects to draw, in the frame of the points.

    names:   of the classes, in index order
    trained: False where the detector has random weights
    """

    boxes: Boxes
    names: tuple[str, ...]
    trained: bool = True

    def sure(self) -> Boxes:
        """Returns those that score enough to be shown; all where none does."""
        enough = self.boxes.scores >= SURE
        return self.boxes.among(enough) if enough.any() else self.boxes


@dataclass(frozen=True)
class _Outlined:
    """Objects, and the colours of their classes."""

    boxes: Boxes
    colours: tuple[Colour, ...]


@dataclass(frozen=True)
class _Projected:
    """Points in a view: pixel, nearness order 0 (in front) to 1, radius in pixels, label."""

    column: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    depth: npt.NDArray[np.float32]
    radius: npt.NDArray[np.int64]
    label: npt.NDArray[np.uint8]


def save_picture(
    path: str | Path,
    points: Points,
    labels: npt.NDArray[np.uint8],
    facts: Facts,
    title: str = "",
    palette: str = SPVNAS,
    boxes: PicturedBoxes | None = None,
) -> None:
    """Write a PNG of 1600 x 900 pixels.

    points:  float32 `[N, 4]`, x forward, y left, z up, metres; points that are not finite are left out
    labels:  uint8 `[N]`, class indices, 255 = unlabelled (grey)
    facts:   of the network: its classes, palette, and whether it is trained
    title:   what the picture shows; without one, the network's name
    palette: name of the colours to show, one of `spvnas_ros.palettes.PALETTES`
    boxes:   objects, drawn as their outlines with the front filled, and the score where there is room; those that score
             `SURE` or more, where any does

    Raises ValueError where points and labels are not as many or for another palette, OSError where `path` cannot be
    written.
    """
    if len(points) != len(labels):
        raise ValueError(f"{len(points)} points have {len(labels)} labels, expected one each")
    colours = colour_table(facts.classes, facts.palette, palette)
    visible = (np.abs(points[:, :3]) < _OUT_OF_SIGHT).all(axis=1)
    seen, seen_labels = points[visible], labels[visible]
    picture = Image.new("RGB", SIZE, BACKGROUND)
    reach = _reach(seen)
    names = boxes.names if boxes else ()
    sure = boxes.sure() if boxes else Boxes.none()
    outlined = _Outlined(sure, box_colours(names, facts.classes, facts.palette, palette))
    _paste_top_view(picture, seen, seen_labels, colours, reach, outlined)
    _paste_driver_view(picture, seen, seen_labels, colours, reach, outlined)
    warnings = ["untrained network: labels mean nothing"] if not facts.trained else []
    if boxes is not None and not boxes.trained:
        warnings.append("untrained detector: boxes mean nothing")
    _write_header(picture, title or facts.name, len(points), "; ".join(warnings))
    _write_legend(picture, labels, facts, colours, rows_below=0 if boxes is None else 1)
    if boxes is not None:
        _write_boxes(picture, outlined, boxes.names)
    # The noise of a scan hardly compresses; a higher level takes longer and saves little.
    picture.save(path, "PNG", compress_level=4)


def _reach(points: Points) -> float:
    """Which of `RANGES` suits the scene: a room is not drawn as a dot in a street."""
    if not len(points):
        return RANGES[-1]
    most = np.percentile(np.hypot(points[:, 0], points[:, 1]), 95)
    return next((reach for reach in RANGES if most < reach), RANGES[-1])


def _paste_top_view(
    picture: Image.Image,
    points: Points,
    labels: npt.NDArray[np.uint8],
    colours: Colours,
    reach: float,
    objects: _Outlined,
) -> None:
    size = _TOP_VIEW * _SCALE
    per_metre = size / (2 * reach)
    rings = [reach / 5 * step for step in range(1, 6)]
    canvas = Image.new("RGB", (size, size), PANEL)
    draw = ImageDraw.Draw(canvas)
    for distance in rings:
        near, far = size / 2 - distance * per_metre, size / 2 + distance * per_metre
        draw.ellipse((near, near, far, far), outline=LINES, width=_SCALE)
    z = points[:, 2]
    # Percentiles: a bird or a reflection would flatten everything else.
    low, high = np.percentile(z, (1, 99)) if len(z) else (0.0, 1.0)
    view = View(np.array([[0, -per_metre, 0, size / 2], [-per_metre, 0, 0, size / 2], [0, 0, 0, 1.0]]), (size, size))
    seen = view.project(points[:, :3])
    projected = _Projected(
        seen[:, 0].astype(np.int64),
        seen[:, 1].astype(np.int64),
        np.clip((high - z) / max(high - low, 1e-3), 0, 1).astype(np.float32),
        np.full(len(points), round(2.2 * _sparsity(len(points)))),
        labels,
    )
    _draw_points(canvas, projected, colours, strength=1.6, fade=0.2)
    draw_boxes(canvas, view, objects.boxes, objects.colours, 4)
    _draw_sensor(draw, size / 2, size / 100)
    corner = (MARGIN, _HEADER + MARGIN // 2)
    _paste(picture, canvas, corner)
    labels_draw, written = ImageDraw.Draw(picture), []
    for distance in rings[:-1]:
        at = corner[1] + _TOP_VIEW / 2 - distance * per_metre / _SCALE
        where, text = (corner[0] + _TOP_VIEW / 2 + 6, at), f"{distance:.0f} m"
        labels_draw.text(where, text, TEXT, font(13), "lm", stroke_width=2, stroke_fill=PANEL)
        written.append(labels_draw.textbbox(where, text, font(13), "lm"))
    write_scores(picture, corner, view, objects.boxes, objects.colours, font(11), _SCALE, written)


def _paste_driver_view(
    picture: Image.Image,
    points: Points,
    labels: npt.NDArray[np.uint8],
    colours: Colours,
    reach: float,
    objects: _Outlined,
) -> None:
    left = 2 * MARGIN + _TOP_VIEW
    width, height = (SIZE[0] - MARGIN - left) * _SCALE, _DRIVER_HEIGHT * _SCALE
    canvas = Image.new("RGB", (width, height), PANEL)
    view = _driver_view(reach, width, height)
    seen = view.project(points[:, :3])
    near = np.flatnonzero((seen[:, 2] > _NEAREST) & (seen[:, 2] < _FARTHEST))
    column, row, forward = seen[near].T
    radius = np.clip(34.0 / forward, 2.4, 4.5) * _sparsity(len(points))
    projected = _Projected(
        (column / forward).astype(np.int64),
        (row / forward).astype(np.int64),
        (np.log(forward / _NEAREST) / np.log(_FARTHEST / _NEAREST)).astype(np.float32),
        np.rint(radius).astype(np.int64),
        labels[near],
    )
    _draw_points(canvas, projected, colours, strength=9.0, fade=0.35)
    draw_boxes(canvas, view, objects.boxes, objects.colours, 4)
    corner = (left, _HEADER + MARGIN // 2)
    _paste(picture, canvas, corner)
    write_scores(picture, corner, view, objects.boxes, objects.colours, font(13), _SCALE)


def _driver_view(reach: float, width: int, height: int) -> View:
    focal = width / 2 / _HALF_WIDTH
    cos, sin = np.cos(_PITCH), np.sin(_PITCH)
    forward, left, up = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    turned = np.array([width / 2 * forward - focal * left, height * _HORIZON * forward - focal * up, forward])
    return View(np.c_[turned, -turned @ np.array(_CAMERA) * reach], (width, height), _NEAREST, _FARTHEST)


def _sparsity(count: int) -> float:
    """How much larger discs must be for few points to close up: 1 for a 64-beam scan."""
    return float(np.clip(np.sqrt(_DENSE / max(count, 1)), 1.0, 1.8))


def _draw_points(canvas: Image.Image, points: _Projected, colours: Colours, strength: float, fade: float) -> None:
    """Discs over what is on the canvas. `strength` is that of the eye-dome lighting, `fade` darkens what is far."""
    width, height = canvas.size
    stride = width + 2 * _PAD
    nearest = _depth_buffer(points, width, height)
    inside = nearest.reshape(-1, stride)[_PAD:-_PAD, _PAD:-_PAD]
    row, column = np.nonzero(inside != _EMPTY)
    cell = (row + _PAD) * stride + column + _PAD
    depth = _depth(nearest, cell)
    behind = np.zeros(len(cell), np.float32)
    for step in (_GLANCE, -_GLANCE, _GLANCE * stride, -_GLANCE * stride):
        behind += np.maximum(depth - _depth(nearest, cell + step), 0)
    shade = np.maximum(np.exp(-strength * behind), _DARKEST) * (1 - fade * depth)
    pixels = np.array(canvas)
    pixels[row, column] = colours[(nearest[cell] & 255).astype(np.uint8)] * shade[:, None]
    canvas.paste(Image.fromarray(pixels))


def _depth_buffer(points: _Projected, width: int, height: int) -> npt.NDArray[np.uint32]:
    """Depth in the upper 24 bits and label in the lower 8 of the nearest disc, or `_EMPTY`.

    Flat, of `height` rows and `width` columns with `_PAD` more on every side.
    """
    stride = width + 2 * _PAD
    buffer = np.full((height + 2 * _PAD) * stride, _EMPTY, np.uint32)
    inside = (points.column >= 0) & (points.column < width) & (points.row >= 0) & (points.row < height)
    cell = (points.row + _PAD) * stride + points.column + _PAD
    key = (points.depth * _FAR).astype(np.uint32) << 8 | points.label
    for radius in np.unique(points.radius[inside]):
        chosen = inside & (points.radius == radius)
        cells, keys = cell[chosen], key[chosen]
        for offset in _disc(int(radius), stride):
            np.minimum.at(buffer, cells + offset, keys)
    return buffer


def _depth(buffer: npt.NDArray[np.uint32], cell: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Depth 0..1 at the cells, and a little more than 1 where nothing is."""
    return (buffer[cell] >> 8).astype(np.float32) * np.float32(1 / _FAR)


def _disc(radius: int, stride: int) -> list[int]:
    steps = range(-radius, radius + 1)
    return [dy * stride + dx for dy in steps for dx in steps if dx * dx + dy * dy < (radius + 0.5) ** 2]


def _draw_sensor(draw: ImageDraw.ImageDraw, centre: float, unit: float) -> None:
    """An arrow that points where the sensor looks."""
    shape = ((2.2, 0.0), (-1.8, 1.3), (-1.1, 0.0), (-1.8, -1.3))
    draw.polygon([(centre - y * unit, centre - x * unit) for x, y in shape], fill=TEXT)


def _paste(picture: Image.Image, canvas: Image.Image, corner: tuple[int, int]) -> None:
    picture.paste(canvas.reduce(_SCALE), corner)


def _write_header(picture: Image.Image, title: str, count: int, warning: str) -> None:
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, _HEADER / 2 + 4), title, TEXT, font(26), "lm")
    facts = f"{count:,} points".replace(",", " ")
    draw.text((SIZE[0] - MARGIN, _HEADER / 2 + 4), facts, FAINT, font(20), "rm")
    if warning:
        middle = SIZE[0] - MARGIN - draw.textlength(facts, font(20)) - 24
        draw.text((middle, _HEADER / 2 + 4), warning, WARNING, font(20), "rm")


def _write_legend(
    picture: Image.Image, labels: npt.NDArray[np.uint8], facts: Facts, colours: Colours, rows_below: int
) -> None:
    draw = ImageDraw.Draw(picture)
    left, top = 2 * MARGIN + _TOP_VIEW, _HEADER + 3 * MARGIN // 2 + _DRIVER_HEIGHT
    width = SIZE[0] - MARGIN - left
    counts = np.bincount(labels, minlength=256)
    order = np.argsort(-counts[:UNLABELLED], kind="stable").tolist()
    present = [index for index in (*order, UNLABELLED) if counts[index]]
    shown = 0
    for index in present:
        start = left + (width - 1) * shown // len(labels)
        draw.rectangle((start, top, left + width - 1, top + _BAR_HEIGHT - 1), fill=_rgb(colours[index]))
        shown += int(counts[index])
    top += _BAR_HEIGHT + MARGIN // 2
    column, room = (width + MARGIN) // 2, (SIZE[1] - MARGIN - top) // _LEGEND_ROW - rows_below
    rows = min(room, -(-len(present) // 2))
    for place, index in enumerate(present[: 2 * rows]):
        x, y = left + column * (place // rows), top + _LEGEND_ROW * (place % rows) + _LEGEND_ROW // 2
        draw.rounded_rectangle((x, y - 9, x + 18, y + 9), 5, fill=_rgb(colours[index]))
        draw.text((x + 30, y), _class_name(facts, index), TEXT, font(18), "lm")
        draw.text((x + column - MARGIN, y), _percent(int(counts[index]), len(labels)), FAINT, font(18), "rm")


def _write_boxes(picture: Image.Image, objects: _Outlined, names: Sequence[str]) -> None:
    """A line at the bottom of the legend: how many boxes of each class are drawn."""
    draw = ImageDraw.Draw(picture)
    left, right, y = 2 * MARGIN + _TOP_VIEW, SIZE[0] - MARGIN, SIZE[1] - MARGIN - _LEGEND_ROW // 2
    draw.line((left, y - 22, right, y - 22), LINES)
    counts = np.bincount(objects.boxes.classes, minlength=256).tolist()
    entries = [(f"{name} {counts[i]}", objects.colours[i]) for i, name in enumerate(names) if counts[i]]
    x = left
    if not entries:
        draw.text((x, y), "no boxes", FAINT, font(18), "lm")
    for number, (text, colour) in enumerate(entries):
        width = 30 + draw.textlength(text, font(18)) + MARGIN
        if x + width > right:
            draw.text((x, y), f"and {len(entries) - number} more classes", FAINT, font(18), "lm")
            return
        draw.rounded_rectangle((x, y - 9, x + 18, y + 9), 2, outline=colour, width=3)
        draw.text((x + 30, y), text, TEXT, font(18), "lm")
        x += int(width)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part >= whole / 1000 else "< 0.1%"


def _rgb(colour: Colours) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _class_name(facts: Facts, index: int) -> str:
    if index < len(facts.classes):
        return facts.classes[index]
    return "unlabelled" if index == UNLABELLED else f"class {index}"


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The pictures' font; comes with Pillow, so that they look the same everywhere."""
    return ImageFont.load_default(size)
