"""A server is proven before it is used, watched while it is, and proven again when it comes back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_mer
from edge_mer.bundle.read import open_bundle
from edge_mer.engine import triton
from edge_mer.errors import AwayError, MissingError, ParityError, UsageError
from edge_mer.runtime import remote
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.opening import open_on
from edge_mer.types.predictions import Prediction
from tests.helpers.oip_server import Arrays, Stages, grpc_server, http_server
from tests.helpers.waiting import free_port, wait_until

pytest.importorskip("tritonclient.grpc", reason="needs pip install 'edge-mer[triton]'")

SOURCE = "sim:seed=4&duration_s=4"
BOTH = [("http", http_server), ("grpc", grpc_server)]


@pytest.fixture(scope="module")
def served(shared_bundle: Path) -> Stages:
    """Made once; `stages` sets it right again."""
    return Stages(shared_bundle)


@pytest.fixture
def stages(served: Stages) -> Iterator[Stages]:
    right = dict(served.__dict__)
    yield served
    served.__dict__ |= right | {"n_calls": 0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "PATIENCE_S", 2.0)
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.1)


def uri(port: int, protocol: str = "http", **keys: Any) -> str:
    # the machine does other things, too: a deadline that is missed by chance shows nothing
    given = "&".join(
        f"{name}={value}" for name, value in ({"deadline_ms": 2000, "protocol": protocol} | keys).items()
    )
    return f"triton://127.0.0.1:{port}/m?{given}"


def run(bundle: Path, engine: str | None, **how: Any) -> list[Prediction]:
    with edge_mer.open_session(bundle, sources=[SOURCE], fast=True, engine=engine, **how) as session:
        return list(session)


def slightly_other(outputs: Arrays) -> Arrays:
    return {name: array * np.float32(1.01) for name, array in outputs.items()}


def estimates(predictions: list[Prediction]) -> list[Any]:
    return [(p.affect, p.status, p.reasons) for p in predictions]


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "serve"), BOTH)
def test_predictions_are_those_of_this_device_bit_for_bit(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path
) -> None:
    with serve(stages) as port:
        told = run(shared_bundle, uri(port, protocol))
        assert {p.engine for p in told} == {f"triton@127.0.0.1:{port}"}
    assert estimates(told) == estimates(run(shared_bundle, None))


@pytest.mark.parametrize("stage", ["visual", "audio", "fusion"])
def test_a_stage_with_other_weights_is_refused(stage: str, stages: Stages, shared_bundle: Path) -> None:
    stages.spoil, stages.only = slightly_other, f"m_{stage}"
    with (
        http_server(stages) as port,
        pytest.raises(ParityError, match="the inference server makes of the golden sessions, as fp32"),
    ):
        run(shared_bundle, uri(port))


def test_a_server_that_runs_fewer_bits_than_it_says_is_refused(shared_bundle: Path, stages: Stages) -> None:
    """What it says decides how near it must be."""
    lesser = Stages(shared_bundle)
    bundle = open_bundle(shared_bundle)
    for stage, name in ((one.removeprefix("m_"), one) for one in list(lesser.engines)):
        lesser.engines[name] = remote_stage(bundle, stage)
    with http_server(lesser) as port:
        with pytest.raises(ParityError):
            run(shared_bundle, uri(port))
        told = run(shared_bundle, uri(port, precision="int8-cpu"))
    assert {p.precision for p in told} == {"int8-cpu"}


def remote_stage(bundle: edge_mer.Bundle, stage: str) -> Any:
    from edge_mer.engine.onnxruntime import OrtOptions
    from edge_mer.runtime.setup import open_engine

    model = bundle.manifest.model
    return open_engine(model, stage, bundle.read_stage("int8-cpu", stage), OrtOptions())


def test_server_that_is_too_slow_while_proven_is_away(stages: Stages, shared_bundle: Path) -> None:
    stages.broken, stages.only = "slow", "m_fusion"
    with http_server(stages) as port, pytest.raises(AwayError, match="did not answer within"):
        run(shared_bundle, uri(port, deadline_ms=100, fallback="none"))


# -- what is asked for -----------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_anybody_is_called(shared_bundle: Path) -> None:
    bundle, nobody = open_bundle(shared_bundle), free_port()
    with pytest.raises(UsageError, match="no precision 'fp8'"):
        open_on(bundle, None, uri(nobody, precision="fp8"))
    with pytest.raises(UsageError, match="no precision 'remote'"):
        open_on(bundle, None, uri(nobody, fallback="remote"))
    with pytest.raises(UsageError, match=re.escape("write precision=fp32 or fallback=fp32 into the URI")):
        open_on(bundle, "fp32", uri(nobody))
    with pytest.raises(UsageError, match="a server makes batches itself"):
        edge_mer.open_model(shared_bundle, engine=uri(nobody), max_batch=4)


def test_server_that_is_not_there_at_the_start(shared_bundle: Path) -> None:
    nobody = uri(free_port())
    with pytest.raises(AwayError, match="cannot be reached"):
        run(shared_bundle, f"{nobody}&fallback=none")
    told = run(shared_bundle, nobody)
    assert {p.engine for p in told} == {"onnxruntime-cpu"}
    assert all(p.status == "degraded" and "server_away" in p.reasons for p in told)
    assert [p.affect for p in told] == [p.affect for p in run(shared_bundle, None)]


def test_wrong_server_at_the_start_is_an_error_also_where_something_stands_in(
    stages: Stages, shared_bundle: Path
) -> None:
    with http_server(stages) as port:
        with pytest.raises(MissingError, match="no model other_visual") as refusal:
            run(shared_bundle, uri(port).replace("/m?", "/other?"))
        assert not isinstance(refusal.value, AwayError)
        stages.broken = "web page"
        with pytest.raises(MissingError, match="no inference server"):
            run(shared_bundle, uri(port))


def test_another_precision_may_stand_in(shared_bundle: Path) -> None:
    told = run(shared_bundle, uri(free_port(), fallback="int8-cpu"))
    assert {p.precision for p in told} == {"int8-cpu"}
    assert estimates(told) != estimates(run(shared_bundle, None))


# -- a server that is lost -------------------------------------------------------------------------


class Live:
    """A session that goes on until it is left, as fast as it goes, and what it said."""

    def __init__(self, bundle: Path, engine: str, source: str = "sim-live:person=2") -> None:
        self.told: list[Prediction] = []
        self.session: Session = edge_mer.open_session(
            bundle, sources=[source], engine=engine, on_prediction=self.told.append
        )

    def __enter__(self) -> Live:
        self.session.__enter__()
        return self

    def __exit__(self, *how: Any) -> None:
        self.session.__exit__(*how)

    @property
    def health(self) -> Any:
        return self.session.report.server()

    def wait_for(self, is_it: Callable[[Prediction], bool], what: str) -> None:
        n = len(self.told)
        wait_until(lambda: any(map(is_it, self.told[n:])), what)


def is_away(prediction: Prediction) -> bool:
    return "server_away" in prediction.reasons


def is_back(prediction: Prediction) -> bool:
    return prediction.status == "ok"


@pytest.mark.live
@pytest.mark.parametrize("spoil", [slightly_other, None])
def test_what_comes_back_is_proven_first(
    spoil: Callable[[Arrays], Arrays] | None, stages: Stages, shared_bundle: Path
) -> None:
    """A server that comes back with other weights is not used until it has the right ones again."""
    with http_server(stages) as port, Live(shared_bundle, uri(port)) as live:
        live.wait_for(is_back, "the server runs the stages")
        stages.broken = "500"
        live.wait_for(is_away, "it is lost")
        assert live.health.state == "away"
        if spoil is not None:
            stages.spoil, stages.only, stages.broken = spoil, "", ""
            wait_until(lambda: live.health.state == "refused", "it is found to be another one")
            assert "golden sessions" in live.health.why
            live.wait_for(lambda p: p.engine == "onnxruntime-cpu", "this device alone")
            stages.spoil = dict
        stages.broken = ""
        live.wait_for(is_back, "the server is back")
        assert (live.health.state, live.health.why, live.health.n_lost) == ("ok", "", 1)
        assert [p.window_index for p in live.told] == list(range(len(live.told)))


@pytest.mark.live
def test_a_model_that_changes_silently_is_found_out(
    stages: Stages, shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LOOK_AGAIN_S", 0.2)
    with http_server(stages) as port, Live(shared_bundle, uri(port)) as live:
        live.wait_for(is_back, "the server runs the stages")
        time.sleep(0.5)
        assert live.health.state == "ok"
        stages.spoil, stages.only = slightly_other, "m_audio"
        wait_until(lambda: live.health.state == "refused", "it is found out")
        assert "other numbers than before" in live.health.why or "golden sessions" in live.health.why
        live.wait_for(is_away, "this device stands in")


@pytest.mark.live
def test_many_sessions_share_a_server(stages: Stages, shared_bundle: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(grpc_server(stages))
        model = stack.enter_context(edge_mer.open_model(shared_bundle, engine=uri(port, "grpc")))
        assert set(model.max_batch.values()) == {1}
        told: dict[int, list[Prediction]] = {}

        def one(seed: int) -> None:
            with edge_mer.open_session(
                model, sources=[f"sim:seed={seed}&duration_s=4"], fast=True
            ) as session:
                told[seed] = list(session)

        threads = [threading.Thread(target=one, args=(seed,)) for seed in (4, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(UsageError, match="open already"):
            edge_mer.open_session(model, sources=["sim:"], engine=uri(port))
    assert estimates(told[4]) == estimates(run(shared_bundle, None))
    assert {p.engine for p in told[5]} == {f"triton@127.0.0.1:{port}"}


def test_leaving_waits_for_no_server_that_hangs(
    stages: Stages, shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton, "PATIENCE_S", 20.0)
    setup = open_on(open_bundle(shared_bundle), None, uri(free_port()))[0]
    with http_server(stages):
        began_s = time.monotonic()
        setup.close()
        setup.close()
        assert time.monotonic() - began_s < 3
