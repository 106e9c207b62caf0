"""`spvnas calibrate`: what is fitted, what it leaves as it was, what it records, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from drives import write_drive
from spvnas_ros.cli import app
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.calibration import CLASS, CLASS_BIAS, KINDS, ONE, Calibration, fit
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.zoo.blend import blend
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, TrainingRecord, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.inspect import describe

SPEC = NetSpec.of([4, 4, 8, 8, 8, 8, 8, 8, 8], [1] * 8, num_classes=19)
CLASSES = 5


def answers(calibration: Calibration, count: int = 20_000, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a network whose confidences a calibration puts right, true labels, and the same weight for each."""
    rng = torch.Generator().manual_seed(seed)
    right = 2 * torch.randn((count, CLASSES), generator=rng)
    labels = torch.multinomial(right.softmax(dim=1), 1, generator=rng)[:, 0]
    biases = torch.tensor(calibration.biases or (0.0,) * CLASSES)
    return (right - biases) * torch.tensor(calibration.temperatures), labels, torch.full((count,), 1 / count)


def loss(calibration: Calibration, logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    losses = torch.nn.functional.cross_entropy(calibration.of_logits(logits), labels, reduction="none")
    return float((losses * weights).sum())


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_a_temperature_is_found_again_and_changes_no_label(temperature: float) -> None:
    logits, labels, weights = answers(Calibration((temperature,)))
    found = fit(logits, labels, weights, ONE)
    assert found.temperatures == (pytest.approx(temperature, rel=0.03),)
    assert torch.equal(found.of_logits(logits).argmax(1), logits.argmax(1))


def test_temperatures_and_biases_of_classes_are_found_again() -> None:
    true = Calibration((0.8, 1.0, 1.5, 2.0, 1.2), (0.5, -1.0, 0.0, 0.25, 0.25))
    given = answers(true)
    found = {kind: fit(*given, kind) for kind in KINDS}
    np.testing.assert_allclose(found[CLASS_BIAS].temperatures, true.temperatures, rtol=0.1)
    biases = np.array(found[CLASS_BIAS].biases)
    np.testing.assert_allclose(biases - biases.mean(), true.biases, atol=0.15)  # their mean changes nothing
    losses = [loss(found[kind], *given) for kind in (CLASS_BIAS, CLASS, ONE)]
    assert losses == sorted(losses)
    assert losses[-1] <= loss(Calibration(), *given)


def test_a_class_that_does_not_occur_is_left_alone() -> None:
    """Else it would be made impossible."""
    logits, labels, weights = answers(Calibration((1.5,)))
    there = labels != 4
    given = logits[there], labels[there], weights[there] / weights[there].sum()
    (one,) = fit(*given, ONE).temperatures
    for kind in (CLASS, CLASS_BIAS):
        found = fit(*given, kind)
        assert found.temperatures[4] == pytest.approx(one)
        assert not found.biases or found.biases[4] == 0


def test_drives_count_by_weight_not_by_points() -> None:
    easy, hard = answers(Calibration((0.7,)), 30_000), answers(Calibration((2.0,)), 3_000)
    logits, labels = (torch.cat([a, b]) for a, b in zip(easy[:2], hard[:2], strict=True))
    shares = torch.cat([torch.full((30_000,), 0.5 / 30_000), torch.full((3_000,), 0.5 / 3_000)])
    (even,) = fit(logits, labels, shares, ONE).temperatures
    (plain,) = fit(logits, labels, torch.full((33_000,), 1 / 33_000), ONE).temperatures
    assert plain < even - 0.1


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drives of four small scans, both called `drive`."""
    folders = [tmp_path_factory.mktemp(name) / "drive" for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
        write_drive(folder, 4)
    return folders


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    net = PointVoxelUNet(SPEC)
    with torch.no_grad():
        net.classifier.weight.mul_(20)
    path = tmp_path_factory.mktemp("network") / "before.safetensors"
    record = TrainingRecord("by_hand", 1, 2, "nothing", {"a drive": 0.5})
    facts = Facts(SPEC, "before", voxel_size=0.3, provenance="from a friend", training=record, published_miou=60.0)
    save_checkpoint(path, net, facts)
    return path


def calibrate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


@pytest.fixture(scope="module")
def after(drives: list[Path], network: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By kind: the file that was written, and what was said."""
    out, found = tmp_path_factory.mktemp("after"), {}
    for kind in (ONE, "best"):
        path = out / f"{kind}.safetensors"
        result = calibrate(*drives, "-w", network, "-o", path, "--by", kind, "--json", "--quiet")
        assert result.exit_code == 0, result.output
        found[kind] = (path, json.loads(result.stdout))
    return found


def test_one_temperature_changes_confidences_alone(after: dict[str, Any], network: Path, drives: list[Path]) -> None:
    path, said = after[ONE]
    (temperature,) = said["calibration"]["temperatures"]
    assert said["after"][ONE]["changed"] == 0
    assert said["after"][ONE]["nll"] < said["before"]["nll"]
    scan = read_scan(next((drives[0] / "velodyne").glob("*.bin")))
    nets = [load_checkpoint(each) for each in (network, path)]
    before, changed = (Perception.from_net(*each, device="cpu", engine="torch")(scan, scores=True) for each in nets)
    np.testing.assert_array_equal(changed.labels, before.labels)
    powers = before.scores.astype(np.float64) ** (1 / temperature)  # type: ignore[union-attr]
    np.testing.assert_allclose(changed.scores, powers / powers.sum(1, keepdims=True), atol=1e-4)
    for name, value in nets[0][0].state_dict().items():
        assert name.startswith("classifier") or torch.equal(nets[1][0].state_dict()[name], value)


def test_what_was_done_is_in_the_file(after: dict[str, Any], network: Path, drives: list[Path]) -> None:
    was = load_checkpoint(network)[1]
    for kind in (ONE, "best"):
        path, said = after[kind]
        facts = load_checkpoint(path)[1]
        record = facts.calibration
        assert record is not None
        assert record.kind == said["chosen"]
        assert list(record.temperatures) == said["calibration"]["temperatures"]
        assert record.drives == {f"{folder.parent.name}/drive": 4 for folder in drives}
        assert (record.source, record.source_sha256) == ("before.safetensors", was.weights_sha256)
        assert record.held_out["nll_before"] == said["before"]["nll"]
        assert record.held_out["mistakes_after"] == said["after"][record.kind]["mistakes"]
        assert facts.provenance == "confidences fitted on 8 labelled scans, from a friend"
        table = next(iter(describe(path)))
        assert "confidences" in list(table.columns[0].cells)
        assert facts.training is not None
        kept = record.kind == ONE  # where labels may be others, the scores are not this network's
        assert bool(facts.training.scores) == (facts.published_miou == 60.0) == kept
    held_out = after["best"][1]["after"]
    assert after["best"][1]["chosen"] == min(held_out, key=lambda each: held_out[each]["nll"]) != ONE
    # A blend of two networks has the confidences of neither.
    both = load_checkpoint(network), load_checkpoint(after[ONE][0])
    assert blend(*both)[1].calibration is None


def test_a_record_that_is_none_is_refused(after: dict[str, Any], tmp_path: Path) -> None:
    net, facts = load_checkpoint(after[ONE][0])
    assert facts.calibration is not None
    for change in ({"temperatures": ("1",)}, {"kind": 3}, {"drives": {"a": 0.5}}):
        wrong = replace(facts, calibration=replace(facts.calibration, **change))  # type: ignore[arg-type]
        save_checkpoint(tmp_path / "wrong.safetensors", net, wrong)
        with pytest.raises(CheckpointError, match="header"):
            load_checkpoint(tmp_path / "wrong.safetensors")


def test_what_cannot_be_fitted_is_refused(drives: list[Path], network: Path, tmp_path: Path) -> None:
    out, untrained = tmp_path / "out.safetensors", tmp_path / "untrained.safetensors"
    net, facts = load_checkpoint(network)
    save_checkpoint(untrained, net, replace(facts, trained=False))
    single = tmp_path / "single"
    single.mkdir()
    write_drive(single, 1)
    for arguments, says in (
        ((drives[0], "--by", "two"), "--by is 'two', expected one of one, class, class-bias, best"),
        ((drives[0], drives[0]), "a drive is given twice"),
        ((single,), "single has 1 scan(s) with labels, expected two at least"),
        ((tmp_path / "nothing",), "does not exist"),
        ((drives[0], "-o", tmp_path), "expected the name of a file"),
        ((drives[0], "-o", tmp_path / "out.txt"), "weights are a .safetensors file, found the name 'out.txt'"),
        ((drives[0], "-o", untrained), "untrained.safetensors would be replaced; name another file, or"),
        ((drives[0], "-w", untrained), "is untrained"),
        ((drives[0], "--scans", 10**9), "--scans is 1000000000, but no drive has more than 4; give that or less"),
        ((drives[0], "--topic", "/points"), "none of the drives is a bag, so that there is no topic"),
        ((drives[0], "--truth", "label"), "none of the drives is a bag, so that there is no topic"),
        ((drives[0], "--label-map", "nuscenes"), "the network has car, bicycle"),
    ):
        result = calibrate("-w", network, "-o", out, *arguments)
        assert result.exit_code == 1, arguments
        assert says in result.stderr.replace("\n", " "), result.stderr
    assert not out.exists()


def test_what_does_not_help_on_other_scans_is_not_written(network: Path, tmp_path: Path) -> None:
    """In the first scans the network is always right, in those that are held out never."""
    drive, out, perception = tmp_path / "drive", tmp_path / "out.safetensors", Perception.load(network, engine="torch")
    drive.mkdir()
    write_drive(drive, 4)
    for index in range(4):
        found = perception(read_scan(drive / "velodyne" / f"{index:06d}.bin", "unit")).labels
        truth = found if index < 2 else (found + 1) % 19
        SEMANTIC_KITTI.decode(truth.astype(np.uint8)).tofile(drive / "labels" / f"{index:06d}.label")
    result = calibrate(drive, "-w", network, "-o", out, "--quiet")
    assert result.exit_code == 1
    assert "nothing is written: on the scans that were held out, 'one' is no better" in result.stderr.replace("\n", " ")
    assert not out.exists()


def test_a_margin_makes_a_network_less_sure_than_the_scans_ask_for(
    after: dict[str, Any], network: Path, drives: list[Path], tmp_path: Path
) -> None:
    _, plain = after[ONE]
    out = tmp_path / "out.safetensors"
    result = calibrate(*drives, "-w", network, "-o", out, "--margin", "1.5", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    (temperature,), (fitted,) = (each["calibration"]["temperatures"] for each in (said, plain))
    assert temperature == pytest.approx(1.5 * fitted)
    assert said["after"][ONE]["nll"] != plain["after"][ONE]["nll"]
    assert said["after"][ONE]["changed"] == 0
    assert "with a margin of 1.5, from a friend" in str(load_checkpoint(out)[1].provenance)
    for margin in ("0.9", "5", "nan"):
        result = calibrate(*drives, "-w", network, "-o", tmp_path / "no.safetensors", "--margin", margin)
        assert result.exit_code == 1
        assert f"--margin is {margin}, expected 1" in result.stderr


def test_a_single_scan_is_refused(network: Path, drives: list[Path], tmp_path: Path) -> None:
    result = calibrate(drives[0] / "velodyne" / "000000.bin", "-w", network, "-o", tmp_path / "out.safetensors")
    assert result.exit_code == 1
    assert "000000.bin is a single scan, expected its folder" in result.stderr.replace("\n", " ")
