"""The life of a process with a node, from its first line to its last: signals, callbacks, exit status.

SIGINT or SIGTERM ends it at any moment, with status 0 and closed files:

1. While Python starts, they wait: scripts/segmenter_node has them blocked.
2. While modules are imported, which takes a second, nothing is open yet: they end the process at once
   (ros/node/__main__.py).
3. From then on (`run`) the main thread does nothing but wait for them. The node is made, and its callbacks run, in a
   thread of its own, where signals are blocked. What it is in the midst of gets three seconds; then it is destroyed.
4. Further signals change nothing, for shells and launch like to send several; not even while the process ends.

Programs whose main thread has work to do, such as the bag player, are interrupted there: `ros_process`, `spinning`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import FrameType

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from spvnas_ros.ros.process.memory import keep_freed_memory
from spvnas_ros.ros.process.parameter_files import fault_in, given_by
from spvnas_ros.ros.process.transport import use_cloud_transport

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LONGEST_WAIT = 0.5
"""Seconds after which a thread that waits looks whether it should end, should nobody have woken it."""
_SWITCH_SECONDS = 0.0005
"""Time that a thread waits for the interpreter before it asks for it. A frame asks for it some hundred times: with
Python's 0.005 s, whatever Python runs beside the frame doubles its time."""
_LAST_MOMENT = 3.0
"""Seconds for what a signal finds half done; `ros2 launch` waits five before it insists."""


class StartError(Exception):
    """A node cannot start, for a reason that is the user's to mend. Says which."""


class StopRequested(BaseException):
    """SIGINT or SIGTERM came; raised in the main thread, wherever it is."""


def run(make_node: Callable[[], Node], args: list[str] | None = None) -> int:
    """Makes a node and runs its callbacks until SIGINT or SIGTERM, which end it cleanly at any moment.

    args: command line with ROS arguments; sys.argv where None

    Returns the exit status: 0, or 1 where the node could not start, with one line on stderr that says why.
    """
    stopped: SimpleQueue[bool] = SimpleQueue()  # True for a signal. Its `put` may interrupt its `get`, an Event's not.
    try:
        with _signals_answered(lambda: stopped.put(True)), _ros(args):
            life = _Life(make_node, on_end=lambda: stopped.put(False))
            by_signal = _first(stopped)
            if not life.end(_LAST_MOMENT if by_signal else None):
                os._exit(0)
            if not by_signal:
                life.raise_failure()
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextmanager
def ros_process(args: list[str] | None = None) -> Iterator[None]:
    """ROS for the block, with the transport and the memory that clouds need.

    SIGINT or SIGTERM ends the block with StopRequested, wherever it is.

    args: command line with ROS arguments; sys.argv where None

    Raises StartError where the ROS arguments cannot be used.
    """

    def interrupt() -> None:
        raise StopRequested

    with _signals_answered(interrupt), _ros(args):
        yield


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Runs a node's callbacks in a thread while the block runs; destroys the node behind it.

    The block's end raises what ended the callbacks before.
    """
    life = _Life(lambda: node)
    try:
        yield
    finally:
        life.end()
        life.raise_failure()


class _Life:
    """A node in a thread of its own: made there, its callbacks run there until the end.

    Signals are blocked there, and so in the threads and processes that come out of it. They reach the main thread,
    which waits for them, never compiled code, torch's for one, which is not made for what a handler raises; and Ctrl-C,
    which a terminal sends to every process, breaks no compiler that the network has started.

    on_end: called when the callbacks end, by themselves or by `end`
    """

    def __init__(self, make_node: Callable[[], Node], on_end: Callable[[], None] = lambda: None) -> None:
        self._executor = SingleThreadedExecutor()
        self._nodes: list[Node] = []
        self._failures: list[BaseException] = []
        self._stopping = Event()
        self._thread = Thread(target=self._live, args=(make_node, on_end), name="node", daemon=True)
        self._thread.start()

    def end(self, patience: float | None = None) -> bool:
        """Waits for what is being done, and destroys the node. False where it takes longer than `patience` seconds."""
        self._stopping.set()
        self._executor.wake()
        self._thread.join(patience)
        if self._thread.is_alive():
            return False
        self._executor.shutdown()
        for node in self._nodes:
            node.destroy_node()
        return True

    def raise_failure(self) -> None:
        """Raises what the making or the callbacks failed at."""
        for error in self._failures:
            raise error

    def _live(self, make_node: Callable[[], Node], on_end: Callable[[], None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._nodes.append(make_node())
            self._executor.add_node(self._nodes[0])
            # Not executor.spin(): its shutdown destroys the wake-up call that a thread about to wait would need.
            while not self._stopping.is_set():
                self._executor.spin_once(timeout_sec=_LONGEST_WAIT)
        except ExternalShutdownException:
            pass
        except BaseException as error:
            self._failures.append(error)
        finally:
            on_end()


def _first(events: SimpleQueue[bool]) -> bool:
    """The first event. Wakes now and then: a signal that the system hands to another thread, or at the very moment the
    wait begins, does not end the wait, but is answered then."""
    while True:
        with suppress(Empty):
            return events.get(timeout=_LONGEST_WAIT)


@contextmanager
def _ros(args: list[str] | None) -> Iterator[None]:
    use_cloud_transport()
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        try:
            # No handlers of rclpy's: they would pull the context away from under the frame in work.
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:
            reason = fault_in(given_by(sys.argv if args is None else args))
            raise StartError(reason or f"ROS does not take the command line: {error}") from error
        yield
    finally:
        rclpy.try_shutdown()


@contextmanager
def _signals_answered(answer: Callable[[], None]) -> Iterator[None]:
    """In the block the first SIGINT or SIGTERM is answered, in the main thread; those behind it change nothing."""
    answered = False

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        nonlocal answered
        if not answered:
            answered = True
            answer()

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if answered else handler)
