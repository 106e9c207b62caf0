"""How far the CPU engine's precisions agree: `python -m spvnas_ros.bench.agreement [int8] WEIGHTS SOURCE...`

A source is whatever `spvnas segment` takes. A line a cloud, and one for all, tells on how many points the labels in
int16, or in int8, are those in fp32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from spvnas_ros.engine.cpu import CpuEngine
from spvnas_ros.recordings.scans.source import open_source
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import load_checkpoint


def main(precision: str, weights: str, sources: Sequence[str]) -> None:
    """Prints the table."""
    net, facts = load_checkpoint(resolve_weights(weights))
    exact, whole = (CpuEngine(net, facts.voxel_size, precision=each) for each in ("fp32", precision))
    print("| cloud | points | labels equal | confidences off by |\n| --- | --- | --- | --- |")
    equal = total = 0
    for path in sources:
        with open_source(path) as source:
            for frame in source:
                points = frame.load().points
                points = np.ascontiguousarray(points[np.isfinite(points).all(axis=1)])
                one, other = (engine.segment(points, scores=False) for engine in (exact, whole))
                same = int(np.sum(one.labels == other.labels))
                off = float(np.abs(one.confidence - other.confidence).max(initial=0))
                print(f"| {frame.name} | {len(points)} | {same / max(len(points), 1):.3%} | {off:.4f} |", flush=True)
                equal, total = equal + same, total + len(points)
    print(f"| all | {total} | {equal / max(total, 1):.3%} | |")


if __name__ == "__main__":
    in_bytes = sys.argv[1] == "int8"
    arguments = sys.argv[1 + in_bytes :]
    main("int8" if in_bytes else "int16", arguments[0], arguments[1:])
