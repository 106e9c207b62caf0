"""What can go wrong in a build."""

from __future__ import annotations


class BuildError(Exception):
    """The messages cannot be used as they come out, for the reason given."""


class CannotBuild(BuildError):
    """This machine lacks something that a build needs. Says what, and how to get it."""
