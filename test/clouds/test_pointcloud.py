"""PointCloud2 decoding and the labelled layout: every layout a driver may publish, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.clouds.point_cloud2 import (
    INTENSITY_FIELDS,
    Datatype,
    Intensity,
    PointCloudError,
    PointField,
    decode,
    to_points,
    with_labels,
)
from spvnas_ros.frame import Segmentation

NUMPY = {
    Datatype.INT8: "i1",
    Datatype.UINT8: "u1",
    Datatype.INT16: "i2",
    Datatype.UINT16: "u2",
    Datatype.INT32: "i4",
    Datatype.UINT32: "u4",
    Datatype.FLOAT32: "f4",
    Datatype.FLOAT64: "f8",
}
KINDS = {"bad-datatype", "bad-point-step", "bad-row-step", "field-outside", "short-data", "long-data", "no-xyz"}


@dataclass(frozen=True)
class Cloud:
    """A PointCloud2-shaped object."""

    height: int = 1
    width: int = 0
    fields: list[PointField] = field(default_factory=list)
    is_bigendian: bool = False
    point_step: int = 0
    row_step: int = 0
    data: Any = b""


def xyz_fields(*more: PointField, datatype: int = Datatype.FLOAT32, size: int = 4) -> list[PointField]:
    return [PointField(name, i * size, datatype) for i, name in enumerate("xyz")] + list(more)


def packed(array: np.ndarray, *, big: bool = False) -> Cloud:
    """The plain one-row cloud of a structured array."""
    codes = {text: code for code, text in NUMPY.items()}
    fields = [
        PointField(name, int(offset), codes[dtype.base.str[1:]], int(np.prod(dtype.shape)) if dtype.shape else 1)
        for name, (dtype, offset) in array.dtype.fields.items()
    ]
    return Cloud(1, len(array), fields, big, array.itemsize, array.nbytes, array.tobytes())


def xyzi(n: int, intensity: str = "f4", name: str = "intensity") -> np.ndarray:
    array = np.zeros(n, [("x", "f4"), ("y", "f4"), ("z", "f4"), (name, intensity)])
    for axis in "xyz":
        array[axis] = np.random.default_rng(ord(axis)).normal(0, 10, n)
    return array


def segmentation(n: int) -> Segmentation:
    generator = np.random.default_rng(n)
    return Segmentation(generator.integers(0, 20, n).astype(np.uint8), generator.random(n).astype(np.float32))


# -- decoding ---------------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Cloud, np.ndarray]:
    """A random layout (types, counts, gaps, order, padding, byte order, organisation) and the values put into it."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
    order = ">" if (big := draw(st.booleans())) else "<"
    offset, formats, fields = 0, [], []
    for name in names:
        code = draw(st.sampled_from(Datatype))
        count = draw(st.integers(1, 3))
        offset += draw(st.integers(0, 5))
        base = np.dtype(order + NUMPY[code])
        formats.append((name, base if count == 1 else np.dtype((base, (count,))), offset))
        fields.append(PointField(name, offset, int(code), count))
        offset += count * base.itemsize
    step = offset + draw(st.integers(0, 7))
    dtype = np.dtype(
        {
            "names": [f[0] for f in formats],
            "formats": [f[1] for f in formats],
            "offsets": [f[2] for f in formats],
            "itemsize": step,
        }
    )
    height, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    row_step = width * step + draw(st.integers(0, 9))
    raw = np.frombuffer(draw(st.binary(min_size=height * row_step, max_size=height * row_step)), np.uint8)
    points = raw.reshape(height, row_step)[:, : width * step].reshape(-1).view(dtype)
    shuffled = draw(st.permutations(fields))
    return Cloud(height, width, shuffled, big, step, row_step, raw.tobytes()), points


