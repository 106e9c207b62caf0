"""The networks of a search as a picture: mIoU over cost, the front, and the uniformly narrowed networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from spvnas_ros.offline.search.budget import Cost
from spvnas_ros.offline.search.evolution import UNIFORM, Scored, front
from spvnas_ros.segment.picture import BACKGROUND, FAINT, LINES, MARGIN, PANEL, TEXT, font

SIZE: Final = (1200, 760)
_LEFT, _TOP, _BOTTOM = 96, 64, 84
_TRIED, _BEST, _NARROW = (76, 92, 120), (98, 165, 255), (255, 184, 77)
_SCALE = 2
"""The picture is drawn so much larger and made smaller again, which smooths it."""
_TICKS = 6


def save_front(
    path: Path, found: Sequence[Scored], cost: Callable[[Cost], float], unit: str, title: str, limits: Sequence[float]
) -> None:
    """Writes a PNG, 1200 x 760. Raises OSError where `path` cannot be written.

    cost:   of a network, in `unit`
    limits: costs that are marked by a line
    """
    width, height = (side * _SCALE for side in SIZE)
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    costs = np.array([cost(each.trial.cost) for each in found])
    scores = np.array([100 * each.score for each in found])
    # What is far below the front would press the front itself into a line.
    narrow = [100 * each.score for each in found if each.trial.origin == UNIFORM]
    low = min([float(np.quantile(scores, 0.05)), *narrow])
    x_range, y_range = _padded([*costs, *limits]), _padded([low, float(scores.max())])
    area = (_LEFT * _SCALE, _TOP * _SCALE, width - MARGIN * _SCALE, height - _BOTTOM * _SCALE)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_range[0]) / np.ptp(x_range), (max(y, y_range[0]) - y_range[0]) / np.ptp(y_range)
        return area[0] + across * (area[2] - area[0]), area[3] - up * (area[3] - area[1])

    draw.rectangle(area, PANEL)
    small, large = font(17 * _SCALE), font(26 * _SCALE)
    for value in _ticks(x_range):
        x, _ = place(value, y_range[0])
        draw.line((x, area[1], x, area[3]), LINES, _SCALE)
        draw.text((x, area[3] + 8 * _SCALE), f"{value:g}", FAINT, small, "mt")
    for value in _ticks(y_range):
        _, y = place(x_range[0], value)
        draw.line((area[0], y, area[2], y), LINES, _SCALE)
        draw.text((area[0] - 10 * _SCALE, y), f"{value:g} %", FAINT, small, "rm")
    for limit in limits:
        x, _ = place(limit, y_range[0])
        draw.line((x, area[1], x, area[3]), FAINT, 2 * _SCALE)
    best = front(found, cost)
    marked = [(each, _TRIED, 3) for each in found]
    marked += [(each, _NARROW, 7) for each in found if each.trial.origin == UNIFORM]
    steps = [place(cost(each.trial.cost), 100 * each.score) for each in best]
    if len(steps) > 1:
        draw.line(steps, _BEST, 3 * _SCALE)
    for each, colour, radius in [*marked, *((each, _BEST, 5) for each in best)]:
        x, y = place(cost(each.trial.cost), 100 * each.score)
        reach = radius * _SCALE
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), colour)
    draw.text((MARGIN * _SCALE, _TOP * _SCALE / 2), title, TEXT, large, "lm")
    draw.text((width - MARGIN * _SCALE, _TOP * _SCALE / 2), f"mIoU over {unit}", FAINT, small, "rm")
    legend = (("tried", _TRIED), ("nothing cheaper is as good", _BEST), ("uniformly narrowed", _NARROW))
    x = float(area[0])
    for words, colour in legend:
        y = height - 24 * _SCALE
        draw.ellipse((x, y - 6 * _SCALE, x + 12 * _SCALE, y + 6 * _SCALE), colour)
        draw.text((x + 20 * _SCALE, y), words, TEXT, small, "lm")
        x += 20 * _SCALE + draw.textlength(words, small) + 36 * _SCALE
    picture.resize(SIZE, Image.Resampling.LANCZOS).save(path, "PNG")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(ends: tuple[float, float]) -> list[float]:
    """Returns a few round numbers between the ends."""
    rough = (ends[1] - ends[0]) / _TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))
    first, last = int(np.ceil(ends[0] / step)), int(np.floor(ends[1] / step))
    return [round(number * step, 12) for number in range(first, last + 1)]
