"""Labelled scans of other mounts, frames and fields, scored and learnt from: what is said, and what mends it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from places import RECIPES
from spvnas_cli import spvnas
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI

UTM = (458_000.0, 5_428_000.0, 120.0)


def write(folder: Path, by: tuple[float, float, float] = (0, 0, 0), field: str = "intensity") -> Path:
    """Two scans with labels, float64 in .npy, moved; the first has twenty zeros in place of returns."""
    (folder / "labels").mkdir(parents=True)
    for number in range(2):
        points, truth = street_scan(number, 32, 400)
        record = np.zeros(len(points), [("x", "f8"), ("y", "f8"), ("z", "f8"), (field, "f4")])
        for column, name in enumerate("xyz"):
            record[name] = points[:, column].astype(np.float64) + by[column]
        record[field] = points[:, 3]
        if number == 0:
            record[:20] = np.zeros(20, record.dtype)
        np.save(folder / f"{number}.npy", record)
        raw = SEMANTIC_KITTI.decode(truth).astype("<u4")
        raw.tofile(folder / "labels" / f"{number}.label")
    return folder


def report(*arguments: object) -> tuple[dict[str, object], str]:
    done = spvnas("evaluate", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_map_is_told_of_and_its_origin_gives_the_scores_of_the_scan_as_it_was(tmp_path: Path) -> None:
    plain, said = report(write(tmp_path / "plain"))
    assert said == ""
    assert plain["unusable"] == {"not_finite": 0, "at_origin": 20, "too_far": 0, "no_intensity": 0, "outside": 0}
    assert "intensity from field 'intensity', taken as it is" in str(plain["sensor"])
    away = write(tmp_path / "map", UTM)
    done = spvnas("evaluate", away)
    assert "warning: place: no point lies within 100 m of the origin, so" in done.stderr
    mended, said = report(away, "--origin", ",".join(map(str, UTM)))
    assert said == ""
    assert mended["confusion"] == plain["confusion"]
    assert report(away, "--origin", "auto", "--mount", "auto")[1] == ""


def test_a_raised_frame_is_told_of_with_the_mount_that_mends_it(tmp_path: Path) -> None:
    raised = write(tmp_path / "raised", (0, 0, 1.2))
    _, said = report(raised)
    (line,) = said.splitlines()
    option = line.rpartition("set --mount ")[2]
    assert option.startswith("z=0.")
    found, said = report(raised, "--mount", option)
    assert said == ""
    assert f"mount {option}" in str(found["sensor"])
    assert report(raised, "--quiet")[1] == ""


def test_an_unknown_field_is_told_of_and_can_be_named(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd", field="echo_strength")
    _, said = report(odd)
    assert "no field is known to hold it (fields: x, y, z, echo_strength)" in said
    found, said = report(odd, "--intensity-field", "echo_strength")
    assert said == ""
    assert "field 'echo_strength'" in str(found["sensor"])


@pytest.mark.parametrize("mended", [False, True])
def test_training_says_that_it_finds_the_place_of_scans_in_a_map_and_takes_an_origin(
    tmp_path: Path, mended: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    away = write(tmp_path / "map", UTM)
    overrides = [
        f"data.train={away}", "data.workers=0", "data.simulate={}", "trainer.steps=1", "trainer.batch_size=2",
        "trainer.validate_every=0", "data.voxel_size=0.4", "schedule.warmup_steps=0",
    ]  # fmt: skip
    if mended:
        overrides.append(f"data.origin='{','.join(map(str, UTM))}'")
    done = spvnas("train", RECIPES / "sim_tiny.yaml", *overrides, "--out", tmp_path / "run")
    said = done.stderr + done.stdout + "".join(capsys.readouterr())
    assert done.exit_code == 0, said
    assert ("warning: place: no point lies within 100 m of the origin, so" in said) != mended
    assert ("origin 458000,5428000,120" in said) == mended
