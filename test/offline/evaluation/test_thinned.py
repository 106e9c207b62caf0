"""Data sets as sensors with fewer beams would have seen them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import spvnas
from spvnas_ros.offline.augment.option_checks import AugmentationError
from spvnas_ros.offline.augment.sensor import pitches
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.evaluation.thinned import Thinned


@pytest.mark.parametrize("beams", [32, 16])
def test_evenly_spaced_rings_stay_with_their_labels(shared: Path, beams: int) -> None:
    whole = open_dataset(shared / "data/semantickitti", sequences="00")
    thinned = Thinned(whole, beams)
    assert [thinned.name(index) for index in range(len(thinned))] == [whole.name(index) for index in range(len(whole))]
    scan, part, again = whole[0], thinned[0], thinned[0]
    np.testing.assert_array_equal(part.points, again.points)
    assert 0.6 * beams / 64 < len(part) / len(scan) < 1.4 * beams / 64
    known = {point.tobytes(): label for point, label in zip(scan.points, scan.labels, strict=True)}
    assert all(known[point.tobytes()] == label for point, label in zip(part.points, part.labels, strict=True))
    # As high and as low as before: rings are missing in between, not at the ends.
    for percent in (2, 98):
        before, after = (np.percentile(pitches(each.points), percent) for each in (scan, part))
        assert abs(before - after) < np.radians(2)


def test_more_beams_than_there_are_are_refused(shared: Path) -> None:
    with pytest.raises(AugmentationError, match="beams has 65"):
        Thinned(open_dataset(shared / "data/semantickitti", sequences="00"), 65)[0]


def test_the_command_says_what_was_scored(shared: Path) -> None:
    root = str(shared / "data/semantickitti")
    done = spvnas("evaluate", root, "--sequences", "04", "--beams", "16", "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["beams"] == 16
    assert document["points"] < 100_000
