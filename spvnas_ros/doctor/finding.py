"""Defines a finding, which is one line of the doctor's report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    level:  "ok", "warn" or "bad"
    about:  what the finding is about, in a word
    found:  what was found
    advice: what to do about it; "" where nothing needs to be done
    """

    level: str
    about: str
    found: str
    advice: str = ""


Findings = Iterator[Finding]
