"""Processes that work for another one end with it, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Ends this process as soon as its parent has ended, by SIGKILL too. To be called first thing in a worker.

    parent: the process that started this one; where it has ended already, this process ends at once

    Ctrl-C, which a terminal sends to workers as well, is left to the parent, which tells them. The system does this on
    Linux. Elsewhere a worker ends when it wants the next task. The parent's main thread must have started the worker,
    because Linux takes the end of that thread for the parent's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
