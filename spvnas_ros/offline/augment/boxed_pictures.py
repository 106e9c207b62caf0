"""Draws a picture of every augmentation of scans with boxes: the scan before and after it, from above.

python -m spvnas_ros.offline.augment.boxed_pictures [--out docs/images/augmentation]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from spvnas_ros.boxes.conversions import box_corners
from spvnas_ros.boxes.inside import counts_inside
from spvnas_ros.engine.sample_street import street_boxes, street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.augment.boxed_objects import build_database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.datasets.boxed import BoxedScan
from spvnas_ros.palettes import colour_table
from spvnas_ros.recordings.object_tables import Objects
from spvnas_ros.segment.picture import BACKGROUND, FAINT, PANEL, TEXT, font

_SIZE = 400
"""Edge length of a view, pixels."""
_SCALE = 2
_GAP, _HEADER = 12, 40
_COLOURS = 96
_REACH = 25.0
"""Metres to each side of the sensor."""
_OWN, _NEW = (255, 255, 255), (255, 160, 60)
"""Colours of the boxes that the scan has, and of those that come from others."""

SHOWN_BOXED: Mapping[str, Mapping[str, Any]] = {
    "sample_objects": {"counts": {"car": 20, "person": 12}, "min_points": 10},
    "object_noise": {"metres": (1.5, 1.5, 0.2)},
    "rotate": {"degrees": (35, 35)},
    "scale": {"factor": (1.25, 1.25)},
    "flip": {"y": 1.0},
    "shift": {"metres": (5, 5, 0)},
    "lasermix": {"areas": (5,)},
    "polarmix": {"swap": 1.0},
}
"""Every augmentation that changes boxes, with stronger options than in training, so that the change is visible."""


def street(seed: int, columns: int = 1800) -> BoxedScan:
    """Returns a generated scan with the boxes of its cars and persons: those that have points."""
    points, labels = street_scan(seed, columns=columns)
    boxes, classes = street_boxes(seed)
    kinds = tuple(SEMANTIC_KITTI.classes[label] for label in classes)
    objects = Objects(kinds, boxes, counts_inside(points, boxes), np.zeros(len(boxes), np.int64))
    return BoxedScan(f"street {seed}", points, objects.among(objects.counts > 0), labels)


def save_pictures(out: Path, columns: int = 1800, size: int = _SIZE) -> list[Path]:
    """Writes one PNG for each augmentation into the folder `out`, and returns their paths.

    columns: of the generated scans; size: of each view, pixels
    """
    out.mkdir(parents=True, exist_ok=True)
    scan, partner = street(4, columns), street(9, columns)
    database = build_database(street(seed, columns) for seed in range(9, 15))
    paths = []
    for name, options in SHOWN_BOXED.items():
        augment = BoxedAugmentation.from_config({name: options})
        after = augment(scan, np.random.default_rng(5), database, lambda: partner)
        stayed = (after.objects.boxes[:, None] == scan.objects.boxes).all(2).any(1).sum()
        own = int(stayed) if augment.mixes else len(scan.objects)
        picture = Image.new("RGB", (2 * (size + _GAP) + _GAP, size + _HEADER + _GAP), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        for place, (title, shown, first) in enumerate((("scan", scan, len(scan.objects)), (name, after, own))):
            left = _GAP + place * (size + _GAP)
            picture.paste(_from_above(shown, first, size), (left, _HEADER))
            draw.text((left, _HEADER / 2), title, TEXT, font(18), "lm")
            draw.text((left + size, _HEADER / 2), f"{len(shown.objects)} objects", FAINT, font(14), "rm")
        paths.append(out / f"boxed_{name}.png")
        picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(paths[-1], "PNG", optimize=True)
    return paths


def _from_above(scan: BoxedScan, own: int, size: int) -> Image.Image:
    """Returns the view; the first `own` boxes are the scan's own."""
    assert scan.labels is not None
    edge = size * _SCALE
    canvas = np.full((edge, edge, 3), PANEL, np.uint8)
    colours = colour_table(SEMANTIC_KITTI.classes, SEMANTIC_KITTI.palette)[scan.labels]
    # The highest points are drawn last, because they hide the points below.
    order = np.argsort(scan.points[:, 2], kind="stable")
    pixel = _pixels(scan.points[order, :2], edge).astype(np.int64)
    for step in np.ndindex(2 * _SCALE - 1, 2 * _SCALE - 1):
        row, column = pixel[:, 1] + step[0], pixel[:, 0] + step[1]
        inside = (row >= 0) & (row < edge) & (column >= 0) & (column < edge)
        canvas[row[inside], column[inside]] = colours[order[inside]]
    view = Image.fromarray(canvas)
    draw = ImageDraw.Draw(view)
    for number, box in enumerate(scan.objects.boxes):
        colour = _OWN if number < own else _NEW
        corners = _pixels(box_corners(box[None])[0, [0, 2, 6, 4], :2], edge)
        draw.polygon([(x, y) for x, y in corners.tolist()], outline=colour, width=_SCALE)
        ahead = box[:2] + box[3] / 2 * np.array((np.cos(box[6]), np.sin(box[6])))
        ends = _pixels(np.stack((box[:2], ahead)), edge)
        draw.line([(x, y) for x, y in ends.tolist()], fill=colour, width=_SCALE)
    return view.reduce(_SCALE)


def _pixels(places: Any, edge: int) -> Any:
    """Returns x and y in the picture, `[N, 2]`, of places `[N, 2]`: ahead is up, left is left."""
    return (1 - np.asarray(places)[:, ::-1] / _REACH) * edge / 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the module's docstring shows."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/augmentation"), help="folder of the pictures")
    for path in save_pictures(parser.parse_args(arguments).out):
        print(path)


if __name__ == "__main__":
    main()