@given(layouts())
@settings(max_examples=200)
def test_any_layout_decodes_to_the_values_that_were_written(case: tuple[Cloud, np.ndarray]) -> None:
    cloud, expected = case
    points = decode(cloud)
    assert points.shape == (cloud.height * cloud.width,)
    for name in expected.dtype.names:
        assert points[name].tobytes() == expected[name].tobytes()
        assert points[name].dtype == expected[name].dtype


@given(layouts(), st.booleans())
@settings(max_examples=200)
def test_a_labelled_cloud_keeps_every_byte_and_reads_back_by_name(
    case: tuple[Cloud, np.ndarray], named_like_ours: bool
) -> None:
    cloud, expected = case
    if named_like_ours:
        cloud = replace(cloud, fields=[cloud.fields[0]._replace(name="label"), *cloud.fields[1:]])
    given_labels = segmentation(len(expected))
    out = with_labels(cloud, given_labels)

    assert (out.height, out.width, out.is_bigendian) == (cloud.height, cloud.width, cloud.is_bigendian)
    assert out.point_step % 4 == 0
    assert out.row_step == out.width * out.point_step
    assert out.data.size == out.height * out.row_step
    assert out.fields[-1].offset % 4 == 0
    kept = out.data.reshape(-1, out.point_step)[:, : cloud.point_step]
    assert kept.tobytes() == expected.tobytes()
    assert [f[1:] for f in out.fields[:-2]] == [f[1:] for f in cloud.fields]

    points = decode(out)
    np.testing.assert_array_equal(points["label"], given_labels.labels)
    np.testing.assert_array_equal(points["confidence"], given_labels.confidence)
    renamed = {"label": "input_label", "confidence": "input_confidence"}
    before = decode(cloud)
    for name in before.dtype.names:
        assert points[renamed.get(name, name)].tobytes() == before[name].tobytes()


unsigned = st.integers(0, 2**32 - 1) | st.integers(0, 40)
garbage_fields = st.lists(
    st.builds(PointField, st.sampled_from(["x", "y", "z", "", "label", "é"]), unsigned, st.integers(0, 255), unsigned)
    | st.builds(PointField, st.sampled_from("xyzi"), st.integers(0, 30), st.integers(1, 8), st.integers(0, 2)),
    max_size=6,
)


@given(
    st.builds(
        Cloud,
        height=unsigned,
        width=unsigned,
        fields=garbage_fields,
        is_bigendian=st.booleans(),
        point_step=unsigned,
        row_step=unsigned,
        data=st.binary(max_size=300),
    )
)
@settings(max_examples=500)
def test_garbage_is_refused_by_name_or_read_but_never_crashes(cloud: Cloud) -> None:
    refused = None
    try:
        points = to_points(decode(cloud), Intensity())
    except PointCloudError as error:
        refused = error
    if refused:
        assert refused.kind in KINDS
        assert str(refused)
    else:
        assert points.shape == (cloud.height * cloud.width, 4)
        assert len(decode(with_labels(cloud, segmentation(len(points))))) == len(points)


def mangled() -> dict[str, tuple[str, Cloud]]:
    good = packed(xyzi(6))
    two_rows = replace(good, height=2, width=3, row_step=48)
    return {
        "unknown datatype": ("bad-datatype", replace(good, fields=[PointField("x", 0, 9), *good.fields[1:]])),
        "datatype zero": ("bad-datatype", replace(good, fields=[PointField("x", 0, 0), *good.fields[1:]])),
        "no point_step": ("bad-point-step", replace(good, point_step=0)),
        "absurd point_step": ("bad-point-step", replace(good, point_step=2**32 - 1)),
        "rows overlap": ("bad-row-step", replace(two_rows, row_step=40)),
        "field ends outside": ("field-outside", replace(good, fields=[*good.fields, PointField("t", 14, 7)])),
        "absurd count": ("field-outside", replace(good, fields=[*good.fields, PointField("t", 0, 7, 2**32 - 1)])),
        "one byte short": ("short-data", replace(good, data=good.data[:-1])),
        "no data": ("short-data", replace(good, data=b"")),
        "absurd size": ("short-data", replace(good, height=2**32 - 1, width=2**28 - 1, row_step=2**32 - 1)),
        "one byte long": ("long-data", replace(good, data=good.data + b"\0")),
        "data without points": ("long-data", replace(good, height=0, width=0)),
    }


