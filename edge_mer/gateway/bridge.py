"""Between the link, which is a thread's, and the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edge_mer.errors import DataError, EdgeMerError, LostError, MissingError
from edge_mer.gateway.feed import Feed
from edge_mer.link.client import LinkClient
from edge_mer.link.messages import LinkedError, Message

_LOOK_S = 0.25
_AGAIN_S = 0.25
_REPLY_S = 10.0
_MAX_ASKS = 16

_log = logging.getLogger(__name__)


class Asks(Protocol):
    """What the process that infers can be asked for."""

    async def ask(self, what: str, who: str, fd: int | None = None, **arguments: object) -> Message:
        """Ask, and wait for the reply.

        Raises:
            EdgeMerError: It was refused, or nobody answers.
        """
        ...

    def audit(self, event: str, who: str, **details: object) -> None:
        """Have something written into the audit log, if it can be reached."""
        ...


class Bridge:
    """Keeps up a connection to the process that infers, in a thread of its own.

    Args:
        path: The link's socket.
        feed: Given every message, in the event loop in which `start` was called.
        on_reload: Called there when another configuration was taken over at the other end.
    """

    def __init__(self, path: Path, feed: Feed, on_reload: Callable[[], None] = lambda: None) -> None:
        self._path, self._feed, self._on_reload = path, feed, on_reload
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: LinkClient | None = None
        self._replies: dict[int, asyncio.Future[Message]] = {}
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="edge-mer bridge", daemon=True)

    def start(self) -> None:
        """Begin, from within the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Hang up; returns within a moment."""
        self._is_ending.set()
        if self._thread.ident is not None:
            self._thread.join(2.0)

    async def ask(self, what: str, who: str, fd: int | None = None, **arguments: object) -> Message:
        """Ask, and wait for the reply.

        Raises:
            EdgeMerError: It was refused, or nobody answers.
        """
        client = self._client
        if client is None:
            raise _nobody("the inference process is not there")
        if len(self._replies) >= _MAX_ASKS:
            raise _nobody(f"{_MAX_ASKS} requests wait for the inference process already")
        number = client.send(what, who, fd, **arguments)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            return await asyncio.wait_for(reply, _REPLY_S)
        except asyncio.TimeoutError:
            raise _nobody(f"the inference process does not answer within {_REPLY_S:.0f} s") from None
        finally:
            self._replies.pop(number, None)

    def audit(self, event: str, who: str, **details: object) -> None:
        """Have something written into the audit log, if it can be reached."""
        client = self._client
        if client is None:
            _log.warning("not in the audit log, the inference process is not there: %s by %s", event, who)
            return
        try:
            client.send("audit", who, None, event=event, **details)
        except LostError as error:
            _log.warning("not in the audit log: %s by %s: %s", event, who, error)

    def report(self, sinks: list[dict[str, Any]]) -> None:
        """Have the other process know how sinks are, where there are any, for whoever asks there."""
        client = self._client
        if client is not None and sinks:
            with contextlib.suppress(LostError):
                client.send("report", "", None, sinks=sinks)

    # -- in the event loop -------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        if message["kind"] == "reload":
            self._on_reload()
            return
        if message["kind"] != "reply":
            self._feed.take(message)
            return
        reply = self._replies.get(message.get("to", -1))
        if reply is None or reply.done():
            return
        if (told := message.get("error")) is not None:
            reply.set_exception(LinkedError(told))
        else:
            reply.set_result(message["result"])

    def _lost(self) -> None:
        self._feed.link_is(up=False)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_nobody("the inference process hung up"))

    # -- in its thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._is_ending.is_set():
            try:
                with LinkClient(self._path) as client:
                    self._client = client
                    self._call(lambda: self._feed.link_is(up=True))
                    self._listen(client)
            except (MissingError, DataError) as error:
                _log.debug("link: %s", error)
            finally:
                self._client = None
                self._call(self._lost)
            self._is_ending.wait(_AGAIN_S)

    def _listen(self, client: LinkClient) -> None:
        while not self._is_ending.is_set():
            message = client.receive(_LOOK_S)
            if message is not None:
                self._call(lambda message=message: self._take(message))  # type: ignore[misc]

    def _call(self, call: Callable[[], Any]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)


def _nobody(what: str) -> EdgeMerError:
    return MissingError(what, hint="it is starting, restarting, or was stopped: try again in a moment")
