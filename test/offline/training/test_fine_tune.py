"""Training that begins from a checkpoint: what it takes over, what it records, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from drives import write_drive
from places import RECIPES
from spvnas_ros.cli import app
from spvnas_ros.labels import MIT_HAN_LAB, SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.offline.training.config import ConfigError
from spvnas_ros.offline.training.recipe_files import load_recipe
from spvnas_ros.offline.training.start import begin, spec_of
from spvnas_ros.zoo.cache import FetchError
from spvnas_ros.zoo.checkpoint import FORMAT, Facts, load_checkpoint, save_checkpoint

RECIPE = RECIPES / "fine_tune.yaml"
WIDTHS = [4, 4, 8, 8, 8, 8, 8, 8, 8]
SPEC = NetSpec.of(WIDTHS, [1] * 8, num_classes=19)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small labelled scans in SemanticKITTI's layout."""
    folder = tmp_path_factory.mktemp("drive")
    write_drive(folder, 3)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A network whose facts are not the defaults."""
    return made(tmp_path / "start.safetensors", seed=1)


def made(path: Path, seed: int, **facts: object) -> Path:
    torch.manual_seed(seed)
    known = Facts(SPEC, "before", MIT_HAN_LAB.name, voxel_size=0.3, provenance="from a friend, for research only")
    save_checkpoint(path, PointVoxelUNet(SPEC), replace(known, **facts))
    return path


def overrides(drive: Path, start: Path, *others: str) -> list[str]:
    given = [f"start={start}", f"data.train={drive}", f"data.validation={drive}", "data.workers=0"]
    given += ["data.max_voxels=2000", "schedule.warmup_steps=0", "trainer.device=cpu", "trainer.steps=2"]
    return [*given, "trainer.log_every=1", "trainer.validate_every=100", *others]


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_recipe_for_fine_tuning_begins_with_the_weights_and_says_so(
    drive: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(RECIPE, overrides(drive, start, "optimiser.learning_rate=1e-12", "trainer.ema=0"), out) == 0
    before, old = load_checkpoint(start)
    after, new = load_checkpoint(out / "last.safetensors")
    for (name, value), found in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-6, msg=name)  # they are kept in half precision
    assert (new.spec, new.voxel_size, new.label_map, new.classes) == (SPEC, 0.3, "mit-han-lab", old.classes)
    assert new.training is not None
    assert (new.training.recipe, new.training.start) == ("fine_tune", "start.safetensors")
    assert new.training.start_sha256 == old.weights_sha256
    assert "from a friend, for research only" in new.provenance


def test_training_on_what_a_network_said_is_warned_of(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_drive(tmp_path, 1)
    (tmp_path / "summary.json").write_text("{}")  # as `spvnas segment` leaves it beside its labels
    assert run(RECIPE, overrides(tmp_path, start, "trainer.steps=1"), tmp_path / "run") == 0
    said = "".join(capsys.readouterr())
    assert f"the labels in {tmp_path / 'labels'} were written by `spvnas segment`" in said
    assert "fine_tune: 1 scans, 1 steps of 2" in said


def test_a_network_that_was_trained_further_begins_where_it_was(drive: Path, start: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(RECIPE, overrides(drive, start, "trainer.steps=10", "optimiser.learning_rate=0.01", "trainer.ema=0"), first)
    run(RECIPE, overrides(drive, first / "last.safetensors", "trainer.steps=1"), second)
    assert losses_of(second)[0] < 0.9 * losses_of(first)[0]


def test_what_the_recipe_leaves_open_is_the_starts_and_what_it_says_must_agree(drive: Path, start: Path) -> None:
    def begun(*others: str) -> tuple[float, str]:
        recipe, _ = begin(load_recipe(RECIPE, overrides(drive, start, *others)))
        return recipe.data.voxel_size, recipe.data.label_map

    assert begun() == (0.3, "mit-han-lab")
    assert begun(f"net={{widths: {WIDTHS}, depths: {[1] * 8}}}", "data.voxel_size=0.3") == (0.3, "mit-han-lab")
    # The same classes out of other raw ids.
    assert begun("data.label_map=semantic-kitti") == (0.3, "semantic-kitti")
    for other, message in (
        ("net.width=20", r"the recipe's net \(spvcnn, widths 20 .* is not that of .*start\.safetensors"),
        (f"net.widths={WIDTHS}", r"blocks 2 2 2 2 2 2 2 2\) is not that"),
        ("data.voxel_size=0.05", r"data\.voxel_size is 0\.05 m, but .*start\.safetensors was trained with 0\.3 m"),
        ("start_sha256=abc", r"sha256 [0-9a-f]{64}, expected abc"),
    ):
        with pytest.raises(ConfigError, match=message):
            begun(other)


def test_a_start_with_other_classes_is_refused(drive: Path, tmp_path: Path) -> None:
    names = ("kart", *SEMANTIC_KITTI.classes[1:])
    recipe, start = begin(load_recipe(RECIPE, overrides(drive, made(tmp_path / "other.safetensors", 1, classes=names))))
    with pytest.raises(ConfigError, match="tells kart, bicycle,"):
        spec_of(recipe, start, SEMANTIC_KITTI)


def test_without_a_start_a_recipe_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("name: plain\n")
    recipe, start = begin(load_recipe(path))
    assert start is None
    assert (recipe.data.voxel_size, recipe.data.label_map, recipe.net.width) == (0.05, "semantic-kitti", 16)
    assert spec_of(recipe, start, SEMANTIC_KITTI) == NetSpec.spvcnn(16)


def test_fine_tuning_that_was_stopped_goes_on_only_from_the_weights_it_began_with(
    drive: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert run(RECIPE, overrides(drive, start, "trainer.max_minutes=1e-9"), out) == UNFINISHED
    made(start, seed=2)
    with pytest.raises(ConfigError, match=r"start_sha256 '[0-9a-f]{64}', now '[0-9a-f]{64}'"):
        run(RECIPE, overrides(drive, start), out, resume=True)
    made(start, seed=1)
    assert run(RECIPE, overrides(drive, start), out, resume=True) == 0
    assert len(losses_of(out)) == 2


def test_weights_that_are_not_there_are_a_readable_error(drive: Path) -> None:
    with pytest.raises(FetchError, match="spvnas zoo fetch spvcnn-30g"):
        begin(load_recipe(RECIPE, ["start=spvcnn-30g"]))
    found = CliRunner().invoke(app, ["train", str(RECIPE), f"data.train={drive}", "start=missing.safetensors"])
    assert found.exit_code == 1
    assert "there is no file missing.safetensors" in found.output


def test_a_training_record_from_before_fine_tuning_is_read(drive: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(RECIPE, overrides(drive, start, "trainer.steps=1"), out)
    path = out / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[FORMAT])
    for key in ("start", "start_sha256"):
        del header["training"][key]
    save_file(state, path, metadata={FORMAT: json.dumps(header)})
    record = load_checkpoint(path)[1].training
    assert record is not None
    assert (record.start, record.start_sha256) == (None, None)


def test_a_start_may_lose_the_last_blocks_of_stages_and_nothing_else(drive: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    deep = PointVoxelUNet(NetSpec.of(WIDTHS, [2] * 8, num_classes=19))
    path = tmp_path / "deep.safetensors"
    save_checkpoint(path, deep, Facts(deep.spec, "deep", voxel_size=0.3))
    _, start = begin(load_recipe(RECIPE, overrides(drive, path, f"net={{widths: {WIDTHS}, depths: {[1] * 8}}}")))
    assert start is not None
    assert start.net.spec == SPEC
    assert all(torch.equal(value, deep.state_dict()[key]) for key, value in start.net.state_dict().items())
    with pytest.raises(ConfigError, match="nor that with fewer blocks"):
        begin(load_recipe(RECIPE, overrides(drive, path, f"net={{widths: {WIDTHS}, depths: {[3] * 8}}}")))
