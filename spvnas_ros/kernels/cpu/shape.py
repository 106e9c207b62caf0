"""The shape of the microkernels in the vector registers of the machine they are compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from numba.core.registry import cpu_target


@dataclass(frozen=True)
class MicroShape:
    """A block of output rows and columns that is accumulated in registers.

    name:    the instruction set it is made for
    lanes:   float32 values per vector register
    rows:    output rows per block, even; vectors: registers per row, at most 4
    """

    name: str
    lanes: int
    rows: int
    vectors: int

    def pad(self, columns: int) -> int:
        """Returns `columns` rounded up to whole vectors."""
        return -(-columns // self.lanes) * self.lanes


# rows * vectors accumulators + vectors columns of the kernel + one spread input value must fit the register file:
# 32 registers on AVX-512 and NEON, 16 on AVX2 and SSE.
AVX512 = MicroShape("AVX-512", lanes=16, rows=8, vectors=3)
AVX2 = MicroShape("AVX2", lanes=8, rows=4, vectors=3)
NEON = MicroShape("NEON", lanes=4, rows=6, vectors=4)
SSE = MicroShape("SSE", lanes=4, rows=4, vectors=3)


def host_shape() -> MicroShape:
    """Returns the shape for the target that numba compiles for.

    The target includes the NUMBA_CPU_* settings, as the key of numba's cache does.
    """
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    if "avx512f" in enabled:
        return AVX512
    if {"avx2", "fma"} <= enabled:
        return AVX2
    return NEON if triple.startswith(("aarch64", "arm64")) else SSE
