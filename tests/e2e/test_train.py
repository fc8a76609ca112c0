"""Training as a user meets it: stopped and gone on with, refused, fed by a manifest; and judging."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.cli.main import main
from edge_mer_export.models.zoo import system
from edge_mer_export.training import sessions
from tests.helpers.clip import write_clip

pytestmark = pytest.mark.workbench

LEFT = ("model.safetensors", "metrics.json", "history.csv")
PHASE = "epochs = {}\nbatch_size = 4\nlearning_rate = 1e-3\ndropout = 0.1\n"
SIMULATED = '[data.simulated]\nfirst_person = 300\nn_train = 2\nn_valid = 1\nn_steps = 3\nkeys = "fps=15"\n'
PATIENCE_S = 600


def a_recipe(path: Path, data: str = SIMULATED, n_epochs: int = 2) -> Path:
    phase = PHASE.format(n_epochs)
    text = 'model = "jmt-tiny"\nseed = 3\nthreads = 1\n' + data
    text += "".join(f"[{name}]\n{phase}" for name in ("backbones.visual", "backbones.audio", "fusion"))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True, scope="module")
def _own_settings() -> Iterator[None]:
    """What training asks of PyTorch is not left behind."""
    n_threads, is_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(is_strict)


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions are played by a thread, which need not import everything anew."""
    monkeypatch.setattr(sessions, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))


# --- stopped, and gone on with ----------------------------------------------------------------------


class Started:
    """`edge-mer train` in a process group of its own, as a terminal starts it."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "edge_mer.cli.main", "train", *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._lines: list[str] = []
        self._heard = threading.Condition()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,))
        self._listener.start()

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            with self._heard:
                self._lines.append(line)
                self._heard.notify()
        stream.close()

    def until_said(self, words: str) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: any(words in line for line in self._lines), PATIENCE_S)

    def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(100 * PATIENCE_S):
            if is_so():
                return
            assert self._process.poll() is None, self._lines
            threading.Event().wait(0.01)
        raise AssertionError(self._lines)

    def ensure_ended(self) -> None:
        """Whatever a failed test left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)

    def end(self, number: signal.Signals, *, group: bool) -> tuple[int, str]:
        """Send a signal; returns code and standard error when all who could write to it are gone."""
        if group:
            os.killpg(self._process.pid, number)
        else:
            os.kill(self._process.pid, number)
        code = self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)
        assert not self._listener.is_alive(), "a worker lives on"
        return code, "".join(self._lines)


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """Starts trainings; none outlives the test."""
    with contextlib.ExitStack() as at_end:

        def one(*arguments: str) -> Started:
            started = Started(*arguments)
            at_end.callback(started.ensure_ended)
            return started

        yield one


@pytest.mark.slow
@pytest.mark.usefixtures("_in_this_process")
def test_a_run_that_was_interrupted_and_killed_comes_to_the_same(
    start: Callable[..., Started], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = a_recipe(tmp_path / "tiny.toml"), tmp_path / "run"
    again = (str(recipe), "--out", str(run), "--resume")

    def kept() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (run / "data").glob("*.npz")}

    # Ctrl-C while sessions are played: all processes of the group hear it
    started = start(*again[:3])
    started.until(lambda: len(kept()) >= 1)
    code, said = started.end(signal.SIGINT, group=True)
    assert code == 130
    assert f"to go on: edge-mer train {recipe} --out {run} --resume" in said
    assert "Traceback" not in said
    first = kept()

    # a kill while the others are played: what was played stays, and no worker lives on
    started = start(*again)
    started.until(lambda: len(kept()) >= min(2, len(first) + 1))
    code, said = started.end(signal.SIGKILL, group=False)
    assert code == -signal.SIGKILL
    assert first.items() <= kept().items()

    # a kill within the first epoch of the second phase
    started = start(*again)
    started.until_said("training audio")
    code, said = started.end(signal.SIGKILL, group=False)
    assert code == -signal.SIGKILL
    assert "visual 2: " in said
    assert len(kept()) == 3
    assert not any((run / name).exists() for name in LEFT)

    assert main(["train", *again]) == 0
    said = capsys.readouterr().err
    assert "visual 1: " not in said
    assert "fusion 2: " in said
    assert main(["train", str(recipe), "--out", str(tmp_path / "whole")]) == 0
    for name in LEFT:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (run / "data").exists()


# --- refused ----------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_explained_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = a_recipe(tmp_path / "tiny.toml"), tmp_path / "run"
    other = a_recipe(tmp_path / "other.toml", SIMULATED.replace("fps=15", "fps=16"))
    lacks = a_recipe(tmp_path / "lacks.toml")
    lacks.write_text(lacks.read_text(encoding="utf-8").replace("backbones.audio", "backbones.eda"))
    unknown = a_recipe(tmp_path / "unknown.toml")
    unknown.write_text(unknown.read_text(encoding="utf-8").replace("jmt-tiny", "jmt-tinny"))
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "recipe.toml").write_bytes(recipe.read_bytes())
    for arguments, words in (
        ([str(recipe), "--out", str(taken)], "is not empty"),
        ([str(other), "--out", str(taken), "--resume"], "was started with another recipe"),
        ([str(recipe), "--out", str(out), "--resume"], "nothing to go on with"),
        (["jmt-tinny", "--out", str(out)], "no recipe 'jmt-tinny'"),
        ([str(lacks), "--out", str(out)], "do not fit model jmt-tiny"),
        ([str(unknown), "--out", str(out)], "unknown model 'jmt-tinny'"),
        ([str(recipe)], "--out"),
    ):
        assert main(["train", *arguments]) == 2, arguments
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
    assert not out.exists()
    assert [path.name for path in taken.iterdir()] == ["recipe.toml"]


