"""One thing that was looked at: what is there, what should be, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

Status = Literal["ok", "note", "problem"]


class Purpose(str, Enum):
    """What a machine is to do."""

    cpu = "cpu"
    tensorrt = "tensorrt"
    camera = "camera"
    microphone = "microphone"
    serial = "serial"
    workbench = "workbench"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, e.g. "board".
        found: What is there, in words.
        status: "note" until the purposes are known: see `judged`.
        expected: What would be right, where that is not plain.
        fix: A command or a sentence that mends it.
        needed_for: The purpose that cannot be served like this; None for what is only good to know.
        topic: The group that it is shown in.
    """

    name: str
    found: str
    status: Status = "ok"
    expected: str | None = None
    fix: str | None = None
    needed_for: Purpose | None = None
    topic: str = ""

    def judged(self, topic: str, purposes: frozenset[Purpose]) -> Finding:
        """The same under its topic; a problem if one of `purposes` needs what is missing."""
        status: Status = "problem" if self.needed_for in purposes else self.status
        return replace(self, topic=topic, status=status)

    def as_json(self) -> dict[str, Any]:
        """Plain values under stable names, in the order in which people read them."""
        order = ("topic", "name", "status", "found", "expected", "fix", "needed_for")
        return {key: getattr(self, key) for key in order}


def note(name: str, found: str, expected: str | None = None, fix: str | None = None) -> Finding:
    """Something that is good to know and stops nothing."""
    return Finding(name, found, "note", expected, fix)


def lack(
    purpose: Purpose, name: str, found: str, expected: str | None = None, fix: str | None = None
) -> Finding:
    """Something without which `purpose` cannot be served."""
    return Finding(name, found, "note", expected, fix, purpose)
