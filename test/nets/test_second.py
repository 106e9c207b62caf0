"""SECOND computes what OpenPCDet's and mmdetection3d's compute: recorded stages, maps, losses and gradients."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import detection_golden as golden
from spvnas_ros.nets.box_targets import Targets, assign_targets, box_losses
from spvnas_ros.nets.detector_spec import CONVENTIONS, DetectorSpec
from spvnas_ros.nets.heads import anchor_boxes
from spvnas_ros.nets.second import Second, encoder_sites
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.sparse.sites import mean_voxels

NAME = f"openpcdet_second_w4_{golden.FRAME}"
STAGES = ("x_conv1", "x_conv2", "x_conv3", "x_conv4", "conv_out")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "golden" / "detection"


@pytest.fixture(scope="module")
def recorded(folder: Path) -> dict[str, np.ndarray]:
    return golden.load(folder, NAME)


def assert_close(ours: Tensor, theirs: np.ndarray, limit: float) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours.detach().numpy() - theirs).max() <= limit * np.abs(theirs).max()


@torch.no_grad()
def test_stages_and_maps_match_openpcdet(folder: Path, recorded: dict[str, np.ndarray]) -> None:
    net = golden.network(folder)
    seen: dict[str, Tensor] = {}
    watched = dict(zip(STAGES, (*net.encoder.stages, net.encoder.out), strict=True)) | {"2d": net.bev}
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out))
    net.bev.register_forward_pre_hook(lambda _m, inputs: seen.__setitem__("flat", inputs[0]))
    coords, feats = golden.coords(recorded["voxel_coords"]), torch.from_numpy(recorded["voxel_mean"])
    sites = encoder_sites(net.spec, coords, feats)
    out = net(coords, feats, 1, sites)
    assert [s.shape[::-1] for s in sites.sites] == [tuple(shape) for shape in recorded["shapes"][1:].tolist()]
    for name, each in zip(STAGES, sites.sites, strict=True):
        rows = each.level.find(golden.coords(recorded[f"{name}/C"]))
        assert len(rows) == len(each)
        assert (rows >= 0).all()
        assert_close(seen[name][rows], recorded[f"{name}/F"], 1e-5)
    assert_close(seen["flat"][0, :, 10::16, 10::16], recorded["bev_at"], 1e-5)
    assert_close(seen["flat"][0].double().sum((1, 2)), recorded["bev_nonzero_sum_per_channel"], 1e-5)
    assert_close(seen["2d"][0, :, ::8, ::8], recorded["bev2d_every8"], 1e-4)
    for name, ours in (("cls", out.classes), ("box", out.boxes), ("dir_cls", out.directions)):
        theirs = recorded[f"{name}_preds"]
        assert_close(ours.reshape(theirs.shape), theirs, 1e-4)


def test_a_frame_becomes_openpcdets_voxels(shared: Path, folder: Path, recorded: dict[str, np.ndarray]) -> None:
    cloud = golden.points(shared)
    assert len(cloud) == recorded["n_points_fov"]
    cloud = golden.in_range(cloud, golden.CROP)
    digest = golden.facts(folder, NAME)["sha_masked_points"]
    assert hashlib.sha256(cloud.tobytes()).hexdigest()[: len(digest)] == digest
    spec = golden.spec("openpcdet")
    means = mean_voxels(torch.from_numpy(cloud), spec.point_range, spec.voxel_size, spec.max_points, 40_000)
    assert np.array_equal(means.coords.flip(1), recorded["voxel_coords"])
    assert np.array_equal(means.counts, recorded["voxel_num_points"])
    np.testing.assert_allclose(means.feats, recorded["voxel_mean"], rtol=1e-6, atol=1e-6)


def recorded_names(folder: Path) -> list[str]:
    """OpenPCDet's names of the parameters, in the order of ours."""
    items = list(golden.load(folder, "openpcdet_second_w4_weights").items())
    norms = golden.facts(folder, NAME)["train_grad_norms"]
    return [name for key, _ in golden._in_our_order(items) if (name := key.removeprefix("sd/")) in norms]


