"""The CUDA engine's kernels compile for every GPU that is supported, without one being here.

What is compiled is what a frame of SPVCNN W32 launches: recorded, and specialised as a launch would be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from places import HELPERS

CAPABILITIES = (75, 80, 87, 89, 90, 120)
SHARED_MEMORY = {75: 64, 80: 163, 87: 163, 89: 99, 90: 227, 120: 99}
"""KiB that a block can have (CUDA C++ Programming Guide, technical specifications per compute capability)."""


KERNELS = {
    "encode", "mark_levels", "build_levels", "search_neighbours", "refine_neighbours", "tile_neighbours",
    "tile_parents", "gather_inputs", "convolve", "add_parts", "fuse_points", "mean_points", "classify", "label_points",
    "mark_columns", "mark_leads", "gather_columns", "list_kernel_rows", "finish_plane", "score_anchors",
    "find_overlaps", "suppress",
}  # fmt: skip


def printed(script: str, *arguments: object) -> list[Any]:
    """What a program beside this file prints, line by line, in a process in which Triton does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, HELPERS / script, *map(str, arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    return printed("cuda_launches.py", *CAPABILITIES)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_heaviest_kernels_fit(reports: list[dict[str, Any]], capability: int) -> None:
    found = [report for report in reports if report["capability"] == capability]
    assert {"convolve", "fuse_points"} <= {report["kernel"] for report in found}
    for report in found:
        assert report["spilled"] == 0, report
        assert report["shared"] <= SHARED_MEMORY[capability] * 1024, report


def test_convolutions_load_while_they_multiply(reports: list[dict[str, Any]]) -> None:
    """From capability 8.0 on: the loop is pipelined with asynchronous copies, and half precision uses matrix units."""
    found = [report for report in reports if report["kernel"] == "convolve" and report["capability"] >= 80]
    assert {report["precision"] for report in found} == {"fp16", "bf16", "fp32"}
    for report in found:
        assert report["copies"] > 0, report
        assert report["products"] > 0 or report["precision"] == "fp32", report


def test_every_kernel_compiles(reports: list[dict[str, Any]]) -> None:
    assert {report["kernel"] for report in reports if report["capability"] == 90} == KERNELS


def test_triton_takes_every_launch_as_it_is_made() -> None:
    """Names of arguments and options, types, constants: what the interpreter does not look at."""
    pytest.importorskip("triton.knobs", reason="needs Triton 3.4 or newer")
    (found,) = printed("cuda_binding.py")
    assert set(found) == KERNELS | {"sum_outer_products", "add_partial"}
