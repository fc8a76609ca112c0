"""Calibrating as a user does it: budgets, interrupts, labelled recordings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.bundle.manifest import Candidate, Manifest, kind_of
from edge_mer.bundle.read import open_bundle
from edge_mer.cli.main import main
from edge_mer_calibration import candidates, trt_rules
from tests.helpers import breaking_models

pytestmark = pytest.mark.workbench

FEW = ("--windows", "8", "--precision", "int8-cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of two biosignals, whose attention overflows in half precision."""
    folder = tmp_path_factory.mktemp("overflowing") / "exported"
    assert main(["export", f"{breaking_models.__file__}:Overflowing", "--random", "--out", str(folder)]) == 0
    return folder


def manifest_of(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def test_a_set_is_told_by_people_ranges_and_missing_modalities(shared_bundle: Path) -> None:
    made = manifest_of(shared_bundle).calibration
    assert made is not None
    assert made.n_windows == 64
    assert made.people == (4,) * 16
    assert made.without == {"visual": 8, "audio": 8}
    assert made.cells is not None
    for name in ("valence", "arousal"):
        counts = [n for cell, n in made.cells.items() if cell.startswith(name)]
        assert sum(counts) == 64
        assert len(counts) == 3
    assert made.budget is not None
    assert made.budget.ccc == 0.005


def test_ranges_travel_and_values_do_not(shared_bundle: Path) -> None:
    bundle = open_bundle(shared_bundle)
    stages = json.loads(bundle.read("calibration/ranges.json"))["stages"]
    assert set(stages) == set(bundle.manifest.model.stages)
    one = stages["visual"]["clip"]
    assert set(one["levels"]) == {name for name in bundle.manifest.candidates if name.startswith("int8")}
    assert one["reads"]
    assert one["low"] <= one["held_low"] + 1.0
    assert len(one["counts"]) == 32
    assert sum(one["counts"]) == 64 * n_values(bundle.manifest)


def n_values(manifest: Manifest) -> int:
    """Of one clip."""
    return math.prod(manifest.model.encoders[0].input.concrete(batch=1))


def test_where_nothing_is_fast_enough_the_gate_refuses(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["calibrate", str(exported), "--out", str(out), *FEW, "--max-latency-ms", "0.001"]) == 4
    message = capsys.readouterr().err
    assert "no candidate is within the budget" in message
    assert "0.001 are allowed" in message
    assert "keep fp32" in message
    assert not list(tmp_path.iterdir())


def test_what_tensorrt_cannot_run_is_said_before_anything_is_played(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trt_rules, "OPERATORS", trt_rules.OPERATORS - {"Conv"})
    monkeypatch.setattr(candidates, "play", not_again)
    arguments = ["calibrate", str(exported), "--out", str(tmp_path / "bundle"), "--precision", "int8-trt"]
    assert main(arguments) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "TensorRT cannot run stage eda" in message
    assert "Found: Conv. Next: write the stage with others" in message
    assert not list(tmp_path.iterdir())


def test_an_interrupted_calibration_goes_on(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was played and measured of simulated people is not done again."""
    out = tmp_path / "bundle"
    arguments = ["calibrate", str(exported), "--out", str(out), *FEW]
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "_demand_rules", None)
        patch.setattr(candidates, "ranges_file", interrupted)
        assert main(arguments) == 130
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.calibrating"]
    monkeypatch.setattr(candidates, "play", not_again)
    monkeypatch.setattr(candidates, "histograms_of", not_again)
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert [kind_of(name) for name in manifest_of(out).candidates] == ["fp32", "int8-cpu"]


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt


def not_again(*_: object) -> None:
    raise AssertionError("this was done before")


def test_people_of_a_manifest_are_split_and_their_labels_count(exported: Path, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    rows = ["person,sources,labels,split"]
    for number in range(6):
        split = "train" if number < 4 else "valid"
        keys = "streams=eda+ecg&eda_hz=32&ecg_hz=128&duration_s=8"
        rows.append(f"p{number},sim:seed=3&person={number}&{keys},,{split}")
    people.write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "bundle"
    arguments = ["calibrate", str(exported), "--out", str(out), *FEW, "--data", str(people)]
    assert main([*arguments, "--max-accuracy-drop", "50"]) == 0
    made = manifest_of(out)
    assert made.calibration is not None
    assert made.calibration.people == (2, 2, 2, 2)
    assert len(made.calibration.source) == 4
    points = [one.points for name, one in made.candidates.items() if kind_of(name) == "int8-cpu"]
    assert len(points) == 1
    assert points[0] is not None


def test_points_need_labels(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--check", "file:clip.mp4", "--max-accuracy-drop", "1"]
    assert main(["calibrate", str(exported), "--out", str(tmp_path / "bundle"), *arguments]) == 2
    assert "--max-accuracy-drop needs labels" in capsys.readouterr().err


def test_what_names_no_session_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(exported), "--out", str(tmp_path / "b"), "--data", "clip.mp4"]) == 2
    assert "clip.mp4 names no session" in capsys.readouterr().err


def test_outlier_channels_break_8_bits_and_the_search_mends_them(tmp_path: Path) -> None:
    exported, bundle = tmp_path / "exported", tmp_path / "bundle"
    model = f"{breaking_models.__file__}:OutlierAttention"
    assert main(["export", model, "--random", "--out", str(exported)]) == 0
    kinds = ["--precision", "int8-cpu", "--precision", "int8-trt"]
    assert main(["calibrate", str(exported), "--out", str(bundle), "--windows", "32", *kinds]) == 0
    found = manifest_of(bundle).candidates
    assert {kind_of(name) for name in found} == {"fp32", "int8-cpu", "int8-trt"}
    for name in set(found) - {"fp32"}:
        how = found[name].quantization["fusion"]
        assert how.tried["min-max"] > 3 * min(how.tried.values())
        assert any("balanced" in one for one in how.tried)
        assert concordance_of(found[name]) >= 0.995


def test_what_overflows_in_half_stays_in_float(exported: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    arguments = ["calibrate", str(exported), "--out", str(bundle), "--windows", "32"]
    assert main([*arguments, "--precision", "fp16"]) == 0
    candidates = manifest_of(bundle).candidates
    found = candidates["fp16"]
    left = found.quantization["fusion"].in_float
    assert left is not None
    assert any("MatMul" in node for node in left["reaches too far"])
    assert concordance_of(found) >= 0.9999
    assert found.n_bytes < 0.75 * candidates["fp32"].n_bytes


def concordance_of(candidate: Candidate) -> float:
    """With FP32, of the one output."""
    assert candidate.fidelity is not None
    ccc = candidate.fidelity["arousal"].ccc
    assert ccc is not None
    return ccc
