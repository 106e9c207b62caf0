"""Where the sensor was: poses, and boxes with ids, of a simulated drive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.boxes.conversions import moved, wrapped
from spvnas_ros.offline.datasets import DatasetError
from spvnas_ros.offline.datasets.boxed import open_boxed
from spvnas_ros.offline.datasets.poses import read_journey
from spvnas_ros.offline.simulation.drive import Plan, simulate


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street seen by a sensor whose points are those of one moment."""
    out = tmp_path_factory.mktemp("journey") / "drive"
    plan = Plan("hdl64", 3, interval=0.7, seed=5, kind="urban", formats=("semantic-kitti", "boxes"))
    assert [done.scans for done in simulate(plan, 1, out)] == [3]
    return out


def test_what_is_parked_stands_still_in_the_fixed_frame_and_keeps_its_id(drive: Path) -> None:
    dataset, journey = open_boxed(drive), read_journey(drive / "sequences" / "00")
    np.testing.assert_allclose(journey.poses[0], np.eye(4), atol=1e-6)
    assert journey.stamps.tolist() == [0, 700_000_000, 1_400_000_000]
    assert np.linalg.norm(journey.poses[-1][:3, 3]) > 3, "the vehicle drives"
    places: dict[int, list[np.ndarray]] = {}
    kinds: dict[int, set[str]] = {}
    for number in range(3):
        objects = dataset[number].objects
        assert objects.ids is not None
        instances = dataset.scans[number].instances  # type: ignore[union-attr]
        assert set(objects.ids.tolist()) == set(np.unique(instances[instances > 0]).tolist())
        there = moved(objects.boxes, journey.poses[number])
        for identity, kind, box in zip(objects.ids.tolist(), objects.kinds, there, strict=True):
            places.setdefault(identity, []).append(box)
            kinds.setdefault(identity, set()).add(kind)
    assert all(len(each) == 1 for each in kinds.values())
    ways = {each: np.ptp(np.array(boxes), axis=0) for each, boxes in places.items() if len(boxes) > 2}
    assert len(ways) > 20
    standing = [each for each, way in ways.items() if way[:3].max() < 0.05]
    # Cars that drive past move by metres, and nothing by decimetres.
    assert len(standing) > len(ways) / 2
    assert all(ways[each][:2].max() > 0.3 for each in set(ways) - set(standing))
    for each in standing:
        turns = wrapped(np.array(places[each])[:, 6] - places[each][0][6])
        assert np.abs(turns).max() < 0.02
        np.testing.assert_allclose(np.array(places[each])[:, 3:6], places[each][:1][0][None, 3:6].repeat(len(turns), 0))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("poses.txt", "", "poses.txt is empty"),
        ("poses.txt", "1 0 0\n", "poses.txt, line 1 has '1 0 0', expected 12 finite numbers"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 nan 0\n", "poses.txt, line 1 .* expected 12 finite numbers"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 9 0\n", "poses.txt, line 1 turns by"),
        ("poses.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n", "times.txt has 3 times and poses.txt 1 poses"),
        ("times.txt", "0\n1\nx\n", "times.txt, line 3: .*'x'"),
        ("times.txt", "0\n2\n1\n", "times.txt, line 3: 1 s is not after 2 s"),
        ("times.txt", "0\n1\n1e300\n", r"times.txt has the time 1e\+300 s"),
        ("calib.txt", "P0: 1\n", "calib.txt has no line Tr"),
        ("calib.txt", None, "calib.txt cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_a_journey_is_named(drive: Path, file: str, text: str | None, message: str) -> None:
    path = drive / "sequences" / "00" / file
    before = path.read_bytes()
    path.unlink() if text is None else path.write_text(text)
    try:
        with pytest.raises(DatasetError, match=message):
            read_journey(drive / "sequences" / "00")
    finally:
        path.write_bytes(before)
