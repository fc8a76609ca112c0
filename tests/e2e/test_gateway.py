"""The gateway as a process: real sockets, real clients of HTTP and WebSocket, and whoever means harm."""

from __future__ import annotations

import json
import random
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'edge-mer[daemon]'")
pytest.importorskip("httpx", reason="needs pip install httpx")

import httpx
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from edge_mer.gateway.auth import make_token
from edge_mer.gateway.shapes import PredictionShape
from tests.helpers.certificates import write_certificates
from tests.helpers.gateway import GENEROUS, SOON_S, Gateway, running, until
from tests.helpers.inference import Inference, health
from tests.helpers.slow_clients import deaf, slow_clients

pytestmark = pytest.mark.live

READ, READ_SHA256 = make_token()
ALL, ALL_SHA256 = make_token()
TOKENS = f"""
hosts = ["robot.local"]
[[http.tokens]]
name = "ward-3"
sha256 = "{READ_SHA256}"
[[http.tokens]]
name = "nurse"
sha256 = "{ALL_SHA256}"
may = ["read", "acknowledge", "swap"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Gateway, Inference]]:
    """A gateway that everybody on this machine may ask, to be ended."""
    with running(tmp_path) as both:
        both[0].until("/v1/health", "state", "serving")
        yield both


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Inference]]:
    """The same, shared by tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("open")) as both:
        both[0].until("/v1/health", "state", "serving")
        yield both


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Inference]]:
    """A gateway that waits for nobody for long, and takes no large bundle."""
    limits = {"head_s": 0.5, "body_s": 0.5, "stuck_s": 0.5, "bundle_bytes": 1 << 20}
    with running(tmp_path_factory.mktemp("impatient"), limits={**GENEROUS, **limits}) as both:
        both[0].until("/v1/health", "state", "serving")
        yield both


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Inference]]:
    """A gateway with tokens, shared by tests that leave it as it is."""
    limits = {**GENEROUS, "logins_per_min": 1000}
    with running(tmp_path_factory.mktemp("guarded"), http=TOKENS, limits=limits) as (gateway, inference):
        with gateway.client() as client:
            until(lambda: client.get("/readyz").status_code == 200)
        inference.predict()
        yield gateway, inference


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def websocket(gateway: Gateway, **settings: Any) -> ClientConnection:
    url = gateway.url.replace("http", "ws", 1)
    return connect(f"{url}/v1/predictions", proxy=None, open_timeout=SOON_S, **settings)


def to_the_end(spoken: ClientConnection) -> None:
    while True:
        spoken.recv(SOON_S)


class Listener:
    """A client of server-sent events, in a thread of its own."""

    def __init__(self, gateway: Gateway, token: str = "") -> None:
        self.records: list[tuple[float, dict[str, Any]]] = []
        self.kinds: list[str] = []
        self._client = gateway.client(headers=bearer(token) if token else {})
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        until(lambda: "alarms" in self.kinds)

    def _listen(self) -> None:
        try:
            with self._client, self._client.stream("GET", "/v1/predictions") as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self._take(json.loads(line.removeprefix("data: ")))
        except (httpx.HTTPError, RuntimeError):  # closed, at its own end or at the other one
            return

    def _take(self, event: dict[str, Any]) -> None:
        if event["kind"] == "prediction":
            self.records.append((time.monotonic(), event["record"]))
        self.kinds.append(event["kind"])

    @property
    def indices(self) -> list[int]:
        """Of records that the other process made."""
        return [
            record["window_index"] for _, record in self.records if "inference_lost" not in record["reasons"]
        ]

    def join(self) -> None:
        """Return when the other end has hung up."""
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()


# --- what clients get ----------------------------------------------------------------------------


def test_every_client_gets_every_record(own: tuple[Gateway, Inference]) -> None:
    gateway, inference = own
    listeners = [Listener(gateway) for _ in range(3)]
    with websocket(gateway) as spoken:
        first = [json.loads(spoken.recv(SOON_S)) for _ in range(3)]
        assert [event["kind"] for event in first] == ["model", "health", "alarms"]
        inference.predict(40)
        until(lambda: all(len(one.records) == 40 for one in listeners))
        heard: list[int] = []
        while len(heard) < 40:
            event = json.loads(spoken.recv(SOON_S))
            if event["kind"] == "prediction":
                heard.append(event["record"]["window_index"])
                PredictionShape.model_validate(event["record"])
    assert [one.indices for one in (*listeners,)] == [list(range(40))] * 3
    assert heard == list(range(40))
    with gateway.client() as client:
        latest = client.get("/v1/predictions/latest")
    assert latest.json() == listeners[0].records[-1][1]
    assert latest.headers["cache-control"] == "no-store"
    gateway.stop()
    for listener in listeners:
        listener.join()


