"""The house: every room has a floor, no import points up, no files import each other in a circle, none share a name."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from places import REPOSITORY

grimp = pytest.importorskip("grimp", reason="import-linter is not installed; pip install 'spvnas_ros[test]' brings it")

PACKAGE = REPOSITORY / "spvnas_ros"
ROOMS = sorted(path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)

SAME_ROLE = {"__init__", "__main__", "command", "engine", "geometry", "errors", "training"}
"""Names that say what a file does for its room, and are at home in several, as `command` in doctor/ and viewer/."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("spvnas_ros", cache_dir=None)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_new_room_must_be_placed_on_a_floor(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for file in PACKAGE.rglob("*.py"):
        copy = tmp_path / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    before = lint(tmp_path)
    assert before.returncode == 0, before.stdout
    (tmp_path / "spvnas_ros" / "attic.py").write_text('"""Not on any floor."""\n')
    after = lint(tmp_path)
    assert after.returncode != 0
    assert "spvnas_ros.attic" in after.stdout


def test_no_files_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while True:
        leaves = {module for module, imported in left.items() if not imported}
        if not leaves:
            break
        left = {module: imported - leaves for module, imported in left.items() if module not in leaves}
    assert left == {}, "these import each other"


def test_no_two_files_share_a_name() -> None:
    names = Counter(path.stem for path in PACKAGE.rglob("*.py"))
    assert {name: count for name, count in names.items() if count > 1 and name not in SAME_ROLE} == {}


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: str(path.parent.relative_to(PACKAGE)))
def test_a_room_says_what_is_inside_and_who_calls_it(room: Path) -> None:
    text = ast.get_docstring(ast.parse(room.read_text()))
    assert text
    assert text.replace(".py", "").replace("...", "").count(".") >= 2, "expected two sentences"
