"""Networks that are adapted to recordings without labels: what they learn from, what they record, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from drives import write_drive
from made_bags import make_bag
from places import RECIPES
from spvnas_ros.cli import app
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets.scan import LabelledScan
from spvnas_ros.offline.datasets.unlabelled import open_unlabelled
from spvnas_ros.offline.training.adapt_batch import Mixer, Pair
from spvnas_ros.offline.training.batch import VoxelDataset
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.task import averaged
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint, save_checkpoint

RECIPE = RECIPES / "adapt.yaml"
SPEC = NetSpec.of([4, 4, 8, 8, 8, 8, 8, 8, 8], [1] * 8, num_classes=19)
STEPS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drive `labelled`, and a drive `bare` of other streets without labels."""
    folder = tmp_path_factory.mktemp("drives")
    for name in ("labelled", "bare"):
        (folder / name).mkdir()
        write_drive(folder / name, 4)
    for number in (0, 1):
        (folder / "bare" / "velodyne" / f"{number:06d}.bin").unlink()
    shutil.rmtree(folder / "bare" / "labels")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_checkpoint(path, PointVoxelUNet(SPEC), Facts(SPEC, "before", voxel_size=0.3, provenance="from a friend"))
    return path


def settings(drives: Path, *others: str) -> list[str]:
    given = [f"data.train={drives / 'labelled'}", "data.simulate.scenes=0", "data.simulate.validation_scenes=0"]
    given += ["data.workers=0", "data.max_voxels=2000", "schedule.warmup_steps=0", "trainer.device=cpu"]
    given += [f"trainer.steps={STEPS}", "trainer.log_every=1", "adapt.calibration=2", "adapt.memory=2"]
    return [*given, *others]


def adapted(
    drives: Path, start: Path, out: Path, *others: str, target: Path | None = None, resume: bool = False
) -> int:
    named = [f"start={start}", f"adapt.target={target or drives / 'bare' / 'velodyne'}"]
    return run(RECIPE, [*settings(drives, *others), *named], out, resume=resume, quiet=True)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)[0].state_dict()


