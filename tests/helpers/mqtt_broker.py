"""A real MQTT broker on the loopback, with TLS where it is asked for, and a client that listens to it."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.waiting import DEADLINE_S, free_port, wait_until


class Certificates(NamedTuple):
    """Files of an authority, and of a server that it vouches for as 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """An authority of our own, made by openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    certificate, key, request = folder / "server.pem", folder / "server.key", folder / "server.csr"
    extensions = folder / "server.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="utf-8")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    commands = [
        [
            "req",
            "-x509",
            *new_key,
            "-keyout",
            ca_key,
            "-out",
            ca,
            "-days",
            "2",
            "-subj",
            f"/CN={folder.name}",
        ],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=broker"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"],
    ]
    commands[-1] += ["-extfile", extensions, "-out", certificate]
    for command in commands:
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return Certificates(ca, certificate, key)


class Broker:
    """Mosquitto on a port of its own.

    Args:
        folder: For its settings.
        certificates: Speaks TLS with these; None: in the clear.
        users: Name -> password of those who may connect; None: everybody.
    """

    def __init__(
        self, folder: Path, certificates: Certificates | None = None, users: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {'false' if users else 'true'}"]
        if certificates is not None:
            lines += [f"certfile {certificates.certificate}", f"keyfile {certificates.key}"]
        if users:
            passwords = folder / "passwords"
            passwords.write_text("", encoding="utf-8")
            for name, password in users.items():
                command = ["mosquitto_passwd", "-b", str(passwords), name, password]
                subprocess.run(command, check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        # it gives up root otherwise, and could not read this folder any more
        lines.append("user root")
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it takes connections."""
        self._process = subprocess.Popen(
            [str(_mosquitto()), "-c", str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: _listens(self.port), "the broker listens")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it take nothing any more, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """The end of the pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Listener:
    """Takes everything under a topic.

    Attributes:
        heard: (topic, payload, retained) in their order.
    """

    def __init__(
        self, port: int, topic: str, ca: Path | None = None, login: tuple[str, str] | None = None
    ) -> None:
        import paho.mqtt.client as mqtt

        self._messages: queue.Queue[tuple[str, str, bool]] = queue.Queue()
        self._subscribed: queue.Queue[None] = queue.Queue()
        self.heard: list[tuple[str, str, bool]] = []
        self._topic = topic
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        if ca is not None:
            client.tls_set(str(ca))
        if login is not None:
            client.username_pw_set(*login)
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda client, *_: client.subscribe(f"{topic}/#", qos=1)
        client.on_subscribe = lambda *_: self._subscribed.put(None)
        client.on_message = self._on_message
        client.connect("127.0.0.1", port)
        client.loop_start()
        self.wait_subscribed()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self._messages.put((message.topic, message.payload.decode(), bool(message.retain)))

    def wait_subscribed(self) -> None:
        """Until it is subscribed once more."""
        self._subscribed.get(timeout=DEADLINE_S)

    def until(self, is_it: Callable[[str, str], bool]) -> tuple[str, str, bool]:
        """The next message of that topic and payload; all until then are kept in `heard`."""
        until_s = time.monotonic() + DEADLINE_S
        while True:
            message = self._messages.get(timeout=max(0.01, until_s - time.monotonic()))
            self.heard.append(message)
            if is_it(message[0], message[1]):
                return message

    def until_now(self) -> None:
        """Hear all that the broker has for it by now."""
        self._client.publish(f"{self._topic}/now", "", qos=1)
        self.until(lambda topic, _: topic == f"{self._topic}/now")
        self.heard.pop()

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()


def _mosquitto() -> str | None:
    """Debian keeps it where not everybody looks."""
    return shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
