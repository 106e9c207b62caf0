"""Intensities: which field has them, what brings them to 0..1, and that no single value or cloud decides it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloud_layouts import packed, xyzi
from spvnas_ros.clouds.intensity import (
    INTENSITY_FIELDS,
    SEMANTIC_KITTI,
    Intensity,
    IntensityError,
    IntensitySpread,
    Reference,
    Scale,
    TrainingIntensity,
    reference,
)
from spvnas_ros.clouds.point_cloud2 import PointCloudError, decode, to_points
from spvnas_ros.errors import UserError

SHARES = np.random.default_rng(0).beta(2, 4, 3000).astype(np.float32).clip(1e-4, 0.99)
"""What surfaces return, 0..1, as a sensor on a street sees it."""


def cloud(
    values: Sequence[float] | np.ndarray, kind: str = "f4", name: str = "intensity", **more: object
) -> np.ndarray:
    """A cloud with these intensities, and with other fields."""
    array = np.zeros(
        len(values), [("x", "f4"), ("y", "f4"), ("z", "f4"), (name, kind), *((each, "f4") for each in more)]
    )
    array[name] = values
    for each, content in more.items():
        array[each] = content
    return array


def settled(*clouds: np.ndarray, rule: str = "auto", field: str | None = None) -> Intensity:
    intensity = Intensity(rule, field)
    intensity.settle(clouds)
    return intensity


def glitched(values: np.ndarray, value: float) -> np.ndarray:
    values = values.copy()
    values[len(values) // 2] = value
    return values


@pytest.mark.parametrize(
    ("rule", "dtype", "raw", "expected"),
    [
        ("auto", "u1", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "u1", [0, 0, 1], [0, 0, 1 / 255]),
        ("auto", "u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("auto", "u4", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "u2", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "f4", [0, 0.5, 1], [0, 0.5, 1]),
        ("auto", "f4", [0, 51, 255], [0, 0.2, 1]),
        ("auto", "f8", [0, 13107, 65535], [0, 0.2, 1]),
        ("auto", "f4", [0.5, np.nan, np.inf], [0.5, np.nan, np.inf]),
        ("unit", "f4", [0, 0.5, 2], [0, 0.5, 2]),
        ("u8", "f4", [0, 51, 255], [0, 0.2, 1]),
        ("u12", "u2", [0, 819, 4095], [0, 0.2, 1]),
        ("u16", "u2", [0, 13107, 65535], [0, 0.2, 1]),
        ("db", "f4", [-20, -10, 0], [0.01, 0.1, 1]),
        ("none", "u1", [1, 2, 3], [0, 0, 0]),
        ("100", "u2", [0, 50, 100], [0, 0.5, 1]),
        ("0.5", "f4", [0, 0.25, 0.5], [0, 0.5, 1]),
    ],
)
def test_intensity_rules(rule: str, dtype: str, raw: list[float], expected: list[float]) -> None:
    array = xyzi(3, dtype)
    array["intensity"] = raw
    np.testing.assert_allclose(to_points(decode(packed(array)), Intensity(rule))[:, 3], expected, rtol=1e-6)


@pytest.mark.parametrize("rule", ["", "255u", "nan", "inf", "-1", "0", "U8"])
def test_an_unknown_intensity_rule_is_refused(rule: str) -> None:
    with pytest.raises(
        UserError, match="intensity rule must be auto, unit, u8, u12, u16, db, none or a positive number"
    ):
        Intensity(rule)


@pytest.mark.parametrize(
    ("values", "kind", "divisor"),
    [
        (SHARES, "f4", 1),
        (glitched(SHARES, 1.004), "f4", 1),
        (glitched(SHARES, 300), "f4", 1),
        (SHARES * 1.04, "f4", 1),  # calibrated sensors exceed 1
        (SHARES * 255, "f4", 255),
        (glitched(SHARES * 255, 300), "f4", 255),
        (glitched(SHARES * 255, 65535), "f8", 255),
        (glitched(SHARES * 255, -3), "f4", 255),
        (SHARES * 255, "u1", 255),
        (SHARES * 255, "u2", 255),
        (SHARES * 255, "i4", 255),
        (SHARES * 100, "u2", 255),
        (SHARES * 4095, "u2", 4095),
        (SHARES * 65535, "u2", 65535),
        (SHARES * 65535, "f4", 65535),
        (SHARES > 0.5, "u1", 255),  # whole numbers never stand for 0..1
    ],
)
def test_the_scale_follows_the_values_whatever_their_type(values: np.ndarray, kind: str, divisor: float) -> None:
    intensity = settled(*(cloud(values, kind) for _ in range(3)))
    assert intensity.scale == Scale(divisor)
    array = cloud(values, kind)
    np.testing.assert_array_equal(intensity.read(array), array["intensity"].astype(np.float32) / np.float32(divisor))


@pytest.mark.parametrize("brightest", [600.0, 900.0, 6000.0, 200_000.0])
def test_counts_of_photons_are_brought_to_1(brightest: float) -> None:
    intensity = settled(cloud(SHARES * brightest, "u4"))
    scaled = intensity.read(cloud(SHARES * brightest, "u4"))
    assert 0.9 < np.percentile(scaled, 99.5) < 1.1


@given(st.integers(0, 2999), st.sampled_from([1, 255, 4095, 65535]), st.floats(-1e30, 1e30), st.integers(1, 12))
@example(7, 1, 1.004, 1)
@example(7, 255, 300.0, 1)
def test_no_single_value_decides(where: int, divisor: float, value: float, count: int) -> None:
    values = (SHARES * divisor).astype(np.float64)
    values[where] = value
    assert settled(*(cloud(values, "f8") for _ in range(count))).scale == Scale(divisor)


@given(st.integers(3, 12), st.data())
def test_no_single_cloud_decides(count: int, data: st.DataObject) -> None:
    odd = data.draw(st.sampled_from([SHARES, SHARES * 65535, SHARES * 0, -SHARES * 100, SHARES * np.nan, SHARES[:0]]))
    clouds = [cloud(SHARES * 255) for _ in range(count)]
    clouds.insert(data.draw(st.integers(0, count)), cloud(odd))
    assert settled(*clouds).scale == Scale(255)


def test_the_first_cloud_may_be_dark_and_order_does_not_matter() -> None:
    dark, bright = cloud(SHARES * 0.9), cloud(SHARES * 255)
    assert settled(dark, bright).scale == settled(bright, dark).scale == Scale(255)
    for order in permutations([dark, dark, dark, bright, bright]):
        intensity = settled(*order)
        assert [float(intensity.read(each)[5]) for each in (dark, bright)] == [
            pytest.approx(float(SHARES[5]) * 0.9 / 255),
            pytest.approx(float(SHARES[5])),
        ]


def test_what_is_settled_stays() -> None:
    intensity = settled(cloud(SHARES * 255))
    for values in (SHARES, SHARES * 65535):
        before = intensity.read(cloud(SHARES * 255))
        intensity.read(cloud(values))
        np.testing.assert_array_equal(intensity.read(cloud(SHARES * 255)), before)


def test_decibels_come_back_as_the_same_intensities() -> None:
    decibels = (10 * np.log10(SHARES.astype(np.float64))).astype(np.float32)
    intensity = settled(cloud(decibels))
    assert intensity.scale == Scale(decibels=True)
    np.testing.assert_allclose(intensity.read(cloud(decibels)), SHARES, rtol=1e-5)
    assert "turned from decibels into shares" in intensity.describe()


def test_bytes_that_were_read_as_signed_are_no_scale() -> None:
    signed = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).view(np.int8)
    with pytest.raises(IntensityError, match=r"intensities are below 0 .*no known scale; choose another field.*none"):
        settled(cloud(signed, "i1"))
    with pytest.raises(PointCloudError, match="no known scale") as caught:
        to_points(cloud(signed, "i1"), Intensity())
    assert caught.value.kind == "no-intensity"
    assert settled(cloud(signed, "i1"), rule="none").read(cloud(signed, "i1")).max() == 0


@pytest.mark.parametrize("place", range(len(INTENSITY_FIELDS)))
def test_the_most_telling_intensity_field_wins(place: int) -> None:
    fields = INTENSITY_FIELDS[place:]
    array = np.zeros(1, [(name, "f4") for name in ("x", "y", "z", *reversed(fields))])
    for name in fields:
        array[name] = 0.75
    array[fields[0]] = 0.25
    assert to_points(decode(packed(array)), Intensity())[0, 3] == 0.25


NAMES = (
    "Intensity",
    "INTENSITY",
    "scalar_intensity",
    "scalar_Intensity",
    "Scalar_Reflectance",
    "reflectance",
    "i",
    "I",
)
NAMES += ("remission", "refl", "Reflectivity", "quality", "intensities")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_known_in_any_case_and_behind_cloudcompares_prefix(name: str) -> None:
    intensity = settled(cloud(SHARES, name=name))
    assert intensity.field == name
    np.testing.assert_array_equal(intensity.read(cloud(SHARES, name=name)), SHARES)
    assert intensity.describe() == f"intensity from field {name!r}, taken as it is (auto)"


def test_an_ousters_calibrated_reflectivity_is_taken_before_its_signal() -> None:
    signal = np.random.default_rng(1).gamma(2, 400, len(SHARES))
    array = cloud(signal, "f4", "intensity", reflectivity=(SHARES * 255).round())
    intensity = settled(array)
    assert (intensity.field, intensity.scale) == ("reflectivity", Scale(255))


def test_a_field_in_which_all_is_0_is_passed_over() -> None:
    live = cloud(SHARES, reflectivity=0)
    assert settled(live, live).field == "intensity"
    awake = cloud(SHARES, reflectivity=SHARES)
    assert settled(live, awake).field == "reflectivity", "it is alive in a later cloud"
    dead = cloud(SHARES * 0, reflectivity=0)
    assert settled(dead).field == "reflectivity"
    np.testing.assert_array_equal(settled(dead).read(dead), np.zeros(len(SHARES)))


def test_a_field_can_be_asked_for() -> None:
    array = cloud(SHARES * 255, "u1", brightness=SHARES)
    intensity = settled(array, field="brightness")
    assert (intensity.field, intensity.scale) == ("brightness", Scale(1))
    np.testing.assert_array_equal(intensity.read(array), SHARES)


@pytest.mark.parametrize("field", ["brightness", "name", "list"])
def test_a_field_that_cannot_be_had_is_named_with_those_there_are(field: str) -> None:
    array = np.zeros(
        3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4"), ("name", "S3"), ("list", "f4", (2,))]
    )
    says = re.escape(
        f"intensity_field is {field!r}, expected a field that holds one number a point; the cloud has "
        "x, y, z, intensity, name, list"
    )
    with pytest.raises(IntensityError, match=says):
        settled(array, field=field)
    with pytest.raises(PointCloudError, match=says):
        to_points(array, Intensity(field=field))


def test_a_cloud_without_a_known_field_gets_zeros_and_says_so() -> None:
    array = cloud(SHARES, name="brightness")
    intensity = settled(array)
    assert intensity.decided
    np.testing.assert_array_equal(intensity.read(array), np.zeros(len(SHARES)))
    assert intensity.describe() == "no intensity found (fields: x, y, z, brightness)"


def test_an_array_named_intensity_is_no_intensity() -> None:
    array = np.ones(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "f4", (2,)), ("signal", "u2")])
    array["signal"] = (3, 255)
    np.testing.assert_allclose(to_points(decode(packed(array)), Intensity())[:, 3], [3 / 255, 1], rtol=1e-6)


class Stream:
    """A rule that follows a stream: what each cloud's scale was."""

    def __init__(self) -> None:
        self.rule = Intensity(live=True)

    def scales(self, clouds: Iterable[np.ndarray]) -> list[float]:
        found = []
        for values in clouds:
            self.rule.read(cloud(values))
            assert self.rule.scale
            found.append(self.rule.scale.divisor)
        return found


