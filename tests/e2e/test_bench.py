"""`edge-mer bench` on a real bundle: what it shows, writes and refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli import bench as verb
from edge_mer.cli.main import main
from edge_mer.errors import DataError
from edge_mer.runtime import bench
from edge_mer.runtime.start_up import StartUp, measure_start_up
from edge_mer.runtime.ways import Way, executed, open_way

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to-bench.md"


def all_keys(told: Any, prefix: str = "") -> set[str]:
    """Paths of everything in a JSON document; of what is named by users or models "*"."""
    if isinstance(told, list) and told and isinstance(told[0], dict):
        return {key for one in told for key in all_keys(one, f"{prefix}[]")}
    if not isinstance(told, dict):
        return {prefix}
    named = ("measured[].executed", "measured[].executed.*", "measured[].parts_ms", "measured[].n_by_status")
    found = set()
    for name, one in told.items():
        name = "*" if prefix in (*named, "measured[].n_without") else name
        found |= all_keys(one, f"{prefix}.{name}" if prefix else name)
    return found or {f"{prefix}.*"}


def fail() -> StartUp:
    raise DataError("it failed")


def test_a_process_that_cannot_start_a_session_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"starts a session failed\. Found: .*nobody is not a bundle"):
        measure_start_up(Way(tmp_path / "nobody"))


def test_an_engine_that_is_asked_for_runs_what_it_takes(shared_bundle: Path) -> None:
    pytest.importorskip("openvino", reason="needs pip install 'edge-mer[openvino]'")
    opened = open_way(Way(shared_bundle, "int8-cpu", "openvino"))
    engines = {stage: engine.name for stage, engine in opened.setup.engines.items()}
    found = executed(opened)
    opened.setup.close()
    assert engines["visual"] == engines["audio"] == "openvino-cpu"
    assert all("u8" in used for used in found.values())
    assert set(found) == {"visual", "audio", "fusion"}


def test_two_candidates_are_measured_shown_written_and_drawn(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "WARM_UP_NS", 0)
    monkeypatch.setattr(bench, "TURN_NS", 0)
    start_up = measure_start_up(Way(shared_bundle, "fp32", "onnxruntime"))  # once: most of it is imports
    monkeypatch.setattr(verb, "measure_start_up", lambda way: start_up if way.precision == "fp32" else fail())
    json_file, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    ways = ["--engine", "onnxruntime", "--precision", "int8-cpu", "--precision", "fp32", "--seconds", "0"]
    written = ["--json", str(json_file), "--chart", str(chart)]
    assert main(["bench", str(shared_bundle), *ways, *written]) == 0
    captured = capsys.readouterr()
    told = json.loads(json_file.read_text(encoding="utf-8"))
    eight, full = told["measured"]
    assert (eight["precision"], full["precision"]) == ("int8-cpu", "fp32")
    assert set(full["executed"]) == {"visual", "audio", "fusion"}
    assert all(set(found) == {"f32"} for found in full["executed"].values())
    assert all("u8" in found for found in eight["executed"].values())
    for one in (eight, full):
        assert one["ms"]["n"] >= 1
        assert one["ms"]["n"] == one["parts_ms"]["visual"]["n"]
        assert all(part["p50"] > 0 for part in one["parts_ms"].values())
        assert one["hop_ms"] == pytest.approx(8000 / 30)
        lines = captured.out.splitlines()
        assert any(
            line.startswith("face detector") and f"{one['parts_ms']['face detector']['p50']:.2f}" in line
            for line in lines
        )
    assert 0 < full["start_up"]["first_record_s"] < 30
    assert 50e6 < full["start_up"]["memory_bytes"] <= full["start_up"]["peak_memory_bytes"] < 1e9
    assert eight["start_up"] is None, "its process failed: the rest is shown all the same"
    assert f"{eight['label']}: its start could not be measured. it failed." in captured.err
    assert full["ratio_to_last"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert max(len(line) for line in captured.out.splitlines()) <= 100
    drawing = chart.read_text(encoding="utf-8")
    names = re.findall(r"<text[^>]*>([^<]+)</text>", drawing)
    assert {"visual", "audio", "fusion", "face detector", "runtime", full["label"], eight["label"]} <= set(
        names
    )
    assert drawing.count("<title>visual: ") == 2
    described = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    keys = all_keys(told)
    assert set(described) == {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{bundle}", "--source", "sim-live:"], 2, "never gives the same twice"),
        (["{bundle}", "--source", "camra:0"], 2, "unknown source"),
        (["{bundle}", "--source", "file:/nowhere.mp4"], 3, "nowhere.mp4"),
        (["{bundle}", "--source", "sim:duration_s=1"], 3, "not one prediction of model jmt-tiny"),
        (["{bundle}", "--precision", "int4"], 2, "no precision 'int4'"),
        (["{bundle}", "--precision", "int8-trt"], 2, "made for TensorRT"),
        (["{bundle}", "--engine", "abacus"], 2, "unknown engine 'abacus'. Expected: onnxruntime or openvino"),
        (["{bundle}", "--engine", "onnxruntime", "--precision", "bf16"], 2, "does not compute in bf16"),
        (["{bundle}", "--engine", "tensorrt"], 5, "edge-mer build-engine --target tensorrt"),
        (["{bundle}", "--against", "/nowhere"], 3, "is not a bundle"),
        (["{bundle}", "--face-detector", "/nowhere.onnx"], 5, "nowhere.onnx"),
        (["{bundle}", "--json", "/nowhere/x.json"], 2, "cannot write /nowhere/x.json"),
        (["{bundle}", "--chart", "{bundle}/x.svg"], 2, "it lies in the bundle"),
        (["{bundle}", "--json", "{there}"], 2, "exists already"),
        (["{bundle}", "--json", "x", "--chart", "x"], 2, "written already"),
        (["{bundle}", "--json", "{there}", "--replace", "--source", "file:{there}"], 2, "it is a source"),
    ],
)
def test_mistakes_are_explained_before_anything_is_measured(
    shared_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("time was spent")

    monkeypatch.setattr(bench.Bench, "turn", measure)
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "there"
    there.write_text("kept")
    given = [one.format(bundle=shared_bundle, there=there) for one in arguments]
    assert main(["bench", *given]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert there.read_text() == "kept"


def test_a_bundle_that_was_altered_is_not_measured(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(shared_bundle, tmp_path / "bundle"))
    stage = bundle / "stages" / "fusion.fp32.onnx"
    stage.write_bytes(stage.read_bytes()[:-1] + b"\0")
    assert main(["bench", str(bundle), "--precision", "fp32"]) == 3
    assert "fusion.fp32.onnx" in capsys.readouterr().err
