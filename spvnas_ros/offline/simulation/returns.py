"""Computes the returns of hits: an intensity and a range with noise, or no return.

The power of an echo falls with the square of the range, with lower reflectivity and with flatter incidence (the LiDAR
equation for a target larger than the beam; Hoefle and Pfeifer, ISPRS J. 62, 2007). Receivers equalise the power. So
range and incidence change the intensity much less than the probability of a return.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spvnas_ros.offline.simulation.materials import MATERIALS, material
from spvnas_ros.offline.simulation.sensors import Receiver
from spvnas_ros.offline.simulation.sweep import Unit

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

TRANSMISSION = np.array([m.transmission for m in MATERIALS], np.float32)

_RETRO = 2.0
"""Brightness of a retroreflector, relative to a matt surface of the same reflectivity."""
_REFLECTIVITY = np.array([m.reflectivity for m in MATERIALS], np.float32)
_REFLECTIVITY[material("retroreflector")] *= _RETRO
_SPECULAR = np.array([m.specular for m in MATERIALS], np.float32)
_GRAIN = np.array([m.grain for m in MATERIALS], np.float32)
_FLATTEST = 0.1
"""Cosine of incidence below which grain lengthens an echo no further, because a flat beam hits only the tips."""
_BELOW_GLOSS = (1 - _SPECULAR) ** 2
"""Share of the light that a glossy coat lets through on the way in and out."""
_GLOSS = 24
"""Exponent of the lobe of a glossy surface (Phong's model)."""
_STEEPNESS = 3.0
"""Steepness of the decrease of returns around the range at which half of the echoes return."""
_SLANT = 0.5
"""Exponent on the cosine of incidence for the power of an echo. It is below 1 because receivers sum up a lengthened
pulse.
"""
_REFERENCE = 0.1
"""Reflectivity for which makers state their ranges."""
_MIXED = (0.12, 1.2)
"""Two surfaces whose ranges differ by a value between these, metres, give one echo between them, because their pulses
overlap.
"""
_EDGE = 0.3
"""Step in range, metres, from which on a beam is only partly on the nearer surface."""
_LEAST_FILL = 0.25
_BRIGHT = 1.1
"""Brightness, relative to a white matt surface, above which the rays beside a surface may report it, too."""


@dataclass(frozen=True)
class Hits:
    """The hits of rays, in arrays of any shape.

    distance: metres, inf without a hit; cosine: of incidence, 0..1; material: index of `MATERIALS`
    """

    distance: Floats
    cosine: Floats
    material: npt.NDArray[np.uint8]

    def at(self, chosen: Mask | tuple[npt.NDArray[np.int64], ...]) -> Hits:
        """Returns some of the hits: flat for a mask, else in the shape of the index arrays."""
        return Hits(self.distance[chosen], self.cosine[chosen], self.material[chosen])


def brightness(hits: Hits, receiver: Receiver) -> Floats:
    """Returns the intensity that a receiver reports for each hit, before noise, floor and the limits 0..1."""
    matt, shine = _REFLECTIVITY**receiver.gamma * _BELOW_GLOSS * receiver.gain, _SPECULAR * receiver.gain
    told = matt[hits.material] * hits.cosine**receiver.contrast + _lobe(hits, shine)
    if len(receiver.response) > 1:
        ranges, factors = zip(*receiver.response, strict=True)
        told *= np.interp(hits.distance, ranges, factors).astype(np.float32)
    return np.asarray(told, np.float32)


def _lobe(hits: Hits, shine: Floats) -> Floats:
    """Returns the mirrored share, which comes back where the surface is hit nearly perpendicularly."""
    lobe: Floats = shine[hits.material]
    glossy = np.nonzero(lobe)
    lobe[glossy] *= hits.cosine[glossy] ** _GLOSS
    return lobe


def heard(hits: Hits, receiver: Receiver, fill: Floats | float = 1.0) -> Floats:
    """Returns the probability 0..1 that an echo comes back. It falls with range, flat incidence and low reflectivity.

    fill: share of the beam that is on the surface
    """
    power = (_REFLECTIVITY * _BELOW_GLOSS)[hits.material] * hits.cosine**_SLANT + _lobe(hits, _SPECULAR)
    with np.errstate(over="ignore", divide="ignore"):
        lost = (_REFERENCE * np.square(hits.distance / receiver.reach) / (power * fill)) ** _STEEPNESS
    return np.asarray(1 / (1 + lost), np.float32)


def receive(hits: Hits, unit: Unit, rng: np.random.Generator) -> tuple[Floats, Floats, Mask]:
    """Returns ranges with noise, intensities 0..1, and the mask of the rays that come back, all `[B, C]`.

    hits: `[B, C]`, beams and columns
    """
    sensor, shape = unit.sensor, hits.distance.shape
    receiver = sensor.receiver
    met = np.nonzero(hits.distance < sensor.most + 1)
    one = hits.at(met)
    count = len(one.distance)
    fill = beam_fill(hits.distance, rng)[met]
    told = brightness(one, receiver) * unit.gains[met[0]] * fill
    told *= 1 + receiver.speckle * rng.standard_normal(count, np.float32)
    told = np.clip(told - receiver.floor, 0, 1 - receiver.step)
    spread = np.hypot(np.float32(sensor.noise), _GRAIN[one.material] / np.maximum(one.cosine, _FLATTEST))
    ranges = one.distance + unit.biases[met[0]] + spread * rng.standard_normal(count, np.float32)
    back = rng.random(count, np.float32) < heard(one, receiver, fill)
    back &= (ranges > sensor.least) & (ranges < sensor.most)
    distance, intensity, kept = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    distance[met], kept[met] = ranges, back
    intensity[met] = np.rint(told / receiver.step) * np.float32(receiver.step)
    return distance, intensity, kept


def beam_fill(distance: Floats, rng: np.random.Generator) -> Floats:
    """Returns the share `[B, C]` of each beam that is on the surface it reports. Beside a large step in range, a part
    of the beam misses the surface.
    """
    with np.errstate(invalid="ignore"):
        drop = np.roll(distance, -1, axis=1) - distance
        ahead, behind = drop > _EDGE, np.roll(drop, 1, axis=1) < -_EDGE
    fill = np.ones(distance.shape, np.float32)
    for edge in (ahead, behind):
        fill[edge] *= rng.uniform(_LEAST_FILL, 1, int(edge.sum())).astype(np.float32)
    return fill


def mix_edges(distance: Floats, divergence: float, spacing: float, rng: np.random.Generator) -> Floats:
    """Returns ranges `[B, C]` in which some rays at an edge report a range between the two surfaces that their beam
    hits.

    divergence, spacing: of the beams and between columns, radians; a beam hits both surfaces where it overlaps the next
                         beam
    """
    following = np.roll(distance, -1, axis=1)
    with np.errstate(invalid="ignore"):
        gap = np.abs(following - distance)
    rows, columns = np.nonzero((gap > _MIXED[0]) & (gap < _MIXED[1]))
    chosen = rng.random(len(rows)) < min(divergence / spacing, 1.0) / 2
    rows, columns = rows[chosen], columns[chosen]
    share = rng.random(len(rows)).astype(np.float32)
    mixed = distance.copy()
    mixed[rows, columns] += (following[rows, columns] - distance[rows, columns]) * share
    return mixed


def bloom(hits: Hits, receiver: Receiver, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Returns for each ray `[B, C]` the column of the hit that it reports: its own, or often that of a dazzling hit
    beside it.
    """
    columns = np.broadcast_to(np.arange(hits.distance.shape[1]), hits.distance.shape).copy()
    rows, places = np.nonzero(_can_dazzle(receiver)[hits.material] & np.isfinite(hits.distance))
    dazzling = brightness(hits.at((rows, places)), receiver) > _BRIGHT * receiver.gain
    rows, places = rows[dazzling], places[dazzling]
    for side in (-1, 1):
        chosen = rng.random(len(rows)) < 0.5
        columns[rows[chosen], (places[chosen] + side) % columns.shape[1]] = places[chosen]
    return columns


def _can_dazzle(receiver: Receiver) -> Mask:
    """Tells which materials can dazzle when they are hit perpendicularly."""
    most = max(factor for _, factor in receiver.response)
    brightest: Mask = (_REFLECTIVITY**receiver.gamma * _BELOW_GLOSS + _SPECULAR) * most > _BRIGHT
    return brightest
