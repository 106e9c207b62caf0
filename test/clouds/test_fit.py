"""What does not fit the network is said, each thing once; what fits is not worth a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moved_clouds import real_scans, record_of, seen_by
from spvnas_ros.clouds.cleaning import Limits
from spvnas_ros.clouds.fit import LOOKED_AT, Known, concerns, look_at_all
from spvnas_ros.clouds.intensity import Intensity, Reference, TrainingIntensity
from spvnas_ros.clouds.mount import Mount, PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.clouds.wording import TO_COMMAND, TO_NODE
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline.simulation.command import make_plan
from spvnas_ros.offline.simulation.drive import simulate
from spvnas_ros.recordings.scans import open_source

UTM = (458000.0, 5428000.0, 120.0)

Record = np.ndarray
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return street_scan(0, 64, 400)[0].astype(np.float64)


def said(clouds: list[Record], sensor: Sensor | None = None, known: Known | None = None) -> list[str]:
    """What is said of these clouds, by a command or a node."""
    sensor, known = sensor or Sensor(), known or Known()
    sensor.suit(known.sensor_height)
    sensor.settle(clouds)
    return [str(concern) for concern in concerns(look_at_all(clouds, sensor, known.limits), sensor, known)]


def said_of(points: np.ndarray, **place: str | None) -> list[str]:
    rule = PlaceRule.parse(place.get("origin"), place.get("mount"))
    return said([record_of(points)] * 2, Sensor(place=rule))


def moved(points: np.ndarray, by: tuple[float, float, float] = (0, 0, 0), mount: Mount | None = None) -> np.ndarray:
    positions = seen_by(points[:, :3], mount or Mount()) + by
    return np.column_stack((positions, points[:, 3]))


def scaled(points: np.ndarray, place: float = 1, intensity: float = 1) -> np.ndarray:
    return points * (place, place, place, intensity)


def alternately(points: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    points = points.copy()
    points[::2, : len(values)] = values
    return points


CASES: dict[str, tuple[Change, str, str]] = {
    "millimetres": (lambda p: scaled(p, 1000), "range: 95 % of the points lie within", "are these millimetres?"),
    "a room": (lambda p: scaled(p, 0.08), "range: 95 % of the points lie within", "not rooms or yards"),
    "a map": (lambda p: moved(p, UTM), "place: the sensor seems to be at ", "give its place with origin"),
    "300 m": (lambda p: moved(p, (300, 0, 0)), "place: the sensor seems to be at ", "not at the origin"),
    "30 km": (lambda p: moved(p, (0, -30_000, 0)), "place: the sensor seems to be at ", "not at the origin"),
    "10 m": (lambda p: moved(p, (10, 0, 0)), "place: the sensor seems to be at ", "not at the origin"),
    "up": (lambda p: moved(p, (0, 0, 1.2)), "ground: it lies 0.", "set -p mount.z:=0."),
    "on the ground": (lambda p: moved(p, (0, 0, 1.73)), "ground: it lies ", "the network knows it 1.73 m below"),
    "tilted": (lambda p: moved(p, mount=Mount(pitch=8)), ", tilted by ", "-p mount.pitch:=8"),
    "rolled": (lambda p: moved(p, mount=Mount(roll=-6)), "tilted by 6.", "-p mount.roll:=-6"),
    "no intensities": (lambda p: alternately(p, (1, 1, 1, np.nan)), "intensity: 50% of the points have none", "none"),
    "all in one place": (lambda p: alternately(p, (0.5, 0, 0.1)), "points of a cloud lie at 0.5, 0, 0.1", "0, 0, 0"),
    "dead": (lambda p: scaled(p, 1, 0), "intensity: all of them are 0", "intensity_field"),
    "dark": (lambda p: scaled(p, 1, 0.05), "intensity: their 95th percentile is 0.02", "the sensor has another scale"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_one_line_with_the_way_out(name: str, street: np.ndarray) -> None:
    change, found, advice = CASES[name]
    lines = [line for line in said_of(change(street)) if found in line]
    assert len(lines) == 1, said_of(change(street))
    assert advice in lines[0]
    assert "\n" not in lines[0]
    assert len(said_of(change(street))) == 1 + (name == "no intensities")


def test_what_fits_is_not_worth_a_word(street: np.ndarray) -> None:
    assert said_of(street) == []
    assert said_of(alternately(street, (0, 0, 0))) == [], "as drivers say that nothing came back"
    assert said_of(alternately(street, (np.nan, np.nan, np.nan))) == []
    assert said_of(moved(street, mount=Mount(yaw=90))) == [], "networks are trained with rotations"
    assert said_of(moved(street, (0, 0, 0.3))) == []
    stray = street.copy()
    stray[5, :3], stray[6, 3] = (1e6, 0, 0), 300
    assert said_of(stray) == []
    for scale in (255, 4095, 65535):
        assert said_of(scaled(street, 1, scale)) == []
    assert said([]) == []
    assert said([record_of(street[:50])]) == [], "too few points to tell"


@pytest.mark.parametrize("name", ["a map", "300 m", "30 km", "10 m", "up", "on the ground", "tilted", "rolled"])
def test_the_automatic_place_mends_it(name: str, street: np.ndarray) -> None:
    change = CASES[name][0]
    assert said_of(change(street), origin="auto", mount="auto") == []


def test_a_given_place_mends_it_and_a_wrong_one_is_told(street: np.ndarray) -> None:
    away = moved(street, UTM)
    assert said_of(away, origin="458000,5428000,120") == []
    assert any("not where it was said to be" in line for line in said_of(away, origin="458100,5428000,120"))
    down = moved(street, mount=Mount(0.53, 0, 8))
    assert said_of(down, mount="z=0.53,pitch=8") == []
    (line,) = said_of(down, mount="z=0.53,pitch=-8")
    assert "tilted by 1" in line
    assert re.search(r"set -p mount.z:=0\.(4[5-9]|5\d*) -p mount.pitch:=8$", line), (
        "of the cloud as it is, not as it was turned"
    )


def test_no_intensity_field_is_told_with_those_there_are(street: np.ndarray) -> None:
    record = record_of(street)
    record.dtype.names = ("x", "y", "z", "brightness")
    (line,) = said([record])
    assert line.startswith("intensity: no field is known to hold it (fields: x, y, z, brightness)")
    assert "intensity_field" in line
    assert said([record], Sensor(Intensity(field="brightness"))) == []
    assert said([record], Sensor(Intensity("none"))) == []
    assert said([record], known=Known(uses_intensity=False)) == []


@pytest.mark.parametrize(("rule", "scale"), [("unit", 255), ("u8", 65535), ("unit", 4)])
def test_a_scale_that_is_too_bright_is_told_although_it_is_clipped(street: np.ndarray, rule: str, scale: float) -> None:
    (line,) = said([record_of(scaled(street, 1, scale))], Sensor(Intensity(rule)))
    assert "the sensor has another scale" in line


def test_the_network_is_the_yardstick(street: np.ndarray) -> None:
    trained = Reference(TrainingIntensity(0.02, 0.05), "the network's training data")
    assert any("the network's training data 0.05" in line for line in said([record_of(street)], known=Known(trained)))
    assert said([record_of(moved(street, (0, 0, 1.2)))], known=Known(sensor_height=0.53)) == []
    assert any("knows it 0.53 m" in line for line in said([record_of(street)], known=Known(sensor_height=0.53)))


def test_one_odd_cloud_among_several_is_no_concern(street: np.ndarray) -> None:
    good = [record_of(street)] * 4
    for name in ("a map", "up", "tilted", "dark", "a room"):
        assert said([*good[:2], record_of(CASES[name][0](street)), *good[2:]]) == [], name


def test_a_few_clouds_are_enough(street: np.ndarray) -> None:
    looks = look_at_all([record_of(street[:200])] * 23, Sensor(), Limits())
    assert 3 <= len(looks) <= LOOKED_AT


def test_real_scans_are_told_of_only_where_they_were_moved(shared: Path) -> None:
    kitti = sorted((shared / "data/kitti/training/velodyne").glob("*.bin"))
    scans = real_scans(shared) + [np.fromfile(file, np.float32).reshape(-1, 4) for file in kitti]
    assert len(scans) == 18
    for number, scan in enumerate(scans):
        assert said([record_of(scan, "f4")]) == [], number
    for scan in scans[:14:3]:
        for name in ("a map", "300 m", "30 km", "up", "tilted"):
            change, found, _ = CASES[name]
            lines = said([record_of(change(scan.astype(np.float64)))])
            assert [found in line for line in lines] == [True], (name, lines)


SIMULATED = [
    ("hdl64", "urban", 7),
    ("vlp16", "residential", 7),
    ("os1-64", "highway", 7),
    ("os1-128", "suburban", 7),
    ("vlp32c", "rural", 24),
    ("vlp32c", "urban", 25),
]


@pytest.mark.parametrize(("sensor", "kind", "seed"), SIMULATED)
def test_simulated_drives_fit(tmp_path: Path, sensor: str, kind: str, seed: int) -> None:
    """The rural road lies between steep banks with more points than it has, the urban one has a house on one side."""
    list(simulate(make_plan(sensor, 2, 4.0, seed, kind, "bag"), 1, tmp_path / "drive"))
    with open_source(next((tmp_path / "drive/bags").iterdir())) as source:
        assert said(source.look(), source.sensor) == []


@pytest.mark.parametrize("mount", ["z=1,yaw=30", "z=0.4"])
def test_a_mount_that_is_not_needed_is_to_be_left_out(street: np.ndarray, mount: str) -> None:
    (line,) = said_of(street, mount=mount)
    assert line.startswith("ground: ")
    assert line.endswith("; leave the mount out")


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_clouds_of_which_nothing_was_measured_are_told(street: np.ndarray, value: float) -> None:
    points = street.copy()
    points[:, :3] = value
    assert said_of(points) == [
        "points: none was measured: all are NaN, or at 0, 0, 0; is the sensor covered, or its range limited?"
    ]


def test_intensities_that_say_nothing_get_no_impossible_advice(street: np.ndarray) -> None:
    points = street.copy()
    points[:, 3] = np.arange(len(points)) % 50 == 0
    (line,) = said_of(points)
    assert "nearly all of them are 0" in line
    assert "such as" not in line


def test_an_intensity_that_is_no_number_is_told_once(street: np.ndarray) -> None:
    points = street.copy()
    points[:, 3] = np.nan
    (line,) = said_of(points)
    assert line.startswith("intensity: 100% of the points have none (NaN)")


def test_coordinates_that_float32_has_rounded_already_are_told(street: np.ndarray) -> None:
    away = record_of(moved(street, UTM))
    rounded = away.astype([(name, "f4") for name in away.dtype.names or ()])
    lines = said([rounded], Sensor(place=PlaceRule.parse("458000,5428000,120", None)))
    assert any("float32 and so large that they are rounded to 0.5 m" in line for line in lines)


def test_a_place_that_is_wrong_in_height_alone_is_told(street: np.ndarray) -> None:
    (line,) = said_of(moved(street, UTM), origin="458000,5428000,0")
    assert "place: the sensor seems to be at" in line
    assert "not where it was said to be" in line


def test_a_known_height_holds_for_the_place_that_is_found(street: np.ndarray) -> None:
    low = moved(street, (UTM[0], UTM[1], UTM[2] + 1.13))
    assert said_of(low, origin="auto", mount="z=0.6") == []


def test_a_command_is_told_of_its_options_and_the_node_of_its_parameters(street: np.ndarray) -> None:
    sensor = Sensor()
    looks = look_at_all([record_of(moved(street, (0, 0, 1.2)) * (1, 1, 1, 0))], sensor, Limits())
    command, node = (" ".join(map(str, concerns(looks, sensor, Known(), to))) for to in (TO_COMMAND, TO_NODE))
    assert "set --mount z=0." in command
    assert "choose another field with --intensity-field" in command
    assert "set -p mount.z:=0." in node
    assert "choose another field with intensity_field" in node
    assert "give --intensity u8" in TO_COMMAND.scale("u8") != TO_NODE.scale("u8")
    assert "--origin" in TO_COMMAND.place
    assert "target_frame" in TO_NODE.place