# --- a manifest -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 2)


def labels(path: Path, *changed: str, duration_s: float = 2.0) -> None:
    """A label file with a row every quarter of a second; the first ones are `changed`."""
    rows = [f"{k / 7:.2f},{1 - k / 5:.2f}" for k in range(int(4 * duration_s))]
    rows[: len(changed)] = changed
    text = "".join(f"{k / 4},{row}\n" for k, row in enumerate(rows))
    path.write_text(f"t_s,valence,arousal\n{text}", encoding="utf-8")


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.usefixtures("_in_this_process")
def test_a_manifest_is_learned_from(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "talk.mp4").symlink_to(clip)
    labels(study / "talk.csv", "nan,0.1", "0.2,-5", "-5,-5")
    write_lines(
        study / "people.csv",
        "person,sources,labels,split",
        "ann,talk.mp4,talk.csv,train",
        "ben,sim:person=1&duration_s=1&fps=15,,train",
        "cleo,sim:person=2&duration_s=1&fps=15,,valid",
        "dora,sim:person=3&duration_s=1&fps=15,,test",
    )
    recipe = a_recipe(study / "own.toml", '[data]\nmanifest = "people.csv"\n', n_epochs=1)
    run = tmp_path / "run"
    assert main(["train", str(recipe), "--out", str(run)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith(f"  {study}/talk.csv\n    - line")
    assert "- line 2: valence: empty or NaN" in said.err
    assert "- line 4: valence: -5, which means that there is no label" in said.err
    assert "- lines 3, 4: arousal: -5, which means that there is no label (2 times)" in said.err
    assert "playing 3 sessions" in said.err
    assert re.search(r"visual \+ audio|visual\+audio", said.out)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["n_people_learned_from"], metrics["n_people_to_choose_by"]) == (2, 1)
    assert metrics["ccc"].keys() == {"visual+audio", "visual", "audio"}
    from edge_mer_export.checkpoint import import_model

    report = import_model(system("jmt-tiny"), [run / "model.safetensors"]).report
    assert report.sha256.keys() == {"model.safetensors"}


@pytest.mark.usefixtures("_in_this_process")
def test_a_manifest_with_everything_wrong_is_one_message_and_leaves_nothing(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nan", "minus", "short", "nobody"):
        (tmp_path / f"{name}.mp4").symlink_to(clip)
    labels(tmp_path / "nan.csv", "nan,0.1", ",0.1")
    labels(tmp_path / "minus.csv", "-5,0.1")
    labels(tmp_path / "short.csv", duration_s=1)
    labels(tmp_path / "nobody.csv")
    people = write_lines(
        tmp_path / "people.csv",
        "person,sources,labels",
        "ann,nan.mp4,nan.csv",
        "ben,minus.mp4,minus.csv",
        "cleo,short.mp4,short.csv",
        ",nobody.mp4,nobody.csv",
    )
    recipe = a_recipe(tmp_path / "own.toml", '[data]\nmanifest = "people.csv"\n')
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 3
    said = capsys.readouterr().err
    assert said.count("edge-mer: ") == 1
    assert "Traceback" not in said
    for words in (
        f"{people}\n    ! line 5: no person",
        f"{tmp_path}/short.csv\n    ! labels from 0.00 s to 1.00 s; expected 0 s to 2.",
        f"{tmp_path}/nan.csv\n    - lines 2, 3: valence: empty or NaN (2 times)",
        f"{tmp_path}/minus.csv\n    - line 2: valence: -5, which means that there is no label",
    ):
        assert words in said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# --- judged -----------------------------------------------------------------------------------------


def test_a_bundle_is_judged(shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    few = ["--people", "2", "--steps", "3"]
    assert main(["evaluate", str(shared_bundle), *few, "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["model"], found["n_people"]) == ("jmt-tiny", 2)
    assert [(row["precision"], row["modalities"]) for row in found["rows"]] == [
        (precision, subset)
        for precision in ("fp32", "int8-cpu")
        for subset in (["visual", "audio"], ["visual"], ["audio"])
    ]
    assert {row["n_steps"] for row in found["rows"]} == {6}
    for row in found["rows"]:
        assert row["scores"].keys() == {"valence", "arousal", "mean"}
        assert f"{row['scores']['valence']['CCC']['value']:.3f} [" in shown
    assert len({row["scores"]["mean"]["CCC"]["value"] for row in found["rows"]}) == 6
    assert found["gain"].keys() == {"fp32", "int8-cpu"}


def test_what_a_cpu_does_not_run_is_not_judged(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(shared_bundle), "--precision", "int8-trt"]) == 2
    assert "int8-trt cannot be evaluated here" in capsys.readouterr().err
