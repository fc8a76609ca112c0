"""Stands for rclpy and its message packages where there is no ROS 2.

Messages are classes that `rosbags` makes of ROS's own definitions; what is published is written in CDR, the
format that goes over the network, and read back. Only rclpy's own calls are of our making.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

EXPRESSION = """
std_msgs/Header header
string expression
float32 valence
float32 arousal
float32 confidence
"""
"""hri_msgs/msg/Expression of ros4hri, in its documented fields."""

PACKAGES = ("std_msgs", "diagnostic_msgs", "builtin_interfaces")


def typestore(distribution: str = "humble") -> Any:
    """ROS's message types, and ros4hri's expression."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores[f"ROS2_{distribution.upper()}"])
    store.register(get_types_from_msg(EXPRESSION, "hri_msgs/msg/Expression"))
    return store


def over_the_wire(store: Any, message: Any) -> Any:
    """A message as its readers get it."""
    kind = message.__msgtype__
    return store.deserialize_cdr(store.serialize_cdr(message, kind), kind)


@dataclass
class Publisher:
    """What was published on one topic."""

    store: Any
    kind: str
    topic: str
    qos: Any
    sent: list[Any] = field(default_factory=list)
    is_destroyed: bool = False

    def publish(self, message: Any) -> None:
        assert not self.is_destroyed
        assert message.__msgtype__ == self.kind
        self.sent.append(over_the_wire(self.store, message))


class Node:
    """A node and its publishers, in the order in which they were made."""

    def __init__(self, store: Any, name: str, options: Mapping[str, Any]) -> None:
        self.store, self.name, self.options = store, name, options
        self.publishers: list[Publisher] = []
        self.is_destroyed = False

    def create_publisher(self, kind: Any, topic: str, qos: Any) -> Publisher:
        assert not self.is_destroyed
        made = Publisher(self.store, kind.kind, topic, qos)
        self.publishers.append(made)
        return made

    def destroy_publisher(self, publisher: Publisher) -> None:
        publisher.is_destroyed = True

    def destroy_node(self) -> None:
        self.is_destroyed = True


class Context:
    """What nodes live in."""

    is_up = False

    def try_shutdown(self) -> None:
        self.is_up = False


class Rclpy:
    """The double; `install` puts it where `import rclpy` finds it.

    Attributes:
        nodes: Those that were made.
        contexts: Likewise.
        initialised: What `init` was called with.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.nodes: list[Node] = []
        self.contexts: list[Context] = []
        self.initialised: list[dict[str, Any]] = []

    def install(self, patch: pytest.MonkeyPatch, packages: tuple[str, ...] = (*PACKAGES, "hri_msgs")) -> None:
        """Have the packages found, and no others of ROS."""
        enum = {"LivelinessPolicy": "MANUAL_BY_TOPIC AUTOMATIC", "ReliabilityPolicy": "RELIABLE BEST_EFFORT"}
        enum |= {"HistoryPolicy": "KEEP_LAST KEEP_ALL", "DurabilityPolicy": "VOLATILE TRANSIENT_LOCAL"}
        policies = {
            name: SimpleNamespace(**{one: one for one in values.split()}) for name, values in enum.items()
        }
        modules: dict[str, dict[str, Any]] = {
            "rclpy": {"Context": self._context, "init": self._init, "create_node": self._create_node},
            "rclpy.qos": {"QoSProfile": SimpleNamespace, **policies},
            "rclpy.duration": {"Duration": SimpleNamespace},
            "rclpy.signals": {"SignalHandlerOptions": SimpleNamespace(NO="no")},
        }
        for package in packages:
            modules[package] = {}
            modules[f"{package}.msg"] = {
                kind.rpartition("/")[2]: _class(self.store, kind)
                for kind in self.store.types
                if kind.startswith(f"{package}/msg/")
            }
        for name, contents in modules.items():
            module = ModuleType(name)
            vars(module).update(contents)
            patch.setitem(sys.modules, name, module)

    def _context(self) -> Context:
        self.contexts.append(Context())
        return self.contexts[-1]

    def _init(self, **given: Any) -> None:
        self.initialised.append(given)
        given["context"].is_up = True

    def _create_node(self, name: str, *, context: Context, **options: Any) -> Node:
        assert context.is_up
        self.nodes.append(Node(self.store, name, options))
        return self.nodes[-1]


def _class(store: Any, kind: str) -> Any:
    """A message class that takes what rclpy's do: a `byte` as bytes, sequences as lists."""

    def make(**fields: Any) -> Any:
        assert isinstance(fields.get("level", b"0"), bytes)
        made = {name: _as_rosbags(value) for name, value in fields.items()}
        return store.types[kind](**made)

    make.kind = kind  # type: ignore[attr-defined]
    return make


def _as_rosbags(value: Any) -> Any:
    if isinstance(value, bytes):
        assert len(value) == 1
        return value[0]
    if isinstance(value, list) and value and isinstance(value[0], float):
        return np.array(value, np.float32)
    return value
