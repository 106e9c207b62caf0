"""The GPU benchmark: `python -m spvnas_ros.bench.gpu [--scan SCAN.bin]`, as `make bench-gpu` runs it.

Contenders take turns in rounds, each in a process of its own, on the same scan. A row is printed as soon as it is
finished; what fails becomes a row that says why. Files of networks and precisions that were measured before are kept,
so a run can be continued in parts: `--networks W16 --precisions fp16`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np
import numpy.typing as npt
import torch

from spvnas_ros.bench.gpu_report import OURS, Row, Setting, markdown, place, row_of
from spvnas_ros.bench.gpu_worker import DTYPES, Case, ContenderError, Times, Worker
from spvnas_ros.bench.roofline import Rates, plan_work
from spvnas_ros.bench.worker import VOXEL_SIZE, seeded
from spvnas_ros.engine.peers import PEERS
from spvnas_ros.engine.plan import build_plan
from spvnas_ros.frame import Points
from spvnas_ros.nets.spec import BlockSpec, NetSpec, StageSpec
from spvnas_ros.scans import read_scan
from spvnas_ros.sparse.coords import quantize
from spvnas_ros.sparse.kernel_map import Levels, build_levels

NETWORKS = ("W16", "W32", "SPVNAS")
PREPARE_S, FRAMES_S = 240.0, 120.0
"""How long a contender may take to be ready (kernels are compiled and tuned), and for its turn."""


@dataclass(frozen=True)
class Options:
    """rounds, frames: turns of every contender, and frames in each; train_steps: training steps, 0 for none

    seconds: after so long no further network is begun
    """

    device: str = "cuda"
    contenders: tuple[str, ...] = ()
    rounds: int = 5
    frames: int = 20
    train_steps: int = 5
    seconds: float = float("inf")


def spec_of(name: str) -> NetSpec:
    """A network by its name in the table: "W16" is SPVCNN of that width, "SPVNAS" a subnet."""
    if name == "SPVNAS":
        return spvnas_like()
    if not name.startswith("W") or not name[1:].isdigit():
        raise ValueError(f"unknown network {name!r}, expected 'SPVNAS' or 'W' and a width, as 'W16'")
    return NetSpec.spvcnn(int(name[1:]))


def spvnas_like() -> NetSpec:
    """A subnet as the search finds them, of the size of SPVNAS at 20 GMACs: 22.3 G on a whole scan, 3.3 M weights."""

    def stage(transition: int, *blocks: tuple[int, int]) -> StageSpec:
        return StageSpec(transition, tuple(BlockSpec(*widths, projection=i == 0) for i, widths in enumerate(blocks)))

    encoder = (
        stage(32, (16, 20)),
        stage(20, (24, 36), (28, 36)),
        stage(36, (52, 76), (44, 76)),
        stage(76, (88, 132), (80, 132)),
    )
    decoder = (
        stage(116, (100, 100)),
        stage(80, (56, 64), (52, 64)),
        stage(44, (32, 44)),
        stage(36, (20, 48)),
    )
    return NetSpec("spvnas", (32, 32), encoder, decoder, point_branch=True)


def contenders(device: str) -> tuple[str, ...]:
    """Ours, the reference, and the libraries that are installed."""
    return (device.partition(":")[0], "torch", *(name for name, peer in PEERS.items() if peer.installed))


@dataclass
class Run:
    """A benchmark under way: the scan, its geometry, the contenders' processes."""

    options: Options
    points: Points
    levels: Levels
    workers: dict[str, Worker]
    report: Callable[[Row], None]

    def measure(self, case: Case, rates: Rates, expected: npt.NDArray[np.uint8] | None) -> list[Row]:
        """All contenders on one case, in turns. expected: the labels of the reference in float32, if there are any"""
        labels: dict[str, npt.NDArray[np.uint8]] = {}
        failed: dict[str, Row] = {}
        times: dict[str, list[Times]] = {}
        for name, worker in self.workers.items():
            with self._failing(case, name, failed):
                labels[name] = worker.ask("prepare", case, self.points, timeout_s=PREPARE_S)
        for _ in range(self.options.rounds):
            for name in [name for name in labels if name not in failed]:
                with self._failing(case, name, failed):
                    turn = self.workers[name].ask("frames", self.options.frames, timeout_s=FRAMES_S)
                    times.setdefault(name, []).append(turn)
        work = plan_work(build_plan(seeded(case.spec)), self.levels, DTYPES[case.precision].itemsize)
        rows = []
        for name in self.workers:
            if name not in failed:
                with self._failing(case, name, failed):
                    profile = self.workers[name].ask("profile", timeout_s=FRAMES_S)
                    agree = float("nan") if expected is None else float((labels[name] == expected).mean())
                    key = (case.network, case.precision, name)
                    rows.append(self._train(case, row_of(key, times[name], profile, work, rates, agree)))
            if name in failed:
                rows.append(failed[name])
            self.report(rows[-1])
        return rows

    def reference_labels(self, case: Case) -> npt.NDArray[np.uint8] | None:
        """What the reference says in float32, None where it fails."""
        if "torch" not in self.workers:
            return None
        try:
            labels: npt.NDArray[np.uint8] = self.workers["torch"].ask(
                "prepare", replace(case, precision="fp32"), self.points, timeout_s=PREPARE_S
            )
        except ContenderError:
            return None
        return labels

    def _train(self, case: Case, row: Row) -> Row:
        """The row with the time of a training step: other libraries are not trained with."""
        if not self.options.train_steps or row.contender not in (*OURS, "torch"):
            return row
        try:
            arguments = (case, self.points, self.options.train_steps)
            return replace(
                row, train_p50=median(self.workers[row.contender].ask("train", *arguments, timeout_s=PREPARE_S))
            )
        except ContenderError as error:
            return replace(row, train_error=str(error))

    @contextmanager
    def _failing(self, case: Case, name: str, failed: dict[str, Row]) -> Iterator[None]:
        try:
            yield
        except ContenderError as error:
            failed[name] = Row(case.network, case.precision, name, error=str(error))


