"""Where the CUDA engine's tests run: on a GPU or, without one, on the CPU in Triton's interpreter.

To be imported before anything that imports triton, which looks at the variable once.
"""

from __future__ import annotations

import os
import sys

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

if DEVICE.type == "cpu":
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before it could be told to interpret; import on_device first")
    os.environ["TRITON_INTERPRET"] = "1"

TILE_ROWS = (256 if DEVICE.type == "cpu" else 64,) * 5
"""Larger tiles than on a GPU: the interpreter's time goes by operations, not by their size."""
