"""Plays a bag through the live node in real time, again and again, and makes a table of the figures.

python -m spvnas_ros.trials.real_time BAG [--weights default] [--precisions int16 int8] [--rounds 3] --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEADER = (
    "| precision | listens to | labels, p50 | p95 | objects, p50 | p95 | network, p50 | dropped | lost |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Setting:
    """What differs between two replays: the precision, and whether somebody listens to objects."""

    precision: str
    boxes: bool

    def __str__(self) -> str:
        return f"{self.precision}{'' if self.boxes else '_labels'}"


def row(setting: Setting, reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns a line of the table: milliseconds and clouds, least and largest of the reports of `spvnas replay`."""

    def span(values: Sequence[float | None]) -> str:
        found = sorted(round(value) for value in values if value is not None)
        if not found:
            return "-"
        return f"{found[0]}" if found[0] == found[-1] else f"{found[0]}-{found[-1]}"

    def part(name: str, key: str, of: str | None = None) -> str:
        spreads = [(report[of] if of else report).get(name) for report in reports]
        return span([spread[key] if spread else None for spread in spreads])

    cells = (
        setting.precision,
        "labels, objects" if setting.boxes else "labels",
        part("latency_ms", "p50"),
        part("latency_ms", "p95"),
        part("boxes_ms", "p50"),
        part("boxes_ms", "p95"),
        part("inference", "p50", "stages_ms"),
        span([report["dropped"] for report in reports]),
        span([report["lost"] for report in reports]),
    )
    return f"| {' | '.join(cells)} |"


def table(reports: Mapping[Setting, Sequence[Mapping[str, Any]]]) -> str:
    """Returns the table in Markdown, from the reports of each setting."""
    return "\n".join((_HEADER, *(row(setting, each) for setting, each in reports.items() if each)))


def measure(bag: Path, weights: str, settings: Sequence[Setting], rounds: int, out: Path) -> str:
    """Replays the bag with every setting in turn, so many rounds, and returns the table.

    Raises CalledProcessError where a replay fails; what it says comes on stderr.
    """
    reports: dict[Setting, list[Mapping[str, Any]]] = {setting: [] for setting in settings}
    for turn in range(rounds):
        for setting in settings:
            folder = out / f"{setting}_{turn}"
            command = [sys.executable, "-m", "spvnas_ros.cli", "replay", str(bag), "--weights", weights, "--force"]
            command += [
                "--precision",
                setting.precision,
                "--out",
                str(folder),
                *([] if setting.boxes else ["--no-boxes"]),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            reports[setting].append(json.loads((folder / "report.json").read_text()))
    return table(reports)


def main(args: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="real_time", description="Measure the live node in real time.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--precisions", nargs="+", default=["int16", "int8"], help="(default int16 int8)")
    parser.add_argument("--rounds", type=int, default=3, help="replays of each kind, in turns (default 3)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(args)
    settings = [Setting(precision, boxes) for precision in options.precisions for boxes in (False, True)]
    try:
        found = measure(options.bag, options.weights, settings, options.rounds, options.out)
    except subprocess.CalledProcessError as error:
        print(f"a replay ended with status {error.returncode}", file=sys.stderr)
        return 1
    print(found)
    (options.out / "table.md").write_text(found + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
