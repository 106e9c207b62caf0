"""Intensities: which field has them, and what brings them to 0..1."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_layouts import packed, xyzi
from spvnas_ros.clouds.point_cloud2 import INTENSITY_FIELDS, Intensity, decode, to_points


def test_the_most_telling_intensity_field_wins() -> None:
    for position, name in enumerate(INTENSITY_FIELDS):
        array = np.zeros(1, [(n, "f4") for n in ("x", "y", "z", *reversed(INTENSITY_FIELDS[position:]))])
        array[name] = 0.25
        assert to_points(decode(packed(array)), Intensity())[0, 3] == 0.25


def test_an_array_named_intensity_is_no_intensity() -> None:
    array = np.ones(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4", (2,)), ("signal", "u2")])
    np.testing.assert_array_equal(
        to_points(decode(packed(array)), Intensity())[:, 3], np.full(2, 1 / 65535, np.float32)
    )


@pytest.mark.parametrize(
    ("rule", "dtype", "raw", "expected"),
    [
        ("auto", "u1", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "u1", [0, 1, 1], [0, 1 / 255, 1 / 255]),
        ("auto", "u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("auto", "u4", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "f4", [0, 0.5, 1], [0, 0.5, 1]),
        ("auto", "f4", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "f8", [0, 13107, 65535], [0, 0.2, 1]),
        ("auto", "f4", [0.5, np.nan, np.inf], [0.5, 0, 0]),
        ("unit", "f4", [0, 0.5, 2], [0, 0.5, 2]),
        ("u8", "f4", [0, 51, 255], [0, 0.2, 1]),
        ("u16", "u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("none", "u1", [1, 2, 3], [0, 0, 0]),
        ("100", "u2", [0, 50, 100], [0, 0.5, 1]),
        ("0.5", "f4", [0, 0.25, 0.5], [0, 0.5, 1]),
    ],
)
def test_intensity_rules(rule: str, dtype: str, raw: list[float], expected: list[float]) -> None:
    array = xyzi(3, dtype)
    array["intensity"] = raw
    np.testing.assert_allclose(to_points(decode(packed(array)), Intensity(rule))[:, 3], expected, rtol=1e-6)


def test_auto_never_goes_back() -> None:
    rule = Intensity()

    def scaled(*raw: float) -> list[float]:
        return [round(float(v), 6) for v in rule.scale(np.array(raw, np.float32))]

    assert scaled(0.5, 1) == [0.5, 1]
    assert scaled(0, 255) == [0, 1]
    assert scaled(0.5, 1) == [0.001961, 0.003922], "a dark cloud after a bright one"
    assert scaled(256, 65535) == [0.003906, 1]
    assert scaled(255) == [0.003891]
    assert rule.divisor == 65535


def test_integers_do_not_change_how_floats_are_read() -> None:
    rule = Intensity()
    rule.scale(np.array([60000], np.uint16))
    assert rule.scale(np.array([1], np.float32))[0] == 1


@pytest.mark.parametrize("rule", ["", "255u", "nan", "inf", "-1", "0", "U8"])
def test_an_unknown_intensity_rule_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="intensity rule must be auto, unit, u8, u16, none or a positive number"):
        Intensity(rule)
