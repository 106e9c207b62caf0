"""How far the CPU engine's precisions agree: `python -m spvnas_ros.bench.agreement WEIGHTS SOURCE...`

A source is whatever `spvnas segment` takes. A line a cloud, and one for all, tells on how many points the labels in
int16 are those in fp32.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from spvnas_ros.perception import Perception
from spvnas_ros.recordings.scans.source import open_source


def main(weights: str, sources: Sequence[str]) -> None:
    """Prints the table."""
    exact, whole = (
        Perception.load(weights, device="cpu", engine="cpu", precision=precision) for precision in ("fp32", "int16")
    )
    print("| cloud | points | labels equal | confidences off by |\n| --- | --- | --- | --- |")
    equal = total = 0
    for path in sources:
        with open_source(path) as source:
            for frame in source:
                points = frame.load().points
                one, other = exact(points), whole(points)
                same = int(np.sum(one.labels == other.labels))
                off = float(np.abs(one.confidence - other.confidence).max(initial=0))
                print(f"| {frame.name} | {len(points)} | {same / max(len(points), 1):.3%} | {off:.4f} |", flush=True)
                equal, total = equal + same, total + len(points)
    print(f"| all | {total} | {equal / max(total, 1):.3%} | |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
