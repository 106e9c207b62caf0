"""SECOND of OpenPCDet and mmdetection3d becomes a detector: every layout, every tensor; what does not fit is named."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import detection_golden
from model_site import Site
from published_files import State, recorded_state, state_of
from spvnas_ros.cli import app
from spvnas_ros.nets.box_spec import DetectorSpec
from spvnas_ros.nets.second import Second
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.files import sha256_of
from spvnas_ros.zoo.cache import FetchError
from spvnas_ros.zoo.cards import CARDS, DETECTOR_CARDS, DetectorCard, detector_card_of_sha256, find_card
from spvnas_ros.zoo.checkpoint import CheckpointError, Facts, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector, save_detector
from spvnas_ros.zoo.fetch import adopt, fetch
from spvnas_ros.zoo.importers.detectors import Detector, import_detector, import_either

PARAMETERS = 5_325_576
LAYOUTS = {"spconv 2": (0, 1, 2, 3, 4), "spconv 1": (1, 2, 3, 4, 0), "spconv 2, native": (1, 2, 3, 0, 4)}
"""Axes of `[out, z, y, x, in]` in the order of each layout."""


def published(folder: Path, convention: str) -> State:
    """A state of the published size, as this machine's list of keys has it."""
    listed = json.loads((folder / "detection" / f"keys_{convention}_second_3class.json").read_text())
    return state_of(listed["keys"])


def recorded(folder: Path, convention: str = "openpcdet") -> State:
    """The narrow network's weights under the library's names."""
    state = recorded_state(folder / "detection", "openpcdet_second_w4")
    if convention == "openpcdet":
        return state
    renamed = detection_golden.facts(folder / "detection", f"mmdet3d_on_openpcdet_second_w4_{detection_golden.FRAME}")
    return {renamed["key_map_openpcdet_to_mmdet3d"][key]: value for key, value in state.items()}


def in_layout(state: State, layout: str) -> State:
    return {k: v.permute(LAYOUTS[layout]).contiguous() if v.ndim == 5 else v for k, v in state.items()}


def save(state: State, path: Path, convention: str = "openpcdet") -> Path:
    """As the library's trainer writes it, with an optimiser's state beside the network."""
    if convention == "openpcdet":
        optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.003}]}
        torch.save({"epoch": 80, "it": 74240, "model_state": state, "optimizer_state": optimizer, "version": "p"}, path)
    else:
        ordered = OrderedDict(state)
        ordered._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
        torch.save({"meta": {"mmengine_version": "0.7.2"}, "state_dict": ordered}, path)
    return path


