"""voice-emodb from its weights to numbers: exported, proven, run on a simulated and on a real voice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli.main import main
from edge_mer.types.model import to_ns
from tests.helpers.data import real

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from edge_mer_export.models.spec_voice_emodb import LABELS, SPAN, STEP

pytestmark = pytest.mark.workbench

N_SILENT = int(SPAN / STEP) - 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("voice") / "bundle"
    assert main(["export", "voice-emodb", "--out", str(out)]) == 0
    return out


def run(bundle: Path, out: Path, source: str) -> list[dict[str, Any]]:
    assert main(["run", str(bundle), "--source", source, "--sink", f"jsonl:{out}", "--fast"]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_its_numbers_are_proven(exported: Path) -> None:
    assert main(["verify", str(exported)]) == 0
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    assert "trained on 4 actors" in manifest["lineage"]["weights"]


def test_a_simulated_voice(exported: Path, tmp_path: Path) -> None:
    records = run(exported, tmp_path / "out.jsonl", "sim:person=5&streams=audio&duration_s=4")
    assert [one["status"] for one in records] == ["withheld"] * N_SILENT + ["ok"] * 5


def test_a_real_clip_gives_one_estimate_at_its_end(exported: Path, tmp_path: Path) -> None:
    clip = real("speech_emodb", "flac", "03a01Wa.flac")
    records = run(exported, tmp_path / "out.jsonl", f"file:{clip}")
    assert [one["status"] for one in records] == ["withheld"] * N_SILENT + ["ok"]
    assert records[-1]["t_end_ns"] == to_ns(SPAN)
    assert tuple(records[-1]["emotion"]) == LABELS
    assert sum(records[-1]["emotion"].values()) == pytest.approx(1, abs=1e-5)


def test_simulated_people_do_not_know_its_classes(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(exported), "--people", "2", "--steps", "2"]) == 3
    assert "emotion of these classes" in " ".join(capsys.readouterr().err.split())
