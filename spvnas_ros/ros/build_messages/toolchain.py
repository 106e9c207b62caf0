"""Compiles generated source into one extension module."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spvnas_ros.ros.build_messages.errors import BuildError, CannotBuild
from spvnas_ros.ros.build_messages.packages import MessagePackage

_FLAGS = ("-O1", "-fPIC", "-w")
"""No more than -O1: the compiled code copies fields and spends its time in Fast CDR, which is already compiled."""

_SHOWN_ERRORS = 2000
"""How many characters of a compiler's error output are shown."""

_DEPENDENCY_LIBRARIES = (
    "rosidl_generator_c",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
    "rosidl_generator_py",
)
_LIBRARIES = (
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_introspection_c",
    "rosidl_runtime_c",
    "rosidl_dynamic_typesupport",
    "rmw",
    "rcutils",
    "fastcdr",
)


@dataclass(frozen=True)
class Toolchain:
    """Paths of the compilers and of Python's header files."""

    c: str
    cpp: str
    headers: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ, headers: Path | None = None) -> Toolchain:
        """Finds the compilers that CC and CXX name, or else gcc and g++.

        headers: folder that should hold Python.h; None for the folder of this Python

        Raises CannotBuild where a compiler or Python.h is missing.
        """
        headers = headers or Path(sysconfig.get_path("include"))
        if not (headers / "Python.h").is_file():
            raise CannotBuild(
                f"there is no {headers / 'Python.h'}; install Python's header files "
                f"(Debian, Ubuntu: apt install python3-dev)"
            )
        return cls(_compiler(environment, "CC", "gcc"), _compiler(environment, "CXX", "g++"), headers)


def compile_extension(package: MessagePackage, source: Path, prefix: Path, toolchain: Toolchain, folder: Path) -> Path:
    """Compiles and links the generated source of a package.

    source: what `generate` returned
    prefix: the prefix whose `include` and `lib` hold ROS
    folder: an empty folder to work in

    Returns the extension module, in `folder`. Raises BuildError with the compiler's output where the compiler fails.
    """
    includes = [
        f"-I{path}"
        for path in (
            source.parent,
            # The headers of a ROS package lie in <package>/<package>/, the headers of other libraries in <library>/.
            prefix / "include",
            *sorted(child for child in (prefix / "include").iterdir() if child.is_dir()),
            toolchain.headers,
            np.get_include(),
        )
    ]

    def compiled(unit: Path) -> str:
        output = unit.with_suffix(f"{unit.suffix}.o")
        language = [toolchain.cpp, "-std=c++17"] if unit.suffix == ".cpp" else [toolchain.c]
        _run(f"compiling {unit.name}", *language, *_FLAGS, *includes, "-c", str(unit), "-o", str(output))
        return str(output)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        linked = list(pool.map(compiled, _write_units(package, source, folder)))
    extension = folder / f"{package.name}_s__rosidl_typesupport_c.so"
    link = [toolchain.cpp, "-shared", "-o", str(extension), *linked, *_link_flags(package, prefix / "lib")]
    _run(f"linking {extension.name}", *link)
    return extension


def _write_units(package: MessagePackage, source: Path, folder: Path) -> list[Path]:
    """Writes one file for each kind of generated file, which includes all files of this kind. Returns the slowest
    first.

    Nearly all the time is spent on reading headers: the generated files would take three times as long one by one.
    """
    # The generators write an entry point for each type support. Only this one is used.
    units = {f"{package.name}.c": [source / f"_{package.name}_s.ep.rosidl_typesupport_c.c"]}
    for path in sorted(source.glob("msg/**/*.c*")):
        message, _, kind = path.name.rpartition("__")
        # Each description needs a file of its own: descriptions of different messages define the same names.
        name = path.name if kind == "description.c" else kind if message else "python.c"
        units.setdefault(name, []).append(path)
    for name, files in units.items():
        includes = (f'#include "{path.relative_to(source.parent).as_posix()}"\n' for path in files)
        (folder / name).write_text("".join(includes))
    return [folder / name for name in sorted(units, key=lambda name: not name.endswith(".cpp"))]


def _link_flags(package: MessagePackage, libraries: Path) -> list[str]:
    names = [f"{name}__{library}" for name in package.dependencies for library in _DEPENDENCY_LIBRARIES]
    search = [f"-L{libraries}", f"-Wl,-rpath-link,{libraries}", f"-Wl,-rpath,{libraries}"]
    return [*search, *(f"-l{name}" for name in (*names, *_LIBRARIES))]


def _compiler(environment: Mapping[str, str], variable: str, default: str) -> str:
    name = environment.get(variable) or default
    found = shutil.which(name, path=environment.get("PATH"))
    if found is None:
        raise CannotBuild(
            f"there is no compiler {name} on the PATH; install one (Debian, Ubuntu: apt install g++) "
            f"or name yours in {variable}"
        )
    return found


def _run(what: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = done.stderr[-_SHOWN_ERRORS:]
        raise BuildError(f"{what} with {command[0]} ended with status {done.returncode}:\n{said}")
