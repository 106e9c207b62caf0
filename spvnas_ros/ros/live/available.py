"""Whether there is ROS at all, for commands that can do without."""

from __future__ import annotations


class RosMissingError(ValueError):
    """There is no ROS, or it does not start."""


def need_ros(what: str) -> None:
    """Raises RosMissingError, which names what needs ROS 2 and how to get it, where it is not there."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise RosMissingError(
            f"{what} needs ROS 2, which is not here ({error}); source a ROS installation, or pip install "
            "'spvnas_ros[ros]'"
        ) from error
