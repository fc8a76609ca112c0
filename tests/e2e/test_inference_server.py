"""`--engine triton://` on NVIDIA's Triton: numbers, and what happens when it is killed, hangs, or changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edge_mer
from edge_mer.bundle.read import open_bundle
from edge_mer.errors import ParityError
from edge_mer.types.predictions import Prediction
from tests.helpers.daemon import are_whole, running, write_config
from tests.helpers.triton_server import TritonServer, serve
from tests.helpers.waiting import wait_until

pytest.importorskip("tritonclient.grpc", reason="needs pip install 'edge-mer[triton]'")
pytest.importorskip("onnx", reason="a repository is written with onnx: pip install 'edge-mer[triton]'")
pytestmark = [pytest.mark.workbench, pytest.mark.live]

DEADLINE_MS = 150
LONG_MS = 1000
"""Where it is not about time."""

OWN_MS = 150
"""What the rest of a prediction's work may take on a machine that does other things, too."""


@pytest.fixture
def server(shared_bundle: Path, tmp_path: Path) -> Iterator[TritonServer]:
    with serve(written(shared_bundle, tmp_path)) as one:
        yield one


def written(bundle: Path, folder: Path) -> Path:
    """What `edge-mer bundle triton` writes."""
    from edge_mer_export.triton.options import Options
    from edge_mer_export.triton.repository import write_repository

    write_repository(open_bundle(bundle), folder / "models", Options())
    return folder / "models"


def uri(server: TritonServer, protocol: str, **keys: object) -> str:
    port = server.grpc_port if protocol == "grpc" else server.http_port
    given = {"protocol": protocol, "deadline_ms": DEADLINE_MS} | keys
    return (
        f"triton://127.0.0.1:{port}/jmt_tiny?{'&'.join(f'{name}={value}' for name, value in given.items())}"
    )


class Live:
    """A session with a simulated person, and when it said what."""

    def __init__(self, bundle: Path, engine: str) -> None:
        self.told: list[Prediction] = []
        self.session = edge_mer.open_session(
            bundle, sources=["sim-live:person=2"], engine=engine, on_prediction=self.told.append
        )

    def __enter__(self) -> Live:
        self.session.__enter__()
        return self

    def __exit__(self, *how: object) -> None:
        self.session.__exit__(*how)  # type: ignore[arg-type]

    @property
    def state(self) -> str:
        health = self.session.report.server()
        return "" if health is None else health.state

    def wait_for(self, is_it: Callable[[Prediction], bool], what: str, n: int = 1) -> None:
        """Until so many more predictions are so."""
        first = len(self.told)
        wait_until(lambda: sum(map(is_it, self.told[first:])) >= n, what)

    def assert_whole(self) -> None:
        """No hop is lost or told twice, and the marks lie around what this device made."""
        assert [p.window_index for p in self.told] == list(range(len(self.told)))
        for p in self.told:
            is_own = "onnxruntime" in p.engine
            assert is_own == ("server_away" in p.reasons), p
            assert p.status == ("ok" if p.reasons == () else "degraded"), p


def is_ok(prediction: Prediction) -> bool:
    return prediction.status == "ok" and prediction.engine.startswith("triton@")


def is_marked(prediction: Prediction) -> bool:
    return prediction.status == "degraded" and "server_away" in prediction.reasons


def is_own(prediction: Prediction) -> bool:
    return prediction.engine == "onnxruntime-cpu"


def freeze(server: TritonServer, signal_number: int) -> None:
    assert server._process is not None
    os.killpg(server._process.pid, signal_number)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_predictions_of_a_server_are_those_of_this_device(
    protocol: str, server: TritonServer, shared_bundle: Path
) -> None:
    """The same ONNX Runtime on both sides: bit for bit."""
    told = {}
    for name, engine in (("server", uri(server, protocol, deadline_ms=5000)), ("own", None)):
        with edge_mer.open_session(
            shared_bundle, sources=["sim:seed=7&duration_s=6"], fast=True, engine=engine
        ) as session:
            told[name] = list(session)
    assert len(told["server"]) > 15
    assert [p.affect for p in told["server"]] == [p.affect for p in told["own"]]
    assert [(p.status, p.reasons) for p in told["server"]] == [(p.status, p.reasons) for p in told["own"]]
    assert {p.engine for p in told["server"]} == {
        f"triton@127.0.0.1:{server.grpc_port if protocol == 'grpc' else server.http_port}"
    }


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_killed_and_restarted_in_the_middle(protocol: str, server: TritonServer, shared_bundle: Path) -> None:
    with Live(shared_bundle, uri(server, protocol)) as live:
        live.wait_for(is_ok, "the server runs the stages", n=2)
        server.kill()
        live.wait_for(is_marked, "predictions go on, marked")
        live.wait_for(is_own, "this device alone")
        assert live.state == "away"
        server.start()
        live.wait_for(is_ok, "the server runs the stages again", n=3)
        assert live.state == "ok"
    live.assert_whole()
    assert max(p.latency_ms.infer for p in live.told) < DEADLINE_MS + OWN_MS
    switched = [is_ok(a) and is_marked(b) for a, b in zip(live.told, live.told[1:], strict=False)]
    assert sum(switched) == 1  # from one prediction to the next


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_server_that_hangs_costs_one_deadline(
    protocol: str, server: TritonServer, shared_bundle: Path
) -> None:
    with Live(shared_bundle, uri(server, protocol)) as live:
        live.wait_for(is_ok, "the server runs the stages", n=2)
        freeze(server, signal.SIGSTOP)
        live.wait_for(is_marked, "predictions go on, marked", n=6)
        freeze(server, signal.SIGCONT)
        live.wait_for(is_ok, "the server runs the stages again")
    live.assert_whole()
    waited = [p for p in live.told if p.latency_ms.infer >= DEADLINE_MS]
    assert len(waited) == 1
    assert is_marked(waited[0])
    assert waited[0].latency_ms.infer < DEADLINE_MS + OWN_MS


