"""`edge-mer record` and `run --record`: real files and processes, killed, interrupted, on a full disk."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader

import edge_mer
from edge_mer.cli.main import main
from edge_mer.clock import NS_PER_S
from edge_mer.errors import UsageError
from edge_mer.sources.replay import ReplaySource
from tests.helpers.data import real
from tests.helpers.recordings import played, played_until_refused

EDGE_MER = [sys.executable, "-m", "edge_mer.cli.main"]
PERSON = "sim:seed=3&person=2&width=160&height=128&fps=15"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Predictions, without the fields of timing."""
    return untimed(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def untimed(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same without the fields of timing."""
    return [{k: v for k, v in record.items() if k not in ("latency_ms", "utc")} for record in records]


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so; half a minute at most."""
    for _ in range(600):
        if is_so():
            return
        assert process.poll() is None, process.communicate()
        threading.Event().wait(0.05)
    raise AssertionError("it never came to it")


def last_t_end_ns(path: Path) -> int:
    """The end of the last prediction that is written whole."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return int(json.loads(whole[-1])["t_end_ns"]) if whole else 0


def test_what_was_killed_is_there_but_for_its_last_second(shared_bundle: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "out.jsonl", tmp_path / "a.mcap"
    command = ["run", str(shared_bundle), "--source", f"{PERSON}&duration_s=60", "--record", str(path)]
    command += ["--sink", f"jsonl:{out}"]
    with subprocess.Popen([*EDGE_MER, *command], stderr=subprocess.PIPE, text=True) as process:
        part = out.with_name(f"{out.name}.part")
        wait_for(lambda: last_t_end_ns(part) >= 3 * NS_PER_S, process)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    assert f"recording to {path}" in said
    reached_ns = last_t_end_ns(part)
    found, refusal = played_until_refused(path)
    assert refusal is None
    whole = [chunk for chunk in played_source(f"{PERSON}&duration_s=60", len(found))]
    assert [(one.stream, one.seq, one.t_ns) for one in found] == [(o.stream, o.seq, o.t_ns) for o in whole]
    assert all(one.data.tobytes() == other.data.tobytes() for one, other in zip(found, whole, strict=True))
    assert max(chunk.t_ns for chunk in found) >= reached_ns - NS_PER_S
    assert main(["record", "--repair", str(path)]) == 0
    with path.open("rb") as file:
        summary = make_reader(file, validate_crcs=True).get_summary()
    assert summary is not None
    assert [chunk.t_ns for chunk in played(ReplaySource(str(path)))] == [chunk.t_ns for chunk in found]


def played_source(uri: str, n: int) -> list[Any]:
    """The first `n` chunks of a source, in the order in which a session takes them."""
    from edge_mer.runtime.arrivals import merged
    from edge_mer.sources.registry import open_source

    source = open_source(uri)
    source.start()
    return [chunk for chunk, _ in zip(merged([source]), range(n), strict=False)]


def test_ctrl_c_ends_a_recording_well(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    command = ["record", "--source", f"{PERSON}&duration_s=60", "--out", str(path)]
    with subprocess.Popen([*EDGE_MER, *command], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: path.exists() and path.stat().st_size > 50_000, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.startswith("●")
    assert f"--source mcap:{path}" in said
    with path.open("rb") as file:
        summary = make_reader(file, validate_crcs=True).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert len(played(ReplaySource(str(path)))) > 10


def test_a_real_video_recorded_gives_the_predictions_of_the_video(
    shared_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = sorted(real("talking_head_video").glob("*.mpg"))[0]
    path = tmp_path / "clip.mcap"
    assert main(["record", "--source", f"file:{clip}", "--out", str(path), "--fast"]) == 0
    said = capfd.readouterr().err
    assert "● recording to" in said
    assert "Recorded 0:0" in said
    for name, source in (("file", f"file:{clip}"), ("mcap", f"mcap:{path}")):
        sink = f"jsonl:{tmp_path / name}.jsonl"
        assert main(["run", str(shared_bundle), "--source", source, "--sink", sink, "--fast"]) == 0
    assert len(lines_of(tmp_path / "file.jsonl")) >= 10
    assert lines_of(tmp_path / "mcap.jsonl") == lines_of(tmp_path / "file.jsonl")


def test_without_faces_and_voices_there_are_features_and_predictions(
    shared_bundle: Path, tmp_path: Path
) -> None:
    path, sink = tmp_path / "a.mcap", f"jsonl:{tmp_path / 'out.jsonl'}"
    source = "sim:duration_s=2&streams=visual+audio+eda"
    beside = ["--source", source, "--redact", "faces,voice", "--fast"]
    assert main(["run", str(shared_bundle), "--record", str(path), "--sink", sink, *beside]) == 0
    twin = tmp_path / "b.mcap"
    assert main(["record", "--out", str(twin), "--bundle", str(shared_bundle), *beside]) == 0
    for one in (path, twin):
        with one.open("rb") as file:
            topics = [channel.topic for _, channel, _ in make_reader(file).iter_messages()]
        assert {"/edge-mer/features/visual", "/edge-mer/features/audio", "/sim/eda"} <= set(topics)
        assert not {"/sim/visual", "/sim/audio"} & set(topics)
        assert one.stat().st_size < 100_000
        assert topics.count("/edge-mer/predictions") == len(lines_of(tmp_path / "out.jsonl"))
        assert {chunk.modality for chunk in played(ReplaySource(str(one)))} == {"eda"}


def test_a_program_records_what_it_runs(shared_bundle: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.mcap", tmp_path / "again.jsonl"
    told: list[edge_mer.Prediction] = []
    session = edge_mer.open_session(
        shared_bundle, sources=[f"{PERSON}&duration_s=2"], fast=True, record=path, on_prediction=told.append
    )
    assert session.recorder is None
    with session:
        session.wait()
    assert session.recorder is not None
    assert (session.recorder.n_dropped, session.recorder.failure) == (0, None)
    assert (
        main(["run", str(shared_bundle), "--source", f"mcap:{path}", "--sink", f"jsonl:{out}", "--fast"]) == 0
    )
    expected = [json.loads(json.dumps(prediction.to_dict())) for prediction in told]
    assert [{k: v for k, v in one.items() if k not in ("latency_ms", "utc")} for one in expected] == lines_of(
        out
    )
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"a\.mcap"), session_of(shared_bundle, record=path):
        pass
    assert path.read_bytes() == before


def session_of(bundle: Path, **given: Any) -> edge_mer.Session:
    return edge_mer.open_session(bundle, sources=[f"{PERSON}&duration_s=2"], **given)


def test_a_program_that_keeps_less_or_wrongly(shared_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with session_of(shared_bundle, record=path, redact=["faces"], fast=True) as session:
        session.wait()
    assert {chunk.modality for chunk in played(ReplaySource(str(path)))} == {"audio"}
    for wrong in ({"redact": ["faces"]}, {"redact": ["hands"], "record": tmp_path / "b.mcap"}):
        with pytest.raises(UsageError, match="redact"):
            session_of(shared_bundle, **wrong)
    assert not (tmp_path / "b.mcap").exists()


def test_a_full_disk_stops_the_recording_and_no_prediction(shared_bundle: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    as_root = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*as_root, "true"], check=False).returncode:
        pytest.skip("a disk of its own needs `unshare` (util-linux), and user namespaces")
    uri, sink, kept = "sim:duration_s=4", f"jsonl:{tmp_path / 'full.jsonl'}", tmp_path / "kept.mcap"
    script = (
        'mount -t tmpfs -o size=5m tmpfs "$1" && shift && "$@"; result=$?; cp "$D/a.mcap" "$K"; exit $result'
    )
    run = [*EDGE_MER, "run", str(shared_bundle), "--source", uri, "--sink", sink, "--fast"]
    done = subprocess.run(
        [
            "env",
            f"D={disk}",
            f"K={kept}",
            *as_root,
            script,
            "sh",
            str(disk),
            *run,
            "--record",
            f"{disk}/a.mcap",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Recording stopped") == 1
    assert "No space left on device" in done.stderr
    assert main([*run[3:-3], "--sink", f"jsonl:{tmp_path / 'free.jsonl'}", "--fast"]) == 0
    assert lines_of(tmp_path / "full.jsonl") == lines_of(tmp_path / "free.jsonl")
    found, refusal = played_until_refused(kept)
    assert refusal is None
    assert found


def test_a_recording_that_is_not_whole_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code = main(["record", "--source", "sim:duration_s=2", "--out", str(tmp_path / "a.mcap"), "--fast"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    said = capfd.readouterr().err
    assert "Recording stopped" in said
    assert "is not whole" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record"], "nothing to record"),
        (["record", "--source", "sim:"], "nothing to record"),
        (["record", "--repair", "a.mcap", "--source", "sim:"], "--repair goes with --out only"),
        (["record", "--source", "sim:", "--out", "b.mcap", "--redact", "faces"], "only a bundle makes them"),
        (["record", "--source", "sim:", "--out", "b.mcap", "--redact", "hands"], "'hands' is unknown"),
        (["run", "bundle", "--source", "sim:", "--redact", "faces"], "add --record"),
        (["record", "--source", "sim:", "--out", "b.mcap", "--duration-s", "inf"], "inf is no time"),
        (["record", "--repair", "no.mcap"], "not found"),
        (["record", "--source", "sim:duration_s=1", "--out", "there.mcap"], "exists"),
        (["record", "--source", "file:there.mcap", "--out", "there.mcap"], "it is a source"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.mcap").write_text("mine")
    assert main(arguments) in (2, 3)
    assert said in capfd.readouterr().err
    assert Path("there.mcap").read_text() == "mine"


def test_a_recording_goes_beside_no_protocol_and_in_no_ones_place(
    shared_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mcap"
    run = ["run", str(shared_bundle), "--source", "sim:duration_s=1", "--record", str(path)]
    assert main([*run, "--protocol", "affwild2"]) == 2
    assert "--protocol and --record exclude each other" in capfd.readouterr().err
    assert main([*run, "--sink", f"jsonl:{path}"]) == 2
    assert "it is a source, another sink" in capfd.readouterr().err
    assert not path.exists()
