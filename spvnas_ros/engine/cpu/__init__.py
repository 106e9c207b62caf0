"""The CPU engine: a folded, fused network over Morton-sorted voxels, with kernels that numba compiles for the machine.

`engine.build_engine` makes it, and `bench` measures it.
"""

from spvnas_ros.engine.cpu.engine import CpuEngine, precision_of

__all__ = ["CpuEngine", "precision_of"]
