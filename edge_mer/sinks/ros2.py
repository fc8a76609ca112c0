"""`ros2:` publishes predictions in ROS 2.

ros2:/edge_mer
ros2:/ward3/bed5?frame_id=camera_link&node=bed5
"""

from __future__ import annotations

import re
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks.people import Departures
from edge_mer.sinks.ros2_messages import EXPRESSION, Names, RosMessage, messages_of
from edge_mer.types import uri_keys
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction
from edge_mer.types.uri_keys import Key

EXAMPLE = "ros2:/edge_mer"

MAX_PUBLISHERS = 64
"""People come and go for months; of the topics that were silent longest the publishers go."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_KEYS = {
    "frame_id": uri_keys.text("a frame of TF, e.g. camera_link"),
    "node": Key(
        "letters, digits and _, e.g. edge_mer", lambda given: given if re.fullmatch(_NAME, given) else None
    ),
}
_DEPTH = 8
_DEADLINE_HOPS = 2
_LEASE_HOPS, _MIN_LEASE_S = 3, 2.0
_NS_PER_S = 1_000_000_000


class Ros2Sink:
    """Publishes /diagnostics, `<namespace>/values` and, where there is hri_msgs, `<namespace>/expression`.

    Deadline, lifespan and lease follow from the time between two predictions: whoever asks for them is told
    when none comes, and never gets an old one.

    Args:
        rest: The URI after `ros2:`: the namespace of the topics, and keys.

    Attributes:
        has_expression: hri_msgs is installed; known once it is open.

    Raises:
        UsageError: No such name can be in ROS, or a wrong key.
    """

    def __init__(self, rest: str) -> None:
        namespace, values = uri_keys.read("ros2", rest, _KEYS, EXAMPLE)
        if re.fullmatch(rf"(/{_NAME})+", namespace) is None:
            raise UsageError(
                f"ros2:{namespace}: ROS has no such names of topics", expected=f"a namespace as in {EXAMPLE}"
            )
        self._names = Names(namespace, values.get("frame_id", ""), values.get("node", "edge_mer"))
        self._model: ModelFacts | None = None
        self._context: Any = None
        self._node: Any = None
        self._qos: Any = None
        self._classes: dict[str, Any] = {}
        self._publishers: OrderedDict[str, Any] = OrderedDict()
        self._departures = Departures()
        self.has_expression = False

    @property
    def target(self) -> Path | None:
        """None: it writes no file."""
        return None

    def introduce(self, model: ModelFacts) -> None:
        """Learn which numbers there are, and how often they come; both may change the topics' quality."""
        is_new = self._model is None or model.interval_s != self._model.interval_s
        self._model = model
        if is_new and self._node is not None:
            self._drop_publishers()
            self._qos = _quality(model.interval_s)

    def check(self) -> None:
        """Find its package.

        Raises:
            MissingError: There is no ROS 2 here.
        """
        _rclpy()

    def open(self) -> None:
        """Begin a node.

        Raises:
            MissingError: There is no ROS 2 here.
        """
        if self._model is None:
            raise RuntimeError("the sink was not introduced")
        rclpy = _rclpy()
        self.has_expression = _is_there("hri_msgs.msg")
        self._context = rclpy.Context()
        # our own handlers end the session, and our command line is not ROS's
        signals = import_module("rclpy.signals").SignalHandlerOptions.NO
        rclpy.init(args=[], context=self._context, signal_handler_options=signals)
        self._node = rclpy.create_node(
            self._names.node,
            context=self._context,
            use_global_arguments=False,
            start_parameter_services=False,
        )
        self._qos = _quality(self._model.interval_s)

    def write(self, prediction: Prediction) -> None:
        """Publish it; never waits."""
        if self._node is None or self._model is None:
            raise RuntimeError("the sink is not open")
        for one in self._departures.before(prediction):
            for topic, message in messages_of(one, self._model, self._names).items():
                if message.type != EXPRESSION or self.has_expression:
                    self._publisher(topic, message.type).publish(self._made(message))

    def close(self) -> None:
        """End the node."""
        node, self._node = self._node, None
        if node is None:
            return
        self._publishers.clear()
        node.destroy_node()
        self._context.try_shutdown()
        self._context = None

    def abandon(self) -> None:
        """The same."""
        self.close()

    def _publisher(self, topic: str, kind: str) -> Any:
        if topic not in self._publishers:
            if len(self._publishers) == MAX_PUBLISHERS:
                _, oldest = self._publishers.popitem(last=False)
                self._node.destroy_publisher(oldest)
            self._publishers[topic] = self._node.create_publisher(self._class_of(kind), topic, self._qos)
        self._publishers.move_to_end(topic)
        return self._publishers[topic]

    def _drop_publishers(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _class_of(self, kind: str) -> Any:
        if kind not in self._classes:
            package, _, name = kind.split("/")
            self._classes[kind] = getattr(import_module(f"{package}.msg"), name)
        return self._classes[kind]

    def _made(self, value: Any) -> Any:
        """A message as ROS's own class."""
        if isinstance(value, list):
            return [self._made(one) for one in value]
        if not isinstance(value, RosMessage):
            return value
        fields = {name: self._made(one) for name, one in value.fields.items()}
        if "level" in fields:  # a `byte` of ROS, which Python gets as bytes
            fields["level"] = bytes([fields["level"]])
        return self._class_of(value.type)(**fields)


def _quality(interval_s: float) -> Any:
    """Reliable, for predictions that come every `interval_s` seconds."""
    qos, duration = import_module("rclpy.qos"), import_module("rclpy.duration").Duration
    lease_s = max(_LEASE_HOPS * interval_s, _MIN_LEASE_S)
    return qos.QoSProfile(
        depth=_DEPTH,
        history=qos.HistoryPolicy.KEEP_LAST,
        reliability=qos.ReliabilityPolicy.RELIABLE,
        durability=qos.DurabilityPolicy.VOLATILE,
        deadline=duration(nanoseconds=round(_DEADLINE_HOPS * interval_s * _NS_PER_S)),
        lifespan=duration(nanoseconds=round(lease_s * _NS_PER_S)),
        liveliness=qos.LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=duration(nanoseconds=round(lease_s * _NS_PER_S)),
    )


def _is_there(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return False
    return True


def _rclpy() -> Any:
    try:
        import rclpy
    except ImportError as error:
        raise MissingError(
            "publishing in ROS 2 needs rclpy, which comes with ROS 2 and not from PyPI",
            found=str(error),
            hint="source an installation first, e.g. . /opt/ros/humble/setup.bash, and run edge-mer on its "
            "Python, in a virtual environment made with --system-site-packages",
        ) from error
    return rclpy
