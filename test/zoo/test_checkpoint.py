"""The project's own checkpoint: what is saved comes back, and what is not a whole checkpoint is refused by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from spvnas_ros.clouds.intensity import TrainingIntensity
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import (
    FORMAT,
    CheckpointError,
    Facts,
    TrainingRecord,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small, whole checkpoint."""
    path = tmp_path / "net.safetensors"
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    save_checkpoint(path, net, Facts(spec=net.spec, name="small"))
    return path


def rewrite(
    path: Path,
    tensors: Callable[[Tensors], Any] = lambda _: None,
    document: Callable[[dict[str, Any]], Any] = lambda _: None,
) -> None:
    """Change a checkpoint's tensors or its header's document in place."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[FORMAT])
    tensors(state)
    document(header)
    save_file(state, path, metadata={FORMAT: json.dumps(header)})


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


def test_tensors_that_are_not_the_networks_are_named(saved: Path) -> None:
    def damage(state: Tensors) -> None:
        del state["classifier.bias"]
        state["stem.0.conv.kernel"] = state["stem.0.conv.kernel"][:, :, :1].clone()
        state["surprise"] = torch.zeros(3, 4)

    rewrite(saved, damage)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    message = str(caught.value)
    assert "missing: classifier.bias, expected [19]" in message
    assert "misshapen: stem.0.conv.kernel, expected [27, 4, 2], found [27, 4, 1]" in message
    assert "unexpected: surprise, found [3, 4]" in message


def test_a_long_list_of_differences_is_cut(saved: Path) -> None:
    rewrite(saved, lambda state: state.clear())
    with pytest.raises(CheckpointError, match=r"\.\.\. and \d+ more$") as caught:
        load_checkpoint(saved)
    assert len(str(caught.value).splitlines()) < 20


def test_a_tensor_of_another_type_is_named(saved: Path) -> None:
    rewrite(saved, lambda state: state.update({"classifier.bias": torch.zeros(19, dtype=torch.float64)}))
    with pytest.raises(CheckpointError, match=r"classifier.bias is torch.float64, expected torch.float32"):
        load_checkpoint(saved)


def test_changed_weights_are_found_out(saved: Path) -> None:
    rewrite(saved, lambda state: state["classifier.bias"].add_(1))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "format version 3, this program reads up to 2; update it"),
        ({"version": "1"}, "version '1'"),
        ({"version": True}, "version True"),
        ({"format": "other"}, "format 'other'"),
        ({"spec": None}, "spec is None, expected dict"),
        ({"spec": {}}, "not a network description"),
        ({"classes": ["one"]}, "19 classes, found 1 class names"),
        ({"classes": [1] * 19}, "classes must be of type str"),
        ({"palette": [[0, 0]] * 19}, "malformed header"),
        ({"palette": [[0, 0, 256]] * 19}, "three numbers 0..255"),
        ({"voxel_size": "5 cm"}, "voxel_size is '5 cm', expected float or int"),
        ({"voxel_size": -1}, "positive number of metres"),
        ({"point_range": [1, 2]}, "point_range must be"),
        ({"trained": 1}, "trained is 1, expected bool"),
        ({"published_miou": True}, "published_miou is True"),
        ({"weights_sha256": None}, "weights_sha256 is None"),
        ({"training": "long"}, "training is 'long', expected dict"),
        ({"training": {}}, "malformed header"),
        ({"training": {"recipe": "r", "seed": "1", "steps": 1, "data": "", "scores": {}}}, "seed is '1', expected int"),
        ({"training": {"recipe": "r", "seed": 1, "steps": 1, "data": "", "scores": {"a": "b"}}}, "scores must be"),
        ({"training_intensity": 0.5}, "training_intensity is 0.5, expected dict"),
        ({"training_intensity": {"median": 0.5}}, "malformed header"),
        ({"training_intensity": {"median": "0", "p95": 1.0}}, "training_intensity must be of type float"),
        ({"training_intensity": {"median": 0.5, "p95": 0.25}}, "found median 0.5, p95 0.25"),
        ({"training_intensity": {"median": 0.5, "p95": float("nan")}}, "intensities need 0 <= median <= p95"),
    ],
)
def test_a_header_that_cannot_be_used_says_what_is_wrong(saved: Path, change: dict[str, Any], message: str) -> None:
    rewrite(saved, document=lambda document: document.update(change))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": [2, 2, 2]}, "stem"),
        ({"stem": [2.0, 2.0]}, "widths must be of type int"),
        ({"stem": [10**30, 2]}, "no network can be built"),
        ({"point_branch": "yes"}, "flags must be of type bool"),
        ({"num_classes": 0, "in_channels": 0}, "num_classes must be in 1..255"),
        ({"encoder": []}, "4 encoder"),
        ({"surplus": 1}, "not a network description"),
    ],
)
def test_a_spec_that_is_none_is_refused(saved: Path, change: dict[str, Any], message: str) -> None:
    rewrite(saved, document=lambda document: document["spec"].update(change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_a_header_without_an_entry_is_refused(saved: Path) -> None:
    rewrite(saved, document=lambda document: document.pop("intensity"))
    with pytest.raises(CheckpointError, match=r"malformed header.*intensity"):
        load_checkpoint(saved)


def test_other_files_are_refused(tmp_path: Path, saved: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="of somebody else"):
        load_checkpoint(foreign)
    text = tmp_path / "notes.txt"
    text.write_text("not tensors at all, but long enough for a header")
    with pytest.raises(CheckpointError, match=r"not a whole \.safetensors file"):
        load_checkpoint(text)
    with pytest.raises(CheckpointError, match="is not there"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(saved.parent)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_a_file_cut_short_is_refused(saved: Path, kept: float) -> None:
    raw = saved.read_bytes()
    saved.write_bytes(raw[: int(kept * len(raw)) if kept < 1 else int(kept)])
    with pytest.raises(CheckpointError, match=r"not a whole \.safetensors file"):
        load_checkpoint(saved)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_means_the_same(saved: Path, data: st.DataObject) -> None:
    raw = saved.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    # Most of the file is weights: half of the damage goes to the header, where there is more to break.
    end = data.draw(st.sampled_from([header, len(raw)]))
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path = saved.with_name("damaged.safetensors")
    path.write_bytes(damaged)
    try:
        net, found = load_checkpoint(path)
    except CheckpointError:
        return
    # Only what is not weights can differ without being noticed, such as a letter of the name.
    whole, facts = load_checkpoint(saved)
    assert weights_sha256(net.state_dict()) == facts.weights_sha256
    assert found.spec == dataclasses.replace(facts.spec, family=found.spec.family)
    assert found.spec.widths() == whole.spec.widths()
