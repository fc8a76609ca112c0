"""The gateway itself, with the link and all, in a thread: for tests of what it shows in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_mer.clock import MonotonicClock
from edge_mer.config import LINK_NAME, read_config
from edge_mer.gateway.limits import Limits
from edge_mer.gateway.outlets import Outlets
from edge_mer.gateway.serve import open_listeners, serve
from edge_mer.link.messages import Ask, Message
from edge_mer.link.server import LinkServer
from tests.helpers.senders import free_port

_SOON_S = 10.0
_LIMITS = Limits(requests_per_s=10_000.0, n_requests_at_once=10_000)


class LiveDevice:
    """A device that says what a test has it say.

    Args:
        folder: For its sockets.
        tokens: Lines of the configuration.

    Attributes:
        known: "model", "health" and "alarms" as they were told last.
        asks: What it was asked for, in order.
    """

    def __init__(self, folder: Path, tokens: str = "") -> None:
        self.known: dict[str, Any] = {}
        self.asks: list[Ask] = []
        self._port = free_port()
        path = folder / "live.toml"
        path.write_text(
            f'bundle = "bundle"\nsources = ["sim:"]\nstate_dir = "{folder}"\nrun_dir = "{folder}"\n'
            f'[http]\nlisten = ["127.0.0.1:{self._port}"]\n{tokens}\n',
            encoding="utf-8",
        )
        self._config = read_config(path)
        self._link = LinkServer(folder / LINK_NAME, self._carry_out)
        self._link.start()
        self._is_linked = True
        self._end: Callable[[], object] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Have the gateway listen, and know what it was told."""
        self._thread.start()
        until_s = time.monotonic() + _SOON_S
        while not self._is_ready():
            assert time.monotonic() < until_s, "the gateway does not come to be ready"

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}readyz", timeout=1.0):  # noqa: S310
                return True
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:  # it does not answer yet
            pass
        return False

    async def _serve(self) -> None:
        clock = MonotonicClock()
        listeners = open_listeners(self._config, clock)
        with Outlets(()) as outlets, contextlib.suppress(asyncio.CancelledError):
            task = asyncio.ensure_future(serve(self._config, listeners, outlets, clock, _LIMITS))
            loop = asyncio.get_running_loop()
            self._end = lambda: loop.call_soon_threadsafe(task.cancel)
            await task
        for listener, _ in listeners:
            listener.close()

    def close(self) -> None:
        """End everything."""
        if self._end is not None:
            self._end()
            self._thread.join(_SOON_S)
            assert not self._thread.is_alive()
        self.hang_up()

    def hang_up(self) -> None:
        """As when the process that infers has ended; harmless when it did already."""
        if self._is_linked:
            self._is_linked = False
            self._link.close()

    def tell(self, kind: str, content: Any) -> None:
        """Say something of kind "model", "prediction", "health" or "alarms"."""
        if kind == "prediction":
            self._link.publish({"kind": kind, "record": content})
            return
        self.known[kind] = content
        if kind == "model":
            interval_s = content["interval_s"]
            model = {key: value for key, value in content.items() if key != "interval_s"}
            told = {"protocol": 1, "edge_mer": "0.1.0", "pid": 1, "instance": "5f", "interval_s": interval_s}
            self._link.publish({"kind": "hello", **told, "model": model})
            return
        self._link.publish({"kind": kind, kind: content})

    def _carry_out(self, ask: Ask, fd: int | None) -> Message:
        self.asks.append(ask)
        return {}
