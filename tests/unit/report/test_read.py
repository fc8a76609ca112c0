"""Reading predictions: what is kept, and what is refused with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.errors import DataError, UsageError
from edge_mer.report.read import MAX_LINE_BYTES, STAGES, read_records
from edge_mer.types.predictions import Affect, Latency, ModalityStatus, Prediction, SyncQuality
from tests.helpers.predictions import BUNDLE, STEP_NS, degraded, pain, record, withheld, write_records


def read(tmp_path: Path, *records: dict[str, Any]) -> Any:
    return read_records(write_records(tmp_path / "out.jsonl", records))


def test_columns_hold_what_the_lines_said(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        degraded(0, "warming_up", valence=-0.5),
        withheld(1, "audio_missing", "visual_missing"),
        record(2, 0.25, -0.75, pain=pain(0.5, 0.25, 0.25), emotion={"happy": 0.9, "sad": 0.1}),
    )
    assert found.t_ns.tolist() == [STEP_NS, 2 * STEP_NS, 3 * STEP_NS]
    assert found.step_ns == STEP_NS
    assert found.status.tolist() == [1, 2, 0]
    assert [found.reason_sets[i] for i in found.reason_set] == [
        ("warming_up",),
        ("audio_missing", "visual_missing"),
        (),
    ]
    np.testing.assert_array_equal(found.values["valence"], [-0.5, np.nan, 0.25])
    np.testing.assert_array_equal(found.values["pain"], [np.nan, np.nan, 0.75])
    np.testing.assert_array_equal(found.pain_levels["l1"], [np.nan, np.nan, 0.25])
    np.testing.assert_allclose(found.emotion["sad"], [np.nan, np.nan, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(found.latency_ms["infer"], [20.0] * 3)
    assert np.isnan(found.latency_ms["wait"]).all()
    assert found.bundles == {BUNDLE: 3}
    assert found.first_utc == "2026-11-21 08:00:00 UTC"
    assert not found.is_cut


def test_what_the_product_writes_is_read(tmp_path: Path) -> None:
    """The sink's own record, not one made by hand."""
    made = Prediction(
        window_index=0,
        t_start_ns=0,
        t_end_ns=STEP_NS,
        utc="2026-11-21T08:00:00+00:00",
        utc_synchronised=True,
        status="ok",
        reasons=(),
        affect=Affect(0.5, -0.5, {"valence": (0.25, 0.75), "arousal": (-1.0, 0.0)}),
        modalities={"audio": ModalityStatus(True, 0.5, 0.0)},
        sync=SyncQuality(1.0, 0.5),
        latency_ms=Latency(1.0, 2.0, 3.0, 4.0, 5.0, 14.0),
        engine="onnxruntime-cpu",
        precision="fp32",
        bundle_id=BUNDLE,
    )
    found = read(tmp_path, made.to_dict())
    assert [float(found.latency_ms[stage][0]) for stage in STAGES] == [1.0, 2.0, 3.0, 4.0, 5.0, 14.0]
    assert (found.low["valence"][0], found.high["arousal"][0]) == (0.25, 0.0)
    assert (found.uncertainty_ms[0], found.coverage["audio"][0], found.n_synchronised) == (0.5, 0.5, 1)


def of_two(index: int, name: str, valence: float) -> dict[str, Any]:
    return {**record(index, valence), "person": name}


def test_of_several_people_one_is_read(tmp_path: Path) -> None:
    lines = [withheld(0, "nobody_seen")]
    lines += [of_two(k, name, v) for k in (1, 2, 3) for name, v in (("p1", 0.25), ("p2", -0.5))]
    path = write_records(tmp_path / "out.jsonl", lines)
    found = read_records(path, "p2")
    assert (found.name, len(found)) == ("out.jsonl, p2", 3)
    np.testing.assert_array_equal(found.values["valence"], [-0.5] * 3)
    with pytest.raises(UsageError, match=r"about 2 people.*p1 \(3\), p2 \(3\).*--person p1"):
        read_records(path)
    with pytest.raises(UsageError, match="no predictions about p3"):
        read_records(path, "p3")


def test_who_is_alone_in_a_file_needs_no_name(tmp_path: Path) -> None:
    assert len(read(tmp_path, withheld(0, "nobody_seen"), of_two(1, "p1", 0.5))) == 2
    with pytest.raises(UsageError, match="no --person: it is about one"):
        read_records(write_records(tmp_path / "one.jsonl", [record(0)]), "p1")


