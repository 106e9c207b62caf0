"""The error that all descriptions of networks raise."""

from __future__ import annotations

from spvnas_ros.errors import UserError


class SpecError(UserError):
    """The error for a description that does not describe a network of this family."""
