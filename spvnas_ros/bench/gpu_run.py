"""A run of the GPU benchmark: contenders take turns, every row is kept once measured, and the run ends in time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np
import numpy.typing as npt
import torch

from spvnas_ros.bench.cpu_worker import VOXEL_SIZE, seeded
from spvnas_ros.bench.gpu_report import OURS, Row, Setting, row_of
from spvnas_ros.bench.gpu_worker import DTYPES, Case, ContenderError, Precision, Profile, Worker
from spvnas_ros.bench.roofline import Rates, branch_work, plan_work
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.frame import Points
from spvnas_ros.recordings.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import Levels, build_levels

PREPARE_S, PEER_PREPARE_S, FRAMES_S, TRAIN_S = 240.0, 60.0, 60.0, 120.0
"""Seconds that a contender may take to be ready (kernels are compiled and tuned), for a turn, and for training."""

TIME_IS_UP = "not measured: the time is up (see --seconds)"
TRAINED = (*OURS, "torch")
"""Contenders that are measured in training, too. Other libraries are not."""


@dataclass(frozen=True)
class Options:
    """The options of a run.

    rounds, frames: turns of every contender, and frames in each; train_steps: training steps, 0 for none
    seconds: the time after which the run ends; the table says of later measurements that the time was up
    """

    device: str = "cuda"
    contenders: tuple[str, ...] = ()
    rounds: int = 5
    frames: int = 20
    train_steps: int = 5
    seconds: float = float("inf")


@dataclass(frozen=True)
class Clock:
    """The clock of a run. end: when the run must be over, on the clock `time.monotonic`."""

    end: float

    @property
    def is_up(self) -> bool:
        """Whether the time is up, so that nothing more may be begun."""
        return monotonic() >= self.end

    def limit(self, seconds: float) -> float:
        """Returns `seconds`, or the time left where that is less. Raises ContenderError where no time is left."""
        if self.is_up:
            raise ContenderError(TIME_IS_UP)
        return min(seconds, self.end - monotonic())


class Book:
    """The rows of a run, in a file per case. A run that is cut off loses only the row it was at.

    report: called with every new row, and with every row that something was added to, after it was written
    """

    def __init__(self, folder: Path, setting: Setting, report: Callable[[Row], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._setting, self._report = folder, setting, report
        self._rows: dict[tuple[str, str, str], Row] = {}

    def put(self, row: Row) -> None:
        """Keeps a row, in place of an earlier one of the same contender on the same case."""
        self._rows[row.network, row.precision, row.contender] = row
        alike = [r for r in self._rows.values() if (r.network, r.precision) == (row.network, row.precision)]
        write(self._folder / f"{row.network}-{row.precision}.json", self._setting, alike)
        self._report(row)

    def rows(self, case: Case) -> list[Row]:
        """Returns the rows of a case."""
        return [r for r in self._rows.values() if (r.network, r.precision) == (case.network, case.precision)]


@dataclass(frozen=True)
class Run:
    """A run under way: the scan, its geometry, the contenders' processes, and the measurements so far."""

    options: Options
    points: Points
    levels: Levels
    workers: dict[str, Worker]
    clock: Clock
    book: Book
    rates: dict[str, Rates]

    def measure(self, case: Case) -> None:
        """Measures all contenders on one case, in turns."""
        expected = self._reference_labels(case)
        labels: dict[str, npt.NDArray[np.uint8]] = {}
        failed: dict[str, str] = {}
        times: dict[str, list[list[float]]] = {}
        for name, worker in self.workers.items():
            with _failing(name, failed):
                limit = self.clock.limit(PREPARE_S if name in TRAINED else PEER_PREPARE_S)
                labels[name] = worker.ask("prepare", case, self.points, timeout_s=limit)
        for _ in range(self.options.rounds):
            for name in [name for name in labels if name not in failed and not self.clock.is_up]:
                with _failing(name, failed):
                    turn = self.workers[name].ask("frames", self.options.frames, timeout_s=self.clock.limit(FRAMES_S))
                    times.setdefault(name, []).append(turn)
        for name in self.workers:
            # A contender that the end of the run interrupted keeps the turns that it finished.
            if name in times and (name not in failed or self.clock.is_up):
                agree = float("nan") if expected is None else float((labels[name] == expected).mean())
                self.book.put(self._row(case, name, times[name], agree))
            else:
                error = failed.get(name, TIME_IS_UP)
                self.book.put(Row(case.network, case.precision, name, error=error))

    def train(self, case: Case) -> None:
        """Adds the time of a training step to the rows of a case. Networks with a box branch are not trained here."""
        if case.spec.boxes:
            return
        for row in self.book.rows(case):
            if row.error or row.contender not in TRAINED:
                continue
            try:
                limit = self.clock.limit(TRAIN_S)
                arguments = (case, self.points, self.options.train_steps)
                steps = self.workers[row.contender].ask("train", *arguments, timeout_s=limit)
                self.book.put(replace(row, train_p50=median(steps)))
            except ContenderError as error:
                self.book.put(replace(row, train_error=str(error)))

    def _row(self, case: Case, name: str, times: Sequence[Sequence[float]], agree: float) -> Row:
        """Returns a contender's row. Where the profiler fails, the row lacks the profiler's figures."""
        itemsize = DTYPES[case.precision].itemsize
        work = plan_work(build_plan(seeded(case.spec)), self.levels, itemsize)
        work += branch_work(case.spec, self.levels, itemsize)
        profile, problem = Profile(0, 0, 0, {}, {}, 0.0), ""
        try:
            profile = self.workers[name].ask("profile", timeout_s=self.clock.limit(FRAMES_S))
        except ContenderError as error:
            problem = str(error)
        key = (case.network, case.precision, name)
        return replace(row_of(key, times, profile, work, self.rates[case.precision], agree), profile_error=problem)

    def _reference_labels(self, case: Case) -> npt.NDArray[np.uint8] | None:
        """Returns the labels of the reference in float32, None where it fails."""
        if "torch" not in self.workers:
            return None
        try:
            exact = replace(case, precision="fp32")
            labels: npt.NDArray[np.uint8] = self.workers["torch"].ask(
                "prepare", exact, self.points, timeout_s=self.clock.limit(PREPARE_S)
            )
        except ContenderError:
            return None
        return labels


