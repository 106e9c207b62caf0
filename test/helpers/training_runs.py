"""What the training's tests know of the small recipe's runs."""

from __future__ import annotations

STEPS = 8
