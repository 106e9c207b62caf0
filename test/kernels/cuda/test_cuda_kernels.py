"""Each kernel of the CUDA engine gives what the reference operations give, on real points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import on_device  # isort: skip  # first: it decides how triton runs
from spvnas_ros.engine.cuda.launches import LEVELS, Frame, Network
from spvnas_ros.engine.cuda.packed_weights import split
from spvnas_ros.engine.plan import INPUT, Convolution, Plan, PointFusion, PointMean, Slot, Source
from spvnas_ros.kernels.cuda.blocks import Precision
from spvnas_ros.kernels.cuda.geometry import Capacity, Gather, Geometry
from spvnas_ros.sparse import Levels, build_levels, conv3d, devoxelize, interpolation, quantize, voxelize

DEVICE = on_device.DEVICE
VOXEL_SIZE = 0.05
CAPACITY = Capacity(1024, (1024,) * LEVELS)
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1 / np.sqrt(shape[-2] * 2), shape).astype(np.float32)


def convolution(
    name: str,
    kind: str,
    level: int,
    sources: dict[int, int],
    width: int,
    out: int,
    pointwise: bool = False,
    residual: int | None = None,
) -> Convolution:
    """With random weights; sources: width by slot."""
    volume = {"neighbours": 27, "halving": 8, "doubling": 8, "pointwise": 1}[kind]
    skip = tuple(Source(slot, normal(1, w, width)) for slot, w in sources.items()) if pointwise else ()
    through = tuple(Source(slot, normal(volume, w, width)) for slot, w in sources.items())
    bias = RNG.normal(0, 0.2, width).astype(np.float32)
    return Convolution(name, kind, level, through, bias, name != "classifier", out, skip, residual)  # type: ignore[arg-type]


def every_kind_of_step() -> Plan:
    """Widths that fill no block, more than one block of columns, and every part a step can have."""
    widths = [(0, 4), (0, 20), (0, 13), (0, 40), (1, 70), (1, 70), (0, 24), (0, 70), (1, 70), (0, 17), (0, 5)]
    steps = (
        convolution("first", "neighbours", 0, {0: 4}, 20, 1),
        convolution("second", "neighbours", 0, {1: 20}, 13, 2),
        convolution("concatenated", "neighbours", 0, {1: 20, 2: 13}, 40, 3, pointwise=True),
        convolution("halving", "halving", 1, {3: 40}, 70, 4),
        convolution("residual", "neighbours", 1, {4: 70}, 70, 5, residual=4),
        convolution("doubling", "doubling", 0, {5: 70}, 24, 6),
        PointFusion("fusion", 1, 6, 5, normal(1, 24, 70), RNG.normal(0, 0.2, 70).astype(np.float32), 7),
        PointMean("mean", 1, 7, 8),
        convolution("doubling again", "doubling", 0, {8: 70}, 17, 9),
        convolution("classifier", "pointwise", 0, {9: 17}, 5, 10),
    )
    return Plan(steps, tuple(Slot(level, width) for level, width in widths), 5)


def evaluate(plan: Plan, levels: Levels, feats: Tensor) -> Tensor:
    """A plan in the reference's operations."""
    slots = {INPUT: feats}
    for step in plan.steps:
        if isinstance(step, PointMean):
            ancestors = levels.ancestors(step.level)
            slots[step.out] = voxelize(slots[step.points], ancestors, len(levels.levels[step.level]))
        elif isinstance(step, PointFusion):
            where = interpolation(levels.levels[step.level], 1 << step.level, levels.levels[0].coords.float())
            linear = slots[step.points] @ torch.from_numpy(step.kernel[0]) + torch.from_numpy(step.bias)
            slots[step.out] = linear.relu() + devoxelize(slots[step.voxels], where)
        else:
            slots[step.out] = convolved(step, levels, slots)
    return slots[plan.steps[-1].out]


def convolved(step: Convolution, levels: Levels, slots: dict[int, Tensor]) -> Tensor:
    total = torch.from_numpy(step.bias).repeat(len(levels.levels[step.level]), 1)
    for source in step.sources:
        kernel, feats = torch.from_numpy(source.kernel), slots[source.slot]
        if step.kind == "pointwise":
            total = total + feats @ kernel[0]
        elif step.kind == "neighbours":
            total = total + conv3d(feats, kernel, levels.neighbours[step.level])
        elif step.kind == "halving":
            total = total + conv3d(feats, kernel, levels.halvings[step.level - 1])
        else:
            total = total + conv3d(feats, kernel, levels.halvings[step.level].transposed())
    for source in step.pointwise:
        total = total + slots[source.slot] @ torch.from_numpy(source.kernel[0])
    if step.residual is not None:
        total = total + slots[step.residual]
    return total.relu() if step.relu else total


