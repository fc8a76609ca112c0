"""`fhir:`, `fhir+https:` and `fhir+http:` write predictions as HL7 FHIR R5 Observations.

fhir:observations.ndjson?patient=Patient/123&every_s=60
fhir+https://fhir.example/r5?token_file=/run/secrets/fhir&patient=Patient/123&every_s=60
"""

from __future__ import annotations

import http.client
import json
import re
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks.fhir_observations import Json, observations_of, transaction_of
from edge_mer.sinks.line_file import LineFile
from edge_mer.sinks.people import Departures
from edge_mer.sinks.web_address import CONNECT_S, TLS_KEYS, WebAddress
from edge_mer.types import uri_keys
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction
from edge_mer.types.uri_keys import Key

FILE_EXAMPLE = "fhir:observations.ndjson"
SERVER_EXAMPLE = "fhir+https://fhir.example/r5?token_file=token"

MAX_WAITING = 256
"""So many predictions wait for a server that is away; then the oldest are lost, and counted."""

BATCH = 32
"""Predictions in one transaction."""

_KEYS = {
    "patient": Key(
        "a reference such as Patient/123",
        lambda given: given if re.fullmatch(r"Patient/[A-Za-z0-9.-]{1,64}", given) else None,
    ),
    "every_s": uri_keys.number(0, 86_400),
}
_SERVER_KEYS = {**_KEYS, "token_file": uri_keys.text("a file that holds nothing but a bearer token")}
_CONTENT = "application/fhir+json; fhirVersion=5.0"
_MIN_RETRY_S, _MAX_RETRY_S = 1, 60
_MAX_PEOPLE = 64
_MAX_ANSWER_BYTES = 1 << 20
_LATER = {401, 403, 408, 425, 429}
_UNAUTHORISED = {401, 403}


class _Chosen:
    """The Observations of the predictions that are written.

    Args:
        shown: The sink's URI, for messages.
        values: The URI's keys.
    """

    def __init__(self, shown: str, values: Mapping[str, Any]) -> None:
        self._shown = shown
        self._patient: str | None = values.get("patient")
        self._every_ns = round(values.get("every_s", 0.0) * NS_PER_S)
        self._session = uuid4()
        self._departures = Departures()
        self._last: OrderedDict[str | None, tuple[int, bool]] = OrderedDict()
        self.model: ModelFacts | None = None

    def of(self, prediction: Prediction) -> Iterator[list[Json]]:
        """Those of this prediction, and of people who left before it; none where it is too soon for them.

        Raises:
            UsageError: One of several people would be filed as the one patient.
        """
        if self.model is None:
            raise RuntimeError("the sink was not introduced")
        if self._patient is not None and prediction.person is not None:
            raise UsageError(
                f"{self._shown}: several people are followed, and cannot all be {self._patient}",
                hint="leave out patient=, or people (--people)",
            )
        for one in self._departures.before(prediction):
            if self._is_due(one):
                yield observations_of(one, self.model, self._session, self._patient)

    def _is_due(self, prediction: Prediction) -> bool:
        """Whether it is time again, or there is an estimate where there was none, or the other way round."""
        has_estimate = prediction.status != "withheld"
        last_ns, had_estimate = self._last.get(prediction.person, (None, None))
        if last_ns is not None and had_estimate == has_estimate:
            since_ns = prediction.t_end_ns - last_ns
            if 0 <= since_ns < self._every_ns:
                return False
        self._last[prediction.person] = (prediction.t_end_ns, has_estimate)
        self._last.move_to_end(prediction.person)
        if len(self._last) > _MAX_PEOPLE:
            self._last.popitem(last=False)
        return True


class FhirFileSink(LineFile):
    """`fhir:PATH`: one Observation per line, written to PATH.part and renamed at the end.

    Args:
        rest: The URI after `fhir:`: a path, "-" for standard output, and keys.

    Raises:
        UsageError: No path, or a wrong key.
    """

    def __init__(self, rest: str) -> None:
        path, values = uri_keys.read("fhir", rest, _KEYS, FILE_EXAMPLE)
        super().__init__("fhir", path, FILE_EXAMPLE)
        self._chosen = _Chosen(f"fhir:{path}", values)

    def introduce(self, model: ModelFacts) -> None:
        """Learn which outputs there are."""
        self._chosen.model = model

    def write(self, prediction: Prediction) -> None:
        """Append a line per output, if it is time."""
        for observations in self._chosen.of(prediction):
            for one in observations:
                self.append(json.dumps(one, allow_nan=False))


@dataclass(frozen=True)
class _Answer:
    """What a server said."""

    status: int
    reason: str


