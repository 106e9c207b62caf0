"""Runs all checks in order. The checks only use what was observed before; they read no files and no topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spvnas_ros.doctor import scene_checks, stream_checks
from spvnas_ros.doctor.box_checks import BoxKnowledge, check_boxes
from spvnas_ros.doctor.finding import OK, WARN, Finding, Findings
from spvnas_ros.doctor.observe import Clouds
from spvnas_ros.doctor.stream_checks import Timing
from spvnas_ros.doctor.timing import rate_of

if TYPE_CHECKING:
    from spvnas_ros.zoo.checkpoint import Facts
    from spvnas_ros.zoo.detector_checkpoint import DetectorFacts


def examine(clouds: Clouds, facts: Facts | DetectorFacts | None = None, timing: Timing | None = None) -> list[Finding]:
    """Returns all findings about the clouds.

    facts:  facts of the weights, of a network that labels or of a detector; None compares the clouds with the training
            data of all public weights
    timing: times of the network on these clouds
    """
    boxes = box_knowledge(facts)
    findings = list(_weights(facts)) if facts else []
    findings += stream_checks.check_clouds(clouds)
    rate = rate_of([header.stamp for header in clouds.headers])
    if clouds.headers:
        for about_stream in (stream_checks.check_fields, stream_checks.check_frame_id, stream_checks.check_stamps):
            findings += about_stream(clouds)
        findings += stream_checks.check_rate(rate)
    if clouds.samples:
        scene: list[Finding] = []
        for about_scene in (
            scene_checks.check_points,
            scene_checks.check_beams,
            scene_checks.check_view,
            scene_checks.check_ground,
        ):
            scene += about_scene(clouds)
        scene += scene_checks.check_intensity(clouds, facts)
        scene += scene_checks.check_fit(clouds, facts)
        scene += scene_checks.check_reach(clouds, facts)
        if boxes:
            scene += check_boxes(clouds, boxes)
        # What fits is not worth a line where something else about it does not.
        worrying = {finding.about for finding in scene if finding.level != OK}
        findings += [each for each in scene if each.level != OK or each.about not in worrying]
    if timing:
        findings += stream_checks.check_speed(timing, rate)
    return findings


def box_knowledge(facts: Facts | DetectorFacts | None) -> BoxKnowledge | None:
    """Returns what the weights know of boxes; None where they find none."""
    if facts is None:
        return None
    from spvnas_ros.nets.spec import NetSpec

    if isinstance(facts.spec, NetSpec):
        branch = facts.spec.boxes
        return BoxKnowledge(branch.head, branch.point_range) if branch else None
    return BoxKnowledge(facts.spec.head, facts.spec.point_range)


def _weights(facts: Facts | DetectorFacts) -> Findings:
    from spvnas_ros.zoo.checkpoint import Facts

    boxes = box_knowledge(facts)
    found = f"{facts.name or 'unnamed'}: "
    if isinstance(facts, Facts):
        found += f"{facts.num_classes} classes, {facts.voxel_size * 100:g} cm voxels, label map {facts.label_map}, "
    found += f"boxes of {', '.join(boxes.head.names)}, " if boxes else ""
    found += f"trained on intensity {facts.intensity!r}"
    if facts.trained:
        yield Finding(OK, "weights", found)
    else:
        nothing = "labels" if isinstance(facts, Facts) else "boxes"
        yield Finding(WARN, "weights", found, f"these weights are untrained: the {nothing} will mean nothing")