def crop(scan: np.ndarray, number: int) -> np.ndarray:
    """Points of a scan that lie ahead and near, in a shuffled order."""
    near = scan[np.linalg.norm(scan[:, :2], axis=1) < 25]
    ahead = near[np.argsort(np.abs(np.arctan2(near[:, 1], near[:, 0])))[:number]]
    return RNG.permutation(ahead)


def frame_of(
    plan: Plan, precision: Precision = "fp32", capacity: Capacity = CAPACITY, multiprocessors: int | None = None
) -> Frame:
    return Frame(Network(plan, VOXEL_SIZE, precision, DEVICE, multiprocessors=multiprocessors), capacity)


def send(frame: Frame, points: np.ndarray) -> None:
    used = frame.write(torch.zeros(frame.input.shape, dtype=torch.int32), torch.from_numpy(points))
    frame.input[: len(used)].copy_(used)


@pytest.mark.parametrize(
    ("precision", "limit", "multiprocessors"),
    [("fp32", 1e-5, 0), ("fp16", 4e-3, 3), ("bf16", 3e-2, 0)],
    ids=["fp32", "fp16-split", "bf16"],
)
def test_every_kind_of_step_matches_the_reference(
    full_scan: np.ndarray, precision: Precision, limit: float, multiprocessors: int
) -> None:
    """Split: 2 or 4 tiles share 3 multiprocessors, so their sums come in 4 or 3 parts, uneven ones too."""
    if precision == "bf16" and DEVICE.type == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 as the integers that it keeps them in; needs a GPU")
    points, plan = crop(full_scan, 80), every_kind_of_step()
    frame = frame_of(plan, precision, Capacity(128, (128,) * LEVELS), multiprocessors)
    send(frame, points)
    frame.run()
    voxels = quantize(torch.from_numpy(points), VOXEL_SIZE)
    expected = evaluate(plan, build_levels(voxels.coords), torch.from_numpy(points)[voxels.first])
    logits = frame.logits[: len(expected)].cpu()
    assert (logits - expected).abs().max() <= limit * expected.abs().max()
    status, labels, confidence = frame.read(frame.output.cpu(), len(points))
    assert status.overflows == ()
    assert (labels == logits.argmax(dim=1)[voxels.inverse]).all()
    torch.testing.assert_close(confidence, logits.softmax(dim=1).amax(dim=1)[voxels.inverse], rtol=1e-4, atol=1e-6)


def test_only_few_programs_are_split() -> None:
    assert [split(programs, 132) for programs in (1, 149, 250, 298, 1000)] == [4, 4, 2, 2, 1]
    assert split(1, 0) == 1


def test_a_frame_asks_the_device_nothing() -> None:
    """On torch's device without data whatever the host would have to wait for is an error: a value, a count, a copy."""
    device = torch.device("meta")
    network = Network(every_kind_of_step(), VOXEL_SIZE, "fp16", device, capability=90, multiprocessors=132)
    launched: list[str] = []
    frame = Frame(network, CAPACITY, lambda kernel, *_, **__: launched.append(kernel.__name__))
    frame.run()
    assert launched[:3] == ["encode", "mark_levels", "build_levels"]
    assert launched.count("add_parts") == 5  # 16 tiles each; the transposed convolutions are not split
    assert launched[-2:] == ["classify", "label_points"]
    for waits in (frame.output.sum().item, frame.output.cpu, frame.output.nonzero, frame.output.unique):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits()


