"""Generates C, C++ and Python source from message definitions with ROS's own generators.

The generators are called from Python because their command, `rosidl generate`, does not run from wheels.
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
from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

from spvnas_ros.ros.build_messages.errors import BuildError
from spvnas_ros.ros.build_messages.packages import MessagePackage

_TYPE_SUPPORT = """
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_interface/macros.h"
#include "rosidl_typesupport_introspection_c/identifier.h"

#define SYMBOL(KIND, MESSAGE) ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(KIND, {package}, msg, MESSAGE)
#define DEFINE(MESSAGE) \\
  const rosidl_message_type_support_t * SYMBOL(rosidl_typesupport_fastrtps_c, MESSAGE)(void); \\
  const rosidl_message_type_support_t * SYMBOL(rosidl_typesupport_introspection_c, MESSAGE)(void); \\
  static const rosidl_message_type_support_t * find_##MESSAGE( \\
    const rosidl_message_type_support_t * handle, const char * identifier) {{ \\
    if (strcmp(identifier, rosidl_typesupport_introspection_c__identifier) == 0) \\
      return SYMBOL(rosidl_typesupport_introspection_c, MESSAGE)(); \\
    return get_message_typesupport_handle_function(handle, identifier); \\
  }} \\
  const rosidl_message_type_support_t * SYMBOL(rosidl_typesupport_c, MESSAGE)(void) {{ \\
    static rosidl_message_type_support_t handle; \\
    handle = *SYMBOL(rosidl_typesupport_fastrtps_c, MESSAGE)(); \\
    handle.func = find_##MESSAGE; \\
    return &handle; \\
  }}
{definitions}
"""
"""The type support that rclpy asks for: how a message is serialised (fastrtps). Through it the fields of the message
(introspection) are found, too.

rmw_fastrtps looks for the fields to announce the type. Where it finds none it goes on, but leaves an error set, and the
next error that is set prints both. ROS's generator of this code cannot be used: it links one of the two kinds if there
is only one, but loads two by name from LD_LIBRARY_PATH, which need not contain the prefix.
"""


def generate(package: MessagePackage, prefix: Path, folder: Path) -> Path:
    """Writes the source of a package.

    prefix: where the generators are installed
    folder: where the source is written

    Returns the folder of the source, `<folder>/<package>`. Raises BuildError where the hash of a type is not the
    expected one.
    """
    source = folder / package.name
    share = [str(prefix / "share" / dependency) for dependency in package.dependencies]
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
        GenerateIntrospectionCTypesupport("introspection_c").generate(*common)
        GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(*common)
    _write_type_support(package, source)
    return source


def _write_type_support(package: MessagePackage, source: Path) -> None:
    definitions = "\n".join(f"DEFINE({name})" for name in sorted(package.type_hashes))
    text = _TYPE_SUPPORT.format(package=package.name, definitions=definitions)
    (source / "msg" / "detail" / f"{package.name}__lookup.c").write_text(text)


def _check_hashes(package: MessagePackage, source: Path) -> None:
    found = {path.stem: _type_hash(path, f"{package.name}/msg/{path.stem}") for path in source.glob("msg/*.json")}
    for name in sorted({*found, *package.type_hashes}):
        has, expected = found.get(name, "none"), package.type_hashes.get(name, "none")
        if has != expected:
            raise BuildError(
                f"{package.name}/msg/{name} has type hash {has}, expected {expected}: nodes of a distribution would "
                f"not understand it. Its definition, or one it uses from {', '.join(package.dependencies)}, is not the "
                f"distribution's"
            )


def _type_hash(description: Path, type_name: str) -> str:
    hashes = json.loads(description.read_text())["type_hashes"]
    return next(str(entry["hash_string"]) for entry in hashes if entry["type_name"] == type_name).removeprefix(
        "RIHS01_"
    )


@contextlib.contextmanager
def _generators_at(prefix: Path) -> Iterator[None]:
    """Lets the generators find their templates, and suppresses what they print."""
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
