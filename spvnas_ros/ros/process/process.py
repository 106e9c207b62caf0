"""A node as a process: middleware settings, signals, exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from types import FrameType

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos_overriding_options import InvalidQosOverridesError
from rclpy.signals import SignalHandlerOptions

from spvnas_ros.ros.process.memory import keep_freed_memory
from spvnas_ros.ros.process.transport import use_cloud_transport

_LONGEST_WAIT = 0.5
"""Seconds after which a thread that waits looks whether it should end, should nobody have woken it."""
_LAST_MOMENT = 3.0
"""Seconds for a node that a signal finds half made; `ros2 launch` waits five before it insists."""


class StartError(Exception):
    """A node cannot start, for a reason that is the user's to mend. Says which."""


class StopRequested(BaseException):
    """SIGINT or SIGTERM came; raised in the main thread, wherever it is."""


@dataclass
class Signals:
    """Whether SIGINT or SIGTERM came."""

    requested_stop: bool = False

    def stop_if_requested(self, error: Exception) -> None:
        """Raise StopRequested where a signal came before this error: it may have met a child process, such as a
        compiler."""
        if self.requested_stop:
            raise StopRequested from error


def run(make_node: Callable[[Signals], Node], args: list[str] | None = None) -> int:
    """Make a node and spin it until SIGINT or SIGTERM, which end it cleanly at any moment.

    make_node: told of signals, lest it report as an error what they broke
    args:      command line with ROS arguments; sys.argv where None

    Returns the exit status: 0, or 1 where the node could not start, with one line on stderr that says why.
    """
    try:
        # The main thread only waits: it stays free for signals, which Python delivers there. What is raised in the
        # midst of anything else can be lost, or end the process: compiled code, torch's for one, is not made for it.
        with ros_process(args) as signals, spinning(_made(make_node, signals)) as ended:
            # StopRequested is lost where the signal met a destructor, or a callback of Python's imports.
            if not signals.requested_stop:
                _await(ended)
    except StopRequested:
        return 0
    except StartError as error:
        print(f"cannot start: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextmanager
def ros_process(args: list[str] | None = None) -> Iterator[Signals]:
    """ROS for the block, with the transport and the memory that clouds need.

    SIGINT or SIGTERM ends the block with StopRequested, wherever it is. Yields whether one came.

    args: command line with ROS arguments; sys.argv where None

    Raises StartError where the ROS arguments cannot be used.
    """
    use_cloud_transport()
    keep_freed_memory()
    with _signals_stop() as signals:
        try:
            try:
                # No handlers of rclpy's: they would pull the context away from under the frame in work.
                rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
            except RuntimeError as error:
                raise StartError(f"ROS does not take the command line: {error}") from error
            yield signals
        finally:
            rclpy.try_shutdown()


@contextmanager
def spinning(node: Node) -> Iterator[Event]:
    """Run a node's callbacks in a thread while the block runs; destroy the node behind it.

    Yields an event that is set where the callbacks ended by themselves. The block's end raises what ended them.
    """
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping, ended = Event(), Event()
    failures: list[Exception] = []

    def spin() -> None:
        try:
            # Not executor.spin(): its shutdown destroys the wake-up call that a thread about to wait would need.
            while not stopping.is_set():
                executor.spin_once(timeout_sec=_LONGEST_WAIT)
        except (ExternalShutdownException, StopRequested):  # the latter from a transition that the signal broke
            pass
        except Exception as error:
            failures.append(error)
        finally:
            ended.set()

    thread = Thread(target=spin, name="callbacks", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        stopping.set()
        executor.wake()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        if failures:
            raise failures[0]


def _await(event: Event) -> None:
    """Wait in the main thread, and wake now and then: a signal that the system hands to another thread, or at the very
    moment the wait begins, does not end it, but is answered then."""
    while not event.wait(_LONGEST_WAIT):
        pass


def _made(make_node: Callable[[Signals], Node], signals: Signals) -> Node:
    """The node, made in a thread of its own.

    A signal that comes meanwhile ends the making: the node is given a moment to be done and is destroyed; else the
    process ends at once, with status 0.
    """
    nodes: list[Node] = []
    errors: list[BaseException] = []
    done = Event()

    def make() -> None:
        try:
            nodes.append(make_node(signals))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        Thread(target=make, name="make", daemon=True).start()
        _await(done)
    except StopRequested:
        if not done.wait(_LAST_MOMENT):
            os._exit(0)
        for node in nodes:
            node.destroy_node()
        raise
    for error in errors:
        if isinstance(error, ParameterException | InvalidQosOverridesError):
            raise StartError(str(error)) from error
        raise error
    return nodes[0]


@contextmanager
def _signals_stop() -> Iterator[Signals]:
    """Within the block the first SIGINT or SIGTERM raises StopRequested in the main thread.

    Further ones change nothing, for shells and launch like to send several; not even while the process ends.
    """
    signals = Signals()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if not signals.requested_stop:
            signals.requested_stop = True
            raise StopRequested

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if signals.requested_stop else handler)
