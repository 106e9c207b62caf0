"""Meaning for LiDAR: sparse point-voxel networks as a library, a command line and a ROS 2 node.

>>> from spvnas_ros import Perception
>>> perception = Perception.load("spvcnn_w16.safetensors")
>>> perception(points).labels
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Idle OpenMP threads that spin steal the cores from the engine's own threads (a frame takes 2 to 4
# times as long on a busy machine). libgomp reads this once, when torch loads it: set it before that.
# Whoever sets the variable himself keeps his setting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from spvnas_ros.frame import Boxes, Segmentation
    from spvnas_ros.perception import Detector, Perception

__version__ = "0.1.0"
__all__ = ["Boxes", "Detector", "Perception", "Segmentation", "__version__"]


def __getattr__(name: str) -> object:
    """Load the public classes when they are first asked for, so that `spvnas --help` stays quick."""
    if name in ("Perception", "Detector"):
        from spvnas_ros import perception

        return getattr(perception, name)
    if name in ("Boxes", "Segmentation"):
        from spvnas_ros import frame

        return getattr(frame, name)
    raise AttributeError(f"module 'spvnas_ros' has no attribute {name!r}")
