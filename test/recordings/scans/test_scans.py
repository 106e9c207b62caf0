"""Scans come back from every format as they were written, and a damaged file is a ScanError, never anything else."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.recordings.scans import ScanError, open_source, read_scan, scan_files
from spvnas_ros.recordings.scans.pcd import lzf_decompress

PCD_ENCODINGS = ("ascii", "binary", "binary_compressed")
PLY_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
PLY_NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint32"}
PLY_NAMES |= {"f4": "float", "f8": "double"}

scans = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 40), st.just(4)),
    elements=st.floats(-1000, 1000, width=32) | st.just(np.float32(np.nan)),
)


def lzf_compress(data: bytes) -> bytes:
    """A plain greedy LZF encoder, so that matches of every length and distance are met."""
    out, literals, seen = bytearray(), bytearray(), {}

    def flush() -> None:
        for start in range(0, len(literals), 32):
            run = literals[start : start + 32]
            out.append(len(run) - 1)
            out.extend(run)
        literals.clear()

    at = 0
    while at < len(data):
        key = data[at : at + 3]
        back = at - seen.get(key, -10000)
        seen[key] = at
        if len(key) < 3 or back > 8192:
            literals.append(data[at])
            at += 1
            continue
        length = 3
        while at + length < len(data) and length < 264 and data[at + length] == data[at - back + length]:
            length += 1
        flush()
        short, high = length - 2, (back - 1) >> 8
        out.extend([short << 5 | high] if short < 7 else [7 << 5 | high, short - 7])
        out.append((back - 1) & 255)
        at += length
    flush()
    return bytes(out)


def record(points: np.ndarray, intensity: str = "intensity") -> np.ndarray:
    out = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", intensity)])
    for column, name in enumerate(out.dtype.names):
        out[name] = points[:, column]
    return out


def text_rows(table: np.ndarray) -> bytes:
    rows = (np.concatenate([np.atleast_1d(row[name]) for name in table.dtype.names]) for row in table)
    return "".join(" ".join(repr(value.item()) for value in row) + "\n" for row in rows).encode()


def pcd_bytes(table: np.ndarray, encoding: str) -> bytes:
    fields = [(name, table.dtype[name]) for name in table.dtype.names]
    names = ["_" if name.startswith("_") else name for name, _ in fields]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {' '.join(names)}\n"
        f"SIZE {' '.join(str(t.base.itemsize) for _, t in fields)}\n"
        f"TYPE {' '.join(t.base.kind.upper() for _, t in fields)}\n"
        f"COUNT {' '.join(str(t.itemsize // t.base.itemsize) for _, t in fields)}\n"
        f"WIDTH {len(table)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(table)}\nDATA {encoding}\n"
    ).encode()
    if encoding == "ascii":
        return header + text_rows(table)
    if encoding == "binary":
        return header + table.tobytes()
    columns = b"".join(table[name].tobytes() for name in table.dtype.names)
    packed = lzf_compress(columns)
    return header + struct.pack("<II", len(packed), len(columns)) + packed


def ply_bytes(table: np.ndarray, form: str, before: bytes = b"", before_header: str = "") -> bytes:
    order = ">" if "big" in form else "<"
    properties = "".join(f"property {PLY_NAMES[table.dtype[n].str[1:]]} {n}\n" for n in table.dtype.names)
    header = (
        f"ply\nformat {form} 1.0\ncomment made for a test\n{before_header}element vertex {len(table)}\n{properties}"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()
    if form == "ascii":
        return header + before + text_rows(table) + b"3 0 0 0\n"
    face = struct.pack(order + "Biii", 3, 0, 0, 0)
    return header + before + table.astype(table.dtype.newbyteorder(order)).tobytes() + face


def npy_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def read(folder: Path, name: str, data: bytes, rule: str = "unit") -> np.ndarray:
    path = folder / name
    path.write_bytes(data)
    return read_scan(path, rule)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


def written(points: np.ndarray) -> dict[str, bytes]:
    """The same points in every format, by file name."""
    table = record(points)
    return {
        "a.bin": points.tobytes(),
        "a.npy": npy_bytes(points),
        "b.npy": npy_bytes(table),
        "c.npy": npy_bytes(np.asfortranarray(points.astype(np.float64))),
        **{f"{encoding}.pcd": pcd_bytes(table, encoding) for encoding in PCD_ENCODINGS},
        **{f"{form}.ply": ply_bytes(table, form) for form in PLY_FORMATS},
    }


@settings(max_examples=60)
@given(points=scans)
def test_every_format_gives_back_what_was_written(folder: Path, points: np.ndarray) -> None:
    expected = points.copy()
    expected[~np.isfinite(expected[:, 3]), 3] = 0  # such an intensity is of no use to a network
    for name, data in written(points).items():
        found = read(folder, name, data)
        assert found.dtype == np.float32, name
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_real_scan_survives_every_format_and_quickly(folder: Path, full_scan: np.ndarray) -> None:
    scan = full_scan[:30000]  # the encoders above are slow, and so is a parser that loops over the points
    for name, data in written(scan).items():
        path = folder / name
        path.write_bytes(data)
        start = time.process_time()
        found = read_scan(path)
        # ASCII has to parse 120 000 numbers; LZF is a Python loop over runs, not over points.
        limit = {"ascii": 0.7, "binary_compressed": 0.2}.get(path.stem, 0.05)
        assert time.process_time() - start < limit, name
        np.testing.assert_array_equal(found, scan, err_msg=name)


@settings(max_examples=60)
@given(data=st.data())
def test_fields_are_found_by_name_among_others_of_any_type(folder: Path, data: st.DataObject) -> None:
    kinds = ("<i1", "<u1", "<i2", "<u2", "<i4", "<u4", "<f4", "<f8")
    extras = data.draw(st.lists(st.sampled_from(kinds), max_size=4))
    coordinate = data.draw(st.sampled_from(("<i2", "<i4", "<f4", "<f8")))
    fields = [(name, coordinate) for name in "xyz"] + [("intensity", "<u2")]
    fields += [(f"extra{i}", kind) for i, kind in enumerate(extras)]
    table = np.zeros(5, data.draw(st.permutations(fields)))
    for i, name in enumerate(table.dtype.names):
        table[name] = np.arange(5) + i
    expected = np.stack([table[n].astype(np.float32) for n in ("x", "y", "z", "intensity")], 1)
    expected[:, 3] /= 65535
    files = {f"{e}.pcd": pcd_bytes(table, e) for e in PCD_ENCODINGS} | {"s.npy": npy_bytes(table)}
    for name, content in (files | {f"{f}.ply": ply_bytes(table, f) for f in PLY_FORMATS}).items():
        np.testing.assert_allclose(read(folder, name, content, "auto"), expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("encoding", PCD_ENCODINGS)
def test_pcd_reads_past_padding_and_fields_of_several_values(folder: Path, encoding: str) -> None:
    columns = [("x", "<f4"), ("_1", "<u1", (3,)), ("y", "<f4"), ("_2", "<u1"), ("z", "<f8"), ("fpfh", "<f4", (33,))]
    table = np.zeros(7, columns)
    table["x"], table["y"], table["z"], table["fpfh"] = np.arange(7), -np.arange(7), 0.5, 9
    found = read(folder, "padded.pcd", pcd_bytes(table, encoding))
    np.testing.assert_array_equal(found, np.stack([table["x"], table["y"], table["z"], np.zeros(7)], 1))


@pytest.mark.parametrize("form", PLY_FORMATS)
def test_ply_steps_over_elements_before_its_vertices(folder: Path, form: str) -> None:
    points = np.arange(12, dtype=np.float32).reshape(3, 4)
    header = (
        "element face 2\nproperty list uchar int corners\nproperty float area\nelement camera 1\nproperty double f\n"
    )
    order = ">" if "big" in form else "<"
    rows = struct.pack(order + "Biif", 2, 7, 8, 0.5) + struct.pack(order + "Bfd", 0, 1.5, 50.0)
    before = b"2 7 8 0.5\n0 1.5\n50.0\n" if form == "ascii" else rows
    found = read(folder, "faces.ply", ply_bytes(record(points), form, before, header))
    np.testing.assert_array_equal(found, points)


def test_cloudcompare_intensity_is_found_in_ply(folder: Path) -> None:
    points = np.full((2, 4), 0.25, np.float32)
    found = read(folder, "cc.ply", ply_bytes(record(points, "scalar_Intensity"), "binary_little_endian"))
    np.testing.assert_array_equal(found, points)


def test_a_file_is_read_by_its_content_whatever_its_name(folder: Path) -> None:
    points = np.ones((3, 4), np.float32)
    for name, data in written(points).items():
        if name != "a.bin":
            np.testing.assert_array_equal(read(folder, "cloud", data), points, err_msg=name)
            np.testing.assert_array_equal(read(folder, "cloud.bin", data), points, err_msg=name)


def test_three_columns_have_no_intensity_and_more_than_four_are_read_in_front(folder: Path) -> None:
    wide = np.random.default_rng(0).random((6, 7))
    np.testing.assert_array_equal(read(folder, "w.npy", npy_bytes(wide)), wide[:, :4].astype(np.float32))
    bare = read(folder, "n.npy", npy_bytes(wide[:, :3]))
    np.testing.assert_array_equal(bare, np.c_[wide[:, :3], np.zeros(6)].astype(np.float32))


def test_the_intensity_rule_is_the_callers_and_remembers_its_sensor(folder: Path) -> None:
    bright, dark = np.full((2, 4), 200, np.float32), np.full((2, 4), 0.5, np.float32)
    rule = Intensity("auto")
    (folder / "bright.bin").write_bytes(bright.tobytes())
    (folder / "dark.bin").write_bytes(dark.tobytes())
    assert read_scan(folder / "dark.bin", rule)[0, 3] == np.float32(0.5)
    assert read_scan(folder / "bright.bin", rule)[0, 3] == pytest.approx(200 / 255)
    assert read_scan(folder / "dark.bin", rule)[0, 3] == pytest.approx(0.5 / 255)
    assert read_scan(folder / "bright.bin", "none")[0, 3] == 0
    with pytest.raises(ValueError, match="intensity rule"):
        read_scan(folder / "bright.bin", "percent")


POINTS = np.arange(40, dtype=np.float32).reshape(10, 4) / 40


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("odd.bin", b"\0" * 30, "30 bytes are no multiple of 16"),
        ("empty.pcd", b"", "no DATA line"),
        ("text.pcd", b"hello", "no DATA line"),
        ("fields.pcd", b"VERSION 0.7\nDATA ascii\n", "lacks FIELDS, SIZE, TYPE"),
        ("uneven.pcd", b"FIELDS x y z\nSIZE 4 4\nTYPE F F F\nPOINTS 0\nDATA ascii\n", "as many of each"),
        ("type.pcd", b"FIELDS x\nSIZE 2\nTYPE F\nPOINTS 0\nDATA ascii\n", "type 'F' of 2 bytes"),
        ("data.pcd", pcd_bytes(record(POINTS), "binary").replace(b"DATA binary", b"DATA zip"), "DATA is 'zip'"),
        ("area.pcd", pcd_bytes(record(POINTS), "binary").replace(b"WIDTH 10", b"WIDTH 11"), "WIDTH x HEIGHT is 11"),
        ("count.pcd", pcd_bytes(record(POINTS), "ascii").replace(b"POINTS 10", b"POINTS -1"), "must be a count"),
        ("short.pcd", pcd_bytes(record(POINTS), "binary")[:-1], "cut short"),
        ("short2.pcd", pcd_bytes(record(POINTS), "binary_compressed")[:-1], "cut short"),
        ("short3.pcd", pcd_bytes(record(POINTS[:9]), "ascii").replace(b" 9\n", b" 10\n"), "cut short"),
        ("short4.pcd", pcd_bytes(record(POINTS), "ascii")[:-30], "number of columns changed"),
        ("word.pcd", pcd_bytes(record(POINTS), "ascii").replace(b"0.025", b"zero"), "does not hold rows of numbers"),
        ("noz.pcd", pcd_bytes(record(POINTS)[["x", "y"]].copy(), "ascii"), "called z"),
        ("huge.pcd", pcd_bytes(record(POINTS), "ascii").replace(b" 10\n", b" 99999999999999\n"), "cut short"),
        ("huge2.pcd", pcd_bytes(record(POINTS), "binary").replace(b" 10\n", b" 99999999999999\n"), "cut short"),
        ("header.ply", b"ply\nformat ascii 1.0\nelement vertex 1\n", "no end_header"),
        ("format.ply", b"ply\nformat ascii 2.0\nend_header\n", "format is 'ascii 2.0'"),
        ("line.ply", b"ply\nformat ascii 1.0\nvertices 3\nend_header\n", "'vertices 3'"),
        ("type.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n", "type 'half'"),
        ("list.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "single"),
        ("none.ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no vertex element"),
        ("short.ply", ply_bytes(record(POINTS), "binary_big_endian")[:-40], "cut short"),
        ("short2.ply", ply_bytes(record(POINTS), "ascii")[:-150], "cut short"),
        ("short.npy", npy_bytes(POINTS)[:-1], "no whole numpy array"),
        ("pickle.npy", npy_bytes(np.array([[1, "a"]], object)), "no whole numpy array"),
        ("flat.npy", npy_bytes(np.zeros(8, np.float32)), r"float32 \(8,\)"),
        ("two.npy", npy_bytes(np.zeros((8, 2), np.float32)), r"\(8, 2\)"),
        ("text.npy", npy_bytes(np.zeros((8, 4), "U3")), "expected numbers"),
        ("names.npy", npy_bytes(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "U4")])), "called z"),
        ("names2.npy", npy_bytes(np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("i", "U4")])), "called i"),
        ("cloud.las", b"LASF", "format is not known"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_a_malformed_scan_is_named_with_what_is_wrong(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(ScanError, match=says) as caught:
        read(tmp_path, name, data)
    assert name in str(caught.value)


def test_five_columns_are_recognised_as_nuscenes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for count in (100, 101):  # 100 points of 20 bytes would pass as 125 points of 16
        scan = np.c_[rng.normal(size=(count, 4)) * 20, rng.integers(0, 32, count)].astype(np.float32)
        with pytest.raises(ScanError, match="nuScenes"):
            read(tmp_path, "lidar.pcd.bin", scan.tobytes())


def test_no_real_scan_is_taken_for_nuscenes(shared: Path) -> None:
    files = sorted((shared / "data").rglob("velodyne/*.bin"))
    assert len(files) >= 18
    for file in files:
        points = read_scan(file)
        np.testing.assert_array_equal(points, np.fromfile(file, np.float32).reshape(-1, 4))


@settings(max_examples=400)
@given(data=st.data())
def test_damaged_files_raise_scan_errors_only(folder: Path, data: st.DataObject) -> None:
    name, content = data.draw(st.sampled_from(sorted(written(POINTS).items())))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        end = min(len(damaged), at + data.draw(st.integers(0, 3)))
        damaged[at:end] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        points = read(folder, name, bytes(damaged))
    except ScanError:
        return
    assert points.dtype == np.float32
    assert points.shape == (len(points), 4)


@given(text=st.binary(max_size=400), start=st.sampled_from([b"ply\n", b"FIELDS ", b"\x93NUMPY", b"# .PCD v0.7\n", b""]))
def test_any_bytes_behind_a_format_mark_raise_scan_errors_only(folder: Path, text: bytes, start: bytes) -> None:
    try:
        read(folder, "anything", start + text)
    except ScanError:
        return


def test_lzf_agrees_with_what_liblzf_writes() -> None:
    text = b"abcabcabcabcabcabc spvnas spvnas"
    assert lzf_decompress(bytes.fromhex("0361626361e0050206207370766e61736006016173"), len(text)) == text


@given(st.lists(st.sampled_from([b"a", b"bc", b"\0" * 300, b"abcdefgh" * 5, b"xyz"]), max_size=60).map(b"".join))
def test_lzf_gives_back_what_was_compressed(data: bytes) -> None:
    assert lzf_decompress(lzf_compress(data), len(data)) == data


@given(st.binary(max_size=60), st.integers(0, 500))
def test_damaged_lzf_never_gives_another_size(data: bytes, size: int) -> None:
    try:
        assert len(lzf_decompress(data, size)) == size
    except ScanError:
        return


def save(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        POINTS.tofile(folder / name)


def test_a_folder_gives_its_scans_in_natural_order(tmp_path: Path) -> None:
    save(tmp_path, "10.bin", "2.bin", "1.bin", "._1.bin", "notes.txt")
    with open_source(tmp_path) as source:
        assert (source.kind, len(source)) == ("folder", 3)
        assert [frame.name for frame in source] == ["1", "2", "10"]
        np.testing.assert_array_equal(next(iter(source)).load().points, POINTS)


def test_a_sequence_folder_gives_the_scans_of_its_velodyne_folder(shared: Path) -> None:
    with open_source(shared / "data/semantickitti/sequences/00") as source:
        assert [frame.name for frame in source] == ["000000", "000009"]
        assert all(frame.load().message is None for frame in source)


def test_one_scan_is_a_source_of_one_frame(tmp_path: Path) -> None:
    save(tmp_path, "one.bin")
    with open_source(tmp_path / "one.bin") as source:
        assert (source.kind, len(source), source.topic) == ("scan", 1, "")
        assert [frame.name for frame in source] == ["one"]


def test_a_bad_scan_in_a_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    save(tmp_path, "1.bin", "3.bin")
    (tmp_path / "2.bin").write_bytes(b"short")
    with open_source(tmp_path) as source:
        frames = list(source)
        assert len(frames[0].load().points) == len(frames[2].load().points) == 10
        with pytest.raises(ScanError, match=r"2\.bin"):
            frames[1].load()


def test_what_is_no_source_is_named_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        open_source(tmp_path / "missing")
    with pytest.raises(ScanError, match="found nothing"):
        open_source(tmp_path)
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ScanError, match=r"found readme\.txt"):
        open_source(tmp_path)
    with pytest.raises(ScanError, match="no known format"):
        open_source(tmp_path / "readme.txt")
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    with pytest.raises(ScanError, match="rosbags-convert"):
        open_source(tmp_path / "old.bag")
    with pytest.raises(ScanError, match="missing"):
        read_scan(tmp_path / "missing.bin")
    save(tmp_path, "1.bin", "1.pcd")
    with pytest.raises(ScanError, match="same label file"):
        scan_files(tmp_path)
    with pytest.raises(ScanError, match="no topic /points"):
        open_source(tmp_path / "1.bin", topic="/points")
