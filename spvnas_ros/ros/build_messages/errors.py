"""Defines the errors of a build."""

from __future__ import annotations


class BuildError(Exception):
    """The built messages cannot be used. The message gives the reason."""


class CannotBuild(BuildError):
    """This machine lacks something that a build needs. The message says what it is and how to get it."""


class NotInDistribution(CannotBuild):
    """A ROS distribution is in use and lacks the package. The message says where it is to be had."""
