"""What every sink must do, run over all registered ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_mer.sinks.base import Remote, Sink, introduce
from edge_mer.sinks.registry import SINKS, open_sink
from tests.helpers.fhir_server import FhirServer
from tests.helpers.lsl_network import LslNetwork
from tests.helpers.mqtt_broker import Broker, make_certificates
from tests.helpers.sent import AFFECT, VOICES, emotion_of, ok, withheld
from tests.helpers.system_packages import PACKAGES, is_there

DAEMON = "needs pip install 'edge-mer[daemon]'"


def _needs(command: str) -> None:
    if not is_there(command):
        pytest.skip(f"needs the system package {PACKAGES[command]}")


def _mqtt(folder: Path, at_end: ExitStack, _: pytest.MonkeyPatch) -> str:
    _needs("mosquitto_passwd")
    pytest.importorskip("paho.mqtt.client", reason=DAEMON)
    broker = Broker(folder / "broker")
    broker.start()
    at_end.callback(broker.kill)
    return f"mqtt://127.0.0.1:{broker.port}/bed5"


def _mqtts(folder: Path, at_end: ExitStack, _: pytest.MonkeyPatch) -> str:
    _needs("mosquitto_passwd")
    _needs("openssl")
    pytest.importorskip("paho.mqtt.client", reason=DAEMON)
    certificates = make_certificates(folder / "tls")
    broker = Broker(folder / "broker", certificates)
    broker.start()
    at_end.callback(broker.kill)
    return f"mqtts://127.0.0.1:{broker.port}/bed5?ca_file={certificates.ca}"


def _fhir_http(_folder: Path, at_end: ExitStack, _: pytest.MonkeyPatch) -> str:
    server = FhirServer()
    server.start()
    at_end.callback(server.stop)
    return f"fhir+http://127.0.0.1:{server.port}/r5"


def _fhir_https(folder: Path, at_end: ExitStack, _: pytest.MonkeyPatch) -> str:
    _needs("openssl")
    certificates = make_certificates(folder / "tls")
    server = FhirServer(certificates)
    server.start()
    at_end.callback(server.stop)
    return f"fhir+https://localhost:{server.port}/r5?ca_file={certificates.ca}"


def _lsl(folder: Path, _end: ExitStack, _: pytest.MonkeyPatch) -> str:
    LslNetwork(folder)
    pytest.importorskip("pylsl", reason=DAEMON, exc_type=(ImportError, RuntimeError))
    return "lsl:name=contract"


def _ros2(_folder: Path, _end: ExitStack, patch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("rosbags.typesys", reason="needs pip install rosbags", exc_type=ImportError)
    from tests.helpers.ros2_double import Rclpy, typestore

    Rclpy(typestore()).install(patch)
    return "ros2:/edge_mer"


PLACES: dict[str, Callable[[Path, ExitStack, pytest.MonkeyPatch], str]] = {
    "fhir+http": _fhir_http,
    "fhir+https": _fhir_https,
    "lsl": _lsl,
    "mqtt": _mqtt,
    "mqtts": _mqtts,
    "ros2": _ros2,
}
"""What stands at the other end; of all others it is a file."""


@pytest.fixture(params=sorted(SINKS))
def uri(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A place for each sink."""
    scheme = request.param
    with ExitStack() as at_end:
        if scheme in PLACES:
            yield PLACES[scheme](tmp_path_factory.mktemp(scheme), at_end, monkeypatch)
        else:
            yield f"{scheme}:{tmp_path / 'out'}"


def opened(uri: str) -> Sink:
    sink = open_sink(uri)
    introduce(sink, AFFECT)
    sink.open()
    return sink


def test_it_opens_writes_and_closes(uri: str) -> None:
    sink = opened(uri)
    sink.write(ok(0, 0.25))
    sink.write(withheld(1, "audio_missing"))
    sink.close()
    sink.close()


def test_abandoning_leaves_nothing(uri: str, tmp_path: Path) -> None:
    sink = opened(uri)
    sink.write(ok(0))
    sink.abandon()
    sink.abandon()
    if uri.startswith("log:"):  # whole lines, which are never taken back
        assert [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    else:
        assert list(tmp_path.iterdir()) == []


def test_it_writes_a_file_or_says_how_it_is(uri: str) -> None:
    sink = opened(uri)
    if isinstance(sink, Remote):
        assert sink.name == uri.partition("?")[0]
        assert (sink.away, sink.n_lost) == ("", 0)
    sink.write(ok(0))
    target = sink.target
    sink.close()
    if target is not None:
        assert [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        assert not isinstance(sink, Remote)


def test_another_model_may_take_the_place_of_the_first(uri: str) -> None:
    sink = opened(uri)
    sink.write(ok(0))
    introduce(sink, VOICES)
    sink.write(emotion_of(0, 0.75))
    sink.close()
