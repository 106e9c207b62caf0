"""What an operator does to a running node: its life cycle and its parameters, through services of its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter

from ros_harness import WAIT
from spvnas_ros.ros.process.lifetime import spinning

TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "shutdown": Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


class Operator(Node):
    """Talks to the node of a full name. Its callbacks run in another thread."""

    def __init__(self, target: str) -> None:
        super().__init__("operator")
        self._target = target
        # One client for each: what is asked through one arrives in order.
        self._asking: dict[str, Any] = {}

    def change(self, transition: str) -> bool:
        """Ask for a transition by its name; whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[transition]))
        return bool(self._ask(ChangeState, "change_state", request).success)

    def state(self) -> str:
        return str(self._ask(GetState, "get_state", GetState.Request()).current_state.label)

    def set(self, name: str, value: object) -> SetParametersResult:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self._ask(SetParameters, "set_parameters", request).results[0]

    def set_together(self, **values: object) -> SetParametersResult:
        """Several at once, dots of their names written as two underscores."""
        parameters = [
            Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()
        ]
        request = SetParametersAtomically.Request(parameters=parameters)
        return self._ask(SetParametersAtomically, "set_parameters_atomically", request).result

    def describe(self, *names: str) -> list[ParameterDescriptor]:
        request = DescribeParameters.Request(names=names)
        return list(self._ask(DescribeParameters, "describe_parameters", request).descriptors)

    def _ask(self, service: Any, name: str, request: Any) -> Any:
        if name not in self._asking:
            self._asking[name] = self.create_client(service, f"{self._target}/{name}")
        client = self._asking[name]
        assert client.wait_for_service(WAIT), f"{self._target} offers no {name}"
        answered = Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        assert answered.wait(WAIT), f"{name} does not answer"
        return future.result()


@contextmanager
def operating(namespace: str) -> Iterator[Operator]:
    """An operator of the segmenter in this namespace."""
    operator = Operator(f"{namespace}/segmenter")
    with spinning(operator):
        yield operator
