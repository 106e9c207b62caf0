"""Published checkpoints become networks: every layout, every tensor, and the recorded outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from published_files import PARAMETERS, recorded_state, save, state_of_shapes
from spvnas_ros.cli import app
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.importers.projects import import_checkpoint

RATIOS = {16: "cr0.5", 20: "cr0.64", 32: "cr1.0"}


def count(net: PointVoxelUNet) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("width", [16, 20, 32])
@pytest.mark.parametrize("family", ["spvcnn", "minkunet"])
def test_mit_han_lab_files_of_full_size_load(golden: Path, tmp_path: Path, family: str, width: int) -> None:
    names = {"spvcnn": "SPVCNN", "minkunet": "MinkUNet"}
    listed = golden / f"keys_spvnas_{names[family]}_{RATIOS[width]}.json"
    state = state_of_shapes(listed, points_ran=family == "spvcnn")
    net, facts = import_checkpoint(save(state, tmp_path / "init"))
    assert net.spec == getattr(NetSpec, family)(width)
    assert count(net) == PARAMETERS[family][[16, 20, 32].index(width)]
    assert (facts.name, facts.label_map, facts.voxel_size) == (f"{family}-w{width}", "mit-han-lab", 0.05)
    assert facts.source_sha256 == sha256_of(tmp_path / "init")
    assert facts.trained
    assert not net.training
    assert torch.equal(net.classifier.weight, state["classifier.0.weight"])


@pytest.mark.parametrize("width", [16, 20, 32])
@pytest.mark.parametrize("family", ["spvcnn", "minkunet"])
def test_mmdetection3d_files_of_full_size_load(golden: Path, tmp_path: Path, family: str, width: int) -> None:
    names = {"spvcnn": "SPVCNN", "minkunet": "MinkUNet"}
    state = state_of_shapes(golden / f"keys_mmdet3d_{names[family]}_W{width}.json")
    net, facts = import_checkpoint(save(state, tmp_path / "epoch_15.pth", "state_dict"))
    assert net.spec == getattr(NetSpec, family)(width)
    assert count(net) == PARAMETERS[family][[16, 20, 32].index(width)]
    assert facts.label_map == "semantic-kitti"


def test_a_searched_network_of_full_size_loads(golden: Path, tmp_path: Path) -> None:
    state = state_of_shapes(golden / "keys_spvnas_SPVNAS_random_subnet_example.json")
    net, facts = import_checkpoint(save(state, tmp_path / "init"))
    width = net.spec.decoder[-1].out
    assert (net.spec.family, facts.label_map) == ("spvnas", "mit-han-lab")
    assert width < state["classifier.linear.weight"].shape[1]
    assert torch.equal(net.classifier.weight, state["classifier.linear.weight"][:, :width])


@pytest.mark.parametrize("with_config", [True, False])
def test_a_searched_network_is_what_its_config_says(golden: Path, tmp_path: Path, with_config: bool) -> None:
    config = golden / "spvnas_small_net.config.json"
    source = save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    net, _ = import_checkpoint(source, config=config if with_config else None)
    assert net.spec == NetSpec.from_net_config(json.loads(config.read_text()))


@pytest.mark.parametrize(
    ("tag", "kind", "tolerance"),
    [
        ("spvcnn_cr0.125", None, 1e-3),  # the published network rounds its coordinates
        ("minkunet_cr0.125", "minkunet", 1e-4),
        ("spvnas_small", None, 1e-4),
        ("mmdet3d_spvcnn_small", None, 1e-4),
    ],
)
def test_imported_networks_reproduce_the_recorded_outputs(
    golden: Path, tmp_path: Path, tag: str, kind: str | None, tolerance: float
) -> None:
    net, facts = import_checkpoint(save(recorded_state(golden, tag), tmp_path / "init"), kind=kind)
    save_checkpoint(tmp_path / "net.safetensors", net, facts)
    loaded, found = load_checkpoint(tmp_path / "net.safetensors")
    assert found == facts
    record = np.load(golden / f"{tag}_3k.npz")
    coords = torch.from_numpy(record["in/C"])[:, [3, 0, 1, 2]]
    with torch.no_grad():
        logits = loaded(coords, torch.from_numpy(record["in/F"])).numpy()
    expected = record["logits_voxel"]
    assert np.abs(logits - expected).max() < tolerance
    assert (logits.argmax(1) == expected.argmax(1)).all()


def test_both_namings_of_spvcnn_give_the_same_network(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    other = json.loads((golden / "map_spvnas_to_mmdet3d_spvcnn.json").read_text())
    one, _ = import_checkpoint(save(state, tmp_path / "init"))
    two, _ = import_checkpoint(save({other[k]: v for k, v in state.items()}, tmp_path / "a.pth", "state_dict"))
    assert one.spec == two.spec == NetSpec.spvcnn(4)
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


@pytest.mark.parametrize("form", ["ddp", "bare", "half", "not contiguous", "legacy"])
def test_the_same_tensors_in_other_wrappings_give_the_same_network(golden: Path, tmp_path: Path, form: str) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    expected, _ = import_checkpoint(save(state, tmp_path / "init"))
    path, tolerance = tmp_path / "other", 0.0
    if form == "ddp":
        save({f"module.{key}": value for key, value in state.items()}, path)
    elif form == "bare":
        torch.save(state, path)
    elif form == "half":
        save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
        tolerance = 2e-3
    elif form == "not contiguous":
        save({k: v.transpose(0, -1).contiguous().transpose(0, -1) if v.ndim else v for k, v in state.items()}, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    net, _ = import_checkpoint(path)
    for key, value in net.state_dict().items():
        assert value.dtype == expected.state_dict()[key].dtype
        assert value.is_contiguous()
        assert torch.allclose(value, expected.state_dict()[key], rtol=0, atol=tolerance * value.abs().max().item())


def test_a_folder_with_init_and_net_config_loads(golden: Path, tmp_path: Path) -> None:
    save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    (tmp_path / "net.config").write_bytes((golden / "spvnas_small_net.config.json").read_bytes())
    assert import_checkpoint(tmp_path)[0].spec.family == "spvnas"
    config = json.loads((tmp_path / "net.config").read_text())
    config["downsample.1.transition"] += 4
    (tmp_path / "net.config").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"misshapen: downsample\.1\.transition"):
        import_checkpoint(tmp_path)


def test_minkunet_is_told_by_point_transforms_that_never_ran(golden: Path, tmp_path: Path) -> None:
    listed = golden / "minkunet_cr0.125_keys.json"
    source = save(state_of_shapes(listed, points_ran=False), tmp_path / "init")
    assert import_checkpoint(source)[0].spec == NetSpec.minkunet(4)
    assert import_checkpoint(source, kind="spvcnn")[0].spec == NetSpec.spvcnn(4)
    ran = save(state_of_shapes(listed, points_ran=True), tmp_path / "ran")
    assert import_checkpoint(ran)[0].spec == NetSpec.spvcnn(4)
    assert import_checkpoint(ran, kind="minkunet")[0].spec == NetSpec.minkunet(4)
    with pytest.raises(CheckpointError, match="kind must be spvcnn or minkunet, found 'unet'"):
        import_checkpoint(ran, kind="unet")
    stripped = {key: value for key, value in state_of_shapes(listed).items() if "point_transforms" not in key}
    assert import_checkpoint(save(stripped, tmp_path / "stripped"))[0].spec == NetSpec.minkunet(4)


def test_unused_point_transforms_are_dropped_only_where_they_are_known(golden: Path, tmp_path: Path) -> None:
    state = state_of_shapes(golden / "minkunet_cr0.125_keys.json", points_ran=False)
    state["point_transforms.3.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"unexpected: point_transforms\.3\.0\.weight"):
        import_checkpoint(save(state, tmp_path / "init"))
    mmdet3d = recorded_state(golden, "mmdet3d_spvcnn_small")
    with pytest.raises(CheckpointError, match=r"unexpected: backbone\.point_transforms"):
        import_checkpoint(save(mmdet3d, tmp_path / "a.pth"), kind="minkunet")


def test_the_import_command_writes_a_checkpoint_or_one_line(golden: Path, tmp_path: Path) -> None:
    source = save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    out = tmp_path / "net.safetensors"
    config = golden / "spvnas_small_net.config.json"
    good = CliRunner().invoke(app, ["import", *map(str, (source, "--config", config, "-o", out))])
    assert good.exit_code == 0, good.stderr
    assert load_checkpoint(out)[1].name == "spvnas"
    assert "label map mit-han-lab" in good.stdout
    bad = CliRunner().invoke(app, ["import", str(config), "-o", str(tmp_path / "other.safetensors")])
    assert bad.exit_code == 1
    assert isinstance(bad.exception, SystemExit), bad.exception
    assert "expected a file written by torch.save" in bad.stderr
    assert not (tmp_path / "other.safetensors").exists()
