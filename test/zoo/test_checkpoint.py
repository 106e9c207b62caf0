"""The project's own checkpoint: what is saved comes back, and saving leaves nothing half-done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from checkpoint_files import rewrite
from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import (
    FORMAT,
    CheckpointError,
    Facts,
    TrainingRecord,
    load_checkpoint,
    reader_of,
    save_checkpoint,
    weights_sha256,
)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("spec", [NetSpec.spvcnn(4), NetSpec.minkunet(5), NetSpec.spvcnn(2, num_classes=3)])
def test_a_network_and_its_facts_come_back(tmp_path: Path, spec: NetSpec) -> None:
    names = tuple(f"class {i}" for i in range(spec.num_classes))
    facts = Facts(
        spec=spec,
        name="mine",
        label_map="own",
        classes=names,
        palette=tuple((i, 2 * i, 255 - i) for i in range(spec.num_classes)),
        voxel_size=0.1,
        point_range=(-50.0, -50.0, -3.0, 50.0, 50.0, 2.0),
        intensity="u8",
        trained=False,
        provenance="a test",
        published_miou=12.5,
        source_sha256="ab" * 32,
        training_intensity=TrainingIntensity(0.0, 0.25),
    )
    net = PointVoxelUNet(spec).half().float()
    save_checkpoint(tmp_path / "net.safetensors", net, facts)
    loaded, found = load_checkpoint(tmp_path / "net.safetensors")
    assert found == facts
    assert found.num_classes == spec.num_classes
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert found.weights_sha256 == weights_sha256(net.state_dict())


def test_a_searched_network_comes_back(tmp_path: Path, shared: Path) -> None:
    spec = NetSpec.from_net_config(json.loads((shared / "golden" / "spvnas_small_net.config.json").read_text()))
    net = PointVoxelUNet(spec)
    save_checkpoint(tmp_path / "net.safetensors", net, Facts(spec=spec))
    assert load_checkpoint(tmp_path / "net.safetensors")[1].spec == spec


def test_the_hash_is_of_the_weights_and_of_nothing_else(tmp_path: Path) -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    hashes = []
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, net, Facts(spec=net.spec, name=name))
        hashes.append(load_checkpoint(tmp_path / name)[1].weights_sha256)
    with torch.no_grad():
        net.classifier.bias[0] += 1
    save_checkpoint(tmp_path / "three", net, Facts(spec=net.spec))
    assert hashes[0] == hashes[1]
    assert hashes[0] != load_checkpoint(tmp_path / "three")[1].weights_sha256


def test_the_loaded_network_does_not_depend_on_the_file(saved: Path) -> None:
    net, facts = load_checkpoint(saved)
    saved.write_bytes(b"\0" * saved.stat().st_size)
    assert weights_sha256(net.state_dict()) == facts.weights_sha256


@pytest.mark.parametrize("fate", ["stays", "is deleted", "is replaced", "is overwritten", "is destroyed"])
def test_a_network_is_read_once_more_or_it_is_said_why_not(saved: Path, tmp_path: Path, fate: str) -> None:
    net, facts = load_checkpoint(saved)
    read = reader_of(saved, facts)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, PointVoxelUNet(net.spec), Facts(spec=net.spec))
    if fate == "is deleted":
        saved.unlink()
    elif fate == "is replaced":
        other.replace(saved)
    elif fate == "is overwritten":
        saved.write_bytes(other.read_bytes())
    elif fate == "is destroyed":
        saved.write_bytes(b"nothing")
    if fate in ("is overwritten", "is destroyed"):
        with pytest.raises(CheckpointError, match="start the program again"):
            read()
    else:
        assert weights_sha256(read().state_dict()) == facts.weights_sha256


def test_a_checkpoint_with_boxes_is_loaded_without_torchs_compiler() -> None:
    code = (
        "import sys; from spvnas_ros.zoo.cache import resolve_weights as find;"
        "from spvnas_ros.zoo.checkpoint import load_checkpoint as load;"
        "print(load(find('default'))[0].boxes is not None, 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_facts_that_contradict_the_network_are_refused(tmp_path: Path) -> None:
    spec = NetSpec.spvcnn(2)
    with pytest.raises(CheckpointError, match="5 classes, found 19 class names"):
        Facts(spec=NetSpec.spvcnn(2, num_classes=5))
    with pytest.raises(CheckpointError, match="voxel_size must be a positive number"):
        Facts(spec=spec, voxel_size=float("nan"))
    with pytest.raises(CheckpointError, match="point_range must be"):
        Facts(spec=spec, point_range=(1.0, 0.0, 0.0, 0.0, 1.0, 1.0))
    with pytest.raises(CheckpointError, match="describe another network"):
        save_checkpoint(tmp_path / "net", PointVoxelUNet(spec), Facts(spec=NetSpec.spvcnn(4)))
    assert leftovers(tmp_path) == []


def test_saving_to_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "nowhere" / "net.safetensors"):
        with pytest.raises(CheckpointError, match="cannot write"):
            save_checkpoint(target, net, Facts(spec=net.spec))
    assert leftovers(tmp_path) == ["folder"]


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    script = f"""
import resource
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, save_checkpoint
net = PointVoxelUNet(NetSpec.spvcnn(4))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    save_checkpoint({str(saved)!r}, net, Facts(spec=net.spec))
except CheckpointError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "cannot write" in out
    assert "File too large" in out
    assert saved.read_bytes() == before
    assert leftovers(saved.parent) == [saved.name]


def test_half_the_precision_is_half_the_file_and_comes_back_in_float32(tmp_path: Path) -> None:
    net = PointVoxelUNet(NetSpec.spvcnn(8))
    facts = Facts(spec=net.spec, training=TrainingRecord("mine", 3, 500, "streets", {"validation": 0.5}))
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_checkpoint(whole, net, facts)
    save_checkpoint(half, net, facts, half=True)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded, found = load_checkpoint(half)
    assert found == facts
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    for key, value in loaded.state_dict().items():
        original = net.state_dict()[key]
        assert torch.equal(value, original.half().float() if original.ndim > 1 else original)
    with safe_open(half, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    # Older programs read what they can, and say that they are old where they cannot.
    assert (header["version"], header["dtype"]) == (2, "float16")
    with safe_open(whole, framework="pt") as file:
        assert json.loads(file.metadata()[FORMAT])["version"] == 1
    rewrite(half, lambda state: state["classifier.weight"].add_(1))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(half)


LATER = ("training", "training_intensity")


def test_a_file_from_before_there_was_a_training_record_is_read(saved: Path) -> None:
    rewrite(saved, document=lambda document: [document.pop(key) for key in (*LATER, "dtype")])
    facts = load_checkpoint(saved)[1]
    assert (facts.training, facts.training_intensity) == (None, None)