def test_metrics_are_read_by_prometheus_own_parser(pair: tuple[Gateway, Inference]) -> None:
    gateway, inference = pair
    inference.predict()
    gateway.until("/v1/predictions/latest", "status", "ok")
    with gateway.client() as client:
        answer = client.get("/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["edge_mer_predictions_total", ("status", "withheld")] == 1
    assert samples["edge_mer_reasons_total", ("reason", "audio_missing")] == 2
    latency = ("edge_mer_latency_seconds", ("quantile", "0.95"), ("stage", "end_to_end"))
    assert samples[latency] == pytest.approx(0.035)
    assert samples["edge_mer_stream_ok", ("stream", "camera/visual")] == 1
    assert samples["edge_mer_source_restarts_total", ("source", "rtsp-0")] == 4
    assert samples["edge_mer_temperature_celsius", ("zone", "cpu-thermal")] == 51
    assert samples[("edge_mer_ready",)] == 1
    assert samples[("edge_mer_dropped_steps_total",)] == 3
    # nothing of a person
    assert not any(word in answer.text for word in ("valence", "arousal", "pain", "emotion", "secret"))


def test_loss_is_told_once_to_everybody_and_ends(own: tuple[Gateway, Inference]) -> None:
    gateway, inference = own
    listener = Listener(gateway)
    inference.predict(2)
    until(lambda: len(listener.indices) == 2)
    inference.stop()
    gateway.until("/v1/predictions/latest", "status", "withheld")
    with gateway.client() as client:
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/health").json()["state"] == "lost"
        assert client.post("/v1/bundle/rollback").status_code == 503
    again = Inference(gateway.folder)
    try:
        until(lambda: listener.kinds.count("model") == 2)
        again.predict(2)
        until(lambda: len(listener.indices) == 4)
    finally:
        again.stop()
    reasons = [record["reasons"] for _, record in listener.records]
    assert reasons[-5:] == [[], [], ["inference_lost"], [], []]
    lost = listener.records[-3][1]
    assert lost["affect"] is None
    assert not any(one["present"] for one in lost["modalities"].values())


def test_the_page_is_served_under_a_strict_policy(pair: tuple[Gateway, Inference]) -> None:
    gateway, _ = pair
    with gateway.client() as client:
        page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert not any("unsafe" in part or "http" in part for part in policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


# --- what clients may ----------------------------------------------------------------------------


def test_rights(guarded: tuple[Gateway, Inference]) -> None:
    gateway, inference = guarded
    acknowledge = "/v1/alarms/high-pain-1/acknowledge"
    with gateway.client() as client:
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/").status_code == client.get("/openapi.json").status_code == 200
        for path in ("/v1/predictions", "/v1/predictions/latest", "/v1/health", "/v1/model", "/metrics"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers=bearer("wrong")).status_code == 401, path
        assert client.get("/v1/health", headers=bearer(READ)).status_code == 200
        refused = client.post(acknowledge, headers=bearer(READ))
        assert refused.status_code == 403
        assert "acknowledge" in refused.json()["error"]["hint"]
        assert client.post(acknowledge, headers=bearer(ALL)).json()["state"] == "acknowledged"
        assert client.post("/v1/alarms/none/acknowledge", headers=bearer(ALL)).status_code == 404
    asked = [ask for ask, _ in inference.asks]
    assert [(ask.who, ask.arguments) for ask in asked if ask.what == "acknowledge"] == [
        ("nurse", {"id": "high-pain-1"})
    ]
    assert {ask.arguments["event"] for ask in asked if ask.what == "audit"} >= {"login_failed"}


def test_a_session_of_the_page(guarded: tuple[Gateway, Inference]) -> None:
    gateway, inference = guarded
    with gateway.client() as client:
        assert client.post("/v1/login", json={"token": "wrong"}).status_code == 401
        answer = client.post("/v1/login", json={"token": READ}, headers={"origin": gateway.url})
        assert answer.json()["may"] == ["read"]
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/v1/health").status_code == 200
        assert client.post("/v1/bundle/rollback").status_code == 403
        held = dict(client.cookies)
        assert client.post("/v1/logout").status_code == 204
        assert client.get("/v1/health").status_code == 401
        client.cookies.update(held)
        assert client.get("/v1/health").status_code == 401
    events = [ask.arguments.get("event") for ask, _ in inference.asks if ask.what == "audit"]
    assert "login" in events


def test_websockets_need_the_right_token_and_page(guarded: tuple[Gateway, Inference]) -> None:
    gateway, _ = guarded
    with websocket(gateway, additional_headers=bearer(READ)) as spoken:
        assert json.loads(spoken.recv(SOON_S))["kind"] == "model"
        spoken.send("hello?")
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(spoken)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    for settings, status in (
        ({}, 401),
        ({"additional_headers": bearer("wrong")}, 401),
        ({"additional_headers": bearer(READ), "origin": "http://evil.example"}, 403),
    ):
        with pytest.raises(InvalidStatus) as refused, websocket(gateway, **settings):
            pass
        assert refused.value.response.status_code == status
        assert b'"what"' in (refused.value.response.body or b"")


def test_guesses_and_requests_and_connections_are_bounded(tmp_path: Path) -> None:
    limits = {
        "logins_per_min": 3,
        "n_connections_per_peer": 3,
        "requests_per_s": 0.01,
        "n_requests_at_once": 12,
    }
    with running(tmp_path, http=TOKENS, limits=limits) as (gateway, _), gateway.client() as client:
        answers = [client.get("/v1/health", headers=bearer("guess")).status_code for _ in range(5)]
        assert answers == [401, 401, 401, 429, 429]
        assert client.post("/v1/login", json={"token": READ}).status_code == 429  # right or not
        found = [client.get("/healthz") for _ in range(8)]
        assert [answer.status_code for answer in found] == [200] * 6 + [429] * 2
        assert found[-1].headers["retry-after"] == "1"
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(closing(raw(gateway, "", "127.0.0.2")))
            with closing(raw(gateway, "", "127.0.0.2")) as one_more:
                status, body = answer_of(one_more)
            assert (status, body["error"]["what"]) == (503, "too many connections")
            with closing(raw(gateway, f"GET /healthz HTTP/1.1\r\n{HOST}\r\n", "127.0.0.3")) as another:
                assert answer_of(another)[0] == 200


def test_a_bundle_is_brought_without_a_path(guarded: tuple[Gateway, Inference]) -> None:
    gateway, inference = guarded
    bundle = b"manifest.json" + bytes(3_000_000)
    tar = {"content-type": "application/x-tar", **bearer(ALL)}
    before = sorted(path.name for path in gateway.folder.iterdir())
    with gateway.client() as client:
        assert client.post("/v1/bundle", content=bundle, headers=tar).status_code == 202
        ask, brought = inference.asks[-1]
        assert (ask.what, ask.who, ask.arguments, brought) == ("swap", "nurse", {}, bundle)
        wrong = client.post("/v1/bundle", content=b"nothing", headers=tar)
        assert wrong.status_code == 422
        assert wrong.json()["error"]["what"] == "this is no bundle"
        assert client.post("/v1/bundle", content=b"", headers=tar).status_code == 422
        assert client.post("/v1/bundle", content=bundle, headers=bearer(READ)).status_code == 403
        text = {**tar, "content-type": "text/plain"}
        assert client.post("/v1/bundle", content=b"x", headers=text).status_code == 415
        assert client.post("/v1/bundle/rollback", headers=bearer(ALL)).status_code == 202
    assert sorted(path.name for path in gateway.folder.iterdir()) == before


def test_one_bundle_at_a_time_and_none_that_is_too_large(impatient: tuple[Gateway, Inference]) -> None:
    gateway, _ = impatient
    with gateway.client() as client:
        tar = {"content-type": "application/x-tar"}
        head = "POST /v1/bundle HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-tar\r\n"
        with raw(gateway, f"{head}Content-Length: 1000\r\n\r\nbegun") as slow:
            until(lambda: client.post("/v1/bundle", content=b"x", headers=tar).status_code == 409)
            assert answer_of(slow)[0] == 408
        assert client.post("/v1/bundle", content=bytes(2 << 20), headers=tar).status_code == 413

        def endless() -> Iterator[bytes]:
            for _ in range(32):
                yield bytes(1 << 16)

        assert client.post("/v1/bundle", content=endless(), headers=tar).status_code == 413


# --- whoever means harm --------------------------------------------------------------------------


def raw(gateway: Gateway, request: str | bytes, source: str = "127.0.0.1") -> socket.socket:
    """A connection over which something was sent as it stands."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), SOON_S, source_address=(source, 0))
    connection.sendall(request.encode("latin-1") if isinstance(request, str) else request)
    return connection


def answer_of(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and body of an answer after which the connection is closed, or whose length is told."""
    data = b""
    while b"\r\n\r\n" not in data and (read := connection.recv(65536)):
        data += read
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
    while len(body) < length and (read := connection.recv(65536)):
        body += read
    return int(lines[0].split()[1]), json.loads(body)


HOST = "Host: localhost\r\n"
AUTH = f"Authorization: Bearer {ALL}\r\n"
JSON = "Content-Type: application/json\r\n"
HARM = {
    "no HTTP at all": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    "no version": ("GET /\r\n\r\n", 400),
    "no host": ("GET / HTTP/1.1\r\n\r\n", 400),
    "no host, as of old": ("GET / HTTP/1.0\r\n\r\n", 421),
    "two hosts": (f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n", 400),
    "another's name": ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    "a name that begins like ours": ("GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 421),
    "a header without end": (f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 600_000}", 400),
    "a large header": (f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 20_000}\r\n\r\n", 431),
    "a flood of headers": (f"GET / HTTP/1.1\r\n{HOST}" + "A: b\r\n" * 5000 + "\r\n", 431),
    "a path that climbs": (f"GET /v1/../../etc/passwd HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "the same, encoded": (f"GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "from the page": (f"GET /page.js/../../auth.py HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "doubly encoded": (f"GET /%252e%252e%252fetc%252fpasswd HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "a path with a zero": (f"GET /v1/model%00.txt HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "an absolute address": (f"GET http://evil.example/v1/model HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "an alarm that climbs": (f"POST /v1/alarms/..%2f..%2fx/acknowledge HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
    "a long name of an alarm": (f"POST /v1/alarms/{'x' * 500}/acknowledge HTTP/1.1\r\n{HOST}{AUTH}\r\n", 422),
    "a long name of a person": (
        f"GET /v1/predictions/latest?person={'x' * 90} HTTP/1.1\r\n{HOST}{AUTH}\r\n",
        422,
    ),
    "a wrong method": (f"DELETE /v1/predictions HTTP/1.1\r\n{HOST}{AUTH}\r\n", 405),
    "a method of nobody": (f"BREW /v1/model HTTP/1.1\r\n{HOST}{AUTH}\r\n", 405),
    "a tunnel": (f"CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\n", 404),
    "another protocol": (f"GET /x HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", 404),
    "no JSON": (f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 9\r\n\r\n" + '{"token":', 422),
    "JSON too deep": (
        f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 60000\r\n\r\n" + "[" * 60_000,
        400,
    ),
    "a number for a token": (
        f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 11\r\n\r\n" + '{"token":1}',
        422,
    ),
    "an unknown key": (
        f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 17\r\n\r\n" + '{"token":"","x":1}'[:17],
        422,
    ),
    "a form of another page": (
        f"POST /v1/login HTTP/1.1\r\n{HOST}Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
        + '{"token":"x"}',
        422,
    ),
    "a huge body": (f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 99999999\r\n\r\n" + "x", 413),
    "a huge body in chunks": (
        f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n"
        + ("4000\r\n" + "x" * 0x4000 + "\r\n") * 5,
        413,
    ),
    "a length that is none": (f"POST /v1/login HTTP/1.1\r\n{HOST}Content-Length: -1\r\n\r\n", 400),
    "two lengths": (f"POST /v1/login HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a body where none is": (f"GET /v1/model HTTP/1.1\r\n{HOST}{AUTH}Content-Length: 5\r\n\r\n12345", 400),
    "another page": (f"POST /v1/logout HTTP/1.1\r\n{HOST}Origin: http://evil.example\r\n\r\n", 403),
    "a page of nowhere": (f"POST /v1/logout HTTP/1.1\r\n{HOST}Origin: null\r\n\r\n", 403),
    "a wrong token": (f"GET /v1/model HTTP/1.1\r\n{HOST}Authorization: Bearer {ALL[:-1]}\r\n\r\n", 401),
    "a token of wrong bytes": (
        f"GET /v1/model HTTP/1.1\r\n{HOST}Authorization: Bearer \xff\xfe\r\n\r\n",
        401,
    ),
    "another kind of token": (f"GET /v1/model HTTP/1.1\r\n{HOST}Authorization: Basic YTpi\r\n\r\n", 401),
    "a session that is none": (f"GET /v1/model HTTP/1.1\r\n{HOST}Cookie: edge_mer_session=x\r\n\r\n", 401),
    "nothing here": (f"GET /.git/config HTTP/1.1\r\n{HOST}{AUTH}\r\n", 404),
}


def test_harm_is_answered_and_the_stream_goes_on(guarded: tuple[Gateway, Inference]) -> None:
    gateway, inference = guarded
    listener = Listener(gateway, READ)
    found, expected = {}, {}
    for name, (request, status) in HARM.items():
        with closing(raw(gateway, request)) as connection:
            answer = answer_of(connection)
        found[name], expected[name] = answer[0], status
        assert set(answer[1]["error"]) == {"what", "expected", "found", "hint"}, name
        inference.predict()
    assert found == expected
    until(lambda: listener.indices[-1] == inference.n_records - 1)
    assert listener.indices[-len(HARM) :] == list(range(inference.n_records - len(HARM), inference.n_records))


def test_any_bytes_leave_it_well(guarded: tuple[Gateway, Inference]) -> None:
    """Requests that were right, with some of their bytes changed, left out, or said twice."""
    gateway, inference = guarded
    chance = random.Random(7)
    whole = [request.encode("latin-1") for request, _ in HARM.values() if len(request) < 500]
    for _ in range(300):
        changed = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(changed))
            changed[at : at + chance.randint(0, 4)] = bytes(chance.randbytes(chance.randint(0, 4)))
            changed = changed or bytearray(b"G")
        with closing(raw(gateway, bytes(changed) * chance.randint(1, 2))) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert ends(connection)
    listener = Listener(gateway, READ)
    inference.predict()
    until(lambda: inference.n_records - 1 in listener.indices)


def test_names_that_are_ours(guarded: tuple[Gateway, Inference]) -> None:
    gateway, _ = guarded
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8080", "192.168.1.4", "[::1]:80", "robot.local:8443"):
        with gateway.client() as client:
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host


def test_who_keeps_it_waiting_is_cut_off(impatient: tuple[Gateway, Inference]) -> None:
    gateway, inference = impatient
    listener = Listener(gateway)

    with ExitStack() as stack:
        silent = stack.enter_context(closing(raw(gateway, "")))
        half = stack.enter_context(closing(raw(gateway, f"GET / HTTP/1.1\r\n{HOST}X: ")))
        second = stack.enter_context(closing(raw(gateway, f"GET /healthz HTTP/1.1\r\n{HOST}\r\nGET / HT")))
        rest = stack.enter_context(
            closing(raw(gateway, f"POST /v1/logout HTTP/1.1\r\n{HOST}Content-Length: 50\r\n\r\nx"))
        )
        body = stack.enter_context(
            closing(raw(gateway, f"POST /v1/login HTTP/1.1\r\n{HOST}{JSON}Content-Length: 50\r\n\r\n{{"))
        )
        assert answer_of(body)[0] == 408
        for connection in (silent, half, second, rest, body):
            assert ends(connection)
        stuck = stack.enter_context(closing(deaf(gateway.port)))
        until(lambda: gateway.told("n_clients") == 2)
        while gateway.told("n_clients") == 2:
            inference.predict(20, engine="x" * 4000)
            until(lambda: len(listener.indices) == inference.n_records)
            assert inference.n_records < 5000
        assert ends(stuck)
        assert gateway.told("n_connections_cut") >= 5
    assert listener.indices == list(range(len(listener.indices)))


def ends(connection: socket.socket) -> bool:
    """Whether the other end hangs up, after what it may have sent."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


def test_two_hundred_slow_clients_slow_nobody_else(tmp_path: Path) -> None:
    with running(tmp_path, limits=GENEROUS) as (gateway, inference), ExitStack() as stack:
        listener = Listener(gateway)
        before_bytes = gateway.rss_bytes()
        stack.enter_context(slow_clients(gateway.port, 200))
        until(lambda: gateway.told("n_connections") >= 201)
        sent_s = []
        for _ in range(100):
            sent_s.append(time.monotonic())
            inference.predict(engine="x" * 2000)
            time.sleep(0.02)
        until(lambda: len(listener.indices) >= 100)
        assert listener.indices[-100:] == list(range(inference.n_records - 100, inference.n_records))
        delays_s = [came_s - s for (came_s, _), s in zip(listener.records[-100:], sent_s, strict=True)]
        grown_bytes = gateway.rss_bytes() - before_bytes
        assert sorted(delays_s)[50] < 0.05
        assert max(delays_s) < 0.5
        assert grown_bytes < 32 << 20


# --- where it listens ----------------------------------------------------------------------------


def test_others_reach_it_over_tls_only(tmp_path: Path) -> None:
    authority = write_certificates(tmp_path, "robot.local", "127.0.0.1")
    http = f'certificate = "cert.pem"\nkey = "key.pem"\n{TOKENS}'
    with running(tmp_path, http=http, host="0.0.0.0") as (gateway, inference):  # noqa: S104
        url = f"https://127.0.0.1:{gateway.port}"
        trusting = ssl.create_default_context(cafile=str(authority))
        with httpx.Client(base_url=url, verify=trusting, trust_env=False, headers=bearer(READ)) as client:
            until(lambda: client.get("/readyz").status_code == 200)
            inference.predict()
            until(lambda: client.get("/v1/predictions/latest").status_code == 200)
            login = client.post("/v1/login", json={"token": READ})
            assert "secure" in login.headers["set-cookie"].lower()
            assert httpx.get(f"{url}/v1/model", verify=trusting, trust_env=False).status_code == 401
            with connect(
                f"wss://127.0.0.1:{gateway.port}/v1/predictions",
                ssl=trusting,
                additional_headers=bearer(READ),
                proxy=None,
            ) as spoken:
                assert json.loads(spoken.recv(SOON_S))["kind"] == "model"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url, verify=ssl.create_default_context(), trust_env=False)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http"), trust_env=False)
        # the unix socket needs no TLS, but a token
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(gateway.unix))) as client:
            assert client.get("http://localhost/v1/model").status_code == 401
            assert client.get("http://localhost/v1/model", headers=bearer(READ)).status_code == 200


def test_a_unix_socket_is_for_the_group(pair: tuple[Gateway, Inference]) -> None:
    gateway, _ = pair
    assert stat.S_IMODE(gateway.unix.stat().st_mode) == 0o660
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(gateway.unix))) as client:
        assert client.get("http://localhost/v1/model").json()["name"] == "jmt-tiny"


def test_it_waits_for_the_one_before_it(tmp_path: Path) -> None:
    with running(tmp_path) as (gateway, _):
        first = gateway.process
        until(gateway.unix.exists)
        other = tmp_path / "other"
        other.mkdir()
        second = Gateway(other)
        second.process.kill()
        second.process.communicate()
        config = (tmp_path / "edge-mer.toml").read_text(encoding="utf-8")
        (other / "edge-mer.toml").write_text(config, encoding="utf-8")
        waiting = subprocess.Popen(
            [*second.process.args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        time.sleep(1.0)
        assert waiting.poll() is None
        gateway.stop(signal.SIGINT)
        assert first.returncode == 0
        until(lambda: is_alive(gateway))
        waiting.terminate()
        assert waiting.communicate(timeout=SOON_S) == ("", None)


def test_it_outlives_its_daemon_until_the_next_one_comes(tmp_path: Path) -> None:
    """So everybody hears of the loss, and the next daemon's own gateway finds the place free."""
    inference = Inference(tmp_path)
    daemon = ("bash", "-c", 'EDGE_MER_DAEMON_PID=$$ "$@" & wait', "daemon")
    gateway = Gateway(tmp_path, begun_by=daemon)
    try:
        gateway.wait()
        gateway.until("/v1/model", "name", "jmt-tiny")
        gateway.process.kill()
        inference.stop()
        gateway.until("/v1/predictions/latest", "reasons", ["inference_lost"])
        again = Inference(tmp_path)
        until(lambda: not is_alive(gateway))
        again.stop()
    finally:
        inference.stop()
        gateway.process.kill()
        gateway.process.communicate(timeout=SOON_S)


def is_alive(gateway: Gateway) -> bool:
    try:
        with gateway.client() as client:
            return client.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def test_it_ends_within_two_seconds(own: tuple[Gateway, Inference]) -> None:
    gateway, inference = own
    with ExitStack() as stack:
        listener = Listener(gateway)
        spoken = stack.enter_context(websocket(gateway))
        stack.enter_context(closing(deaf(gateway.port)))
        stack.enter_context(closing(raw(gateway, f"GET / HTTP/1.1\r\n{HOST}")))
        for _ in range(10):
            inference.predict(50, engine="x" * 4000)
            until(lambda: listener.indices and listener.indices[-1] == inference.n_records - 1)
        began_s = time.monotonic()
        assert gateway.stop() == ""
        assert time.monotonic() - began_s < 2.0
        assert gateway.process.returncode == 0
        listener.join()
        with pytest.raises(ConnectionClosed):
            to_the_end(spoken)
    with socket.socket() as free:  # nobody listens any more
        assert free.connect_ex(("127.0.0.1", gateway.port)) != 0


def test_health_of_the_other_process_is_passed_on(pair: tuple[Gateway, Inference]) -> None:
    gateway, inference = pair
    inference.tell(health(state="stopping", recording="session.mcap", raw_media=True))
    with inference.predicting(), gateway.client() as client:
        told = gateway.until("/v1/health", "state", "stopping")
        assert (told["recording"], told["raw_media"]) == ("session.mcap", True)
        assert client.get("/readyz").status_code == 503


def test_a_stream_ends_with_its_session(guarded: tuple[Gateway, Inference]) -> None:
    """And only with that: who came with a token, or in another session, hears on."""
    gateway, inference = guarded
    with ExitStack() as held:
        pages = [held.enter_context(gateway.client()) for _ in range(2)]
        for page in pages:
            page.post("/v1/login", json={"token": READ}).raise_for_status()
        program = held.enter_context(websocket(gateway, additional_headers=bearer(READ)))
        cookie = {"cookie": f"edge_mer_session={pages[0].cookies['edge_mer_session']}"}
        spoken = held.enter_context(websocket(gateway, additional_headers=cookie))
        gone, stays = (held.enter_context(page.stream("GET", "/v1/predictions")) for page in pages)
        lines = stays.iter_lines()
        assert next(lines).startswith("retry")
        assert pages[0].post("/v1/logout", headers=cookie).status_code == 204
        assert "event: alarms" in gone.read().decode()
        with pytest.raises(ConnectionClosed) as closed:
            to_the_end(spoken)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        index = inference.n_records
        inference.predict()
        assert any(f'"window_index":{index}' in line for line in lines)
        until(lambda: f'"window_index":{index}' in str(program.recv(SOON_S)))


def test_another_configuration_ends_it_only_if_that_can_be_carried_out(tmp_path: Path) -> None:
    """Whoever keeps it going would begin it over and over."""
    inference, gateway = Inference(tmp_path), Gateway(tmp_path, limits={})
    try:
        gateway.wait()
        with gateway.client() as client:
            assert client.get("/healthz").status_code == 200
        config = tmp_path / "edge-mer.toml"
        right = config.read_text(encoding="utf-8")
        config.write_text(right.replace("sinks = []", 'sinks = ["mqtts://h/t?cafile=x"]'), encoding="utf-8")
        gateway.process.send_signal(signal.SIGHUP)
        assert gateway.process.stdout is not None
        assert "stays as it was: mqtts://h/t: unknown key" in gateway.process.stdout.readline()
        with gateway.client() as client:
            assert client.get("/healthz").status_code == 200
        config.write_text(right, encoding="utf-8")
        assert gateway.stop(signal.SIGHUP) == ""
        assert gateway.process.returncode == 0
    finally:
        gateway.process.kill()
        gateway.process.communicate()
        inference.stop()
