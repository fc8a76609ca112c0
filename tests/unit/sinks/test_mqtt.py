"""MqttSink against a real broker that is killed, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks import mqtt
from edge_mer.sinks.base import Introduced, Remote
from edge_mer.sinks.mqtt import MAX_WAITING, MqttSink
from edge_mer.sinks.registry import open_sink
from tests.helpers.mqtt_broker import Broker, Listener, make_certificates
from tests.helpers.sent import AFFECT, PAIN, VOICES, emotion_of, ok, pain_of, withheld
from tests.helpers.system_packages import needs
from tests.helpers.waiting import free_port, wait_until

TOPIC = "ward3/bed5"


@pytest.fixture
def paho() -> None:
    """Skips where there is none."""
    pytest.importorskip("paho.mqtt.client", reason="needs pip install 'edge-mer[daemon]'")


@pytest.fixture
def broker(paho: None, tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "broker")
    made.start()
    yield made
    made.kill()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    made = Listener(broker.port, TOPIC)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[..., MqttSink]]:
    """Sinks that are closed in the end."""
    sinks: list[MqttSink] = []

    def make(uri: str) -> MqttSink:
        sink = open_sink(uri)
        assert isinstance(sink, MqttSink)
        sinks.append(sink)
        sink.introduce(AFFECT)
        sink.open()
        return sink

    yield make
    for sink in sinks:
        sink.close()


# --- what it is named by ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mqtt:ward3", "names no host"),
        ("mqtt://", "names no host"),
        ("mqtt://host", "names no topic.*Expected: mqtts://"),
        ("mqtt://host/a/%23", r"no topic.*Found: a/#"),
        ("mqtt://host/$SYS", "no topic"),
        ("mqtt://host:99999/a", "host and port"),
        ("mqtt://host/a?qos=2", "qos=2.*0 to 1"),
        ("mqtt://host/a?qso=1", "unknown key 'qso'.*did you mean qos"),
        ("mqtt://host/a?ca_file=x", "unknown key 'ca_file'"),
        ("mqtts://host/a?insecure=1", "unknown key 'insecure'"),
        ("mqtt://host/a?username=u&password_file=/x", "in the clear.*mqtts"),
        ("mqtts://host/a?password_file=/x", "needs username"),
    ],
)
def test_what_cannot_be_meant_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"(?s){said}"):
        open_sink(uri)


@pytest.mark.parametrize("uri", ["mqtt://u:hunter2@host/a", "mqtts://host/a?password=hunter2"])
def test_a_password_in_the_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_sink(uri)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ca_file={folder}/none.pem", "ca_file=.*No such file"),
        ("ca_file={folder}/text", "cannot use ca_file"),
        ("certificate={folder}/text", "cannot use certificate"),
        ("key={folder}/text", "needs certificate="),
        ("username=u&password_file={folder}/none", "password_file=.*No such file"),
        ("username=u&password_file={folder}/empty", "holds no secret"),
    ],
)
def test_files_that_cannot_be_used_are_named(query: str, said: str, paho: None, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate", encoding="utf-8")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    sink = open_sink(f"mqtts://127.0.0.1:{free_port()}/a?{query.format(folder=tmp_path)}")
    with pytest.raises(UsageError, match=f"(?s){said}"):
        sink.open()


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingError, match=r"pip install 'edge-mer\[daemon\]'"):
        open_sink("mqtt://host/a").open()


def test_nobody_answers(paho: None) -> None:
    sink = open_sink(f"mqtt://127.0.0.1:{free_port()}/a")
    assert isinstance(sink, Remote)
    assert isinstance(sink, Introduced)
    with pytest.raises(MissingError, match=r"no broker answers.*refused"):
        sink.open()
    sink.write(ok(0))
    assert sink.n_lost == 1
    sink.close()


# --- what is published ------------------------------------------------------------------------------


@needs("mosquitto_passwd")
@pytest.mark.live
def test_records_numbers_and_status(
    broker: Broker, listener: Listener, opened: Callable[[str], MqttSink]
) -> None:
    sink = opened(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}")
    listener.until(lambda topic, text: (topic, text) == (f"{TOPIC}/status", "online"))
    first, second = ok(0, 0.25, -0.5), withheld(1, "audio_missing")
    sink.write(first)
    sink.write(second)
    sink.write(ok(2, 0.5, 0.0, person="p1"))
    listener.until(lambda topic, _: topic == f"{TOPIC}/p1/arousal")
    sink.close()
    listener.until(lambda topic, text: (topic, text) == (f"{TOPIC}/status", "offline"))
    estimates = [
        (topic.removeprefix(f"{TOPIC}/"), json.loads(text)) for topic, text, _ in listener.heard[1:-1]
    ]
    assert estimates == [
        ("prediction", first.to_dict()),
        ("valence", 0.25),
        ("arousal", -0.5),
        ("prediction", second.to_dict()),
        ("valence", None),
        ("arousal", None),
        ("prediction", ok(2, 0.5, 0.0, person="p1").to_dict()),
        ("p1/valence", 0.5),
        ("p1/arousal", 0.0),
    ]
    assert second.to_dict()["affect"] is None
    assert (sink.n_lost, sink.away) == (0, "it is closed")

    late = Listener(broker.port, TOPIC)  # of estimates, nothing waits for who comes later
    late.until_now()
    late.close()
    assert late.heard == [(f"{TOPIC}/status", "offline", True)]


@needs("mosquitto_passwd")
@pytest.mark.live
def test_pain_and_emotion_have_topics_of_their_own(
    broker: Broker, listener: Listener, opened: Callable[[str], MqttSink]
) -> None:
    sink = opened(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}?qos=1")
    sink.introduce(PAIN)
    sink.write(pain_of(0, 0.5, 0.25, 0.25))
    sink.introduce(VOICES)
    sink.write(emotion_of(0, 0.75))
    sink.write(withheld(1, "audio_missing"))
    listener.until(lambda topic, text: topic == f"{TOPIC}/emotion/neutral" and text == "null")
    numbers = [(topic.removeprefix(f"{TOPIC}/"), text) for topic, text, _ in listener.heard[1:]]
    assert [one for one in numbers if one[0] != "prediction"] == [
        ("pain/expected", "0.75"),
        ("pain/level_probs/none", "0.5"),
        ("pain/level_probs/some", "0.25"),
        ("pain/level_probs/much", "0.25"),
        ("emotion/anger", "0.75"),
        ("emotion/neutral", "0.25"),
        ("emotion/anger", "null"),
        ("emotion/neutral", "null"),
    ]


# --- a broker that goes away ------------------------------------------------------------------------


@needs("mosquitto_passwd")
@pytest.mark.live
def test_it_goes_on_when_the_broker_is_back(
    broker: Broker, listener: Listener, opened: Callable[[str], MqttSink]
) -> None:
    sink = opened(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}")
    sink.write(ok(0))
    listener.until(lambda topic, _: topic == f"{TOPIC}/arousal")
    broker.kill()
    wait_until(lambda: sink.away != "", "the sink notices")
    assert "connection was lost" in sink.away
    for index in range(1, 2 * MAX_WAITING):
        sink.write(ok(index))
    assert sink.n_lost == 2 * MAX_WAITING - 1
    broker.start()
    listener.wait_subscribed()
    wait_until(lambda: not sink.away, "the sink is back")
    sink.write(ok(500, 0.5))
    _, text, _ = listener.until(lambda topic, _: topic == f"{TOPIC}/prediction")
    assert json.loads(text)["window_index"] == 500  # what was lost does not come late
    assert sink.n_lost == 2 * MAX_WAITING - 1


@needs("mosquitto_passwd")
@pytest.mark.live
def test_of_who_left_while_the_broker_was_away_it_is_said_later(
    broker: Broker, listener: Listener, opened: Callable[[str], MqttSink]
) -> None:
    sink = opened(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}")
    sink.write(ok(0, 0.5, person="p1"))
    listener.until(lambda topic, text: topic == f"{TOPIC}/p1/valence" and text == "0.5")
    broker.kill()
    wait_until(lambda: sink.away != "", "the sink notices")
    sink.write(ok(1, 0.25, person="p2"))
    broker.start()
    listener.wait_subscribed()
    wait_until(lambda: not sink.away, "the sink is back")
    for index in (2, 3):
        sink.write(ok(index, 0.25, person="p2"))
    listener.until(lambda topic, text: topic == f"{TOPIC}/p1/valence" and text == "null")


@needs("mosquitto_passwd")
@pytest.mark.live
def test_a_broker_that_takes_nothing_holds_nobody_up(
    broker: Broker,
    listener: Listener,
    opened: Callable[[str], MqttSink],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "_PATIENCE_S", 0.01)
    sink = opened(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}?qos=1")
    listener.until(lambda topic, text: (topic, text) == (f"{TOPIC}/status", "online"))
    broker.pause()
    for index in range(MAX_WAITING + 6):
        sink.write(ok(index))
    assert sink.n_lost == 6
    assert sink.away == ""
    broker.go_on()
    heard = [listener.until(lambda topic, _: topic.endswith("prediction")) for _ in range(MAX_WAITING)]
    assert [json.loads(text)["window_index"] for _, text, _ in heard] == list(range(MAX_WAITING))
    sink.write(ok(99))
    assert json.loads(listener.until(lambda topic, _: topic.endswith("prediction"))[1])["window_index"] == 99
    assert sink.n_lost == 6


@needs("mosquitto_passwd")
@pytest.mark.live
def test_who_was_not_there_at_the_start_may_be_called_again(paho: None, tmp_path: Path) -> None:
    broker = Broker(tmp_path / "broker")
    sink = MqttSink(f"//127.0.0.1:{broker.port}/{TOPIC}")
    with pytest.raises(MissingError):
        sink.open()
    broker.start()
    try:
        sink.open()
        assert sink.away == ""
        sink.close()
    finally:
        broker.kill()


PUBLISHER = """
import sys, time
from edge_mer.sinks.registry import open_sink
from tests.helpers.sent import ok
sink = open_sink(sys.argv[1])
sink.open()
sink.write(ok(0, 0.5))
print("sent", flush=True)
time.sleep(600)
"""


@needs("mosquitto_passwd")
@needs("openssl")
@pytest.mark.live
def test_who_is_killed_is_offline_and_tls_is_verified(paho: None, tmp_path: Path) -> None:
    ours, others = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "others")
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n", encoding="utf-8")
    broker = Broker(tmp_path / "broker", ours, users={"bed5": "hunter2", "nurse": "n"})
    broker.start()
    where = f"mqtts://127.0.0.1:{broker.port}/{TOPIC}"
    login = f"username=bed5&password_file={secret}"
    try:
        for query, kind, said in (
            (f"ca_file={others.ca}&{login}", MissingError, "no broker answers.*(self.signed|issuer|verify)"),
            (login, MissingError, "no broker answers.*(self.signed|issuer|verify)"),
            (f"ca_file={ours.ca}", UsageError, "refused it.*authori.ed"),
        ):
            sink = open_sink(f"{where}?{query}")
            with pytest.raises(kind, match=f"(?si){said}"):
                sink.open()
        with pytest.raises(MissingError):
            open_sink(f"mqtt://127.0.0.1:{broker.port}/{TOPIC}").open()
        watcher = Listener(broker.port, TOPIC, ours.ca, ("nurse", "n"))
        command = [sys.executable, "-c", PUBLISHER, f"{where}?ca_file={ours.ca}&{login}"]
        publisher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert publisher.stdout is not None
        assert publisher.stdout.readline() == "sent\n"
        watcher.until(lambda topic, text: (topic, text) == (f"{TOPIC}/status", "online"))
        publisher.kill()
        publisher.wait()
        publisher.stdout.close()
        watcher.until(lambda topic, text: (topic, text) == (f"{TOPIC}/status", "offline"))
        watcher.close()
        late = Listener(broker.port, TOPIC, ours.ca, ("nurse", "n"))
        late.until_now()
        late.close()
        assert late.heard == [(f"{TOPIC}/status", "offline", True)]
    finally:
        broker.kill()
