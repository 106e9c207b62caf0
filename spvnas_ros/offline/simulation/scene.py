"""Builds a street of triangles, and the objects that move in it.

```python
scene = build_scene(seed=7, kind="residential")
scene.static            # ground, buildings, vegetation, poles ...
scene.actors            # parked and moving cars, persons ...; each knows its pose at any time
scene.ego_pose(1.0)     # where the vehicle that carries the LiDAR stands after a second
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.offline.simulation.ground import lay_ground
from spvnas_ros.offline.simulation.lots import fill_parcels
from spvnas_ros.offline.simulation.materials import MATERIALS, Material
from spvnas_ros.offline.simulation.mesh import Mesh, merge, place
from spvnas_ros.offline.simulation.paving import pave
from spvnas_ros.offline.simulation.planting import Nursery
from spvnas_ros.offline.simulation.roadside import furnish
from spvnas_ros.offline.simulation.site import Actor, Fleet, Site
from spvnas_ros.offline.simulation.street_plan import KINDS, MIX, draw_line, draw_plan, draw_relief
from spvnas_ros.offline.simulation.traffic import RARE, draw_journey, find_walk, park_vehicles, start_traffic

__all__ = ["KINDS", "MATERIALS", "Actor", "Material", "Mesh", "Scene", "build_scene", "merge", "place"]

_SHORTEST = 40.0
_CONIFERS = {"urban": 0.05, "residential": 0.2, "suburban": 0.3, "highway": 0.2, "rural": 0.3, "parking": 0.1}
_SHARE_OF_CLASSES = 0.85
"""Probability with which each of the rarer movable classes occurs in a scene."""


@dataclass(frozen=True)
class Scene:
    """A street.

    static:   everything that never moves and has no instance number
    actors:   everything that has an instance number
    ego_pose: function from seconds to the float64 `[4, 4]` pose of the vehicle that carries the sensor: on the ground,
              x forward
    walk_pose: the same of a small robot on a sidewalk; None where there is no room for one
    """

    static: Mesh
    actors: tuple[Actor, ...]
    seed: int
    kind: str
    ego_pose: Callable[[float], npt.NDArray[np.float64]]
    walk_pose: Callable[[float], npt.NDArray[np.float64]] | None = None


def build_scene(seed: int, kind: str | None = None, length: float = 160.0) -> Scene:
    """Builds a street; it is the same to the byte for the same arguments.

    seed:   any number from 0
    kind:   one of `KINDS`; without one, the seed chooses
    length: of the street that the vehicle drives in, metres

    Raises ValueError for an unknown kind and for a length under 40 m.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"there is no street of kind {kind!r}, expected one of {', '.join(KINDS)}")
    if length < _SHORTEST:
        raise UserError(f"the street is {length} m long, expected at least {_SHORTEST:.0f} m")
    rng = np.random.default_rng(seed)
    drawn = KINDS[int(rng.choice(len(KINDS), p=MIX))]
    chosen = kind or drawn
    plan = draw_plan(chosen, length, rng)
    line = draw_line(chosen, length, rng)
    ground, land = lay_ground(line, draw_relief(plan, rng), pave(plan, rng), length, rng)
    site = Site(ground, rng, Fleet(rng))
    nursery = Nursery.grow(site, _CONIFERS[chosen])
    wanted = frozenset(name for name in RARE if rng.random() < _SHARE_OF_CLASSES)
    journey = draw_journey(plan, rng)
    fill_parcels(site, plan, nursery)
    park_vehicles(site, plan, wanted)
    furnish(site, plan, nursery, wanted)
    nursery.plant()
    start_traffic(site, plan, journey, wanted)
    walk = find_walk(plan, journey)
    walk_pose = partial(walk.pose, ground) if walk else None
    return Scene(site.static(land), tuple(site.actors), seed, chosen, partial(journey.pose, ground), walk_pose)
