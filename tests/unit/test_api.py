"""The public Python API: its names, its arguments, and that importing it costs nothing."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edge_mer
from edge_mer import errors
from edge_mer.bundle.read import open_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import BundleError, UsageError
from edge_mer.runtime.session import SessionReport
from edge_mer.runtime.target import Choice
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.sources.registry import open_source
from edge_mer.types import predictions
from tests.helpers.fake_session import FakeSink

SIM = "sim:seed=4&person=2&duration_s=2"
N = 7
"""Predictions of `SIM`."""


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(edge_mer.__all__) - {"__version__"}))
def test_every_public_name_is_there_and_explained(name: str) -> None:
    found = getattr(edge_mer, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    for attribute, member in vars(found).items():
        if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), f"{name}.{attribute}"


def test_names_are_sorted_and_shown() -> None:
    assert sorted(edge_mer.__all__) == list(edge_mer.__all__)
    assert set(edge_mer.__all__) <= set(dir(edge_mer))
    with pytest.raises(AttributeError, match="edge_mer"):
        _ = edge_mer.open_sesion


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(edge_mer.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {
        alias.name: node.module
        for node in ast.walk(guarded)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == {name: f"edge_mer.{home}" for name, home in edge_mer._HOME_OF.items()}
    assert {*shown, "__version__"} == set(edge_mer.__all__)


def test_nothing_public_is_missing() -> None:
    kinds = [
        name
        for module in (predictions, errors)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert set(kinds) <= set(edge_mer.__all__)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, edge_mer\nedge_mer.UsageError, dir(edge_mer), edge_mer.__version__\n"
        "heavy = {'numpy', 'scipy', 'cv2', 'av', 'onnxruntime', 'pydantic', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_ways_to_open_take_the_same_arguments() -> None:
    one = inspect.signature(edge_mer.open_session).parameters
    other = inspect.signature(edge_mer.open_session_async).parameters
    assert list(one.values()) == list(other.values())


def test_what_comes_out_is_data_for_json() -> None:
    kinds = [kind for kind in vars(predictions).values() if dataclasses.is_dataclass(kind)]
    assert all(isinstance(kind, type) and kind.__dataclass_params__.frozen for kind in kinds)


# -- bundles --------------------------------------------------------------------------------------


def test_a_bundle_says_what_it_is(shared_bundle: Path) -> None:
    bundle = edge_mer.load_bundle(str(shared_bundle))
    assert (bundle.name, bundle.modalities, bundle.outputs) == (
        "jmt-tiny",
        ("visual", "audio"),
        ("valence", "arousal"),
    )
    assert {"fp32", "int8-cpu"} <= set(bundle.precisions)
    assert (bundle.step_s, bundle.window_s) == (pytest.approx(8 / 30), pytest.approx(64 / 30))
    assert bundle.latency_s == float(bundle.manifest.model.latency)
    assert bundle.bundle_id == bundle.manifest.bundle_id
    assert "jmt-tiny" in repr(bundle)


def test_every_file_of_a_bundle_is_hashed(tiny_bundle: Path) -> None:
    path = next((tiny_bundle / "golden").iterdir())
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError):
        edge_mer.load_bundle(tiny_bundle)


# -- sessions -------------------------------------------------------------------------------------


def test_a_session_gives_what_the_command_line_writes(shared_bundle: Path, tmp_path: Path) -> None:
    from edge_mer.cli.main import main

    out, own = tmp_path / "out.jsonl", tmp_path / "own.jsonl"
    assert main(["run", str(shared_bundle), "--source", SIM, "--sink", f"jsonl:{out}", "--fast"]) == 0
    seen: list[edge_mer.Prediction] = []
    bundle = edge_mer.load_bundle(shared_bundle)
    with edge_mer.open_session(
        bundle, sources=[SIM], sinks=[f"jsonl:{own}"], fast=True, on_prediction=seen.append
    ) as session:
        found = list(session)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["affect"] for record in written] == [one.to_dict()["affect"] for one in found]
    assert seen == found
    assert session.bundle is bundle
    assert isinstance(session.report, SessionReport)
    assert len(own.read_text(encoding="utf-8").splitlines()) == N


def test_the_engine_is_the_one_that_was_built_here(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_mer.runtime import opening

    assert edge_mer.open_session(shared_bundle, sources=[SIM]).precision == "fp32"
    model = open_bundle(shared_bundle).manifest.model
    record = CpuTarget().describe(Choice.alike(model, "int8-cpu", OrtOptions())) | {"files": {}}
    found = {"cpu": record, "tensorrt": None}
    monkeypatch.setattr(opening, "fitting_build", lambda _, target: found[target.name])
    assert edge_mer.open_session(shared_bundle, sources=[SIM]).precision == "int8-cpu"
    assert edge_mer.open_session(shared_bundle, sources=[SIM], precision="fp32").precision == "fp32"


class Mute:
    """A source as a user writes one: a simulated person whose sound is kept back."""

    uri = "mute:"
    is_live = False

    def __init__(self) -> None:
        self._inner = open_source(SIM)

    @property
    def specs(self) -> tuple[edge_mer.StreamSpec, ...]:
        return tuple(spec for spec in self._inner.specs if spec.modality != "audio")

    @property
    def ended(self) -> bool:
        return self._inner.ended

    def ensure_ready(self) -> None:
        self._inner.ensure_ready()

    def start(self) -> None:
        self._inner.start()

    def read(self, timeout_ms: int) -> edge_mer.Chunk | None:
        chunk = self._inner.read(timeout_ms)
        return None if chunk is None or chunk.modality == "audio" else chunk

    def ensure_stopped(self) -> None:
        self._inner.ensure_stopped()


def test_a_source_and_a_sink_of_ones_own_are_used(shared_bundle: Path) -> None:
    sink = FakeSink()
    missing = {"audio": "abstain"}
    with edge_mer.open_session(
        shared_bundle, sources=[Mute()], sinks=[sink], missing=missing, fast=True
    ) as session:
        assert [prediction.reasons for prediction in session] == [("audio_missing",)] * N
    assert len(sink.written) == N


def test_a_policy_replaces_the_declared_one(shared_bundle: Path) -> None:
    with edge_mer.open_session(shared_bundle, sources=[Mute()], fast=True) as session:
        assert {prediction.status for prediction in session} == {"degraded"}
    missing = {"audio": "abstain"}
    with edge_mer.open_session(shared_bundle, sources=[Mute()], missing=missing, fast=True) as session:
        assert {prediction.status for prediction in session} == {"withheld"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"sources": []}, "needs a source"),
        ({"sources": SIM}, r"sources is one text.*a list"),
        ({"sources": ["camra:0"]}, "unknown source"),
        ({"sources": [object()]}, r"is no source.*ensure_ready"),
        ({"sources": [SIM], "sinks": "jsonl:x"}, "sinks is one text"),
        ({"sources": [SIM], "sinks": [print]}, r"is no sink.*abandon"),
        ({"sources": [SIM], "precision": "int4"}, "no precision"),
        ({"sources": [SIM], "missing": {"audio": "guess"}}, r"'guess' is not a policy.*zero_feature"),
        ({"sources": [SIM], "missing": {"eda": "mask"}}, "no modality eda"),
        ({"sources": [SIM], "max_queue": 0}, "max_queue"),
    ],
)
def test_mistakes_are_explained(shared_bundle: Path, how: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        edge_mer.open_session(shared_bundle, **how)  # type: ignore[arg-type]


def test_nothing_is_overwritten(tiny_bundle: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    for target in (clip, tiny_bundle / "manifest.json"):
        with pytest.raises(UsageError, match="cannot write"):
            edge_mer.open_session(tiny_bundle, sources=[f"file:{clip}"], sinks=[f"jsonl:{target}"])
    sink = FakeSink()
    sink.target = tmp_path / "x"
    with pytest.raises(UsageError, match="cannot write"):
        edge_mer.open_session(tiny_bundle, sources=[SIM], sinks=[f"jsonl:{tmp_path / 'x'}", sink])


def test_the_async_twin_gives_the_same(shared_bundle: Path) -> None:
    import asyncio

    async def play() -> list[edge_mer.Prediction]:
        async with edge_mer.open_session_async(shared_bundle, sources=[SIM], fast=True) as session:
            return [prediction async for prediction in session]

    with edge_mer.open_session(shared_bundle, sources=[SIM], fast=True) as session:
        found = list(session)
    assert [one.affect for one in asyncio.run(play())] == [one.affect for one in found]
