"""Draws a picture of every augmentation: the scan before and after it, from above.

python -m spvnas_ros.offline.augment.pictures [--out docs/images/augmentation]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import LabelledScan
from spvnas_ros.palettes import colour_table
from spvnas_ros.segment.picture import BACKGROUND, FAINT, PANEL, TEXT, font

_SIZE = 400
"""Edge length of a view, pixels."""
_SCALE = 2
_GAP, _HEADER = 12, 40
_COLOURS = 96
"""Number of colours in a written picture; so few colours make the file a fifth as large."""

_DARK = np.array((32, 44, 92))
"""Colour of intensity 0, still visible on the background; intensity 1 is white."""
_SCAN, _PARTNER = np.array((110, 150, 200)), np.array((255, 160, 60))

Colours = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Show:
    """How an augmentation is shown: its options, the metres to each side of the sensor, and the colours."""

    options: Mapping[str, Any] = field(default_factory=dict)
    reach: float = 25.0
    colours: str = "class"


SHOWN: Mapping[str, _Show] = {
    "rotate": _Show({"degrees": (35, 35)}),
    "scale": _Show({"factor": (1.25, 1.25)}),
    "flip": _Show({"x": 0.0, "y": 1.0}),
    "shift": _Show({"metres": (3, 3, 0)}, reach=15),
    "jitter": _Show({"sigma": 0.1, "limit": 0.3}, reach=8),
    "beam_drop": _Show({"beams": (16,)}, reach=20),
    "point_drop": _Show({"share": (0.7, 0.7)}, reach=15),
    "range_crop": _Show({"metres": (22, 22)}, reach=40),
    "intensity_scale": _Show({"factor": (1.8, 1.8)}, reach=15, colours="intensity"),
    "intensity_gamma": _Show({"gamma": (2.5, 2.5)}, reach=15, colours="intensity"),
    "intensity_noise": _Show({"sigma": 0.15}, reach=15, colours="intensity"),
    "intensity_drop": _Show(reach=15, colours="intensity"),
    "lasermix": _Show({"areas": (5,)}, reach=30, colours="origin"),
    "polarmix": _Show({"swap": 1.0}, reach=25, colours="origin"),
}
"""Every augmentation, with stronger options than in training, so that the change is visible."""


def save_pictures(out: Path, columns: int = 1800, size: int = _SIZE) -> list[Path]:
    """Writes one PNG for each augmentation into the folder `out`, and returns their paths.

    columns: of the generated scans; size: of each view, pixels
    """
    out.mkdir(parents=True, exist_ok=True)
    # All points of a scan get one instance number, so that the mixed scan shows where each point came from.
    scan, partner = _street(4, columns, instance=0), _street(9, columns, instance=1)
    return [_save(out / f"{name}.png", name, show, scan, partner, size) for name, show in SHOWN.items()]


def _street(seed: int, columns: int, instance: int) -> LabelledScan:
    points, labels = street_scan(seed, columns=columns)
    return LabelledScan(f"street {seed}", points, labels, np.full(len(labels), instance, np.uint16))


def _save(path: Path, name: str, show: _Show, scan: LabelledScan, partner: LabelledScan, size: int) -> Path:
    after = Augmentation.from_config({name: show.options})(scan, np.random.default_rng(5), lambda: partner)
    views = [("scan", scan), (name, after)]
    if show.colours == "origin":
        views.insert(1, ("partner", partner))
    picture = Image.new("RGB", (len(views) * (size + _GAP) + _GAP, size + _HEADER + _GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for place, (title, shown) in enumerate(views):
        left = _GAP + place * (size + _GAP)
        picture.paste(_from_above(shown, show, size), (left, _HEADER))
        draw.text((left, _HEADER / 2), title, TEXT, font(18), "lm")
        count = f"{len(shown):,} points".replace(",", " ")
        draw.text((left + size, _HEADER / 2), count, FAINT, font(14), "rm")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
    return path


def _from_above(scan: LabelledScan, show: _Show, size: int) -> Image.Image:
    edge = size * _SCALE
    canvas = np.full((edge, edge, 3), PANEL, np.uint8)
    colours = _colours(scan, show.colours)
    # The highest points are drawn last, because they hide the points below. Each point covers a square of pixels.
    order = np.argsort(scan.points[:, 2], kind="stable")
    pixel = ((1 - scan.points[order, :2] / show.reach) * edge / 2).astype(np.int64)
    for step in np.ndindex(2 * _SCALE - 1, 2 * _SCALE - 1):
        row, column = pixel[:, 0] + step[0], pixel[:, 1] + step[1]
        inside = (row >= 0) & (row < edge) & (column >= 0) & (column < edge)
        canvas[row[inside], column[inside]] = colours[order[inside]]
    return Image.fromarray(canvas).reduce(_SCALE)


def _colours(scan: LabelledScan, by: str) -> Colours:
    if by == "class":
        return colour_table(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)[scan.labels]
    if by == "origin":
        return np.where(scan.instances[:, None] > 0, _PARTNER, _SCAN).astype(np.uint8)
    colours: Colours = (_DARK + np.clip(scan.points[:, 3:], 0, 1) * (255 - _DARK)).astype(np.uint8)
    return colours


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the module's docstring shows."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/augmentation"), help="folder of the pictures")
    for path in save_pictures(parser.parse_args(arguments).out):
        print(path)


if __name__ == "__main__":
    main()
