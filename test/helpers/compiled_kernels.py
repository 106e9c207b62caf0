"""Compiles the CPU kernels of every precision that this machine has, as frames and steps of a training need them.

Run as a program, before tests in several processes, each of which would compile all that no other has kept yet.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import yaml

from drives import write_drive
from spvnas_ros import Perception
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.offline.training.command import run


def main() -> None:
    points = street_scan(0, 16, 200)[0]
    for precision in ("fp32", "int16", "int8"):
        # Where the machine has no such products, nothing is compiled for them.
        with suppress(UserError):
            Perception.load("default", device="cpu", engine="cpu", precision=precision)(points)
    with tempfile.TemporaryDirectory() as folder:
        _train(Path(folder))


def _train(folder: Path) -> None:
    """A step and a validation in each precision."""
    drive, recipe = folder / "drive", folder / "recipe.yaml"
    drive.mkdir()
    write_drive(drive, 2)
    net = {"widths": [4, 4, 8, 8, 8, 8, 8, 8, 8], "depths": [1] * 8}
    data = {"train": str(drive), "validation": str(drive), "voxel_size": 0.3, "workers": 0}
    trainer = {"steps": 1, "batch_size": 2, "validate_every": 1, "device": "cpu"}
    schedule = {"warmup_steps": 0}
    document = {"name": "kernels", "net": net, "data": data, "schedule": schedule, "trainer": trainer}
    recipe.write_text(yaml.safe_dump(document))
    for precision in ("auto", "fp32"):
        run(recipe, [f"trainer.precision={precision}"], folder / precision, quiet=True)


if __name__ == "__main__":
    main()
