"""The papers' protocols on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_mer.cli.main import main

SIM = "sim:seed=4&person=2&duration_s=1"
N_FRAMES = 30


def test_every_frame_gets_a_record(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["--source", SIM, "--protocol", "affwild2", "--sink", f"jsonl:{out}"]
    assert main(["run", str(shared_bundle), *arguments]) == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["window_index"] for record in found] == list(range(N_FRAMES))
    assert {record["status"] for record in found} <= {"ok", "degraded"}
    assert all(-1 <= record["affect"]["valence"] <= 1 for record in found)
    assert len({json.dumps(record["latency_ms"]) for record in found}) == 1, "each has the mean"
    assert f"{N_FRAMES} predictions" in capsys.readouterr().err
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "affwild"], "one of affwild2, biovid, rjcma"),
        (["--protocol", "affwild2", "--hop", "2"], "--hop exclude each other"),
        (["--protocol", "affwild2", "--missing", "audio=mask"], "--missing exclude each other"),
        (["--protocol", "rjcma"], "does not fit model jmt-tiny. Expected: a model whose step is one frame"),
        (["--protocol", "biovid"], "does not fit model jmt-tiny. Expected: a model of face clips and EDA"),
    ],
)
def test_what_does_not_fit_is_refused(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["run", str(shared_bundle), "--source", SIM, *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
