"""`spvnas segment` on several recordings: the same labels as one by one, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from spvnas_cli import spvnas
from spvnas_ros.cli.fleet import folders_of
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError


@pytest.fixture
def drives(tmp_path: Path) -> list[Path]:
    found = []
    for number, day in enumerate(("monday", "tuesday")):
        folder = tmp_path / "drives" / day / "scans"
        folder.mkdir(parents=True)
        for index in range(2):
            street_scan(seed=2 * number + index, beams=16, columns=100)[0].tofile(folder / f"{index}.bin")
        found.append(folder)
    return found


def test_several_are_labelled_as_one_by_one(drives: list[Path], weights: Path, tmp_path: Path) -> None:
    out, alone = tmp_path / "out", tmp_path / "alone"
    result = spvnas("segment", *drives, "-w", weights, "--out", out, "--device", "cpu", "--processes", 2)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith(("1/", "2/"))] == [
        f"{number}/2 {drive}" for number, drive in enumerate(drives, 1)
    ]
    assert spvnas("segment", drives[1], "-w", weights, "--out", alone, "--device", "cpu").exit_code == 0
    labels = sorted(path.relative_to(alone) for path in alone.rglob("*.label"))
    assert len(labels) == 2
    for label in labels:
        assert (out / "tuesday" / "scans" / label).read_bytes() == (alone / label).read_bytes()


def test_one_that_fails_is_named_and_the_others_are_labelled(drives: list[Path], weights: Path, tmp_path: Path) -> None:
    (drives[0] / "0.bin").write_bytes(b"no scan")
    (drives[0] / "1.bin").unlink()
    result = spvnas("segment", *drives, "-w", weights, "--out", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 1
    assert f"1 of 2 not labelled completely: {drives[0]}" in result.stdout
    assert len(list((tmp_path / "out" / "tuesday").rglob("*.label"))) == 2


def test_folders_are_told_apart(tmp_path: Path) -> None:
    given = [tmp_path / name for name in ("a/run.bag", "a/run.mcap", "b/run.mcap")]
    assert folders_of(given) == [Path("a/run.bag"), Path("a/run.mcap"), Path("b/run")]
    assert folders_of(given[:1]) == [Path("run")]
    alike = [tmp_path / name for name in ("x.pcd", "x.bin", "x.pcd.bin", "x.bin.pcd", "y.bin")]
    assert folders_of(alike) == [Path(name) for name in ("x.pcd", "x.bin", "x.pcd.bin", "x.bin.pcd", "y")]
    with pytest.raises(UserError, match="named twice"):
        folders_of([given[0], given[0]])
    with pytest.raises(UserError, match="lies in"):
        folders_of([tmp_path / "a", given[0]])
