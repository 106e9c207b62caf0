"""KITTI's evaluation of boxes, as a specification: README.md has the rules in words, `kitti_config` their numbers,
`curves` what comes out, `kitti_algorithm` how, on the loops of `matching`.

`spvnas evaluate --boxes` calls it.
"""

from __future__ import annotations

from spvnas_ros.offline.evaluation.kitti.curves import Curve, Figure, KittiFrame
from spvnas_ros.offline.evaluation.kitti.kitti_algorithm import evaluate_kitti
from spvnas_ros.offline.evaluation.kitti.kitti_config import OFFICIAL, ClassRule, Difficulty, KittiConfig

__all__ = ["OFFICIAL", "ClassRule", "Curve", "Difficulty", "Figure", "KittiConfig", "KittiFrame", "evaluate_kitti"]
