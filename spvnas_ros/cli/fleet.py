"""`spvnas segment` on several recordings: each is a call of its own, for worker processes or a Ray cluster."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console

from spvnas_ros.cli.one_source import label
from spvnas_ros.errors import UserError
from spvnas_ros.executor import Call, open_executor
from spvnas_ros.executor.chosen import cores


def label_fleet(
    sources: Sequence[Path],
    out: Path,
    options: Mapping[str, Any],
    *,
    processes: int | None = None,
    ray: str | None = None,
) -> int:
    """Labels each source into a folder of its own, and prints what each run said. Returns 1 where one of them was not
    labelled completely, else 0.

    options:   values of `spvnas segment`'s options, by the names of its parameters
    processes: how many sources are labelled at a time on this machine, which share its cores; None = 1
    ray:       the cluster on which they are labelled instead; one source takes one core, or a GPU with device cuda

    Like a single one, a run that was interrupted goes on when the same command is given again. Raises UserError where
    two sources would share a folder.
    """
    calls = [
        Call(
            str(source),
            f"{__name__}:label_one",
            {"source": str(source.resolve()), "out": str((out / folder).resolve()), "options": _absolute(options)},
        )
        for source, folder in zip(sources, folders_of(sources), strict=True)
    ]
    console = Console(soft_wrap=True, highlight=False, markup=False)
    at_once = processes or 1
    threads = 1 if ray else max(1, cores() // at_once)
    gpus = int(str(options["device"]).startswith("cuda"))
    failed = []
    with open_executor(processes if ray else at_once, ray, threads, gpus) as executor:
        try:
            for number, outcome in enumerate(executor.outcomes(calls), 1):
                console.print(f"{number}/{len(calls)} {outcome.call.name}")
                if outcome.fault:
                    console.print(f"  {outcome.said}")
                for line in (outcome.result or {}).get("said", "").splitlines():
                    console.print(f"  {line}")
                if outcome.fault or outcome.result["status"]:
                    failed.append(outcome.call.name)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("labels so far are kept; the same command goes on there") from None
    if failed:
        console.print(f"{len(failed)} of {len(calls)} not labelled completely: {', '.join(failed)}")
    return int(bool(failed))


def label_one(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Labels a source; what a worker is asked for. Returns the exit status, and what was said."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = label(Path(argument["source"]), Path(argument["out"]), argument["options"])
    return {"status": status, "said": said.getvalue()}


def folders_of(sources: Sequence[Path]) -> list[Path]:
    """Returns the folder of each source's results: its path below the folder that all are in, without the suffix where
    that leaves it unlike the others.

    Raises UserError where a source is given twice or lies within another one.
    """
    paths = [source.resolve() for source in sources]
    for number, path in enumerate(paths):
        if twice := next((other for other in paths[:number] if path == other), None):
            raise UserError(f"{twice} is named twice; name every source once")
        if around := next((other for other in paths if other in path.parents), None):
            raise UserError(f"{path} lies in {around}, which is a source, too; name either")
    common = Path(os.path.commonpath([path.parent for path in paths]))
    below = [path.relative_to(common) for path in paths]
    short = [path.with_suffix("") for path in below]
    counts = Counter(short)
    whole = set(below)
    return [
        brief if counts[brief] == 1 and (brief == path or brief not in whole) else path
        for brief, path in zip(short, below, strict=True)
    ]


def _absolute(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options whose paths do not depend on the folder that the command was given in."""
    found = dict(options)
    for name in ("weights", "boxes", "truth"):
        value = found[name]
        if isinstance(value, str) and Path(value).exists():
            found[name] = str(Path(value).resolve())
    return found
