"""PointCloud2 decoding: every layout a driver may publish, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_layouts import NUMPY, Cloud, layouts, packed, segmentation, xyz_fields, xyzi
from spvnas_ros.clouds.point_cloud2 import (
    Datatype,
    Intensity,
    PointCloudError,
    PointField,
    decode,
    to_points,
    with_labels,
)

KINDS = {"bad-datatype", "bad-point-step", "bad-row-step", "field-outside", "short-data", "long-data", "no-xyz"}


@given(layouts())
@settings(max_examples=200)
def test_any_layout_decodes_to_the_values_that_were_written(case: tuple[Cloud, np.ndarray]) -> None:
    cloud, expected = case
    points = decode(cloud)
    assert points.shape == (cloud.height * cloud.width,)
    for name in expected.dtype.names:
        assert points[name].tobytes() == expected[name].tobytes()
        assert points[name].dtype == expected[name].dtype


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


def test_fields_may_overlap_and_count_zero_means_one() -> None:
    fields = [*xyz_fields(), PointField("rgb", 12, 7, 0), PointField("rgba", 12, 6, 0), PointField("", 12, 2)]
    cloud = Cloud(1, 1, fields, False, 16, 16, np.array([1, 2, 3, 1], "f4").tobytes())
    points = decode(cloud)
    assert points["rgb"][0] == 1
    assert points["rgba"][0] == 0x3F800000
    assert points["unnamed_field_5"][0] == 0


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
