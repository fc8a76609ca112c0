"""FHIR sinks: Observations that R5's models take, in files and on a server that goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks import fhir
from edge_mer.sinks.base import Remote
from edge_mer.sinks.fhir import BATCH, MAX_WAITING, FhirFileSink, FhirServerSink
from edge_mer.sinks.fhir_observations import ABSENT, CODES, observations_of, transaction_of
from edge_mer.sinks.registry import open_sink
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Affect, Prediction
from tests.helpers.fhir_server import FhirServer
from tests.helpers.mqtt_broker import make_certificates
from tests.helpers.sent import AFFECT, BUNDLE_ID, PAIN, VOICES, emotion_of, ok, pain_of, withheld
from tests.helpers.system_packages import needs
from tests.helpers.waiting import free_port

SESSION = UUID(int=7)


def r5(name: str) -> Any:
    """R5's own models."""
    return pytest.importorskip(
        f"fhir.resources.{name}", reason="needs pip install fhir.resources", exc_type=ImportError
    )


def in_utc(value: Any, key: str = "") -> Any:
    """The same JSON, its times in one of the ways in which they can be written."""
    if isinstance(value, dict):
        return {name: in_utc(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [in_utc(one) for one in value]
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if key in ("start", "end") else value


def observed(prediction: Prediction, model: ModelFacts = AFFECT, **more: Any) -> list[dict[str, Any]]:
    """Observations, each of which R5's own model takes, and gives back as it was."""
    models, devices = r5("observation"), r5("device")
    made = observations_of(prediction, model, SESSION, **more)
    for one in made:
        text = json.dumps(one, allow_nan=False)
        taken = models.Observation.model_validate_json(text)
        assert in_utc(json.loads(taken.model_dump_json())) == in_utc(json.loads(text))
        (device,) = one["contained"]
        devices.Device.model_validate(device)
    return made


# --- what is observed -------------------------------------------------------------------------------


def test_valence_and_arousal_with_intervals() -> None:
    prediction = ok(7, affect=Affect(0.25, -0.5, {"valence": (-0.125, 0.5)}))
    valence, arousal = observed(prediction, patient="Patient/123")
    assert valence["status"] == "preliminary"
    assert valence["code"]["coding"][0]["system"] == CODES
    assert [one["code"]["coding"][0]["code"] for one in (valence, arousal)] == ["valence", "arousal"]
    assert valence["valueQuantity"] == {
        "value": 0.25,
        "unit": "1",
        "system": "http://unitsofmeasure.org",
        "code": "1",
    }
    ends = [(c["code"]["coding"][0]["code"], c["valueQuantity"]["value"]) for c in valence["component"]]
    assert ends == [("interval-low", -0.125), ("interval-high", 0.5)]
    assert arousal["valueQuantity"]["value"] == -0.5
    assert "component" not in arousal
    assert valence["effectivePeriod"] == {
        "start": "2026-11-21T08:00:00.000+00:00",
        "end": "2026-11-21T08:00:02.000+00:00",
    }
    assert valence["subject"] == {"reference": "Patient/123"}
    assert valence["method"]["text"] == "jmt-tiny in fp32 on onnxruntime-cpu"
    (device,) = valence["contained"]
    assert device["identifier"][0]["value"] == BUNDLE_ID
    assert (valence["device"]["reference"], device["id"]) == ("#device", "device")
    assert [note["text"] for note in valence["note"]] == [
        "Estimated by software that is no medical device. Nobody has verified it."
    ]


def test_pain_and_emotion() -> None:
    (pain,) = observed(pain_of(0, 0.5, 0.25, 0.25, confidence=0.75), PAIN)
    assert pain["valueQuantity"]["value"] == 0.75
    assert pain["valueQuantity"]["unit"] == "level of sim-0-2"
    parts = [(part["code"]["text"], part["valueQuantity"]["value"]) for part in pain["component"]]
    assert parts == [
        ("Probability of none on the scale sim-0-2", 0.5),
        ("Probability of some on the scale sim-0-2", 0.25),
        ("Probability of much on the scale sim-0-2", 0.25),
        ("Calibrated probability that the class is right", 0.75),
    ]
    (emotion,) = observed(emotion_of(0, 0.75), VOICES)
    assert emotion["valueCodeableConcept"] == {"text": "anger"}
    assert [part["valueQuantity"]["value"] for part in emotion["component"]] == [0.75, 0.25]


@pytest.mark.parametrize("model", [AFFECT, PAIN, VOICES], ids=lambda model: model.name)
@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        (("audio_missing", "audio_stalled"), "not-performed"),
        (("warming_up",), "temp-unknown"),
        (("inference_lost",), "error"),
        (("output_not_finite", "warming_up"), "error"),
    ],
)
def test_a_withheld_prediction_says_why_and_has_no_value(
    model: ModelFacts, reasons: tuple[str, ...], code: str
) -> None:
    made = observed(withheld(3, *reasons), model)
    assert len(made) == len(model.outputs)
    for one in made:
        assert one["dataAbsentReason"]["text"] == ", ".join(reasons)
        (coding,) = one["dataAbsentReason"]["coding"]
        assert (coding["system"], coding["code"]) == (ABSENT, code)
        assert not {key for key in one if key.startswith("value")} | {"component"} & set(one)