@contextmanager
def _failing(name: str, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except ContenderError as error:
        failed[name] = str(error)


def run(
    scan: Path, cases: Sequence[Case], options: Options, machine: str, out: Path, report: Callable[[Row], None]
) -> None:
    """Measures cases, a precision after the other, and writes `out/<network>-<precision>.json` with every row.

    Raises ContenderError where not even the device's rates can be measured.
    """
    clock = Clock(monotonic() + options.seconds)
    points = read_scan(scan, "unit")
    levels = build_levels(quantize(torch.from_numpy(points), VOXEL_SIZE).coords)
    workers = {name: Worker(name, options.device) for name in options.contenders}
    try:
        rates = _rates(workers, [case.precision for case in cases], clock)
        frames = options.rounds * options.frames
        setting = Setting(machine, scan.name, len(points), len(levels.levels[0]), frames, rates)
        this = Run(options, points, levels, workers, clock, Book(out, setting, report), rates)
        for _, group in groupby(cases, key=lambda case: case.precision):
            alike = list(group)
            for case in alike:
                this.measure(case)
            for case in alike if options.train_steps else ():
                this.train(case)
    finally:
        for worker in workers.values():
            worker.stop()


def _rates(workers: dict[str, Worker], precisions: Sequence[Precision], clock: Clock) -> dict[str, Rates]:
    """Returns the device's rates by precision, from the first contender that can measure them."""
    errors = []
    for worker in sorted(workers.values(), key=lambda worker: worker.contender != "torch"):
        try:
            return {
                precision: worker.ask("rates", precision, timeout_s=clock.limit(PREPARE_S))
                for precision in dict.fromkeys(precisions)
            }
        except ContenderError as error:
            errors.append(f"{worker.contender}: {error}")
    raise ContenderError(f"no contender could measure the device's rates: {'; '.join(errors)}")


def write(path: Path, setting: Setting, rows: Sequence[Row]) -> None:
    """Writes one case as JSON."""
    data = {"setting": setting.to_dict(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(data, indent=2) + "\n")


def gather(folder: Path) -> tuple[Setting, list[Row]]:
    """Returns the setting of the newest file in a folder, and the rows of all files, oldest file first.

    The setting has the rates of all files. Files of other machines and scans are left out. Raises FileNotFoundError for
    a folder without any file.
    """
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not files:
        raise FileNotFoundError(f"no measurements in {folder}: run the benchmark first")
    found = [json.loads(path.read_text()) for path in files]
    settings = [Setting.from_dict(data["setting"]) for data in found]
    newest = settings[-1]
    alike = [(newest.machine, newest.scan) == (setting.machine, setting.scan) for setting in settings]
    rates = {
        name: r for setting, same in zip(settings, alike, strict=True) if same for name, r in setting.rates.items()
    }
    rows = [Row(**row) for data, same in zip(found, alike, strict=True) if same for row in data["rows"]]
    return replace(newest, rates=rates), rows