def test_the_geometry_is_the_references(full_scan: np.ndarray) -> None:
    """Two scans in one batch, one of them at the far end of what can be keyed."""
    ahead = quantize(torch.from_numpy(crop(full_scan, 200)), VOXEL_SIZE).coords.long()
    far = torch.unique(torch.randint(2**18 - 9, 2**18, (100, 3)), dim=0)
    far = torch.cat([torch.zeros(len(far), 1, dtype=torch.long), far], dim=1)
    second = ahead + torch.tensor([1, 16, 32, 48])
    coords = torch.cat([far, second, ahead])[torch.randperm(len(far) + 2 * len(ahead))]
    reference = build_levels(coords)
    geometry, sizes = Geometry(CAPACITY, (64,) * LEVELS, DEVICE), [len(level) for level in reference.levels]
    geometry.number.fill_(len(coords))
    geometry.cells[: len(coords)] = coords.int().to(DEVICE)
    geometry.find_voxels()
    geometry.find_neighbours()
    assert geometry.counts[:, 0].tolist() == sizes
    assert (geometry.first[: sizes[0]].cpu() == reference.order).all()
    for level, size in enumerate(sizes):
        ancestors = reference.ancestors(level)
        assert (geometry.ancestors[level, : sizes[0]].cpu() == ancestors).all()
        assert (geometry.starts[level][:size].cpu() == torch.searchsorted(ancestors, torch.arange(size))).all()
        expected = pairs_of(*zip(*reference.neighbours[level].pairs(), strict=True))
        check_gather(geometry.neighbours[level], size, expected)
        if level > 0:
            expected = pairs_of(*zip(*reference.halvings[level - 1].pairs(), strict=True))
            inputs = geometry.halvings[level].inputs[:, :size].cpu()
            assert found_pairs(inputs, torch.arange(size)) == expected
            expected = pairs_of(*zip(*reference.halvings[level - 1].transposed().pairs(), strict=True))
            check_gather(geometry.doublings[level - 1], sizes[level - 1], expected)


def pairs_of(ks: tuple[int, ...], ins: tuple[Tensor, ...], outs: tuple[Tensor, ...]) -> set[tuple[int, int, int]]:
    return {
        (k, i, o) for k, a, b in zip(ks, ins, outs, strict=True) for i, o in zip(a.tolist(), b.tolist(), strict=True)
    }


def found_pairs(inputs: Tensor, rows: Tensor) -> set[tuple[int, int, int]]:
    ks, places = torch.nonzero(inputs >= 0, as_tuple=True)
    return set(zip(ks.tolist(), inputs[ks, places].tolist(), rows[places].tolist(), strict=True))


def check_gather(gather: Gather, size: int, expected: set[tuple[int, int, int]]) -> None:
    """The same pairs, every row once, and every tile's list just the kernel rows that its columns use."""
    assert gather.rows is not None
    assert gather.lists is not None
    assert gather.lengths is not None
    rows, inputs = gather.rows[:size].cpu(), gather.inputs[:, :size].cpu()
    assert sorted(rows.tolist()) == list(range(size))
    assert found_pairs(inputs, rows) == expected
    tile = gather.rows.shape[0] // len(gather.lengths)
    for number, columns in enumerate(inputs.split(tile, dim=1)):
        used = torch.nonzero((columns >= 0).any(dim=1)).squeeze(1).tolist()
        assert gather.lists[number, : gather.lengths[number]].tolist() == used


def test_rows_with_the_same_neighbours_lie_together(full_scan: np.ndarray) -> None:
    """Sorting by mask is what makes tiles need few kernel rows: far fewer than in Morton order."""
    frame = frame_of(every_kind_of_step())
    send(frame, crop(full_scan, 900))
    frame.find_voxels()
    frame.geometry.find_neighbours()
    size, tile = int(frame.geometry.sizes[0, 0]), 64
    lengths = frame.geometry.neighbours[0].lengths
    assert lengths is not None
    table = frame.geometry.tables[0][:, :size].cpu()
    unsorted = sum(int((columns >= 0).any(dim=1).sum()) for columns in table.split(tile, dim=1))
    assert int(lengths[: -(-size // tile)].sum()) < 0.75 * unsorted


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1), st.integers(1, 900), st.sampled_from([0.05, 0.1, 0.037]))
def test_voxels_are_the_references_voxels(seed: int, count: int, voxel_size: float) -> None:
    """Points between two voxels included: which side they fall on, and which of a voxel's points is the first."""
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 1, (count, 4)).astype(np.float32)
    points[::3, :3] = (rng.integers(-20, 20, points[::3, :3].shape) + 0.5) * np.float32(voxel_size)
    frame = Frame(Network(every_kind_of_step(), voxel_size, "fp32", DEVICE), CAPACITY)
    send(frame, points)
    frame.find_voxels()
    theirs = quantize(torch.from_numpy(points), voxel_size)
    assert (frame.geometry.first[: len(theirs.first)].cpu() == theirs.first).all()
    assert (frame.geometry.inverse[:count].cpu() == theirs.inverse).all()
    assert int(frame.geometry.counts[0, 0]) == len(theirs.first)
