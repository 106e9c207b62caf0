"""Products of 16 and 8 bits: exact at the extremes, on every register block this machine can run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from spvnas_ros.engine.cpu.word_packing import panels, weight_steps
from spvnas_ros.kernels.cpu import word_vectors
from spvnas_ros.kernels.cpu.shape import AVX2_WORDS, AVX512_VNNI, AVX512_WORDS, AVX_VNNI, WordShape, host_words
from spvnas_ros.kernels.cpu.word_vectors import BYTES, FAR, HALVES, Integers, finisher, multiplier

HOST = host_words()
needs_words = pytest.mark.skipif(HOST is None, reason="this machine has no fast 16-bit products")

RUNS_ON: dict[WordShape, tuple[WordShape, ...]] = {
    AVX512_VNNI: (AVX512_VNNI, AVX512_WORDS, AVX2_WORDS),
    AVX512_WORDS: (AVX512_WORDS, AVX2_WORDS),
    AVX_VNNI: (AVX_VNNI, AVX2_WORDS),
    AVX2_WORDS: (AVX2_WORDS,),
}
SHAPES = RUNS_ON[HOST] if HOST else (AVX2_WORDS,)
WAYS = [
    pytest.param(shape, integers, id=f"{shape.name}-{integers.bits}")
    for shape in SHAPES
    for integers in (HALVES, BYTES)
    if shape.fused or integers == HALVES
]


def test_the_loops_know_which_vector_code_they_were_compiled_around() -> None:
    """Numba keeps loops by the file they are in, so what they inline from `word_vectors.py` must be named there."""
    if HOST is None:
        pytest.skip("this machine has no fast 16-bit products")
    from spvnas_ros.kernels.cpu.convolve_words import WORDS_VERSION

    digest = hashlib.sha256(Path(word_vectors.__file__).read_bytes()).hexdigest()
    assert digest[:12] == WORDS_VERSION, "word_vectors.py has changed: write this digest into WORDS_VERSION"


@pytest.mark.parametrize("shape", [AVX512_VNNI, AVX512_WORDS, AVX_VNNI, AVX2_WORDS], ids=lambda s: s.name)
def test_blocks_cover_all_columns(shape: WordShape) -> None:
    for columns in range(8, 600, 8):
        blocks = shape.blocks(columns)
        assert 8 * sum(blocks) == columns
        assert 1 <= min(blocks) <= max(blocks) <= shape.eighths
    for eighths in range(1, shape.eighths + 1):
        assert sum(shape.vectors(eighths)) == 8 * eighths


@needs_words
@pytest.mark.parametrize(("shape", "integers"), WAYS)
def test_every_block_multiplies_exactly_at_the_extremes(shape: WordShape, integers: Integers) -> None:
    """All features at their top, weights at theirs as long as no sum overflows, both signs: exact to the last bit that
    float32 has."""
    rows, rng, each = shape.rows, np.random.default_rng(0), integers.per_word
    multiply, most = multiplier(shape, rows), integers.weight_top

    @njit
    def run(eighths, x, ins, panel, out, outs):
        multiply(eighths, x.ctypes.data, x.strides[0], ins.ctypes.data, panel.ctypes.data, out.ctypes.data,
                 out.strides[0], outs.ctypes.data, panel.shape[0], x.dtype)  # fmt: skip

    for eighths in range(1, shape.eighths + 1):
        for channels in (each, 3 * each, 64):
            columns = 8 * eighths
            x = rng.integers(0, integers.top + 1, (40, channels)).astype(f"u{4 // each}")
            x[::3] = integers.top
            weights = rng.integers(-most, most + 1, (channels, columns))
            weights[:, ::2] = np.sign(weights[:, ::2]) * most
            weights[:, :3] = [most, -most, -most]
            if integers == HALVES:
                weights[2:, :3] = 0  # two of them: the most that one int32 holds
            fits = np.abs(x.astype(np.int64) @ np.abs(weights)).max(axis=0) < 2**31
            weights[:, ~fits] //= channels
            exact = x.astype(np.int64) @ weights
            packed = weights.reshape(channels // each, each, columns).swapaxes(1, 2)
            panel = np.ascontiguousarray(packed.astype(f"i{4 // each}"))
            out = rng.integers(-99, 99, (40, columns)).astype(np.float32)
            ins, outs = (rng.permutation(40)[:rows].astype(np.int32) for _ in range(2))
            expected = out.copy()
            expected[outs] += exact[ins].astype(np.float32)
            run(eighths, x, ins, panel, out, outs)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("integers", [HALVES, BYTES], ids=["16", "8"])
def test_panels_hold_every_weight_once(integers: Integers) -> None:
    """Word by word and column by column, channels in the order in which features lie in memory."""
    rng = np.random.default_rng(0)
    for channels, width in ((1, 3), (7, 8), (16, 40), (30, 70)):
        kernel = rng.integers(-100, 101, (2, channels, width))
        words, packed = panels(kernel.astype(np.float64), integers, AVX512_VNNI)
        x = rng.integers(0, 200, words * integers.per_word)
        for k, row in enumerate(packed.reshape(2, -1)):
            got, begin = [], 0
            for eighths in AVX512_VNNI.blocks(-(-width // 8) * 8):
                end = begin + words * 8 * eighths
                block = row[begin:end].view(f"i{integers.bits // 8}").reshape(words, 8 * eighths, -1)
                got.append(np.einsum("wp,wcp->c", x.reshape(words, -1), block.astype(np.int64)))
                begin = end
            np.testing.assert_array_equal(np.concatenate(got)[:width], x[:channels] @ kernel[k])


KERNELS = st.lists(
    st.tuples(
        st.integers(1, 700),  # channels
        st.sampled_from(["equal", "normal", "one", "zero", "tiny", "huge", "half"]),
        st.floats(1e-6, 1e6),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(KERNELS, st.sampled_from([HALVES, BYTES]), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_no_sum_of_a_kernel_row_can_overflow(
    parts: list[tuple[int, str, float]], integers: Integers, volume: int, seed: int
) -> None:
    """Whatever the weights are: the largest sum that features can make of a kernel row fits int32, weights fit."""
    rng, outputs = np.random.default_rng(seed), 5
    kernels = []
    for channels, form, unit in parts:
        sign = rng.choice([-1.0, 1.0], (volume, channels, outputs))
        kernel = {
            "equal": sign,
            "normal": rng.normal(size=sign.shape),
            "one": np.where(np.arange(channels)[None, :, None] == 0, sign, 0),
            "zero": np.zeros_like(sign),
            "tiny": 1e-30 * sign,
            "huge": 1e30 * sign,
            "half": (np.rint(rng.uniform(0, 40, sign.shape)) + 0.5) * sign,  # rounds to the worse side
        }[form]
        kernels.append(unit * kernel)
    steps = weight_steps(kernels, integers)
    assert np.isfinite(steps).all()
    assert (steps > 0).all()
    for kernel in kernels:
        whole = np.rint(kernel / steps)
        assert np.abs(whole).max() <= integers.weight_top
        worst = np.abs(whole).astype(object).sum(axis=1) * integers.top  # Python's integers
        assert max(worst.ravel()) < 2**31


@needs_words
@pytest.mark.parametrize(("shape", "integers"), WAYS)
def test_what_no_feature_holds_is_counted(shape: WordShape, integers: Integers) -> None:
    """Values above the range and those that are no numbers become the largest feature, and each is counted; of bytes,
    those a little above it apart from those far beyond."""
    finish, top = finisher(shape), integers.top
    far = [np.nan, -np.nan, np.inf, 1e30, *(FAR * top + r for r in (0.5, 1) if integers == BYTES)]
    above = [top + 1, top + 0.75]

    @njit
    def run(sums, scale, bias, out, clipped):
        finish(sums.ctypes.data, scale.ctypes.data, bias.ctypes.data, 0, 0, out.ctypes.data,
               sums.shape[1] // 8, clipped.ctypes.data, sums.shape[0], out.dtype)  # fmt: skip

    for columns in (8, 16, 24, 40):
        rng = np.random.default_rng(columns)
        sums = rng.uniform(-0.9 * top, 0.9 * top, (7, columns)).astype(np.float32)
        scale, bias = np.ones(columns, np.float32), np.zeros(columns, np.float32)
        odd = [*far, *above]
        places = rng.permutation(sums.size)[: len(odd)]
        sums.flat[places] = odd
        fine = rng.permutation(np.setdiff1d(np.arange(sums.size), places))[:4]
        sums.flat[fine] = [top + 0.25, -np.inf, -1e30, 0.5]
        out, clipped = np.full(sums.shape, 7, f"u{integers.bits // 8}"), np.zeros((2, 16), np.int32)
        run(sums, scale, bias, out, clipped)
        expected = [len(odd), 0] if integers == HALVES else [len(far), len(odd)]
        assert clipped.sum(axis=1).tolist() == expected
        assert (out.flat[places] == top).all()
        assert out.flat[fine].tolist() == [top, 0, 0, 1]
        others = np.setdiff1d(np.arange(sums.size), [*places, *fine])
        np.testing.assert_array_equal(out.flat[others], np.floor(np.maximum(sums.flat[others], 0) + np.float32(0.5)))


@needs_words
@pytest.mark.parametrize("count", [1, 512, 513, 4096])
def test_no_mean_is_above_all_its_points(count: int) -> None:
    """Not even of so many of the largest feature that their sum is rounded up: 16 bits would read it as negative."""
    from spvnas_ros.kernels.cpu.convolve_words import Finish, Scratch, mean_points

    ones, top = np.ones(8, np.float32), HALVES.top
    finish = Finish(ones, ones, np.ones(1, np.int64), ones)
    numbers = np.zeros((1, 32), np.int32)
    scratch = Scratch(np.zeros(1, np.int64), ones[None], numbers, numbers[0], np.zeros((1, 8), np.uint16))
    out = np.zeros((1, 8), np.uint16)
    starts, points = np.array([0, count], np.int32), np.full((count, 8), top, np.uint16)
    mean_points(np.zeros(1, np.int64), 1, starts, points, finish, top, scratch, out)
    assert set(out[0].tolist()) == {top}