def test_people_one_after_the_other_are_not_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="about 2 people"):
        read(tmp_path, of_two(0, "p1", 0.5), of_two(1, "p2", 0.5))


def test_a_line_that_was_cut_off_is_left_out_and_said(tmp_path: Path) -> None:
    path = write_records(tmp_path / "out.jsonl.part", [record(0), record(1)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    cut = read_records(path)
    assert (len(cut), cut.is_cut) == (1, True)
    path.write_bytes(whole.removesuffix(b"\n"))
    ended = read_records(path)
    assert (len(ended), ended.is_cut) == (2, False)


def without(field: str) -> dict[str, Any]:
    made = record(1)
    *outer, last = field.split(".")
    inner = made
    for key in outer:
        inner = inner[key]
    del inner[last]
    return made


@pytest.mark.parametrize(
    "field",
    [
        *("t_end_ns", "t_start_ns", "status", "reasons", "affect", "affect.arousal", "modalities"),
        *("sync.skew_ms", "latency_ms.wait", "engine", "precision", "bundle_id", "utc", "utc_synchronised"),
    ],
)
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, field: str) -> None:
    with pytest.raises(DataError, match=rf"out\.jsonl, line 2 lacks the field {field}\."):
        read(tmp_path, record(0), without(field), record(2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (record(1, valence=True), "affect.valence that is no number"),
        (record(1, valence=10**40), "affect.valence that cannot be"),
        (record(1, status="fine"), "unknown status.*ok, degraded, withheld.*fine"),
        (record(1, reasons="late"), "reasons that are no list"),
        (record(1, reasons=["x" * 1000]), "reason that is no text"),
        (record(0), "goes back in time"),
        (record(1, t_end_ns=1.5), "t_end_ns that is no time"),
        (record(1, t_end_ns=2**80), "t_end_ns that is no time"),
        (record(1, status="withheld"), "withheld and has an estimate"),
        (record(1, affect={"valence": 0, "arousal": 0, "interval": {"valence": [1, 0]}}), "upside down"),
        (record(1, affect={"valence": 0, "arousal": 0, "interval": {"valence": [1]}}), "interval of valence"),
        (record(1, affect=[1]), "affect that is no object"),
        (record(1, pain={**pain(0.5, 0.5), "expected": 3.0}), "pain.expected that cannot be"),
        (record(1, emotion={"sad": "very"}), "emotion.sad that is no number"),
        (record(1, modalities={"audio": {"present": "yes", "coverage": 1}}), "whether audio was present"),
        (record(1, modalities={"audio": {"present": True, "coverage": 7}}), "audio.coverage that cannot be"),
        (record(1, modalities={f"m{i}": {"present": True, "coverage": 1} for i in range(99)}), "too many"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path, record(0), wrong)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "an empty file"),
        (b'{"window_index": 0', "a first line that is cut off"),
        (b"hello\n", r"line 1 is no prediction.*Found: hello\."),
        (b"\n", "line 1 is no prediction.*an empty line"),
        (b"[1, 2]\n", r"Expected: a JSON object\. Found: \[1, 2\]"),
        (b'{"a": NaN}\n', "line 1 is no prediction"),
        (b"\xff\xfe\n", "line 1 is no prediction"),
        (b"[" * 100_000 + b"\n", "line 1 is no prediction"),
        (b"x" * (MAX_LINE_BYTES + 2), "a longer line"),
    ],
    ids=["empty", "cut", "words", "blank", "list", "nan", "no-utf8", "deep", "endless"],
)
def test_what_is_no_jsonl_is_refused(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_records(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl cannot be read.*No such file"):
        read_records(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="directory"):
        read_records(tmp_path)


def test_names_may_not_change_within_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2 has other names in emotion.*happy, sad.*happy, angry"):
        read(
            tmp_path,
            record(0, emotion={"happy": 0.5, "sad": 0.5}),
            record(1, emotion={"happy": 0.5, "angry": 0.5}),
        )


def test_reasons_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most 1000 in one file"):
        read(tmp_path, *(degraded(i, f"reason {i}") for i in range(1100)))


def test_one_record_is_enough(tmp_path: Path) -> None:
    found = read(tmp_path, record(3, 0.5))
    assert found.step_ns == 4 * STEP_NS
    assert math.isclose(found.values["valence"][0], 0.5)
