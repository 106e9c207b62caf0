"""What trainers wrap around a network is looked through and named; anything else is still an error by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from published_files import State, recorded_state
from spvnas_cli import spvnas
from spvnas_ros.zoo.checkpoint import CheckpointError, load_checkpoint
from spvnas_ros.zoo.importers.projects import import_checkpoint


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


AVERAGE = {"n_averaged": torch.tensor(10)}
WRAPPED: dict[str, tuple[Callable[[State], Any], tuple[str, ...]]] = {
    "plain": (lambda s: s, ()),
    "ddp": (lambda s: prefixed(s, "module."), ("prefix 'module.'",)),
    "lightning": (
        lambda s: {"state_dict": prefixed(s, "model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
        ("entry 'state_dict'", "prefix 'model.'"),
    ),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), ("'_orig_mod' (torch.compile)",)),
    "compiled within": (lambda s: prefixed(s, "module._orig_mod."), ("'_orig_mod'", "prefix 'module.'")),
    "averaged": (lambda s: AVERAGE | prefixed(s, "module."), ("prefix 'module.'", "trainer's own: n_averaged")),
    "average beside": (
        lambda s: {"state_dict": s, "ema_state_dict": zeros(prefixed(s, "module."))},
        ("entry 'state_dict'; 'ema_state_dict' beside it left out",),
    ),
    "average within": (
        lambda s: {"state_dict": zeros(prefixed(s, "ema.module.")) | prefixed(s, "net.")},
        ("entry 'state_dict'", "prefix 'net.'", "tensors of the network under the prefix 'ema.module.'"),
    ),
    "average behind": (
        lambda s: s | zeros(prefixed(s, "teacher.")),
        ("tensors of the network under the prefix 'teacher.'",),
    ),
    "average alone": (lambda s: {"ema": {"module": s, "updates": 7}}, ("entry 'ema'", "entry 'module'")),
    "model_state": (lambda s: {"epoch": 3, "model_state": s}, ("entry 'model_state'",)),
    "model_state_dict": (
        lambda s: {"model_state_dict": prefixed(s, "module."), "optimizer_state_dict": {"state": {0: {}}}},
        ("entry 'model_state_dict'", "prefix 'module.'"),
    ),
    "net": (lambda s: {"net": s}, ("entry 'net'",)),
    "any other name": (lambda s: {"segmentor": prefixed(s, "a.b.")}, ("entry 'segmentor'", "prefix 'a.b.'")),
    "a loss": (
        lambda s: s | {"criterion.weight": torch.ones(19), "val_iou.confmat": torch.ones(2)},
        ("trainer's own: criterion.weight, val_iou.confmat",),
    ),
    "a loss beside": (
        lambda s: {"state_dict": prefixed(s, "model.") | {"loss_fn.weight": torch.ones(19)}},
        ("entry 'state_dict'", "prefix 'model.'", "trainer's own: loss_fn.weight"),
    ),
    "no counters": (
        lambda s: {key: value for key, value in s.items() if not key.endswith("num_batches_tracked")},
        ("counters num_batches_tracked are not there and set to 0",),
    ),
}


@pytest.mark.parametrize("tag", ["spvcnn_cr0.125", "spvnas_small", "mmdet3d_spvcnn_small"])
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_a_trainer_wraps_around_a_network_is_looked_through_and_named(
    golden: Path, tmp_path: Path, wrapping: str, tag: str
) -> None:
    state = recorded_state(golden, tag)
    wrap, words = WRAPPED[wrapping]
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap(state), tmp_path / "wrapped.pth")
    notes: list[str] = []
    net, _ = import_checkpoint(tmp_path / "wrapped.pth", say=notes.append)
    expected, _ = import_checkpoint(tmp_path / "plain.pth")
    for key, value in expected.state_dict().items():
        if wrapping != "no counters" or not key.endswith("num_batches_tracked"):
            assert torch.equal(net.state_dict()[key], value), key
    assert len(notes) == len(words), notes
    for note, word in zip(notes, words, strict=True):
        assert word in note


def test_the_command_names_them(golden: Path, tmp_path: Path) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    torch.save(WRAPPED["a loss beside"][0](state), tmp_path / "last.ckpt")
    done = spvnas("import", tmp_path / "last.ckpt", "-o", tmp_path / "net.safetensors")
    assert done.exit_code == 0, done.stderr
    for word in WRAPPED["a loss beside"][1]:
        assert word in done.stdout
    assert load_checkpoint(tmp_path / "net.safetensors")[1].trained


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": prefixed(s, "model.")}])
def test_what_is_left_over_or_missing_is_named_in_any_wrapping(
    golden: Path, tmp_path: Path, wrap: Callable[[State], Any]
) -> None:
    state = recorded_state(golden, "spvcnn_cr0.125")
    del state["stage2.1.net.3.kernel"], state["stem.1.num_batches_tracked"]
    state["auxiliary_head.weight"] = torch.zeros(2, 2)
    torch.save(wrap(state), tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / "last.ckpt")
    for line in (
        "missing: stage2.1.net.3.kernel, expected [27, 8, 8]",
        "missing: stem.1.num_batches_tracked, expected []",
        "unexpected: auxiliary_head.weight, found [2, 2]",
    ):
        assert line in str(caught.value)


def test_a_tensor_beside_the_prefix_is_named_whole(golden: Path, tmp_path: Path) -> None:
    state = prefixed(recorded_state(golden, "spvcnn_cr0.125"), "model.") | {"head.weight": torch.zeros(3)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"unexpected: head\.weight, found \[3\]"):
        import_checkpoint(tmp_path / "last.ckpt")
