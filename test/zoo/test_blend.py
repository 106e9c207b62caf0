"""Weights between two networks, through the command and the function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.nets.box_spec import BoxBranchSpec, BoxClass
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.blend import BlendError, blend
from spvnas_ros.zoo.checkpoint import Facts, TrainingRecord, load_checkpoint, save_checkpoint

SPEC = NetSpec.of([4, 4, 8, 8, 8, 8, 8, 8, 8], [1] * 8, num_classes=19)


def trained(seed: int, **facts: object) -> tuple[PointVoxelUNet, Facts]:
    torch.manual_seed(seed)
    record = TrainingRecord(f"recipe{seed}", seed, 10, "streets", {"validation": 0.5})
    known = Facts(SPEC, f"net{seed}", training=record, provenance=f"origin {seed}")
    return PointVoxelUNet(SPEC), replace(known, **facts)  # type: ignore[arg-type]


@settings(max_examples=20)
@given(share=st.floats(0, 1))
def test_every_weight_lies_between(share: float) -> None:
    first, second = trained(1), trained(2)
    net, facts = blend(first, second, share)
    ends = first[0].state_dict(), second[0].state_dict()
    for key, value in net.state_dict().items():
        expected = (1 - share) * ends[0][key] + share * ends[1][key] if value.is_floating_point() else ends[1][key]
        torch.testing.assert_close(value, expected)
    assert facts.name == "net1+net2"
    assert facts.training is not None
    assert (facts.training.recipe, facts.training.scores) == ("recipe2", {})
    assert "origin 1" in facts.provenance
    assert "origin 2" in facts.provenance


def test_a_box_branch_of_only_one_is_left_out() -> None:
    (first, before), (second, after) = trained(1), trained(2)
    car = BoxClass("car", (4.3, 2.0, 1.6), -1.75, 0.5, 0.35)
    spec = replace(SPEC, boxes=BoxBranchSpec.around(0.05, [car], width=4, reach=25.6, level=3))
    joint = PointVoxelUNet(spec)
    joint.load_state_dict(joint.state_dict() | first.state_dict())
    plain, _ = blend((first, before), (second, after))
    for start, tuned in (
        ((joint, replace(before, spec=spec)), (second, after)),
        ((second, after), (joint, replace(before, spec=spec))),
    ):
        net, facts = blend(start, tuned)
        assert facts.spec == net.spec == SPEC
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, plain.state_dict()[key])
    net, _ = blend((joint, replace(before, spec=spec)), (joint, replace(before, spec=spec)))
    assert net.spec == spec


def test_the_origin_of_a_start_that_the_further_training_tells_is_told_once() -> None:
    (first, before), (second, after) = trained(1), trained(2)
    before, after = (replace(each, weights_sha256=sha) for each, sha in ((before, "a" * 64), (after, "b" * 64)))
    further = replace(after, provenance=f"from net1 (weights sha256 {'a' * 64}; origin 1)")
    _, facts = blend((first, before), (second, further), 0.5)
    assert facts.provenance == (
        f"blended: 50% of net1 (weights sha256 {'a' * 64}), 50% of net2 (weights sha256 {'b' * 64}; "
        f"from net1 (weights sha256 {'a' * 64}; origin 1))"
    )


def test_the_command_writes_a_checkpoint_that_says_what_it_is(tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        save_checkpoint(path, *trained(seed))
    out = tmp_path / "between.safetensors"
    done = CliRunner().invoke(
        app, ["blend", str(paths[1]), "-w", str(paths[0]), "--share", "0.25", "--half", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    _, facts = load_checkpoint(out)
    _, start = load_checkpoint(paths[0])
    assert facts.provenance.startswith(
        f"blended: 75% of net1 (weights sha256 {start.weights_sha256}; origin 1), 25% of "
    )
    assert out.stat().st_size < 0.7 * paths[0].stat().st_size


@pytest.mark.parametrize("command", ["blend", "import", "calibrate"])
def test_what_writes_weights_replaces_none_unasked_and_takes_no_name_that_is_not_theirs(
    command: str, tmp_path: Path
) -> None:
    there, before = tmp_path / "net.safetensors", b"the work of a night"
    there.write_bytes(before)
    for name, said in (
        (there, f"spvnas: {there} would be replaced; name another file, or replace it with --force"),
        (tmp_path / "net.txt", "spvnas: weights are a .safetensors file, found the name 'net.txt'"),
        (tmp_path, "expected the name of a file in a folder that is there"),
        (tmp_path / "none" / "net.safetensors", "expected the name of a file in a folder that is there"),
    ):
        done = CliRunner().invoke(app, [command, "default", "-o", str(name)])
        assert done.exit_code == 1, done.output
        assert said in done.stderr.replace("\n", " "), done.stderr
    assert there.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_with_force_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, *trained(1))
    done = CliRunner().invoke(app, ["blend", str(path), "-w", str(path), "-o", str(path), "--force"])
    assert done.exit_code == 0, done.output
    assert load_checkpoint(path)[1].name == "net1+net1"


@pytest.mark.parametrize(
    ("facts", "share", "said"),
    [
        ({"voxel_size": 0.1}, 0.5, r"differ in voxel_size: 0\.05 and 0\.1"),
        ({"label_map": "mit-han-lab"}, 0.5, "differ in label_map"),
        ({"intensity": "u8"}, 0.5, "differ in intensity: unit and u8"),
        ({}, 1.5, r"is 1\.5, expected 0 to 1"),
        ({}, float("nan"), "is nan, expected 0 to 1"),
    ],
)
def test_what_has_nothing_between_is_refused(facts: dict[str, object], share: float, said: str) -> None:
    with pytest.raises(BlendError, match=said):
        blend(trained(1), trained(2, **facts), share)
