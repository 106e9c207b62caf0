"""A confusion matrix as a picture: where the points of each class went, and the IoU beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spvnas_ros.offline.evaluation.metrics import Score
from spvnas_ros.palettes import SPVNAS, UNLABELLED_COLOUR, Colour, shown
from spvnas_ros.segment.picture import BACKGROUND, FAINT, LINES, MARGIN, PANEL, TEXT, WARNING, font

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts

WIDTH = 1600

_HEADER = 64
_NAMES = 190
_HEADS = 150
_SQUARE = 920
"""Edge of the matrix, pixels; fewer classes get larger cells, up to a limit."""
_LARGEST_CELL = 92
_GAP = 36
_FOOTER = 56
_RIGHT, _WRONG = (74, 222, 128), (248, 113, 113)
_FAINTEST = 0.005
"""Shares that would be written 0 are left out."""


def save_confusion(
    path: str | Path,
    score: Score,
    facts: Facts,
    title: str = "",
    palette: str = SPVNAS,
    *,
    boxes_only: bool = False,
) -> None:
    """Write a PNG, 1600 pixels wide: rows are the truth, columns what the network says, in percent of the row.

    palette: name of the colours to show, one of `spvnas_ros.palettes.PALETTES`

    The IoU of each class stands beside its row; its recall where only points in boxes have a truth. A class that does
    not occur in the truth has an empty row.

    Raises ValueError where the score is not of the network's classes, OSError where `path` cannot be written.
    """
    if tuple(score.iou) != facts.classes:
        raise ValueError(f"the score is of classes {tuple(score.iou)}, the network has {facts.classes}")
    counts = np.array(score.confusion, np.int64)
    columns = counts.shape[1] if score.unlabelled else counts.shape[1] - 1
    cell = min(_SQUARE // columns, _LARGEST_CELL)
    picture = Image.new("RGB", (WIDTH, _HEADER + _HEADS + cell * len(counts) + _FOOTER), BACKGROUND)
    words = (
        f"recall in boxes {_percent(score.mean_recall)}"
        if boxes_only
        else f"mIoU {_percent(score.miou)}   accuracy {_percent(score.accuracy)}"
    )
    _write_header(picture, title or facts.name, words, facts.trained)
    left, top = MARGIN + _NAMES, _HEADER + _HEADS
    colours = shown(facts.classes, facts.palette, palette)
    _write_names(picture, facts, colours, (left, top), cell, columns)
    _draw_cells(picture, counts[:, :columns], (left, top), cell)
    shares = ("recall", score.recall) if boxes_only else ("IoU", score.iou)
    _draw_scores(picture, *shares, colours, (left + cell * columns + _GAP, top), cell)
    caption = "rows: truth, columns: what the network says, percent of the points of the row's class"
    draw = ImageDraw.Draw(picture)
    draw.text((left, picture.height - _FOOTER / 2), caption, FAINT, font(16), "lm")
    picture.save(path, "PNG")


def _write_header(picture: Image.Image, title: str, facts: str, trained: bool) -> None:
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, _HEADER / 2 + 4), title, TEXT, font(26), "lm")
    draw.text((WIDTH - MARGIN, _HEADER / 2 + 4), facts, FAINT, font(20), "rm")
    if not trained:
        middle = WIDTH - MARGIN - draw.textlength(facts, font(20)) - 24
        draw.text((middle, _HEADER / 2 + 4), "untrained network", WARNING, font(20), "rm")


def _write_names(
    picture: Image.Image,
    facts: Facts,
    palette: Sequence[Colour],
    corner: tuple[int, int],
    cell: int,
    columns: int,
) -> None:
    names = [*facts.classes, "unlabelled"][:columns]
    colours = [*palette, UNLABELLED_COLOUR][:columns]
    draw = ImageDraw.Draw(picture)
    left, top = corner
    size = _text_size(cell)
    for index, (name, colour) in enumerate(zip(facts.classes, palette, strict=True)):
        middle = top + cell * index + cell // 2
        draw.rounded_rectangle((left - 26, middle - 8, left - 10, middle + 8), 4, fill=colour)
        draw.text((left - 36, middle), name, TEXT, font(size), "rm")
    # Pillow writes level only: the heads are written on a canvas of their own, which is turned.
    heads = Image.new("RGB", (_HEADS, cell * columns), BACKGROUND)
    draw = ImageDraw.Draw(heads)
    for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
        middle = cell * index + cell // 2
        draw.rounded_rectangle((10, middle - 8, 26, middle + 8), 4, fill=colour)
        draw.text((36, middle), name, TEXT, font(size), "lm")
    picture.paste(heads.transpose(Image.Transpose.ROTATE_90), (left, top - _HEADS))


def _draw_cells(picture: Image.Image, counts: npt.NDArray[np.int64], corner: tuple[int, int], cell: int) -> None:
    draw = ImageDraw.Draw(picture)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for (row, column), share in np.ndenumerate(shares):
        x, y = corner[0] + cell * column, corner[1] + cell * row
        # The root lets small confusions be seen.
        colour = _blend(PANEL, _RIGHT if row == column else _WRONG, float(np.sqrt(share)))
        draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=colour)
        if share >= _FAINTEST:
            ink = BACKGROUND if share > 0.35 else TEXT
            draw.text((x + cell / 2 - 1, y + cell / 2 - 1), f"{100 * share:.0f}", ink, font(_text_size(cell)), "mm")


def _draw_scores(
    picture: Image.Image,
    name: str,
    shares: Mapping[str, float | None],
    palette: Sequence[Colour],
    corner: tuple[int, int],
    cell: int,
) -> None:
    """A bar of IoU or recall in the class's colour beside each row."""
    draw = ImageDraw.Draw(picture)
    left, top = corner
    right = WIDTH - MARGIN - 70
    draw.text((left, top - 16), name, TEXT, font(18), "lm")
    for index, (value, colour) in enumerate(zip(shares.values(), palette, strict=True)):
        y, half = top + cell * index + (cell - 2) // 2, min(cell, 46) // 4
        draw.rounded_rectangle((left, y - half, right, y + half), 4, fill=PANEL, outline=LINES)
        if value:
            end = left + max((right - left) * value, 4)
            draw.rounded_rectangle((left, y - half, end, y + half), 4, fill=colour)
        written = "absent" if value is None else _percent(value)
        draw.text((WIDTH - MARGIN, y), written, FAINT if value is None else TEXT, font(17), "rm")


def _text_size(cell: int) -> int:
    return int(np.clip(cell * 0.37, 8, 18))


def _blend(low: Sequence[int], high: Sequence[int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
