"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Say(Protocol):
    """Told what is being done, and where it is one of many things, how many of them are done."""

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        """`done` of `of` parts of `what` are done; `of` is 0 where nobody knows."""
        ...


def prefixed(prefix: str, say: Say) -> Say:
    """The same with something in front, e.g. "int8-cpu: quantizing audio"."""

    def said(what: str, done: int = 0, of: int = 0) -> None:
        say(f"{prefix}: {what}", done, of)

    return said
