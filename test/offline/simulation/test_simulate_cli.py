"""`spvnas simulate` from the outside: what it writes is read back, and is the same however it was made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.clouds.transforms import Transform
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.simulation.compare import measure
from spvnas_ros.recordings.bags import BagReader
from spvnas_ros.recordings.scans import read_scan

_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
_ALL = "semantic-kitti,kitti,bag,boxes"
_SMALL = ("--sensor", "vlp16", "--scenes", "2", "--scans-per-scene", "2", "--seed", "5", "--kind", "highway")


_COMMAND = (sys.executable, "-m", "spvnas_ros.cli", "simulate")


def spvnas(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def tree(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in but)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of two scans in all formats, made by one process."""
    out = tmp_path_factory.mktemp("drives") / "one"
    done = spvnas(*_SMALL, "--format", _ALL, "--processes", 1, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert "4 scans" in done.stdout
    return out


def test_two_processes_write_the_same_bytes(drives: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    command = [*_COMMAND, *_SMALL, "--format", _ALL, "--processes", "2", "--out", str(out)]
    subprocess.run(command, env=_ENVIRONMENT, check=True)
    assert tree(out) == tree(drives)


def test_sequences_are_read_back(drives: Path) -> None:
    dataset = open_dataset(drives)
    assert [dataset[i].name for i in range(len(dataset))] == ["00/000000", "00/000001", "01/000000", "01/000001"]
    road = SEMANTIC_KITTI.classes.index("road")
    for i in range(len(dataset)):
        scan = dataset[i]
        assert (scan.labels == road).mean() > 0.02
        assert len(np.unique(scan.labels)) > 5
        assert np.isfinite(scan.points).all()
        assert ((scan.points[:, 3] >= 0) & (scan.points[:, 3] <= 1)).all()
    sequence = drives / "sequences" / "00"
    poses = np.loadtxt(sequence / "poses.txt").reshape(-1, 3, 4)
    assert len(poses) == 2
    np.testing.assert_allclose(poses[0], np.eye(4)[:3], atol=1e-8)
    assert poses[1][2, 3] > 0, "cameras of KITTI look along z"
    assert np.loadtxt(sequence / "times.txt").tolist() == pytest.approx([0.0, 0.1])


def test_boxes_belong_to_the_clouds_they_lie_beside(drives: Path) -> None:
    folder = drives / "kitti" / "training"
    names = [path.stem for path in sorted((folder / "label_2").iterdir())]
    assert names == ["000000", "000001", "000002", "000003"]
    for number, name in enumerate(names):
        beside = drives / "sequences" / f"{number // 2:02d}" / "velodyne" / f"{number % 2:06d}.bin"
        assert (folder / "velodyne" / f"{name}.bin").read_bytes() == beside.read_bytes()
        points = read_scan(beside, "unit")[:, :3]
        for line in (folder / "label_2" / f"{name}.txt").read_text().splitlines():
            numbers = [float(value) for value in line.split()[1:]]
            length, (x, y, z) = numbers[9], numbers[10:13]
            # The camera looks along the sensor's x, its own x is to the right; it is 8 cm lower and 27 cm ahead.
            middle = (z + 0.27, -x, -y - 0.08)
            assert (np.linalg.norm(points[:, :2] - middle[:2], axis=1) < length).any()


def test_the_bag_is_read_back_with_clock_transforms_and_labels(drives: Path) -> None:
    path = drives / "bags" / "01"
    with BagReader(path) as bag:
        clouds = [decode(cloud.decode()) for cloud in bag]
    assert clouds[0].dtype.names == ("x", "y", "z", "intensity", "ring", "label", "instance", "time")
    label = np.fromfile(drives / "sequences" / "01" / "labels" / "000000.label", "<u4")
    assert (clouds[0]["label"] == label & 0xFFFF).all()
    assert (clouds[0]["instance"] == label >> 16).all()
    assert 1 < clouds[0]["intensity"].max() <= 255
    assert set(np.unique(clouds[0]["ring"])) <= set(range(16))
    assert 0 <= clouds[0]["time"].min() < clouds[0]["time"].max() < 0.1
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Reader(path) as reader:
        messages = [(c.topic, store.deserialize_cdr(raw, c.msgtype)) for c, _, raw in reader.messages()]
    odometry = [m.transforms[0] for topic, m in messages if topic == "/tf"]
    (mount,) = [m.transforms[0] for topic, m in messages if topic == "/tf_static"]
    assert {(t.header.frame_id, t.child_frame_id) for t in odometry} == {("odom", "base_link")}
    assert (mount.header.frame_id, mount.child_frame_id, mount.transform.translation.z) == ("base_link", "lidar", 1.73)
    assert len([topic for topic, _ in messages if topic == "/clock"]) == len(odometry)
    first, later = odometry[0].transform, odometry[5].transform
    turned = [Transform.of(_xyz(t.translation), _xyzw(t.rotation)) for t in (first, later)]
    moved = turned[0].inverse() @ turned[1]
    pose = np.loadtxt(drives / "sequences" / "01" / "poses.txt").reshape(-1, 3, 4)[1]
    # The sensor sits above the base, and the vehicle pitches a little.
    assert moved.translation[0] == pytest.approx(pose[2, 3], abs=0.02)


KILLED = """
import os, signal, sys
from pathlib import Path
from spvnas_ros.cli import app

first = Path(sys.argv[-1]) / "sequences" / "00"
sys.addaudithook(lambda event, _: event == "open" and first.exists() and os.kill(os.getpid(), signal.SIGKILL))
app(["simulate", *sys.argv[1:]])
"""
"""Dies at the first file that it opens once the first sequence is there."""


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, drives: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, *_SMALL, "--format", _ALL, "--processes", "1", "--out", str(out)]
    killed = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "bags" / "01").exists()
    before = (out / "sequences" / "00" / "velodyne" / "000000.bin").stat().st_mtime_ns
    again = spvnas(*_SMALL, "--format", _ALL, "--processes", 1, "--out", out)
    assert again.exit_code == 0, again.stderr
    assert tree(out) == tree(drives)
    assert before == (out / "sequences" / "00" / "velodyne" / "000000.bin").stat().st_mtime_ns
    nothing_left = spvnas(*_SMALL, "--format", _ALL, "--out", out)
    assert "2 of them had been there already" in nothing_left.stdout