def test_whatever_a_withheld_prediction_was_made_of_is_not_observed() -> None:
    for one in observed(ok(0, 0.5, 0.5, status="withheld", reasons=("bad_sync",))):
        assert "valueQuantity" not in one
        assert one["dataAbsentReason"]["text"] == "bad_sync"


def test_what_weakens_an_estimate_is_noted() -> None:
    prediction = ok(0, status="degraded", reasons=("audio_missing",), utc_synchronised=False, person="p2")
    one, _ = observed(prediction)
    notes = " ".join(note["text"] for note in one["note"])
    assert "Weaker than it could be: audio_missing." in notes
    assert "not synchronised" in notes
    assert one["subject"] == {"display": "p2, whom edge-mer follows"}


def test_identifiers_are_those_of_the_prediction() -> None:
    given = [ok(0), ok(1), ok(0, person="p1")]
    found = [one["identifier"][0]["value"] for each in given for one in observed(each)]
    assert len(set(found)) == 6
    assert found[:2] == [one["identifier"][0]["value"] for one in observed(ok(0))]


def test_a_transaction_is_one_of_r5() -> None:
    models = r5("bundle")
    bundle = transaction_of([*observed(ok(0)), *observed(withheld(1, "audio_missing"))])
    taken = models.Bundle.model_validate_json(json.dumps(bundle))
    assert len(taken.entry) == 4
    assert in_utc(json.loads(taken.model_dump_json())) == in_utc(bundle)


# --- what is asked for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("fhir:", "names no file"),
        ("fhir:out.ndjson?patient=123", "cannot use patient=123.*Patient/123"),
        ("fhir:out.ndjson?every=5", "unknown key 'every'.*did you mean every_s"),
        ("fhir+http://fhir.example/r5", "in the clear.*fhir.https"),
        ("fhir+https://u:hunter2@host/r5", "password stands in the URI"),
        ("fhir+https:///r5", "names no host"),
    ],
)
def test_what_cannot_be_meant_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_sink(uri)
    assert "hunter2" not in str(caught.value)


def test_a_file_has_a_line_per_output(tmp_path: Path) -> None:
    sink = opened(f"fhir:{tmp_path / 'out.ndjson'}?patient=Patient/5")
    assert not isinstance(sink, Remote)
    sink.write(ok(0, 0.5))
    sink.write(withheld(1, "audio_missing"))
    assert sink.target == tmp_path / "out.ndjson"
    sink.close()
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text(encoding="utf-8").splitlines()]
    assert [line["code"]["coding"][0]["code"] for line in lines] == ["valence", "arousal"] * 2
    assert lines[0]["valueQuantity"]["value"] == 0.5
    assert "dataAbsentReason" in lines[2]
    assert {line["subject"]["reference"] for line in lines} == {"Patient/5"}


def test_now_and_then_and_whenever_estimates_come_and_go(tmp_path: Path) -> None:
    sink = opened(f"fhir:{tmp_path / 'out.ndjson'}?every_s=1")
    for index in range(12):
        sink.write(withheld(index, "audio_missing") if index in (5, 6) else ok(index))
    sink.close()
    text = (tmp_path / "out.ndjson").read_text(encoding="utf-8")
    ends = [json.loads(line)["effectivePeriod"]["end"][17:23] for line in text.splitlines()[::2]]
    assert ends == ["00.250", "01.250", "01.500", "02.000", "03.000"]


def test_one_of_several_people_is_not_filed_as_the_patient(tmp_path: Path) -> None:
    sink = opened(f"fhir:{tmp_path / 'out.ndjson'}?patient=Patient/5")
    with pytest.raises(UsageError, match=r"cannot all be Patient/5.*leave out patient="):
        sink.write(ok(0, person="p1"))
    sink.abandon()


# --- a server ---------------------------------------------------------------------------------------


def opened(uri: str) -> Any:
    sink = open_sink(uri)
    assert isinstance(sink, (FhirFileSink, FhirServerSink))
    sink.introduce(AFFECT)
    sink.open()
    return sink


@pytest.fixture
def server() -> Iterator[FhirServer]:
    made = FhirServer()
    made.start()
    yield made
    made.stop()