def test_one_training_step_has_openpcdets_gradients(folder: Path, recorded: dict[str, np.ndarray]) -> None:
    # In double: in float32 single features on the edge of ReLU move some of these gradients by a percent, by the number
    # of threads.
    net = golden.network(folder).double().train()
    spec, truth = net.spec, torch.from_numpy(recorded["gt_boxes"])
    anchors = anchor_boxes(spec.head, spec.bev_shape, spec.point_range)
    targets = assign_targets(spec.head, anchors, truth[:, :7], truth[:, 7].long() - 1)
    targets = replace(targets, boxes=targets.boxes.double())
    out = net(golden.coords(recorded["voxel_coords"]), torch.from_numpy(recorded["voxel_mean"]).double(), 1)
    losses = box_losses(spec.head, out, [targets])
    facts = golden.facts(folder, NAME)
    for ours, name in ((losses.classes, "cls"), (losses.boxes, "loc"), (losses.directions, "dir")):
        assert ours.item() == pytest.approx(facts["train_mode_losses"][f"rpn_loss_{name}"], rel=1e-5)
    losses.total.backward()
    for name, parameter in zip(recorded_names(folder), net.parameters(), strict=True):
        # This one is a sum of 12 417 rows that nearly cancel, which float32 does not hold to a thousandth.
        limit = 2e-3 if name == "backbone_3d.conv1.0.1.bias" else 1e-3
        assert float(parameter.grad.norm()) == pytest.approx(facts["train_grad_norms"][name], rel=limit), name
        if f"grad/{name}" in recorded:
            theirs = torch.from_numpy(recorded[f"grad/{name}"])
            theirs = golden.kernel_of(theirs) if theirs.ndim == 5 else theirs
            assert_close(parameter.grad, theirs.numpy(), 1e-3)
    assert_close(net.encoder.out.norm.running_mean, recorded["train/running_mean_conv_out"], 1e-4)
    assert_close(net.encoder.out.norm.running_var, recorded["train/running_var_conv_out"], 1e-4)


@torch.no_grad()
def test_the_full_range_matches_openpcdet(shared: Path, folder: Path) -> None:
    recorded, net = golden.load(folder, f"{NAME}_full"), golden.trained_once(folder, full=True)
    cloud = golden.in_range(golden.points(shared), net.spec.point_range)
    coords, feats = net.voxels([torch.from_numpy(cloud)])
    assert len(coords) == recorded["voxels"]
    assert [shape[::-1] for shape in net.spec.shapes()] == [tuple(shape) for shape in recorded["shapes"].tolist()]
    out = net(coords, feats, 1)
    for name, ours in (("cls", out.classes), ("box", out.boxes), ("dir_cls", out.directions)):
        assert_close(ours.reshape(200, 176, -1)[::10, ::10], recorded[f"{name}_preds_every10"], 1e-4)


