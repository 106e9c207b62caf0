"""ament's docstring linter, where it is installed."""

from __future__ import annotations

import pytest

from places import REPOSITORY

IGNORED = (
    # Those that ament leaves out by itself.
    *("D100", "D101", "D102", "D103", "D104", "D105", "D106", "D107", "D203", "D212", "D404"),
    # The summary is on the first line, and may be a name: the thing, not an order to fetch it.
    *("D213", "D401", "D402", "D403"),
    # Summaries may be longer than a line, or end in a colon before a list.
    *("D205", "D209", "D210", "D400", "D415"),
    # Sections are not those of numpy.
    *("D406", "D407", "D413"),
)


@pytest.mark.linter
@pytest.mark.pep257
def test_ament_pep257_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ament_pep257", reason="ament_pep257 is not installed (it comes with ROS, not from PyPI)")
    from ament_pep257.main import main

    monkeypatch.chdir(REPOSITORY)
    assert main(["spvnas_ros", "launch", "test", "--ignore", *IGNORED]) == 0, "see the lines above"
