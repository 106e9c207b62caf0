"""ament's flake8, where it is installed, with this project's length of lines and without what ruff decides."""

from __future__ import annotations

import pytest

from places import REPOSITORY

LOOKED_AT = ("spvnas_ros", "launch", "test", "setup.py")


@pytest.mark.linter
@pytest.mark.flake8
def test_ament_flake8_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ament_flake8", reason="ament_flake8 is not installed (it comes with ROS, not from PyPI)")
    from ament_flake8.main import main_with_errors

    monkeypatch.chdir(REPOSITORY)
    status, errors = main_with_errors(["--config", str(REPOSITORY / "test" / "ament_flake8.ini"), *LOOKED_AT])
    assert status == 0, "\n".join(errors)
