"""The table of replays in real time."""

from __future__ import annotations

from spvnas_ros.trials.real_time import Setting, table


def report(p50: float, p95: float, boxes: float | None, dropped: int) -> dict[str, object]:
    spread = {"p50": p50, "p95": p95, "p99": p95, "max": p95}
    return {
        "latency_ms": spread,
        "boxes_ms": None if boxes is None else {**spread, "p50": boxes},
        "stages_ms": {"inference": spread},
        "dropped": dropped,
        "lost": 0,
    }


def test_a_row_spans_the_rounds_and_says_what_was_not_listened_to() -> None:
    found = table(
        {
            Setting("int8", False): [report(70.4, 90.0, None, 0), report(73.6, 95.2, None, 2)],
            Setting("int8", True): [report(80.0, 100.0, 120.0, 1)],
            Setting("int16", True): [],
        }
    ).splitlines()
    assert found[2:] == [
        "| int8 | labels | 70-74 | 90-95 | - | - | 70-74 | 0-2 | 0 |",
        "| int8 | labels, objects | 80 | 100 | 120 | 100 | 80 | 1 | 0 |",
    ]
    assert all(line.count("|") == found[0].count("|") for line in found)
