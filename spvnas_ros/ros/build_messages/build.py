"""Builds a message package unless it is already installed."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from enum import Enum
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from spvnas_ros.ros.build_messages.errors import CannotBuild, NotInDistribution
from spvnas_ros.ros.build_messages.install import STAMP, Place
from spvnas_ros.ros.build_messages.packages import MessagePackage

_GENERATORS = (
    "rosidl_adapter",
    "rosidl_generator_type_description",
    "rosidl_generator_c",
    "rosidl_generator_py",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
)


class Outcome(Enum):
    """What `ensure` found or did."""

    PROVIDED = "provided by this Python's own ROS; nothing to build"
    UP_TO_DATE = "up to date"
    BUILT = "built"


def ensure(package: MessagePackage, prefix: Path | None = None) -> Outcome:
    """Makes sure that a message package is installed. ROS or an earlier build may provide it; otherwise it is built
    now.

    prefix: where to install, with the layout of a virtual environment; None for the prefix of this Python

    Two processes may call this at once: one builds, the other waits for it.

    Raises CannotBuild where the machine lacks something that a build needs (NotInDistribution where that is a package
    of a ROS distribution), BuildError where the result is wrong, and OSError where the prefix cannot be written.
    """
    if _provided(package):
        return Outcome.PROVIDED
    place = Place(package, prefix or Path(sys.prefix))
    fingerprint = _fingerprint(package)
    if place.stamp == fingerprint:
        return Outcome.UP_TO_DATE
    _require_generators(package)
    # These modules import the generators, which only the ROS wheels provide.
    from spvnas_ros.ros.build_messages.generate import generate
    from spvnas_ros.ros.build_messages.toolchain import Toolchain, compile_extension

    toolchain = Toolchain.find()
    with place.locked() as work:
        if place.stamp == fingerprint:
            return Outcome.UP_TO_DATE
        wheels = Path(sys.prefix)
        source = generate(package, wheels, work)
        objects = work / "objects"
        objects.mkdir()
        extension = compile_extension(package, source, wheels, toolchain, objects)
        place.install(source, extension, fingerprint, work)
    return Outcome.BUILT


def _provided(package: MessagePackage) -> bool:
    """Returns whether Python finds a package of this name that we did not build."""
    found = find_spec(package.name)
    # A folder without __init__.py is no package. The working directory may have one of this name by chance.
    return found is not None and found.origin is not None and not (Path(found.origin).parent / STAMP).is_file()


def _require_generators(package: MessagePackage) -> None:
    missing = [
        name for name in (*_GENERATORS, *package.dependencies) if not (Path(sys.prefix) / "share" / name).is_dir()
    ]
    if not missing:
        return
    if distribution := os.environ.get("ROS_DISTRO"):
        name = package.name.replace("_", "-")
        advice = package.source or f"it has it: apt install ros-{distribution}-{name}"
        raise NotInDistribution(f"a ROS distribution ({distribution}) is in use without the package; {advice}")
    raise CannotBuild(
        f"{sys.prefix} lacks the ROS wheels ({', '.join(missing)}); get them with: pip install 'spvnas_ros[ros]'"
    )


def _fingerprint(package: MessagePackage) -> str:
    """Returns one hash of everything that a build depends on."""
    digest = hashlib.sha256()
    for part in _ingredients(package):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _ingredients(package: MessagePackage) -> Iterator[bytes]:
    yield from (str(part).encode() for part in (sys.version_info[:2], sysconfig.get_config_var("SOABI")))
    yield from (_version(name).encode() for name in (*_GENERATORS, *package.dependencies, "fastcdr", "numpy"))
    for path in (*package.definitions, *sorted(Path(__file__).parent.glob("*.py"))):
        yield path.name.encode()
        yield path.read_bytes()


def _version(name: str) -> str:
    for distribution in (f"ros-{name.replace('_', '-')}", name):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""
