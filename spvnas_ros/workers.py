"""Processes that work for another one end with it, however it ends; threads that nobody waits for give way.

python -m spvnas_ros.workers PARENT MODULE [ARGUMENT]...      runs a module as a worker of the process PARENT
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_LOWEST = 19
"""The least priority, a "nice" value."""


def end_with_parent(parent: int) -> None:
    """Ends this process as soon as its parent has ended, by SIGKILL too. To be called first thing in a worker.

    parent: the process that started this one; where it has ended already, this process ends at once

    The system does this on Linux. Elsewhere a worker ends when it wants the next task. The parent's main thread must
    have started the worker, because Linux takes the end of the thread that did for the parent's.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def begin_worker(parent: int) -> None:
    """Ends this process with its parent, and leaves Ctrl-C, which a terminal sends to both, to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


def give_way() -> None:
    """Has this thread run where the other ones leave a core idle. It cannot be undone.

    Linux has priorities of threads; elsewhere it does nothing.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)


def command_of(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module as a worker of this process."""
    return [sys.executable, "-m", "spvnas_ros.workers", str(os.getpid()), module, *arguments]


if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
