"""How far a network sees: which voxels can change the answer for one."""

from __future__ import annotations

from spvnas_ros.nets.spec import NUM_STAGES, POINT_LEVELS, NetSpec


def receptive_voxels(spec: NetSpec) -> int:
    """Returns how many voxels, along an axis, what changes a voxel's label can be away from it, at most.

    A 3x3x3 convolution at stride s sees s voxels farther. An interpolation from the corners of a cell sees one cell
    farther (`sparse.ops.exchange`). Coarse voxels stand at multiples of their stride, so that the cells around a voxel
    reach up to the largest stride less one beyond it. What lies farther away changes nothing, to the last bit, as long
    as the coarse voxels stay where they are.
    """
    convolutions = len(spec.stem)
    for stage in range(NUM_STAGES):
        convolutions += 2 * len(spec.encoder[stage].blocks) << stage + 1
        convolutions += 2 * len(spec.decoder[stage].blocks) << NUM_STAGES - 1 - stage
    corners = sum(1 << level for level, there in zip(POINT_LEVELS, spec.point_levels, strict=True) if there)
    return convolutions + corners + (1 << NUM_STAGES) - 1
