"""`run --people`: several faces in one picture, from the sources to the page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import edge_mer
from edge_mer.cli.main import main

CROWD = "sim:seed=1&person=8&people=2&duration_s=1.7&width=256&height=128&fps=15"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Predictions, without the fields of timing."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in record.items() if k not in ("latency_ms", "utc")} for record in records]


def test_two_people_are_followed_recorded_replayed_and_shown(
    shared_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, again, kept, page = (tmp_path / name for name in ("o.jsonl", "a.jsonl", "k.mcap", "p.html"))
    run = ["run", str(shared_bundle), "--fast", "--people", "3"]
    assert main([*run, "--source", CROWD, "--record", str(kept), "--sink", f"jsonl:{out}"]) == 0
    assert "2 people were followed" in capfd.readouterr().err
    told = lines_of(out)
    n_of = Counter(record.get("person", "nobody") for record in told)
    assert set(n_of) == {"nobody", "p1", "p2"}
    assert n_of["p1"] == n_of["p2"] == 6 - n_of["nobody"]
    assert main([*run, "--source", f"mcap:{kept}", "--sink", f"jsonl:{again}"]) == 0
    assert lines_of(again) == told
    report = ["report", str(out), "--out", str(page)]
    assert main(report) == 2
    said = capfd.readouterr().err
    assert "is about 2 people" in said
    assert "--person p1" in said
    assert main([*report, "--person", "p9"]) == 2
    assert "no predictions about p9" in capfd.readouterr().err
    assert main([*report, "--person", "p2"]) == 0
    assert "Report of o.jsonl, p2" in page.read_text(encoding="utf-8")


def test_python_follows_them_too(shared_bundle: Path) -> None:
    source = CROWD.replace("duration_s=1.7", "duration_s=1.2")
    with edge_mer.open_session(shared_bundle, sources=[source], fast=True, people=2) as session:
        told = list(session)
        for name in ("p1", "p2"):
            newest = session.latest(60_000, name)
            assert newest is not None
            assert newest == [one for one in told if one.person == name][-1]
        assert session.latest(60_000, "p7") is None
        assert session.counters.n_people == 2
