"""Opens a data set of any kind."""

from __future__ import annotations

from pathlib import Path

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.labels import LabelMap
from spvnas_ros.offline.datasets.folder import open_folder
from spvnas_ros.offline.datasets.kitti import is_kitti, open_kitti
from spvnas_ros.offline.datasets.label_field import LabelField
from spvnas_ros.offline.datasets.scan import DatasetError, ScanDataset, find_label_map
from spvnas_ros.offline.datasets.semantic_kitti import Sequences, is_semantic_kitti, open_semantic_kitti
from spvnas_ros.recordings.containers.kind_of_file import is_recording_folder
from spvnas_ros.recordings.scans import SUFFIXES


def open_dataset(
    source: str | Path,
    *,
    label_map: LabelMap | str = "semantic-kitti",
    sequences: Sequences = None,
    topic: str | None = None,
    field: LabelField | None = None,
    intensity: str | None = None,
    intensity_field: str | None = None,
    place: PlaceRule | None = None,
) -> ScanDataset:
    """Opens labelled scans: SemanticKITTI's layout, KITTI's layout, a folder of scans, or a bag. The kind is guessed
    from the files.

    label_map: `semantic-kitti`, `mit-han-lab`, or a map of your own
    sequences: of SemanticKITTI's layout: `train`, `val`, `test`, or numbers (`8`, `00,02,04-07`, a list); None for all
    topic:     topic of the clouds, where a bag has several
    field:     field of a bag's clouds with the labels; None for `label`
    intensity: the scale of the sensor's intensity, a rule of `spvnas_ros.clouds.intensity.Intensity`; None for 0..1 in
               SemanticKITTI's and KITTI's layout and `auto` elsewhere
    intensity_field: the field that holds it; None for a known name
    place:     where the sensor is; None for the origin of its clouds

    Raises DatasetError, which names the file, where `source` is none of these, where labels are missing, and where an
    argument belongs to another kind of data set.
    """
    path, known = Path(source), find_label_map(label_map)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; expected labelled scans: SemanticKITTI, KITTI, a folder, or a bag")
    semantic, bag = path.is_dir() and is_semantic_kitti(path), is_bag(path)
    if sequences is not None and not semantic:
        raise DatasetError(f"{path} is not in SemanticKITTI's layout, so it has no sequences {sequences!r} to choose")
    if not bag and (topic is not None or field is not None):
        raise DatasetError(f"{path} is no bag, so topic and label field of its clouds cannot be chosen")
    unit = semantic or (not bag and is_kitti(path))
    try:
        rule = Intensity(intensity or ("unit" if unit else "auto"), intensity_field)
    except UserError as error:
        raise DatasetError(str(error)) from error
    sensor = Sensor(rule, place or PlaceRule())
    if semantic:
        return open_semantic_kitti(path, known, sensor, sequences)
    if bag:
        from spvnas_ros.offline.datasets.bag import open_bag  # rosbags takes a while to import

        return open_bag(path, known, sensor, topic, field)
    if is_kitti(path):
        return open_kitti(path, known, sensor)
    return open_folder(path, known, sensor)


def is_bag(path: Path) -> bool:
    """Tells whether `open_dataset` takes a path for a bag. A bag is a file that is no scan, or a folder that holds a
    bag's files and is no other data set. Whether the bag can be read shows only when it is opened.
    """
    if path.is_file():
        return path.suffix.lower() not in SUFFIXES
    if not path.is_dir() or is_semantic_kitti(path) or is_kitti(path):
        return False
    return is_recording_folder(path)
