"""Which networks are tried: within the limit, each once, the same for the same seed; evolution finds better ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from spvnas_ros.errors import UserError
from spvnas_ros.nets.layers import Sizes, layers_of
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.offline.search.budget import Cost
from spvnas_ros.offline.search.evolution import (
    CROSSED,
    MUTATED,
    UNIFORM,
    Scored,
    Trial,
    best_within,
    front,
    search,
)
from spvnas_ros.offline.search.search_config import Limit, StrategyConfig

SPACE = Space.around((32, 32, 64, 128, 256, 256, 128, 96, 96), point_branches=(False, True))
SIZES = Sizes((80e3, 40e3, 16e3, 5e3, 1.5e3), (700e3, 400e3, 170e3, 60e3, 17e3))
LIMITS = (Limit(macs=30e9), Limit(macs=60e9, parameters=10e6))


def cost_of(candidate: Candidate) -> Cost:
    layers = layers_of(candidate.spec)
    return Cost(SIZES.macs(layers), sum(layer.parameters for layer in layers))


def worth(candidate: Candidate) -> float:
    """A score by which width is worth more at coarse levels, as a search does not know."""
    stages = (*candidate.spec.encoder, *candidate.spec.decoder)
    return sum(
        weight * (stage.out + 0.2 * sum(block.middle for block in stage.blocks)) ** 0.5
        for stage, weight in zip(stages, (1, 2, 4, 8, 4, 2, 1, 0.5), strict=True)
    )


def tried(limits: Sequence[Limit], **settings: object) -> list[Scored]:
    strategy = StrategyConfig(population=16, generations=6, parents=5, **settings)
    return search(SPACE, limits, strategy, cost_of, lambda trials: [worth(each.candidate) for each in trials], 0)


def test_networks_are_within_the_limit_each_tried_once_and_the_seed_decides() -> None:
    found = tried(LIMITS)
    assert found == tried(LIMITS)
    for number, limit in enumerate(LIMITS):
        own = [each.trial for each in found if each.trial.limit == number]
        assert len(own) == 96
        assert all(trial.cost.within(limit) and SPACE.contains(trial.candidate) for trial in own)
        assert len({trial.candidate for trial in own}) == len(own)
        assert {trial.origin for trial in own if trial.generation} == {MUTATED, CROSSED}
        assert own[0].origin == UNIFORM
        assert own[0].cost.macs > 0.7 * limit.macs or own[0].cost.parameters > 0.7 * limit.parameters


def test_evolution_beats_random_drawing_and_uniform_narrowing_at_the_same_budget() -> None:
    for limit in LIMITS:
        evolved, drawn = tried([limit]), tried([limit], kind="random")
        assert len(evolved) == len(drawn)
        assert best_within(evolved, limit).score > best_within(drawn, limit).score
        assert best_within(evolved, limit).score > evolved[0].score


def test_a_limit_that_no_network_meets_is_said() -> None:
    with pytest.raises(UserError, match=r"no network of the space is within 0\.001 M parameters"):
        tried([Limit(parameters=1e3)])


def test_a_front_holds_what_nothing_cheaper_is_as_good_as() -> None:
    points = [(3, 0.5), (1, 0.2), (2, 0.5), (2, 0.4), (4, 0.4), (5, 0.6), (1, 0.1)]
    candidate = SPACE.smallest()
    found = [Scored(Trial(candidate, Cost(macs, 1), 0, 0, UNIFORM), score) for macs, score in points]
    best = front(found, lambda cost: cost.macs)
    assert [(each.trial.cost.macs, each.score) for each in best] == [(1, 0.2), (2, 0.5), (5, 0.6)]
