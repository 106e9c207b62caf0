"""What the descriptions of networks check of their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spvnas_ros.nets.spec_error import SpecError


def check_numbers(whose: str, values: Mapping[str, Any], least: float, most: float) -> None:
    """Raises SpecError where a value is no finite number, or outside what it may be."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SpecError(f"{whose} {name} must be a number, found {value!r}")
        if not least <= value <= most:
            raise SpecError(f"{whose} {name} must be in {least:g}..{most:g}, found {value!r}")


def check_counts(whose: str, values: Mapping[str, Any]) -> None:
    """Raises SpecError where a value is no whole number from 1 on."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{whose} {name} must be a whole number from 1 on, found {value!r}")


def check_range(limits: Sequence[float]) -> None:
    """Raises SpecError where the limits are not x, y, z minimum, then x, y, z maximum."""
    if not (
        len(limits) == 6
        and all(isinstance(limit, int | float) and math.isfinite(limit) for limit in limits)
        and all(a < b for a, b in zip(limits[:3], limits[3:], strict=True))
    ):
        raise SpecError(f"point_range must be x, y, z minimum, then x, y, z maximum in metres, found {limits}")


def floats(values: Sequence[float]) -> Any:
    """Returns the values as a tuple of floats. Raises TypeError or ValueError where they are no numbers."""
    return tuple(float(value) for value in values)