BRIGHT, DARK = SHARES * 255, SHARES * 0.9


@pytest.mark.parametrize("odd", [DARK, SHARES * 65535, SHARES * 0, SHARES * 900])
@pytest.mark.parametrize("place", range(0, 30, 3))
def test_one_odd_cloud_of_a_stream_never_latches(odd: np.ndarray, place: int) -> None:
    scales = Stream().scales([*[BRIGHT] * place, odd, *[BRIGHT] * 30])
    assert set(scales[:place]) <= {255}
    assert set(scales[max(place, 4) :]) == {255}, "only one of the very first can be believed, and not for long"


def test_a_stream_follows_a_brighter_scale_quickly_and_a_darker_one_only_when_sure() -> None:
    stream = Stream()
    assert set(stream.scales([DARK] * 20)) == {1}
    up = stream.scales([BRIGHT] * 20)
    assert up[0] == 1
    assert 255 in up[:7]
    assert up == sorted(up)
    assert set(stream.scales([DARK] * 19)) == {255}, "a tunnel"
    assert stream.scales([DARK]) == [1]


def test_a_stream_says_what_it_changed_to() -> None:
    stream = Stream()
    assert stream.rule.describe() == "no intensity seen yet"
    stream.scales([DARK])
    assert stream.rule.describe() == "intensity from field 'intensity', taken as it is (auto)"
    stream.scales([BRIGHT])
    assert stream.rule.describe() == "intensity from field 'intensity', divided by 255 (auto)"