def count(net: Second) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_files_of_the_published_size_load_in_every_layout(
    golden: Path, tmp_path: Path, convention: str, layout: str
) -> None:
    state = published(golden, convention)
    notes: list[str] = []
    source = save(in_layout(state, layout), tmp_path / "second.pth", convention)
    net, facts = import_detector(source, say=notes.append)
    assert net.spec == DetectorSpec.second(convention)
    assert count(net) == PARAMETERS
    assert not net.training
    assert facts.name == f"{convention}-second-w16"
    assert facts.source_sha256 == sha256_of(source)
    assert facts.classes == net.spec.head.names
    assert any(f"in the layout of {layout}" in note for note in notes)
    assert any("global_step" in note for note in notes) == (convention == "openpcdet")
    key = "backbone_3d.conv_out.0.weight" if convention == "openpcdet" else "middle_encoder.conv_out.0.weight"
    assert torch.equal(net.encoder.out.conv.kernel, detection_golden.kernel_of(state[key]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_every_tensor_gets_its_place(golden: Path, tmp_path: Path, convention: str, layout: str) -> None:
    expected = detection_golden.network(golden / "detection", convention).state_dict()
    state = in_layout(recorded(golden, convention), layout)
    net, _ = import_detector(save({f"module.{k}": v for k, v in state.items()}, tmp_path / "a.pth", convention))
    found = net.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert net.spec == DetectorSpec.second(convention, 4)


@torch.no_grad()
def test_an_imported_detector_says_what_openpcdets_says(golden: Path, tmp_path: Path) -> None:
    imported, _ = import_detector(save(recorded(golden), tmp_path / "a.pth"))
    net = Second(replace(imported.spec, point_range=detection_golden.CROP)).eval()
    net.load_state_dict(imported.state_dict())
    frame = detection_golden.load(golden / "detection", f"openpcdet_second_w4_{detection_golden.FRAME}")
    out = net(detection_golden.coords(frame["voxel_coords"]), torch.from_numpy(frame["voxel_mean"]), 1)
    theirs = frame["cls_preds"].reshape(1, -1, 3)
    assert np.abs(out.classes.numpy() - theirs).max() <= 1e-4 * np.abs(theirs).max()


def cars_only(state: State) -> State:
    """mmdetection3d's network for cars alone has the head's last third."""
    cut = {"conv_cls": 2, "conv_reg": 14, "conv_dir_cls": 4}
    return {k: v[: cut[k.split(".")[1]]] if k.startswith("bbox_head") else v for k, v in state.items()}


def test_a_network_for_cars_alone_has_one_class(golden: Path, tmp_path: Path) -> None:
    net, facts = import_detector(save(cars_only(published(golden, "mmdet3d")), tmp_path / "car.pth", "mmdet3d"))
    assert facts.classes == ("Car",)
    assert count(net) == next(card.parameters for card in DETECTOR_CARDS if card.classes == 1)


def test_every_difference_is_named(golden: Path, tmp_path: Path) -> None:
    state = recorded(golden)
    del state["backbone_3d.conv2.1.0.weight"], state["backbone_2d.blocks.0.5.running_var"]
    state["backbone_3d.conv3.1.0.weight"] = torch.zeros(16, 3, 3, 3, 15)
    state["roi_head.fc.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as caught:
        import_detector(save(state, tmp_path / "a.pth"))
    for line in (
        "missing: backbone_3d.conv2.1.0.weight, expected [27, 8, 8]",
        "missing: backbone_2d.blocks.0.5.running_var, expected [32]",
        "misshapen: backbone_3d.conv3.1.0.weight, expected [27, 16, 16], found [16, 3, 3, 3, 15]",
        "unexpected: roi_head.fc.weight, found [2, 2]",
    ):
        assert line in str(caught.value)
    assert str(tmp_path / "a.pth") in str(caught.value)


def test_no_tensor_may_be_missing(golden: Path, tmp_path: Path) -> None:
    state = recorded(golden, "mmdet3d")
    for key in (*list(state)[::20], *list(state)[-6:]):
        rest = {name: value for name, value in state.items() if name != key}
        with pytest.raises(CheckpointError) as caught:
            import_detector(save(rest, tmp_path / "a.pth", "mmdet3d"))
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dense_head.conv_cls.bias": torch.full((18,), float("nan"))},
            "dense_head.conv_cls.bias has values that are not",
        ),
        ({"dense_head.conv_box.bias": torch.zeros(28)}, "28 channels for boxes and 12 for directions"),
        ({"backbone_2d.deblocks.1.0.weight": torch.zeros(64, 64, 3, 3)}, "do not divide by 3"),
    ],
)
def test_networks_that_cannot_be_are_refused(golden: Path, tmp_path: Path, change: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_detector(save(recorded(golden) | change, tmp_path / "a.pth"))


def test_a_layout_that_cannot_be_told_is_not_guessed(golden: Path, tmp_path: Path) -> None:
    """Four inputs and four outputs everywhere."""
    state = recorded(golden)
    for key, value in state.items():
        if key.startswith("backbone_3d"):
            sizes = [4, *value.shape[1:4], 4] if value.ndim == 5 else [4] * value.ndim
            state[key] = torch.zeros(sizes, dtype=value.dtype)
    state["backbone_2d.blocks.0.1.weight"] = torch.zeros(32, 8, 3, 3)
    with pytest.raises(CheckpointError, match="cannot be told, spconv 1 and spconv 2, native fit"):
        import_detector(save(in_layout(state, "spconv 1"), tmp_path / "a.pth"))


def test_either_kind_of_network_is_found_out(golden: Path, tmp_path: Path) -> None:
    found = import_either(save(recorded(golden), tmp_path / "a.pth"))
    assert isinstance(found, Detector)
    labelling = recorded_state(golden, "spvcnn_cr0.125")
    torch.save({"model": labelling}, tmp_path / "init")
    net, facts = import_either(tmp_path / "init")
    assert (net.spec.family, type(facts)) == ("spvcnn", Facts)
    with pytest.raises(CheckpointError, match="holds no SECOND of OpenPCDet or mmdetection3d"):
        import_detector(tmp_path / "init")
    with pytest.raises(CheckpointError, match=r"to which no net\.config and no kind belong"):
        import_either(tmp_path / "a.pth", kind="spvcnn")


def command(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize("convention", ["openpcdet", "mmdet3d"])
def test_the_commands_import_and_show_a_detector(golden: Path, tmp_path: Path, convention: str) -> None:
    source = save(published(golden, convention), tmp_path / "second_7862.pth", convention)
    done = command("import", source, "-o", tmp_path / "net.safetensors")
    assert done.exit_code == 0, done.stderr
    assert "5,325,576 parameters, boxes of" in done.stdout
    assert "those of the project for KITTI" in done.stdout
    net, facts = load_detector(tmp_path / "net.safetensors")
    assert (count(net), facts.spec.convention, facts.trained) == (PARAMETERS, convention, True)
    shown = command("inspect", "-w", tmp_path / "net.safetensors")
    assert shown.exit_code == 0, shown.stderr
    for word in ("second, finds boxes, without point branch", "5,325,576", "Cyclist", "0 -40 -3 70.4 40 1 m"):
        assert word in shown.stdout


@pytest.fixture
def narrow(golden: Path) -> Second:
    return detection_golden.network(golden / "detection")


def test_a_detector_survives_its_file(narrow: Second, tmp_path: Path) -> None:
    facts = DetectorFacts(narrow.spec, "narrow", trained=False, published_ap={"Car": 78.6})
    path = tmp_path / "net.safetensors"
    save_detector(path, narrow, facts)
    net, found = load_detector(path)
    assert found == facts
    assert all(torch.equal(value, narrow.state_dict()[key]) for key, value in net.state_dict().items())
    whole = path.stat().st_size
    save_detector(path, narrow, facts, half=True)
    assert path.stat().st_size < 0.6 * whole
    torch.testing.assert_close(load_detector(path)[0].state_dict(), narrow.state_dict(), rtol=2e-3, atol=1e-3)
    with pytest.raises(CheckpointError, match="the facts describe another detector"):
        save_detector(path, narrow, DetectorFacts(DetectorSpec.second("mmdet3d")))


def test_a_detector_is_not_taken_for_a_network_that_labels(narrow: Second, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "boxes.safetensors"
    save_detector(path, narrow, DetectorFacts(narrow.spec))
    for load in (load_checkpoint, Perception.load):
        with pytest.raises(
            CheckpointError, match="gives boxes, expected one that gives labels; `spvnas inspect -w` shows what it is"
        ):
            load(path)
    with pytest.raises(CheckpointError, match="gives labels, expected one that gives boxes"):
        load_detector(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": {"family": "second"}}, "header that cannot be used: not the description of a detector"),
        ({"name": 7}, "name is 7, expected str"),
        ({"published_ap": {"Car": "good"}}, "Car is 'good', expected float or int"),
        ({"version": 6}, "format version 6, this program reads up to 5"),
        ({"weights_sha256": "0" * 64}, "is damaged"),
    ],
)
def test_a_header_that_cannot_be_is_named(
    narrow: Second, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    save_detector(path, narrow, DetectorFacts(narrow.spec))
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["spvnas_ros"])
    save_file(narrow.state_dict(), path, {"spvnas_ros": json.dumps(document | change)})
    with pytest.raises(CheckpointError, match=message):
        load_detector(path)


def test_a_file_with_another_tensor_is_refused(narrow: Second, tmp_path: Path) -> None:
    other = Second(replace(narrow.spec, out=16))
    other.spec = narrow.spec
    save_detector(tmp_path / "net.safetensors", other, DetectorFacts(narrow.spec))
    with pytest.raises(CheckpointError, match=r"misshapen: encoder\.out\.conv\.kernel, expected \[3, 16, 32\]"):
        load_detector(tmp_path / "net.safetensors")


def test_the_cards_are_the_published_detectors(golden: Path) -> None:
    names = [card.name for card in (*CARDS, *DETECTOR_CARDS)]
    assert len(set(names)) == len(names)
    scores = {card.name: dict(card.ap) for card in DETECTOR_CARDS}
    assert scores == {
        "openpcdet-second": {"Car": 78.62, "Pedestrian": 52.98, "Cyclist": 67.15},
        "mmdet3d-second": {"mean": 65.3},
        "mmdet3d-second-car": {"Car": 78.2},
    }
    for convention in ("openpcdet", "mmdet3d"):
        card = find_card(f"{convention}-second")
        listed = json.loads((golden / "detection" / f"keys_{convention}_second_3class.json").read_text())
        assert card.parameters == listed["parameters"]
        assert find_card(card.upstream) is card
    found = detector_card_of_sha256("b086d0a3" + "0" * 56)
    assert found is not None
    assert found.name == "mmdet3d-second"
    assert all(each.file_name == each.urls[0].rsplit("/", 1)[-1] for each in DETECTOR_CARDS if each.urls)


def test_a_card_gives_its_name_and_score_to_its_own_detector_only(golden: Path, tmp_path: Path) -> None:
    source = save(published(golden, "openpcdet"), tmp_path / "second_7862.pth")
    card = find_card("openpcdet-second")
    _, facts = load_detector(adopt(card, tmp_path / "cache", source))
    assert (facts.name, dict(facts.published_ap)) == ("openpcdet-second", dict(card.ap))
    assert "KITTI (CC BY-NC-SA), for non-commercial use" in facts.provenance
    assert load_detector(adopt(card, tmp_path / "cache", tmp_path))[1] == facts, "a folder that holds the file"
    mmdet3d = replace(find_card("mmdet3d-second"), sha256_prefix="")
    with pytest.raises(CheckpointError, match="this is not mmdet3d-second: it holds SECOND of open-mmlab/OpenPCDet"):
        adopt(mmdet3d, tmp_path / "cache", source)
    with pytest.raises(CheckpointError, match="has 5,325,576 parameters and 3 classes"):
        adopt(replace(card, parameters=1), tmp_path / "cache", source)
    with pytest.raises(FetchError, match="expected b086d0a3"):
        adopt(find_card("mmdet3d-second"), tmp_path / "cache", source)


def test_a_file_that_only_a_browser_gets_is_asked_for(tmp_path: Path) -> None:
    card = find_card("openpcdet-second")
    assert isinstance(card, DetectorCard)
    with pytest.raises(FetchError, match=r"only a browser gets it: https://drive(.|\n)*fetch openpcdet-second --from"):
        fetch(card, tmp_path)


def test_the_zoo_lists_and_fetches_detectors(
    site: Site, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path / "cache"))
    source = save(published(golden, "openpcdet"), tmp_path / "second.pth")
    site.files["/second.pth"] = source.read_bytes()
    done = command("zoo", "fetch", "openpcdet-second", "--url", f"{site.url}/second.pth")
    assert done.exit_code == 0, done.stderr
    assert "trained on KITTI" in done.stdout
    rows = {line.split()[0]: line for line in command("zoo", "list").stdout.splitlines() if line.strip()}
    assert rows["openpcdet-second"].split()[1:] == ["5.3", "M", "78.6", "53.0", "67.2", "Apache-2.0", "yes"]
    assert rows["mmdet3d-second"].split()[1:] == ["5.3", "M", "65.3", "Apache-2.0"]


def test_saving_a_labelling_network_still_writes_the_first_version(weights: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    net, facts = load_checkpoint(weights)
    save_checkpoint(tmp_path / "again.safetensors", net, facts)
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert json.loads(file.metadata()["spvnas_ros"])["version"] == 1
