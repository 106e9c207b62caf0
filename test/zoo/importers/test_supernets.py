"""Upstream's supernet becomes our checkpoint, whole or as the subnet of a net.config."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import golden as recorded
from published_files import recorded_state, save, state_of_shapes
from spvnas_ros.cli import app
from spvnas_ros.nets.space import PAPER_HIGHEST, PAPER_LOWEST, Candidate
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint
from spvnas_ros.zoo.importers.detectors import WholeSupernet, import_either
from spvnas_ros.zoo.supernet_checkpoint import load_supernet, save_supernet, subnet_facts


@pytest.fixture
def small(golden: Path, tmp_path: Path) -> Path:
    return save(recorded_state(golden, "spvnas_small_supernet"), tmp_path / "init")


def test_the_command_keeps_a_supernet_whole_and_its_subnet_gives_the_recorded_outputs(
    golden: Path, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "supernet.safetensors"
    result = CliRunner().invoke(app, ["import", str(small), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "a supernet of some 10^" in result.output
    supernet, facts = load_supernet(out)
    candidate = Candidate.from_net_config(json.loads((golden / "spvnas_small_net.config.json").read_text()))
    assert supernet.space.contains(candidate)
    with np.load(golden / "spvnas_small_3k.npz") as data:
        coords, feats = recorded.coords(data["in/C"]), torch.from_numpy(data["in/F"])
        wanted = torch.from_numpy(data["logits_voxel"])
    with torch.no_grad():
        assert torch.allclose(supernet.subnet(candidate)(coords, feats), wanted, atol=1e-4, rtol=0)
    assert subnet_facts(facts, candidate, "mine").name == "mine"
    shown = CliRunner().invoke(app, ["inspect", "-w", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "supernet" in shown.output
    for load in (Perception.load, load_checkpoint):
        with pytest.raises(CheckpointError, match="gives subnets, expected one that gives labels"):
            load(out)


def test_with_a_net_config_the_subnet_is_cut_out(golden: Path, small: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "subnet.safetensors", golden / "spvnas_small_net.config.json"
    result = CliRunner().invoke(app, ["import", str(small), "--config", str(config), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "statistics are those of the supernet" in result.output
    net, _ = load_checkpoint(out)
    alone = recorded.network(golden, "spvnas_small")
    assert net.spec == alone.spec
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in net.state_dict().items())


def test_the_published_supernet_of_full_size_loads_and_survives_its_file(golden: Path, tmp_path: Path) -> None:
    state = state_of_shapes(golden / "keys_spvnas_SPVNAS_supernet.json")
    found = import_either(save(state, tmp_path / "init"))
    assert isinstance(found, WholeSupernet)
    assert (found.net.space.highest, found.net.space.lowest) == (PAPER_HIGHEST, PAPER_LOWEST)
    save_supernet(tmp_path / "a.safetensors", *found, half=True)
    again, facts = load_supernet(tmp_path / "a.safetensors")
    assert (again.space, facts) == (found.net.space, found.facts)


def test_what_does_not_fit_is_named(golden: Path, small: Path, tmp_path: Path) -> None:
    config = json.loads((golden / "spvnas_small_net.config.json").read_text())
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(config | {"upsample.3.transition": 36}))
    with pytest.raises(CheckpointError, match=r"does not hold the network of net\.config"):
        import_either(small, config=wide)
    state = recorded_state(golden, "spvnas_small_supernet")
    key = "upsample.3.transition.net.conv.kernel"
    rest = save({name: value for name, value in state.items() if name != key}, tmp_path / "rest")
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        import_either(rest)
