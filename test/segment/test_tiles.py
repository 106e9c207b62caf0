"""Clouds that are cut into tiles get the labels that they get as a whole, in the form that came in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from encoded_scans import pcd_bytes, ply_bytes
from moved_clouds import real_files
from segment_results import document_in, files_in
from spvnas_cli import segmented
from spvnas_ros import Perception
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.nets.receptive import receptive_voxels
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.recordings.scans import open_source, read_record
from spvnas_ros.recordings.scans.read import points_announced, read_pieces
from spvnas_ros.segment import stored
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.run_options import SegmentOptions
from spvnas_ros.segment.tile_plan import plan_tiles
from spvnas_ros.segment.tile_rule import TileRule

UTM = np.array((512_000.25, 5_403_000.125, 260.5))
EDGE = 25.0
"""Metres: a street has some such tiles."""


@pytest.fixture(scope="module")
def network() -> Perception:
    return Perception.load("default", device="cpu")


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1000 points and blocks of 20 kB, so that a small file has many."""
    from spvnas_ros.recordings.scans import e57, kitti_bin, las, npy, read, records, tables
    from spvnas_ros.segment import labelled_points, labelled_tables

    for module, name in (
        *((module, "PIECE") for module in (records, kitti_bin, npy, read, tables)),
        *((module, "PART") for module in (stored, labelled_points, labelled_tables)),
        *((module, "_CHUNK") for module in (las, e57)),
    ):
        monkeypatch.setattr(module, name, 1000)
    monkeypatch.setattr(records, "_BLOCK", 20_000)


def street() -> np.ndarray:
    """A street, float32 `[N, 4]`, rounded to millimetres, as text and LAS keep it; a few points of it are none."""
    points = street_scan(3, 16, 720)[0].copy()
    points[:, :3] = np.round(points[:, :3].astype(np.float64), 3)
    points[:, 3] = np.round(points[:, 3] * 255) / 255
    return points


def as_las(path: Path, points: np.ndarray) -> None:
    import laspy

    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales, header.offsets = [0.001] * 3, np.floor(points[:, :3].min(axis=0))
    las = laspy.LasData(header)
    las.x, las.y, las.z = points[:, :3].astype(np.float64).T
    las.intensity = np.round(points[:, 3] * 65535).astype(np.uint16)
    las.write(path)


def as_e57(path: Path, points: np.ndarray) -> None:
    import pye57

    with pye57.E57(str(path), "w") as file:
        columns = {f"cartesian{axis}": points[:, row].astype(np.float64) for row, axis in enumerate("XYZ")}
        file.write_scan_raw(columns | {"intensity": points[:, 3].astype(np.float64)})


def fields(points: np.ndarray) -> np.ndarray:
    record = np.zeros(len(points), [(name, "<f4") for name in ("x", "y", "z", "intensity")])
    for column, name in enumerate(record.dtype.names):
        record[name] = points[:, column]
    return record


def frame(points: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(fields(points)).astype(np.float64).round(6)


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.bin": lambda path, points: points.tofile(path),
    "a.npy": lambda path, points: np.save(path, points),
    "a.las": as_las,
    "a.laz": as_las,
    "a.e57": as_e57,
    "binary.ply": lambda path, points: path.write_bytes(ply_bytes(fields(points), "binary_big_endian")),
    "text.ply": lambda path, points: path.write_bytes(ply_bytes(fields(points), "ascii")),
    "binary.pcd": lambda path, points: path.write_bytes(pcd_bytes(fields(points), "binary")),
    "text.pcd": lambda path, points: path.write_bytes(pcd_bytes(fields(points), "ascii")),
    "packed.pcd": lambda path, points: path.write_bytes(pcd_bytes(fields(points), "binary_compressed")),
    "a.csv": lambda path, points: frame(points).to_csv(path, index=False),
    "a.xyz": lambda path, points: np.savetxt(path, points, "%.6f"),
    "a.parquet": lambda path, points: frame(points).to_parquet(path, row_group_size=3000),
    "a.feather": lambda path, points: frame(points).to_feather(path, chunksize=3000),
}


def run(file: Path, weights: Path | str, out: Path, *arguments: object) -> str:
    status, _, error = segmented(file, "-w", weights, "-o", out, "--device", "cpu", *arguments)
    assert status == 0, error
    return error


def same_results(one: Path, other: Path, *, but: tuple[str, ...] = ("summary.json",)) -> None:
    """Checks that all files of two runs are the same, to the byte."""
    assert files_in(one) == files_in(other)
    for name in files_in(one):
        if name not in but:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.usefixtures("few_at_a_time")
