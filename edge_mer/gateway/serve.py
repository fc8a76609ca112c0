"""The gateway as a process: listeners, the link, sinks on networks, and an end within two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from edge_mer.clock import Clock, MonotonicClock
from edge_mer.config import DaemonConfig, is_local, read_config
from edge_mer.errors import UsageError
from edge_mer.gateway.app import Surroundings, make_app
from edge_mer.gateway.bridge import Bridge
from edge_mer.gateway.checks import outdated, problems
from edge_mer.gateway.connections import Doors, GuardedConfig
from edge_mer.gateway.feed import Feed
from edge_mer.gateway.limits import Limits
from edge_mer.gateway.listeners import listen, tls_context
from edge_mer.gateway.outlets import Outlets

DAEMON_PID = "EDGE_MER_DAEMON_PID"
"""Set for a gateway that a daemon keeps going as its child."""

_LOOK_S, _REPORT_S = 0.25, 1.0
_HANDSHAKE_S = 5.0
_CUT_AFTER_S = 0.5
_NICENESS = 5

_log = logging.getLogger(__name__)

Listener = tuple[socket.socket, "ssl.SSLContext | None"]


def main(path: Path, config: DaemonConfig) -> None:
    """Serve until SIGTERM or SIGINT; or until another configuration is to be taken over by beginning again.

    Args:
        path: The configuration's file, looked at again on SIGHUP and when the daemon took it over.
        config: What it says now.

    Raises:
        UsageError: A place to listen at, the certificate or a sink cannot be used.
    """
    for chatty in ("uvicorn.error", "asyncio"):  # anybody can make them warn
        logging.getLogger(chatty).setLevel(logging.ERROR)
    _allow_many_files()
    with contextlib.suppress(OSError):  # of use, not of need
        os.nice(_NICENESS)  # predictions come first
    clock = MonotonicClock()
    if old := outdated(config, clock.utc()):
        _log.warning("%s", old)
    listeners = open_listeners(config, clock)
    if config.http.listen:
        _log.info("the gateway listens at %s", ", ".join(config.http.listen))
    with Outlets(config.network_sinks) as outlets:
        asyncio.run(serve(config, listeners, outlets, clock, may_begin_again=lambda: _is_right(path)))


def _is_right(path: Path) -> bool:
    """Whether the gateway could carry out what its configuration says now; says what is wrong with it."""
    try:
        wrong = problems(read_config(path))
    except UsageError as error:
        wrong = [error]
    for one in wrong:
        _log.error("The gateway's configuration stays as it was: %s", one)
    return not wrong


def open_listeners(config: DaemonConfig, clock: Clock) -> list[Listener]:
    """Sockets that listen, those that others can reach with TLS.

    Raises:
        UsageError: A place, or the certificate, cannot be used.
    """
    http = config.http
    context = None
    if http.certificate is not None and http.key is not None:
        context = tls_context(http.certificate, http.key)
    return [(listen(place, clock), None if is_local(place) else context) for place in http.listen]


async def serve(
    config: DaemonConfig,
    listeners: Sequence[Listener],
    outlets: Outlets,
    clock: Clock,
    limits: Limits | None = None,
    *,
    may_begin_again: Callable[[], bool] = lambda: True,
) -> None:
    """Serve until SIGTERM or SIGINT, or until cancelled; on SIGHUP end, to be begun again, if that may be.

    Args:
        config: Of the daemon.
        listeners: That are open; they are closed at the end.
        outlets: Given every record.
        clock: What time it is.
        limits: Of clients; None: the usual ones.
        may_begin_again: Whether the configuration that the file holds now could be carried out.
    """
    limits = limits or Limits(bundle_bytes=config.http.max_bundle_mb << 20)
    feed = Feed(clock)
    feed.on_model(outlets.introduce)
    feed.on_record(outlets.write)
    doors = Doors(limits, clock)
    bridge = Bridge(config.link_path, feed, on_reload=lambda: server.begin_again())
    around = Surroundings(
        feed=feed,
        asks=bridge,
        tokens=config.http.tokens,
        hosts=config.http.hosts,
        upload_dir=Path(tempfile.gettempdir()),
        clock=clock,
        limits=limits,
        own_health=lambda: _own_health(feed, doors, outlets),
    )
    server = _Server(GuardedConfig(make_app(around), doors), listeners, feed, doors, may_begin_again)
    feed.on_model(lambda _: server.end_if_orphaned())
    bridge.start()
    try:
        async with (
            _every(_LOOK_S, feed.look),
            _every(_LOOK_S, doors.sweep),
            _every(_LOOK_S, outlets.look),
            _every(_REPORT_S, lambda: bridge.report(outlets.health())),
        ):
            await server.serve()
    finally:
        await asyncio.to_thread(bridge.stop)


def _own_health(feed: Feed, doors: Doors, outlets: Outlets) -> dict[str, Any]:
    return {
        "is_linked": feed.is_linked,
        "silent_s": feed.silent_s,
        "n_losses": feed.n_losses,
        "n_clients": feed.n_clients,
        "n_events_dropped": feed.n_events_dropped,
        "n_connections": len(doors),
        "n_connections_refused": doors.n_refused,
        "n_connections_cut": doors.n_cut,
        "sinks": outlets.health(),
    }


@contextlib.asynccontextmanager
async def _every(interval_s: float, call: Callable[[], None]) -> AsyncIterator[None]:
    """Have something called again and again meanwhile."""

    async def repeat() -> None:
        while True:
            try:
                call()
            except Exception:  # what watches over the others must go on
                _log.exception("a bug of the gateway")
            await asyncio.sleep(interval_s)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Server(uvicorn.Server):
    """uvicorn at several places, in plain text and over TLS, with clients that do not hold up the end."""

    def __init__(
        self,
        config: GuardedConfig,
        listeners: Sequence[Listener],
        feed: Feed,
        doors: Doors,
        may_begin_again: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self._listeners, self._feed, self._doors = listeners, feed, doors
        self._may_begin_again = may_begin_again

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            make: Any = self.config.http_protocol_class
            made: asyncio.Protocol = make(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )
            return made

        self.servers = []
        for listener, context in self._listeners:
            handshake: dict[str, Any] = {"ssl_handshake_timeout": _HANDSHAKE_S} if context else {}
            server = await loop.create_server(protocol, sock=listener, ssl=context, **handshake)
            self.servers.append(server)
        self.started = True

    def begin_again(self) -> None:
        """End, so that whoever keeps the gateway going begins it with the configuration that is there now."""
        if self._may_begin_again():
            self.should_exit = True

    def end_if_orphaned(self) -> None:
        """Make room for the gateway of a daemon that began after the one of this gateway was killed.

        Until then it stays, and tells everybody that no prediction comes.
        """
        daemon_pid = os.environ.get(DAEMON_PID)
        if daemon_pid is not None and int(daemon_pid) != os.getppid():
            _log.warning("another daemon took the place of the one that began this gateway")
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say goodbye to everybody; who does not take it is cut off."""
        self._feed.close()
        asyncio.get_running_loop().call_later(_CUT_AFTER_S, self._doors.cut_all)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """End on SIGTERM and SIGINT, as a success, and on SIGHUP to begin again."""
        loop = asyncio.get_running_loop()

        def end() -> None:
            self.should_exit = True

        handled = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGHUP: self.begin_again}
        try:
            for number, handle in handled.items():
                loop.add_signal_handler(number, handle)
        except (RuntimeError, ValueError):  # not in the main thread: whoever began it ends it
            yield
            return
        try:
            yield
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


def _allow_many_files() -> None:
    """As many open files as the system lets us have: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
