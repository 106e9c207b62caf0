"""Measures class by class how close simulated scans are to real ones.

All measures go up to 50 m, as far as SemanticKITTI's annotators labelled. The distance between two histograms is
Wasserstein's: the average distance by which the points of one must move to give the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from spvnas_ros.frame import Points
from spvnas_ros.offline.datasets.scan import LabelledScan, ScanDataset
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import Levels, build_levels

MOST_RANGE = 50.0
VOXEL_SIZE = 0.05
DEPTH = 4
STRIDES = tuple(1 << level for level in range(DEPTH + 1))

EDGES = {
    "range": np.arange(0, MOST_RANGE + 1, 2.0),
    "height": np.arange(-4, 8.01, 0.25),
    "intensity": np.arange(0, 1.01, 0.05),
}
"""Bin edges of the histograms: metres, metres above the sensor, and 0..1."""

_QUERIES = 60
"""Largest number of points of a class in a scan at which spacing and roughness are measured."""
_WINDOW = 1.0
"""Largest distance at which a neighbour is searched, metres."""
_PATCH = 0.4
"""Radius around a point within which a surface is taken as flat, metres."""
_PATCH_POINTS = 10
_PATCH_WIDTH = 0.05
"""Least standard deviation within the surface, metres. Points of a single beam lie on a line, which tells nothing about
the surface.
"""
_PATCH_RANGE = 20.0
"""Range up to which a patch has enough points, metres."""

Counts = npt.NDArray[np.float64]


@dataclass
class ClassMeasures:
    """Measures of one class over all scans: number of points, histograms by `EDGES`, neighbours, spacings and
    roughnesses.

    scans:      number of scans in which the class occurs
    neighbours: occupied voxels among the 27 of a kernel, mean over the class's voxels of 5 cm
    spacing:    distance to the nearest other point of the scan, median, metres
    roughness:  standard deviation from the plane through the points of the class within 40 cm, median, metres
    """

    points: int = 0
    scans: int = 0
    histograms: dict[str, Counts] = field(
        default_factory=lambda: {name: np.zeros(len(edges) - 1) for name, edges in EDGES.items()}
    )
    voxels: int = 0
    voxel_neighbours: float = 0.0
    spacings: list[float] = field(default_factory=list)
    roughnesses: list[float] = field(default_factory=list)

    @property
    def neighbours(self) -> float:
        """Mean number of occupied voxels, of 27."""
        return self.voxel_neighbours / self.voxels if self.voxels else float("nan")

    @property
    def spacing(self) -> float:
        """Median spacing, metres."""
        return float(np.median(self.spacings)) if self.spacings else float("nan")

    @property
    def roughness(self) -> float:
        """Median roughness, metres."""
        return float(np.median(self.roughnesses)) if self.roughnesses else float("nan")

    def mean(self, name: str) -> float:
        """Returns the mean of a histogram."""
        counts, edges = self.histograms[name], EDGES[name]
        return float((counts * (edges[:-1] + edges[1:])).sum() / 2 / max(counts.sum(), 1))


@dataclass
class Measures:
    """Measures of a set of scans.

    classes:    class name -> its measures
    voxels:     mean number of occupied voxels per scan at each stride
    neighbours: mean number of occupied voxels, of 27, at each stride
    """

    scans: int
    points: int
    classes: dict[str, ClassMeasures]
    voxels: list[float]
    neighbours: list[float]


def measure(dataset: ScanDataset, progress: Callable[[], None] = lambda: None) -> Measures:
    """Measures all scans of a data set. Raises DatasetError for scans that cannot be read."""
    names = dataset.label_map.classes
    nothing = [0.0] * len(STRIDES)
    measures = Measures(len(dataset), 0, {name: ClassMeasures() for name in names}, nothing, [*nothing])
    for index in range(len(dataset)):
        scan = _near(dataset[index])
        measures.points += len(scan)
        _add_histograms(measures, names, scan)
        _add_geometry(measures, names, scan)
        _add_spacings(measures, names, scan, np.random.default_rng(index))
        _add_roughness(measures, names, scan, np.random.default_rng(index))
        progress()
    return measures


def _near(scan: LabelledScan) -> LabelledScan:
    return scan.take(np.linalg.norm(scan.points[:, :3], axis=1) < MOST_RANGE)


def _add_histograms(measures: Measures, names: tuple[str, ...], scan: LabelledScan) -> None:
    values = {
        "range": np.linalg.norm(scan.points[:, :3], axis=1),
        "height": scan.points[:, 2],
        "intensity": scan.points[:, 3],
    }
    for index, name in enumerate(names):
        chosen = scan.labels == index
        one = measures.classes[name]
        one.points += int(chosen.sum())
        one.scans += bool(chosen.any())
        for kind, edges in EDGES.items():
            clipped = np.clip(values[kind][chosen], edges[0], edges[-1] - 1e-6)
            one.histograms[kind] += np.histogram(clipped, edges)[0]


def _add_geometry(measures: Measures, names: tuple[str, ...], scan: LabelledScan) -> None:
    voxels = quantize(torch.from_numpy(scan.points), VOXEL_SIZE)
    levels = build_levels(voxels.coords, DEPTH)
    for level in range(DEPTH + 1):
        count = len(levels.levels[level])
        measures.voxels[level] += count / measures.scans
        measures.neighbours[level] += len(levels.neighbours[level]) / max(count, 1) / measures.scans
    occupied = _occupied(levels)
    labels = scan.labels[voxels.first.numpy()][levels.order.numpy()]
    for index, name in enumerate(names):
        chosen = labels == index
        measures.classes[name].voxels += int(chosen.sum())
        measures.classes[name].voxel_neighbours += float(occupied[chosen].sum())


def _occupied(levels: Levels) -> npt.NDArray[np.int64]:
    """Returns the number of occupied voxels among the 27 around each voxel of level 0, itself included, `[n_0]`."""
    pairs = levels.neighbours[0]
    return torch.bincount(pairs.out_rows, minlength=pairs.num_out).numpy()


def _add_spacings(measures: Measures, names: tuple[str, ...], scan: LabelledScan, rng: np.random.Generator) -> None:
    order = np.argsort(scan.points[:, 0], kind="stable")
    points, labels = scan.points[order, :3], scan.labels[order]
    for index, name in enumerate(names):
        rows = np.flatnonzero(labels == index)
        chosen = rng.choice(rows, min(len(rows), _QUERIES), replace=False)
        measures.classes[name].spacings += [_nearest(points, int(row)) for row in chosen]


def _nearest(points: Points, row: int) -> float:
    """Returns the distance to the nearest other point, at most `_WINDOW`; the points are sorted by x."""
    here = points[row]
    low, high = np.searchsorted(points[:, 0], (here[0] - _WINDOW, here[0] + _WINDOW))
    square = np.square(points[low:high] - here).sum(axis=1)
    square[row - low] = np.inf
    return float(np.sqrt(square.min(initial=_WINDOW**2)))


def _add_roughness(measures: Measures, names: tuple[str, ...], scan: LabelledScan, rng: np.random.Generator) -> None:
    near = scan.take(np.linalg.norm(scan.points[:, :3], axis=1) < _PATCH_RANGE)
    order = np.argsort(near.points[:, 0], kind="stable")
    points, labels = near.points[order, :3], near.labels[order]
    for index, name in enumerate(names):
        of_class = points[labels == index]
        chosen = rng.permutation(len(of_class))[:_QUERIES]
        patches = [_patch(of_class, int(row)) for row in chosen]
        spreads = [_spread(patch) for patch in patches if len(patch) >= _PATCH_POINTS]
        measures.classes[name].roughnesses += [across for across, along in spreads if along > _PATCH_WIDTH]


def _patch(points: Points, row: int) -> Points:
    """Returns the points around a point; the points are sorted by x."""
    here = points[row]
    low, high = np.searchsorted(points[:, 0], (here[0] - _PATCH, here[0] + _PATCH))
    around: Points = points[low:high]
    return around.compress(np.square(around - here).sum(axis=1) < _PATCH**2, axis=0)


def _spread(patch: Points) -> tuple[float, float]:
    """Returns two standard deviations of points `[N, 3]`, metres: from their best plane, and the smaller one in it."""
    centred = np.asarray(patch - patch.mean(axis=0), np.float64)
    least, middle, _ = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred / len(patch)), 0))
    return float(least), float(middle)


def distance(name: str, one: ClassMeasures, other: ClassMeasures) -> float:
    """Returns Wasserstein's distance between two histograms of `EDGES`, in their unit; NaN where one is empty."""
    first, second = one.histograms[name], other.histograms[name]
    if not first.sum() or not second.sum():
        return float("nan")
    edges = EDGES[name]
    apart = np.cumsum(first / first.sum() - second / second.sum())
    return float(np.abs(apart).sum() * (edges[1] - edges[0]))


