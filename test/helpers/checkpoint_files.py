"""Checkpoints that are changed behind the project's back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from spvnas_ros.zoo.checkpoint import FORMAT

Tensors = dict[str, torch.Tensor]


def rewrite(
    path: Path,
    tensors: Callable[[Tensors], Any] = lambda _: None,
    document: Callable[[dict[str, Any]], Any] = lambda _: None,
) -> None:
    """Change a checkpoint's tensors or its header's document in place."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()[FORMAT])
    tensors(state)
    document(header)
    save_file(state, path, metadata={FORMAT: json.dumps(header)})
