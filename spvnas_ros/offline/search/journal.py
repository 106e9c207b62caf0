"""What a search leaves behind, line by line, so that one that was killed goes on: every candidate and its score.

OUT/config.yaml        the recipe with all its values
OUT/run.json           which weights and which drives it was begun with
OUT/latency.json       the measured layers, where milliseconds are limited
OUT/candidates.jsonl   a line for each network that was tried; its number is the line's, from 1 on
OUT/found_N.safetensors  the best network within limit N, and OUT/found_N.json what it is
OUT/candidate_N.safetensors  network N of candidates.jsonl, where it was asked for, and OUT/candidate_N.json
OUT/front.json, OUT/front.png   the networks that nothing cheaper is as good as
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from spvnas_ros.nets.space import Candidate
from spvnas_ros.offline.search.evolution import Trial
from spvnas_ros.offline.training.config import ConfigError

CONFIG, RUN, LATENCY, CANDIDATES = "config.yaml", "run.json", "latency.json", "candidates.jsonl"
FRONT, PICTURE = "front.json", "front.png"


class Journal:
    """The candidates that were tried, in the order of the trials. A context manager.

    A search that goes on tries the same networks again from the first, and those that are here already have their
    scores. Raises ConfigError where the file holds something else; a last line that was cut short is taken out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._lines = 0
        whole = 0
        if path.exists():
            for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
                if not line.endswith(b"\n"):
                    break
                self._learn(line, number)
                whole += len(line)
        self._file: BinaryIO = path.open("r+b" if path.exists() else "wb")
        self._file.truncate(whole)
        self._file.seek(whole)

    def _learn(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
            self._known[_key(Candidate.from_dict(entry["candidate"]))] = entry["marks"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path}, line {number}: {error}; it is no line of a search") from error
        self._lines = number

    def __len__(self) -> int:
        """Returns the number of lines."""
        return self._lines

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def marks(self, candidate: Candidate) -> dict[str, Any] | None:
        """Returns what a candidate scored, None where it was not tried."""
        return self._known.get(_key(candidate))

    def add(self, trial: Trial, marks: dict[str, Any]) -> None:
        """Writes the line of a candidate that has none yet."""
        self._known[_key(trial.candidate)] = marks
        self._file.write(json.dumps(entry_of(trial, marks)).encode() + b"\n")
        self._file.flush()
        self._lines += 1


def entries_at(path: Path, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Returns lines of a journal by their numbers, from 1 on, also while a search goes on writing it.

    Raises ConfigError where there is no such file or line, or where it is no line of a search.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is not there: no network has been tried yet; search first, without --export")
    lines = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    found = {}
    for number in numbers:
        if not 1 <= number <= len(lines):
            raise ConfigError(f"{path} has no line {number}: it has {len(lines)}, a network each, counted from 1")
        try:
            entry = json.loads(lines[number - 1])
            Candidate.from_dict(entry["candidate"]), float(entry["marks"]["miou"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: {error}; it is no line of a search") from error
        found[number] = entry
    return found


def entry_of(trial: Trial, marks: dict[str, Any]) -> dict[str, Any]:
    """Returns a candidate's line."""
    return {
        "limit": trial.limit + 1,
        "generation": trial.generation + 1,
        "origin": trial.origin,
        **trial.cost.to_dict(),
        "marks": marks,
        "candidate": trial.candidate.to_dict(),
    }


def _key(candidate: Candidate) -> str:
    return json.dumps(candidate.to_dict(), sort_keys=True)


def unknown(journal: Journal, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Yields the trials whose candidates have not been scored, each candidate once."""
    asked = set()
    for trial in trials:
        if journal.marks(trial.candidate) is None and trial.candidate not in asked:
            asked.add(trial.candidate)
            yield trial