def test_every_format_is_read_in_pieces_as_it_is_whole(tmp_path: Path, name: str) -> None:
    file, points = tmp_path / name, street()
    WRITERS[name](file, points)
    whole, pieces = read_record(file), list(read_pieces(file))
    assert len(pieces) > (0 if name == "packed.pcd" else 2)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    told = points_announced(file)
    assert told == len(whole) if name != "a.xyz" and name != "a.csv" else abs(told / len(whole) - 1) < 0.3


@pytest.mark.parametrize("name", ["a.laz", "a.csv", "binary.ply", "text.pcd", "a.parquet", "a.feather", "a.e57"])
@pytest.mark.usefixtures("few_at_a_time")
def test_tiles_get_the_labels_of_the_whole_in_the_form_that_came_in(weights: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    WRITERS[name](file, street())
    run(file, weights, tmp_path / "whole", "--tile", "off", "--scores")
    run(file, weights, tmp_path / "tiles", "--tile", EDGE, "--scores")
    same_results(tmp_path / "whole", tmp_path / "tiles")
    tiled = document_in(tmp_path / "tiles", "summary.json")
    assert tiled["tiled"]["a scan with one origin"] > 4
    assert tiled["classes"] == document_in(tmp_path / "whole", "summary.json")["classes"]


def test_tiles_of_real_scans_get_the_labels_of_the_whole(network: Perception, shared: Path, tmp_path: Path) -> None:
    """And the confidences, to the last bit."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, file in enumerate(real_files(shared)[:1]):
        (scans / f"{number}.bin").write_bytes(file.read_bytes())
    for rule in ("off", "40"):
        with open_source(scans) as source:
            options = SegmentOptions(scores=True, tiles=TileRule.parse(rule))
            assert segment(source, network, tmp_path / rule, options).complete
    shutil.rmtree(tmp_path / "off" / "boxes")  # a network's boxes are of whole scans alone
    same_results(tmp_path / "off", tmp_path / "40", but=("summary.json", "picture.png"))


def test_what_lies_beyond_the_receptive_field_changes_nothing(network: Perception) -> None:
    """And within half of it something does."""
    points = street()
    far = receptive_voxels(network.facts.spec) * network.facts.voxel_size
    core = (np.abs(points[:, :2]) < 6).all(axis=1)
    whole = network(points, scores=True)
    assert whole.scores is not None
    low = np.rint(points[:, :3] / np.float32(network.facts.voxel_size)).min(axis=0)

    def cut(distance: float) -> float:
        kept = (np.abs(points[:, :2]) < 6 + distance).all(axis=1)
        corner = np.array([[*(low * network.facts.voxel_size), 0]], np.float32)
        part = network(np.concatenate([points[kept], corner]), scores=True)
        assert part.scores is not None
        return float(np.abs(part.scores[:-1][core[kept]] - whole.scores[core]).max())

    assert cut(far) == 0
    assert cut(far / 8) > 0


@pytest.mark.parametrize(
    ("spec", "voxels"), [(NetSpec.spvcnn(16), 2 + 60 + 120 + 21 + 15), (NetSpec.minkunet(16), 2 + 60 + 120 + 15)]
)
def test_the_receptive_field_follows_from_the_network(spec: NetSpec, voxels: int) -> None:
    assert receptive_voxels(spec) == voxels


def test_every_column_is_in_one_tile_and_a_tile_has_no_more_voxels_than_it_may() -> None:
    rng = np.random.default_rng(3)
    for edge in (None, 1, 3.4, 100):
        columns = np.unique(rng.integers(-20, 20, (300, 2)), axis=0)
        voxels = rng.integers(1, 500, len(columns))
        tiles = plan_tiles(columns, voxels, 100, edge, most=4000)
        assert (np.sum([tile.holds(columns) for tile in tiles], axis=0) == 1).all()
        for tile in tiles:
            width = np.subtract(tile.high, tile.low)
            assert edge is None or width.max() <= max(1, round(edge))
            assert width.max() == 1 or voxels[tile.holds(columns, 1)].sum() <= 4000
    assert plan_tiles(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), 100, None) == []
    assert len(plan_tiles(columns, voxels, 0, None, 10**9)) == 1


def test_an_interrupted_run_goes_on_at_the_next_tile(weights: Path, tmp_path: Path) -> None:
    street().tofile(tmp_path / "a.bin")
    network = Perception.load(weights, device="cpu")
    options, asked, steps = SegmentOptions(tiles=TileRule(EDGE, all=True)), [], []

    def stopped() -> bool:
        asked.append(None)
        return len(asked) > 4

    with open_source(tmp_path / "a.bin") as source:
        assert segment(source, network, tmp_path / "once", options).complete
        with pytest.raises(Interrupted, match=r"^0 of 1 frames are labelled, and 2 of \d+ tiles of a$"):
            segment(source, network, tmp_path / "twice", options, stopped=stopped)
        assert files_in(tmp_path / "twice/unfinished")
        segment(
            source, network, tmp_path / "twice", options, on_step=lambda *step: steps.append(step)
        )  # fmt: skip
    assert steps[0][:2] == ("labelling tiles", 2)
    assert steps[-1][1] == steps[-1][2] == steps[0][2]
    same_results(tmp_path / "once", tmp_path / "twice")
    assert not (tmp_path / "twice/unfinished").exists()


def test_a_truth_scores_tiles_as_the_whole(weights: Path, tmp_path: Path) -> None:
    import laspy

    points, labels = street_scan(3, 16, 720)
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.scales, header.offsets = [0.001] * 3, [0, 0, 0]
    las = laspy.LasData(header)
    las.x, las.y, las.z = points[:, :3].astype(np.float64).T
    las.classification = SEMANTIC_KITTI.decode(labels).astype(np.uint8)
    las.write(tmp_path / "a.las")
    truth = ("--truth", "classification", "--label-ids", "raw", "--intensity", "none")
    run(tmp_path / "a.las", weights, tmp_path / "whole", "--tile", "off", *truth)
    run(tmp_path / "a.las", weights, tmp_path / "tiles", "--tile", EDGE, *truth)
    one, other = (document_in(tmp_path / name, "report.json") for name in ("whole", "tiles"))
    changes = ("ms_p50", "ms_p95", "source")
    assert {**one, **dict.fromkeys(changes)} == {**other, **dict.fromkeys(changes)}
    assert one["miou"] is not None


def test_a_map_of_many_scans_is_labelled_tile_by_tile(tmp_path: Path) -> None:
    """Without an option, and with one line that says so; the file comes back with two fields more."""
    scans = [street_scan(number, 32, 360)[0] for number in range(4)]
    points = np.concatenate([scan + np.array((45.0 * number, 0, 0, 0)) for number, scan in enumerate(scans)])
    points[:, :3] += UTM
    las = tmp_path / "map.laz"
    as_las(las, points)
    error = run(las, "default", tmp_path / "out")
    assert re.fullmatch(
        r"warning: map: the points are spread as those of many scans; they are labelled tile .*\n", error
    )
    found = read_record(tmp_path / "out/scans/map.laz")
    np.testing.assert_array_equal(found["x"], read_record(las)["x"])
    assert (found["label"] != 255).all()
    summary = document_in(tmp_path / "out", "summary.json")
    assert list(summary["tiled"]) == ["a map of many scans, each tile with an origin in its middle"]
    # Streets are streets, wherever the origin of a tile is.
    assert {"road", "building"} <= set(list(summary["classes"])[:4])


def test_one_scan_in_utm_coordinates_needs_no_option(tmp_path: Path) -> None:
    points = street().astype(np.float64)
    as_las(tmp_path / "a.las", points)
    points[:, :3] += UTM
    as_las(tmp_path / "b.las", points)
    assert run(tmp_path / "a.las", "default", tmp_path / "a") == ""
    error = run(tmp_path / "b.las", "default", tmp_path / "b")
    assert re.fullmatch(
        r"warning: place: no point lies within 100 m of the origin, so .*--origin x,y,z sets it.*\n", error
    )
    one, other = (read_record(tmp_path / f"{name}/scans/{name}.las")["label"] for name in "ab")
    assert (one == other).mean() > 0.9
    assert "place: the sensor" in run(tmp_path / "b.las", "default", tmp_path / "c", "--origin", "512020,5403000,260")


def test_points_that_are_none_stay_without_a_label(weights: Path, tmp_path: Path) -> None:
    points = street()
    points[::50] = np.nan
    points[1::50] = 0
    points[2::50, 0] = 1e6
    np.save(tmp_path / "a.npy", points)
    run(tmp_path / "a.npy", weights, tmp_path / "whole", "--tile", "off", "--quiet", "--format", "npy")
    run(tmp_path / "a.npy", weights, tmp_path / "tiles", "--tile", EDGE, "--quiet", "--format", "npy")
    same_results(tmp_path / "whole", tmp_path / "tiles")
    one, other = (document_in(tmp_path / name, "summary.json")["unusable"] for name in ("whole", "tiles"))
    assert one == other
    assert one["at_origin"] > 10


def test_another_rule_for_tiles_is_refused() -> None:
    for text in ("wide", "0", "-3", "nan"):
        with pytest.raises(UserError, match="--tile is auto, off or the edge"):
            TileRule.parse(text)
    assert [str(TileRule.parse(text)) for text in ("auto", "off", "12.5")] == ["auto", "off", "12.5"]
