"""Build a package unless it is there already."""

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

from spvnas_ros.ros.build_messages.errors import CannotBuild
from spvnas_ros.ros.build_messages.install import STAMP, Place
from spvnas_ros.ros.build_messages.packages import DEPENDENCIES, MessagePackage

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
    """Have a message package installed: as ROS provides it, as an earlier build left it, or by building it now.

    prefix: where to install, laid out as a virtual environment; None for the one that runs

    Two processes may do this at once: one builds, the other waits for it. Raises CannotBuild where the machine lacks
    what a build needs, BuildError where what comes out is wrong, OSError where the prefix cannot be written.
    """
    if _provided(package):
        return Outcome.PROVIDED
    place = Place(package, prefix or Path(sys.prefix))
    fingerprint = _fingerprint(package)
    if place.stamp == fingerprint:
        return Outcome.UP_TO_DATE
    _require_generators(package)
    # They come with the ROS wheels only.
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
    """Whether Python finds a package of this name that is not of our building."""
    found = find_spec(package.name)
    # A folder without __init__.py, as the working directory may have one by chance, is no package.
    return found is not None and found.origin is not None and not (Path(found.origin).parent / STAMP).is_file()


def _require_generators(package: MessagePackage) -> None:
    missing = [name for name in (*_GENERATORS, *DEPENDENCIES) if not (Path(sys.prefix) / "share" / name).is_dir()]
    if not missing:
        return
    if distribution := os.environ.get("ROS_DISTRO"):
        name = package.name.replace("_", "-")
        raise CannotBuild(
            f"a ROS distribution ({distribution}) is in use without the package; it has it: "
            f"apt install ros-{distribution}-{name}"
        )
    raise CannotBuild(
        f"{sys.prefix} lacks the ROS wheels ({', '.join(missing)}); get them with: pip install 'spvnas_ros[ros]'"
    )


def _fingerprint(package: MessagePackage) -> str:
    """Everything a build depends on, as one hash."""
    digest = hashlib.sha256()
    for part in _ingredients(package):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _ingredients(package: MessagePackage) -> Iterator[bytes]:
    yield from (str(part).encode() for part in (sys.version_info[:2], sysconfig.get_config_var("SOABI")))
    yield from (_version(name).encode() for name in (*_GENERATORS, *DEPENDENCIES, "fastcdr", "numpy"))
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