def table(real: Measures, simulated: Measures) -> str:
    """Returns Markdown tables: a row per class with the measures as `real / simulated` and the distances between the
    histograms, and a row per stride.
    """
    head = (
        "| class | points a scan | range, m | height, m | intensity | of 27 neighbours | spacing, cm | roughness, mm "
        "| range differs, m | height differs, m | intensity differs |\n" + "| --- " * 11 + "|"
    )
    rows = [_row(name, real, simulated) for name in real.classes]
    strides = ["| stride | voxels, real | simulated | of 27 neighbours, real | simulated |\n" + "| --- " * 5 + "|"]
    strides += [
        f"| {stride} | {real.voxels[level]:.0f} | {simulated.voxels[level]:.0f} | {real.neighbours[level]:.2f} "
        f"| {simulated.neighbours[level]:.2f} |"
        for level, stride in enumerate(STRIDES)
    ]
    title = (
        f"{real.scans} real scans ({real.points / max(real.scans, 1):.0f} points each up to {MOST_RANGE:.0f} m), "
        f"{simulated.scans} simulated ({simulated.points / max(simulated.scans, 1):.0f} points). "
        "Cells show real / simulated."
    )
    return "\n".join([title, "", head, *rows, "", *strides, ""])


def _row(name: str, real: Measures, simulated: Measures) -> str:
    one, other = real.classes[name], simulated.classes[name]

    def both(first: float, second: float, style: str) -> str:
        return f"{_number(first, style)} / {_number(second, style)}"

    cells = [
        both(one.points / max(real.scans, 1), other.points / max(simulated.scans, 1), ".0f"),
        *(both(_mean(one, kind), _mean(other, kind), style) for kind, style in _STYLES.items()),
        both(one.neighbours, other.neighbours, ".2f"),
        both(one.spacing * 100, other.spacing * 100, ".1f"),
        both(one.roughness * 1000, other.roughness * 1000, ".0f"),
        *(_number(distance(kind, one, other), style) for kind, style in _STYLES.items()),
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


_STYLES = {"range": ".1f", "height": ".2f", "intensity": ".2f"}


def _mean(one: ClassMeasures, kind: str) -> float:
    return one.mean(kind) if one.points else float("nan")


def _number(value: float, style: str) -> str:
    return "-" if np.isnan(value) else format(value, style)
