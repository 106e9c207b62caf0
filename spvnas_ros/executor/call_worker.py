"""A worker: reads a call from stdin, a line of JSON, carries it out and writes a line to stdout, until stdin ends.

What calls print goes to stderr, and they read nothing.
"""

from __future__ import annotations

import os
import signal

from spvnas_ros.executor.calls import perform


def main() -> None:
    """Works until stdin ends. Ctrl-C is left to the process that this one works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for message in calls:
        replies.write(perform(message).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
