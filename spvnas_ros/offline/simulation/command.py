"""Runs `spvnas simulate`: turns options into a plan, shows progress and prints a summary."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spvnas_ros.errors import UserError
from spvnas_ros.offline.simulation.cast import SimulationError, check_embree
from spvnas_ros.offline.simulation.drive import Done, Plan, bag_path, check_folder, simulate
from spvnas_ros.offline.simulation.mounting import parse_height
from spvnas_ros.offline.simulation.sensors import find_sensor

_LONGEST = 3600.0
"""Seconds between two scans."""
_MOST_SCENES = 100_000
_MOST_SCANS = 10_000
"""Of a scene: at 10 Hz a quarter of an hour in one street."""


def default_processes() -> int:
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_plan(
    sensor: str,
    scans_per_scene: int,
    interval: float | None,
    seed: int,
    kind: str | None,
    formats: str,
    mount_height: str | None = None,
    mount_tilt: float = 0.0,
    mount_share: float = 1.0,
) -> Plan:
    """Returns the plan that the options describe. Raises UserError for invalid options."""
    chosen = tuple(name.strip() for name in formats.split(","))
    if "" in chosen or len(set(chosen)) < len(chosen):
        raise UserError(
            f"--format is {formats!r}, expected names with one comma between two, each once, such as semantic-kitti,bag"
        )
    if interval is not None and not interval <= _LONGEST:
        raise UserError(f"the interval is {interval} s, expected {_LONGEST:g} s at most")
    if scans_per_scene > _MOST_SCANS:
        raise UserError(
            f"found {scans_per_scene} scans a scene, expected {_MOST_SCANS} at most: a street ends; for more scans "
            "give more --scenes"
        )
    if interval is None:
        interval = find_sensor(sensor).sweep if "bag" in chosen else 1.0
    height = parse_height(mount_height)
    return Plan(sensor, scans_per_scene, interval, seed, kind, chosen, height, mount_tilt, mount_share)


def run(plan: Plan, scenes: int, out: Path, processes: int) -> None:
    """Simulates, shows progress, and prints a summary.

    Raises SimulationError and OSError like `simulate`, and ValueError where there is nothing to do.
    """
    if scenes < 1 or processes < 1:
        raise UserError(f"found {scenes} scenes and {processes} processes, expected 1 or more of each")
    if scenes > _MOST_SCENES:
        raise UserError(f"found {scenes} scenes, expected {_MOST_SCENES} at most")
    check_folder(plan, out)
    check_embree()
    _make(out)
    begin = perf_counter()
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    finished: list[Done] = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("simulating", total=scenes, rate="")
        try:
            for done in simulate(plan, scenes, out, processes):
                finished.append(done)
                made = sum(one.scans for one in finished)
                progress.update(task, advance=1, rate=f"{made / (perf_counter() - begin):.1f} scans/s" if made else "")
        except KeyboardInterrupt:
            words = f"{len(finished)} of {scenes} scenes are finished; the same command goes on there"
            raise KeyboardInterrupt(words) from None
    _report(plan, finished, out, perf_counter() - begin)


def _make(out: Path) -> None:
    """Makes the folder before work is spent. Raises SimulationError where it cannot be made or written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulationError(
            f"{out} cannot be made a folder for the scans ({error.strerror}); name another one with --out"
        ) from error


def _report(plan: Plan, finished: list[Done], out: Path, seconds: float) -> None:
    scans, points = sum(done.scans for done in finished), sum(done.points for done in finished)
    kept = sum(not done.scans for done in finished)
    lines = [f"{len(finished)} scene(s) of {plan.scans_per_scene} scan(s) by {plan.sensor} in {out}"]
    if "bag" in plan.formats:
        lines.append(f"a bag for each: {bag_path(out, 0)}" + (" ..." if len(finished) > 1 else ""))
    if kept:
        lines.append(f"{kept} of them had been there already")
    if scans:
        lines.append(f"{scans} scans, {points:,} points in {seconds:.1f} s: {scans / seconds:.1f} scans a second")
    Console(soft_wrap=True, highlight=False, markup=False).print("\n".join(lines))
