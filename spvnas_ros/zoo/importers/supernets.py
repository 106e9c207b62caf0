"""The import of supernets of mit-han-lab/spvnas, as a whole or one subnet of it. Every tensor is accounted for."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from spvnas_ros.nets.space import PAPER_HIGHEST, PAPER_LOWEST, Space
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.zoo.checkpoint import CheckpointError, without_memory
from spvnas_ros.zoo.importers.layouts import SUPERNET, MissingLayer, spec_of
from spvnas_ros.zoo.importers.wrappers import fill_exactly

STATISTICS = (
    "BatchNorm statistics are those of the supernet, not of this subnet: its labels are poor until they are estimated "
    "anew or it is trained further"
)


def is_supernet(state: Mapping[str, torch.Tensor]) -> bool:
    """Tells whether a file's tensors are those of a supernet."""
    return SUPERNET.marker in state


def supernet_of(state: Mapping[str, torch.Tensor], notes: list[str]) -> Supernet:
    """Returns the supernet in a file, in evaluation mode; `notes` gets what was added for it.

    The file does not hold the bounds of its space: they are in the proportion of the published ones. Raises
    CheckpointError for tensors that are not those of a supernet, and SpecError for widths that no space has.
    """
    names = SUPERNET.names()
    shapes = {names[key]: tuple(value.shape) for key, value in state.items() if key in names}
    try:
        spec = spec_of(shapes, "spvnas", SUPERNET)
    except MissingLayer as error:
        layer = str(error.args[0])
        wanted = [theirs for theirs, name in names.items() if name.startswith(f"{layer}.")]
        raise CheckpointError(f"a whole layer of the supernet is missing: {', '.join(wanted)}") from error
    space = _space_of(spec)
    supernet = without_memory(lambda: Supernet(space), f"no supernet can be built from {space}")
    notes += fill_exactly(supernet.net, "supernet", names, state)
    return supernet.eval()


def _space_of(spec: NetSpec) -> Space:
    """Returns the space whose largest network this is, with bounds in the proportion of the published ones."""
    stages = (*spec.encoder, *spec.decoder)
    highest = (spec.stem[1], *(stage.out for stage in stages))
    plain = Space()
    lowest = (plain.rounded(w * low // high) for w, low, high in zip(highest, PAPER_LOWEST, PAPER_HIGHEST, strict=True))
    depth = max(len(stage.blocks) for stage in stages)
    return Space(
        (spec.stem[1], *list(lowest)[1:]),
        highest,
        depths=(1, depth),
        num_classes=spec.num_classes,
        in_channels=spec.in_channels,
    )
