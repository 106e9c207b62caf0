"""The zoo on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from spvnas_ros.zoo.cache import cached_path
from spvnas_ros.zoo.cards import CARDS, DATA_TERMS
from spvnas_ros.zoo.download import Progress as Report


def zoo_table(folder: Path) -> Table:
    """All published models, and whether they are in this cache folder."""
    note = f"All {DATA_TERMS}. Scores of different label maps cannot be compared."
    table = Table(box=None, padding=(0, 1, 0, 0), caption=note, caption_justify="left")
    for title in ("name", "params", "GMACs", "mIoU", "label map", "licence", "cached"):
        table.add_column(title, justify="right" if title in ("params", "GMACs", "mIoU") else "left", no_wrap=True)
    for card in CARDS:
        cached = "yes" if cached_path(card, folder).is_file() else ""
        numbers = (f"{card.parameters / 1e6:.1f} M", f"{card.gmacs:.1f}", f"{card.miou:.1f} %")
        table.add_row(card.name, *numbers, card.label_map, card.licence, cached)
    return table


@contextmanager
def download_bar(name: str) -> Iterator[Report]:
    """A progress bar on stderr; what is yielded moves it. It is not shown before the first bytes are there."""
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
