"""Two ways to launch a Triton kernel: run it, or only compile it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton

Launch = Callable[..., None]
"""A function that takes a kernel, its grid, and the kernel's arguments, constants and options."""

_OPTIONS = {"enable_fp_fusion": True}
"""Fuses multiplications and additions into one instruction. Triton is about to make that a choice."""


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Runs a kernel on the current stream. A kernel's first launch compiles it."""
    kernel[grid](*arguments, **constants, **_OPTIONS)


def only_compile(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Compiles the kernel that `run` would run with these arguments, or loads it from Triton's cache."""
    kernel.warmup(*arguments, grid=grid, **constants, **_OPTIONS)


@contextmanager
def compiling_together() -> Iterator[None]:
    """Compiles the kernels of `only_compile` calls inside this context on all cores, where Triton can (3.6).

    The kernels are ready when the context ends. An older Triton compiles them one by one.
    """
    mode = getattr(triton, "AsyncCompileMode", None)
    if mode is None:
        yield
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, mode(pool):
        yield
