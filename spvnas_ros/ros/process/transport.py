"""The middleware settings clouds need, and where the package's shared files are."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

PACKAGE = "spvnas_ros"
PROFILE = "config/fastdds_shm.xml"

_PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
_PROFILE_VARIABLE_BEFORE_KILTED = "FASTRTPS_DEFAULT_PROFILES_FILE"
_DISTRIBUTIONS_BEFORE_KILTED = ("humble", "iron", "jazzy")

_TRANSPORT_CHOICES = (_PROFILE_VARIABLE, _PROFILE_VARIABLE_BEFORE_KILTED, "FASTDDS_BUILTIN_TRANSPORTS")
"""Variables by which a user has chosen transports already; our profile would override the choice."""


def share_file(relative: str) -> Path | None:
    """A file of the package's share folder: of the source tree, of a ROS workspace or of a pip installation.

    None where it is in none of them.
    """
    return next((path for folder in share_folders() if (path := folder / relative).is_file()), None)


def cloud_transport(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that have Fast DDS use the package's transport profile, in a process with this environment.

    Empty where the user has chosen transports by a variable of Fast DDS, or the profile is not installed. Other
    middlewares ignore them.
    """
    profile = share_file(PROFILE)
    if profile is None or any(environment.get(variable) for variable in _TRANSPORT_CHOICES):
        return {}
    old = environment.get("ROS_DISTRO") in _DISTRIBUTIONS_BEFORE_KILTED
    return {_PROFILE_VARIABLE_BEFORE_KILTED if old else _PROFILE_VARIABLE: str(profile)}


def use_cloud_transport(environment: MutableMapping[str, str] = os.environ) -> None:
    """Use the package's transport profile in this process and those it starts. Must come before rclpy.init."""
    environment.update(cloud_transport(environment))


def share_folders() -> Iterator[Path]:
    """Yields the folders in which the package's `config`, `launch` and `rviz` may lie, the likeliest first."""
    source = Path(__file__).resolve().parents[3]
    if (source / "package.xml").is_file():
        yield source
    # The ROS wheels of PyPI set no AMENT_PREFIX_PATH: the prefixes of Python stand in for it.
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    for prefix in (*prefixes, sysconfig.get_path("data"), sys.prefix):
        if prefix:
            yield Path(prefix) / "share" / PACKAGE
