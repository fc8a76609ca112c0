"""`mqtt:` and `mqtts:` publish predictions on a broker.

mqtt://127.0.0.1/ward3/bed5
mqtts://broker.example/ward3/bed5?ca_file=ca.pem&username=bed5&password_file=/run/secrets/mqtt
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks.people import Departures
from edge_mer.sinks.web_address import CONNECT_S, TLS_KEYS, WebAddress
from edge_mer.types import uri_keys
from edge_mer.types.facts import ModelFacts, ScalarPath, scalars_of
from edge_mer.types.predictions import Prediction

EXAMPLE = "mqtts://broker.example/ward3/bed5?ca_file=ca.pem"

KEEPALIVE_S = 10
"""A broker that is silent for one and a half times as long counts as gone, on either side."""

MAX_WAITING = 64
"""So many predictions wait for a broker that is slow; more are lost, and counted."""

_KEYS = {
    "qos": uri_keys.whole(0, 1),
    "client_id": uri_keys.text(),
    "username": uri_keys.text(),
    "password_file": uri_keys.text("a file that holds nothing but the password"),
}
_MIN_RECONNECT_S, _MAX_RECONNECT_S = 1, 30
_CLOSE_S, _PATIENCE_S = 2.0, 1.0
_MAX_TOPIC_BYTES = 1024
_ESCAPES = {ord(one): f"%{ord(one):02X}" for one in "%/+#\0"}
_REFUSED = "the broker refused it"


class MqttSink:
    """Publishes under one topic.

    `<topic>/prediction` has the whole record, `<topic>/<output>` its numbers one by one, `null` where there
    is none, `<topic>/<person>/<output>` those of people who are told apart. Nothing of these is retained.
    `<topic>/status` is, "online" or "offline", which the broker says where this side was lost.

    Args:
        rest: The URI after `mqtt:`.
        scheme: "mqtts" for TLS.

    Attributes:
        n_lost: Predictions that no broker took.

    Raises:
        UsageError: No host, no topic, a wrong key, or a password that would go over the network in the clear.
    """

    def __init__(self, rest: str, scheme: str = "mqtt") -> None:
        self._is_secure = scheme == "mqtts"
        keys = {**_KEYS, **TLS_KEYS} if self._is_secure else _KEYS
        port = 8883 if self._is_secure else 1883
        self._address = address = WebAddress.parse(scheme, rest, keys, port, EXAMPLE)
        self._topic = _checked_topic(address)
        if "password_file" in address.values:
            if not (self._is_secure or address.is_loopback):
                raise UsageError(
                    f"{address.shown}: a password would go over the network in the clear",
                    hint="write mqtts:",
                )
            if "username" not in address.values:
                raise UsageError(f"{address.shown}: password_file= needs username=")
        self._qos: int = address.values.get("qos", 0)
        self._scalars: tuple[ScalarPath, ...] = ()
        self._client: Any = None
        self._answered = threading.Event()
        self._away = "nobody was called yet"
        self._waiting: deque[Any] = deque()
        self._departures = Departures()
        self.n_lost = 0

    @property
    def target(self) -> Path | None:
        """None: it writes no file."""
        return None

    @property
    def name(self) -> str:
        """The URI without its keys."""
        return self._address.shown

    @property
    def away(self) -> str:
        """Why no broker takes anything just now; "" while one does."""
        return self._away

    def introduce(self, model: ModelFacts) -> None:
        """Learn which numbers there are."""
        self._scalars = model.scalars

    def check(self) -> None:
        """Read the files that keys name.

        Raises:
            UsageError: One cannot be used.
            MissingError: paho-mqtt is not installed.
        """
        _paho()
        if self._is_secure:
            self._address.tls()
        self._address.secret("password_file")

    def open(self) -> None:
        """Connect, and say "online". From then on it connects again by itself.

        Raises:
            UsageError: The broker refuses us, or a file of a key cannot be used.
            MissingError: Nobody answers, or it is not the broker that its certificate says.
        """
        mqtt = _paho()
        address = self._address
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=address.values.get("client_id", ""))
        if self._is_secure:
            client.tls_set_context(address.tls())
        if "username" in address.values:
            client.username_pw_set(address.values["username"], address.secret("password_file"))
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        client.reconnect_delay_set(_MIN_RECONNECT_S, _MAX_RECONNECT_S)
        client.connect_timeout = CONNECT_S
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        self._answered.clear()
        self._away = "it does not answer"
        try:
            client.connect(address.host, address.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as error:
            raise MissingError(
                f"{address.shown}: no broker answers",
                found=getattr(error, "verify_message", None)
                or getattr(error, "strerror", None)
                or str(error),
                hint="check host, port and ca_file=" if self._is_secure else "check host and port",
            ) from error
        self._client = client
        client.loop_start()
        self._answered.wait(CONNECT_S)
        why = self._away
        if not why:
            return
        self.close()
        if why.startswith(_REFUSED):
            raise UsageError(f"{address.shown}: {why}", hint="check username= and password_file=")
        raise MissingError(
            f"{address.shown}: what answers is no MQTT broker",
            hint="check the port, and whether it wants mqtts:",
        )

    def write(self, prediction: Prediction) -> None:
        """Publish it, or count it as lost; waits a second for a broker that is slow."""
        if self._away:  # of who leaves meanwhile it is said when the broker is back
            self.n_lost += 1
            return
        for one in self._departures.before(prediction):
            self._publish(one)

    def close(self) -> None:
        """Say "offline" and hang up."""
        client, self._client = self._client, None
        if client is None:
            return
        if not self._away:
            last = client.publish(f"{self._topic}/status", "offline", qos=1, retain=True)
            with contextlib.suppress(ValueError, RuntimeError):  # it was lost just now: the broker says it
                last.wait_for_publish(_CLOSE_S)
        client.on_disconnect = None
        client.disconnect()
        client.loop_stop()
        self._away = self._away or "it is closed"
        self._count_lost()
        self.n_lost += len(self._waiting)
        self._waiting.clear()

    def abandon(self) -> None:
        """The same: nothing of it is retained but "offline"."""
        self.close()

    def _publish(self, prediction: Prediction) -> None:
        self._count_lost()
        if not self._away and len(self._waiting) >= MAX_WAITING:
            with contextlib.suppress(ValueError, RuntimeError):  # it was lost, and is counted
                self._waiting[0].wait_for_publish(_PATIENCE_S)
            self._count_lost()
        if self._away or len(self._waiting) >= MAX_WAITING:
            self.n_lost += 1
            return
        line = json.dumps(prediction.to_dict(), allow_nan=False)
        self._waiting.append(self._client.publish(f"{self._topic}/prediction", line, self._qos))
        # numbers have no time of their own: one that comes late would be taken for now, so none is sent twice
        found = scalars_of(prediction)
        who = () if prediction.person is None else (prediction.person,)
        for path in dict.fromkeys((*self._scalars, *found)):
            self._client.publish(self._topic_of(*who, *path), json.dumps(found.get(path)), 0)

    def _topic_of(self, *parts: str) -> str:
        return "/".join((self._topic, *(part.translate(_ESCAPES) for part in parts)))

    def _count_lost(self) -> None:
        """Forget what was sent, and count what was lost with a connection."""
        for _ in range(len(self._waiting)):
            one = self._waiting.popleft()
            if not _is_done(one):
                self._waiting.append(one)
            elif one.rc != 0:
                self.n_lost += 1

    # -- on paho's thread -----------------------------------------------------------------------

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._away = f"{_REFUSED}: {reason}"
        else:
            client.publish(f"{self._topic}/status", "online", qos=1, retain=True)
            self._away = ""
        self._answered.set()

    def _on_disconnect(self, *_: Any) -> None:
        if not self._away:
            self._away = "the connection was lost"
        self._answered.set()


def open_secure(rest: str) -> MqttSink:
    """`mqtts:`, the same over TLS."""
    return MqttSink(rest, "mqtts")


def _is_done(sent: Any) -> bool:
    try:
        return bool(sent.is_published())
    except (ValueError, RuntimeError):  # it was refused at once
        return True


def _checked_topic(address: WebAddress) -> str:
    topic = address.path
    is_plain = not set(topic) & set("+#\0") and not topic.startswith("$")
    if not topic or not is_plain or len(topic.encode()) > _MAX_TOPIC_BYTES:
        raise UsageError(
            f"{address.shown} names no topic to publish under", expected=EXAMPLE, found=topic or "nothing"
        )
    return topic


def _paho() -> Any:
    try:
        import paho.mqtt.client as mqtt
    except ImportError as error:
        raise MissingError(
            "publishing on an MQTT broker needs paho-mqtt",
            hint="install it with: pip install 'edge-mer[daemon]'",
        ) from error
    return mqtt
