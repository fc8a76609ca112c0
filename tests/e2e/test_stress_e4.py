"""stress-e4 from its weights to numbers: exported, proven, run on a simulated and on a real person."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.cli.main import main
from edge_mer.types.model import to_ns
from tests.helpers.data import real

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from edge_mer_export.models.spec_stress_e4 import MEMORY_S, SPAN_S, STEP_S, WARM_UP_S

pytestmark = pytest.mark.workbench

REAL_S = 800
FILES = {"eda": ("EDA.csv", 4), "ppg": ("BVP.csv.gz", 64), "skt": ("TEMP.csv", 4)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stress") / "bundle"
    assert main(["export", "stress-e4", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first minutes of a real person's recording, as an E4 writes it."""
    folder = tmp_path_factory.mktemp("person")
    for name, rate_hz in FILES.values():
        path = real("stress_predict", "Raw_data", "S06", name)
        opened = gzip.open if name.endswith(".gz") else open
        with opened(path, "rt", encoding="utf-8") as source:
            lines = [line for _, line in zip(range(2 + REAL_S * rate_hz), source, strict=False)]
        (folder / name.removesuffix(".gz")).write_text("".join(lines), encoding="utf-8")
    return folder


def run(bundle: Path, out: Path, *sources: str) -> list[dict[str, Any]]:
    arguments = [part for source in sources for part in ("--source", source)]
    assert main(["run", str(bundle), *arguments, "--sink", f"jsonl:{out}", "--fast"]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def signal(folder: Path, kind: str) -> str:
    return f"signal:{folder / FILES[kind][0].removesuffix('.gz')}?modality={kind}&layout=e4"


def test_its_numbers_are_proven(exported: Path) -> None:
    assert main(["verify", str(exported)]) == 0
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    assert "trained on 19 real people" in manifest["lineage"]["weights"]
    assert [one["missing"] for one in manifest["model"]["encoders"]] == ["mask"] * 3


def test_a_simulated_person(exported: Path, tmp_path: Path) -> None:
    uri = f"sim:person=5&streams=eda+ppg+skt&eda_hz=4&duration_s={WARM_UP_S + 60}"
    records = run(exported, tmp_path / "out.jsonl", uri)
    n_silent = (MEMORY_S + SPAN_S) // STEP_S - 1
    assert {tuple(one["reasons"]) for one in records[:n_silent]} == {("warming_up",)}
    assert [one["status"] for one in records[-6:]] == ["ok"] * 6


def test_a_real_person_and_the_same_without_a_pulse(exported: Path, person: Path, tmp_path: Path) -> None:
    records = run(exported, tmp_path / "all.jsonl", *(signal(person, kind) for kind in FILES))
    assert len(records) == REAL_S // STEP_S
    assert records[-1]["t_end_ns"] == to_ns(REAL_S)
    told = [one for one in records if one["t_end_ns"] >= to_ns(WARM_UP_S)]
    assert {one["status"] for one in told} == {"ok"}
    stress = np.array([one["emotion"]["stress"] for one in told])
    assert stress.std() > 0.02
    lacking = run(exported, tmp_path / "lacking.jsonl", signal(person, "eda"), signal(person, "skt"))
    assert {(one["status"], *one["reasons"]) for one in lacking[-10:]} == {("degraded", "ppg_missing")}


def test_a_gap_longer_than_the_memory_begins_anew(exported: Path, person: Path, tmp_path: Path) -> None:
    rows = (person / "EDA.csv").read_text(encoding="utf-8").splitlines()[2:]
    first, second = rows[: 4 * 440], rows[: 4 * 440]
    file = tmp_path / "eda.csv"
    file.write_text("\n".join(["eda", *first, *[""] * (4 * 310), *second]) + "\n", encoding="utf-8")
    uri = f"signal:{file}?modality=eda&column=eda&rate_hz=4"
    records = run(exported, tmp_path / "gap.jsonl", uri)
    ends_s = [one["t_end_ns"] / 1e9 for one in records if one["status"] != "withheld"]
    assert [end for end in ends_s if end < 600] == [420, 430, 440]
    assert [end for end in ends_s if end > 600] == [1170, 1180, 1190]


def test_simulated_people_do_not_know_its_classes(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(exported), "--people", "2", "--steps", "2"]) == 3
    assert "emotion of these classes" in " ".join(capsys.readouterr().err.split())
