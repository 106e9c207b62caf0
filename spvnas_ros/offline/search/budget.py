"""What networks cost, and whether that is within a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spvnas_ros.nets.cost import count_parameters
from spvnas_ros.nets.layers import Sizes, layers_of
from spvnas_ros.nets.space import Candidate
from spvnas_ros.offline.search.latency import LatencyTable
from spvnas_ros.offline.search.search_config import Limit


@dataclass(frozen=True)
class Cost:
    """What a network costs; without what a box branch costs, if it has one, but for the parameters.

    macs: multiply-accumulates; parameters: trainable ones; milliseconds: of a frame, None where nothing was measured
    """

    macs: float
    parameters: int
    milliseconds: float | None = None

    def within(self, limit: Limit) -> bool:
        """Tells whether this is within a limit."""
        return not (
            (limit.macs and self.macs > limit.macs)
            or (limit.parameters and self.parameters > limit.parameters)
            or (limit.milliseconds and (self.milliseconds is None or self.milliseconds > limit.milliseconds))
        )

    def words(self) -> str:
        """Returns the cost for people."""
        time = "" if self.milliseconds is None else f", {self.milliseconds:.1f} ms"
        return f"{self.macs / 1e9:.3g} GMACs, {self.parameters / 1e6:.3g} M parameters{time}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the cost as values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Prices:
    """What tells costs.

    sizes:  of the scans' geometry, by voxel size in metres
    tables: of measured layers, by voxel size; empty where no time is asked for
    """

    sizes: Mapping[float, Sizes]
    tables: Mapping[float, LatencyTable]

    def cost(self, candidate: Candidate) -> Cost:
        """Returns the cost of a network."""
        layers = layers_of(candidate.spec)
        table = self.tables.get(candidate.voxel_size)
        return Cost(
            self.sizes[candidate.voxel_size].macs(layers),
            count_parameters(candidate.spec) if candidate.spec.boxes else sum(layer.parameters for layer in layers),
            None if table is None else 1e3 * table.seconds(candidate.spec),
        )
