#!/bin/bash
# pye57 takes the numbers of a scan's rotation in the order in which the file lists them, whatever their names.
#
# pye57 0.4.19 (wheel from PyPI). In E57 the rotation of a pose is a structure of the elements w, x, y and z; a structure's
# elements are found by name, and their order is free (ASTM E2807). pye57 itself writes w first.
#
# Expected: a rotation written as x=0, y=0, z=1, w=0 is half a turn about z: the point (1, 0, 0) becomes (-1, 0, 0).
# Seen:     header.rotation is (0, 0, 1, 0), half a turn about y: (1, 0, 2) becomes (-1, 0, -2), upside down. No error.
#
# Ends with 0 while this is so, with 1 once it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pye57==0.4.19 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/a.e57" <<'PYTHON'
import sys

import numpy as np
import pye57
from pye57 import libe57

path = sys.argv[1]
points = {"cartesianX": np.array([1.0, 1]), "cartesianY": np.zeros(2), "cartesianZ": np.array([2.0, 2])}
turn = {"x": 0.0, "y": 0.0, "z": 1.0, "w": 0.0}

# pye57 has no door for the order, so its own writing of a pose is given another one.
structure = libe57.StructureNode


class Reordered(structure):
    def set(self, name, node):
        if name in turn and isinstance(node, libe57.FloatNode) and len(held) < 4:
            held[name] = node
            if len(held) == 4:
                for each in turn:
                    structure.set(self, each, held[each])
            return None
        return structure.set(self, name, node)


held = {}
libe57.StructureNode = Reordered
with pye57.E57(path, "w") as file:
    file.write_scan_raw(points, rotation=np.array([0.0, 0, 0, 1]), translation=np.zeros(3))
libe57.StructureNode = structure

with pye57.E57(path) as file:
    header = file.get_header(0)
    named = {name: header.node["pose"]["rotation"][name].value() for name in turn}
    turned = file.read_scan(0, ignore_missing_fields=True)
    found = [float(turned[f"cartesian{axis}"][0]) for axis in "XYZ"]
    print("by name:", named, "- pye57:", header.rotation.tolist(), "- the point (1, 0, 2) becomes", found)
assert named == turn, named
sys.exit(0 if found[2] < 0 else 1)
PYTHON
