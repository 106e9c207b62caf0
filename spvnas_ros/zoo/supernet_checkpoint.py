"""The checkpoint of a supernet: the same file as a labelling network's, whose header says that it gives subnets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spvnas_ros.nets.space import Candidate, Space
from spvnas_ros.nets.spec_error import SpecError
from spvnas_ros.nets.supernet import Supernet
from spvnas_ros.zoo.checkpoint import (
    SUBNETS,
    CheckpointError,
    Facts,
    facts_of,
    fill,
    read_checkpoint,
    without_memory,
    write_checkpoint,
)

_VERSION = 5


def save_supernet(path: str | Path, supernet: Supernet, facts: Facts, *, half: bool = False) -> None:
    """Writes a supernet, its space and its facts to `path`. On any failure, the file that was there before stays.

    facts: of the largest network
    half:  store kernels and matrices as float16, which halves the file

    Raises CheckpointError where the facts are those of another network, or where the file cannot be written.
    """
    if facts.spec != supernet.net.spec:
        raise CheckpointError(f"the facts describe another network: {facts.spec}, expected {supernet.net.spec}")
    document = {"version": _VERSION, "gives": SUBNETS} | asdict(facts) | {"spec": facts.spec.to_dict()}
    write_checkpoint(Path(path), supernet.net, document | {"space": supernet.space.to_dict()}, half=half)


def load_supernet(path: str | Path) -> tuple[Supernet, Facts]:
    """Reads a supernet, and the facts of its largest network. It is on the CPU, in float32 and in evaluation mode.

    Raises CheckpointError for a file that is missing, cut short, damaged, not a supernet's checkpoint, of a newer
    version, or whose tensors are not exactly those of the network its header describes (it names them).
    """
    path = Path(path)
    (facts, space), state = read_checkpoint(path, SUBNETS, _read)
    try:
        supernet = without_memory(lambda: Supernet(space), f"no supernet can be built from {space}")
    except SpecError as error:
        raise CheckpointError(f"{path} has a header that cannot be used: {error}") from error
    fill(path, supernet.net, "supernet", state, facts.weights_sha256)
    return supernet.eval(), facts


def subnet_facts(facts: Facts, candidate: Candidate, name: str = "") -> Facts:
    """Returns the facts of a subnet from those of its supernet."""
    return replace(
        facts, spec=candidate.spec, voxel_size=candidate.voxel_size, name=name or facts.name, weights_sha256=None
    )


def _read(document: Mapping[str, Any]) -> tuple[Facts, Space]:
    facts, space = facts_of(document), Space.from_dict(document["space"])
    if space.largest().spec != facts.spec:
        raise CheckpointError("its space has another largest network than the one in the header")
    return facts, space
