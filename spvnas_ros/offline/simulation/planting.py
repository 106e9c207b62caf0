"""Plants a scene: a few plants are grown, and many copies of them are placed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spvnas_ros.offline.simulation import vegetation
from spvnas_ros.offline.simulation.mesh import Floats, Mesh
from spvnas_ros.offline.simulation.site import Site

HEDGE_PIECE = 4.0
_FAR = 17.0
"""Metres from the middle of the street from which on plants are coarse."""


@dataclass
class Nursery:
    """Plants to copy, and the places of the copies. `plant` places all of them at once, except for hedges and covers,
    which are placed immediately.
    """

    site: Site
    trees: list[Mesh]
    far_trees: list[Mesh]
    bushes: list[Mesh]
    far_bushes: list[Mesh]
    hedges: list[Mesh]
    covers: list[Mesh]
    spots: dict[tuple[str, int], list[tuple[float, float, float, float]]] = field(default_factory=dict)

    @staticmethod
    def grow(site: Site, conifers: float) -> Nursery:
        rng = site.rng
        kinds = [
            ("conifer" if rng.random() < conifers else str(rng.choice(["broad", "broad", "slim", "young"])))
            for _ in range(7)
        ]
        heights = [float(rng.uniform(3.5, 6) if kind == "young" else rng.uniform(6, 15)) for kind in kinds]
        trees = [
            vegetation.tree(rng, kind, height, 1150 if height > 6 else 700)
            for kind, height in zip(kinds, heights, strict=True)
        ]
        if rng.random() < 0.35:
            trees[0] = vegetation.dead_tree(rng, heights[0])
        far = [vegetation.tree(rng, kind, float(rng.uniform(7, 16)), 360) for kind in kinds[:4]]
        bushes = [vegetation.bush(rng, float(rng.uniform(0.9, 2.8)), float(rng.uniform(0.6, 2.7))) for _ in range(7)]
        far_bushes = [vegetation.bush(rng, float(rng.uniform(1.2, 3)), float(rng.uniform(1, 3)), 90) for _ in range(4)]
        hedges = [
            vegetation.hedge(rng, HEDGE_PIECE, float(rng.uniform(0.4, 1.1)), float(rng.uniform(0.5, 1.8)))
            for _ in range(5)
        ]
        covers = [
            vegetation.cover(rng, HEDGE_PIECE, float(rng.uniform(0.6, 1.6)), float(rng.uniform(0.15, 0.8)))
            for _ in range(4)
        ]
        return Nursery(site, trees, far, bushes, far_bushes, hedges, covers)

    def tree(self, s: float, d: float, which: int | None = None) -> None:
        """Adds a tree; far from the street it has fewer leaves."""
        if abs(d) > _FAR:
            self.far_tree(s, d)
        else:
            self._note("trees", len(self.trees), s, d, which)

    def far_tree(self, s: float, d: float) -> None:
        """Adds a coarse tree, which only distant rays hit."""
        self._note("far_trees", len(self.far_trees), s, d, None)

    def bush(self, s: float, d: float) -> None:
        """Adds a shrub; far from the street it has fewer leaves."""
        if abs(d) < _FAR:
            self._note("bushes", len(self.bushes), s, d, None)
        else:
            self.far_bush(s, d)

    def far_bush(self, s: float, d: float) -> None:
        """Adds a coarse shrub."""
        self._note("far_bushes", len(self.far_bushes), s, d, None)

    def hedge(self, start: tuple[float, float], end: tuple[float, float], which: int) -> None:
        """Places a hedge between two points in street coordinates."""
        self._row(self.hedges[which % len(self.hedges)], start, end)

    def cover(self, start: tuple[float, float], end: tuple[float, float], which: int) -> None:
        """Places low plants between two points in street coordinates."""
        self._row(self.covers[which % len(self.covers)], start, end)

    def _row(self, piece: Mesh, start: tuple[float, float], end: tuple[float, float]) -> None:
        ends = np.array([start, end])
        length = float(np.hypot(*(ends[1] - ends[0])))
        count = max(round(length / HEDGE_PIECE), 1)
        at = ends[0] + (np.arange(count) + 0.5)[:, None] / count * (ends[1] - ends[0])
        yaw = np.arctan2(end[1] - start[1], end[0] - start[0])
        stretch = np.ones((count, 3)) * [length / count / HEDGE_PIECE, 1, 1]
        turns = np.full(count, yaw)
        self.site.put_many(piece, at[:, 0], at[:, 1], turns, stretch)

    def thicket(self, start: tuple[float, float], end: tuple[float, float], rows: int) -> None:
        """Adds shrubs close to each other, in rows between two points in street coordinates."""
        rng, ends = self.site.rng, np.array([start, end])
        length = float(np.hypot(*(ends[1] - ends[0])))
        for row in range(rows):
            for share in np.arange(0.5, length, 1.3) / length:
                s, d = ends[0] + share * (ends[1] - ends[0]) + rng.normal(0, 0.3, 2)
                self.bush(float(s), float(d) + float(np.sign(d)) * 1.4 * row)

    def _note(self, group: str, size: int, s: float, d: float, which: int | None) -> None:
        rng = self.site.rng
        number = int(rng.integers(size)) if which is None else which % size
        spot = (s, d, float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.75, 1.25)))
        self.spots.setdefault((group, number), []).append(spot)

    def plant(self) -> None:
        """Places all plants that were added."""
        groups: dict[str, list[Mesh]] = {
            "trees": self.trees,
            "far_trees": self.far_trees,
            "bushes": self.bushes,
            "far_bushes": self.far_bushes,
        }
        for (group, number), spots in sorted(self.spots.items()):
            table: Floats = np.array(spots)
            self.site.put_many(groups[group][number], *table.T)
