"""C, C++ and Python source from message definitions, by ROS's own generators.

They are called from Python because their command, `rosidl generate`, does not run from wheels.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from rosidl_adapter.msg import convert_msg_to_idl
from rosidl_generator_c.cli import GenerateC
from rosidl_generator_py.cli import GeneratePython
from rosidl_generator_type_description.cli import HashTypeDescription
from rosidl_typesupport_c.cli import GenerateCTypesupport
from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

from spvnas_ros.ros.build_messages.errors import BuildError
from spvnas_ros.ros.build_messages.packages import DEPENDENCIES, MessagePackage

_IMPLEMENTATION = "rosidl_typesupport_fastrtps_c"
"""The one way of serialising in the wheels. With one alone it is linked in, with several they are loaded by name."""


def generate(package: MessagePackage, prefix: Path, folder: Path) -> Path:
    """Write a package's source.

    prefix: where the generators are installed
    folder: what to write into

    Returns the folder of the source, `<folder>/<package>`. Raises BuildError where a type's hash is not the expected.
    """
    source = folder / package.name
    share = [str(prefix / "share" / dependency) for dependency in DEPENDENCIES]
    with _generators_at(prefix):
        idl = [
            f"{source}:msg/{convert_msg_to_idl(package.folder, package.name, path, source / 'msg').name}"
            for path in (definition.relative_to(package.folder) for definition in package.definitions)
        ]
        described = HashTypeDescription("hash").generate_type_hashes(package.name, idl, share, source)
        _check_hashes(package, source)
        common = (package.name, idl, share, source)
        GenerateC("c").generate(*common, type_description_files=[str(path) for path in described])
        GenerateFastRTPSCTypesupport("fastrtps_c").generate(*common)
        GenerateCTypesupport("c", typesupport_implementations=[_IMPLEMENTATION]).generate(*common)
        GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(*common)
    return source


def _check_hashes(package: MessagePackage, source: Path) -> None:
    found = {path.stem: _type_hash(path, f"{package.name}/msg/{path.stem}") for path in source.glob("msg/*.json")}
    for name in sorted({*found, *package.type_hashes}):
        has, expected = found.get(name, "none"), package.type_hashes.get(name, "none")
        if has != expected:
            raise BuildError(
                f"{package.name}/msg/{name} has type hash {has}, expected {expected}: nodes of a distribution would "
                f"not understand it. Its definition, or one it uses from {', '.join(DEPENDENCIES)}, is not the "
                f"distribution's"
            )


def _type_hash(description: Path, type_name: str) -> str:
    hashes = json.loads(description.read_text())["type_hashes"]
    return next(str(entry["hash_string"]) for entry in hashes if entry["type_name"] == type_name).removeprefix(
        "RIHS01_"
    )


@contextlib.contextmanager
def _generators_at(prefix: Path) -> Iterator[None]:
    """Let the generators find their templates, and keep what they print to themselves."""
    before = os.environ.get("AMENT_PREFIX_PATH")
    os.environ["AMENT_PREFIX_PATH"] = str(prefix)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["AMENT_PREFIX_PATH"]
        else:
            os.environ["AMENT_PREFIX_PATH"] = before
