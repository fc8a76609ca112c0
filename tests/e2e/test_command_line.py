"""The command line as a user meets it: verbs, exit codes, messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_mer.cli.main import VERBS, main
from edge_mer.cli.run import tell_lost_words
from edge_mer.sources.registry import open_source
from edge_mer.sources.transcript import TranscriptSource

SIM = "sim:seed=4&person=2&duration_s=4"


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


HEAVY = {"numpy", "scipy", "cv2", "av", "onnxruntime", "openvino", "tensorrt", "pydantic", "torch", "onnx"}


def loaded_by(code: str) -> tuple[set[str], str]:
    """What of `HEAVY` a fresh interpreter has loaded after some code, and what that printed."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HEAVY & set(done.stderr.split()), done.stdout


def test_help_loads_nothing_heavy() -> None:
    """`--help` must answer on a device within a blink."""
    found, shown = loaded_by("from edge_mer.cli.main import main\nassert main(['--help']) == 0")
    assert found == set()
    for verb in VERBS:
        assert verb in shown


def test_the_package_loads_nothing_heavy_until_it_is_used() -> None:
    assert loaded_by("import edge_mer\nassert edge_mer.__version__")[0] == set()
    assert loaded_by("import edge_mer, numpy")[0] == {"numpy"}, "nothing would be noticed"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edge-mer 0.")


def test_a_simulated_person_is_judged(shared_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["run", str(shared_bundle), "--source", SIM, "--sink", f"jsonl:{out}", "--fast"]) == 0
    found = records(out)
    assert len(found) == 15
    assert [record["status"] for record in found] == ["degraded"] * 7 + ["ok"] * 8


def test_live_pacing_takes_as_long_as_the_session(shared_bundle: Path, tmp_path: Path) -> None:
    """Without --fast each record says how long it waited, and none comes before its step is over."""
    out = tmp_path / "out.jsonl"
    source = "sim:seed=4&person=2&duration_s=2"
    assert main(["run", str(shared_bundle), "--source", source, "--sink", f"jsonl:{out}"]) == 0
    found = records(out)
    assert len(found) == 7
    waits = [record["latency_ms"]["wait"] for record in found]  # type: ignore[index]
    assert all(wait is not None and wait >= -40.0 for wait in waits), waits


def test_the_same_session_twice_gives_the_same_numbers(shared_bundle: Path, tmp_path: Path) -> None:
    estimates = []
    source = "sim:seed=4&person=2&duration_s=2.2&width=128&height=128"  # to the end of the first whole window
    for name in ("a.jsonl", "b.jsonl"):
        main(["run", str(shared_bundle), "--source", source, "--sink", f"jsonl:{tmp_path / name}", "--fast"])
        found = records(tmp_path / name)
        assert (len(found), found[-1]["status"]) == (8, "ok")
        estimates.append([record["affect"] for record in found])
    assert estimates[0] == estimates[1]


