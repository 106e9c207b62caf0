"""The bar of a download."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spvnas_cli import spvnas
from spvnas_ros.zoo.table import download_bar


def test_a_download_that_never_begins_shows_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    result = spvnas("zoo", "fetch", "spvcnn-30g", "--url", "http://127.0.0.1:1/init", "--cache", os.fspath(tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith("spvnas: spvcnn-30g cannot be fetched")
    assert "bytes" not in result.stderr


def test_the_download_bar_appears_with_the_first_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with download_bar("model") as report:
        report(0, 10_000)
    assert capsys.readouterr().err == ""
    with download_bar("model") as report:
        report(0, 10_000)
        report(5_000, 10_000)
    assert "5.0/10.0 kB" in capsys.readouterr().err
