"""Labels come back in the form that came in: two fields more, and all else byte for byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import laspy
import numpy as np
import pandas as pd
import pytest
from plyfile import PlyData

from encoded_scans import PCD_ENCODINGS, PLY_FORMATS, pcd_bytes, ply_bytes, record
from spvnas_cli import segmented
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Segmentation
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.scans import read_record
from spvnas_ros.segment.label_forms import LabelForm
from surveyed_scans import COUNT, around, brightness, copc_file, e57_file, las_file, npz_bytes, table, text_bytes

RESULT = Segmentation(
    np.where(np.arange(COUNT) % 20 == 19, 255, np.arange(COUNT) % 20).astype(np.uint8),
    np.linspace(0, 1, COUNT, dtype=np.float32),
)
XYZI = np.c_[around(), brightness() / 255].astype(np.float32)


def labelled(file: Path, classification: str = "", result: Segmentation = RESULT) -> Path:
    """Writes a scan with labels, into a folder beside it."""
    form = LabelForm("same", classification)
    copy = form.copy_of(file.parent, file.stem, file)
    assert copy is not None
    copy.parent.mkdir(exist_ok=True)
    form.write_copy(copy, file, result, SEMANTIC_KITTI.classes)
    return copy


def check(file: Path, copy: Path, digits: float = 0) -> None:
    """Checks that a copy has every field of the file, and the labels."""
    before, after = read_record(file), read_record(copy)
    assert after.dtype.names == (*before.dtype.names, "label", "confidence")
    for name in before.dtype.names:
        np.testing.assert_array_equal(before[name], after[name])
    np.testing.assert_array_equal(after["label"], RESULT.labels)
    np.testing.assert_allclose(after["confidence"], RESULT.confidence, rtol=0, atol=digits)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("form", range(11))
def test_las_keeps_header_vlrs_and_the_points_own_bytes(tmp_path: Path, form: int, suffix: str) -> None:
    file = las_file(tmp_path / f"a{suffix}", form)
    copy = labelled(file)
    check(file, copy)
    old, new = laspy.read(file), laspy.read(copy)
    length = old.header.point_format.size
    rows = new.points.array.view(np.uint8).reshape(COUNT, length + 5)
    np.testing.assert_array_equal(rows[:, :length], old.points.array.view(np.uint8).reshape(COUNT, length))
    heads = [bytearray(path.read_bytes()[: laspy.open(path).header.offset_to_point_data]) for path in (file, copy)]
    size = struct.unpack_from("<H", heads[0], 94)[0]
    for head in heads:  # what must change: where points and EVLRs are, how many VLRs, the length of a point
        for at, count in ((96, 8), (105, 2), *(((235, 8),) if form > 5 else ())):
            head[at : at + count] = bytes(count)
    assert heads[0][:size] == heads[1][:size]
    assert new.header.vlrs.get_by_id("surveyor")[0].record_data == b"kept as it is"
    if form > 5:
        assert [(each.user_id, each.record_data) for each in new.evlrs] == [("surveyor", b"the points")]
    described = {each.name: each.description for each in new.point_format.extra_dimensions}
    assert described == {
        "range": "metres", "rgb": "", "label": "index of the class, 255 none", "confidence": "of the label, 0 to 1"
    }  # fmt: skip


def test_copc_comes_back_as_plain_laz(tmp_path: Path) -> None:
    copy = labelled(copc_file(tmp_path / "a.copc.laz"))
    assert copy.name == "a.laz"
    check(tmp_path / "a.copc.laz", copy)
    header = laspy.read(copy).header
    assert not [each for each in (*header.vlrs, *(header.evlrs or ())) if each.user_id == "copc"]


@pytest.mark.parametrize("form", [3, 6])
def test_the_classification_is_asprss_where_it_is_asked_for_and_its_flags_stay(tmp_path: Path, form: int) -> None:
    file = las_file(tmp_path / "a.las", form)
    las = laspy.read(file)
    las.synthetic[::2] = 1
    las.write(file)
    after = laspy.read(labelled(file, "asprs"))
    code = {"road": 11, "parking": 2, "sidewalk": 2, "other-ground": 2, "terrain": 2, "building": 6}
    code |= {"vegetation": 5, "trunk": 5}
    expected = [0 if index == 255 else code.get(SEMANTIC_KITTI.classes[index], 1) for index in RESULT.labels]
    np.testing.assert_array_equal(after.classification, expected)
    np.testing.assert_array_equal(after.synthetic, las.synthetic)
    np.testing.assert_array_equal(after.label, RESULT.labels)


def test_labels_that_came_in_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(ply_bytes(record(XYZI), "binary_little_endian"))
    (tmp_path / "b.pcd").write_bytes(pcd_bytes(record(XYZI), "binary"))
    (tmp_path / "c.csv").write_bytes(text_bytes(",", "x,y,z,intensity\n"))
    table().to_parquet(tmp_path / "d.parquet")
    las_file(tmp_path / "e.laz")
    for file in [path for path in tmp_path.iterdir() if path.is_file()]:
        (tmp_path / "again").mkdir(exist_ok=True)
        twice = tmp_path / "again" / file.name
        twice.write_bytes(labelled(file).read_bytes())
        found = read_record(labelled(twice)).dtype.names
        assert found[-4:] == ("input_label", "input_confidence", "label", "confidence"), file


@pytest.mark.parametrize("form", PLY_FORMATS)
def test_ply_keeps_its_other_fields_elements_and_lines(tmp_path: Path, form: str) -> None:
    order = ">" if "big" in form else "<"
    before = b"0.5\n" if form == "ascii" else struct.pack(f"{order}f", 0.5)
    file = tmp_path / "a.ply"
    file.write_bytes(ply_bytes(record(XYZI), form, before, "element camera 1\nproperty float f\n"))
    copy = labelled(file)
    check(file, copy, 1e-6)
    old, new = PlyData.read(file), PlyData.read(copy)
    assert new["camera"]["f"].tolist() == [0.5]
    assert [list(each[0]) for each in new["face"]] == [list(each[0]) for each in old["face"]]
    assert new.comments == old.comments
    assert new.text == old.text
    assert [str(each) for each in new["vertex"].properties[-2:]] == [
        "property uchar label",
        "property float confidence",
    ]


@pytest.mark.parametrize("encoding", PCD_ENCODINGS)
def test_pcd_keeps_its_other_fields_and_what_was_compressed_is_binary(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.pcd"
    file.write_bytes(pcd_bytes(record(XYZI), encoding))
    copy = labelled(file)
    check(file, copy, 1e-6)
    header = copy.read_bytes()[:400].decode("latin-1")
    assert "FIELDS x y z intensity label confidence\nSIZE 4 4 4 4 1 4\nTYPE F F F F U F\nCOUNT 1 1 1 1 1 1\n" in header
    assert f"DATA {'ascii' if encoding == 'ascii' else 'binary'}\n" in header


@pytest.mark.parametrize(
    ("separator", "header"),
    [
        (" ", ""),
        ("\t", "X\tY\tZ\tI\n"),
        (",", "# survey\nx,y,z,intensity\n"),
        (";", "x;y;z;i\n"),
        (" ", "//X Y Z I\n120\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_gets_two_columns_more_and_keeps_every_digit(
    tmp_path: Path, separator: str, header: str, end: str
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(text_bytes(separator, header).replace(b"\n", end.encode()))
    copy = labelled(file)
    before, after = file.read_bytes().split(end.encode()), copy.read_bytes().split(end.encode())
    rows = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    named = bool(header)
    assert len(rows) == COUNT + named
    for old, new in rows:
        assert new.startswith(old + separator.encode())
    found = read_record(copy)
    names = ("label", "confidence") if named else found.dtype.names[-2:]
    np.testing.assert_array_equal(found[names[0]], RESULT.labels)
    np.testing.assert_allclose(found[names[1]], RESULT.confidence, atol=1e-6)


def test_tables_get_two_columns_more_and_pandas_gets_its_index_back(tmp_path: Path) -> None:
    shuffled = table().sample(frac=1, random_state=0)
    shuffled.to_parquet(tmp_path / "a.parquet", compression="zstd", row_group_size=50)
    shuffled.reset_index(drop=True).to_feather(tmp_path / "b.feather")
    check(tmp_path / "a.parquet", labelled(tmp_path / "a.parquet"))
    check(tmp_path / "b.feather", labelled(tmp_path / "b.feather"))
    after = pd.read_parquet(tmp_path / "scans/a.parquet")
    pd.testing.assert_frame_equal(after[shuffled.columns], shuffled)
    assert (after["label"].dtype, after["confidence"].dtype) == (np.uint8, np.float32)


def test_labels_of_another_scan_are_not_written(tmp_path: Path) -> None:
    short = Segmentation(RESULT.labels[:-1], RESULT.confidence[:-1])
    (tmp_path / "b.ply").write_bytes(ply_bytes(record(XYZI), "ascii"))
    for file in (las_file(tmp_path / "a.las"), tmp_path / "b.ply"):
        with pytest.raises(ValueError, match="120 points, found labels of 119"):
            labelled(file, result=short)
    assert list((tmp_path / "scans").iterdir()) == []


def test_the_command_gives_labels_and_the_scans_that_can_hold_them(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    las_file(folder / "a.las")
    e57_file(folder / "b.e57")
    (folder / "c.ply").write_bytes(ply_bytes(record(XYZI), "binary_little_endian"))
    XYZI.tofile(folder / "d.bin")
    (folder / "e.npz").write_bytes(npz_bytes())
    arguments = (folder, "-w", weights, "--device", "cpu", "--quiet", "-o", tmp_path / "out")
    status, said, error = segmented(*arguments)
    assert (status, error) == (0, "")
    assert f"{tmp_path / 'out/labels'}, {tmp_path / 'out/scans'}, " in said
    names = ["a", "b_0", "b_1", "c", "d", "e"]
    assert sorted(path.stem for path in (tmp_path / "out/labels").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "out/scans").iterdir()) == ["a.las", "c.ply"]
    raw = np.fromfile(tmp_path / "out/labels/c.label", np.uint32)
    np.testing.assert_array_equal(SEMANTIC_KITTI.encode(raw), read_record(tmp_path / "out/scans/c.ply")["label"])

    # Other forms are another run; --force replaces all of the first.
    assert "another run" in segmented(*arguments, "--format", "npy")[2]
    assert segmented(*arguments, "--format", "npy", "--force")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["arrays"]
    array = np.load(tmp_path / "out/arrays/d.npy")
    assert array.dtype == np.dtype([("label", "u1"), ("confidence", "<f4")])
    assert json.loads((tmp_path / "out/summary.json").read_text())["format"] == "npy"
    assert "has no place for labels" in segmented(*arguments, "--format", "same", "--force")[2]
    only = (folder / "a.las", "-w", weights, "--device", "cpu", "--quiet", "-o", tmp_path / "las")
    assert segmented(*only, "--origin", "auto", "--format", "same", "--classification", "asprs")[0] == 0
    assert sorted(path.name for path in (tmp_path / "las").iterdir() if path.is_dir()) == ["scans"]


def test_what_cannot_be_asked_for_is_refused(tmp_path: Path) -> None:
    for arguments in (("pcd", ""), ("auto", "las")):
        with pytest.raises(UserError, match="must be"):
            LabelForm(*arguments)
    XYZI.tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match="there is no such file"):
        LabelForm("auto", "asprs").check([tmp_path / "a.bin"])
    with pytest.raises(UserError, match="--format label writes none"):
        LabelForm("label", "asprs").check([las_file(tmp_path / "a.las")])
