"""The supernet: subnets are slices of it, exported bit by bit, and what upstream's supernet gives."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import golden as recorded
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec import POINT_LEVELS, NetSpec
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.supernet import Supernet, levels_of, re_estimate, reordered
from spvnas_ros.zoo.checkpoint import Facts, load_checkpoint, save_checkpoint
from spvnas_ros.zoo.supernet_checkpoint import load_supernet, save_supernet

SPACE = Space.around([8, 8, 8, 16, 16, 16, 16, 8, 8], point_branches=(False, True), num_classes=5)
POINTS = replace(SPACE, point_branches=(True,), optional_points=POINT_LEVELS)
RNG = np.random.default_rng(3)
CANDIDATES = [SPACE.largest(), SPACE.smallest(), *(SPACE.sample(RNG) for _ in range(2))]


def batch(seed: int, scans: int = 2) -> tuple[Tensor, Tensor]:
    """Voxels of a surface, so that levels have neighbours."""
    rng = np.random.default_rng(seed)
    cells = np.unique(np.concatenate([rng.integers(0, 30, (400, 2)), rng.integers(0, 6, (400, 1))], axis=1), axis=0)
    coords = np.concatenate([np.concatenate([np.full((len(cells), 1), i), cells], axis=1) for i in range(scans)])
    feats = rng.normal(size=(len(coords), 4)).astype(np.float32)
    return torch.from_numpy(coords), torch.from_numpy(feats)


@pytest.fixture
def supernet(trained: Supernet) -> Supernet:
    return copy.deepcopy(trained)


@pytest.fixture(scope="module")
def trained() -> Supernet:
    """A supernet whose statistics have seen batches."""
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    for norm in supernet.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.normal_(norm.bias, std=0.2)
    supernet.train()
    with torch.no_grad():
        for seed in range(2):
            supernet(SPACE.largest().spec, *batch(seed))
    return supernet.eval()


@pytest.mark.parametrize("candidate", CANDIDATES)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_exported_subnet_gives_what_it_gives_within_bit_by_bit(
    supernet: Supernet, candidate: Candidate, compiled: bool
) -> None:
    coords, feats = batch(9)
    levels = levels_of(coords, feats) if compiled else None
    net = supernet.subnet(candidate)
    assert net.spec == candidate.spec
    with torch.no_grad():
        within, alone = supernet(candidate.spec, coords, feats, levels), net(coords, feats, levels)
    assert within.shape == (len(coords), 5)
    assert torch.equal(within, alone)


def test_points_meet_the_voxels_at_any_choice_of_levels(tmp_path: Path) -> None:
    """All eight, within the supernet and alone; the coarse points that meet finer voxels are wider than the largest
    network's.
    """
    torch.manual_seed(0)
    made, path = Supernet(POINTS), tmp_path / "net.safetensors"
    names, colours = tuple("abcde"), ((0, 0, 0),) * 5
    facts = Facts(made.spec, classes=names, palette=colours)
    save_supernet(path, made, facts)
    supernet, _ = load_supernet(path)
    assert supernet.space == POINTS
    into = supernet.net.points[2].get_submodule("linear").get_parameter("weight").shape[1]
    assert into == POINTS.highest[4] > POINTS.highest[6] - 8
    coords, feats = batch(9)
    rng = np.random.default_rng(4)
    seen = []
    for levels in product((False, True), repeat=3):
        genes = POINTS.genes(POINTS.sample(rng)) | dict(zip(("points.4", "points.2", "points.0"), levels, strict=True))
        genes |= {f"{stage}.middle.1": 4 for stage in [f"{s}.{i}" for s in ("encoder", "decoder") for i in range(4)]}
        candidate = POINTS.candidate(genes)
        assert candidate.spec.point_levels == levels
        net = supernet.subnet(candidate)
        with torch.no_grad():
            within, alone = supernet(candidate.spec, coords, feats), net(coords, feats)
        assert torch.equal(within, alone)
        assert {key.split(".")[1] for key in net.state_dict() if key.startswith("points.")} == {
            str(index) for index, there in enumerate(levels) if there
        }
        save_checkpoint(path, net, replace(facts, spec=net.spec))
        assert load_checkpoint(path)[0].spec == candidate.spec
        seen.append(within)
    assert all(not torch.equal(one, other) for one, other in combinations(seen, 2))


def test_a_step_within_is_a_step_of_the_network_alone(supernet: Supernet) -> None:
    candidate, (coords, feats) = CANDIDATES[2], batch(4)
    alone = supernet.subnet(candidate).train()
    supernet.train()
    for net, call in ((supernet, lambda *args: supernet(candidate.spec, *args)), (alone, alone)):
        torch.manual_seed(1)  # dropout
        net.zero_grad()
        call(coords, feats).square().mean().backward()
    drawn = supernet.tensors(candidate.spec)
    for name, parameter in alone.named_parameters():
        gradient = supernet.net.get_parameter(name).grad
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.count_nonzero(gradient) == torch.count_nonzero(parameter.grad)
        assert torch.isclose(gradient.double().square().sum(), parameter.grad.double().square().sum(), rtol=1e-5)
    for name, statistics in alone.named_buffers():
        assert torch.equal(drawn[name], statistics)


def test_a_gradient_reaches_what_is_drawn_and_nothing_else(supernet: Supernet) -> None:
    candidate = SPACE.smallest()
    before = copy.deepcopy(supernet.net.state_dict())
    supernet.train()
    supernet(candidate.spec, *batch(4)).square().mean().backward()
    # A network of ones in the subnet's share and zeros elsewhere shows which weights are drawn.
    share = Supernet(SPACE)
    with torch.no_grad():
        for parameter in share.parameters():
            parameter.zero_()
    for parameter in share.tensors(candidate.spec).values():
        if parameter.requires_grad:
            parameter.sum().backward()
    marks = {name: parameter.grad for name, parameter in share.net.named_parameters()}
    for name, parameter in supernet.net.named_parameters():
        if marks[name] is None:
            assert parameter.grad is None
        else:
            assert not (parameter.grad[marks[name] == 0] != 0).any(), name
            assert (parameter.grad[marks[name] == 1] != 0).any(), name
    for name, value in supernet.net.named_buffers():
        width = len(supernet.tensors(candidate.spec).get(name, torch.zeros(1))) if value.ndim else 0
        if value.ndim and name in supernet.tensors(candidate.spec):
            assert torch.equal(value[width:], before[name][width:])
            assert not torch.equal(value[:width], before[name][:width])


def test_reordering_changes_no_answer_and_puts_the_largest_channels_first(supernet: Supernet) -> None:
    coords, feats = batch(5)
    for whole in (True, False):
        spec = SPACE.largest().spec
        with torch.no_grad():
            before = supernet(spec, coords, feats)
            orders = supernet.reorder()
            after = supernet(spec, coords, feats)
        assert torch.allclose(before, after, atol=1e-4, rtol=1e-4)
        sorted_already = all(torch.equal(order, torch.arange(len(order))) for order in orders.values())
        assert sorted_already != whole
    assert {name.rsplit(".", 1)[1] for name in orders} == {"first", "transition"}
    kernel = supernet.net.decoder[1].blocks[0].first.conv.kernel
    norms = kernel.abs().sum(dim=(0, 1))
    assert torch.equal(norms, norms.sort(descending=True).values)


def test_reordering_takes_what_belongs_to_parameters_along(supernet: Supernet) -> None:
    moments = {name: 2 * parameter.detach() for name, parameter in supernet.net.named_parameters()}
    orders = supernet.reorder()
    for name, moment in reordered(moments, orders).items():
        assert torch.equal(moment, 2 * supernet.net.get_parameter(name))


def test_statistics_are_those_of_the_batches(supernet: Supernet) -> None:
    net = supernet.subnet(CANDIDATES[1])
    batches = [(*batch(seed), None) for seed in (6, 7)]
    weights = {name: value.clone() for name, value in net.named_parameters()}
    re_estimate(net, batches)
    assert not net.training
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
    first = net.stem[0]
    means = []
    for coords, feats, _ in batches:
        levels = levels_of(coords, feats)
        assert levels is not None
        means.append(first.conv(feats[levels.order], levels.neighbours[0]).mean(dim=0))
    assert torch.allclose(first.norm.running_mean, torch.stack(means).mean(dim=0), atol=1e-6)
    assert {norm.momentum for norm in net.modules() if isinstance(norm, torch.nn.BatchNorm1d)} == {0.1}
    again = supernet.subnet(CANDIDATES[1])
    re_estimate(again, batches)
    assert all(torch.equal(one, other) for one, other in zip(net.buffers(), again.buffers(), strict=True))
    with pytest.raises(ValueError, match="at least one batch"):
        re_estimate(net, [])


def test_a_stranger_is_not_cut_out(supernet: Supernet) -> None:
    stranger = Candidate(NetSpec.spvcnn(8), 0.05)
    with pytest.raises(SpecError):
        supernet.subnet(stranger)
    assert not supernet.holds(stranger.spec)
    assert all(supernet.holds(candidate.spec) for candidate in CANDIDATES)


@pytest.mark.parametrize("case", ["3k", "2batch"])
def test_upstream_s_supernet_gives_the_recorded_outputs(shared: Path, case: str) -> None:
    folder = shared / "golden"
    config = json.loads((folder / "spvnas_small_net.config.json").read_text())
    supernet = Supernet(Space((8, 4, 8, 16, 32, 32, 16, 12, 12), (8, 12, 24, 48, 96, 96, 48, 32, 32)))
    renamed = {}
    for name, value in recorded.weights(folder, "spvnas_small_supernet").items():
        plain = name.replace(".feature.layers.", ".feature.").replace(".net.layers.", ".net.")
        renamed[recorded.ours(plain.replace(".bn.bn.", ".bn.").replace(".conv.linear.", ".conv."))] = value
    supernet.net.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in renamed.items()})
    supernet.eval()
    with np.load(folder / f"spvnas_small_{case}.npz") as data:
        coords, feats = recorded.coords(data["in/C"]), torch.from_numpy(data["in/F"])
        wanted = torch.from_numpy(data["logits_voxel"])
    candidate = Candidate.from_net_config(config)
    with torch.no_grad():
        found = supernet(candidate.spec, coords, feats)
    assert torch.allclose(found, wanted, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert torch.equal(supernet.subnet(candidate)(coords, feats), found)
