"""The form of a network (widths, depths, voxels) without its weights, from any file that describes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spvnas_ros.nets.space import Candidate
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import SUBNETS, CheckpointError, facts_in, gives

_MOST_BYTES = 100_000_000
"""Of a description; `candidates.jsonl` of a thousand networks has two millions."""
_KINDS = (
    "expected a network that a search found (found_1.json, a line of candidates.jsonl), a published net.config, or a "
    ".safetensors checkpoint"
)


def read_form(source: str | Path, number: int = 0) -> Candidate:
    """Returns the network that a file describes, and the voxels that it is for.

    source: what a search found (`found_N.json`; `front.json` and `candidates.jsonl`, which hold several), a published
            `net.config`, or a checkpoint of a network that labels points: a file, a fetched model's name or `default`
    number: of several networks the one that is meant, from 1 on; 0 = the only one

    Raises SpecError and CheckpointError, which name the file, for one that describes no network, and FetchError where
    there is none.
    """
    path = resolve_weights(source)
    if path.suffix == ".safetensors":
        if number:
            raise CheckpointError(f"{path} holds one network, and number {number} of it was asked for; leave that out")
        if gives(path) == SUBNETS:
            raise CheckpointError(
                f"{path} holds a supernet, which is many networks; name one of them: a file that a search or "
                "`Candidate.to_dict` wrote"
            )
        facts = facts_in(path)
        return Candidate(facts.spec, facts.voxel_size)
    try:
        return form_of(_chosen(_entries(path), number))
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error


def form_of(document: Any) -> Candidate:
    """Returns the network that a value out of JSON describes, and its voxels. Raises SpecError where it is none."""
    if not isinstance(document, Mapping):
        raise SpecError(f"found {type(document).__name__}, {_KINDS}")
    if "output_channels" in document:
        return Candidate.from_net_config(document)
    candidate = document.get("candidate", document)
    if not (isinstance(candidate, Mapping) and candidate.keys() >= {"spec", "voxel_size"}):
        raise SpecError(f"it has {', '.join(map(repr, list(document)[:8])) or 'no entries'}; {_KINDS}")
    return Candidate.from_dict(candidate)


def _entries(path: Path) -> Any:
    """Returns what is in a file: of JSON its value, of several lines of JSON the list of theirs."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SpecError(f"it has {path.stat().st_size:,} bytes; {_KINDS}")
        text = path.read_text("utf-8")
        try:
            return json.loads(text)
        except ValueError:
            lines = text.splitlines()
            if len(lines) < 2 or not lines[0].startswith("{"):
                raise
            return [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise SpecError(f"it is neither JSON ({error}) nor a .safetensors file; {_KINDS}") from error


def _chosen(document: Any, number: int) -> Any:
    if not isinstance(document, list):
        if number > 1:
            raise SpecError(f"it holds one network, and number {number} of it was asked for")
        return document
    if number > len(document) or (not number and len(document) != 1):
        raise SpecError(f"it holds {len(document)} networks; choose one by its number, 1 to {len(document)}")
    return document[max(number, 1) - 1]