def test_a_stream_that_is_dropped_is_said_to_be_missing(shared_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    source = f"{SIM}&streams=audio"
    assert main(["run", str(shared_bundle), "--source", source, "--sink", f"jsonl:{out}", "--fast"]) == 0
    found = records(out)
    assert all("visual_missing" in record["reasons"] for record in found)  # type: ignore[operator]
    assert {record["status"] for record in found} == {"degraded"}
    abstaining = ["--missing", "visual=abstain", "--sink", f"jsonl:{out}", "--fast"]
    assert main(["run", str(shared_bundle), "--source", source, *abstaining]) == 0
    assert {tuple(record["reasons"]) for record in records(out)} == {("visual_missing",)}  # type: ignore[arg-type]


def test_words_that_are_lost_are_told(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.jsonl"
    said = [("a", 0.1, 0.2), ("b", 0.9, 1.0)]
    line = {"words": [{"word": word, "start": start, "end": end} for word, start, end in said]}
    words.write_text(json.dumps(line))
    sources = ["--source", "sim:seed=4&duration_s=1&streams=audio", "--source"]
    for offset, lost in (("0", ""), ("-0.5", "1 words from before the start")):
        transcript = f"transcript:{words}?offset_s={offset}"
        assert main(["run", str(shared_bundle), *sources, transcript, "--fast"]) == 0
        shown = " ".join(capsys.readouterr().err.split())
        assert ("Lost" in shown) is bool(lost)
        assert not lost or f"Lost of {transcript}: {lost}." in shown


def test_a_precision_that_the_bundle_has_not_is_refused(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(shared_bundle), "--source", SIM, "--fast", "--precision", "int4"]) == 2
    message = capsys.readouterr().err
    assert "has no precision 'int4'. Expected: one of fp16, fp32, int8-cpu, int8-trt" in message


def test_what_a_live_transcript_loses_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    sources = [open_source(uri) for uri in ("sim:", "transcript:-", "transcript:-?offset_s=1")]
    quiet, losing = (source for source in sources if isinstance(source, TranscriptSource))
    quiet.counts.n_utterances = quiet.counts.n_partial = quiet.counts.n_empty = 3
    losing.counts.n_bad, losing.counts.n_dropped = 2, 7
    tell_lost_words(sources)
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "Lost of transcript:-?offset_s=1: 2 lines that could not be used, "
        "7 utterances that were not read soon enough."
    )


