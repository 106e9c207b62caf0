"""Draws real and simulated scans: histograms class by class, and both scans unrolled as the sensor sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.scan import LabelledScan
from spvnas_ros.offline.simulation.compare import EDGES, ClassMeasures, Measures
from spvnas_ros.palettes import colour_table
from spvnas_ros.segment.picture import BACKGROUND, FAINT, MARGIN, PANEL, TEXT, font

_CELL = (300, 84)
_NAME = 150
_HEADER = 76
_REAL, _SIMULATED = (96, 165, 250), (251, 146, 60)

_COLUMNS, _ROWS = 1800, 64
_STRETCH = 4
"""Height of a row in pixels. The angle between two rows is larger than that between two columns."""
_STRIP = 30


def save_histograms(path: Path, real: Measures, simulated: Measures) -> None:
    """Writes a PNG: range, height and intensity of each class, real (blue, filled) and simulated (orange, a line)."""
    width = 2 * MARGIN + _NAME + len(EDGES) * (_CELL[0] + MARGIN)
    picture = Image.new("RGB", (width, _HEADER + len(real.classes) * (_CELL[1] + 12) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 24), "real", _REAL, font(22), "lm")
    draw.text((MARGIN + 60, 24), "simulated", _SIMULATED, font(22), "lm")
    for column, (kind, edges) in enumerate(EDGES.items()):
        left = MARGIN + _NAME + column * (_CELL[0] + MARGIN)
        unit = "" if kind == "intensity" else " m"
        draw.text((left, 56), f"{kind}, {edges[0]:g} to {edges[-1]:g}{unit}", FAINT, font(17), "lm")
    for row, name in enumerate(real.classes):
        top = _HEADER + row * (_CELL[1] + 12)
        draw.text((MARGIN, top + _CELL[1] / 2), name, TEXT, font(17), "lm")
        for column, kind in enumerate(EDGES):
            corner = (MARGIN + _NAME + column * (_CELL[0] + MARGIN), top)
            _draw_cell(draw, corner, kind, real.classes[name], simulated.classes[name])
    picture.save(path, "PNG")


def _draw_cell(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], kind: str, real: ClassMeasures, simulated: ClassMeasures
) -> None:
    left, top = corner
    width, height = _CELL
    draw.rectangle((left, top, left + width, top + height), fill=PANEL)
    shares = [one.histograms[kind] / max(one.histograms[kind].sum(), 1) for one in (real, simulated)]
    most = max(float(np.max(shares)), 1e-9)
    step = width / len(shares[0])
    for index, share in enumerate(shares[0]):
        if share > 0:
            tall = (height - 6) * share / most
            draw.rectangle((left + index * step, top + height - tall, left + (index + 1) * step, top + height), _REAL)
    line = []
    for index, share in enumerate(shares[1]):
        y = top + height - (height - 6) * share / most
        line += [(left + index * step, y), (left + (index + 1) * step, y)]
    draw.line(line, fill=_SIMULATED, width=3)


def save_panoramas(path: Path, scans: dict[str, LabelledScan], label_map: LabelMap) -> None:
    """Writes a PNG: each scan unrolled around the sensor, once by class and once by intensity.

    scans: title -> scan of a sensor with 64 beams or fewer
    """
    tall = _ROWS * _STRETCH
    class_colours = colour_table(label_map.classes, label_map.palette)
    picture = Image.new("RGB", (_COLUMNS, 2 * len(scans) * (tall + _STRIP)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    top = 0
    for kind in ("classes", "intensity"):
        for title, scan in scans.items():
            draw.text((MARGIN, top + _STRIP / 2), f"{title}, {kind}", TEXT, font(18), "lm")
            colours = class_colours[scan.labels] if kind == "classes" else _greys(scan.points[:, 3])
            image = Image.fromarray(_unrolled(scan, colours)).resize((_COLUMNS, tall), Image.Resampling.NEAREST)
            picture.paste(image, (0, top + _STRIP))
            top += tall + _STRIP
    picture.save(path, "PNG")


def _greys(intensity: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    level = (np.clip(intensity * 1.6, 0, 1) * 225 + 30).astype(np.uint8)
    return np.repeat(level[:, None], 3, axis=1)


def _unrolled(scan: LabelledScan, colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns colours `[64, 1800, 3]` by elevation and azimuth, ahead in the middle. The nearest point is shown."""
    x, y, z = scan.points[:, 0], scan.points[:, 1], scan.points[:, 2]
    distance = np.linalg.norm(scan.points[:, :3], axis=1)
    elevation = np.degrees(np.arctan2(z, np.hypot(x, y)))
    low, high = np.percentile(elevation, (0.5, 99.5))
    row = np.clip((high - elevation) / max(high - low, 1e-6) * (_ROWS - 1), 0, _ROWS - 1).astype(np.int64)
    column = ((np.pi - np.arctan2(y, x)) / (2 * np.pi) * _COLUMNS).astype(np.int64) % _COLUMNS
    image = np.zeros((_ROWS, _COLUMNS, 3), np.uint8)
    far_first = np.argsort(-distance, kind="stable")
    image[row[far_first], column[far_first]] = colours[far_first]
    return image