def run(
    scan: Path, cases: Sequence[Case], options: Options, out: Path, report: Callable[[Row], None]
) -> tuple[Setting, list[Row]]:
    """Measure cases and write `out/<network>-<precision>.json` after each; the rows of all files there, in order.

    Raises ContenderError where not even the device's rates can be measured.
    """
    start = monotonic()
    points = read_scan(scan, "unit")
    levels = build_levels(quantize(torch.from_numpy(points), VOXEL_SIZE).coords)
    workers = {name: Worker(name, options.device) for name in options.contenders or contenders(options.device)}
    this = Run(options, points, levels, workers, report)
    try:
        judge = workers.get("torch") or next(iter(workers.values()))
        rates: dict[str, Rates] = {
            precision: judge.ask("rates", precision, timeout_s=FRAMES_S)
            for precision in dict.fromkeys(case.precision for case in cases)
        }
        frames = options.rounds * options.frames
        setting = Setting(machine(options.device), scan.name, len(points), len(levels.levels[0]), frames, rates)
        out.mkdir(parents=True, exist_ok=True)
        for case in cases:
            if monotonic() - start > options.seconds:
                print(f"out of time before {case.network} {case.precision}", file=sys.stderr)
                break
            rows = this.measure(case, rates[case.precision], this.reference_labels(case))
            write(out / f"{case.network}-{case.precision}.json", setting, rows)
    finally:
        for worker in workers.values():
            worker.stop()
    return gather(out)


def write(path: Path, setting: Setting, rows: Sequence[Row]) -> None:
    """One case as JSON."""
    data = {"setting": setting.to_dict(), "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(data, indent=2) + "\n")


def gather(folder: Path) -> tuple[Setting, list[Row]]:
    """All cases in a folder, oldest file first, under the setting of the newest; other machines and scans are left out.

    Raises FileNotFoundError for a folder without any.
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


def machine(device: str) -> str:
    """The device and the versions that matter."""
    packages = ("torch", "triton", "spconv", "spconv-triton", "torchsparse")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "a CPU"
    found = [f"{package} {v}" for package in packages if (v := _version(package))]
    cuda = [f"CUDA {torch.version.cuda}"] if device.startswith("cuda") else []
    return ", ".join([name, f"Python {platform.python_version()}", *cuda, *found])


def _version(package: str) -> str | None:
    """spconv's wheels for a GPU are called spconv-cu*."""
    names = [package, *(f"spconv-cu{n}" for n in (126, 124, 121, 120, 118, 114))] if package == "spconv" else [package]
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 where nothing can be measured."""
    given = _parser().parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            f"bench-gpu: no CUDA device: torch {torch.__version__} sees none, so there is nothing to measure; "
            "--device cpu --networks W2 --precisions fp32 tries the benchmark itself",
            file=sys.stderr,
        )
        return 1
    try:
        cases = [
            Case(name, spec_of(name), p) for p in given.precisions.split(",") for name in given.networks.split(",")
        ]
        if unknown := {case.precision for case in cases} - set(DTYPES):
            raise ValueError(f"unknown precision {', '.join(unknown)}, expected {' or '.join(DTYPES)}")
        names = tuple(name for name in given.contenders.split(",") if name)
        options = Options(given.device, names, given.rounds, given.frames, given.train_steps, given.seconds)
        with tempfile.TemporaryDirectory() as folder:
            scan = given.scan or _street(Path(folder))
            setting, rows = run(scan, cases, options, given.out, lambda row: print(row.line(), flush=True))
        tables = markdown(setting, rows)
        (given.out / "bench-gpu.md").write_text(tables + "\n")
        if given.docs:
            given.docs.write_text(place(given.docs.read_text(), tables))
    except (ValueError, OSError, ContenderError) as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        return 1
    print(tables)
    return 0


def _street(folder: Path) -> Path:
    from spvnas_ros.synthetic import street_scan

    street_scan(seed=0)[0].tofile(folder / "street_scan.bin")
    return folder / "street_scan.bin"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a scan that `spvnas segment` can read (default: a generated street)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the benchmark itself")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default %(default)s; W and any width")
    parser.add_argument("--precisions", default="fp16,fp32", help="default %(default)s")
    parser.add_argument("--contenders", default="", help="default: this engine, torch, and the installed libraries")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default %(default)s)")
    parser.add_argument("--frames", type=int, default=20, help="frames per turn (default %(default)s)")
    parser.add_argument("--train-steps", type=int, default=5, help="training steps, 0 for none (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no network after so long")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"), help="default %(default)s")
    parser.add_argument("--docs", type=Path, help="a Markdown file with markers, whose tables are replaced")
    return parser


if __name__ == "__main__":
    sys.exit(main())
