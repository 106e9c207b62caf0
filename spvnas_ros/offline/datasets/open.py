"""Opens a data set of any kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.labels import NUSCENES, SEMANTIC_KITTI, LabelMap
from spvnas_ros.offline.datasets.folder import open_folder
from spvnas_ros.offline.datasets.kitti import is_kitti, open_kitti
from spvnas_ros.offline.datasets.label_field import LabelField
from spvnas_ros.offline.datasets.nuscenes import open_nuscenes
from spvnas_ros.offline.datasets.scan import DatasetError, ScanDataset, find_label_map
from spvnas_ros.offline.datasets.semantic_kitti import Sequences, is_semantic_kitti, open_semantic_kitti
from spvnas_ros.recordings.containers.kind_of_file import is_recording_folder
from spvnas_ros.recordings.scans import SUFFIXES, ScanError
from spvnas_ros.recordings.scans.layouts import find_layout
from spvnas_ros.recordings.scans.layouts.nuscenes_tables import INTENSITY, is_nuscenes


def open_dataset(
    source: str | Path,
    *,
    label_map: LabelMap | str | None = None,
    sequences: Sequences = None,
    topic: str | None = None,
    field: LabelField | None = None,
    intensity: str | None = None,
    intensity_field: str | None = None,
    place: PlaceRule | None = None,
) -> ScanDataset:
    """Opens labelled scans: SemanticKITTI's layout, KITTI's, nuScenes', a folder of scans, or a bag. The kind is
    guessed from the files.

    label_map: `semantic-kitti`, `mit-han-lab`, `nuscenes`, or a map of your own; None for `nuscenes` where the scans
               are nuScenes', and `semantic-kitti` elsewhere
    sequences: of SemanticKITTI's layout: `train`, `val`, `test`, or numbers (`8`, `00,02,04-07`, a list); of nuScenes
               scenes, as `open_nuscenes` has them; None for all
    topic:     topic of the clouds, where a bag has several
    field:     field of a bag's clouds with the labels; None for `label`
    intensity: the scale of the sensor's intensity, a rule of `spvnas_ros.clouds.intensity.Intensity`; None for 0..1 in
               SemanticKITTI's and KITTI's layout, 0..255 in nuScenes', and `auto` elsewhere
    intensity_field: the field that holds it; None for a known name
    place:     where the sensor is; None for the origin of its clouds

    Raises DatasetError, which names the file, where `source` is none of these, where labels are missing, and where an
    argument belongs to another kind of data set.
    """
    path = Path(source)
    nuscenes = path.is_dir() and is_nuscenes(path)
    known = find_label_map(label_map or (NUSCENES if nuscenes else SEMANTIC_KITTI))
    if not path.exists():
        raise DatasetError(
            f"{path} does not exist; expected labelled scans: SemanticKITTI, KITTI, nuScenes, a folder, or a bag"
        )
    semantic, bag = path.is_dir() and not nuscenes and is_semantic_kitti(path), is_bag(path)
    if sequences is not None and not (semantic or nuscenes):
        raise DatasetError(
            f"{path} is not in SemanticKITTI's layout or nuScenes', so it has no sequences {sequences!r} to choose"
        )
    if not bag and (topic is not None or field is not None):
        raise DatasetError(f"{path} is no bag, so topic and label field of its clouds cannot be chosen")
    unit = semantic or (not bag and is_kitti(path))
    usual = INTENSITY if nuscenes else "unit" if unit else "auto"
    try:
        rule = Intensity(intensity or usual, intensity_field)
    except UserError as error:
        raise DatasetError(str(error)) from error
    sensor = Sensor(rule, place or PlaceRule())
    if nuscenes:
        return open_nuscenes(path, known, sensor, sequences)
    if semantic:
        return open_semantic_kitti(path, known, sensor, sequences)
    if bag:
        from spvnas_ros.offline.datasets.bag import open_bag  # rosbags takes a while to import

        return open_bag(path, known, sensor, topic, field)
    if is_kitti(path):
        return open_kitti(path, known, sensor)
    if path.is_file():
        raise DatasetError(f"{path} is a single scan, expected its folder, or that of its data set")
    _refuse_unlabelled(path)
    sensor.place = replace(sensor.place, by_itself=sensor.place.origin is None)
    return open_folder(path, known, sensor)


def is_bag(path: Path) -> bool:
    """Tells whether `open_dataset` takes a path for a bag. A bag is a file that is no scan, or a folder that holds a
    bag's files and is no other data set. Whether the bag can be read shows only when it is opened.
    """
    if path.is_file():
        return path.suffix.lower() not in SUFFIXES
    if not path.is_dir() or is_nuscenes(path) or is_semantic_kitti(path) or is_kitti(path):
        return False
    return is_recording_folder(path)


def _refuse_unlabelled(path: Path) -> None:
    """Raises DatasetError for a data set whose scans are known and have no labels of points."""
    try:
        layout = find_layout(path)
    except (ScanError, OSError) as error:
        raise DatasetError(str(error)) from error
    if layout:
        raise DatasetError(
            f"{path} is in the layout of {layout.name}, which has no labels of points; label it with `spvnas segment`"
        )
