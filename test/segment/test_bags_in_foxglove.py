"""The bags that `spvnas segment` writes, read as Foxglove reads them: by the file's own definitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from segment_results import FRAMES, street, write_bag
from spvnas_cli import segmented
from spvnas_ros.recordings.bags import BagWriter

FLOAT32, UINT8 = 7, 2
BUILT_IN = {"bool", "string", "float32", "float64", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64))}


@pytest.fixture(scope="module")
def out(weights: Path, detector_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foxglove")
    drive = write_bag(folder / "drive", storage="mcap")
    arguments = ("-w", weights, "--boxes", detector_weights, "--device", "cpu", "-o", folder / "out")
    assert segmented(drive, *arguments)[0] == 0
    return folder / "out"


def messages(bag: Path) -> list[tuple[Any, Any, Any, Any]]:
    """Schema, channel, message and what it decodes to."""
    (path,) = bag.glob("*.mcap")
    with path.open("rb") as file:
        return list(make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages())


def test_the_file_says_what_it_is_and_can_be_searched(out: Path) -> None:
    (path,) = (out / "bag").glob("*.mcap")
    with path.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.chunk_indexes
    kinds = {
        channel.topic: (channel.message_encoding, summary.schemas[channel.schema_id].name)
        for channel in summary.channels.values()
    }
    assert kinds == {
        "/segmenter/output/labeled_points": ("cdr", "sensor_msgs/msg/PointCloud2"),
        "/segmenter/output/boxes": ("cdr", "vision_msgs/msg/Detection3DArray"),
    }
    assert summary.statistics.message_count == 2 * FRAMES


def test_every_type_is_defined_in_the_file_down_to_its_numbers(out: Path) -> None:
    for schema in {schema.name: schema for schema, *_ in messages(out / "bag")}.values():
        assert schema.encoding == "ros2msg"
        first, *others = schema.data.decode().split(f"{'=' * 80}\n")
        sections = {text.split("\n", 1)[0].removeprefix("MSG: "): text.split("\n", 1)[1] for text in others}
        for text in (first, *sections.values()):
            used = {re.sub(r"\[.*\]", "", line.split()[0]) for line in text.splitlines() if line}
            assert used <= BUILT_IN | set(sections)


def test_labels_are_a_field_that_a_colour_can_be_chosen_by(out: Path) -> None:
    clouds = [(message, cloud) for schema, _, message, cloud in messages(out / "bag") if "PointCloud2" in schema.name]
    assert len(clouds) == FRAMES
    for number, (message, cloud) in enumerate(clouds):
        points, _ = street(number)
        assert (message.log_time, cloud.header.frame_id) == (10**9 + number, "lidar")
        assert cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec == 10**9 + number
        fields = {field.name: field for field in cloud.fields}
        assert [*fields] == ["x", "y", "z", "intensity", "label", "confidence"]
        assert [fields[name].datatype for name in ("label", "confidence")] == [UINT8, FLOAT32]
        assert all(field.offset % 4 == 0 for field in cloud.fields if field.datatype == FLOAT32)
        assert (cloud.height, cloud.width, cloud.is_bigendian) == (1, len(points), False)
        assert len(cloud.data) == cloud.row_step == cloud.width * cloud.point_step
        rows = np.frombuffer(bytes(cloud.data), np.uint8).reshape(-1, cloud.point_step)
        x = np.ascontiguousarray(rows[:, fields["x"].offset :][:, :4]).view("<f4")[:, 0]
        np.testing.assert_array_equal(x, points[:, 0])
        assert set(np.unique(rows[:, fields["label"].offset])) <= {*range(19), 255}


def test_boxes_decode_with_their_frame_stamp_class_and_size(out: Path) -> None:
    arrays = [array for schema, _, _, array in messages(out / "bag") if "Detection3DArray" in schema.name]
    assert len(arrays) == FRAMES
    assert any(array.detections for array in arrays)
    for array in arrays:
        assert array.header.frame_id == "lidar"
        for box in array.detections:
            assert box.header == array.header
            assert min(box.bbox.size.x, box.bbox.size.y, box.bbox.size.z) > 0
            turn = box.bbox.center.orientation
            assert np.hypot(turn.z, turn.w) == pytest.approx(1)
            (result,) = box.results
            assert result.hypothesis.class_id
            assert 0 <= result.hypothesis.score <= 1


def test_the_nodes_colours_are_packed_as_bgr(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
    from rclpy.serialization import serialize_message

    from spvnas_ros.ros.node.messages import colored_message, packed_palette
    from spvnas_ros.trials.plain import cloud_of

    points = np.ones((2, 4), np.float32)
    message = colored_message(cloud_of(points, "lidar"), points, packed_palette([(1, 2, 3), (250, 128, 0)])[[0, 1]])
    with BagWriter(tmp_path / "bag", "mcap") as bag:
        bag.write("/segmenter/output/colored_points", serialize_message(message), 5)
    ((_, _, _, cloud),) = messages(tmp_path / "bag")
    (rgb,) = (field for field in cloud.fields if field.name == "rgb")
    assert (rgb.datatype, rgb.count) == (FLOAT32, 1)
    rows = np.frombuffer(bytes(cloud.data), np.uint8).reshape(2, cloud.point_step)
    np.testing.assert_array_equal(rows[:, rgb.offset : rgb.offset + 3], [(3, 2, 1), (0, 128, 250)])
