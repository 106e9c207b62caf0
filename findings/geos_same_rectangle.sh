#!/bin/bash
# Two rectangles of the same place, one turned half way round, share nothing.
#
# shapely 2.2.0 with GEOS 3.14.1 (wheel from PyPI). Boxes of detectors and their truth are often equal up to a turn by
# pi, which changes no corner by more than a rounding. Both polygons are valid and have an area of 8.
#
# Expected: intersection() is the rectangle, area 8, so their IoU is 1.
# Seen:     for some 1 in 5000 pairs it is a Point or MultiPoint of area 0, although intersects() and equals_exact() with
#           a tolerance of 1e-9 both say True. With grid_size=1e-10 the area is right.
#
# Ends with 0 while this is so, with 1 once it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check shapely==2.2.0 numpy==2.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import shapely

CORNERS = np.array([(2.0, 1.0), (-2.0, 1.0), (-2.0, -1.0), (2.0, -1.0)])


def rectangle(x: float, y: float, yaw: float) -> shapely.Polygon:
    """4 by 2, turned about its middle."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return shapely.polygons(CORNERS @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y))


rng = np.random.default_rng(0)
pairs = 30_000
empty = []
for _ in range(pairs):
    x, y, yaw = rng.uniform(-50, 50), rng.uniform(-50, 50), rng.uniform(-np.pi, np.pi)
    one, other = rectangle(x, y, yaw), rectangle(x, y, yaw + np.pi)
    shared = shapely.intersection(one, other)
    if shared.area < 1:
        empty.append((one, other, shared))
print(f"shapely {shapely.__version__}, GEOS {'.'.join(map(str, shapely.geos_version))}")
print(f"{len(empty)} of {pairs} pairs share nothing")
for one, other, shared in empty[:1]:
    same = shapely.equals_exact(shapely.normalize(one), shapely.normalize(other), 1e-9)
    snapped = shapely.intersection(one, other, grid_size=1e-10)
    print(f"the first: {one}")
    print(f"valid {one.is_valid} and {other.is_valid}, areas {one.area:.6f} and {other.area:.6f}, the same to 1e-9: {same}")
    print(f"intersects {one.intersects(other)}, intersection {shared.geom_type} of area {shared.area}, "
          f"on a grid of 1e-10 area {snapped.area:.6f}")
    as_described = one.is_valid and other.is_valid and one.intersects(other) and abs(snapped.area - 8) < 1e-6
    sys.exit(0 if as_described else 1)
sys.exit(1)
PYTHON
