"""The program `segmenter_node`: the node as a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Runs the node until SIGINT or SIGTERM. Returns the exit status: 1 where it could not start."""
    _end_on_signals()
    # Only now: these imports take a second, in which signals come, too.
    from spvnas_ros.ros.node import segmenter_node
    from spvnas_ros.ros.node.parameters import usage
    from spvnas_ros.ros.process.lifetime import run

    if {"-h", "--help"} & set(sys.argv):
        print(segmenter_node.__doc__)
        print(f"usage: segmenter_node --ros-args -r '~/input/points:=/velodyne_points'\n\nparameters:\n{usage()}")
        return 0
    return run(lambda: segmenter_node.SegmenterNode(command_line=sys.argv))


def _end_on_signals() -> None:
    """SIGINT and SIGTERM end the process from now on, at once and with status 0, until `run` answers them.

    They are unblocked: scripts/segmenter_node has them wait while Python starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _end(_signal: int, _frame: FrameType | None) -> None:
    # Not SystemExit: an import in work would turn it into something else, or swallow it.
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
