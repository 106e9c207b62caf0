"""Curves of precision over recall as a picture: a row for each class, a panel for each metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from spvnas_ros.offline.evaluation.box_ap import Ap
from spvnas_ros.offline.evaluation.kitti.curves import METRICS, Figure
from spvnas_ros.segment.picture import BACKGROUND, FAINT, LINES, MARGIN, PANEL, TEXT, font

WIDTH: Final = 1600
_HEADER, _FOOTER, _TITLE, _NAMES = 64, 44, 34, 24
_PLOT = 250
"""Height of a panel, pixels."""
_GAP = 26
_HUES = ((98, 165, 255), (255, 184, 77), (248, 113, 113), (165, 239, 117))
"""Of the curves in a panel: difficulties from easy to hard, or distances from small to large."""
_SCALE = 2
"""Curves are drawn so much larger and made smaller again, which smooths them."""
_WORDS = {"bbox": "rectangles", "aos": "orientation", "bev": "from above", "3d": "in space"}


def save_curves(path: str | Path, kitti: Sequence[Figure], around: Sequence[Ap], title: str) -> None:
    """Writes a PNG, 1600 pixels wide: for each class KITTI's four metrics by difficulty, where there are any, and AP by
    distance of centres.

    A dashed line in a curve's colour stands where few objects end the recalls that KITTI's figures can reach. Raises
    OSError where `path` cannot be written.
    """
    kinds = tuple(dict.fromkeys([*(figure.kind for figure in kitti), *(ap.kind for ap in around)]))
    metrics = METRICS if kitti else ()
    row = _TITLE + _PLOT + _NAMES + _GAP
    picture = Image.new("RGB", (WIDTH, _HEADER + row * len(kinds) + _FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, _HEADER / 2 + 4), title, TEXT, font(26), "lm")
    draw.text((WIDTH - MARGIN, _HEADER / 2 + 4), "precision over recall; AP in percent", FAINT, font(18), "rm")
    width = (WIDTH - 2 * MARGIN - _GAP * len(METRICS)) // (len(METRICS) + 1)
    for number, kind in enumerate(kinds):
        top = _HEADER + row * number
        for column, metric in enumerate(metrics):
            left = MARGIN + column * (width + _GAP)
            figures = [f for f in kitti if (f.kind, f.metric) == (kind, metric)]
            _panel(picture, (left, top), width, f"{kind} {_WORDS[metric]} R40", *_of_kitti(figures))
        left = MARGIN + len(metrics) * (width + _GAP)
        whole = [ap for ap in around if ap.kind == kind and not ap.begin and ap.end is None]
        lines = [_Line(ap.criterion.removesuffix(" m"), ap.precision if ap.objects else None, ap.ap) for ap in whole]
        _panel(picture, (left, top), width, f"{kind} centres, metres apart", lines, "no object")
    legend = "Dashed: so few objects reach no recall beyond it, whatever is found."
    draw.text((MARGIN, picture.height - _FOOTER / 2), legend, FAINT, font(16), "lm")
    picture.save(path, "PNG")


@dataclass(frozen=True)
class _Line:
    """A curve: its name, precision (None where there is none), AP, and the recall where few objects end it."""

    name: str
    precision: tuple[float, ...] | None
    ap: float | None
    end: float | None = None


def _of_kitti(figures: Sequence[Figure]) -> tuple[list[_Line], str]:
    """Returns the lines of a panel, and why there are none."""
    lines = []
    for figure in figures:
        curve = figure.curve
        if curve is None:
            lines.append(_Line(figure.difficulty, None, None))
            continue
        few = curve.reachable < len(curve.precision)
        end = max(curve.reachable - 1, 0) / (len(curve.precision) - 1) if few else None
        lines.append(_Line(figure.difficulty, curve.precision, curve.r40, end))
    return lines, next((figure.reason for figure in figures if figure.reason), "")


def _panel(
    picture: Image.Image, corner: tuple[int, int], width: int, title: str, lines: Sequence[_Line], reason: str
) -> None:
    left, top = corner
    draw = ImageDraw.Draw(picture)
    draw.text((left, top + _TITLE / 2), title, TEXT, font(16), "lm")
    plot = Image.new("RGB", (width * _SCALE, _PLOT * _SCALE), PANEL)
    _draw_curves(plot, lines)
    picture.paste(plot.resize((width, _PLOT), Image.Resampling.LANCZOS), (left, top + _TITLE))
    if all(line.precision is None for line in lines):
        draw.text((left + width / 2, top + _TITLE + _PLOT / 2), _broken(reason), FAINT, font(14), "mm", align="center")
    x, y = float(left), top + _TITLE + _PLOT + _NAMES / 2
    for hue, line in zip(_HUES, lines, strict=False):
        draw.rounded_rectangle((x, y - 5, x + 10, y + 5), 3, fill=hue)
        written = f"{line.name} -" if line.ap is None else f"{line.name} {line.ap:.1f}"
        draw.text((x + 14, y), written, FAINT if line.ap is None else TEXT, font(12), "lm")
        x += 14 + draw.textlength(written, font(12)) + 8


def _draw_curves(plot: Image.Image, lines: Sequence[_Line]) -> None:
    draw = ImageDraw.Draw(plot)
    width, height = plot.width - 1, plot.height - 1
    for share in (0.25, 0.5, 0.75):
        draw.line((0, height * share, width, height * share), LINES, _SCALE)
        draw.line((width * share, 0, width * share, height), LINES, _SCALE)
    for number, (hue, line) in enumerate(zip(_HUES, lines, strict=False)):
        if line.precision is None:
            continue
        recalls = np.linspace(0, 1, len(line.precision))
        points = [(width * x, height * (1 - y)) for x, y in zip(recalls.tolist(), line.precision, strict=True)]
        draw.line(points, hue, 2 * _SCALE, "curve")
        if line.end is not None:
            # Shifted against each other: two ends at one recall are both seen.
            for y in range(number * 8 * _SCALE, height, 24 * _SCALE):
                draw.line((width * line.end, y, width * line.end, y + 6 * _SCALE), hue, _SCALE)


def _broken(text: str) -> str:
    """Breaks a sentence so that it fits into a panel."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > 30:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
