"""Many recordings at once: a cluster gives what one process gives, and nothing that breaks costs the rest."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edge_mer.cli.main import main
from tests.helpers.data import real
from tests.helpers.media import truncate
from tests.helpers.waiting import wait_until

pytest.importorskip("ray")
pytest.importorskip("pyarrow")

N_SIMULATED = 8


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real people, and two files that nobody can play."""
    folder = tmp_path_factory.mktemp("corpus")
    clips = sorted(real("talking_head_video").glob("*.mpg"))[:3]
    (folder / "notes.mp4").write_text("no video")
    truncate(clips[0], folder / "cut.mpg", 0.4)
    rows = [f"p{k},{path}" for k, path in enumerate([*clips, folder / "notes.mp4", folder / "cut.mpg"])]
    path = folder / "people.csv"
    path.write_text("\n".join(["person,sources", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [f"p{k},sim:seed={k}&person={k}&duration_s=4" for k in range(N_SIMULATED)]
    path = tmp_path_factory.mktemp("simulated") / "people.csv"
    path.write_text("\n".join(["person,sources,labels", *(f"{row}," for row in rows)]) + "\n")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_a_cluster_gives_what_one_process_gives(
    shared_bundle: Path, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for name, more in (("alone", []), ("cluster", ["--ray", "local", "--workers", "2"])):
        command = ["run", str(shared_bundle), "--corpus", str(manifest), "--out", str(tmp_path / name)]
        assert main([*command, "--precision", "fp32", *more]) == 3
        said[name] = capsys.readouterr()
        assert "notes.mp4 was left out" in said[name].err
        assert "cut.mpg was left out: the recording" in said[name].err
        assert "2 of 5 recordings could not be used" in said[name].err
        assert "33 predictions" in said[name].out
    assert said["alone"].out.replace("alone", "cluster") == said["cluster"].out
    assert files(tmp_path / "alone") == files(tmp_path / "cluster")
    text = (tmp_path / "alone" / "recordings.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["predictions"] for row in rows] == ["11", "11", "11", "0", "0"]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, True]
    assert {name for name in files(tmp_path / "alone") if name != "recordings.csv"} == {
        row["file"] for row in rows if row["file"]
    }


def test_a_table_says_what_a_run_says(shared_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    """The corpus of one recording against `edge-mer run` on it."""
    import pyarrow.parquet

    clip = sorted(real("talking_head_video").glob("*.mpg"))[1]
    one = tmp_path / "one.csv"
    one.write_text(f"person,sources\nann,{clip}\n")
    assert main(["run", str(shared_bundle), "--corpus", str(one), "--out", str(tmp_path / "out")]) == 0
    lines = tmp_path / "lines.jsonl"
    sink = ["--sink", f"jsonl:{lines}", "--fast"]
    assert main(["run", str(shared_bundle), "--source", f"file:{clip}", *sink]) == 0
    expected = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    (table,) = (tmp_path / "out" / "predictions").iterdir()
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["valence"] for row in rows] == [one["affect"]["valence"] for one in expected]
    assert [row["reasons"] for row in rows] == [one["reasons"] for one in expected]
    assert [row["visual_age_ms"] for row in rows] == [
        one["modalities"]["visual"]["age_ms"] for one in expected
    ]


class Running:
    """A run on a cluster of two workers, in a process of its own."""

    def __init__(self, bundle: Path, manifest: Path, out: Path) -> None:
        self.out = out
        command = [sys.executable, "-m", "edge_mer.cli.main", "run", str(bundle), "--precision", "fp32"]
        command += ["--corpus", str(manifest), "--out", str(out), "--ray", "local", "--workers", "2"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_for_tables(self, n: int) -> None:
        wait_until(lambda: len(list(self.out.glob("predictions/*.parquet"))) >= n, f"{n} tables")

    def workers(self) -> list[int]:
        """Those of this run, by their titles and parents."""
        return [pid for pid, title in _descendants(self.process.pid) if b"_Actor" in title]

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


def _descendants(of: int) -> Iterator[tuple[int, bytes]]:
    parents: dict[int, int] = {}
    titles: dict[int, bytes] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(process.name)
            parents[pid] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            titles[pid] = (process / "cmdline").read_bytes()
    for pid in parents:
        above = pid
        while above in parents and above != of:
            above = parents[above]
        if above == of and pid != of:
            yield pid, titles[pid]


@pytest.fixture(scope="module")
def alone(shared_bundle: Path, simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this process makes of the simulated people."""
    out = tmp_path_factory.mktemp("alone") / "out"
    command = ["run", str(shared_bundle), "--corpus", str(simulated), "--out", str(out)]
    assert main([*command, "--precision", "fp32"]) == 0
    return out


def test_a_worker_that_is_killed_costs_nothing(
    shared_bundle: Path, simulated: Path, alone: Path, tmp_path: Path
) -> None:
    run = Running(shared_bundle, simulated, tmp_path / "out")
    run.wait_for_tables(2)
    victims = run.workers()
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    code, said = run.end()
    assert code == 0, said
    assert "1 worker died and was replaced." in said
    assert files(tmp_path / "out") == files(alone)


def test_a_run_that_was_stopped_goes_on(
    shared_bundle: Path, simulated: Path, alone: Path, tmp_path: Path
) -> None:
    first = Running(shared_bundle, simulated, tmp_path / "out")
    first.wait_for_tables(2)
    workers = first.workers()
    first.process.send_signal(signal.SIGINT)
    code, said = first.end()
    assert code == 130
    assert "Traceback" not in said
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "all workers gone")
    kept = {
        name: one.stat().st_mtime_ns for name in files(tmp_path / "out") for one in [tmp_path / "out" / name]
    }
    assert 2 <= len(kept) < N_SIMULATED
    code, said = Running(shared_bundle, simulated, tmp_path / "out").end()
    assert code == 0, said
    assert f"{len(kept)} of {N_SIMULATED} were played before." in said
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    assert files(tmp_path / "out") == files(alone)


def test_what_changed_is_played_again(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{k},sim:seed={k}&person={k}&duration_s=2" for k in range(3)]
    manifest = tmp_path / "people.csv"

    def play(rows: Sequence[str], *more: str) -> str:
        manifest.write_text("\n".join(["person,sources", *rows]) + "\n")
        command = ["run", str(shared_bundle), "--corpus", str(manifest), "--out", str(tmp_path / "out")]
        assert main([*command, *more]) == 0
        return capsys.readouterr().err

    assert "played before" not in play(rows, "--precision", "fp32")
    assert "3 of 3 were played before." in play(rows, "--precision", "fp32")
    assert "2 of 3 were played before." in play(
        [rows[0], "other,sim:seed=1&person=1&duration_s=2", rows[2]], "--precision", "fp32"
    )
    assert "played before" not in play(rows, "--precision", "fp32", "--hop", "2")


def test_a_recording_that_broke_since_leaves_no_table(shared_bundle: Path, tmp_path: Path) -> None:
    """Whoever reads all tables of a folder must not get what a recording was before."""
    clip = shutil.copy(sorted(real("talking_head_video").glob("*.mpg"))[0], tmp_path / "a.mpg")
    manifest = tmp_path / "people.csv"
    manifest.write_text(f"person,sources\np1,{clip}\n")
    out = tmp_path / "out"
    command = ["run", str(shared_bundle), "--corpus", str(manifest), "--out", str(out)]
    assert main(command) == 0
    assert len(list((out / "predictions").iterdir())) == 1
    Path(clip).write_text("no video")
    assert main(command) == 3
    assert not list((out / "predictions").iterdir())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--out", "x"], "--corpus MANIFEST"),
        (["--corpus", "x.csv"], "--out DIR"),
        (["--corpus", "x.csv", "--out", "x", "--source", "sim:"], "--corpus and --source exclude each other"),
        (
            ["--corpus", "x.csv", "--out", "x", "--record", "a.mcap", "--fast"],
            "--corpus and --fast and --record",
        ),
        (
            ["--corpus", "x.csv", "--out", "x", "--engine", "triton://127.0.0.1:1"],
            "--corpus and --engine exclude each other",
        ),
        (["--ray", "auto"], "--corpus MANIFEST"),
        (["--corpus", "MANIFEST", "--out", "x", "--workers", "2"], "--workers are those of a cluster"),
        (
            ["--corpus", "MANIFEST", "--out", "x", "--ray", "127.0.0.1:1"],
            "no Ray cluster answers at 127.0.0.1:1",
        ),
        (["--corpus", "MANIFEST", "--out", "x", "--ray", "cluster"], "cluster is no address of a cluster"),
        (["--corpus", "MANIFEST", "--out", "FULL"], "holds something else"),
        (["--corpus", "MANIFEST", "--out", "MANIFEST"], "cannot write"),
        (["--corpus", "gone.csv", "--out", "x"], "there is no such manifest"),
        ([], "a run needs a source"),
    ],
)
def test_what_makes_no_sense_is_told(
    shared_bundle: Path,
    simulated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    names = {"MANIFEST": str(simulated), "FULL": "full"}
    code = main(["run", str(shared_bundle), *(names.get(one, one) for one in more)])
    said = capsys.readouterr().err
    assert code in (2, 3, 5)
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "x").exists()


@pytest.mark.workbench
def test_an_evaluation_is_the_same_on_a_cluster_and_goes_on(
    shared_bundle: Path, simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = simulated.read_text()
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "labels.csv").write_text("t_s,valence,arousal\n0,0,0\n1,0,0\n")
    manifest = tmp_path / "people.csv"
    lines = text.splitlines(keepends=True)[:5]
    manifest.write_text(f"{''.join(lines)}eve,broken.mp4,labels.csv\n")
    ways = {
        "alone": [],
        "cluster": ["--ray", "local", "--workers", "2", "--keep", str(tmp_path / "kept")],
        "again": ["--keep", str(tmp_path / "kept")],
    }
    tables = {}
    for name, more in ways.items():
        command = ["evaluate", str(shared_bundle), "--data", str(manifest), "--json", str(tmp_path / name)]
        assert main([*command, "--corrupt", "noise=5", *more]) == 3
        found = capsys.readouterr()
        tables[name] = found.out
        assert "broken.mp4 was left out" in found.err
        if name == "again":
            assert "playing" not in found.err
    assert tables["alone"] == tables["cluster"] == tables["again"]
    texts = {(tmp_path / name).read_text() for name in ways}
    assert len(texts) == 1
    assert list(json.loads(texts.pop())["failed"]) == ["broken.mp4"]


@pytest.mark.workbench
def test_a_calibration_is_the_same_on_a_cluster(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a budget that not all blocks fit into, so that each is judged alone."""
    how = ["--windows", "8", "--precision", "int8-trt", "--max-ccc-drop", "0.0004"]
    for option, person in (("--data", 1), ("--check", 2), ("--check", 3)):
        how += [option, f"sim:seed={person}&person={person}&duration_s=8"]
    ends = {}
    for name, more in (("alone", []), ("cluster", ["--ray", "local", "--workers", "2"])):
        code = main(["calibrate", str(shared_bundle), "--out", str(tmp_path / name), *how, *more])
        found = capsys.readouterr()
        ends[name] = code, found.err.splitlines()[-1]
        assert "quantizing a block of audio alone" in found.err
        assert ("quantizing blocks alone" in found.err) == (name == "cluster")
    assert ends["alone"] == ends["cluster"]
    assert files(tmp_path / "alone") == files(tmp_path / "cluster")