def test_predictions_go_to_the_terminal_without_a_sink(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(shared_bundle), "--source", SIM, "--fast"]) == 0
    captured = capsys.readouterr()
    assert len([json.loads(line) for line in captured.out.splitlines()]) == 15
    assert "15 predictions" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "{bundle}", "--source", "camra:0"], 2, "unknown source"),
        (["run", "{bundle}", "--source", "fil:clip.mp4"], 2, "did you mean file:clip.mp4"),
        (["run", "{bundle}", "--source", "clip.mp4"], 2, "unknown source"),
        (["run", "{bundle}", "--source", "sim:sead=3"], 2, "seed"),
        (["run", "{bundle}", "--source", SIM, "--sink", "jsnl:x"], 2, "did you mean jsonl:x"),
        (["run", "{bundle}", "--source", SIM, "--sink", "jsonl:/nowhere/x"], 2, "cannot write"),
        (["run", "{bundle}", "--source", SIM, "--source", SIM], 2, "two streams"),
        (["run", "{bundle}", "--source", SIM, "--missing", "audio=guess"], 2, "zero_feature"),
        (["run", "{bundle}", "--source", SIM, "--missing", "eda=mask"], 2, "no modality eda"),
        (["run", "{bundle}", "--source", SIM, "--precision", "int4"], 2, "no precision"),
        (["run", "{bundle}", "--source", SIM, "--precision", "int8-trt"], 2, "made for TensorRT"),
        (["run", "{bundle}", "--source", SIM, "--people", "0"], 2, "--people"),
        (["run", "{bundle}", "--source", SIM, "--people", "2", "--protocol", "affwild2"], 2, "--people"),
        (
            ["run", "{bundle}", "--source", SIM, "--people", "2", "--record", "x", "--redact", "faces"],
            2,
            "people and redact exclude each other",
        ),
        (["record", "--source", SIM, "--out", "/nowhere/x", "--people", "2"], 2, "add --bundle"),
        (["run", "{bundle}", "--source", "sim:duration_s=0.2", "--fast"], 3, "not even one step"),
        (
            ["run", "{bundle}", "--source", "sim:duration_s=2&streams=audio", "--fast", "--hop=100"],
            3,
            "not one hop of 100 steps (26.67 s)",
        ),
        (["run", "/nowhere", "--source", SIM], 3, "is not a bundle"),
        (["run", "{bundle}", "--source", SIM, "--face-detector", "/nowhere.onnx"], 5, "nowhere.onnx"),
        (["verify", "/nowhere"], 3, "is not a bundle"),
        (["build-engine", "{bundle}", "--target", "abacus"], 2, "unknown target"),
        (["bundle", "inspect", "/nowhere"], 3, "is not a bundle"),
    ],
)
def test_mistakes_are_explained(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert main([argument.format(bundle=shared_bundle) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_verify_proves_every_candidate(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(shared_bundle)]) == 0
    shown = capsys.readouterr().out
    assert "Verified: fp32, int8-cpu." in shown
    assert "int8-trt: whole; made for TensorRT" in shown
    assert shown.count("control: ring shifted by one step") == 2
    assert "FAIL" not in shown


def test_build_engine_is_done_once(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build-engine", str(shared_bundle)]) == 0
    assert "Chosen:" in capsys.readouterr().out
    assert main(["build-engine", str(shared_bundle)]) == 0
    assert "Built before" in capsys.readouterr().out


def test_bundle_inspect_shows_what_is_inside(shared_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "inspect", str(shared_bundle)]) == 0
    shown = capsys.readouterr().out
    assert "jmt-tiny" in shown
    assert "int8-trt" in shown
    assert "mask" in shown
    assert "trained on simulated people only" in shown


@pytest.mark.parametrize("victim", ["stages/visual.fp32.onnx", "golden/session-0.npz", "manifest.json"])
def test_one_changed_byte_is_refused(
    tiny_bundle: Path, victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_bundle / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(tiny_bundle)]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_a_changed_engine_file_never_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    path, out = tiny_bundle / "stages/fusion.fp32.onnx", tmp_path / "out.jsonl"
    path.write_bytes(path.read_bytes() + b"\0")
    arguments = ["run", str(tiny_bundle), "--source", SIM, "--precision", "fp32", "--sink", f"jsonl:{out}"]
    assert main(arguments) == 3
    assert not out.exists()


def test_a_copied_bundle_is_the_same_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a folder" / "moved"
    shutil.copytree(tiny_bundle, moved)
    assert main(["verify", str(moved), "--precision", "fp32"]) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ending_a_session_keeps_what_was_written(shared_bundle: Path, tmp_path: Path, name: str) -> None:
    """Exit code 130, whole lines, the file under its name, and a summary."""
    out = tmp_path / "out.jsonl"
    source = "sim:seed=4&person=2&duration_s=600"
    command = [sys.executable, "-m", "edge_mer.cli.main", "run", str(shared_bundle), "--source", source]
    process = subprocess.Popen([*command, "--sink", f"jsonl:{out}"], stderr=subprocess.PIPE)
    part = tmp_path / "out.jsonl.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size > 0:
            break
        time.sleep(0.1)  # another process works at its own pace
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert records(out)
    assert not part.exists()
    assert b" predictions (" in errors


def test_a_reader_that_has_seen_enough_is_no_error(shared_bundle: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edge_mer.cli.main",
        "run",
        str(shared_bundle),
        "--source",
        SIM,
        "--fast",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "what", ["a recording", "a table", "a transcript", "the bundle", "another sink", "a pipe"]
)
def test_a_sink_takes_the_place_of_nothing(tiny_bundle: Path, tmp_path: Path, what: str) -> None:
    clip, out, pipe = tmp_path / "clip.mp4", tmp_path / "out.jsonl", tmp_path / "pipe"
    clip.write_bytes(b"precious")
    os.mkfifo(pipe)
    sinks = {
        "the bundle": [f"jsonl:{tiny_bundle}/manifest.json"],
        "another sink": [f"jsonl:{out}", f"jsonl:{tmp_path}/./out.jsonl"],
        "a pipe": [f"jsonl:{pipe}"],
    }.get(what, [f"jsonl:{clip}"])
    source = {
        "a recording": f"file:{clip}",
        "a table": f"signal:{clip}?modality=eda&column=1&rate_hz=4",
        "a transcript": f"transcript:{clip}",
    }.get(what, SIM)
    options = [option for sink in sinks for option in ("--sink", sink)]
    manifest = (tiny_bundle / "manifest.json").read_bytes()
    assert main(["run", str(tiny_bundle), "--source", source, "--fast", *options]) == 2
    assert clip.read_bytes() == b"precious"
    assert (tiny_bundle / "manifest.json").read_bytes() == manifest
    assert pipe.is_fifo()
    assert not out.exists()
