"""Stamps, rates and missing clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examined_bags import FACTS, PERIOD, START, about, message, record, three
from spvnas_ros.doctor import Finding, Timing, examine, observe
from spvnas_ros.doctor.timing import rate_of


def test_stamps_that_jump_back_repeat_or_drift_are_found(street: np.ndarray, tmp_path: Path) -> None:
    def findings(name: str, stamps: list[int], recorded: list[int] | None = None) -> list[Finding]:
        clouds = [message(street[::50], START + stamp * PERIOD) for stamp in stamps]
        return examine(observe(record(tmp_path / name, clouds, recorded)))

    clock = [START + number * PERIOD for number in range(6)]
    assert about(findings("good", [0, 1, 2, 3, 4, 5], clock), "stamps").level == "ok"
    back = about(findings("back", [0, 1, 2, 0, 1, 2], clock), "stamps")
    assert (back.level, back.found) == ("bad", "jump back 1 time(s)")
    same = about(findings("same", [0, 1, 1, 2, 3, 4], clock), "stamps")
    assert (same.level, same.found) == ("warn", "1 repeated")
    assert about(findings("drift", [100, 101, 102, 103, 104, 105], clock), "stamps").found.startswith("-10.0 s")
    lost = about(findings("lost", [0, 1, 2, 5, 6, 7]), "rate")
    assert (lost.level, lost.found) == ("warn", "10.0 Hz, but about 2 of 8 clouds are missing")


def test_the_network_is_held_against_the_rate_of_the_sensor(street: np.ndarray, tmp_path: Path) -> None:
    clouds = observe(record(tmp_path / "bag", three(lambda stamp: message(street, stamp))))

    def speed(*ms: float) -> Finding:
        return about(examine(clouds, FACTS, Timing(ms, "cpu")), "network")

    assert speed(20, 30).level == "ok"
    assert speed(20, 30, 200).level == "warn"
    assert "every 3rd cloud" in speed(250, 260).advice
    assert "cloud every 100.0 ms" in speed(20).found


@given(st.data(), st.floats(1, 50), st.integers(5, 60))
def test_clouds_that_are_missing_are_counted(data: st.DataObject, hertz: float, count: int) -> None:
    inner = st.lists(st.integers(1, count - 2), unique=True, max_size=(count - 2) // 4)
    missing = set(data.draw(inner))
    stamps = [START + round(n * 1e9 / hertz) for n in range(count) if n not in missing]
    rate = rate_of(stamps)
    assert rate is not None
    assert rate.hertz == pytest.approx(hertz, rel=1e-3)
    assert (rate.lost, rate.expected) == (len(missing), count)
