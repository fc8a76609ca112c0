"""Predictions as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from edge_mer.errors import UsageError
from edge_mer.sinks.jsonl import JsonlSink
from edge_mer.sinks.registry import open_sink
from edge_mer.types.predictions import Affect, Latency, ModalityStatus, Prediction, SyncQuality


def prediction(index: int = 0, valence: float = 0.25) -> Prediction:
    return Prediction(
        window_index=index,
        t_start_ns=0,
        t_end_ns=266_666_666,
        utc="2026-01-01T00:00:00.266666+00:00",
        utc_synchronised=True,
        status="degraded",
        reasons=("warming_up", "visual_gap"),
        affect=Affect(valence, None, interval={"valence": (-0.1, 0.5)}),
        modalities={"visual": ModalityStatus(present=True, coverage=1.0, age_ms=None)},
        sync=SyncQuality(skew_ms=1.5, uncertainty_ms=0.0),
        latency_ms=Latency(None, None, 1.0, 2.0, 0.5, 3.5),
        engine="onnxruntime-cpu",
        precision="fp32",
        bundle_id="sha256:0",
    )


def opened(path: Path) -> JsonlSink:
    sink = JsonlSink(str(path))
    sink.open()
    return sink


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_prediction_is_one_line_of_json(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.jsonl")
    for index in range(3):
        sink.write(prediction(index))
    sink.close()
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["window_index"] for line in lines] == [0, 1, 2]


def test_a_line_holds_all_of_the_prediction(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction())
    sink.close()
    assert json.loads((tmp_path / "out.jsonl").read_bytes()) == {
        "window_index": 0,
        "t_start_ns": 0,
        "t_end_ns": 266_666_666,
        "utc": "2026-01-01T00:00:00.266666+00:00",
        "utc_synchronised": True,
        "status": "degraded",
        "reasons": ["warming_up", "visual_gap"],
        "affect": {"valence": 0.25, "arousal": None, "interval": {"valence": [-0.1, 0.5]}},
        "pain": None,
        "emotion": None,
        "confidence": None,
        "modalities": {
            "visual": {"present": True, "coverage": 1.0, "age_ms": None, "source": None, "quality": None}
        },
        "sync": {"skew_ms": 1.5, "uncertainty_ms": 0.0, "warming_up": False},
        "latency_ms": {
            "capture": None,
            "wait": None,
            "preprocess": 1.0,
            "infer": 2.0,
            "postprocess": 0.5,
            "end_to_end": 3.5,
        },
        "engine": "onnxruntime-cpu",
        "precision": "fp32",
        "bundle_id": "sha256:0",
    }


def test_the_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction())
    assert names(tmp_path) == ["out.jsonl.part"]
    sink.close()
    assert names(tmp_path) == ["out.jsonl"]


def test_lines_can_be_followed_while_they_come(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction(7))
    part = (tmp_path / "out.jsonl.part").read_text(encoding="utf-8")
    assert part.endswith("\n")
    assert json.loads(part)["window_index"] == 7
    sink.abandon()


def test_an_abandoned_session_leaves_nothing(tmp_path: Path) -> None:
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction())
    sink.abandon()
    assert names(tmp_path) == []


def test_an_abandoned_session_leaves_the_file_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("earlier", encoding="utf-8")
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction())
    sink.abandon()
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "earlier"


def test_a_closed_session_replaces_the_file_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("earlier", encoding="utf-8")
    opened(tmp_path / "out.jsonl").close()
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_what_a_crash_left_behind_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.part").write_text("half a li", encoding="utf-8")
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction())
    sink.close()
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("end", ["close", "abandon"])
def test_ending_twice_or_before_opening_does_no_harm(tmp_path: Path, end: str) -> None:
    unopened = JsonlSink(str(tmp_path / "out.jsonl"))
    getattr(unopened, end)()
    assert names(tmp_path) == []
    sink = opened(tmp_path / "out.jsonl")
    sink.close()
    getattr(sink, end)()
    assert names(tmp_path) == ["out.jsonl"]


def test_writing_before_opening_is_a_mistake_of_the_program(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        JsonlSink(str(tmp_path / "out.jsonl")).write(prediction())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_written_not_even_half_a_line(tmp_path: Path, bad: float) -> None:
    sink = opened(tmp_path / "out.jsonl")
    sink.write(prediction(0))
    with pytest.raises(ValueError, match="JSON compliant"):
        sink.write(prediction(1, bad))
    sink.write(prediction(2))
    sink.close()
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["window_index"] for line in lines] == [0, 2]


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        opened(tmp_path / "missing" / "out.jsonl")
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_the_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(UsageError, match="is no regular file"):
        opened(tmp_path / "out.jsonl")
    assert names(tmp_path) == ["out.jsonl"]


def test_a_file_in_the_place_of_the_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot write"):
        opened(tmp_path / "file" / "out.jsonl")


def test_a_folder_that_may_not_be_written_is_a_usage_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc")  # not even root creates files there
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot write"):
        opened(folder / "out.jsonl")


@pytest.mark.parametrize("rest", ["", "/", ".", "~nobody-of-this-name/out.jsonl", "a\0b"])
def test_what_names_no_file_is_a_usage_error(rest: str) -> None:
    with pytest.raises(UsageError):
        JsonlSink(rest).open()


def test_home_is_where_the_user_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sink = JsonlSink("~/out.jsonl")
    sink.open()
    sink.close()
    assert names(tmp_path) == ["out.jsonl"]


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    sink = JsonlSink("-")
    sink.open()
    sink.write(prediction(4))
    sink.close()
    sink.abandon()
    captured = capsys.readouterr().out
    assert json.loads(captured)["window_index"] == 4
    assert not Path("-.part").exists()


def test_the_registry_opens_it_by_its_scheme(tmp_path: Path) -> None:
    assert isinstance(open_sink(f"jsonl:{tmp_path / 'out.jsonl'}"), JsonlSink)


@pytest.mark.parametrize(
    ("uri", "hint"), [("jsnl:x", "did you mean jsonl:x"), ("results", "e.g. jsonl:out.jsonl")]
)
def test_an_unknown_scheme_is_refused_with_a_suggestion(uri: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        open_sink(uri)


def test_a_prediction_cannot_be_changed_on_its_way() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        prediction().status = "ok"  # type: ignore[misc]
