"""nuScenes-lidarseg: scans turned, 16 classes, splits by scenes; what is broken is named. The devkit's own metric code
gives the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spvnas_ros
from nuscenes_set import KEYFRAMES, SCENES, changed, raw_scan, write_nuscenes
from spvnas_cli import spvnas
from spvnas_ros.labels import NUSCENES, NUSCENES_CATEGORIES, SEMANTIC_KITTI
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.evaluation.metrics import confusion_matrix, score
from spvnas_ros.offline.evaluation.report import Report, describe
from spvnas_ros.offline.training.config import DataConfig
from spvnas_ros.offline.training.data import open_training, open_validation
from spvnas_ros.zoo.checkpoint import Facts, save_checkpoint

DEVKIT_MIOU = 0.48028283082541423
"""`ConfusionMatrix.get_mean_iou` of nuscenes-devkit 1.2.0 (eval/lidarseg/utils.py) over the frames of `devkit_frames`,
after its `LidarsegClassMapper.convert_label`.
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nuscenes(tmp_path_factory.mktemp("sets") / "nuscenes")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """One that a test may break."""
    return write_nuscenes(tmp_path / "nuscenes")


@pytest.fixture(scope="module")
def weights16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of nuScenes' classes that nobody trained."""
    torch.manual_seed(1)
    spec = NetSpec.spvcnn(4, num_classes=len(NUSCENES.classes))
    path = tmp_path_factory.mktemp("weights") / "sixteen.safetensors"
    facts = Facts(
        spec=spec,
        name="sixteen",
        trained=False,
        label_map="nuscenes",
        classes=NUSCENES.classes,
        palette=NUSCENES.palette,
    )
    save_checkpoint(path, PointVoxelUNet(spec).eval(), facts)
    return path


def names(dataset: Any) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def test_keyframes_come_turned_and_scaled_with_the_16_classes(root: Path) -> None:
    dataset = open_dataset(root)
    assert (len(dataset), dataset.label_map) == (KEYFRAMES * len(SCENES), NUSCENES)
    assert names(dataset)[0] == "scene-0061/n015-2018-07-24-11-22-45+0800__LIDAR_TOP__1532402927000000"
    for number in range(len(dataset)):
        scan, (raw, categories) = dataset[number], raw_scan(number)
        np.testing.assert_array_equal(scan.points[:, 0], raw[:, 1])  # forward
        np.testing.assert_array_equal(scan.points[:, 1], -raw[:, 0])  # left
        np.testing.assert_array_equal(scan.points[:, 2], raw[:, 2])
        np.testing.assert_allclose(scan.points[:, 3], raw[:, 3] / 255, rtol=1e-6)
        np.testing.assert_array_equal(scan.labels, NUSCENES.encode(categories))
    assert len(dataset.inventory()) == 2 * len(dataset)


def test_the_classes_are_those_of_the_challenge() -> None:
    words = {"human.pedestrian.child": "pedestrian", "vehicle.bus.bendy": "bus", "static.manmade": "manmade"}
    for category, name in words.items():
        index = NUSCENES.encode(np.array([NUSCENES_CATEGORIES.index(category)], np.uint8))[0]
        assert NUSCENES.classes[index] == name
    ignored = (
        "noise",
        "animal",
        "human.pedestrian.stroller",
        "vehicle.emergency.police",
        "static.other",
        "vehicle.ego",
    )
    indices = np.array([NUSCENES_CATEGORIES.index(name) for name in ignored], np.uint8)
    assert set(NUSCENES.encode(indices)) == {255}
    assert (NUSCENES.encode(np.arange(32)) == 255).sum() == 12


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("train", SCENES[:1]),
        ("mini_val", SCENES[1:]),
        ("103", SCENES[1:]),
        ("scene-0061", SCENES[:1]),
        (["1-200"], SCENES),
        (None, SCENES),
        ("far", SCENES[1:]),
    ],
)
def test_splits_and_scenes_are_chosen(own: Path, wanted: Any, expected: tuple[str, ...]) -> None:
    (own / "v1.0-mini" / "splits.json").write_text(json.dumps({"far": ["scene-0103", "scene-0999"]}))
    for path in (own, own / "v1.0-mini"):
        assert sorted({name.split("/")[0] for name in names(open_dataset(path, sequences=wanted))}) == list(expected)


def test_the_whole_sets_validation_scenes_are_the_official_ones(tmp_path: Path) -> None:
    root = write_nuscenes(tmp_path / "nuscenes", "v1.0-trainval", ("scene-0001", "scene-0003", "scene-0553"))
    assert {name[:10] for name in names(open_dataset(root, sequences="val"))} == {"scene-0003", "scene-0553"}
    assert {name[:10] for name in names(open_dataset(root, sequences="train"))} == {"scene-0001"}
    with pytest.raises(DatasetError, match="no scene of test"):
        open_dataset(root, sequences="test")
    write_nuscenes(root, "v1.0-mini")
    with pytest.raises(DatasetError, match=r"holds v1\.0-mini and v1\.0-trainval; name the tables of one"):
        open_dataset(root)