def sha_of(out: Path, which: str = "last") -> str | None:
    """The hash of a kept network: of all its tensors, bit by bit."""
    return load_checkpoint(out / f"{which}.safetensors")[1].weights_sha256


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(drives: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from its beginning to its end."""
    out = tmp_path_factory.mktemp("run") / "whole"
    words = [drives / "bare" / "velodyne", "-w", start, "-o", out, *settings(drives, "trainer.save_every=2")]
    done = CliRunner().invoke(app, ["adapt", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "without labels nothing chooses a better" in " ".join(done.output.split())
    return out


def test_the_command_leaves_a_network_that_says_what_it_was_adapted_to(whole: Path, start: Path, drives: Path) -> None:
    net, facts = load_checkpoint(whole / "last.safetensors")
    before, known = load_checkpoint(start)
    assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    assert facts.training is not None
    assert facts.training.start_sha256 == known.weights_sha256
    # A table, whose cells are folded.
    shown = CliRunner().invoke(app, ["inspect", "-w", str(whole / "last.safetensors")]).output
    shown = "".join(line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 3).replace(" ", "")
    for words in ("without labels: bare/velodyne (2 scans)", "from a friend", known.weights_sha256, "seed 0"):
        assert str(words).replace(" ", "") in shown
    assert facts.training.data == "4 scans: labelled; without labels: bare/velodyne (2 scans)"  # not where they lie
    assert str(drives) not in facts.provenance
    report = json.loads((whole / "adapted.json").read_text())
    assert report["targets"] == {"bare/velodyne": 2}
    seen, learnt = (sum(each[key] for each in report["classes"].values()) for key in ("seen", "learnt"))
    assert 0 < learnt < seen
    steps = [line for line in lines_of(whole) if "loss" in line]
    assert len(steps) == STEPS
    assert all(0 < line["taught"] <= 1 and 0 <= line["agreement"] <= 1 for line in steps)
    assert sha_of(whole, "best") == sha_of(whole)


def test_labels_beside_the_recording_are_never_read(whole: Path, drives: Path, start: Path, tmp_path: Path) -> None:
    shutil.copytree(drives / "bare", tmp_path / "bare")
    (tmp_path / "bare" / "labels").mkdir()
    for scan in (tmp_path / "bare" / "velodyne").iterdir():
        (tmp_path / "bare" / "labels" / f"{scan.stem}.label").write_bytes(b"these are no labels")
    assert adapted(drives, start, tmp_path / "run", target=tmp_path / "bare" / "velodyne") == 0
    assert lines_of(tmp_path / "run") == lines_of(whole)
    assert sha_of(tmp_path / "run") == sha_of(whole)


def test_a_run_that_was_stopped_takes_the_same_steps(whole: Path, drives: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert adapted(drives, start, out, "trainer.max_minutes=1e-9") == UNFINISHED
    assert not (out / "last.safetensors").exists()
    assert adapted(drives, start, out, resume=True) == 0
    assert lines_of(out) == lines_of(whole)
    assert sha_of(out) == sha_of(whole)
    assert (out / "adapted.json").read_bytes() == (whole / "adapted.json").read_bytes()
    assert adapted(drives, start, out, resume=True) == 0  # at its end nothing changes
    assert (out / "adapted.json").read_bytes() == (whole / "adapted.json").read_bytes()
    less = tmp_path / "less"
    less.mkdir()
    shutil.copy(drives / "bare" / "velodyne" / "000003.bin", less)
    with pytest.raises(ConfigError, match="other data: 1 missing"):
        adapted(drives, start, out, target=less, resume=True)


def test_validation_is_logged_but_chooses_nothing(drives: Path, start: Path, tmp_path: Path) -> None:
    more = [f"data.validation={drives / 'labelled'}", "data.validation_scans=1", "trainer.validate_every=1"]
    assert adapted(drives, start, tmp_path, *more, "optimiser.learning_rate=0.01", "adapt.norm=apart") == 0
    assert sum("miou" in line for line in lines_of(tmp_path)) == STEPS
    assert sha_of(tmp_path, "best") == sha_of(tmp_path)


def test_statistics_can_stay_those_of_the_start(drives: Path, start: Path, tmp_path: Path) -> None:
    assert adapted(drives, start, tmp_path, "adapt.norm=kept", "trainer.half=false", "trainer.steps=1") == 0
    before, after = state_of(start), state_of(tmp_path / "last.safetensors")
    assert all(torch.equal(before[name], value) for name, value in after.items() if "running" in name)
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_the_teacher_is_slow_from_the_first_step_on() -> None:
    student = nn.Linear(1, 1, bias=False)
    teacher = averaged(student, 0.9, begins=False)
    before = float(student.weight.detach())
    with torch.no_grad():
        student.weight += 1
    teacher.update_parameters(student)
    assert float(teacher.module.weight) == pytest.approx(before + 0.1)


def test_mixed_scans_have_the_truth_of_the_one_and_the_teachers_labels_of_the_other() -> None:
    rng = np.random.default_rng(0)

    def scan(name: str, label: int, height: float) -> LabelledScan:
        points = np.column_stack([rng.uniform(-20, 20, (4000, 2)), np.full(4000, height), np.zeros(4000)])
        labels = np.where(rng.random(4000) < 0.5, label, 255).astype(np.uint8)
        return LabelledScan(name, points.astype(np.float32), labels, np.zeros(4000, np.uint16))

    source, target = scan("source", 8, 1.0), scan("target", 12, 3.0)
    samples = VoxelDataset([source], voxel_size=0.3, max_voxels=None)  # type: ignore[arg-type]
    mixer = Mixer(Augmentation.from_config({"polarmix": {"swap": 1.0, "paste": 0.0}}), samples, seed=3)
    mixed, ours = mixer([Pair(source, target, ((0, 0), (0, 0)))])
    assert len(mixed) == 2
    for sample, of_target in zip(mixed, ours, strict=True):
        assert 0.3 < of_target.mean() < 0.7  # half a turn of each
        assert (of_target == (sample.feats[:, 2] > 2)).all()
        assert set(sample.labels[of_target]) == {12, 255}
        assert set(sample.labels[~of_target]) == {8, 255}
    again, _ = mixer([Pair(source, target, ((0, 0), (0, 0)))])
    other, _ = mixer([Pair(source, target, ((1, 0), (0, 0)))])
    assert np.array_equal(again[0].feats, mixed[0].feats)
    assert not np.array_equal(other[0].feats, mixed[0].feats)


def test_a_bag_is_read_cloud_by_cloud_as_segment_reads_it(tmp_path: Path) -> None:
    bag = make_bag(tmp_path / "bag")
    scans = open_unlabelled(bag, SEMANTIC_KITTI, Sensor())
    with open_source(bag) as source:
        clouds = [frame.load().points for frame in source]
    assert len(scans) == len(clouds) > 1
    for row in reversed(range(len(clouds))):
        assert (scans[row].labels == 255).all()
        there = np.isfinite(clouds[row]).all(axis=1) & (clouds[row][:, :3] != 0).any(axis=1)
        assert np.array_equal(scans[row].points, clouds[row][there])
    assert scans.inventory() == open_unlabelled(bag, SEMANTIC_KITTI, Sensor()).inventory()


def test_what_cannot_be_adapted_to_is_said(drives: Path, start: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "hollow").mkdir()
    np.empty((0, 4), np.float32).tofile(tmp_path / "hollow" / "0.bin")
    for target, message in (
        (tmp_path / "none", "holds no scan|no scans"),
        (tmp_path / "away", "does not exist"),
        (tmp_path / "hollow", "no point that could be labelled|none of 1 scan"),
    ):
        with pytest.raises(UserError, match=message):
            adapted(drives, start, tmp_path / "run", target=target)
    with pytest.raises(ConfigError, match="names no recording to adapt to; add adapt"):
        run(RECIPE, settings(drives, f"start={start}"), tmp_path / "run", quiet=True)
    for word, message in (
        ("trainer.ema=0", "the teacher is the average"),
        ("trainer.batch_size=3", "choose an even number"),
        ('start=""', "adapts a network, so it needs one"),
        ("net.width=8", "net is of other trainings"),
        ("adapt.shares=0.1", "adapt.shares: there is no such key"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_recipe(RECIPE, ["adapt.target=x", word])
    assert not (tmp_path / "run").exists()


def test_a_network_of_other_classes_is_refused(drives: Path, tmp_path: Path) -> None:
    names = ("kart", *SEMANTIC_KITTI.classes[1:])
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, PointVoxelUNet(SPEC), Facts(SPEC, "other", voxel_size=0.3, classes=names))
    with pytest.raises(ConfigError, match="tells kart, bicycle,"):
        adapted(drives, path, tmp_path / "run")
    with pytest.raises(ConfigError, match="simulated drives have the labels of SemanticKITTI"):
        adapted(drives, path, tmp_path / "run", "data.simulate.scenes=1", f"data.simulate.folder={tmp_path / 'sim'}")
    assert not (tmp_path / "sim").exists()
    save_checkpoint(path, PointVoxelUNet(SPEC), Facts(SPEC, "raw", voxel_size=0.3, trained=False))
    with pytest.raises(ConfigError, match="is untrained, so there is nothing that it could teach"):
        adapted(drives, path, tmp_path / "run")


def test_several_processes_are_refused(
    drives: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="adapting runs in one process, found 2"):
        adapted(drives, start, tmp_path / "run")


def test_a_recording_without_intensity_is_warned_of(
    drives: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    for scan in sorted((drives / "bare" / "velodyne").iterdir()):
        points = np.fromfile(scan, np.float32).reshape(-1, 4)
        np.save(tmp_path / "bare" / f"{scan.stem}.npy", points[:, :3])
    words = [*settings(drives, "trainer.steps=1"), f"start={start}", f"adapt.target={tmp_path / 'bare'}"]
    assert run(RECIPE, words, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "warning: bare: intensity" in said
