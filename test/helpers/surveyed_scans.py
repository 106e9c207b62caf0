"""The same points in every format that a library writes, in UTM coordinates where the format has the digits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

COUNT = 120
ORIGIN = np.array((512_000.25, 5_403_000.125, 260.5))
"""The sensor's place in UTM coordinates, metres."""


def around(count: int = COUNT) -> npt.NDArray[np.float64]:
    """Points around a sensor, millimetres, `[count, 3]`."""
    return np.round(np.random.default_rng(5).normal(size=(count, 3)) * (20, 20, 2), 3)


def brightness(count: int = COUNT) -> npt.NDArray[np.int64]:
    """Intensities 0..255."""
    return np.random.default_rng(6).integers(0, 256, count)


def las_file(path: Path, form: int = 6, *, extra: bool = True, points: npt.NDArray[np.float64] | None = None) -> Path:
    """Writes LAS or LAZ, by the suffix, with 16-bit intensities, in UTM coordinates, by laspy."""
    import laspy

    points = around() if points is None else points
    version = "1.4" if form > 5 else "1.3" if form > 3 else "1.2"
    header = laspy.LasHeader(point_format=form, version=version)
    header.scales, header.offsets = [0.001] * 3, [512_000, 5_403_000, 0]
    header.vlrs.append(laspy.VLR(b"surveyor", 7, b"a note", b"kept as it is"))
    if extra:
        header.add_extra_dims([laspy.ExtraBytesParams("range", "f4", "metres"), laspy.ExtraBytesParams("rgb", "3u1")])
    las = laspy.LasData(header)
    las.x, las.y, las.z = (points + ORIGIN).T
    las.intensity = brightness(len(points)) * 257
    las.classification = brightness(len(points)) % 20
    las.return_number = 1 + brightness(len(points)) % 3
    if extra:
        las.range = np.linalg.norm(points, axis=1)
        las.rgb = np.column_stack([brightness(len(points))] * 3)
    if form > 5:
        las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR(b"surveyor", 8, b"behind", b"the points")])
    las.write(path)
    return path


def copc_file(path: Path) -> Path:
    """Writes COPC by copclib."""
    import copclib

    writer = copclib.FileWriter(str(path), copclib.CopcConfigWriter(7, [0.001] * 3, [512_000, 5_403_000, 0]))
    points = copclib.Points(writer.copc_config.las_header)
    for (x, y, z), intensity in zip(around() + ORIGIN, brightness(), strict=True):
        point = points.CreatePoint()
        point.x, point.y, point.z, point.intensity = x, y, z, int(intensity) * 257
        points.AddPoint(point)
    writer.AddNode(copclib.VoxelKey(0, 0, 0, 0), points)
    writer.Close()
    return path


def e57_file(path: Path, scans: int = 2) -> Path:
    """Writes scans around their own scanners, turned a quarter further each, every tenth point invalid, by pye57."""
    import pye57

    with pye57.E57(str(path), "w") as file:
        for number in range(scans):
            columns = {f"cartesian{axis}": values.copy() for axis, values in zip("XYZ", around().T, strict=True)}
            columns["intensity"] = brightness().astype(float)
            columns |= {f"color{name}": brightness().astype(np.uint8) for name in ("Red", "Green", "Blue")}
            columns |= {f"{name}Index": np.arange(COUNT, dtype=np.uint16) for name in ("row", "column")}
            columns["cartesianInvalidState"] = (np.arange(COUNT) % 10 == 0).astype(np.int8)
            half = number * np.pi / 4
            rotation = np.array((np.cos(half), 0, 0, np.sin(half)))
            file.write_scan_raw(columns, rotation=rotation, translation=ORIGIN + number)
    return path


def table() -> Any:
    """The points as pandas' table in UTM coordinates, with a text column and one value missing."""
    import pandas as pd

    columns = dict(zip("xyz", (around() + ORIGIN).T, strict=True))
    made = pd.DataFrame(
        {**columns, "intensity": brightness().astype(np.uint8), "name": [f"p{i}" for i in range(COUNT)]}
    )
    made.loc[3, "z"] = np.nan
    return made


def text_bytes(separator: str = " ", header: str = "") -> bytes:
    """Rows of x, y, z, intensity in UTM coordinates."""
    rows = zip(around() + ORIGIN, brightness(), strict=True)
    lines = [separator.join((*(f"{value:.3f}" for value in point), str(i))) for point, i in rows]
    return (header + "\n".join(lines) + "\n").encode()


def npz_bytes() -> bytes:
    """Arrays x, y, z and i, compressed."""
    file = io.BytesIO()
    np.savez_compressed(file, **dict(zip("xyz", (around() + ORIGIN).T, strict=True)), i=brightness())
    return file.getvalue()
