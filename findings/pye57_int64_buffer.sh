#!/bin/bash
# A field of E57 that is read into an array of int64 comes back as pairs of 32-bit numbers.
#
# pye57 0.4.19 (wheel from PyPI, Linux x86-64), numpy 2.4.6. A SourceDestBuffer may be given any array of numbers of the
# kinds "bBhHlLq?fd", says its own error. On Linux numpy's int64 is "l", which pye57 takes for 32 bits, as on Windows.
#
# Expected: rowIndex 0, 1, 2, 3, 4, 5, or an error.
# Seen:     4294967296, 12884901890, 21474836484 (1 and 0, 3 and 2, 5 and 4 side by side), then what the array held
#           before. No error. With the same array as numpy.longlong ("q"), of the same 64 bits, the numbers are right.
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

count = 6
rows = np.arange(count)
with pye57.E57(sys.argv[1], "w") as file:
    columns = {f"cartesian{axis}": rows.astype(float) for axis in "XYZ"}
    file.write_scan_raw({**columns, "rowIndex": rows.astype(np.uint16), "columnIndex": rows.astype(np.uint16)})

found = {}
with pye57.E57(sys.argv[1]) as file:
    for kind in ("q", "l"):
        array = np.full(count, -1, kind)
        buffers = libe57.VectorSourceDestBuffer()
        buffers.append(libe57.SourceDestBuffer(file.image_file, "rowIndex", array, count, True, True))
        file.get_header(0).points.reader(buffers).read()
        found[kind] = array.tolist()
        print(f"{array.dtype} {kind!r}:", found[kind])
sys.exit(0 if found["q"] == rows.tolist() != found["l"] else 1)
PYTHON
