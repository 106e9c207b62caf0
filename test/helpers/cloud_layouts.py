"""Clouds in every layout that a driver may publish, and what was written into them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from spvnas_ros.clouds.point_cloud2 import Datatype, PointField
from spvnas_ros.frame import Segmentation

NUMPY = {
    Datatype.INT8: "i1",
    Datatype.UINT8: "u1",
    Datatype.INT16: "i2",
    Datatype.UINT16: "u2",
    Datatype.INT32: "i4",
    Datatype.UINT32: "u4",
    Datatype.FLOAT32: "f4",
    Datatype.FLOAT64: "f8",
}


@dataclass(frozen=True)
class Cloud:
    """A PointCloud2-shaped object."""

    height: int = 1
    width: int = 0
    fields: list[PointField] = field(default_factory=list)
    is_bigendian: bool = False
    point_step: int = 0
    row_step: int = 0
    data: Any = b""


def xyz_fields(*more: PointField, datatype: int = Datatype.FLOAT32, size: int = 4) -> list[PointField]:
    return [PointField(name, i * size, datatype) for i, name in enumerate("xyz")] + list(more)


def packed(array: np.ndarray, *, big: bool = False) -> Cloud:
    """The plain one-row cloud of a structured array."""
    codes = {text: code for code, text in NUMPY.items()}
    fields = [
        PointField(name, int(offset), codes[dtype.base.str[1:]], int(np.prod(dtype.shape)) if dtype.shape else 1)
        for name, (dtype, offset) in array.dtype.fields.items()
    ]
    return Cloud(1, len(array), fields, big, array.itemsize, array.nbytes, array.tobytes())


def xyzi(n: int, intensity: str = "f4", name: str = "intensity") -> np.ndarray:
    array = np.zeros(n, [("x", "f4"), ("y", "f4"), ("z", "f4"), (name, intensity)])
    for axis in "xyz":
        array[axis] = np.random.default_rng(ord(axis)).normal(0, 10, n)
    return array


def segmentation(n: int) -> Segmentation:
    generator = np.random.default_rng(n)
    return Segmentation(generator.integers(0, 20, n).astype(np.uint8), generator.random(n).astype(np.float32))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Cloud, np.ndarray]:
    """A random layout (types, counts, gaps, order, padding, byte order, organisation) and the values put into it."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
    order = ">" if (big := draw(st.booleans())) else "<"
    offset, formats, fields = 0, [], []
    for name in names:
        code = draw(st.sampled_from(Datatype))
        count = draw(st.integers(1, 3))
        offset += draw(st.integers(0, 5))
        base = np.dtype(order + NUMPY[code])
        formats.append((name, base if count == 1 else np.dtype((base, (count,))), offset))
        fields.append(PointField(name, offset, int(code), count))
        offset += count * base.itemsize
    step = offset + draw(st.integers(0, 7))
    dtype = np.dtype(
        {
            "names": [f[0] for f in formats],
            "formats": [f[1] for f in formats],
            "offsets": [f[2] for f in formats],
            "itemsize": step,
        }
    )
    height, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    row_step = width * step + draw(st.integers(0, 9))
    raw = np.frombuffer(draw(st.binary(min_size=height * row_step, max_size=height * row_step)), np.uint8)
    points = raw.reshape(height, row_step)[:, : width * step].reshape(-1).view(dtype)
    shuffled = draw(st.permutations(fields))
    return Cloud(height, width, shuffled, big, step, row_step, raw.tobytes()), points
