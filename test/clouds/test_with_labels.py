"""The labelled cloud: every byte of the input stays, and the labels read back by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_layouts import Cloud, layouts, packed, segmentation, xyz_fields, xyzi
from spvnas_ros.clouds.point_cloud2 import Intensity, PointField, decode, to_points, with_labels


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


def test_the_first_field_of_a_name_has_it_and_the_rest_keep_their_bytes() -> None:
    fields = xyz_fields(PointField("_", 12, 2, 2), PointField("x", 8, 7), PointField("_", 14, 2, 2))
    cloud = Cloud(1, 1, fields, False, 16, 16, np.arange(4, dtype="f4").tobytes())
    points = decode(cloud)
    assert points.dtype.names == ("x", "y", "z", "_")
    assert points["x"][0] == 0
    out = with_labels(cloud, segmentation(1))
    assert out.fields[: len(fields)] == fields
    assert out.data[:16].tobytes() == cloud.data


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
