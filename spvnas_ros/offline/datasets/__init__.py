"""Holds the readers of labelled scans: SemanticKITTI's layout (simulated drives too), KITTI, nuScenes, plain
folders and bags. Training, evaluation, augmentation, the simulator's comparison, the commands and the demo call it.
"""

from __future__ import annotations

from spvnas_ros.offline.datasets.label_field import LabelField
from spvnas_ros.offline.datasets.open import is_bag, open_dataset
from spvnas_ros.offline.datasets.scan import DatasetError, LabelledScan, ScanDataset

__all__ = ["DatasetError", "LabelField", "LabelledScan", "ScanDataset", "is_bag", "open_dataset"]
