"""The design space: what lies in it, how it is drawn, and how candidates travel."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from spvnas_ros.nets.space import PAPER_HIGHEST, PAPER_LOWEST, Candidate, Space
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.spec_error import SpecError

SIM_TINY = (12, 12, 24, 48, 64, 64, 48, 24, 16)
SPACES = {
    "paper": Space(),
    "rounded as since 2023": Space(divisor=16, least=16),
    "small": Space.around(SIM_TINY, voxel_sizes=(0.1, 0.2), point_branches=(True, False)),
    "points": Space.around(SIM_TINY, voxel_sizes=(0.2,), optional_points=(4, 2, 0)),
    "deep": Space.around([8] * 9, depths=(1, 3), num_classes=4),
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]


def test_the_paper_s_space_has_the_size_that_its_authors_tell() -> None:
    assert (SPACES["paper"].lowest, SPACES["paper"].highest) == (PAPER_LOWEST, PAPER_HIGHEST)
    assert 1e47 < SPACES["paper"].size < 1e48
    assert 1e30 < SPACES["rounded as since 2023"].size < 1e31


@pytest.mark.parametrize(
    "tiny",
    [
        Space((4,) * 9, (4,) * 8 + (8,), (0.5, 1.0), (1, 1), voxel_sizes=(0.1, 0.2), point_branches=(True, False)),
        Space((4,) * 9, (4,) * 9, depths=(1, 2)),
        Space((4,) * 8 + (8,), (4,) * 8 + (8,), depths=(2, 2)),
        Space((4,) * 9, (4,) * 9, depths=(1, 1), optional_points=(4, 2, 0)),
        Space((4,) * 9, (4,) * 9, depths=(1, 1), optional_points=(2,)),
    ],
    ids=["widths", "depths", "middles", "points", "points at level 2"],
)
def test_the_size_counts_every_candidate_once(tiny: Space) -> None:
    names = list(tiny.choices)
    everything = product(*(tiny.choices[name].values for name in names))
    found = {tiny.candidate(dict(zip(names, values, strict=True))) for values in everything}
    assert len(found) == tiny.size > 1
    assert all(tiny.contains(candidate) for candidate in found)


def test_what_is_drawn_changed_or_crossed_lies_in_the_space_and_travels(space: Space) -> None:
    rng = np.random.default_rng(0)
    before = space.sample(rng)
    for _ in range(40):
        other = space.sample(rng)
        for candidate in (other, space.mutate(before, rng, 0.3), space.cross(before, other, rng)):
            assert space.contains(candidate)
            assert NetSpec.from_dict(candidate.spec.to_dict()) == candidate.spec
            assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate
            assert len({candidate, Candidate.from_dict(candidate.to_dict())}) == 1
            if all(candidate.spec.point_levels):
                assert Candidate.from_net_config(json.loads(json.dumps(candidate.to_net_config()))) == candidate
        before = other
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_a_rate_of_zero_changes_nothing_and_one_seed_gives_one_candidate(space: Space) -> None:
    one, other = (space.sample(np.random.default_rng(5)) for _ in range(2))
    assert one == other != space.sample(np.random.default_rng(6))
    assert space.mutate(one, np.random.default_rng(1), 0.0) == one
    assert space.mutate(one, np.random.default_rng(1), 1.0) != one
    assert space.cross(one, one, np.random.default_rng(1)) == one


def test_every_gene_is_drawn_as_often_as_the_paper_draws_it() -> None:
    space, rng, draws = SPACES["paper"], np.random.default_rng(1), 1500
    genes = [space.genes(space.sample(rng)) for _ in range(draws)]
    for name, choices in space.choices.items():
        seen = Counter(each[name] for each in genes if name in each)
        total = sum(seen.values())
        expected = {value: weight * total for value, weight in zip(choices.values, choices.weights, strict=True)}
        assert math.isclose(sum(choices.weights), 1)
        assert not [value for value in seen if not expected[value]]
        common = {value: count for value, count in expected.items() if count > 5}
        chi_square = sum((seen[value] - count) ** 2 / count for value, count in common.items())
        freedom = len(common) - 1
        # One in some 10^5 of true draws is above (Wilson and Hilferty's approximation, 4.3 deviations).
        spread = 2 / (9 * max(freedom, 1))
        assert chi_square <= freedom * (1 - spread + 4.3 * math.sqrt(spread)) ** 3, name


def test_the_weights_are_those_of_upstream_s_formulas() -> None:
    rng, full = np.random.default_rng(2), 96
    width = Counter((rng.integers(32, full + 1, 200_000) // 4 * 4).tolist())
    ratio = Counter(((rng.uniform(0.125, 1.0, 200_000) * full).astype(int) // 4 * 4).tolist())
    for name, drawn in (("encoder.1.width", width), ("encoder.1.middle.0", ratio)):
        choices = SPACES["paper"].choices[name]
        shares = dict(zip(choices.values, choices.weights, strict=True))
        assert {value: drawn[value] / 200_000 for value in shares} == pytest.approx(shares, abs=0.003)


def test_largest_smallest_and_narrowed(space: Space) -> None:
    large, small, half = space.largest(), space.smallest(), space.narrowed(0.6)
    assert all(space.contains(candidate) for candidate in (large, small, half))
    assert space.narrowed(1.0).spec.encoder[3] == large.spec.encoder[3]
    assert [stage.out for stage in (*large.spec.encoder, *large.spec.decoder)] == list(space.highest[1:])
    assert {len(stage.blocks) for stage in small.spec.decoder} == {space.depths[0]}
    assert large.voxel_size == min(space.voxel_sizes)
    blocks = [block for stage in half.spec.encoder for block in stage.blocks]
    assert all(block.middle == block.out for block in blocks)
    widths = [sum(space.narrowed(share).spec.widths()) for share in (0.0, 0.4, 0.6, 0.8, 1.0)]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def test_the_recorded_net_config_survives_the_way_there_and_back(shared: Path) -> None:
    config = json.loads((shared / "golden" / "spvnas_small_net.config.json").read_text())
    candidate = Candidate.from_net_config(config)
    assert candidate.to_net_config() == config
    upstream = Space((8, 4, 8, 16, 32, 32, 16, 12, 12), (8, 12, 24, 48, 96, 96, 48, 32, 32))
    assert upstream.contains(candidate)
    assert not Space().contains(candidate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowest": (32,)}, "lists 9 widths"),
        ({"lowest": (32, 64, *PAPER_LOWEST[2:])}, "encoder.0 from 64 to 48"),
        ({"lowest": (32, 18, *PAPER_LOWEST[2:])}, "multiples of 4"),
        ({"lowest": (16, *PAPER_LOWEST[1:])}, "stem's width is fixed"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"depths": (2, 1)}, "depths"),
        ({"voxel_sizes": ()}, "voxel_sizes"),
        ({"voxel_sizes": (0.05, -1.0)}, "positive numbers of metres"),
        ({"box_widths": (32,)}, "boxes is not set"),
        ({"divisor": 8, "least": 4}, "multiple"),
        ({"optional_points": (3,)}, r"some of the levels \(4, 2, 0\), each once, found \[3\]"),
        ({"optional_points": (False,)}, r"found \[False\]"),
        ({"optional_points": (4,), "point_branches": (True, False)}, r"point_branches must be \[true\]"),
    ],
)
def test_a_space_without_networks_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Space(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [[], {"lowset": [1]}, {"lowest": 3}, {"voxel_sizes": ["a"]}, {"boxes": 3}])
def test_data_that_is_no_space_is_refused(data: object) -> None:
    with pytest.raises(SpecError):
        Space.from_dict(data)  # type: ignore[arg-type]


def test_what_a_stranger_lacks_is_named() -> None:
    space = SPACES["small"]
    candidate = space.largest()
    for stranger, message in (
        (replace(candidate, voxel_size=0.3), "voxel_size is 0.3"),
        (Candidate(NetSpec.of(SIM_TINY), 0.2), "skips"),
        (replace(candidate, spec=replace(candidate.spec, num_classes=3)), "classes"),
    ):
        assert not space.contains(stranger)
        with pytest.raises(SpecError, match=message):
            space.mutate(stranger, np.random.default_rng(0), 0.5)


def test_a_net_config_does_not_pretend_to_say_more_than_it_can() -> None:
    for spec in (NetSpec.minkunet(8), NetSpec.spvcnn(8)):
        with pytest.raises(SpecError, match=r"net\.config"):
            Candidate(spec, 0.05).to_net_config()
