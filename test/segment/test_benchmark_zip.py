"""The zip for SemanticKITTI's server: what its validation script asks for, and no zip where something is missing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import spvnas
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.segment.benchmark_zip import TEST_SCANS, check_benchmark, write_benchmark
from spvnas_ros.segment.output import OutputError

SCANS = {"11": 2, "12": 1}
NAMES = ["11/000000", "11/000001", "12/000000"]


def points(name: str) -> int:
    return len(street_scan(int(name[-1]), 16, 100)[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("08/000000", *NAMES):
        sequence, stem = name.split("/")
        folder = tmp_path / "kitti" / "sequences" / sequence / "velodyne"
        folder.mkdir(parents=True, exist_ok=True)
        street_scan(int(stem), 16, 100)[0].tofile(folder / f"{stem}.bin")
    return tmp_path / "kitti"


def test_the_zip_has_folders_and_a_label_for_each_point(root: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert spvnas("segment", root, "-w", weights, "-o", out, "--device", "cpu", "--quiet").exit_code == 0
    packed: list[None] = []
    path = write_benchmark(out, out / "benchmark.zip", points, SCANS, packed.append)
    assert len(packed) == len(NAMES)
    with zipfile.ZipFile(path) as archive:
        folders = {info.filename for info in archive.infolist() if info.filename.endswith("/")}
        files = {info.filename: info.file_size for info in archive.infolist() if not info.filename.endswith("/")}
        labels = np.frombuffer(archive.read("sequences/11/predictions/000001.label"), "<u4")
    assert folders == {"sequences/"} | {f"sequences/{n}/{part}" for n in SCANS for part in ("", "predictions/")}
    assert files == {f"sequences/{n[:2]}/predictions/{n[3:]}.label": 4 * points(n) for n in NAMES}
    assert set(labels) <= {0, *SEMANTIC_KITTI.to_raw}
    label = out / "sequences" / "12" / "predictions" / "000000.label"
    label.write_bytes(label.read_bytes()[:-4])
    with pytest.raises(OutputError, match=rf"000000\.label has \d+ bytes, expected the labels of {points(NAMES[2])}"):
        write_benchmark(out, out / "other.zip", points, SCANS)
    label.unlink()
    with pytest.raises(OutputError, match=r"000000\.label is missing"):
        write_benchmark(out, out / "other.zip", points, SCANS)
    assert not [*out.glob("*other*")]


def test_what_is_no_test_split_is_refused_before_anything_is_labelled(
    root: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = spvnas("segment", root, "-w", weights, "-o", out, "--device", "cpu", "--benchmark")
    assert done.exit_code == 1
    assert "sequences 11 to 21, but 20348 of 20351 are missing, the first is 11/000002" in done.output
    assert not out.exists()
    done = spvnas("segment", root / "sequences" / "11", "-w", weights, "-o", out, "--benchmark")
    assert (done.exit_code, "is no root of SemanticKITTI" in done.output) == (1, True)


def test_names_and_classes_must_be_the_benchmarks() -> None:
    check_benchmark(NAMES, "semantic-kitti", SCANS)
    check_benchmark(NAMES, "mit-han-lab", SCANS)
    for names, label_map, message in (
        (NAMES[:-1], "semantic-kitti", r"1 of 3 are missing, the first is 12/000000 \(of sequences 12\)"),
        (
            [*NAMES, "12/000001"],
            "semantic-kitti",
            "frame 12/000001 is none of the benchmark's, whose sequence has 1 scans",
        ),
        (NAMES, "nuscenes", "classes of label map 'nuscenes', expected SemanticKITTI's 19"),
        (NAMES, "own", "classes of label map 'own'"),
    ):
        with pytest.raises(OutputError, match=message):
            check_benchmark(names, label_map, SCANS)
    assert sum(TEST_SCANS.values()) == 20351