def test_a_covered_sensor_changes_nothing() -> None:
    stream = Stream()
    stream.scales([BRIGHT] * 6)
    assert set(stream.scales([SHARES * 0] * 40)) == {255}
    assert set(stream.scales([BRIGHT] * 3)) == {255}


def test_a_cloud_below_0_does_not_end_a_stream() -> None:
    stream = Stream()
    stream.scales([BRIGHT] * 20)
    assert stream.scales([-SHARES * 1000]) == [255]
    assert set(stream.scales([DARK] * 18)) == {255}
    assert stream.scales([DARK] * 2)[-1] == 1


def test_similar_counts_of_photons_keep_their_scale() -> None:
    stream = Stream()
    scales = stream.scales([SHARES * (700 + 20 * (number % 5)) for number in range(40)])
    assert len(set(scales[6:])) == 1


def test_the_training_data_is_the_yardstick() -> None:
    assert reference(None) == Reference(SEMANTIC_KITTI, "SemanticKITTI's scans")
    trained = reference(TrainingIntensity(0.05, 0.2))
    assert trained.whose == "the network's training data"
    assert IntensitySpread(0.05, 0.2, 1).complaint(trained) is None
    assert IntensitySpread(0.3, 0.5, 1).complaint(reference(None)) is None
    for p95, divisor in ((0.0018, 255), (0.01, 1), (120.0, 1)):
        found, advice = IntensitySpread(p95 / 2, p95, p95 * 2).complaint(reference(None), divisor) or ("", "")
        assert "95th percentile" in found
        assert float(advice.split()[-1]) == pytest.approx(p95 * divisor / 0.5, rel=0.05)
    assert "all of them are 0" in str(IntensitySpread(0, 0, 0).complaint(trained))


