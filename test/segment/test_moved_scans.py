"""Real scans as other mounts and frames would give them, labelled by the package's own network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moved_clouds import real_files, seen_by
from spvnas_ros import Perception
from spvnas_ros.clouds.mount import Mount, PlaceRule
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.evaluation.metrics import confusion_matrix, score
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.first_look import first_look

CLASSES = 19
POINT = 0.01
"""Of mIoU."""

MOVES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "1.2 m up": (lambda p: p + np.array((0, 0, 1.2)), "ground"),
    "8 degrees down": (lambda p: seen_by(p, Mount(pitch=8)), "ground"),
    "30 m away": (lambda p: p + np.array((30, 0, 0)), "place"),
    "in a map": (lambda p: p + np.array((458000, 5428000, 120)), ""),
    "300 m away": (lambda p: p + np.array((300, 0, 0)), ""),
}
"""What is done to positions, and what the warning is about; "" where the place is found by itself, and that is said."""


@pytest.fixture(scope="module")
def network() -> Perception:
    return Perception.load("default", device="cpu")


@pytest.fixture(scope="module")
def chosen(shared: Path) -> list[Path]:
    """One scan of each of six places: streets, a motorway, a junction, country roads."""
    return [file for file in real_files(shared) if file.stem == "000000" and file.parts[-3] != "04"]


def miou(
    network: Perception, scans: list[Path], move: Callable[[np.ndarray], np.ndarray], folder: Path, *place: str | None
) -> tuple[float, list[list[str]]]:
    """The score over the scans as they were moved, written in float64, and what is said of each."""
    counts, said = np.zeros((CLASSES, CLASSES + 1), np.int64), []
    origin, mount = place or (None, None)
    for scan in scans:
        points = np.fromfile(scan, np.float32).reshape(-1, 4).astype(np.float64)
        np.save(folder / "scan.npy", np.column_stack((move(points[:, :3]), points[:, 3])))
        with open_source(folder / "scan.npy", place=PlaceRule.parse(origin, mount)) as source:
            said.append([concern.about for concern in first_look(source.look(), source.sensor, network.facts)])
            labels = network(next(iter(source)).load().points).labels
        truth = np.fromfile(scan.parents[1] / "labels" / f"{scan.stem}.label", np.uint32)
        counts += confusion_matrix(SEMANTIC_KITTI.encode(truth), labels, CLASSES)
    found = score(counts, network.facts.classes).miou
    assert found is not None
    return found, said


@pytest.fixture(scope="module")
def unmoved(network: Perception, chosen: list[Path], tmp_path_factory: pytest.TempPathFactory) -> float:
    found, said = miou(network, chosen, lambda positions: positions, tmp_path_factory.mktemp("unmoved"))
    assert said == [[]] * len(chosen)
    return found


@pytest.mark.parametrize("name", MOVES)
def test_the_automatic_place_keeps_the_score_and_without_it_there_is_a_warning(
    network: Perception, chosen: list[Path], unmoved: float, tmp_path: Path, name: str
) -> None:
    move, about = MOVES[name]
    found, said = miou(network, chosen, move, tmp_path, "auto", "auto")
    assert said == [[]] * len(chosen)
    # Where the cloud is levelled, so is the slope of the place, which the network has learnt to see (docs/sensors.md).
    assert found > unmoved - (2.5 if name == "8 degrees down" else 1) * POINT
    for scan in chosen:
        points = np.fromfile(scan, np.float32).reshape(-1, 4).astype(np.float64)
        np.save(tmp_path / "scan.npy", np.column_stack((move(points[:, :3]), points[:, 3])))
        with open_source(tmp_path / "scan.npy") as source:
            said_of_it = [concern.about for concern in first_look(source.look(), source.sensor, network.facts)]
            assert said_of_it == ([about] if about else [])
            assert [remark[:7] for remark in source.remarks] == ([] if about else ["place: "])


def test_with_the_exact_mount_the_score_stays(
    network: Perception, chosen: list[Path], unmoved: float, tmp_path: Path
) -> None:
    found, _ = miou(network, chosen, MOVES["8 degrees down"][0], tmp_path, None, "pitch=8")
    assert found == pytest.approx(unmoved, abs=POINT / 10)


def test_without_it_the_score_falls(network: Perception, chosen: list[Path], unmoved: float, tmp_path: Path) -> None:
    """So that the warnings are worth their line."""
    assert miou(network, chosen[:3], MOVES["8 degrees down"][0], tmp_path)[0] < unmoved - 5 * POINT


def test_a_turned_scan_needs_no_option_and_no_warning(
    network: Perception, chosen: list[Path], unmoved: float, tmp_path: Path
) -> None:
    """Networks are trained with rotations about z."""
    found, said = miou(network, chosen, lambda positions: seen_by(positions, Mount(yaw=90)), tmp_path)
    assert said == [[]] * len(chosen)
    assert found > unmoved - POINT