def drop_field(table: str, field: str) -> Callable[[Path], None]:
    return lambda root: changed(root, table, lambda rows: [row.pop(field) for row in rows])


def cut(file: str, size: int) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        path = next(root.glob(file))
        path.write_bytes(path.read_bytes()[:size])

    return break_it


def write(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("v1.0-mini/sample_data.json", 700), r"sample_data\.json is cut short or damaged"),
        (cut("v1.0-mini/scene.json", 0), r"scene\.json is no table"),
        (write("v1.0-mini/sample.json", "{}"), r"sample\.json is no table.*found '\{\}'"),
        (write("v1.0-mini/sample.json", "[1, 2]"), r"sample\.json is no table.*found 1"),
        (write("v1.0-mini/sample.json", "[" * 100_000), r"sample\.json"),
        (lambda root: (root / "v1.0-mini/scene.json").unlink(), r"scene\.json: cannot be read: No such file"),
        (lambda root: (root / "v1.0-mini/scene.json").write_bytes(b"[\xff\xfe"), r"scene\.json: cannot be read"),
        (drop_field("scene", "name"), r"scene\.json: a row has no name"),
        (lambda root: changed(root, "scene", lambda rows: rows[0].update(name="../x")), r"calls a scene '\.\./x'"),
        (lambda root: changed(root, "sample_data", lambda rows: rows.append(rows[1])), r"lists a scan twice"),
        (write("v1.0-mini/scene.json", "[" + "9" * 5000), r"scene\.json is cut short or damaged \(Exceeds"),
        (drop_field("sample_data", "is_key_frame"), r"sample_data\.json: a row has no is_key_frame"),
        (drop_field("lidarseg", "filename"), r"lidarseg\.json: a row has no filename"),
        (drop_field("category", "index"), r"category\.json calls category 0 None, expected 'noise'"),
        (lambda root: changed(root, "sample", lambda rows: rows.clear()), r"sample_data\.json names the sample"),
        (lambda root: changed(root, "sample_data", lambda rows: rows.clear()), r"lists no scans of LIDAR_TOP"),
        (
            lambda root: changed(root, "sample_data", lambda rows: rows[1].update(filename="../LIDAR_TOP/x.pcd.bin")),
            r"names the file '\.\./LIDAR_TOP/x\.pcd\.bin', expected one below",
        ),
        (lambda root: (root / "v1.0-mini/lidarseg.json").unlink(), r"lidarseg\.json is missing.*spvnas segment"),
        (lambda root: next(root.glob("samples/LIDAR_TOP/*")).unlink(), r"samples/LIDAR_TOP/.*is missing.*0 more"),
        (lambda root: next(root.glob("lidarseg/*/*")).unlink(), r"_lidarseg\.bin lacks the labels of samples"),
        (lambda root: changed(root, "lidarseg", lambda rows: rows.pop()), r"lidarseg\.json lacks the labels"),
        (write("v1.0-mini/splits.json", "[]"), r"splits\.json is no table of splits"),
    ],
)
def test_what_is_broken_is_one_sentence_that_names_the_file(
    own: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(own)
    with pytest.raises(DatasetError, match=message):
        open_dataset(own, sequences="1-200")


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.sampled_from(["scene", "sample", "sample_data", "category", "lidarseg"]),
    place=st.floats(0, 1),
    put=st.binary(max_size=3) | st.sampled_from([b"}", b'"', b"]", b"[", b"NaN", b"-1", b"null", b"\\u0000"]),
    taken=st.integers(0, 40),
)
def test_a_table_with_any_damage_is_read_or_refused(
    own: Path, table: str, place: float, put: bytes, taken: int
) -> None:
    path = own / "v1.0-mini" / f"{table}.json"
    whole = path.read_bytes()
    at = int(place * len(whole))
    path.write_bytes(whole[:at] + put + whole[at + taken :])
    try:
        dataset = open_dataset(own)
        assert all(len(dataset[index]) for index in range(len(dataset)))
    except DatasetError as error:
        assert str(own) in str(error)  # noqa: PT017
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("part", "message"),
    [("samples", r"pcd\.bin: \d+ bytes are no multiple of 20"), ("lidarseg", "expected 1 byte a point")],
)
def test_files_of_a_wrong_size_are_named_when_they_are_read(own: Path, part: str, message: str) -> None:
    for path in own.glob(f"{part}/*/*.bin"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=message):
        open_dataset(own)[0]


def test_labels_of_no_category_are_named(own: Path) -> None:
    for file in own.glob("lidarseg/*/*.bin"):
        file.write_bytes(b"\x20" * file.stat().st_size)
    with pytest.raises(
        DatasetError, match=r"_lidarseg\.bin: label map 'nuscenes' does not list raw label id\(s\) \[32\]"
    ):
        open_dataset(own)[0]


def test_a_scene_that_was_not_downloaded_is_passed_over(own: Path) -> None:
    for number in range(KEYFRAMES):
        next(own.glob(f"samples/LIDAR_TOP/*{1532402927000000 + 10**8 + number * 500_000}.pcd.bin")).unlink()
    assert {name.split("/")[0] for name in names(open_dataset(own))} == {SCENES[0]}