@pytest.mark.parametrize("name", mangled())
def test_a_cloud_that_contradicts_itself_is_refused_with_its_kind(name: str) -> None:
    kind, cloud = mangled()[name]
    with pytest.raises(PointCloudError) as refused:
        decode(cloud)
    assert refused.value.kind == kind
    with pytest.raises(PointCloudError) as refused:
        with_labels(cloud, segmentation(6))
    assert refused.value.kind == kind


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="no fields"),
        pytest.param([PointField("x", 0, 7), PointField("y", 4, 7)], id="no z"),
        pytest.param([PointField("x", 0, 7, 2), PointField("y", 4, 7), PointField("z", 8, 7)], id="x is an array"),
    ],
)
def test_a_cloud_without_coordinates_is_refused(fields: list[PointField]) -> None:
    with pytest.raises(PointCloudError, match="x, y and z") as refused:
        to_points(decode(Cloud(1, 2, fields, False, 12, 24, bytes(24))), Intensity())
    assert refused.value.kind == "no-xyz"


def test_a_plain_cloud_is_viewed_and_not_copied_or_writable() -> None:
    array = xyzi(50)
    data = array.view(np.uint8)
    points = decode(replace(packed(array), data=data))
    assert np.shares_memory(points, array)
    assert not points.flags.writeable
    assert points.dtype == array.dtype


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview, list, lambda b: np.frombuffer(b, np.uint8)])
def test_data_may_be_any_buffer(container: Any) -> None:
    array = xyzi(5)
    np.testing.assert_array_equal(decode(replace(packed(array), data=container(array.tobytes()))), array)


def test_an_empty_cloud_is_a_cloud() -> None:
    for cloud in (Cloud(height=0), Cloud(), packed(xyzi(0)), Cloud(0, 7, xyz_fields(), False, 12, 84, b"")):
        assert to_points(decode(cloud), Intensity()).shape == (0, 4)
        out = with_labels(cloud, segmentation(0))
        assert (out.height, out.width, len(out.data)) == (cloud.height, cloud.width, 0)
        assert [f.name for f in out.fields[-2:]] == ["label", "confidence"]


def test_a_single_row_may_have_any_row_step() -> None:
    array = xyzi(4)
    for row_step in (0, 4, 64, 1000):
        np.testing.assert_array_equal(decode(replace(packed(array), row_step=row_step)), array)


def test_rows_without_a_row_step_are_not_padded() -> None:
    array = xyzi(6)
    np.testing.assert_array_equal(decode(replace(packed(array), height=2, width=3, row_step=0)), array)


def test_the_last_row_may_lack_its_padding() -> None:
    array = xyzi(6)
    rows = array.tobytes()[:48] + b"\xaa" * 8 + array.tobytes()[48:]
    cloud = replace(packed(array), height=2, width=3, row_step=56)
    for data in (rows, rows + b"\xaa" * 8):
        np.testing.assert_array_equal(decode(replace(cloud, data=data)), array)


def test_the_first_field_of_a_name_has_it_and_the_rest_keep_their_bytes() -> None:
    fields = xyz_fields(PointField("_", 12, 2, 2), PointField("x", 8, 7), PointField("_", 14, 2, 2))
    cloud = Cloud(1, 1, fields, False, 16, 16, np.arange(4, dtype="f4").tobytes())
    points = decode(cloud)
    assert points.dtype.names == ("x", "y", "z", "_")
    assert points["x"][0] == 0
    out = with_labels(cloud, segmentation(1))
    assert out.fields[: len(fields)] == fields
    assert out.data[:16].tobytes() == cloud.data


