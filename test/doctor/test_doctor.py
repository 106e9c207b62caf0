"""`spvnas doctor`: what fits is called ok, and what the user can mend is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from examined_bags import FACTS, about, invoke
from spvnas_ros.doctor import examine, observe
from spvnas_ros.engine.sample_street import write_drive_bag


def test_semantickitti_fits_itself(shared: Path) -> None:
    for sequence in sorted((shared / "data/semantickitti/sequences").iterdir()):
        findings = examine(observe(sequence), FACTS)
        assert [f for f in findings if f.level != "ok"] == []
        assert about(findings, "beams").found == "64 by the order of the points"


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_real_vlp16_is_readable_but_not_what_the_weights_know(shared: Path, weights: Path, storage: str) -> None:
    status, out, error = invoke(shared / f"data/bags/vlp16_pointcloud2_{storage}", "-w", weights, "--device", "cpu")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    levels = {line.split()[1]: line.split()[0] for line in lines if line[:1].strip()}
    assert {name for name, level in levels.items() if level == "warn"} >= {"beams", "view", "range"}
    assert {name for name, level in levels.items() if level == "ok"} >= {"fields", "stamps", "rate", "intensity"}
    assert "intensity float32, ring uint16, time float32" in out
    assert "10.0 Hz" in out
    assert "-11.0 to +15.0 degrees" in out
    assert "4 measured" in out
    assert all(line.startswith(" " * 16 + " -> ") or line[:4].strip() for line in lines)
    assert lines[-1].endswith("0 bad")


def test_a_generated_drive_fits_from_end_to_end(tmp_path: Path) -> None:
    write_drive_bag(tmp_path / "drive", 3, columns=400)
    status, out, _ = invoke(tmp_path / "drive")
    assert status == 0
    assert "64 seen, by the ring field" in out
    assert "\nwarn" not in out
    write_drive_bag(tmp_path / "small", 3, beams=16, columns=900)
    status, out, _ = invoke(tmp_path / "small")
    assert status == 0
    assert "warn  beams" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing",), "missing does not exist"),
        (("drive", "--topic", "/other"), "no cloud topic /other"),
        (("drive", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("drive", "--intensity", "loud"), "intensity rule"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_drive_bag("drive", 1, beams=16, columns=20)
    status, out, error = invoke(*arguments)
    assert (status, out) == (1, "")
    assert error.startswith("spvnas: ")
    assert says in error
    assert error.count("\n") == 1
