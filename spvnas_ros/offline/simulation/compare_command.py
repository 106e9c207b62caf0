"""Runs `spvnas simulate --compare`: measures, table and pictures of real and simulated scans."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from spvnas_ros.offline.datasets.open import open_dataset
from spvnas_ros.offline.datasets.scan import ScanDataset
from spvnas_ros.offline.simulation.command import run
from spvnas_ros.offline.simulation.compare import Measures, measure, table
from spvnas_ros.offline.simulation.compare_picture import save_histograms, save_panoramas
from spvnas_ros.offline.simulation.drive import Plan
from spvnas_ros.recordings.files import replacing

TABLE, HISTOGRAMS, PANORAMAS = "compare.md", "classes.png", "panoramas.png"


def run_comparison(real: Path, simulated: Path | None, plan: Plan, scenes: int, out: Path, processes: int) -> None:
    """Measures both data sets, writes table and pictures into `out`, and prints the table.

    simulated: scans made earlier; None simulates `scenes` scenes by `plan` into a temporary folder

    Raises DatasetError for scans that cannot be read, and SimulationError like `simulate`.
    """
    truth = open_dataset(real)
    with ExitStack() as stack:
        if simulated is None:
            simulated = Path(stack.enter_context(TemporaryDirectory(prefix="spvnas-simulate-"))) / "scans"
            run(plan, scenes, simulated, processes)
        sets = {"real": truth, "simulated": open_dataset(simulated)}
        measures = [_measured(title, dataset) for title, dataset in sets.items()]
        out.mkdir(parents=True, exist_ok=True)
        text = table(*measures)
        with replacing(out / TABLE) as file:
            file.write(text.encode())
        save_histograms(out / HISTOGRAMS, *measures)
        examples = {f"{title}, {dataset[0].name}": dataset[0] for title, dataset in sets.items()}
        save_panoramas(out / PANORAMAS, examples, truth.label_map)
    Console(soft_wrap=True, highlight=False, markup=False).print(
        f"{text}\n{out / TABLE}, {out / HISTOGRAMS}, {out / PANORAMAS}"
    )


def _measured(title: str, dataset: ScanDataset) -> Measures:
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn(f"measuring {title}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=len(dataset))
        return measure(dataset, lambda: progress.advance(task))