@pytest.mark.parametrize("count", [4096 * 4 + 7, 100_003])
def test_values_that_alternate_with_none_are_seen_all_the_same(count: int) -> None:
    values = np.linspace(1, 250.5, count)
    values[::2] = np.nan
    rule = settled(cloud(values.astype(np.float32)))
    assert (rule.field, str(rule.scale)) == ("intensity", "divided by 255")
    assert rule.read(cloud(values.astype(np.float32)))[1] == np.float32(values[1].astype(np.float32) / 255)


def test_a_field_of_another_layout_keeps_a_scale_of_its_own_and_is_told() -> None:
    bright, unit = np.linspace(0, 255, 500).astype(np.float32), np.linspace(0, 0.99, 500).astype(np.float32)
    with_reflectance, plain = cloud(bright, name="reflectance"), cloud(unit)
    rule = settled(with_reflectance, plain)
    np.testing.assert_allclose(rule.read(with_reflectance), bright / 255, rtol=1e-6)
    np.testing.assert_array_equal(rule.read(plain), unit)
    assert (
        "from field 'reflectance', divided by 255, in other clouds from 'intensity', taken as it is" in rule.describe()
    )


def test_signed_bytes_hold_no_more_than_127() -> None:
    values = np.arange(128).astype(np.int8)
    np.testing.assert_allclose(settled(cloud(values, "i1")).read(cloud(values, "i1")), values / 127, rtol=1e-6)


def test_a_field_without_any_number_is_named() -> None:
    nothing = cloud(np.full(300, np.nan, np.float32))
    rule = settled(nothing)
    assert np.isnan(rule.read(nothing)).all()
    assert "field 'intensity' holds no number" in rule.describe()
