"""Blending: weights between a network and the result of its further training.

Fine-tuning forgets some of the knowledge that its data does not show. The weights on the straight line between start
and result keep most of both: WiSE-FT (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation
1).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from spvnas_ros.errors import UserError
from spvnas_ros.nets.spec import difference
from spvnas_ros.nets.unet import PointVoxelUNet
from spvnas_ros.zoo.checkpoint import Facts

_ALIKE = ("spec", "label_map", "classes", "voxel_size", "point_range", "intensity")


class BlendError(UserError):
    """The error for networks that cannot be blended. It names the difference between them."""


def blend(
    start: tuple[PointVoxelUNet, Facts], tuned: tuple[PointVoxelUNet, Facts], share: float = 0.5
) -> tuple[PointVoxelUNet, Facts]:
    """Returns a network whose weights are `(1 - share)` of the start's and `share` of the tuned one's, and its facts.

    The facts are the tuned network's, without scores and calibration, which the blend does not have. One network must
    be trained from the other, or both from a third. Between weights that were trained apart there is no useful network.

    Where only one has a box branch, or each another, the blend has none: a branch is of no use behind other features.

    Raises BlendError where the two differ in more than weights, and for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise BlendError(f"the share of the second network is {share}, expected 0 to 1")
    if start[1].spec.boxes != tuned[1].spec.boxes:
        start, tuned = _without_boxes(*start), _without_boxes(*tuned)
    (first, before), (second, after) = start, tuned
    for name in _ALIKE:
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            what = difference(before.spec, after.spec) if name == "spec" else f"{name}: {one} and {other}"
            raise BlendError(f"the networks differ in {what}; blend a network with its own start")
    net = PointVoxelUNet(after.spec).eval()
    weights = second.state_dict()
    net.load_state_dict({
        key: torch.lerp(value, weights[key], share) if value.is_floating_point() else weights[key]
        for key, value in first.state_dict().items()
    })  # fmt: skip
    parts = ", ".join(
        f"{part:.0%} of {facts.name} (weights sha256 {facts.weights_sha256}{origin})"
        for part, facts, origin in ((1 - share, before, _origin(before, after)), (share, after, _origin(after)))
    )
    training = replace(after.training, scores={}) if after.training else None
    facts = replace(
        after,
        name=f"{before.name}+{after.name}",
        trained=before.trained and after.trained,
        provenance=f"blended: {parts}",
        published_miou=None,
        source_sha256=None,
        weights_sha256=None,
        training=training,
        calibration=None,
    )
    return net, facts


def _origin(facts: Facts, descendant: Facts | None = None) -> str:
    """Returns where a network comes from, unless that of its descendant tells it."""
    if descendant and facts.weights_sha256 and facts.weights_sha256 in (descendant.provenance or ""):
        return ""
    return f"; {facts.provenance or 'of unknown origin'}"


def _without_boxes(net: PointVoxelUNet, facts: Facts) -> tuple[PointVoxelUNet, Facts]:
    """Returns the network that labels, without its box branch."""
    spec = replace(net.spec, boxes=None)
    plain = PointVoxelUNet(spec).eval()
    plain.load_state_dict({key: value for key, value in net.state_dict().items() if not key.startswith("boxes.")})
    return plain, replace(facts, spec=spec)