def test_without_fallback_predictions_are_withheld_and_come_back(
    server: TritonServer, shared_bundle: Path
) -> None:
    with Live(shared_bundle, uri(server, "grpc", fallback="none", deadline_ms=LONG_MS)) as live:
        live.wait_for(is_ok, "the server runs the stages")
        server.kill()
        live.wait_for(lambda p: p.reasons == ("server_away",), "predictions are withheld", n=3)
        server.start()
        live.wait_for(is_ok, "the server runs the stages again")
    assert [p.window_index for p in live.told] == list(range(len(live.told)))
    assert all(p.affect is None for p in live.told if p.status == "withheld")


def test_server_that_comes_back_with_other_weights_is_not_used(
    server: TritonServer, shared_bundle: Path, tmp_path: Path
) -> None:
    """8 bits where 32 were proven: plausible numbers, and not the bundle's."""
    right = open_bundle(shared_bundle)
    file = server.repository / "jmt_tiny_visual" / "1" / "model.onnx"
    with Live(shared_bundle, uri(server, "grpc", deadline_ms=LONG_MS)) as live:
        live.wait_for(is_ok, "the server runs the stages")
        server.kill()
        file.write_bytes(right.read_stage("int8-cpu", "visual"))
        server.start()
        wait_until(lambda: live.state == "refused", "its numbers are found wrong")
        live.wait_for(is_own, "this device alone")
        health = live.session.report.server()
        assert health is not None
        assert "golden sessions" in health.why
        with pytest.raises(ParityError):
            edge_mer.open_session(shared_bundle, sources=["sim:"], engine=uri(server, "http"))
        server.kill()
        file.write_bytes(right.read_stage("fp32", "visual"))
        server.start()
        live.wait_for(is_ok, "the server runs the stages again")
    live.assert_whole()


def test_model_that_the_server_loads_anew_is_found_out(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same name, same version, same connection: only its numbers tell."""
    monkeypatch.setattr("edge_mer.runtime.remote.LOOK_AGAIN_S", 0.5)
    repository = written(shared_bundle, tmp_path)
    polling = serve(repository, "--model-control-mode=poll", "--repository-poll-secs=1")
    with polling as server, Live(shared_bundle, uri(server, "grpc", deadline_ms=LONG_MS)) as live:
        live.wait_for(is_ok, "the server runs the stages")
        fresh = tmp_path / "model.onnx"
        fresh.write_bytes(open_bundle(shared_bundle).read_stage("int8-cpu", "visual"))
        shutil.move(fresh, repository / "jmt_tiny_visual" / "1" / "model.onnx")
        wait_until(lambda: live.state == "refused", "it is found out")
        live.wait_for(is_own, "this device alone")


# -- from the command line, and under the daemon ---------------------------------------------------


def edge_mer_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_mer.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_command_line(server: TritonServer, shared_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    verb = ("run", str(shared_bundle), "--source", "sim:duration_s=4", "--fast", "--sink", f"jsonl:{out}")
    done = edge_mer_command(*verb, "--engine", uri(server, "http", deadline_ms=5000))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["engine"] for one in records} == {f"triton@127.0.0.1:{server.http_port}"}

    server.kill()
    out.unlink()
    done = edge_mer_command(*verb, "--engine", uri(server, "http"))
    assert done.returncode == 0, done.stderr
    told = f"triton://127.0.0.1:{server.http_port}/jmt_tiny is away, so onnxruntime-cpu"
    assert done.stderr.count(told) == 1
    assert done.stderr.count("cannot be reached") == 1
    assert "server_away" in done.stderr
    out.unlink()
    done = edge_mer_command(*verb, "--engine", uri(server, "http", fallback="none"))
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert not out.exists()
    done = edge_mer_command(*verb, "--engine", "triton://127.0.0.1/jmt?deadline=5")
    assert (done.returncode, "did you mean deadline_ms?" in done.stderr) == (2, True)
    done = edge_mer_command(*verb, "--engine", uri(server, "http"), "--protocol", "affwild2")
    assert (done.returncode, "--protocol and --engine" in done.stderr) == (2, True)


def test_daemon_goes_on_and_says_how_the_server_is(
    server: TritonServer, shared_bundle: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(shared_bundle)
    more = f'engine = "{uri(server, "grpc", deadline_ms=LONG_MS)}"\n'
    with running(write_config(tmp_path, shared_bundle, more)) as (daemon, listener):
        listener.wait_for(lambda: listener.records and listener.records[-1]["status"] == "ok")
        assert listener.hellos[-1]["model"]["engine"] == f"triton@127.0.0.1:{server.grpc_port}"
        assert listener.healths[-1]["server"]["state"] == "ok"
        server.kill()
        listener.wait_for(lambda: "server_away" in listener.records[-1]["reasons"])
        listener.wait_for(lambda: listener.healths[-1]["server"]["state"] == "away")
        server.start()
        listener.wait_for(lambda: listener.healths[-1]["server"]["state"] == "ok")
        listener.wait_for(lambda: listener.records[-1]["status"] == "ok")
        assert are_whole(listener.records, bundle.hop_s)
        assert daemon.stop() < 3
