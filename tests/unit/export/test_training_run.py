"""A run's folder: what is in it, and that it does not matter when a run was stopped."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

import safetensors
import safetensors.torch

from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.labelled import collect_labelled
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer_export.engines import zero_engines
from edge_mer_export.training import run as run_module
from edge_mer_export.training import sessions as sessions_module
from edge_mer_export.training.recipe import Data, FusionPhase, Phase, Recipe
from edge_mer_export.training.run import Result, Told, open_run, shared_out, train
from edge_mer_export.training.sessions import load_sessions
from tests.helpers.clip import write_clip
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tiny_session import SquareDetector
from tests.helpers.tiny_training import tiny_session, tiny_voice, tiny_zoo

pytestmark = pytest.mark.workbench

LEFT = ("model.safetensors", "metrics.json", "history.csv")
"""What must be the same, bit for bit, whenever a run was stopped."""

PHASE = Phase(epochs=2, batch_size=4, learning_rate=0.02, dropout=0.2)
RECIPE = Recipe(
    model="tiny",
    seed=5,
    threads=1,
    data=Data(manifest="people.csv"),
    backbones={"visual": PHASE, "audio": PHASE},
    fusion=FusionPhase(**PHASE.model_dump()),
)
PEOPLE = {"ann": "train", "ben": "train", "cleo": "valid"}


class Stopped(BaseException):
    """What a power cut is to a program."""


class Moments:
    """Counts what a run does, and stops it at one of these moments."""

    def __init__(self) -> None:
        self.n = 0
        self.last = -1

    def pass_one(self) -> None:
        self.n += 1
        if self.n - 1 == self.last:
            raise Stopped


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    """What training asks of PyTorch is not left behind."""
    n_threads, is_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(n_threads)
    torch.use_deterministic_algorithms(is_strict)


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Moments:
    """Runs of the tiny model, each of whose steps, words and files is a moment."""
    found = Moments()
    step, replace = torch.optim.AdamW.step, Path.replace

    def step_once(self: Any, *arguments: Any) -> Any:
        found.pass_one()
        return step(self, *arguments)

    def replace_once(self: Path, target: Path) -> Path:
        found.pass_one()
        moved = replace(self, target)
        found.pass_one()
        return moved

    def loaded(*_: Any) -> list[Any]:
        return [tiny_session(person, 11, absent={"audio": {2}}) for person in PEOPLE]

    monkeypatch.setattr(torch.optim.AdamW, "step", step_once)
    monkeypatch.setattr(Path, "replace", replace_once)
    monkeypatch.setattr("os.fsync", lambda _: None)  # nothing here survives a real power cut
    monkeypatch.setattr(run_module, "build", lambda _: tiny_zoo())
    monkeypatch.setattr(run_module, "load_sessions", loaded)
    return found


def recordings() -> list[Recording]:
    return [
        Recording(person, person, (f"file:{person}",), None, None, split)  # type: ignore[arg-type]
        for person, split in PEOPLE.items()
    ]


def go(folder: Path, moments: Moments, last: int = -1) -> Result:
    """Train from where the folder stands, up to a moment."""
    open_run(folder, "the recipe", resume=(folder / "recipe.toml").exists())
    (folder / "data").mkdir(exist_ok=True)
    moments.n, moments.last = 0, last

    def tell(*_: Any) -> None:
        moments.pass_one()

    return train(RECIPE, recordings(), folder, Told(tell, tell, tell))


def left(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in LEFT]


# --- whenever it was stopped ------------------------------------------------------------------------


def test_a_run_that_was_stopped_anywhere_comes_to_the_same(tmp_path: Path, moments: Moments) -> None:
    go(tmp_path / "whole", moments)
    expected, n_moments = left(tmp_path / "whole"), moments.n
    assert n_moments > 50
    for last in range(0, n_moments, 3):  # steps, words, and before and after each file
        folder = tmp_path / f"stopped-{last}"
        with pytest.raises(Stopped):
            go(folder, moments, last)
        go(folder, moments)
        assert left(folder) == expected, f"stopped at moment {last} of {n_moments}"


def test_a_run_that_is_stopped_again_and_again_comes_to_the_same(tmp_path: Path, moments: Moments) -> None:
    go(tmp_path / "whole", moments)
    rng = np.random.default_rng(0)
    n_stops = 0
    while True:
        try:
            go(tmp_path / "stopped", moments, int(rng.integers(3, 20)))
            break
        except Stopped:
            n_stops += 1
            # the machine does other things in between
            torch.manual_seed(n_stops)
    assert n_stops >= 3
    assert left(tmp_path / "stopped") == left(tmp_path / "whole")


def test_another_seed_comes_to_something_else(
    tmp_path: Path, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "one", moments)
    monkeypatch.setitem(globals(), "RECIPE", RECIPE.model_copy(update={"seed": 6}))
    go(tmp_path / "other", moments)
    weights = [safetensors.torch.load(left(tmp_path / name)[0]) for name in ("one", "other")]
    assert not torch.equal(weights[0]["fusion.linear.weight"], weights[1]["fusion.linear.weight"])


def test_a_model_of_one_step_of_one_encoder_learns_as_a_whole(
    tmp_path: Path, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> list[Any]:
        return [tiny_session(person, 60, spec=tiny_voice().spec) for person in PEOPLE]

    monkeypatch.setattr(run_module, "build", lambda _: tiny_voice())
    monkeypatch.setattr(run_module, "load_sessions", loaded)
    recipe = RECIPE.model_copy(
        update={"backbones": {"audio": PHASE.model_copy(update={"epochs": 12})}, "fusion": None}
    )
    monkeypatch.setitem(globals(), "RECIPE", recipe)
    result = go(tmp_path / "whole", moments)
    expected, n_moments = left(tmp_path / "whole"), moments.n
    assert {one.phase for one in result.history} == {"audio"}
    assert result.scores == {"audio": {"emotion": max(one.score for one in result.history)}}
    assert result.scores["audio"]["emotion"] > 0.5
    weights = safetensors.torch.load(expected[0])
    assert {key.split(".")[0] for key in weights} == {"audio", "fusion"}
    for last in range(0, n_moments, 40):
        with pytest.raises(Stopped):
            go(tmp_path / f"stopped-{last}", moments, last)
        go(tmp_path / f"stopped-{last}", moments)
        assert left(tmp_path / f"stopped-{last}") == expected
    for last in range(n_moments - 30, n_moments, 3):  # where both stages are written
        with pytest.raises(Stopped):
            go(tmp_path / f"stopped-{last}", moments, last)
        go(tmp_path / f"stopped-{last}", moments)
        assert left(tmp_path / f"stopped-{last}") == expected


def test_a_run_that_is_over_can_be_resumed_too(tmp_path: Path, moments: Moments) -> None:
    go(tmp_path / "whole", moments)
    expected = left(tmp_path / "whole")
    go(tmp_path / "whole", moments)
    assert left(tmp_path / "whole") == expected


# --- what it leaves ---------------------------------------------------------------------------------


def test_what_a_run_leaves(tmp_path: Path, moments: Moments) -> None:
    folder = tmp_path / "run"
    result = go(folder, moments)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*LEFT, "recipe.toml", "checkpoint.pt", "done", "curves.svg"]
    )
    model = tiny_zoo()
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
        model.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    assert metadata["model"] == "tiny"
    assert metadata["seed"] == "5"
    assert metadata["recipe_sha256"] == hashlib.sha256(b"the recipe").hexdigest()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["ccc"] == result.scores
    assert metrics["ccc"].keys() == {"visual+audio", "visual", "audio"}
    assert (metrics["n_people_learned_from"], metrics["n_people_to_choose_by"]) == (2, 1)
    with (folder / "history.csv").open(encoding="utf-8", newline="") as table:
        rows = [*csv.DictReader(table)]
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        (phase, str(n)) for phase in ("visual", "audio", "fusion") for n in (1, 2)
    ]
    best = max((row for row in rows if row["phase"] == "fusion"), key=lambda row: mean_ccc(row))
    assert best["is_best"] == "1"
    scores = result.scores["visual+audio"]
    assert mean_ccc(best) == pytest.approx(sum(scores.values()) / 2, abs=1e-5)
    assert ElementTree.parse(folder / "curves.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314


def mean_ccc(row: dict[str, str]) -> float:
    return (float(row["ccc_valence"]) + float(row["ccc_arousal"])) / 2


def test_the_fusion_learns_from_people_of_its_own() -> None:
    sessions = [tiny_session(f"p{k % 20}", 1) for k in range(40)]
    for_backbones, for_fusion = shared_out(sessions, 0.35)
    sides = [{one.person for one in some} for some in (for_backbones, for_fusion)]
    assert [len(side) for side in sides] == [13, 7]
    assert not sides[0] & sides[1]
    assert len(for_backbones) + len(for_fusion) == 40
    assert shared_out(sessions, 0.0) == (sessions, sessions)
    assert shared_out(sessions[:1], 0.9) == (sessions[:1], sessions[:1])


# --- the folder -------------------------------------------------------------------------------------


def test_a_folder_that_is_taken_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    open_run(folder, "text", resume=False)
    assert (folder / "recipe.toml").read_text(encoding="utf-8") == "text"
    with pytest.raises(UsageError, match=r"run is not empty.*--resume"):
        open_run(folder, "text", resume=False)
    open_run(folder, "text", resume=True)
    with pytest.raises(UsageError, match="was started with another recipe"):
        open_run(folder, "text ", resume=True)
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", "text", resume=False)


def test_what_is_no_run_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="nothing to go on with"):
            open_run(folder, "text", resume=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="cannot train into"):
            open_run(folder, "text", resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


# --- sessions ---------------------------------------------------------------------------------------


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is played; in this process, so that it is quick."""
    names: list[str] = []
    keep = sessions_module._keep

    def noted(spec: Any, recording: Recording, file: Path) -> None:
        names.append(recording.name)
        keep(spec, recording, file)

    monkeypatch.setattr(sessions_module, "_keep", noted)
    monkeypatch.setattr(sessions_module, "open_face_detector", SquareDetector)
    monkeypatch.setattr(sessions_module, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))
    return names


