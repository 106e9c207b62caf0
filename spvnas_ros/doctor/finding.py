"""What the doctor says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True)
class Finding:
    """An answer: "ok", "warn" or "bad", what it is about, what was found, and what to do about it."""

    level: str
    about: str
    found: str
    advice: str = ""


Findings = Iterator[Finding]
