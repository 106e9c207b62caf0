"""Compiles the CPU kernels of every precision that this machine has, as frames with labels and boxes need them.

Run as a program, before tests in several processes, each of which would compile all that no other has kept yet.
"""

from __future__ import annotations

from contextlib import suppress

from spvnas_ros import Perception
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError


def main() -> None:
    points = street_scan(0, 16, 200)[0]
    for precision in ("fp32", "int16", "int8"):
        # Where the machine has no such products, nothing is compiled for them.
        with suppress(UserError):
            Perception.load("default", device="cpu", engine="cpu", precision=precision)(points)


if __name__ == "__main__":
    main()
