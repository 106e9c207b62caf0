"""Published checkpoints become networks: every layout, every tensor, and the recorded outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.cards import CARDS, UnknownModel, card_of_sha256, find_card
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.importers.projects import import_checkpoint

State = dict[str, torch.Tensor]

PARAMETERS = {"spvcnn": (5_449_267, 8_793_617, 21_778_003), "minkunet": (5_435_235, 8_771_298, 21_723_315)}
RATIOS = {16: "cr0.5", 20: "cr0.64", 32: "cr1.0"}


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden"


def state_of_shapes(path: Path, points_ran: bool = True) -> State:
    """Tensors of the shapes listed in a file; all are views of one storage, which keeps the saved file small."""
    shapes = json.loads(path.read_text())
    pool = torch.rand(max(int(np.prod(shape)) for shape in shapes.values()))
    state = {key: pool[: int(np.prod(shape))].view(shape) for key, shape in shapes.items()}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        if "point_transforms" in key and not points_ran:
            if key.endswith("running_mean"):
                state[key] = torch.zeros(shape)
            elif key.endswith("running_var"):
                state[key] = torch.ones(shape)
    return state


def recorded_state(golden: Path, tag: str) -> State:
    arrays = np.load(golden / f"{tag}_weights.npz")
    return {key.removeprefix("sd/"): torch.from_numpy(arrays[key]) for key in arrays.files}


def save(state: dict[str, Any], path: Path, key: str = "model") -> Path:
    torch.save({key: state, "epoch": 15}, path)
    return path


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


def test_every_difference_is_named_with_shapes(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    del state["stage2.1.net.3.kernel"]
    state["up1.0.net.0.kernel"] = torch.zeros(8, 32, 33)
    state["extra.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(save(state, tmp_path / "init"))
    message = str(caught.value)
    assert "missing: stage2.1.net.3.kernel, expected [27, 8, 8]" in message
    assert "misshapen: up1.0.net.0.kernel, expected [8, 32, 32], found [8, 32, 33]" in message
    assert "unexpected: extra.weight, found [2, 2]" in message
    assert str(tmp_path / "init") in message


@pytest.mark.parametrize("tag", ["spvcnn_cr0.125", "spvnas_small", "mmdet3d_spvcnn_small"])
def test_no_tensor_may_be_missing(golden: Path, tmp_path: Path, tag: str) -> None:
    state = recorded_state(golden, tag)
    # One of each sort; the full cross product takes a minute and finds nothing else.
    for key in (*list(state)[::45], *list(state)[-3:]):
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(save(rest, tmp_path / "init"), kind=None if tag == "spvnas_small" else "spvcnn")
        assert key in str(caught.value)


def test_a_missing_layer_is_named(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "mmdet3d_spvcnn_small")
    rest = {key: value for key, value in state.items() if not key.startswith("backbone.encoder.3.0.")}
    with pytest.raises(CheckpointError, match=r"whole layer is missing: backbone\.encoder\.3\.0\.net\.0\.kernel"):
        import_checkpoint(save(rest, tmp_path / "a.pth"))


def test_unused_point_transforms_are_dropped_only_where_they_are_known(golden: Path, tmp_path: Path) -> None:
    state = state_of_shapes(golden / "minkunet_cr0.125_keys.json", points_ran=False)
    state["point_transforms.3.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match=r"unexpected: point_transforms\.3\.0\.weight"):
        import_checkpoint(save(state, tmp_path / "init"))
    mmdet3d = recorded_state(golden, "mmdet3d_spvcnn_small")
    with pytest.raises(CheckpointError, match=r"unexpected: backbone\.point_transforms"):
        import_checkpoint(save(mmdet3d, tmp_path / "a.pth"), kind="minkunet")


def test_a_supernet_is_recognised(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvnas_small_supernet")
    with pytest.raises(CheckpointError, match="supernet, which holds many networks"):
        import_checkpoint(save(state, tmp_path / "init"))


def test_files_with_something_else_in_them_are_refused(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    not_finite = state | {"stem.0.kernel": torch.full((27, 4, 4), float("nan"))}
    expanded = state | {"classifier.0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    other_classes = state | {"classifier.0.weight": torch.zeros(10, 12), "classifier.0.bias": torch.zeros(10)}
    cases: list[tuple[Any, str]] = [
        ({"model": {"conv1.weight": torch.zeros(3)}}, "not a network of this family"),
        ({"model": {"a": torch.zeros(3), "b": [1]}}, "entry 'b' is a list, expected a tensor"),
        ({"weights": 3, "epoch": 2}, "holds the entries"),
        ([torch.zeros(3)], "expected a dictionary of tensors"),
        (torch.nn.Linear(2, 2), "class torch.nn.modules.linear.Linear"),
        (not_finite, "stem.0.kernel has values that are not finite"),
        (expanded, "stores fewer values"),
        (other_classes, "tells 10 classes apart"),
    ]
    for content, message in cases:
        torch.save(content, tmp_path / "init")
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(tmp_path / "init")
        assert message in str(caught.value)


def test_configs_that_do_not_fit_are_refused(golden: Path, tmp_path: Path) -> None:
    config = json.loads((golden / "spvnas_small_net.config.json").read_text())
    source = save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    uniform = save(recorded_state(golden, "spvcnn_cr0.125"), tmp_path / "uniform")
    path = tmp_path / "net.config"
    for content, file, message in [
        ("{", source, "cannot read the network description"),
        ("[]", source, "must be a JSON object"),
        ("{}", source, "no entry"),
        (json.dumps(config | {"vres": 0.1}), source, "pres 0.05 and vres 0.1"),
        (json.dumps(config), uniform, "is that of an SPVNAS network"),
    ]:
        path.write_text(content)
        with pytest.raises(CheckpointError) as caught:
            import_checkpoint(file, config=path)
        assert message in str(caught.value)
    path.write_text(json.dumps({"num_classes": 19, "cr": 0.125, "pres": 0.05, "vres": 0.05}))
    assert import_checkpoint(uniform, config=path)[0].spec == NetSpec.spvcnn(4)


def test_a_card_gives_its_name_and_score_to_its_own_network_only(golden: Path, tmp_path: Path) -> None:
    source = save(state_of_shapes(golden / "keys_spvnas_SPVCNN_cr0.5.json"), tmp_path / "init")
    _, facts = import_checkpoint(source, card=find_card("spvcnn-30g"))
    assert (facts.name, facts.published_miou) == ("spvcnn-30g", 60.7)
    assert "SemanticKITTI_val_SPVCNN@30GMACs" in facts.provenance
    assert "non-commercial" in facts.provenance
    with pytest.raises(CheckpointError, match="this is not spvcnn-47g: the network has 5,449,267 parameters"):
        import_checkpoint(source, card=find_card("spvcnn-47g"))
    with pytest.raises(CheckpointError, match="an SPVNAS network was asked for"):
        import_checkpoint(source, card=find_card("spvnas-65g"))


def test_the_cards_are_the_fourteen_published_models() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS) == 14
    assert sum(card.project == "mit-han-lab/spvnas" for card in CARDS) == 10
    assert all(url.startswith("https://") for card in CARDS for url in card.urls)
    assert [card.sha256_prefix for card in CARDS if card.sha256_prefix] == [
        "a2734d85",
        "519e7eff",
        "f7c0c5b4",
        "d68a68b7",
    ]
    for card in CARDS:
        if card.kind != "spvnas":
            assert card.parameters in PARAMETERS[card.kind]
        assert find_card(card.upstream.upper()) is card
    found = card_of_sha256("d68a68b7" + "0" * 56)
    assert found is not None
    assert found.miou == 68.7
    assert card_of_sha256("0" * 64) is None
    with pytest.raises(UnknownModel, match="did you mean spvnas-65g"):
        find_card("spvnas-64g")


def test_the_import_command_writes_a_checkpoint_or_one_line(golden: Path, tmp_path: Path) -> None:
    source = save(recorded_state(golden, "spvnas_small"), tmp_path / "init")
    out = tmp_path / "net.safetensors"
    config = golden / "spvnas_small_net.config.json"
    command = [sys.executable, "-m", "spvnas_ros.cli", "import"]
    good = subprocess.run([*command, source, "--config", config, "-o", out], capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert load_checkpoint(out)[1].name == "spvnas"
    assert "label map mit-han-lab" in good.stdout
    bad = subprocess.run([*command, config, "-o", tmp_path / "other"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "expected a file written by torch.save" in bad.stderr
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "other").exists()
