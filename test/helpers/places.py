"""Where the tests' own files are."""

from __future__ import annotations

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
REPOSITORY = HELPERS.parents[1]
RECIPES = REPOSITORY / "config" / "train"
