"""Runs the command `python -m spvnas_ros.ros.build_messages`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from spvnas_ros.ros.build_messages.build import Outcome, ensure
from spvnas_ros.ros.build_messages.errors import BuildError, CannotBuild, NotInDistribution
from spvnas_ros.ros.build_messages.packages import PACKAGES, MessagePackage

_FAILED = 1
_CANNOT_BUILD = 3


def main(args: list[str] | None = None) -> int:
    """Parses the command line and builds the packages.

    Returns the exit status: 0, 1 where a build failed, 3 where this machine cannot build.
    """
    parser = argparse.ArgumentParser(
        prog="build_messages",
        description="Build message packages for rclpy from the ROS wheels, where ROS does not provide them.",
        epilog="Exit status 3: this machine cannot build; the message says what it lacks.",
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"default: {' '.join(PACKAGES)}")
    parser.add_argument("--prefix", type=Path, help="where to install; default: this Python's environment")
    given = parser.parse_args(args)
    if unknown := [name for name in given.packages if name not in PACKAGES]:
        parser.error(f"unknown package {unknown[0]}; there are {', '.join(PACKAGES)}")
    try:
        for name in given.packages or PACKAGES:
            try:
                _report(PACKAGES[name], given.prefix)
            except NotInDistribution as error:
                if given.packages or PACKAGES[name].needed:
                    raise
                print(f"{name}: not built, and only some sensors need it: {error}")
    except (BuildError, OSError) as error:
        print(f"build_messages: {name}: {error}", file=sys.stderr)
        return _CANNOT_BUILD if isinstance(error, CannotBuild) else _FAILED
    return 0


def _report(package: MessagePackage, prefix: Path | None) -> None:
    started = time.monotonic()
    outcome = ensure(package, prefix)
    took = f" in {time.monotonic() - started:.0f} s" if outcome is Outcome.BUILT else ""
    print(f"{package.name}: {outcome.value}{took}")


if __name__ == "__main__":
    raise SystemExit(main())