def small(convention: str = "openpcdet", *, point_branch: bool = False) -> Second:
    torch.manual_seed(0)
    limits = (0.0, -3.2, -3.0, 6.4, 3.2, 1.0)
    spec = DetectorSpec.second(convention, 2, point_branch=point_branch, point_range=limits, voxel_size=(0.1, 0.1, 0.1))
    net = Second(spec)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.3)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def clouds(*counts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    size, low = torch.tensor([6.4, 6.4, 2.0, 1.0]), torch.tensor([0.0, -3.2, -2.0, 0.0])
    return [torch.rand(count, 4, generator=generator) * size + low for count in counts]


@pytest.mark.parametrize("point_branch", [False, True])
@torch.no_grad()
def test_frames_of_a_batch_do_not_see_each_other_and_may_be_empty(point_branch: bool) -> None:
    net = small(point_branch=point_branch)
    frames = clouds(500, 0, 300)
    together = net(*net.voxels(frames), 3)
    for i, frame in enumerate(frames):
        alone = net(*net.voxels([frame]), 1)
        torch.testing.assert_close(together.classes[i], alone.classes[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.boxes[i], alone.boxes[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(together.classes[0], together.classes[1])


@torch.no_grad()
def test_the_order_of_voxels_does_not_matter() -> None:
    net = small(point_branch=True)
    coords, feats = net.voxels(clouds(600))
    order = torch.randperm(len(coords))
    torch.testing.assert_close(net(coords[order], feats[order], 1).classes, net(coords, feats, 1).classes)


def test_fewer_voxels_are_taken_while_training() -> None:
    net = small()
    net.spec = replace(net.spec, max_voxels=(100, 200))
    assert len(net.voxels(clouds(1000))[0]) == 200
    assert len(net.train().voxels(clouds(1000))[0]) == 100


def test_a_cloud_of_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a cloud must be \[N, 4\], found shape \[5, 3\]"):
        small().voxels([torch.zeros(5, 3)])


@pytest.mark.parametrize("point_branch", [False, True])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradients_reach_every_parameter(convention: str, point_branch: bool) -> None:
    net = small(convention, point_branch=point_branch).train()
    head = net.spec.head
    anchors = anchor_boxes(head, net.spec.bev_shape, net.spec.point_range)
    boxes = torch.tensor([[3.0, 0.5, -1.0, 3.9, 1.6, 1.5, 0.3], [2.0, -2.0, -0.5, 0.8, 0.6, 1.7, 1.5]])
    targets = [assign_targets(head, anchors, boxes[:n], torch.tensor([0, 1])[:n]) for n in (2, 1)]
    losses = box_losses(head, net(*net.voxels(clouds(800, 700)), 2), targets)
    losses.total.backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not float(p.grad.abs().sum()) > 0]
    assert still == []


def test_parameters_are_the_published_number() -> None:
    with torch.device("meta"):
        for convention in CONVENTIONS:
            net = Second(DetectorSpec.second(convention))
            parts = [sum(p.numel() for p in part.parameters()) for part in (net.encoder, net.bev, net.head)]
            assert parts == [711_872, 4_576_768, 36_936]
            assert sum(parts) == 5_325_576


def test_a_spec_survives_its_dictionary() -> None:
    import json

    for convention in CONVENTIONS:
        spec = DetectorSpec.second(convention, point_branch=convention == "mmdet3d")
        assert DetectorSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    for broken in ({}, spec.to_dict() | {"head": None}, spec.to_dict() | {"bev": [1]}, spec.to_dict() | {"stem": "a"}):
        with pytest.raises(SpecError, match="not the description of a"):
            DetectorSpec.from_dict(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point_range": (0.0, 0.0, 0.0, 1.0, -1.0, 1.0)}, "point_range must be x, y, z minimum"),
        ({"point_range": (0.0, 0.0, -3.0, 1.0, 1.0, -2.9)}, "is too small for the encoder"),
        ({"point_range": (0.0, 0.0, -3.0, 10.0, 10.0, 1.0)}, "do not divide by 2"),
        ({"voxel_size": (0.1, 0.0, 0.1)}, "voxel_size must be three positive"),
        ({"max_voxels": (0, 5)}, "max_voxels"),
        ({"in_channels": 2}, "in_channels must be at least 3"),
        ({"stages": ((4,),)}, "a detector has 4 stages"),
        ({"out": 0}, "every width must be at least 1"),
        ({"bev": ()}, "bird's-eye view needs blocks"),
    ],
)
def test_detectors_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(DetectorSpec.second("openpcdet"), **change)


def test_a_convention_nobody_knows_is_refused() -> None:
    with pytest.raises(SpecError, match="must be 'openpcdet' or 'mmdet3d', found 'nuscenes'"):
        DetectorSpec.second("nuscenes")
    head = DetectorSpec.second("openpcdet").head
    with pytest.raises(SpecError, match="negative <= positive"):
        replace(head, classes=(replace(head.classes[0], negative=0.7),))
    with pytest.raises(SpecError, match="positive size"):
        replace(head, classes=(replace(head.classes[0], size=(1.0, 0.0, 1.0)),))
    with pytest.raises(SpecError, match="forced must be"):
        replace(head, forced="never")


@torch.no_grad()
def test_spv_second_without_its_points_is_second(folder: Path, recorded: dict[str, np.ndarray]) -> None:
    voxels = golden.network(folder)
    spv = Second(DetectorSpec.second("openpcdet", 4, point_branch=True, point_range=golden.CROP)).eval()
    missing, unexpected = spv.load_state_dict(voxels.state_dict(), strict=False)
    assert unexpected == []
    assert {name.rsplit(".", 2)[0] for name in missing} == {f"encoder.points.{i}" for i in range(5)}
    coords, feats = golden.coords(recorded["voxel_coords"]), torch.from_numpy(recorded["voxel_mean"])
    other = spv(coords, feats, 1)
    for transform in spv.encoder.points:
        torch.nn.init.zeros_(transform.linear.weight)
        torch.nn.init.zeros_(transform.linear.bias)
    second, silent = voxels(coords, feats, 1), spv(coords, feats, 1)
    for part in ("classes", "boxes", "directions"):
        assert torch.equal(getattr(silent, part), getattr(second, part))
        assert not torch.equal(getattr(other, part), getattr(second, part)), "points change what is said"


@torch.no_grad()
def test_a_stage_of_spv_second_is_an_spvconv() -> None:
    """The voxels' features at the points are added to the points' own, whose means are added to the voxels'."""
    net = small(point_branch=True)
    coords, feats = net.voxels(clouds(700))
    sites = encoder_sites(net.spec, coords, feats)
    into: list[Tensor] = []
    convolved: list[Tensor] = []
    for layer in (*net.encoder.stages, net.encoder.out):
        layer.register_forward_pre_hook(lambda _m, inputs: into.append(inputs[0]))
        layer.register_forward_hook(lambda _m, _i, out: convolved.append(out))
    end = net.encoder(feats[sites.order], sites)
    points = into[0]
    for i, transform in enumerate(net.encoder.points):
        own = transform(points)
        rows = sites.exchanges[i].ancestors
        means = torch.stack([
            own[rows == row].mean(dim=0) if bool((rows == row).any()) else torch.zeros(own.shape[1])
            for row in range(len(convolved[i]))
        ])  # fmt: skip
        torch.testing.assert_close(convolved[i] + means, into[i + 1] if i < 4 else end, rtol=1e-4, atol=1e-5)
        points = own + sites.exchanges[i].to_points(convolved[i])


def test_targets_are_a_frames_own() -> None:
    assert Targets(torch.tensor([-2, -1, 0]), torch.zeros(3, 7), torch.zeros(3)).positive.tolist() == [
        False,
        False,
        True,
    ]
