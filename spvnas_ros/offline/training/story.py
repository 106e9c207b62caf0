"""What a network's facts tell of its training."""

from __future__ import annotations

from dataclasses import replace

from spvnas_ros.offline.training.config import Recipe
from spvnas_ros.offline.training.simulated import folders
from spvnas_ros.offline.training.start import DetectorStart, Start
from spvnas_ros.zoo.checkpoint import TrainingRecord


def provenance_of(recipe: Recipe) -> str:
    """Returns where the weights came from, for people."""
    return f"trained with spvnas train, recipe {recipe.name}"


def record_of(recipe: Recipe, scans: int) -> TrainingRecord:
    """Returns the record of a training on so many scans, before its first step."""
    simulate, sources = recipe.data.simulate, [*recipe.data.train]
    if simulate.scenes:
        seed = next(folders(simulate)).plan.seed  # as in `spvnas simulate`, so that nobody scores on these streets
        sources.append(f"{simulate.scenes} simulated streets, seed {seed}, by {', '.join(simulate.sensors)}")
    return TrainingRecord(recipe.name, recipe.seed, 0, f"{scans} scans: {'; '.join(sources)}")


def begun(start: Start | DetectorStart | None, provenance: str, record: TrainingRecord) -> tuple[str, TrainingRecord]:
    """Returns provenance and record with what the training began from."""
    if start is None:
        return provenance, record
    return f"{provenance}, {start.story}", replace(record, start=start.name, start_sha256=start.sha256)
