"""Many sessions on one model: each has the numbers of a session alone, and none harms another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import edge_mer
from edge_mer.bundle.read import Bundle
from edge_mer.clock import MonotonicClock
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import DataError, UsageError
from edge_mer.runtime import opening
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import Opened
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.shared_model import SharedModel
from edge_mer.runtime.target import Choice
from edge_mer.runtime.target_cpu import CpuTarget
from edge_mer.types.predictions import Affect
from tests.helpers.fake_session import FakeSource, opened, tiny_manifest_alone
from tests.helpers.numpy_engines import NumpyEngine, tiny_engines
from tests.helpers.tiny_model import tiny_model
from tests.helpers.tiny_session import SquareDetector, TinySession

N = 6
LONG_MS = 20_000
STAGES = ("visual", "audio", "fusion")
SIMS = [f"sim:seed={n}&person={n}&duration_s=1.5" for n in (2, 3)]


def tiny(max_batch: int) -> SharedModel:
    """Sessions wait for each other as long as others are open."""
    model = tiny_model()
    setup = PipelineSetup(model, tiny_engines(model), SquareDetector())
    bundle = Bundle(Path("nowhere"), tiny_manifest_alone())
    most = dict.fromkeys(STAGES, max_batch)
    return SharedModel(bundle, setup, Choice("fp32"), True, most, LONG_MS * 1_000_000, MonotonicClock())


def session_on(model: SharedModel, source: FakeSource) -> Session:
    setup, choice, _ = model.lend()
    session = Session(Opened(model.bundle, setup, (source,), (), choice), MonotonicClock(), fast=True)
    model.close_with(session)
    return session


def person(number: int) -> FakeSource:
    return FakeSource(TinySession(N, persons={0: number}))


def affects(session: Session) -> list[Affect | None]:
    with session:
        return [prediction.affect for prediction in session]


def alone(source: FakeSource) -> list[Affect | None]:
    return affects(Session(opened([source]), MonotonicClock(), fast=True))


@pytest.mark.parametrize("max_batch", [1, 4])
def test_each_has_the_numbers_of_a_session_alone(max_batch: int) -> None:
    with tiny(max_batch) as model, ThreadPoolExecutor(5) as threads:
        sessions = [session_on(model, person(number)) for number in range(5)]
        found = list(threads.map(affects, sessions))
        engines: Any = [runs.engine for runs in model._runs.values()]
    assert found == [alone(person(number)) for number in range(5)]
    assert found[0] != found[1]
    assert max(engine.n_runs for engine in engines) <= 5 * N
    assert (min(engine.n_runs for engine in engines) < 5 * N) == (max_batch > 1)


@pytest.mark.parametrize("max_batch", [1, 4])
def test_one_that_fails_harms_no_other(max_batch: int) -> None:
    broken = FakeSource(TinySession(N), fails="read", fails_at=20, error=DataError("the camera caught fire"))
    with tiny(max_batch) as model, ThreadPoolExecutor(3) as threads:
        found = [threads.submit(affects, session_on(model, one)) for one in (person(0), broken, person(1))]
        with pytest.raises(DataError, match="caught fire"):
            found[1].result()
        assert [found[0].result(), found[2].result()] == [alone(person(0)), alone(person(1))]
        assert affects(session_on(model, person(2))) == alone(person(2))


def test_sessions_that_are_still_open_are_closed_with_the_model() -> None:
    with tiny(4) as model:
        session = session_on(model, FakeSource(TinySession(N), is_endless=True))
        session.start()
    assert not session.is_running
    model.close()
    with pytest.raises(UsageError, match="this model was closed"):
        model.lend()


def test_what_ended_a_session_is_told_when_the_model_is_closed() -> None:
    model = tiny(1)
    session = session_on(model, FakeSource(TinySession(N), fails="read", error=DataError("no more film")))
    session.start()
    with pytest.raises(DataError, match="no more film"):
        model.close()


def leave_by_an_error(model: SharedModel, session: Session) -> None:
    with model:
        session.start()
        raise ZeroDivisionError


def test_what_left_the_block_counts_more() -> None:
    model = tiny(1)
    session = session_on(model, FakeSource(TinySession(N), fails="read", error=DataError("no more film")))
    with pytest.raises(ZeroDivisionError):
        leave_by_an_error(model, session)
    assert not session.is_running


def test_engines_that_take_one_row_are_shared_without_batches() -> None:
    model = tiny_model()
    engines = tiny_engines(model)
    (spec,) = engines["visual"].input_specs
    one_row = spec.model_copy(update={"shape": (1, *spec.shape[1:])})
    assert isinstance(engines["visual"], NumpyEngine)
    engines["visual"].input_specs = (one_row,)
    setup = PipelineSetup(model, engines, SquareDetector())
    bundle = Bundle(Path("nowhere"), tiny_manifest_alone())
    most = dict.fromkeys(STAGES, 8)
    with SharedModel(bundle, setup, Choice("fp32"), True, most, 0, MonotonicClock()) as shared:
        assert shared.max_batch == {"visual": 1, "audio": 8, "fusion": 8}


# -- through the public API ------------------------------------------------------------------------


def built(bundle: edge_mer.Bundle, monkeypatch: pytest.MonkeyPatch, **best: int) -> None:
    """As if `build-engine --max-batch 8` had found these batches to be worth it."""
    choice = Choice.alike(bundle.manifest.model, "fp32", OrtOptions())
    record = CpuTarget(8).describe(choice) | {"files": {}, "settings": {"max_batch": 8}}
    record["batches"] = {stage: {"best": size, "ms_per_row": {}} for stage, size in best.items()}
    found = {"cpu": record, "tensorrt": None}
    monkeypatch.setattr(opening, "fitting_build", lambda _, target: found[target.name])


def test_a_model_takes_a_bundles_place(shared_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = edge_mer.load_bundle(shared_bundle)
    built(bundle, monkeypatch, visual=8, audio=8, fusion=8)
    with (
        edge_mer.open_model(bundle, max_batch=2, max_wait_ms=LONG_MS) as model,
        ThreadPoolExecutor(2) as threads,
    ):
        assert (model.bundle, model.precision) == (bundle, "fp32")
        sessions = [edge_mer.open_session(model, sources=[sim], fast=True) for sim in SIMS]
        found = list(threads.map(affects, sessions))
        n_runs = model._runs["visual"].engine.n_runs
    expected = [affects(edge_mer.open_session(bundle, sources=[sim], fast=True)) for sim in SIMS]
    assert found == expected
    assert n_runs < sum(map(len, expected))  # some of them ran together


def test_batches_are_those_that_were_proven_and_pay(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(**asked: Any) -> dict[str, int]:
        with edge_mer.open_model(shared_bundle, **asked) as model:
            return model.max_batch

    assert set(batches().values()) == {1}  # nothing was built
    with pytest.raises(UsageError, match=r"batches of up to 4 were not proven here.*--max-batch 4"):
        batches(max_batch=4)
    built(edge_mer.load_bundle(shared_bundle), monkeypatch, visual=1, audio=4, fusion=8)
    assert batches() == {"visual": 1, "audio": 4, "fusion": 8}
    assert batches(max_batch=7) == {"visual": 4, "audio": 4, "fusion": 4}
    assert set(batches(max_batch=1).values()) == {1}
    for wrong in ({"max_batch": 16}, {"max_batch": 0}, {"max_wait_ms": -1}, {"max_wait_ms": float("nan")}):
        with pytest.raises(UsageError):
            batches(**wrong)


def test_a_model_is_open_in_one_precision(shared_bundle: Path) -> None:
    with edge_mer.open_model(shared_bundle, precision="int8-cpu") as model:
        assert edge_mer.open_session(model, sources=SIMS[:1], precision="int8-cpu").precision == "int8-cpu"
        with pytest.raises(UsageError, match="open in int8-cpu, not in fp32"):
            edge_mer.open_session(model, sources=SIMS[:1], precision="fp32")
