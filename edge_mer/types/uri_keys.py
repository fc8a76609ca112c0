"""The part of a URI behind its scheme: what it names, and "?key=value&key=value"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from edge_mer.errors import UsageError

MAX_LATENCY_MS = 10_000


@dataclass(frozen=True)
class Key:
    """A key: what it may be, and how its text is read (None = not allowed)."""

    allowed: str
    convert: Callable[[str], Any]


def text(allowed: str = "any text") -> Key:
    """Anything but nothing."""
    return Key(allowed, lambda given: given or None)


def one_of(*allowed: str) -> Key:
    """One of some words."""
    return Key(f"one of {', '.join(allowed)}", lambda given: given if given in allowed else None)


def whole(low: int, high: int) -> Key:
    """A whole number within bounds."""

    def convert(given: str) -> int | None:
        is_number = re.fullmatch(r"-?[0-9]{1,18}", given) is not None
        return int(given) if is_number and low <= int(given) <= high else None

    return Key(f"a whole number from {low} to {high}", convert)


def number(low: float, high: float) -> Key:
    """A decimal number within bounds."""

    def convert(given: str) -> float | None:
        is_number = re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?", given) is not None
        return float(given) if is_number and low <= float(given) <= high else None

    return Key(f"a number from {low:g} to {high:g}", convert)


LATENCY_MS = number(0, MAX_LATENCY_MS)
"""`latency_ms`, which every live source takes: the device's own fixed latency."""


def latency_ns(values: Mapping[str, Any]) -> int:
    """What `latency_ms` says; 0 where it is not given."""
    latency_ms: float = values.get("latency_ms", 0.0)
    return round(latency_ms * 1_000_000)


def shown(uri: str) -> str:
    """A URI for messages, records and pages: without a password."""
    return re.sub(r"(://[^/:@\s]*):[^/@\s]*@", r"\1:***@", uri)


def read(
    scheme: str, rest: str, keys: Mapping[str, Key] | Callable[[str], Key | None], example: str
) -> tuple[str, dict[str, Any]]:
    """What a URI names, and its keys; "%3F" and the like stand for characters that have a meaning here.

    Args:
        scheme: The URI's, for messages.
        rest: What follows its colon.
        keys: The keys there are; or what finds one by its name.
        example: A URI to show when this one is wrong.

    Raises:
        UsageError: An unknown or repeated key, or a value that is not allowed.
    """
    named, _, query = rest.partition("?")
    return unquote(named), read_query(f"{scheme}:{rest}", query, keys, example)


def read_query(
    uri: str, query: str, keys: Mapping[str, Key] | Callable[[str], Key | None], example: str
) -> dict[str, Any]:
    """The keys of "key=value&key=value".

    Args:
        uri: What messages call the whole.
        query: The keys with their values.
        keys: The keys there are; or what finds one by its name.
        example: A URI to show when this one is wrong.

    Raises:
        UsageError: An unknown or repeated key, or a value that is not allowed.
    """
    values: dict[str, Any] = {}
    for part in query.split("&") if query else ():
        name, separator, given = part.partition("=")
        key = keys(name) if callable(keys) else keys.get(name)
        if key is None:
            raise _unknown(uri, name, () if callable(keys) else keys, example)
        if not separator or name in values:
            what = "is given twice" if separator else "has no value"
            raise UsageError(f"{uri}: {name} {what}", expected=f"{name}=VALUE once, {key.allowed}")
        value = key.convert(unquote(given))
        if value is None:
            raise UsageError(f"{uri}: cannot use {name}={given}", expected=f"{name} = {key.allowed}")
        values[name] = value
    return values


def _unknown(uri: str, name: str, known: Mapping[str, Key] | tuple[()], example: str) -> UsageError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return UsageError(
        f"{uri}: unknown key {name!r}",
        expected=f"one of {', '.join(known)}" if known else None,
        hint=f"did you mean {near[0]}?" if near else f"write {example}",
    )
