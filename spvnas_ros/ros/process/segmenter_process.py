"""The node `segmenter` as a process of its own, for programs that need one."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from typing import BinaryIO

from spvnas_ros.workers import command_of

_STOP_SECONDS = 30.0


@contextmanager
def segmenter_process(
    namespace: str,
    parameters: Mapping[str, str | bool | float],
    on_end: Callable[[str], None],
    log: BinaryIO | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node while the block runs, in this namespace and this environment; SIGINT ends it.

    on_end: called from a thread of its own when the process ends, at the latest behind the block, with how it ended
    log:    takes what the node prints, instead of this program's own output

    Yields the process, whose `returncode` is there behind the block.
    """
    command = command_of("spvnas_ros.ros.node", "--ros-args", "-r", f"__ns:={namespace}")
    for name, value in parameters.items():
        # Values are YAML, and a JSON string is a YAML string whatever is in it.
        command += ["-p", f"{name}:={json.dumps(value)}"]
    node = subprocess.Popen(command, stdout=log, stderr=log)
    watch = Thread(
        target=lambda: on_end(f"segmenter_node ended with status {node.wait()}"), name="watch node", daemon=True
    )
    watch.start()
    try:
        yield node
    finally:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        watch.join()
