"""`segmenter`: the managed (lifecycle) node that labels a LiDAR's clouds, and finds the objects in them.

Subscribes to `~/input/points` (best effort, the newest is labelled; PointCloud2, compressed or Livox's) and publishes,
under the input's header and each only while somebody subscribes:

  ~/output/labeled_points    every field of the input, with `label` (uint8, 255 = unlabelled) and `confidence`
                             (float32) appended
  ~/output/colored_points    x, y, z and the class's colour (rgb)
  ~/output/filtered_points   as labeled_points, without the points of some classes
  ~/output/objects           boxes around objects, where the network finds any
  ~/output/object_markers    the same for RViz

Further ~/output/label_info and ~/output/object_info (latched), ~/debug/processing_time/*_ms and /diagnostics.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import InvalidQosOverridesError
from sensor_msgs.msg import PointCloud2

from spvnas_ros.clouds.intensity import Intensity, IntensityWatch
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.ros.node.cloud_messages import PackedCloud
from spvnas_ros.ros.node.diagnostics import Condition, Diagnostics
from spvnas_ros.ros.node.fit_watch import Fit, FitWatch
from spvnas_ros.ros.node.following import Following, FollowRules
from spvnas_ros.ros.node.input_topic import InputTopic
from spvnas_ros.ros.node.labelling import Decoded, Labelling, Received, stamp_ns
from spvnas_ros.ros.node.network import Network, Perceive, load_network, release_memory
from spvnas_ros.ros.node.outputs import Outputs
from spvnas_ros.ros.node.overrides import ParameterValueError, for_others
from spvnas_ros.ros.node.parameters import NodeParameters, Settings, place_rule
from spvnas_ros.ros.node.placing import Placing
from spvnas_ros.ros.node.remarks import Remarks
from spvnas_ros.ros.node.statistics import FrameStatistics
from spvnas_ros.ros.node.sweeps import SweepRules, Sweeps
from spvnas_ros.ros.node.worker import LatestPipeline
from spvnas_ros.ros.process.lifetime import StartError
from spvnas_ros.ros.process.memory import collector_at_rest, hand_to_collector, spare_from_collector
from spvnas_ros.ros.process.parameter_files import given_by
from spvnas_ros.zoo.cache import DEFAULT

NODE_NAME = "segmenter"
INPUT_TOPIC = "~/input/points"

_FORESEEN = (ValueError, OSError, RuntimeError, ParameterException, InvalidQosOverridesError)
"""What says by itself what is wrong with weights, device or parameters."""


class SegmenterNode(LifecycleNode):
    """Labels the newest cloud. A cloud that cannot be labelled is counted and skipped.

    Configuring loads the network and warms it up. Activating subscribes to the clouds and publishes. Deactivating,
    cleaning up and shutting down undo this. A transition that fails leaves the state as it was and logs the reason.
    With the parameter `autostart` the constructor configures and activates the node.

    Attributes:
        statistics: counts what happened since the node was made
    """

    def __init__(
        self, perception: Perceive | Network | None = None, command_line: Sequence[str] = (), **node_options: Any
    ) -> None:
        """perception:   labels the points, and finds objects where it is a `Network` that says so, instead of the
                      network that the parameters name
        command_line: the ROS arguments of the process; what they give for other nodes only is warned of
        node_options: passed on to `LifecycleNode`

        Raises StartError where a parameter cannot be used, or where autostart fails.
        """
        self.statistics = FrameStatistics()
        self._perception = perception
        self._watch = IntensityWatch()
        self._remarks = Remarks()
        self._sensor = Sensor()
        self._placing: Placing | None = None
        self._fit: FitWatch | None = None
        self._failure = ""
        self._lowest_score = 0.0
        self._network: Network | None = None
        self._outputs: Outputs | None = None
        self._sweeps: Sweeps | None = None
        self._following: Following | None = None
        self._next_id = 1
        self._worker: LatestPipeline[Received, Decoded] | None = None
        self._input: InputTopic | None = None
        try:
            super().__init__(NODE_NAME, **node_options)
            for warning in for_others(given_by(command_line), self.get_fully_qualified_name()):
                self.get_logger().warning(warning)
            self._settings = NodeParameters(self, lambda: self._network, self._on_settings)
        except (ParameterException, InvalidQosOverridesError, ValueError) as error:
            raise StartError(str(error)) from error
        self._diagnostics = Diagnostics(self, self.statistics, self._watch, self._condition)
        if self._settings["autostart"]:
            self._autostart()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the network, labels a cloud that nobody sent and advertises the topics.

        The first real cloud then does not wait for a compiler, nor for memory.
        """
        with collector_at_rest():
            done = self._attempt("configure", self._configure)
            if done == TransitionCallbackReturn.SUCCESS:
                spare_from_collector()
        if done != TransitionCallbackReturn.SUCCESS:
            self._free()
            return done
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to publish and to subscribe."""
        super().on_activate(state)
        done = self._attempt("activate", self._listen)
        if done != TransitionCallbackReturn.SUCCESS:
            self._silence()
            super().on_deactivate(state)
            return done
        self._settings.warn_of_unread_qos()
        return done

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes, lets the cloud in work be published, and stops publishing."""
        self._silence()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the network and removes the topics."""
        self._free()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and frees everything, from any state."""
        self._silence()
        self._free()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything after a transition that raised, so that the node can be configured again."""
        self._silence()
        self._free()
        return super().on_error(state)

    def destroy_node(self) -> None:
        """Unsubscribes, frees everything and destroys the node. Where clouds came, it logs the statistics."""
        if self.statistics.received or self._worker is not None:
            self._silence()
            self.get_logger().info(self.statistics.summary())
        self._free()
        super().destroy_node()

    def set_parameters(self, parameter_list: list[Parameter[Any]]) -> list[SetParametersResult]:
        """Sets parameters one by one, as `Node.set_parameters` does, but says what is wrong in words."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter[Any]]) -> SetParametersResult:
        """Sets all parameters or none, as `Node.set_parameters_atomically` does, but says what is wrong in words.

        rclpy compares kinds of values before it asks anybody, and tells them by number.
        """
        try:
            return super().set_parameters_atomically(self._settings.fitting(parameter_list))
        except ParameterValueError as error:
            return SetParametersResult(successful=False, reason=str(error))

    def _autostart(self) -> None:
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() != TransitionCallbackReturn.SUCCESS:
                raise StartError(self._failure)

    def _attempt(self, what: str, step: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            step()
        except Exception as error:
            self._failure = str(error)
            reason = self._failure
            if not isinstance(error, _FORESEEN):
                self._failure = f"{type(error).__name__}: {error}"
                reason = traceback.format_exc()
            self.get_logger().error(f"cannot {what}: {reason}")
            return TransitionCallbackReturn.FAILURE
        self._failure = ""
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        place = place_rule(self._settings.values())
        network = self._load()
        self._sensor = Sensor(self._intensity_rule(), replace(place, sensor_height=network.known.sensor_height))
        self._settings.settings.check(network)
        started = time.monotonic()
        network.warm_up()
        self.get_logger().info(f"warmed up in {time.monotonic() - started:.1f} s")
        self._network = network
        self._outputs = Outputs(self, network)
        self._warn_of_scores(self._settings.settings)

    def _load(self) -> Network:
        if isinstance(self._perception, Network):
            return self._perception
        if self._perception is not None:
            return Network(self._perception)
        weights = self._settings["weights"] or DEFAULT
        network = load_network(
            weights, *(self._settings[name] for name in ("device", "engine", "color.palette", "precision"))
        )
        whose = ", the network that comes with the package" if weights == DEFAULT else ""
        self.get_logger().info(f"weights {weights}{whose} ({network})")
        if not network.trained:
            self.get_logger().warning("the network is not trained: what it says means nothing")
        return network

    def _warn_of_scores(self, settings: Settings) -> None:
        network, lowest, before = self._network, settings.objects.choice.min_scores.lowest, self._lowest_score
        self._lowest_score = lowest
        if network is not None and network.box_names and 0 < lowest < network.least_score and lowest != before:
            self.get_logger().warning(
                f"objects.min_score asks for objects from {lowest:g} on, but none below {network.least_score:g} comes "
                "out of the network"
            )

    def _listen(self) -> None:
        assert self._network is not None
        assert self._outputs is not None
        self._watch.clear()
        self._remarks.begin()
        self._sensor.intensity = self._intensity_rule()
        self._placing = Placing(self, self._sensor.place, self._settings["target_frame"])
        self._fit = FitWatch(self._network.known, self._sensor, self._on_fit)
        rules = SweepRules.of(self._settings.values())
        if rules.count:
            self._sweeps = Sweeps(self, rules, self.statistics)
        follow = FollowRules.of(self._settings.values())
        if follow.enabled and self._network.box_names:
            self._following = Following(self, follow, self._next_id)
        labelling = Labelling(
            self._network,
            self._sensor,
            self._placing,
            self._fit,
            lambda: self._settings.settings,
            self._outputs,
            self.statistics,
            self._watch,
            self.get_logger(),
            self._sweeps,
            self._following,
        )
        self._worker = LatestPipeline(labelling.decode, labelling.label, self.statistics.count_dropped, "labelling")
        self._outputs.publish_class_tables(self._settings.settings)
        self._input = InputTopic(self, INPUT_TOPIC, self._on_cloud, self.statistics.count_lost)
        does = "labels" if self._network.classes else "finds objects in"
        self.get_logger().info(f"{does} clouds of {self._input}")

    def _silence(self) -> None:
        if self._input is not None:
            self._input.destroy()
            self._input = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        if self._sweeps is not None:
            self._sweeps.destroy()
            self._sweeps = None
        if self._following is not None:
            self._next_id = self._following.next_id
            self._following.destroy()
            self._following = None
        if self._placing is not None:
            self._placing.destroy()
            self._placing = None
        if self._fit is not None:
            self._fit.finish()

    def _free(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        device = self._network.device if self._network is not None else ""
        self._network = None
        hand_to_collector()
        release_memory(device)

    def _on_cloud(self, cloud: PointCloud2 | PackedCloud) -> None:
        at, age = time.monotonic_ns(), self.get_clock().now().nanoseconds - stamp_ns(cloud)
        if self._outputs is None or self._worker is None:
            return
        if self._outputs.wanted(self._settings.settings):
            remark = ""
            self._remarks.on_watched()
            self._worker.put(Received(cloud, at))
        else:
            remark = self._remarks.on_unwatched(self._outputs.nobody_subscribes)
            self.statistics.count_unwatched()
        self.statistics.count_received(at, age)
        for text in (remark, self._remarks.on_frame(cloud.header.frame_id, self._is_set)):
            if text:
                self.get_logger().warning(text)

    def _is_set(self, name: str) -> bool:
        value = self.get_parameter(name).value if self.has_parameter(name) else None
        return not math.isnan(value) if isinstance(value, float) else bool(value)

    def _intensity_rule(self) -> Intensity:
        return Intensity(str(self._settings["intensity"]), self._settings["intensity_field"] or None, live=True)

    def _on_fit(self, fit: Fit) -> None:
        for concern in fit.concerns:
            self.get_logger().warning(str(concern))

    def _on_settings(self, settings: Settings) -> None:
        if self._outputs is not None:
            self._outputs.publish_class_tables(settings)
            self._warn_of_scores(settings)

    def _condition(self) -> Condition:
        state = "active" if self._worker else "inactive" if self._network else "unconfigured"
        fit = self._fit.fit if self._fit is not None else None
        followed = self._following.numbers() if self._following is not None else None
        lack = self._input.lack if self._input is not None else ""
        return Condition(state, self._failure, self._network, self._sensor, fit, followed=followed, lack=lack)
