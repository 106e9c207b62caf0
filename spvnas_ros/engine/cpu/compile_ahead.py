"""Compiles float32's kernels ahead of the frames that need them, in a process of its own.

python -m spvnas_ros.engine.cpu.compile_ahead
"""

from __future__ import annotations

from spvnas_ros.engine.cpu.float_steps import compile_kernels
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.nets.spec import NetSpec
from spvnas_ros.nets.unet import PointVoxelUNet


def main() -> None:
    """Compiles the kernels, of a small network: they are the same for all."""
    compile_kernels(build_plan(PointVoxelUNet(NetSpec.spvcnn(4)).eval()).light())


if __name__ == "__main__":
    main()
