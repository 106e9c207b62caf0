"""A softmax that vectorises: it turns logits into labels and confidences."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from spvnas_ros.kernels.cpu.team import take_ticket


@intrinsic
def _float_of_bits(context, bits):
    """Returns the float32 whose bits are those of an int32."""

    def generate(context, b, signature, args):
        return b.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@njit(cache=True, nogil=True)
def _exp(x):
    """Returns e**x for x in [-87, 0] to float32 precision.

    It has no call and no branch, so that loops over it vectorise. x = n ln 2 + r with |r| <= ln(2) / 2. e**r is its
    Taylor polynomial (remainder below 2e-8), and 2**n comes from its bits.
    """
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)  # ln 2 in two parts (Cody and Waite)
    tail = np.float32(1 / 120) + r * (np.float32(1 / 720) + r * np.float32(1 / 5040))
    middle = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * tail)
    value = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * middle))
    return value * _float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(cache=True, nogil=True)
def classify(counter, tile_rows, num_rows, num_classes, logits, labels, confidence):
    """Applies the softmax in place, and stores each row's best class and its probability."""
    while True:
        start = take_ticket(counter.ctypes.data) * tile_rows
        if start >= num_rows:
            return
        for i in range(start, min(num_rows, start + tile_rows)):
            best = 0
            for c in range(1, num_classes):
                if logits[i, c] > logits[i, best]:
                    best = c
            top = logits[i, best]
            for c in range(num_classes):
                logits[i, c] = _exp(max(logits[i, c] - top, np.float32(-87)))
            total = np.float32(0)
            for c in range(num_classes):
                total += logits[i, c]
            share = np.float32(1) / total
            for c in range(num_classes):
                logits[i, c] *= share
            labels[i], confidence[i] = best, share
