"""The GPU benchmark: `python -m spvnas_ros.bench.gpu [--scan SCAN.bin]`, as `make bench-gpu` runs it.

Contenders take turns in rounds, each in a process of its own, on the same scan. A row is printed as soon as it is
finished, and is in the files and tables by then. A contender that fails, or finds no time, gets a row that says why.
Files of networks and precisions that were measured before are kept, so a run can be continued in parts:
`--networks W16 --precisions fp16`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from spvnas_ros.bench.cpu_worker import VOXEL_SIZE
from spvnas_ros.bench.gpu_report import Row, markdown, place
from spvnas_ros.bench.gpu_run import Options, gather, run
from spvnas_ros.bench.gpu_worker import DTYPES, Case, ContenderError
from spvnas_ros.engine.peers import PEERS
from spvnas_ros.errors import UserError
from spvnas_ros.nets.box_spec import BoxBranchSpec, kitti_head
from spvnas_ros.nets.spec import BlockSpec, NetSpec, StageSpec

NETWORKS = ("W16", "W32", "SPVNAS", "W16-boxes")
BOXES = "-boxes"
"""Behind the name of a network that has a box branch."""
SECONDS = 450.0


def spec_of(name: str) -> NetSpec:
    """Returns a network by its name in the table: "W16" is SPVCNN of that width, "SPVNAS" a subnet.

    "W16-boxes" has a box branch as wide as it, too.
    """
    if name == "SPVNAS":
        return spvnas_like()
    width = name.removesuffix(BOXES)[1:]
    if not name.startswith("W") or not width.isdigit():
        raise UserError(f"unknown network {name!r}, expected 'SPVNAS' or 'W' and a width, as 'W16' or 'W16{BOXES}'")
    plain = NetSpec.spvcnn(int(width))
    return replace(plain, boxes=box_branch(int(width))) if name.endswith(BOXES) else plain


def box_branch(width: int) -> BoxBranchSpec:
    """Returns a branch that looks for KITTI's classes all around, 51.2 m far.

    Its weights are not trained. So that boxes are compared with each other all the same, it asks for no score: always
    4096 boxes, more than what a trained network finds.
    """
    spec = BoxBranchSpec.around(VOXEL_SIZE, kitti_head("openpcdet").classes, width=width)
    return replace(spec, head=replace(spec.head, selection=replace(spec.head.selection, score=0.0)))


def spvnas_like() -> NetSpec:
    """Returns a subnet like those that the search finds.

    It has the size of SPVNAS at 20 GMACs: 22.3 G on a whole scan, 3.3 M weights.
    """

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
    return NetSpec("spvnas", (32, 32), encoder, decoder, point_levels=(True, True, True))


def contenders(device: str) -> tuple[str, ...]:
    """Returns our engine, the reference, and the libraries that are installed."""
    return (device.partition(":")[0], "torch", *(name for name, peer in PEERS.items() if peer.installed))


def machine(device: str) -> str:
    """Returns the name of the device and the versions that matter."""
    packages = ("torch", "triton", "spconv", "spconv-triton", "torchsparse")
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "a CPU"
    found = [f"{package} {v}" for package in packages if (v := _version(package))]
    cuda = [f"CUDA {torch.version.cuda}"] if device.startswith("cuda") else []
    return ", ".join([name, f"Python {platform.python_version()}", *cuda, *found])


def _version(package: str) -> str | None:
    """Returns a package's version, None where it is not installed. spconv's wheels for a GPU are called spconv-cu*."""
    names = [package, *(f"spconv-cu{n}" for n in (126, 124, 121, 120, 118, 114))] if package == "spconv" else [package]
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. The exit status is 1 where nothing can be measured, and after any error."""
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
            raise UserError(f"unknown precision {', '.join(unknown)}, expected {' or '.join(DTYPES)}")
        names = tuple(name for name in given.contenders.split(",") if name) or contenders(given.device)
        options = Options(given.device, names, given.rounds, given.frames, given.train_steps, given.seconds)
        if given.docs:
            place(given.docs.read_text(), "")  # before anything is measured
        with tempfile.TemporaryDirectory() as folder:
            scan = given.scan or _street(Path(folder))
            run(
                scan, cases, options, machine(given.device), given.out, lambda row: _publish(row, given.out, given.docs)
            )
        print(markdown(*gather(given.out)))
    except (UserError, OSError, ContenderError) as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        return 1
    return 0


def _publish(row: Row, out: Path, docs: Path | None) -> None:
    """Prints a row, and brings the tables up to date."""
    print(row.line(), flush=True)
    tables = markdown(*gather(out))
    (out / "bench-gpu.md").write_text(tables + "\n")
    if docs:
        docs.write_text(place(docs.read_text(), tables))


def _street(folder: Path) -> Path:
    from spvnas_ros.engine.sample_street import street_scan

    street_scan(seed=0)[0].tofile(folder / "street_scan.bin")
    return folder / "street_scan.bin"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a scan that `spvnas segment` can read (default: a generated street)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the benchmark itself")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="default %(default)s; W and any width, -boxes")
    parser.add_argument("--precisions", default="fp16,fp32", help="default %(default)s")
    parser.add_argument("--contenders", default="", help="default: this engine, torch, and the installed libraries")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default %(default)s)")
    parser.add_argument("--frames", type=int, default=20, help="frames per turn (default %(default)s)")
    parser.add_argument("--train-steps", type=int, default=5, help="training steps, 0 for none (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="end after so long (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-gpu"), help="default %(default)s")
    parser.add_argument("--docs", type=Path, help="a Markdown file with markers, whose tables are replaced")
    return parser


if __name__ == "__main__":
    sys.exit(main())
