"""The page on the systems at full size says what was measured, and on what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from benchmarks import systems

pytestmark = pytest.mark.workbench

G = 10**9
STUDY = {"n_people": 20, "n_heard": 0, "max_ccc_drop": 0.02}
FASTER = {"processor": "A faster one", "threads": 64}


def measured(**changes: Any) -> dict[str, Any]:
    """Of one system: an encoder for every step, one for four, one of text, and a fusion."""
    scores = {"valence": {"value": 0.5, "low": 0.4, "high": 0.6}}
    row = {
        "modalities": ["visual", "audio", "text"],
        "scores": {name: {"CCC": one} for name, one in scores.items()},
        "n_steps": 100,
    }
    run = {"n_by_status": {"ok": 6}, "infer_ms": 20.0, "preprocess_ms": 5.0}
    macs = {"visual": 8 * G, "audio": 4 * G, "text": 2 * G, "fusion": G // 2}
    found: dict[str, Any] = {
        "title": "One",
        "stages": {stage: {"params": 10**6, "macs": n} for stage, n in macs.items()},
        "steps_per_run": {"visual": 1, "audio": 4, "text": None},
        "machine": FASTER,
        "bytes": {"fp32": 4e6, "int8-cpu": 2e6, "int8-trt": 1e6},
        "fidelity": {"int8-cpu": {"valence": {"ccc": 0.99}}},
        "evaluation": {"n_people": 10, "rows": [{**row, "precision": p} for p in ("fp32", "int8-cpu")]},
        "runs": {"fp32": run, "int8-cpu": run},
        "hop_s": 1.0,
        "latency_s": 0.5,
        "window_s": 8.0,
        "study": STUDY,
    }
    return found | changes


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where measurements are kept."""
    monkeypatch.setattr(systems, "MEASURED", tmp_path)
    return tmp_path


def keep(work: Path, name: str, found: dict[str, Any]) -> None:
    (work / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def cells(page: str, name: str) -> dict[str, str]:
    """A system's row in the first table that has one."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    row = next(line for line in lines if line[0] == name)
    return dict(zip(lines[0], row, strict=True))


def test_each_encoder_counts_as_often_as_it_runs(work: Path) -> None:
    for name in systems.STUDIES:
        keep(work, name, measured())
    row = cells(systems.page(), "rjcma")
    assert row["GMACs, step"] == "9.00"
    assert row["GMACs, text"] == "2.00"
    assert row["GMACs, fusion"] == "0.50"
    assert row["published fusion, live"] == "8.3 M to 7.7 M"
    assert cells(systems.page(), "group")["published fusion, live"] == "-"


def test_the_page_names_the_machine_that_measured(work: Path) -> None:
    for name in systems.STUDIES:
        keep(work, name, measured())
    assert "Medians of a streamed run on 64 threads of A faster one.\n" in systems.page()
    keep(work, "group", measured(machine={"processor": "Another", "threads": 2}))
    assert "64 threads of A faster one (jmt, jca, rjcma, jmt-pain); 2 threads of Another (group)." in (
        systems.page()
    )


def test_it_says_from_whom_a_system_learned(work: Path) -> None:
    for name in systems.STUDIES:
        keep(work, name, measured())
    keep(work, "jmt", measured(study={**STUDY, "n_heard": 150}))
    assert "| 20 people, and 150 with somebody else's face |" in systems.page()
    assert systems.page().count("| 20 people |") == len(systems.STUDIES) - 1


def test_it_says_what_is_not_measured_yet(work: Path) -> None:
    keep(work, "jca", measured(study={**STUDY, "max_ccc_drop": 0.05}))
    page = systems.page()
    assert "Not measured yet: jmt, rjcma, jmt-pain, group.\n" in page
    assert "A candidate was allowed to lose 0.05 (jca) of it." in page
    for name in systems.STUDIES:
        keep(work, name, measured())
    assert "Not measured yet" not in systems.page()


def test_it_says_which_systems_are_published() -> None:
    assert set(systems.PRUNED) == set(systems.STUDIES) - {"group"}
    assert "Four of them are published; `group` is of edge-mer's own design." in " ".join(
        systems.HEAD.split()
    )
    for text in (systems.HEAD, systems.__doc__ or ""):
        assert "five published" not in text
        assert "The published systems" not in text
