"""Predictions keep all that they say in rows of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.corpus.cut import Piece
from edge_mer.corpus.player import Playing, play
from edge_mer.errors import DataError
from edge_mer.labels.manifest import Recording
from edge_mer.report.read import read_records
from edge_mer.types.flat import columns, flat, record
from edge_mer.types.model import AffectOutput, EmotionOutput, PainOutput
from edge_mer.types.predictions import Affect, ModalityStatus, Pain, Prediction
from tests.helpers.bundle import ensure_bundle
from tests.helpers.predictions import record as a_record

pa = pytest.importorskip("pyarrow")
table = pytest.importorskip("edge_mer.corpus.table")

OUTPUTS = (
    AffectOutput(name="valence"),
    AffectOutput(name="arousal"),
    PainOutput(name="pain", levels=("none", "mild", "strong"), scale="test"),
    EmotionOutput(name="emotion", labels=("calm", "glad")),
)


def without_times(one: Prediction) -> dict[str, Any]:
    made = one.to_dict() | {"utc": "", "utc_synchronised": False}
    made["latency_ms"] = dict.fromkeys(made["latency_ms"])
    if made["affect"] and made["affect"]["interval"]:
        made["affect"]["interval"] = {k: list(v) for k, v in made["affect"]["interval"].items()}
    return made


def prediction(**changes: Any) -> Prediction:
    return replace(Prediction.from_dict(a_record(3)), **changes)


EVERYTHING = prediction(
    status="degraded",
    reasons=("warming_up", "visual_gap"),
    affect=Affect(0.25, -0.5, {"valence": (0.0, 0.5), "arousal": (-1.0, 0.0)}),
    pain=Pain("test", {"none": 0.5, "mild": 0.25, "strong": 0.25}, 0.75),
    emotion={"calm": 0.75, "glad": 0.25},
    confidence=0.5,
    person="p2",
    modalities={
        "visual": ModalityStatus(True, 1.0, 3.5, "ok", None),
        "audio": ModalityStatus(False, 0.0, None, None, "silent"),
    },
)
NOTHING = prediction(status="withheld", reasons=("visual_missing",), affect=None)


@pytest.mark.parametrize("one", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_a_row_says_what_the_prediction_does(one: Prediction) -> None:
    schema = pa.schema(
        [(name, {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(),
                 "texts": pa.list_(pa.string())}[kind])
         for name, kind in columns(OUTPUTS, tuple(one.modalities)).items()]
    )  # fmt: skip
    (row,) = pa.Table.from_pylist([flat(one)], schema=schema).to_pylist()
    assert record(row) == without_times(one)


def test_every_field_of_a_row_has_a_column() -> None:
    assert flat(EVERYTHING).keys() == columns(OUTPUTS, ("visual", "audio")).keys()


def test_a_table_is_read_as_the_lines_of_a_run_are(tmp_path: Path) -> None:
    bundle = open_bundle(ensure_bundle())
    setup = Playing(bundle).opened()
    found = play(setup, Piece(Recording("a", "ann", ("sim:seed=1&duration_s=4",), None)))
    made = table.table_of(found, setup.model, "a", "ann")
    table.write_table(tmp_path / "a.parquet", made, table.Mark("key", 1 / 3))
    assert table.mark_of(tmp_path / "a.parquet") == ("key", 1 / 3)
    records = read_records(tmp_path / "a.parquet")
    assert records.t_ns.tolist() == [one.t_end_ns for one in found]
    assert records.values["valence"].tolist() == pytest.approx(
        [one.affect.valence for one in found if one.affect]
    )
    assert made.column("recording").to_pylist() == ["a"] * len(found)
    assert made.column("subject").to_pylist() == ["ann"] * len(found)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table" * 100], ids=["empty", "cut", "garbage"])
def test_what_is_no_table_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    assert table.mark_of(path) is None
    with pytest.raises(DataError, match=r"x\.parquet holds no predictions"):
        read_records(path)
