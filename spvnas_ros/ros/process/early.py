"""What the node's process does first, before the imports that take a second: answer signals."""

from __future__ import annotations

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signals() -> None:
    """SIGINT and SIGTERM end the process from now on, at once and with status 0, until `ros_process` takes them over.

    They are unblocked: scripts/segmenter_node has them wait while Python starts.
    """
    for number in _SIGNALS:
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def segmenter_node() -> int:
    """The console script of that name. Returns the exit status."""
    end_on_signals()
    from spvnas_ros.ros.node.segmenter_node import main

    return main()


def _end(_signal: int, _frame: FrameType | None) -> None:
    # Not SystemExit: an import in work would turn it into something else, or swallow it.
    os._exit(0)
