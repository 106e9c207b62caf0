"""Broken files of every format are refused with one sentence, or read; libraries never end the process.

The files are broken in a process of their own: a library that ends it is a failure of one test.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from encoded_scans import PCD_ENCODINGS, PLY_FORMATS, pcd_bytes, ply_bytes, record
from surveyed_scans import around, brightness, copc_file, e57_file, las_file, npz_bytes, table, text_bytes

MUTATIONS = 100
"""Broken files of each format."""
FILES = ("bin", "copc", "e57", "feather", "las", "laz", "npz", "parquet", "pcd", "ply", "text")


def whole_files(folder: Path, kind: str) -> list[Path]:
    """Writes files of one kind."""
    import numpy as np

    points = np.c_[around(), brightness() / 255].astype(np.float32)
    match kind:
        case "las" | "laz":
            return [las_file(folder / f"{form}.{kind}", form) for form in (0, 3, 4, 6, 7, 9)]
        case "copc":
            return [copc_file(folder / "a.copc.laz")]
        case "e57":
            return [e57_file(folder / "a.e57")]
        case "parquet":
            for compression in ("snappy", "zstd", "none", "gzip"):
                table().to_parquet(folder / f"{compression}.parquet", compression=compression)
        case "feather":
            for compression in ("lz4", "zstd", "uncompressed"):
                table().to_feather(folder / f"{compression}.feather", compression=compression)
        case "npz":
            (folder / "a.npz").write_bytes(npz_bytes())
        case "bin":
            points.tofile(folder / "a.bin")
            np.c_[points, brightness() % 32].astype(np.float32).tofile(folder / "b.pcd.bin")
        case "pcd":
            for encoding in PCD_ENCODINGS:
                (folder / f"{encoding}.pcd").write_bytes(pcd_bytes(record(points), encoding))
        case "ply":
            for form in PLY_FORMATS:
                (folder / f"{form}.ply").write_bytes(ply_bytes(record(points), form))
        case "text":
            for name, header in (("a.xyz", ""), ("b.csv", "x,y,z,i\n"), ("c.pts", "120\n"), ("d.asc", "//X;Y;Z;I\n")):
                separator = {"b.csv": ",", "d.asc": ";"}.get(name, " ")
                (folder / name).write_bytes(text_bytes(separator, header))
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", FILES)
def test_broken_files_are_refused_with_one_sentence_or_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "whole").mkdir()
    files = whole_files(tmp_path / "whole", kind)
    script = Path(__file__).parents[2] / "helpers" / "break_scans.py"
    done = subprocess.run(
        [sys.executable, script, str(MUTATIONS), tmp_path, *files], capture_output=True, text=True, check=False
    )
    at = (tmp_path / "at").read_text() if (tmp_path / "at").exists() else "the start"
    assert (done.returncode, done.stderr) == (0, ""), f"at {at}: {done.stderr[-2000:]}"
    refused, was_read = map(int, done.stdout.split())
    assert refused + was_read == MUTATIONS
    assert refused > MUTATIONS // 10
