"""Lists the materials of surfaces, as a LiDAR at 905 nm sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Material:
    """The optical properties of a surface.

    reflectivity: share of the light that a matt surface returns when it is hit perpendicularly, 0..1
    specular:     share that is reflected as by a mirror, away from the sensor unless hit perpendicularly, 0..1
    transmission: share of rays that pass through, as through glass, 0..1
    grain:        standard deviation of the surface's fine structure, metres: blades of grass, stones
    """

    name: str
    reflectivity: float
    specular: float = 0.0
    transmission: float = 0.0
    grain: float = 0.0


MATERIALS = (
    Material("asphalt", 0.22, 0.05, grain=0.003),
    Material("lane paint", 0.62, 0.05, grain=0.003),
    Material("paving", 0.31, 0.03, grain=0.004),
    Material("gravel", 0.30, grain=0.01),
    Material("lawn", 0.38, grain=0.014),
    Material("grass", 0.40, grain=0.022),
    Material("tall grass", 0.40, grain=0.045),
    Material("soil", 0.28, grain=0.025),
    Material("plaster", 0.39, grain=0.026),
    Material("brick", 0.30, grain=0.026),
    Material("concrete", 0.33, grain=0.003),
    Material("roof tiles", 0.26),
    Material("glass", 0.08, 0.75, 0.55),
    Material("car glass", 0.07, 0.70, 0.60),
    Material("car paint, dark", 0.10, 0.55),
    Material("car paint, light", 0.42, 0.35),
    Material("coach paint", 0.60, 0.15),
    Material("chrome", 0.45, 0.5),
    Material("tyre", 0.06),
    Material("reflective tyre", 0.50),
    Material("plastic", 0.25, 0.1),
    Material("wood", 0.35, grain=0.02),
    Material("bare metal", 0.42, 0.3),
    Material("painted metal", 0.38, 0.12),
    Material("leaves", 0.26, grain=0.03),
    Material("needles", 0.20),
    Material("bark", 0.28, grain=0.012),
    Material("retroreflector", 0.75),
    Material("clothes, dark", 0.24),
    Material("clothes, light", 0.55),
    Material("skin", 0.40),
    Material("tarpaulin", 0.38, 0.05),
    Material("door", 0.26, 0.1),
    Material("fresh asphalt", 0.16, 0.05, grain=0.003),
    Material("worn asphalt", 0.29, 0.03, grain=0.005),
    Material("mown lawn", 0.38, grain=0.006),
    Material("dry soil", 0.33, grain=0.009),
    Material("clipped leaves", 0.27, grain=0.055),
    Material("worn sign", 0.5, grain=0.008),
    Material("rough stone", 0.30, grain=0.04),
    Material("dark plaster", 0.27, grain=0.026),
    Material("pale bark", 0.42, grain=0.012),
    Material("dark bark", 0.17, grain=0.015),
)

_INDEX = {material.name: index for index, material in enumerate(MATERIALS)}


def material(name: str) -> int:
    """Returns the index of a material in `MATERIALS`. Raises KeyError where there is none of that name."""
    return _INDEX[name]
