"""What trainers wrap around a network's tensors: entries of dictionaries, prefixes of names, tensors of their own.

Everything that is looked through or left out is named, so that every entry of a file is accounted for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch

from spvnas_ros.zoo.checkpoint import CheckpointError, mismatches
from spvnas_ros.zoo.importers.detector_layouts import DETECTOR_LAYOUTS
from spvnas_ros.zoo.importers.layouts import LAYOUTS, SUPERNET

ENTRIES = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")
"""Entries that hold a network, the likeliest first."""
AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "swa_state_dict", "averaged_model")
"""Entries that hold the average of its weights. Where there is a network, too, it is taken, and not its average."""

_DEEPEST = 4
"""How many dictionaries may lie in one another."""
_COMPILED = "_orig_mod"
_COUNTER = "num_batches_tracked"
_NOT_THE_NETWORK = re.compile(
    r"n_averaged|criterion|criteria|loss|losses|loss_\w+|\w+_loss|class_weights?|metrics?|\w+_metrics?"
    r"|(train|val|valid|test)_\w+"
)
"""First parts of the names of a trainer's own tensors: losses, metrics, and how often an average was updated."""
_SHOWN = 4

State = Mapping[str, torch.Tensor]


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """Returns the dictionary in which a network's tensors lie, or the content itself where there is none, and notes."""
    notes: list[str] = []
    for _ in range(_DEEPEST):
        inner = _inner(content)
        if inner is None:
            break
        beside = [key for key in (*ENTRIES, *AVERAGED) if key != inner and isinstance(content.get(key), dict)]
        words = f"; {', '.join(map(repr, beside))} beside it left out" if beside else ""
        notes.append(f"the network is taken from the entry {inner!r}{words}")
        content = content[inner]
    return content, notes


def _inner(content: Any) -> str | None:
    """Returns the name of the entry that holds a network, if one does."""
    if not isinstance(content, dict):
        return None
    found = [key for key in (*ENTRIES, *AVERAGED) if isinstance(content.get(key), dict)]
    others = [key for key, value in content.items() if isinstance(key, str) and key not in found and _holds(value)]
    return next(iter((*found, *others)), None)


def _holds(value: Any) -> bool:
    """Tells whether a value is a dictionary of tensors of a network of this family, under any prefix."""
    return isinstance(value, dict) and bool(_prefixes([key for key in value if isinstance(key, str)]))


def is_trainers(key: Any) -> bool:
    """Tells whether an entry is a trainer's own by its name: a loss's, a metric's, an average's counter."""
    return isinstance(key, str) and bool(_NOT_THE_NETWORK.fullmatch(key.split(".")[0]))


def without_prefix(state: State) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Returns a state by the names that its project gave the tensors, and notes.

    Prefixes are those under which most of the names are known. A second copy of the network under another prefix, and
    tensors of the trainer's own, are left out. Whatever else there is stays, for others to complain of by name.
    """
    notes: list[str] = []
    if any(_COMPILED in key.split(".") for key in state):
        state = {".".join(part for part in key.split(".") if part != _COMPILED): value for key, value in state.items()}
        notes.append(f"{_COMPILED!r} (torch.compile) is taken out of the names")
    prefixes = _prefixes(state)
    if not prefixes:
        return dict(state), notes
    prefix = max(prefixes, key=lambda each: (len(prefixes[each]), -_averaged(each)))  # the first of several in the file
    if prefix:
        notes.append(f"names are read without the prefix {prefix!r}")
    for other, names in prefixes.items():
        apart = other and not prefix.startswith(other) and (not prefix or not other.startswith(prefix))
        if apart and names == prefixes[prefix]:
            copy = {key for key in state if key.startswith(other)}
            notes.append(f"left out: another {len(copy)} tensors of the network under the prefix {other!r}")
            state = {key: value for key, value in state.items() if key not in copy}
    mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    found = mine | {key: value for key, value in state.items() if not key.startswith(prefix)}
    own = [key for key in found if is_trainers(key)]
    if own:
        shown = ", ".join(own[:_SHOWN]) + (f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else "")
        notes.append(f"left out as the trainer's own: {shown}")
    return {key: value for key, value in found.items() if key not in set(own)}, notes


def _prefixes(keys: Iterable[str]) -> dict[str, set[str]]:
    """Returns the prefixes under which names of a project are found, and which names."""
    known = _known_names()
    found: dict[str, set[str]] = {}
    for key in keys:
        parts = [part for part in key.split(".") if part != _COMPILED]
        for index in range(len(parts)):
            if (name := ".".join(parts[index:])) in known:
                found.setdefault("".join(f"{part}." for part in parts[:index]), set()).add(name)
    return found


@cache
def _known_names() -> frozenset[str]:
    return frozenset(name for layout in (*LAYOUTS, SUPERNET, *DETECTOR_LAYOUTS) for name in layout.names())


def _averaged(prefix: str) -> bool:
    return any(word in prefix for word in ("ema", "averag", "avg", "swa", "teacher"))


def with_counters(state: State, expected: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Returns a state with BatchNorm's counters of steps, zeros where the file has none at all, and notes.

    expected: the tensors that the network should have, by the names in the state
    """
    missing = [key for key in expected if key.endswith(_COUNTER)]
    if not missing or any(key.endswith(_COUNTER) for key in state):
        return dict(state), []
    counters = {key: torch.zeros(expected[key].shape, dtype=expected[key].dtype) for key in missing}
    return dict(state) | counters, [
        f"{len(missing)} counters {_COUNTER} are not there and set to 0; no label needs them"
    ]


def fill_exactly(net: torch.nn.Module, kind: str, names: Mapping[str, str], state: State) -> list[str]:
    """Puts the tensors of a file into a network, see `filled`, and returns notes.

    kind:  what the network is, in a word
    names: the network's name of each of the file's tensors

    Raises CheckpointError where the file does not hold exactly the network's tensors, or values that are not finite.
    """
    expected = net.state_dict()
    theirs = {ours: key for key, ours in names.items() if ours in expected}
    state, notes = with_counters(state, {theirs[key]: value for key, value in expected.items()})
    if lines := mismatches(
        {theirs[key]: tuple(value.shape) for key, value in expected.items()},
        {key: tuple(value.shape) for key, value in state.items()},
    ):
        raise CheckpointError(f"it does not hold exactly the tensors of the {kind} that it should be:{lines}")
    filled(net, theirs, state)
    return notes


def filled(net: torch.nn.Module, theirs: Mapping[str, str], state: State) -> None:
    """Puts the tensors of a file into a network without memory behind it, and makes it ready for inference.

    theirs: the file's name of each of the network's tensors

    Raises CheckpointError for values that are not finite.
    """
    loaded = {}
    for key, like in net.state_dict().items():
        value = state[theirs[key]]
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{theirs[key]} has values that are not finite")
        loaded[key] = value.to(like.dtype, copy=True, memory_format=torch.contiguous_format)
    net.load_state_dict(loaded, assign=True)
    net.eval()
