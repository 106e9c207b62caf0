"""Checks whether ROS is installed, for programs that can also start without it."""

from __future__ import annotations

from spvnas_ros.errors import UserError


class RosMissingError(UserError):
    """ROS is not installed, or does not start."""


def need_ros(what: str) -> None:
    """Raises RosMissingError where ROS 2 is not installed. The message says what needs it and how to get it."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise RosMissingError(
            f"{what} needs ROS 2, which is not here ({error}); source a ROS installation, or pip install "
            "'spvnas_ros[ros]'"
        ) from error
