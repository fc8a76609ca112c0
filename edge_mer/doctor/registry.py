"""The topics in the order in which they are shown. A new one costs one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edge_mer.doctor.cuda import cuda
from edge_mer.doctor.finding import Finding, Purpose
from edge_mer.doctor.jetpack import is_jetson
from edge_mer.doctor.machine import machine
from edge_mer.doctor.python import python
from edge_mer.doctor.resources import resources
from edge_mer.doctor.sensors import sensors
from edge_mer.doctor.system import System
from edge_mer.doctor.tensorrt import tensorrt

TOPICS: dict[str, Callable[[System], Iterator[Finding]]] = {
    "Machine": machine,
    "CUDA": cuda,
    "TensorRT": tensorrt,
    "Python": python,
    "Resources": resources,
    "Sensors": sensors,
}


def purposes_of(system: System, asked: Iterable[Purpose] = ()) -> frozenset[Purpose]:
    """What the machine is to do: the processor always; unless asked otherwise, a Jetson runs TensorRT."""
    usual = [Purpose.tensorrt] if is_jetson(system) else []
    return frozenset([Purpose.cpu, *(list(asked) or usual)])


def examine(system: System, purposes: frozenset[Purpose]) -> list[Finding]:
    """Everything that was found, topic by topic; a problem is what one of `purposes` cannot do without."""
    return [found.judged(name, purposes) for name, topic in TOPICS.items() for found in topic(system)]
