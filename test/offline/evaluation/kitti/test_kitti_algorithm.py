"""KITTI's figures: those of the official development kit on recorded sets, and what its rules mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kitti_sets import SETS, frames_of, unpacked
from spvnas_ros.offline.evaluation.kitti import Figure, evaluate_kitti
from spvnas_ros.offline.evaluation.kitti.kitti_algorithm import thresholds

DIFFICULTIES = ("easy", "moderate", "hard")
ON_THE_LIMIT = "10"
"""Cases that begin so overlap by exactly 0.7: rounding decides, differently in every evaluator."""


def by_name(figures: tuple[Figure, ...]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(f"{figure.kind}/{figure.metric}", []).append(figure)
    assert all([each.difficulty for each in three] == [*DIFFICULTIES] for three in found.values())
    return found


@pytest.mark.parametrize("name", SETS)
def test_all_41_precisions_are_those_of_the_development_kit(shared: Path, tmp_path: Path, name: str) -> None:
    recorded = json.loads((shared / "golden" / "detection" / "kitti_eval" / "expected.json").read_text())[name]
    found = by_name(evaluate_kitti(frames_of(unpacked(shared, name, tmp_path))))
    compared = 0
    for key, figures in found.items():
        kind, metric = key.split("/")
        expected = recorded[kind][metric]["cpp_r40"]
        if expected is None:
            assert all(figure.curve is None and "no detection of the class" in figure.reason for figure in figures)
            continue
        for index, figure in enumerate(figures):
            assert figure.curve is not None, figure.reason
            precision = recorded["precision_cpp_r40"][key][index]
            np.testing.assert_allclose(figure.curve.precision, precision, rtol=0, atol=1e-6, err_msg=f"{key} {index}")
            assert figure.curve.r40 == pytest.approx(expected["R40"][index], abs=1e-4)
            assert figure.curve.r11 == pytest.approx(expected["R11"][index], abs=1e-4)
            compared += 1
    assert compared == 24 if name == "empty_and_missing" else compared == 36


def test_small_cases_are_those_of_the_development_kit(shared: Path, tmp_path: Path) -> None:
    cases = json.loads((shared / "golden" / "detection" / "kitti_eval" / "small_cases.json").read_text())
    unpacked(shared, "small_cases", tmp_path)
    wrong = []
    for name, case in cases.items():
        if name.startswith(ON_THE_LIMIT):
            continue
        found = by_name(evaluate_kitti(frames_of(tmp_path / name)))
        known = {key for key, figures in found.items() if figures[0].curve is not None}
        if known != set(case["official_cpp"]):
            wrong.append((name, known, set(case["official_cpp"])))
            continue
        for key, expected in case["official_cpp"].items():
            for index, figure in enumerate(found[key]):
                assert figure.curve is not None
                ours, theirs = (figure.curve.r11, figure.curve.r40), (expected["R11"][index], expected["R40"][index])
                if not np.allclose(ours, theirs, rtol=0, atol=1e-4):
                    wrong.append((name, key, index, ours, theirs))
    assert wrong == []


@pytest.mark.parametrize("objects", [1, 2, 5, 11, 40, 41, 60, 100, 1000])
def test_few_objects_reach_few_recalls_and_that_is_told(objects: int) -> None:
    assert len(thresholds(np.linspace(1, 0, objects), objects)) == min(objects, 41)
