"""The CPU engine: a folded, fused network over Morton-sorted voxels, compiled by numba for the machine it runs on."""

from spvnas_ros.engine.cpu.engine import CpuEngine

__all__ = ["CpuEngine"]