class FhirServerSink:
    """Posts Observations to a FHIR server, some predictions per transaction.

    What a server that is away could not take is tried again later, and is filed once: it is known by its
    identifiers. What it refuses is lost, and counted.

    Args:
        rest: The URI after its scheme.
        scheme: "fhir+https", or "fhir+http" for a server on this machine.
        clock: Says when to try again.

    Attributes:
        n_lost: Predictions that no server took.

    Raises:
        UsageError: No host, a wrong key, or a server on another machine without TLS.
    """

    def __init__(self, rest: str, scheme: str = "fhir+https", clock: Clock | None = None) -> None:
        self._is_secure = scheme == "fhir+https"
        keys = {**_SERVER_KEYS, **TLS_KEYS} if self._is_secure else _SERVER_KEYS
        port = 443 if self._is_secure else 80
        self._address = address = WebAddress.parse(scheme, rest, keys, port, SERVER_EXAMPLE)
        if not (self._is_secure or address.is_loopback):
            raise UsageError(
                f"{address.shown}: what is known of people would go over the network in the clear",
                expected="fhir+https:, or a server on this machine",
            )
        self._chosen = _Chosen(address.shown, address.values)
        self._clock = clock or MonotonicClock()
        self._tls: Any = None
        self._is_open = False
        self._waiting: deque[list[Json]] = deque()
        self._retry_s = _MIN_RETRY_S
        self._next_ns = 0
        self._away = "nobody was called yet"
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
        """Why the server takes nothing just now; "" while it does."""
        return self._away

    def introduce(self, model: ModelFacts) -> None:
        """Learn which outputs there are."""
        self._chosen.model = model

    def check(self) -> None:
        """Read the files that keys name.

        Raises:
            UsageError: One cannot be used.
        """
        if self._is_secure:
            self._address.tls()
        self._address.secret("token_file")

    def open(self) -> None:
        """See that the server answers, and takes our token.

        Raises:
            UsageError: It does not take the token, or a file of a key cannot be used.
            MissingError: Nobody answers, or it is not who its certificate says.
        """
        address = self._address
        self._tls = address.tls() if self._is_secure else None
        self._headers()
        try:
            answer = self._ask("GET", f"{self._path}/metadata")
        except OSError as error:
            raise MissingError(
                f"{address.shown}: no server answers",
                found=_found(error),
                hint="check host, port and ca_file=" if self._is_secure else "check host and port",
            ) from error
        if answer.status in _UNAUTHORISED:
            raise UsageError(
                f"{address.shown}: the server refuses us",
                found=f"{answer.status} {answer.reason}",
                hint="check token_file=",
            )
        self._is_open, self._away = True, ""

    def write(self, prediction: Prediction) -> None:
        """Have it posted, if it is time; waits some seconds for a server that is slow."""
        for observations in self._chosen.of(prediction):
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self.n_lost += 1
            self._waiting.append(observations)
        if self._clock.now_ns() >= self._next_ns:
            self._post_all()

    def close(self) -> None:
        """Try once more to post what waits."""
        if self._is_open:
            self._is_open = False
            self._post_all()
        self._give_up()

    def abandon(self) -> None:
        """Post nothing more."""
        self._is_open = False
        self._give_up()

    def _give_up(self) -> None:
        self.n_lost += len(self._waiting)
        self._waiting.clear()
        self._away = self._away or "it is closed"

    def _post_all(self) -> None:
        while self._waiting and self._post(list(islice(self._waiting, BATCH))):
            pass

    def _post(self, batch: list[list[Json]]) -> bool:
        """Post the oldest that wait; False where they are to be tried again later."""
        bundle = transaction_of([one for observations in batch for one in observations])
        try:
            answer = self._ask("POST", self._path or "/", json.dumps(bundle, allow_nan=False).encode())
        except (OSError, UsageError) as error:  # the latter where the token's file is gone
            return self._try_later(_found(error))
        if answer.status in _LATER or answer.status >= 500:
            return self._try_later(f"it says {answer.status} {answer.reason}")
        is_taken = 200 <= answer.status < 300
        if not is_taken:
            self.n_lost += len(batch)
        for _ in batch:
            self._waiting.popleft()
        self._away = "" if is_taken else f"it refuses what is posted: {answer.status} {answer.reason}"
        self._retry_s, self._next_ns = _MIN_RETRY_S, 0
        return True

    def _try_later(self, why: str) -> bool:
        self._away = why
        self._next_ns = self._clock.now_ns() + self._retry_s * NS_PER_S
        self._retry_s = min(2 * self._retry_s, _MAX_RETRY_S)
        return False

    @property
    def _path(self) -> str:
        return f"/{quote(self._address.path)}" if self._address.path else ""

    def _headers(self) -> dict[str, str]:
        """Those of a request; the token is read each time, since somebody may have brought a new one."""
        headers = {"Content-Type": _CONTENT, "Accept": "application/fhir+json"}
        token = self._address.secret("token_file")
        if token is not None and not token.isascii():
            raise UsageError(f"{self._address.shown}: the file of token_file= holds no token")
        return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}

    def _ask(self, method: str, path: str, body: bytes | None = None) -> _Answer:
        """One request, which follows no redirection and goes through no proxy: a token is for this host only.

        Raises:
            OSError: No answer in time, or none that can be understood.
        """
        host, port = self._address.host, self._address.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=self._tls)
            if self._is_secure
            else http.client.HTTPConnection(host, port, timeout=CONNECT_S)
        )
        try:
            connection.request(method, path, body, self._headers())
            response = connection.getresponse()
            response.read(_MAX_ANSWER_BYTES)
            return _Answer(response.status, response.reason[:100])
        except http.client.HTTPException as error:
            raise OSError(f"what it says is no HTTP: {error!r}"[:200]) from error
        except ValueError as error:  # a host that no name server could know
            raise OSError(str(error)) from error
        finally:
            connection.close()


def open_loopback(rest: str) -> FhirServerSink:
    """`fhir+http:`, for a server on this machine."""
    return FhirServerSink(rest, "fhir+http")


def _found(error: Exception) -> str:
    return getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