def on(server: FhirServer, clock: ManualClock, query: str = "") -> FhirServerSink:
    sink = FhirServerSink(f"//127.0.0.1:{server.port}/r5/{query}", "fhir+http", clock)
    sink.introduce(AFFECT)
    sink.open()
    return sink


def values(server: FhirServer) -> list[float]:
    return [
        one["valueQuantity"]["value"]
        for one in server.observations.values()
        if one["code"]["coding"][0]["code"] == "valence"
    ]


def test_what_a_server_could_not_take_is_filed_later_and_once(server: FhirServer) -> None:
    clock = ManualClock()
    sink = on(server, clock)
    sink.write(ok(0, 0.0))
    server.forgets_to_answer = True
    sink.write(ok(1, 0.125))  # taken, and nobody knows
    assert sink.away != ""
    server.forgets_to_answer = False
    server.stop()
    sink.write(ok(2, 0.25))  # too soon to try again
    clock.advance_ns(NS_PER_S)
    sink.write(ok(3, 0.375))
    assert "refused" in sink.away
    server.start()
    clock.advance_ns(2 * NS_PER_S)
    sink.write(ok(4, 0.5))
    assert sink.away == ""
    assert values(server) == [0.0, 0.125, 0.25, 0.375, 0.5]
    assert sink.n_lost == 0
    sink.close()


def test_of_what_waits_too_long_the_oldest_is_lost(server: FhirServer) -> None:
    clock = ManualClock()
    sink = on(server, clock)
    server.fails_with = 503
    for index in range(MAX_WAITING + 10):
        sink.write(ok(index, index / 1000))
    assert sink.away.startswith("it says 503")
    assert sink.n_lost == 10
    server.fails_with = None
    sink.close()
    assert values(server) == [index / 1000 for index in range(10, MAX_WAITING + 10)]
    assert len(server.posted) == MAX_WAITING // BATCH
    assert sink.n_lost == 10


@pytest.mark.parametrize("status", [302, 422])
def test_what_it_refuses_is_lost_and_nothing_follows_it_elsewhere(server: FhirServer, status: int) -> None:
    sink = on(server, ManualClock())
    server.fails_with = status
    sink.write(ok(0, 0.25))
    assert sink.away.startswith(f"it refuses what is posted: {status}")
    server.fails_with = None
    sink.write(ok(1, 0.5))
    assert (values(server), sink.n_lost, sink.away) == ([0.5], 1, "")
    sink.abandon()


def test_an_abandoned_session_posts_nothing_more(server: FhirServer) -> None:
    sink = on(server, ManualClock())
    server.fails_with = 503
    sink.write(ok(0))
    server.fails_with = None
    sink.abandon()
    sink.close()
    assert (server.observations, sink.n_lost) == ({}, 1)


@needs("openssl")
def test_a_token_goes_to_nobody_but_who_it_is_for(tmp_path: Path) -> None:
    ours, others = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "others")
    token = tmp_path / "token"
    token.write_text("secret-1\n", encoding="utf-8")
    server = FhirServer(ours, "secret-1")
    server.start()
    base = f"fhir+https://127.0.0.1:{server.port}/r5"
    try:
        with pytest.raises(MissingError, match=r"(?i)no server answers.*(self.signed|issuer|verify)"):
            opened(f"{base}?ca_file={others.ca}&token_file={token}")
        sink = opened(f"{base}?ca_file={ours.ca}&token_file={token}")
        sink.write(ok(0, 0.25))
        assert values(server) == [0.25]
        server.token = "secret-2"  # noqa: S105
        sink.write(ok(1, 0.5))
        assert sink.away == "it says 401 Unauthorized"
        token.write_text("secret-2\n", encoding="utf-8")  # somebody brought the new one
        sink.close()
        assert values(server) == [0.25, 0.5]
        token.write_text("secret-\u00e4\n", encoding="utf-8")
        with pytest.raises(UsageError, match="holds no token"):
            opened(f"{base}?ca_file={ours.ca}&token_file={token}")
        token.write_text("secret-3\n", encoding="utf-8")
        with pytest.raises(UsageError, match=r"refuses us.*401 Unauthorized.*token_file=") as caught:
            opened(f"{base}?ca_file={ours.ca}&token_file={token}")
        assert "secret" not in str(caught.value)
    finally:
        server.stop()


def test_nobody_answers() -> None:
    sink = open_sink(f"fhir+http://127.0.0.1:{free_port()}/r5")
    assert isinstance(sink, Remote)
    with pytest.raises(MissingError, match=r"no server answers.*refused"):
        sink.open()
    sink.close()
    assert fhir.SERVER_EXAMPLE.startswith("fhir+https://")