@pytest.mark.parametrize("lost", ["sequences/01", "bags/01"])
def test_a_scene_killed_between_its_formats_is_made_again(tmp_path: Path, drives: Path, lost: str) -> None:
    out = tmp_path / "again"
    shutil.copytree(drives, out)
    shutil.rmtree(out / lost)
    again = spvnas(*_SMALL, "--format", _ALL, "--processes", 1, "--out", out)
    assert again.exit_code == 0, again.stderr
    assert tree(out) == tree(drives)


def test_the_comparison_measures_and_draws(drives: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "report"
    done = spvnas("--compare", drives, "--sim", drives, "--out", out)
    assert done.exit_code == 0, done.stderr
    rows = {line.split("|")[1].strip(): line for line in (out / "compare.md").read_text().splitlines() if "|" in line}
    cells = [cell.strip() for cell in rows["road"].split("|")]
    assert cells[-4:-1] == ["0.0", "0.00", "0.00"], "a set does not differ from itself"
    real, simulated = cells[2].split(" / ")
    assert real == simulated != "0"
    assert set(SEMANTIC_KITTI.classes) <= rows.keys()
    for name in ("classes.png", "panoramas.png"):
        with Image.open(out / name) as picture:
            assert len(picture.convert("RGB").resize((200, 200)).getcolors(40_000)) > 50


def test_real_roads_are_measured_smoother_than_real_terrain(shared: Path) -> None:
    real = measure(open_dataset(shared / "data" / "semantickitti", sequences=["00"]))
    road, terrain = (real.classes[name].roughness for name in ("road", "terrain"))
    assert 0.003 < road < 0.01 < terrain < 0.04, "metres"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sensor", "hdl-32"), "there is no sensor 'hdl-32', expected one of hdl64, vlp16"),
        (("--kind", "moon"), "there is no street of kind 'moon', expected one of"),
        (("--format", "las"), "found formats las, expected some of semantic-kitti, kitti, bag"),
        (("--scenes", "0"), "found 0 scenes"),
        (("--scans-per-scene", "0"), "found 0 scans a scene"),
        (("--format", "bag,,bag"), "--format is 'bag,,bag', expected names with one comma between two, each once"),
        (("--format", "bag,bag"), "each once, such as semantic-kitti,bag"),
        (("--scenes", "1000000000"), "found 1000000000 scenes, expected 100000 at most"),
        (("--interval", "inf"), "the interval is inf s, expected 3600 s at most"),
        (("--scans-per-scene", "1000000000"), "scans a scene, expected 10000 at most: a street ends"),
        (("--interval", "0.01"), "the interval is 0.01 s, but hdl64 turns once in 0.1 s"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = spvnas("--out", tmp_path / "out", *arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_simulated(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = spvnas(*_SMALL, "--out", tmp_path / "file" / "out")
    assert done.exit_code == 1
    assert "cannot be made a folder for the scans (Not a directory); name another one with --out" in done.stderr
    there = spvnas("--out", tmp_path / "report", "--compare", tmp_path, "--sim", tmp_path, "--scenes", 3)
    assert there.exit_code == 2
    assert "--scenes makes scans, and --sim names some that are there" in " ".join(
        there.stderr.replace("│", " ").split()
    )


def test_a_folder_of_something_else_is_left_alone(drives: Path, tmp_path: Path) -> None:
    before = tree(drives)
    other = spvnas(*_SMALL, "--format", _ALL, "--seed", 6, "--out", drives)
    assert other.exit_code == 1
    assert "holds a simulation with seed 5, now 6" in other.stderr
    assert tree(drives) == before
    (tmp_path / "holiday.jpg").write_bytes(b"")
    strange = spvnas("--out", tmp_path)
    assert strange.exit_code == 1
    assert "is not empty and holds no simulation.json" in strange.stderr
    (tmp_path / "simulation.json").write_text(json.dumps([1, 2]))
    assert "cannot be read" in spvnas("--out", tmp_path).stderr


def test_without_embree_the_command_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    done = spvnas("--scenes", 1, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "pip install 'spvnas_ros[simulate]'" in done.stderr
    assert not (tmp_path / "out").exists()


def _xyz(vector: object) -> tuple[float, float, float]:
    return vector.x, vector.y, vector.z  # type: ignore[attr-defined]


def _xyzw(turn: object) -> tuple[float, float, float, float]:
    return turn.x, turn.y, turn.z, turn.w  # type: ignore[attr-defined]
