"""The tables and the progress bar of the zoo on a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from safetensors import safe_open

from spvnas_ros.zoo.cache import DEFAULT, FetchError, cached_path, shipped_path
from spvnas_ros.zoo.cards import CARDS, DATA_TERMS, DETECTOR_CARDS, DETECTOR_DATA_TERMS
from spvnas_ros.zoo.download import Progress as Report

_LICENCE = "Apache-2.0"
"""The licence of this package and of the network it ships."""

_FORMAT = "spvnas_ros"
"""The value of `checkpoint.FORMAT`, whose module cannot be imported without torch."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers that normalisation keeps beside its parameters."""


def zoo_table(folder: Path) -> Table:
    """Returns the table of the shipped network and all published models, and whether this cache folder has them."""
    table = Table(box=None, padding=(0, 1, 0, 0), caption_justify="left")
    for title in ("name", "params", "GMACs", "mIoU", "label map", "licence", "cached"):
        table.add_column(title, justify="right" if title in ("params", "GMACs", "mIoU") else "left", no_wrap=True)
    note = f"All published models were {DATA_TERMS}; scores of different label maps cannot be compared."
    if shipped := _shipped():
        parameters, label_map, trained = shipped
        table.add_row(DEFAULT, f"{parameters / 1e6:.1f} M", "", "", label_map, _LICENCE, "shipped")
        note += f" {DEFAULT} comes with the package, {trained}; its scores are of other data."
    for card in CARDS:
        cached = "yes" if cached_path(card, folder).is_file() else ""
        numbers = (f"{card.parameters / 1e6:.1f} M", f"{card.gmacs:.1f}", f"{card.miou:.1f} %")
        table.add_row(card.name, *numbers, card.label_map, card.licence, cached)
    table.caption = note
    return table


def detector_table(folder: Path) -> Table:
    """Returns the table of the published detectors of boxes, and whether this cache folder has them."""
    table = Table(box=None, padding=(0, 1, 0, 0), caption_justify="left")
    scores = ("Car", "Pedestrian", "Cyclist", "mean")
    for title in ("detector", "params", *scores, "licence", "cached"):
        table.add_column(title, justify="right" if title in ("params", *scores) else "left", no_wrap=True)
    for card in DETECTOR_CARDS:
        cached = "yes" if cached_path(card, folder).is_file() else ""
        ap = (f"{card.ap[what]:.1f}" if what in card.ap else "" for what in scores)
        table.add_row(card.name, f"{card.parameters / 1e6:.1f} M", *ap, card.licence, cached)
    table.caption = (
        f"They find boxes and label no points. They were {DETECTOR_DATA_TERMS}; 3D AP on its validation frames, "
        "moderate, percent, over 11 recall positions."
    )
    return table


def _shipped() -> tuple[int, str, str] | None:
    """Returns parameters, label map and training of `default`, read from its header alone.

    Returns None where the file is not installed.
    """
    try:
        path = shipped_path()
    except FetchError:
        return None
    with safe_open(path, framework="numpy") as file:
        document = json.loads(file.metadata()[_FORMAT])
        keys = [key for key in file.keys() if not key.endswith(_BUFFERS)]  # noqa: SIM118
        parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in keys)
    record = document.get("training")
    return parameters, document["label_map"], f"trained on {record['data']}" if record else document["provenance"]


@contextmanager
def download_bar(name: str) -> Iterator[Report]:
    """Shows a progress bar on stderr and yields the function that moves it.

    The bar is not shown before the first bytes are there.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with ExitStack() as shown:
        bar: Progress | None = None

        def report(done: int, total: int | None) -> None:
            nonlocal bar
            if bar is None:
                if not done:
                    return
                bar = shown.enter_context(Progress(*columns, console=Console(stderr=True)))
                bar.add_task(name, total=None)
            bar.update(bar.task_ids[0], completed=done, total=total)

        yield report
