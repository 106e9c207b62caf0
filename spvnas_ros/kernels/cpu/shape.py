"""The shapes of the microkernels in the vector registers of the machine they are compiled for."""

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


@dataclass(frozen=True)
class WordShape:
    """How the machine multiplies 16-bit integers, two to a word of 32 bits.

    name:    the instruction set it is made for
    fused:   whether one instruction multiplies and adds (`vpdpwssd`); else two do (`vpmaddwd`, `vpaddd`)
    lanes:   words per vector register; rows: output rows per block, as in the `MicroShape` of the same machine
    eighths: most columns per block, in eights
    """

    name: str
    fused: bool
    lanes: int
    rows: int
    eighths: int

    def vectors(self, eighths: int) -> tuple[int, ...]:
        """Returns the lanes of each register of a block of `8 * eighths` columns."""
        whole, rest = divmod(8 * eighths, self.lanes)
        return (self.lanes,) * whole + (rest,) * (rest > 0)

    def blocks(self, columns: int) -> tuple[int, ...]:
        """Returns the eighths of the blocks that `columns`, a multiple of 8, are cut into.

        Blocks are full, but the last two share what is left where the last alone would be narrow: narrow blocks have
        too few independent sums to keep the multipliers busy.
        """
        found, left = [], columns // 8
        while left:
            shared = self.eighths > 2 and self.eighths < left <= self.eighths + 2
            found.append(min(left, self.eighths) if not shared else (left + 1) // 2)
            left -= found[-1]
        return tuple(found)


# Registers as above; without the fused instruction, products need one more.
AVX512_VNNI = WordShape("AVX512-VNNI", fused=True, lanes=16, rows=8, eighths=6)
AVX512_WORDS = WordShape("AVX-512", fused=False, lanes=16, rows=8, eighths=6)
AVX_VNNI = WordShape("AVX-VNNI", fused=True, lanes=8, rows=4, eighths=3)
AVX2_WORDS = WordShape("AVX2", fused=False, lanes=8, rows=4, eighths=2)


def host_shape() -> MicroShape:
    """Returns the shape for the target that numba compiles for."""
    enabled, triple = _target()
    if "avx512f" in enabled:
        return AVX512
    if {"avx2", "fma"} <= enabled:
        return AVX2
    return NEON if triple.startswith(("aarch64", "arm64")) else SSE


def host_words() -> WordShape | None:
    """Returns how the target that numba compiles for multiplies 16-bit integers, None where float32 is as fast."""
    enabled, _ = _target()
    if host_shape() == AVX512:
        if not {"avx512bw", "avx512vl"} <= enabled:
            return None
        return AVX512_VNNI if "avx512vnni" in enabled else AVX512_WORDS
    if host_shape() == AVX2:
        return AVX_VNNI if "avxvnni" in enabled else AVX2_WORDS
    return None


def _target() -> tuple[set[str], str]:
    """Returns the features and the triple of the target that numba compiles for.

    It includes the NUMBA_CPU_* settings, as the key of numba's cache does.
    """
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return {feature[1:] for feature in features.split(",") if feature.startswith("+")}, triple