def test_segment_labels_keyframes_and_with_sweeps_all_scans(root: Path, weights16: Path, tmp_path: Path) -> None:
    for arguments, scans in (((), KEYFRAMES), (("--sweeps",), 2 * KEYFRAMES)):
        out = tmp_path / f"out{scans}"
        done = spvnas("segment", root, "-w", weights16, "-o", out, "--device", "cpu", "--quiet", *arguments)
        assert done.exit_code == 0, done.output
        for scene in SCENES:
            files = sorted((out / "sequences" / scene / "predictions").glob("*.label"))
            assert len(files) == scans
            assert set(np.fromfile(files[0], np.uint32)) <= {0, *NUSCENES.to_raw}
    assert "divided by 255 (u8)" in json.loads((tmp_path / "out2" / "summary.json").read_text())["sensor_words"]
    (tmp_path / "plain").mkdir()
    raw_scan(0)[0][:, :4].tofile(tmp_path / "plain" / "a.bin")
    refused = spvnas("segment", tmp_path / "plain", "-o", tmp_path / "no", "--sweeps")
    assert (refused.exit_code, "plain is not nuScenes, so it has no sweeps" in refused.output) == (1, True)


def test_evaluate_scores_by_the_challenges_rule(root: Path, weights16: Path, tmp_path: Path) -> None:
    done = spvnas(
        "evaluate", root, "-w", weights16, "--split", "val", "-o", tmp_path, "--json", "--device", "cpu", "--quiet"
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    network, dataset = spvnas_ros.Perception.load(weights16, device="cpu"), open_dataset(root, sequences="val")
    confusion = sum(confusion_matrix(scan.labels, network(scan.points).labels, 16) for scan in (dataset[0], dataset[1]))
    expected = score(confusion, NUSCENES.classes)
    assert report["label_map"] == "nuscenes"
    assert report["miou_official"] == pytest.approx(expected.miou_official)
    assert report["miou_official"] < report["miou"] or 0 in expected.truth_points.values()
    lines = map(str, describe(Report.load(tmp_path)))
    assert f"(by nuScenes' rule: {expected.miou_official:.1%})" in "\n".join(lines)


def devkit_frames() -> list[tuple[np.ndarray, np.ndarray]]:
    """Categories, without construction vehicles and trailers, and classes 1 to 16 without trailers."""
    n, frames = np.arange(4000), []
    for frame in range(2):
        categories = (n * 7 + frame * 3 + n // 90) % 32
        categories = np.where(np.isin(categories, (18, 22)), 0, categories).astype(np.uint8)
        right = np.where(NUSCENES.encode(categories) == 255, 1, NUSCENES.encode(categories).astype(int) + 1)
        classes = np.where((n + frame) % 3 == 0, (n // 11 + frame) % 16 + 1, right)
        frames.append((categories, np.where(classes == NUSCENES.classes.index("trailer") + 1, 1, classes)))
    return frames


def test_the_devkit_has_the_same_mean() -> None:
    confusion = sum(
        confusion_matrix(NUSCENES.encode(categories), (classes - 1).astype(np.uint8), 16)
        for categories, classes in devkit_frames()
    )
    found = score(confusion, NUSCENES.classes)
    assert found.miou_official == pytest.approx(DEVKIT_MIOU, abs=1e-7)  # it divides in single precision
    assert found.iou["trailer"] is found.iou["construction_vehicle"] is None
    assert found.miou == pytest.approx(DEVKIT_MIOU * 15 / 14, abs=1e-7)  # without the one that was only given wrongly


def test_a_network_of_other_classes_is_refused_with_what_to_do(root: Path, weights: Path) -> None:
    for arguments, message in (
        ((), "labelled with nuScenes' categories, which label map 'semantic-kitti' knows nothing of; name weights"),
        (("--label-map", "nuscenes"), "label map 'nuscenes' has the classes barrier, bicycle"),
    ):
        done = spvnas("evaluate", root, "-w", weights, "--device", "cpu", *arguments)
        assert (done.exit_code, message in done.output) == (1, True), done.output
    done = spvnas("segment", root, "-w", weights, "--truth", root, "-o", root.parent / "no", "--device", "cpu")
    assert (done.exit_code, "score weights against them with `spvnas evaluate`" in done.output) == (1, True)
    with pytest.raises(DatasetError, match="knows nothing of"):
        open_dataset(root, label_map=SEMANTIC_KITTI)


def test_a_training_takes_its_scenes(root: Path) -> None:
    config = DataConfig(
        train=(str(root),),
        sequences=("train",),
        validation=(str(root),),
        validation_sequences=("val",),
        label_map="nuscenes",
    )
    training, validation = open_training(config), open_validation(config)
    assert validation is not None
    assert [names(each)[0][:10] for each in (training, validation)] == list(SCENES)
    assert (len(training), training.label_map) == (KEYFRAMES, NUSCENES)
