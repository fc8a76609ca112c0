"""The keys of a camera's URI: what each may be, and how it is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from edge_mer.clock import NS_PER_S
from edge_mer.errors import UsageError

MAX_LATENCY_MS = 10_000
MAX_SIDE_PX = 8192


@dataclass(frozen=True)
class Key:
    """A key of a URI.

    Attributes:
        name: As the URI has it.
        allowed: What it may be, for messages.
        convert: Reads its text; None for what is not allowed.
    """

    name: str
    allowed: str
    convert: Callable[[str], Any]


def whole(name: str, low: int, high: int, *, multiple_of: int = 1) -> Key:
    """A key with a whole number."""

    def convert(text: str) -> int | None:
        is_number = re.fullmatch(r"[0-9]{1,9}", text)
        good = is_number and low <= int(text) <= high and int(text) % multiple_of == 0
        return int(text) if good else None

    parts = f", a multiple of {multiple_of}" if multiple_of > 1 else ""
    return Key(name, f"a whole number from {low} to {high}{parts}", convert)


def number(name: str, low: Fraction, high: Fraction) -> Key:
    """A key with an exact number, such as 30, 29.97 or 30000/1001."""

    def convert(text: str) -> Fraction | None:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
            return None
        return Fraction(text) if low <= Fraction(text) <= high else None

    return Key(name, f"a number (30, 29.97 or 30000/1001) from {low} to {high}", convert)


def one_of(name: str, *allowed: str) -> Key:
    """A key with one of some words."""
    return Key(name, f"one of {', '.join(allowed)}", lambda text: text if text in allowed else None)


LATENCY = number("latency_ms", Fraction(0), Fraction(MAX_LATENCY_MS))
"""The device's own fixed latency, which is taken off every time of capture."""

FPS = number("fps", Fraction(1, 10), Fraction(1000))
"""Pictures per second."""


def read_keys(uri: str, query: str, keys: Mapping[str, Key], example: str) -> dict[str, Any]:
    """The values in a query such as "width=640&height=480".

    Args:
        uri: For messages.
        query: What stands behind the question mark; "" for none.
        keys: Those that are known.
        example: A URI that is right.

    Raises:
        UsageError: An unknown or repeated key, or a value that is not allowed.
    """
    values: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, separator, text = part.partition("=")
        if name not in keys:
            near = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}, {keys[near[0]].allowed}?" if near else f"write {example}"
            raise UsageError(f"{uri}: unknown key {name!r}", expected=f"one of {', '.join(keys)}", hint=hint)
        values[name] = read_key(uri, keys[name], text if separator else None, is_again=name in values)
    return values


def read_key(uri: str, key: Key, text: str | None, *, is_again: bool = False) -> Any:
    """The value of one key; `text` is None where there is none.

    Raises:
        UsageError: It is not allowed, or given again.
    """
    if text is None or is_again:
        what = "is given twice" if is_again else "has no value"
        raise UsageError(f"{uri}: {key.name} {what}", expected=f"{key.name}=VALUE once, {key.allowed}")
    value = key.convert(text)
    if value is None:
        raise UsageError(f"{uri}: cannot use {key.name}={text}", expected=f"{key.name} = {key.allowed}")
    return value


def refuse_half_size(uri: str, values: Mapping[str, Any]) -> None:
    """A picture has both sides.

    Raises:
        UsageError: Only one of width and height is given.
    """
    if ("width" in values) != ("height" in values):
        raise UsageError(f"{uri}: width and height go together", expected="both, or none of them")


def to_ns(milliseconds: Fraction) -> int:
    """Whole nanoseconds."""
    return round(milliseconds * NS_PER_S / 1000)
