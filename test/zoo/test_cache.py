"""Names of models become files in the cache, or say how to get there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.perception import Perception
from spvnas_ros.zoo.cache import FetchError, cache_folder, resolve_weights
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint


def test_names_resolve_to_paths_or_say_how_to_get_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FetchError, match="run: spvnas zoo fetch spvcnn-30g"):
        resolve_weights("spvcnn-30g")
    (tmp_path / "spvcnn-30g.safetensors").touch()
    assert resolve_weights("spvcnn-30g") == tmp_path / "spvcnn-30g.safetensors"
    assert resolve_weights("SemanticKITTI_val_SPVCNN@30GMACs") == tmp_path / "spvcnn-30g.safetensors"
    assert resolve_weights(tmp_path / "spvcnn-30g.safetensors") == tmp_path / "spvcnn-30g.safetensors"
    with pytest.raises(
        FetchError, match=r"there is no file spvcnn-30, and the zoo has no model .* did you mean spvcnn-30g"
    ):
        resolve_weights("spvcnn-30")
    for path in ("weights.safetensors", "folder/weights", "./weights"):
        with pytest.raises(FetchError, match=r"there is no file (folder/)?weights") as caught:
            resolve_weights(path)
        assert "zoo" not in str(caught.value)
    with pytest.raises(FetchError, match="is a folder"):
        resolve_weights(tmp_path)


def test_perception_takes_the_name_of_a_fetched_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPVNAS_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match="run: spvnas zoo fetch spvcnn-30g"):
        Perception.load("spvcnn-30g", device="cpu", engine="torch")
    net = PointVoxelUNet(NetSpec.spvcnn(2))
    save_checkpoint(tmp_path / "spvcnn-30g.safetensors", net, Facts(spec=net.spec, name="here"))
    perception = Perception.load("spvcnn-30g", device="cpu", engine="torch")
    assert perception.facts.name == "here"
    assert len(perception(np.random.default_rng(0).random((50, 4), np.float32))) == 50


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPVNAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/spvnas_ros")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert cache_folder() == Path("/var/xdg/spvnas_ros")
    monkeypatch.setenv("SPVNAS_CACHE", "/var/models")
    assert cache_folder() == Path("/var/models")