def test_sessions_are_played_once_and_again_when_their_labels_change(
    tmp_path: Path, played: list[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 2)
    labels = tmp_path / "a.csv"
    labels.write_text("t_s,valence,arousal\n0,0.1,0.2\n1,0.3,\n2,0.5,0.6\n", encoding="utf-8")
    spec = tiny_model()
    filed = Recording("a", "ann", (f"file:{clip}",), labels, None, "train")
    simulated = Recording("s", "sim", ("sim:seed=1&duration_s=1&fps=15",), None, None, "valid")
    told: list[tuple[int, int]] = []

    def load() -> Any:
        found = load_sessions(spec, [filed, simulated], tmp_path / "d", 1, lambda n, m: told.append((n, m)))
        return [{**one.labels, **one.steps, "p": one.person} for one in found]

    first = load()
    assert played == ["a", "s"]
    assert told == [(1, 2), (2, 2)]
    assert [one["p"] for one in first] == ["ann", "sim"]
    assert_equal(load(), first)
    assert played == ["a", "s"]
    labels.write_text("t_s,valence,arousal\n0,0.1,0.2\n1,0.9,\n2,0.5,0.6\n", encoding="utf-8")
    changed = load()
    assert played == ["a", "s", "a"]
    # steps end every 4/15 s, and the label of 1 s is nearest from the second one on, within one step
    assert changed[0]["valence"][3:5].tolist() == pytest.approx([0.9, np.nan], nan_ok=True)
    assert first[0]["valence"][3:5].tolist() == pytest.approx([0.3, np.nan], nan_ok=True)
    assert not np.isfinite(changed[0]["arousal"][3])
    assert_equal(changed[1:], first[1:])


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


def test_a_session_is_what_the_device_sees(tmp_path: Path, played: list[str]) -> None:
    spec = tiny_model()
    recording = Recording("s", "sim", ("sim:seed=1&duration_s=2&gaps=0.5",), None, None, "valid")
    (found,) = load_sessions(spec, [recording], tmp_path, 1, lambda *_: None)
    seen = collect_labelled(PipelineSetup(spec, zero_engines(spec), SquareDetector()), recording)
    assert found.n_steps == len(seen.traces)
    is_absent = False
    for encoder in spec.encoders:
        stage = encoder.stage
        tolerance = 2e-3 if stage == "visual" else 0  # pixels are kept in half precision
        for k, trace in enumerate(seen.traces):
            assert found.present[stage][k] == (stage in trace.inputs)
            is_absent |= stage not in trace.inputs
            expected = trace.inputs.get(stage, np.zeros((1, *found.steps[stage].shape[1:])))[0]
            np.testing.assert_allclose(found.steps[stage][k], expected, rtol=0, atol=tolerance)
    assert is_absent
    for name, values in seen.labels.items():
        np.testing.assert_array_equal(found.labels[name], values)
