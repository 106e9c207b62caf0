"""How soon and in what order `spvnas segment` says no, and what all commands do with errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import segmented
from spvnas_ros.engine import ENGINES as REAL_ENGINES
from spvnas_ros.engine.sample_street import write_drive_bag
from spvnas_ros.segment.command import ENGINES


def test_mistakes_are_told_in_the_order_of_the_question_and_before_torch_is_loaded(tmp_path: Path, scans: Path) -> None:
    """Each round mends what the one before complained of."""
    (tmp_path / "out").write_text("a file")
    code = (
        "import sys; from typer.testing import CliRunner; from spvnas_ros.cli import app\n"
        "result = CliRunner().invoke(app, sys.argv[1:])\n"
        "print(result.exit_code, 'torch' in sys.modules, result.stderr)"
    )
    (tmp_path / "w").write_text("no weights")
    wrong = {"input": "nope.bin", "-w": "x", "--engine": "steam", "--device": "tpu", "-o": "out"}
    right = {"input": str(scans), "-w": "w", "--engine": "auto", "--device": "cpu", "-o": "out"}
    says = ("nope.bin does not exist", "there is no file x", "unknown engine", "unknown device", "out is a file")
    for name, message in zip(wrong, says, strict=True):
        options = [part for key in list(wrong)[1:] for part in (key, wrong[key])]
        done = subprocess.run(
            [sys.executable, "-c", code, "segment", wrong["input"], *options],
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout.startswith("1 False spvnas: ")
        assert message in done.stdout
        wrong[name] = right[name]


def test_the_names_known_without_torch_are_those_of_the_engines() -> None:
    assert ENGINES == REAL_ENGINES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.bin",), "missing.bin does not exist"),
        (("notes.md",), "no known format"),
        (("empty",), "holds no scans"),
        (("scan.bin", "--intensity", "loud"), "intensity rule"),
        (("scan.bin", "--topic", "/points"), "is no bag"),
        (("scan.bin", "--device", "tpu"), "device"),
        (("scan.bin", "--engine", "steam"), "engine"),
        (("scan.bin", "--out", "notes.txt"), "is a file"),
        (("scan.bin", "--weights", "notes.txt"), "notes.txt"),
        (("scan.bin", "--weights", "missing.safetensors"), "missing.safetensors"),
        (("bag", "--topic", "/other"), "no cloud topic /other; found /points"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "notes.md").write_text("hello")
    np.zeros((3, 4), np.float32).tofile(tmp_path / "scan.bin")
    write_drive_bag(tmp_path / "bag", 1, beams=16, columns=10)
    defaults = [] if "--weights" in arguments else ["--weights", weights]
    defaults += [] if "--out" in arguments else ["--out", "out"]
    status, out, error = segmented(*arguments, *defaults)
    assert (status, out) == (1, "")
    assert error.startswith("spvnas: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
