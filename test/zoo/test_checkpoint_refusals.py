"""What is not a whole checkpoint is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from checkpoint_files import Tensors, rewrite
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint, weights_sha256


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 6}, "format version 6, this program reads up to 5; update it"),
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
