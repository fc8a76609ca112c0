"""A real gateway in a process of its own, at the other end of a real link."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.helpers.inference import Inference
from tests.helpers.process import rss_bytes
from tests.helpers.senders import free_port

ROOT = Path(__file__).resolve().parents[2]
SOON_S = 20.0

GENEROUS = {"requests_per_s": 10_000.0, "n_requests_at_once": 10_000}
"""Limits for tests that ask often."""


def until(is_so: Callable[[], object]) -> None:
    """Return once something is so."""
    until_s = time.monotonic() + SOON_S
    while not is_so():
        if time.monotonic() > until_s:
            raise TimeoutError(f"it did not come about within {SOON_S:.0f} s")
        time.sleep(0.02)


class Gateway:
    """A running gateway.

    Args:
        folder: For its configuration, its socket and its state.
        http: Lines of its section [http], without `listen`.
        sinks: Of the configuration.
        limits: Instead of the usual ones.
        host: Where it listens.
        begun_by: A command that runs it.

    Attributes:
        port: Where it listens.
        unix: Where it listens, too.
        process: The process.
    """

    def __init__(
        self,
        folder: Path,
        http: str = "",
        sinks: tuple[str, ...] = (),
        limits: Mapping[str, Any] = GENEROUS,
        host: str = "127.0.0.1",
        begun_by: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.port, self.unix = folder, free_port(), folder / "http.sock"
        self._host, self._scheme = host, "https" if "certificate" in http else "http"
        config = folder / "edge-mer.toml"
        config.write_text(
            f'bundle = "bundle"\nsources = ["sim:"]\nsinks = {json.dumps(sinks)}\n'
            f'state_dir = "{folder}"\nrun_dir = "{folder}"\n'
            f'[http]\nlisten = ["{host}:{self.port}", "unix:{self.unix}"]\n{http}\n',
            encoding="utf-8",
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-W", "error", str(ROOT / "tests/helpers/gateway_process.py"), str(config)]
        self.process = subprocess.Popen(
            [*begun_by, *command, json.dumps(dict(limits))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def url(self) -> str:
        """Of its root."""
        return f"{self._scheme}://{self._host}:{self.port}"

    def wait(self) -> None:
        """Return once it listens."""
        until_s = time.monotonic() + SOON_S
        while time.monotonic() < until_s and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.02)
        self.process.kill()
        raise RuntimeError(f"the gateway does not listen: {self.process.communicate()[0]}")

    def client(self, **settings: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=SOON_S, trust_env=False, **settings)

    def until(self, path: str, key: str, value: object) -> dict[str, Any]:
        """The answer of a path as soon as one of its keys has a value."""
        until_s = time.monotonic() + SOON_S
        with self.client() as client:
            while (answer := client.get(path)).json().get(key) != value:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"{path} does not come to say {key} = {value}: {answer.text}")
                time.sleep(0.02)
        return dict(answer.json())

    def told(self, key: str) -> Any:
        """Something of its own health."""
        with self.client() as client:
            return client.get("/v1/health").json()["gateway"][key]

    def rss_bytes(self) -> int:
        """Memory that it takes."""
        return rss_bytes(self.process.pid)

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it by a signal; what it printed."""
        self.process.send_signal(number)
        try:
            printed, _ = self.process.communicate(timeout=SOON_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return printed


@contextlib.contextmanager
def running(folder: Path, **settings: Any) -> Iterator[tuple[Gateway, Inference]]:
    """A gateway with something that infers behind it; neither may complain."""
    inference = Inference(folder)
    gateway = Gateway(folder, **settings)
    try:
        gateway.wait()
        yield gateway, inference
    finally:
        printed = gateway.stop() if gateway.process.poll() is None else ""
        inference.stop()
    assert printed == "", printed
    assert gateway.process.returncode == 0
