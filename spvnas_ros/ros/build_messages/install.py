"""Installs a built package where Python and ROS find it, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spvnas_ros.ros.build_messages.packages import MessagePackage

STAMP = "built_by_spvnas_ros"
"""Name of a file in every package that we built. The file holds the fingerprint of what the package was built from."""


@dataclass(frozen=True)
class Place:
    """The place of a package under an installation prefix."""

    package: MessagePackage
    prefix: Path

    @property
    def module(self) -> Path:
        """Folder of the Python package."""
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.prefix / "lib" / version / "site-packages" / self.package.name

    @property
    def share(self) -> Path:
        """Folder of the definitions and type descriptions."""
        return self.prefix / "share" / self.package.name

    @property
    def stamp(self) -> str | None:
        """Fingerprint of the installed package; None where no package of ours is installed."""
        try:
            return (self.module / STAMP).read_text()
        except FileNotFoundError:
            return None

    @contextmanager
    def locked(self) -> Iterator[Path]:
        """Keeps other processes out while the block runs, and yields an empty folder to work in.

        The folder is on the file system of the prefix and is deleted at the end of the block. Raises OSError where the
        prefix cannot be written.
        """
        self.prefix.mkdir(parents=True, exist_ok=True)
        work = self.prefix / f".building-{self.package.name}"
        with (self.prefix / f".building-{self.package.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A killed build may have left the folder. With the lock held, no other process uses it.
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def install(self, source: Path, extension: Path, stamp: str, work: Path) -> None:
        """Installs the package from its generated source and its extension module, and replaces what was installed
        before.

        The Python package is put in place last, in one step: where it is, everything is. Must be called within
        `locked`.

        stamp: the fingerprint
        work:  the folder that `locked` yielded
        """
        module, share = work / "module", work / "share"
        shutil.copytree(source / "msg", module / "msg", ignore=_all_but(".py"))
        shutil.copy(extension, module)
        (module / "__init__.py").touch()
        (module / STAMP).write_text(stamp)
        shutil.copytree(source / "msg", share / "msg", ignore=_all_but(".idl", ".json"))
        for definition in self.package.definitions:
            shutil.copy(definition, share / "msg")
        (share / "package.xml").write_text(_package_xml(self.package))

        if self.module.exists():
            os.replace(self.module, work / "old")
        shutil.rmtree(self.share, ignore_errors=True)
        self.share.parent.mkdir(parents=True, exist_ok=True)
        os.replace(share, self.share)
        self._write_index()
        self.module.parent.mkdir(parents=True, exist_ok=True)
        os.replace(module, self.module)

    def _write_index(self) -> None:
        interfaces = sorted(path.name for path in (self.share / "msg").iterdir() if path.suffix != ".json")
        entries = {
            "packages": "",
            "package_run_dependencies": ";".join(self.package.dependencies),
            "rosidl_interfaces": "\n".join(f"msg/{name}" for name in interfaces),
        }
        for kind, text in entries.items():
            folder = self.prefix / "share" / "ament_index" / "resource_index" / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / self.package.name).write_text(text)


def _all_but(*suffixes: str) -> Callable[[str, list[str]], list[str]]:
    """Returns an `ignore` function for copytree that keeps only names with one of these suffixes."""
    return lambda _folder, names: [name for name in names if not name.endswith(suffixes)]


def _package_xml(package: MessagePackage) -> str:
    depends = "".join(f"  <exec_depend>{name}</exec_depend>\n" for name in package.dependencies)
    return _PACKAGE_XML.format(name=package.name, depends=depends)


_PACKAGE_XML = """<?xml version="1.0"?>
<package format="3">
  <name>{name}</name>
  <version>0.0.0</version>
  <description>Messages of the ROS package of this name, built by spvnas_ros for a machine without ROS.</description>
  <maintainer email="maintainers@spvnas-ros.example">spvnas_ros developers</maintainer>
  <license>Apache-2.0</license>
{depends}</package>
"""
