"""Holds the augmentations of labelled scans (move, thin out, dim, mix) and the views of test-time augmentation.
Training calls `Augmentation`, and the evaluation of data sets calls `tta_views`.

An augmentation is a pure function. It takes a `LabelledScan` or a `BoxedScan` (mixing takes two), a
`numpy.random.Generator` and its options by name, and returns a new scan of that kind. The same generator state gives
the same scan. `Augmentation` and `BoxedAugmentation` apply several of them, in the order of a config; `registry` says
what each does to boxes.
"""

from __future__ import annotations

from spvnas_ros.offline.augment.compose import BOXED_STEPS, STEPS, Augmentation, BoxedAugmentation
from spvnas_ros.offline.augment.geometric import flip, jitter, rotate, scale, shift
from spvnas_ros.offline.augment.mixing import lasermix, polarmix
from spvnas_ros.offline.augment.option_checks import AugmentationError
from spvnas_ros.offline.augment.sensor import (
    beam_drop,
    intensity_drop,
    intensity_gamma,
    intensity_noise,
    intensity_scale,
    point_drop,
    range_crop,
)
from spvnas_ros.offline.augment.tta import View, tta_views

__all__ = [
    "BOXED_STEPS",
    "STEPS",
    "Augmentation",
    "AugmentationError",
    "BoxedAugmentation",
    "View",
    "beam_drop",
    "flip",
    "intensity_drop",
    "intensity_gamma",
    "intensity_noise",
    "intensity_scale",
    "jitter",
    "lasermix",
    "point_drop",
    "polarmix",
    "range_crop",
    "rotate",
    "scale",
    "shift",
    "tta_views",
]