def test_fields_may_overlap_and_count_zero_means_one() -> None:
    fields = [*xyz_fields(), PointField("rgb", 12, 7, 0), PointField("rgba", 12, 6, 0), PointField("", 12, 2)]
    cloud = Cloud(1, 1, fields, False, 16, 16, np.array([1, 2, 3, 1], "f4").tobytes())
    points = decode(cloud)
    assert points["rgb"][0] == 1
    assert points["rgba"][0] == 0x3F800000
    assert points["unnamed_field_5"][0] == 0


def test_the_labels_field_does_not_take_a_name_that_is_there() -> None:
    array = np.zeros(3, [("label", "u4"), ("input_label", "u1"), ("confidence", "f8")])
    array["label"], array["input_label"], array["confidence"] = [70001, 2, 3], [4, 5, 6], [0.1, 0.2, 0.3]
    given_labels = segmentation(3)
    points = decode(with_labels(packed(array), given_labels))
    assert points.dtype.names == ("input_input_label", "input_label", "input_confidence", "label", "confidence")
    np.testing.assert_array_equal(points["input_input_label"], array["label"])
    np.testing.assert_array_equal(points["input_label"], array["input_label"])
    np.testing.assert_array_equal(points["input_confidence"], array["confidence"])
    np.testing.assert_array_equal(points["label"], given_labels.labels)


def test_a_segmentation_of_another_cloud_is_refused() -> None:
    with pytest.raises(ValueError, match="6 points, the segmentation 5"):
        with_labels(packed(xyzi(6)), segmentation(5))


# -- points and intensity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("code", Datatype)
def test_coordinates_of_any_type_and_byte_order_become_float32(code: Datatype, big: bool) -> None:
    values = np.array([[1, 2, 3], [4, 5, 6], [100, 0, 7]])
    raw = values.astype((">" if big else "<") + NUMPY[code])
    cloud = Cloud(1, 3, xyz_fields(datatype=code, size=raw.itemsize), big, 3 * raw.itemsize, 0, raw.tobytes())
    points = to_points(decode(cloud), Intensity())
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, np.column_stack([values, np.zeros(3)]))


def test_coordinates_that_are_not_finite_stay_so_and_their_neighbours_intact() -> None:
    raw = np.array([[np.nan, 0, 0], [1, 2, 3], [0, 1e300, -np.inf]])
    cloud = Cloud(1, 3, xyz_fields(datatype=Datatype.FLOAT64, size=8), False, 24, 72, raw.tobytes())
    points = to_points(decode(cloud), Intensity())
    np.testing.assert_array_equal(np.isfinite(points).all(1), [False, True, False])
    np.testing.assert_array_equal(points[1], [1, 2, 3, 0])


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


# -- a real driver's cloud --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_real_velodyne_cloud_is_read_and_labelled(shared: Path, storage: str) -> None:
    from rosbags.highlevel import AnyReader

    with AnyReader([shared / "data" / "bags" / f"vlp16_pointcloud2_{storage}"]) as bag:
        for connection, _, raw in bag.messages():
            cloud = bag.deserialize(raw, connection.msgtype)
            array = decode(cloud)
            points = to_points(array, Intensity())
            assert 29_000 < len(points) < 29_300
            assert np.isfinite(points).all()
            assert 0 <= points[:, 3].min() < points[:, 3].max() <= 1
            np.testing.assert_array_equal(points[:, 0], np.ndarray(len(points), "<f4", cloud.data, 0, (22,)))
            out = decode(with_labels(cloud, segmentation(len(points))))
            assert out.dtype.names == ("x", "y", "z", "intensity", "ring", "time", "label", "confidence")
            assert out.dtype.itemsize == 28, "22 bytes, the label, a byte of padding, the confidence on a multiple of 4"
            np.testing.assert_array_equal(out["ring"], array["ring"])
