"""Ways to launch a kernel: to run it, or only to have it compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton

Launch = Callable[..., None]
"""Called with a kernel, its grid, and the kernel's arguments, constants and options."""

_OPTIONS = {"enable_fp_fusion": True}
"""Multiplications and additions in one instruction: Triton is about to make that a choice."""


def run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the current stream; its first launch compiles it."""
    kernel[grid](*arguments, **constants, **_OPTIONS)


def only_compile(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Compile what `run` would run with these arguments, or load it from Triton's cache."""
    kernel.warmup(*arguments, grid=grid, **constants, **_OPTIONS)


@contextmanager
def compiling_together() -> Iterator[None]:
    """What is only compiled inside is compiled by all cores, where Triton can (3.6), and is ready afterwards."""
    mode = getattr(triton, "AsyncCompileMode", None)
    if mode is None:
        yield
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool, mode(pool):
        yield
