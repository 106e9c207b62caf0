"""Makes the simulated drives that a recipe asks for, where they do not exist yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spvnas_ros.offline.simulation.command import default_processes, run
from spvnas_ros.offline.simulation.drive import Plan, check_folder, is_finished
from spvnas_ros.offline.training.config import SimulateConfig


@dataclass(frozen=True)
class SimulatedFolder:
    """A folder of simulated drives of one sensor.

    validates: true for drives for validation; their streets are made from another seed
    """

    path: Path
    plan: Plan
    scenes: int
    validates: bool

    @property
    def finished(self) -> bool:
        """True where all scenes exist."""
        return all(is_finished(self.plan, number, self.path) for number in range(self.scenes))


def folders(config: SimulateConfig, *, boxes: bool = False) -> Iterator[SimulatedFolder]:
    """Yields the folders that a recipe asks for; with boxes where it trains a detector.

    Raises ValueError for an unknown sensor.
    """
    formats = ("semantic-kitti", "boxes") if boxes or config.boxes else ("semantic-kitti",)
    for sensor in config.sensors:
        for scenes, name, validates in (
            (config.scenes, "train", False),
            (config.validation_scenes, "validation", True),
        ):
            seed = 2 * config.seed + validates
            if scenes:
                plan = Plan(
                    sensor,
                    config.scans,
                    config.interval,
                    seed,
                    formats=formats,
                    mount_height=config.mount_height or None,
                    mount_tilt=config.mount_tilt,
                    mount_share=config.mount_share,
                )
                yield SimulatedFolder(Path(config.folder) / sensor / name, plan, scenes, validates)


def make_missing(config: SimulateConfig, say: Callable[[str], None], *, boxes: bool = False) -> None:
    """Simulates the missing drives and shows progress; `say` gets a line for each folder.

    Raises SimulationError and OSError as `spvnas simulate` does.
    """
    for folder in folders(config, boxes=boxes):
        if folder.finished:
            check_folder(folder.plan, folder.path, mounts_only=True)
        else:
            say(f"simulating {folder.scenes * folder.plan.scans_per_scene} scans into {folder.path}")
            run(folder.plan, folder.scenes, folder.path, default_processes())
