"""Which networks are tried: evolution under a limit, or random drawing with the same number of trials.

Reference: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution", ECCV 2020, section
4.3. The paper gives population 50 and 20 generations; the shares of mutation and crossover are not published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spvnas_ros.errors import UserError
from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.offline.search.budget import Cost
from spvnas_ros.offline.search.search_config import Limit, StrategyConfig

_TRIES = 100
"""How often a network is drawn anew that is too large or known already."""
_NARROWINGS = 64
"""Steps in which the width of the uniformly narrowed network is found."""

UNIFORM, RANDOM, MUTATED, CROSSED = "uniform", "random", "mutated", "crossed"


@dataclass(frozen=True)
class Trial:
    """A network to be tried.

    limit: number of the limit it is for; generation: counted from 0
    origin: how it was made: `UNIFORM`, `RANDOM`, `MUTATED` or `CROSSED`
    """

    candidate: Candidate
    cost: Cost
    limit: int
    generation: int
    origin: str


@dataclass(frozen=True)
class Scored:
    """A network that was tried, and how good it is: its mIoU, 0..1."""

    trial: Trial
    score: float


Scorer = Callable[[Sequence[Trial]], Sequence[float]]
"""Returns the score of each network, in order."""


def search(
    space: Space,
    limits: Sequence[Limit],
    strategy: StrategyConfig,
    cost_of: Callable[[Candidate], Cost],
    scores_of: Scorer,
    seed: int,
) -> list[Scored]:
    """Tries `population` x `generations` networks for each limit, and returns them in the order of the trials.

    What is tried depends on the arguments alone. Fewer networks are tried where no others are found within a limit.

    Raises UserError where no network is within a limit.
    """
    found: list[Scored] = []
    for number, limit in enumerate(limits):
        found += _Hunt(space, number, limit, strategy, cost_of, seed).run(scores_of)
    return found


def uniform(space: Space, limit: Limit, cost_of: Callable[[Candidate], Cost]) -> Candidate | None:
    """Returns the widest uniformly narrowed network within a limit, None where none is.

    Of several voxel sizes it has the finest, as the supernet.
    """
    for step in range(_NARROWINGS, -1, -1):
        candidate = space.narrowed(step / _NARROWINGS)
        if cost_of(candidate).within(limit):
            return candidate
    return None


class _Hunt:
    """The search under one limit."""

    def __init__(
        self,
        space: Space,
        number: int,
        limit: Limit,
        strategy: StrategyConfig,
        cost_of: Callable[[Candidate], Cost],
        seed: int,
    ) -> None:
        self._space, self._number, self._limit, self._strategy = space, number, limit, strategy
        self._cost_of, self._seed = cost_of, seed
        self._known: set[Candidate] = set()
        smallest = space.smallest()
        if not cost_of(smallest).within(limit):
            raise UserError(
                f"no network of the space is within {limit.words()}: the smallest has {cost_of(smallest).words()}; "
                "raise the limit, or train a supernet of a space with smaller widths"
            )

    def run(self, scores_of: Scorer) -> list[Scored]:
        found: list[Scored] = []
        for generation in range(self._strategy.generations):
            trials = self._generation(generation, found)
            found += [Scored(trial, score) for trial, score in zip(trials, scores_of(trials), strict=True)]
        return found

    def _generation(self, generation: int, found: Sequence[Scored]) -> list[Trial]:
        strategy = self._strategy
        rng = np.random.default_rng((self._seed, self._number, generation))
        makers: list[tuple[str, Callable[[], Candidate]]]
        if generation and strategy.kind == "evolution":
            parents = [each.trial.candidate for each in sorted(found, key=lambda each: -each.score)]
            parents = parents[: strategy.parents]

            def mutant() -> Candidate:
                return self._space.mutate(parents[int(rng.integers(len(parents)))], rng, strategy.rate)

            def child() -> Candidate:
                one, other = rng.integers(len(parents), size=2)
                return self._space.cross(parents[int(one)], parents[int(other)], rng)

            mutants = round(strategy.mutated * strategy.population)
            makers = [(MUTATED, mutant)] * mutants + [(CROSSED, child)] * (strategy.population - mutants)
        else:
            makers = [(RANDOM, lambda: self._space.sample(rng))] * strategy.population
        trials: list[Trial] = []
        if generation == 0 and (narrow := uniform(self._space, self._limit, self._cost_of)):
            trials.append(self._trial(narrow, generation, UNIFORM))  # what the search has to beat
        for origin, make in makers[len(trials) :]:
            candidate = self._fresh(make, rng)
            if candidate is None:  # such as children of parents that are all alike
                candidate = self._fresh(lambda: self._space.sample(rng), rng)
                origin = RANDOM
            if candidate is not None:
                trials.append(self._trial(candidate, generation, origin))
        return trials

    def _trial(self, candidate: Candidate, generation: int, origin: str) -> Trial:
        self._known.add(candidate)
        return Trial(candidate, self._cost_of(candidate), self._number, generation, origin)

    def _fresh(self, make: Callable[[], Candidate], rng: np.random.Generator) -> Candidate | None:
        """Returns a network within the limit that has not been tried, None where none is found."""
        for _ in range(_TRIES):
            candidate = self._shrunk(make(), rng)
            if candidate not in self._known:
                return candidate
        return None

    def _shrunk(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Returns the network where it is within the limit, else one that takes genes of the smallest until it is."""
        smallest = self._space.smallest()
        while not self._cost_of(candidate).within(self._limit):
            # A third of the genes or so, so that it ends not far below the limit.
            nearer = self._space.cross(candidate, self._space.cross(candidate, smallest, rng), rng)
            candidate = nearer if nearer != candidate else self._space.cross(candidate, smallest, rng)
        return candidate


def front(found: Sequence[Scored], cost: Callable[[Cost], float]) -> list[Scored]:
    """Returns the networks that nothing cheaper is as good as, the cheapest first."""
    best: list[Scored] = []
    for each in sorted(found, key=lambda each: (cost(each.trial.cost), -each.score)):
        if not best or each.score > best[-1].score:
            best.append(each)
    return best


def best_within(found: Sequence[Scored], limit: Limit) -> Scored:
    """Returns the best network within a limit, for whichever limit it was tried; of equals the one tried first."""
    return max((each for each in found if each.trial.cost.within(limit)), key=lambda each: each.score)
