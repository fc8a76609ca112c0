"""What goes over the link: one JSON object per line, and with one of them a file descriptor.

The process that infers sends `hello`, `prediction`, `health`, `alarms`, `reload` and `reply`, the others send
`ask`.
No path ever crosses the link: a bundle comes as an open file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from edge_mer.errors import DataError, EdgeMerError

PROTOCOL = 1
MAX_LINE_BYTES = 1 << 20

Message = dict[str, Any]


@dataclass(frozen=True)
class Ask:
    """Something to be done.

    Attributes:
        id: By which its sender knows the reply.
        what: "status", "swap", "rollback", "acknowledge", "audit" or "report".
        who: On whose behalf, for the audit log.
        arguments: What else is to be known.
    """

    id: int
    what: str
    who: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    def to_message(self) -> Message:
        """As it goes over the link."""
        return {"kind": "ask", "id": self.id, "what": self.what, "who": self.who, "arguments": self.arguments}


def line_of(message: Message) -> bytes:
    """A message as a line.

    Raises:
        ValueError: It holds a number that JSON cannot, or is too long.
    """
    line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a message of {len(line)} bytes, at most {MAX_LINE_BYTES} go over the link")
    return line


def message_of(line: bytes) -> Message:
    """The message in a line.

    Raises:
        DataError: It is none.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("a line of the link is no JSON", found=str(error)) from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise DataError("a line of the link is no message", expected='an object with "kind"')
    return message


def ask_of(message: Message) -> Ask:
    """The ask in a message.

    Raises:
        DataError: It is none.
    """
    number, what, who = message.get("id"), message.get("what"), message.get("who", "")
    arguments = message.get("arguments", {})
    is_right = isinstance(number, int) and isinstance(what, str) and isinstance(who, str)
    if message["kind"] != "ask" or not is_right or not isinstance(arguments, dict):
        raise DataError("the link takes nothing but asks", expected='"id", "what", "who" and "arguments"')
    return Ask(number, what, who[:200], arguments)  # type: ignore[arg-type]


def reply_to(ask_id: int, result: Message | EdgeMerError) -> Message:
    """What answers an ask."""
    if not isinstance(result, EdgeMerError):
        return {"kind": "reply", "to": ask_id, "result": result}
    return {"kind": "reply", "to": ask_id, "error": error_to_message(result)}


def error_to_message(error: EdgeMerError) -> Message:
    """An error in parts."""
    told = {"what": error.what, "expected": error.expected, "found": error.found, "hint": error.hint}
    return told | {"exit_code": error.exit_code}


class LinkedError(EdgeMerError):
    """An error of the other process, as it was told; its exit code is that of the error there.

    Args:
        told: As `error_to_message` wrote it.
    """

    def __init__(self, told: Message) -> None:
        super().__init__(
            str(told.get("what", "the daemon refused")),
            expected=told.get("expected"),
            found=told.get("found"),
            hint=told.get("hint"),
        )
        self.exit_code = int(told.get("exit_code", 1))
