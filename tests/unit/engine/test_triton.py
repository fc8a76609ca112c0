"""The engine that asks an inference server: its URI, and servers that break in every way."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.engine import triton
from edge_mer.engine.registry import open_server
from edge_mer.engine.triton import TritonConnection, TritonServer
from edge_mer.engine.triton_client import GRACE_S, Client
from edge_mer.errors import AwayError, EdgeMerError, MissingError, UsageError
from tests.helpers.oip_server import Arrays, Stages, grpc_server, http_server, raw_server
from tests.helpers.waiting import free_port

pytest.importorskip("tritonclient.grpc", reason="needs pip install 'edge-mer[triton]'")

DEADLINE_S = 0.3


@pytest.fixture(scope="module")
def served(shared_bundle: Path) -> Stages:
    """Made once; `stages` sets it right again."""
    return Stages(shared_bundle)


@pytest.fixture
def stages(served: Stages) -> Iterator[Stages]:
    yield served
    served.__dict__ |= {
        "spoil": dict,
        "metadata": dict,
        "only": "",
        "broken": "",
        "version": "1",
        "n_calls": 0,
        "extensions": ["binary_tensor_data"],
    }


@pytest.fixture(autouse=True)
def less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "PATIENCE_S", 1.5)


@contextmanager
def connected(port: int, protocol: str, bundle: Path) -> Iterator[TritonConnection]:
    uri = f"//127.0.0.1:{port}/m?protocol={protocol}&deadline_ms={DEADLINE_S * 1000:g}"
    connection = TritonServer(uri).connect(open_bundle(bundle).manifest.model)
    try:
        yield connection
    finally:
        connection.close()


def clip(connection: TritonConnection) -> Arrays:
    shape = connection.engines["visual"].inputs["clip"].shape
    return {"clip": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


# -- the URI ---------------------------------------------------------------------------------------


def test_uri_says_where_and_how() -> None:
    server = TritonServer("//gpu-box:9001/jmt?protocol=http&deadline_ms=50&precision=fp16&fallback=none")
    assert (server.shown, server.name) == ("triton://gpu-box:9001/jmt", "triton@gpu-box:9001")
    assert (server.protocol, server.deadline_s, server.precision, server.fallback) == (
        "http",
        0.05,
        "fp16",
        "none",
    )


def test_uri_has_usual_ports_and_what_it_leaves_out() -> None:
    assert TritonServer("//gpu-box").name == "triton@gpu-box:8001"
    assert TritonServer("//gpu-box?protocol=http").name == "triton@gpu-box:8000"
    assert TritonServer("//[fd00::7]:8001/jmt").name == "triton@[fd00::7]:8001"
    usual = TritonServer("//gpu-box")
    assert (usual.deadline_s, usual.precision, usual.fallback) == (0.2, "fp32", "local")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("triton://gpu-box/jmt?deadlin_ms=5", "did you mean deadline_ms?"),
        ("triton://gpu-box/jmt?protocol=rest", "one of grpc, http"),
        ("triton://gpu-box/jmt?deadline_ms=0", "a number from 1 to 60000"),
        ("triton://gpu-box/jmt?deadline_ms=5&deadline_ms=6", "given twice"),
        ("triton://gpu-box/jmt?fallback=", "local, none"),
        ("triton:gpu-box/jmt", "names no host"),
        ("triton://", "names no host"),
        ("triton://gpu-box:0/jmt", "names no host"),
        ("triton://gpu-box:99999/jmt", "cannot read the host and port"),
        ("triton://gpu-box:port/jmt", "cannot read the host and port"),
        ("triton://gpu-box/a/b", "no name of a model"),
        ("triton://gpu-box/a%20b", "no name of a model"),
        ("tritn://gpu-box/jmt", "did you mean triton:"),
        ("gpu-box", "unknown engine"),
        ("", "unknown engine"),
    ],
)
def test_wrong_uri_is_refused(uri: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        open_server(uri)


def test_secret_in_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="a name or password") as refusal:
        open_server("triton://me:hunter2@gpu-box/jmt")
    assert "hunter2" not in str(refusal.value)


# -- a server that does as it should ---------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_server_runs_stages_bit_for_bit(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path
) -> None:
    with serve(stages) as port, connected(port, protocol, shared_bundle) as connection:
        feed = clip(connection)
        found = connection.engines["visual"].run(feed)
        expected = stages.engines["m_visual"].run(feed)
        np.testing.assert_array_equal(found["feature"], expected["feature"])
        assert connection.failure is None


def test_server_that_takes_text_alone_gets_text(stages: Stages, shared_bundle: Path) -> None:
    """MLServer's way: longer, and as exact."""
    stages.extensions = []
    with http_server(stages) as port, connected(port, "http", shared_bundle) as connection:
        feed = clip(connection)
        found = connection.engines["visual"].run(feed)
        expected = stages.engines["m_visual"].run(feed)
        np.testing.assert_array_equal(found["feature"], expected["feature"])
        connection.engines["fusion"].infer()


def test_many_threads_share_a_stage(stages: Stages, shared_bundle: Path) -> None:
    """Calls of one stage come one after the other, each to its own answer."""
    with http_server(stages) as port, connected(port, "http", shared_bundle) as connection:
        engine = connection.engines["visual"]
        feeds = [{"clip": np.full_like(engine.inputs["clip"], n / 10)} for n in range(4)]
        found: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda n=n: found.update({n: engine.run(feeds[n])})) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for n, feed in enumerate(feeds):
            expected = stages.engines["m_visual"].run(feed)["feature"]
            np.testing.assert_array_equal(found[n]["feature"], expected)


# -- servers that are not what the bundle declares -------------------------------------------------


def without_output(told: dict[str, Any]) -> dict[str, Any]:
    return told | {"outputs": []}


def other_shape(told: dict[str, Any]) -> dict[str, Any]:
    first = told["inputs"][0]
    return told | {"inputs": [first | {"shape": [*first["shape"][:-1], 96]}, *told["inputs"][1:]]}


def other_rank(told: dict[str, Any]) -> dict[str, Any]:
    first = told["inputs"][0]
    return told | {"inputs": [first | {"shape": first["shape"][1:]}, *told["inputs"][1:]]}


def other_type(told: dict[str, Any]) -> dict[str, Any]:
    first = told["outputs"][0]
    return told | {"outputs": [first | {"datatype": "FP16"}, *told["outputs"][1:]]}


def one_input_more(told: dict[str, Any]) -> dict[str, Any]:
    return told | {"inputs": [*told["inputs"], {"name": "mask", "datatype": "FP32", "shape": [-1]}]}


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (without_output, "m_visual: no output feature"),
        (other_shape, "m_visual: input clip is float32 (batch, channel=3, frame=4, height=48, width=96)"),
        (other_rank, "m_visual: input clip is float32 [3, 4, 48, 48]"),
        (other_type, "m_visual: output feature is float16"),
        (one_input_more, "m_visual: it wants mask"),
    ],
)
def test_other_metadata_are_refused(
    protocol: str,
    serve: Callable[..., Any],
    metadata: Callable[[dict[str, Any]], dict[str, Any]],
    says: str,
    stages: Stages,
    shared_bundle: Path,
) -> None:
    stages.metadata, stages.only = metadata, "m_visual"
    with serve(stages) as port, pytest.raises(MissingError, match=re.escape(says)) as refusal:
        connected(port, protocol, shared_bundle).__enter__()
    assert not isinstance(refusal.value, AwayError)


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_every_model_that_is_not_there_is_named(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path
) -> None:
    uri = "//127.0.0.1:{}/other?protocol={}"
    with serve(stages) as port, pytest.raises(MissingError) as refusal:
        TritonServer(uri.format(port, protocol)).connect(open_bundle(shared_bundle).manifest.model)
    for stage in ("visual", "audio", "fusion"):
        assert f"no model other_{stage}" in str(refusal.value)


@pytest.mark.parametrize("page", ["web page", "no such page"])
def test_web_server_is_no_inference_server(page: str, stages: Stages, shared_bundle: Path) -> None:
    stages.broken = page
    with http_server(stages) as port, pytest.raises(MissingError) as refusal:
        connected(port, "http", shared_bundle).__enter__()
    assert not isinstance(refusal.value, AwayError)


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_server_that_loads_is_away(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path
) -> None:
    stages.broken = "loading"
    with serve(stages) as port, pytest.raises(AwayError, match="not ready yet"):
        connected(port, protocol, shared_bundle).__enter__()


# -- servers that are not there --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_listens(protocol: str, shared_bundle: Path) -> None:
    with pytest.raises(AwayError):
        connected(free_port(), protocol, shared_bundle).__enter__()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_host_that_nobody_knows(protocol: str, shared_bundle: Path) -> None:
    server = TritonServer(f"//no-such-host.invalid/m?protocol={protocol}")
    with pytest.raises(AwayError):
        server.connect(open_bundle(shared_bundle).manifest.model)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("say", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 64, b"", None])
def test_something_else_listens(protocol: str, say: bytes | None, shared_bundle: Path) -> None:
    began_s = time.monotonic()
    with raw_server(say) as port, pytest.raises(MissingError):
        connected(port, protocol, shared_bundle).__enter__()
    assert time.monotonic() - began_s < 2 * triton.PATIENCE_S


# -- servers that break later ----------------------------------------------------------------------

HTTP_WAYS = (
    "web page for an answer",
    "500",
    "502",
    "400",
    "half a body",
    "fewer bytes than said",
    "garbage",
    "hung up",
    "slow",
    "a byte at a time",
    "another id",
)


@pytest.mark.parametrize("how", HTTP_WAYS)
def test_broken_http_answer_ends_in_time(how: str, stages: Stages, shared_bundle: Path) -> None:
    with http_server(stages) as port, connected(port, "http", shared_bundle) as connection:
        fails_in_time(how, stages, connection)


@pytest.mark.parametrize("how", ["error", "slow", "another id"])
def test_broken_grpc_answer_ends_in_time(how: str, stages: Stages, shared_bundle: Path) -> None:
    with grpc_server(stages) as port, connected(port, "grpc", shared_bundle) as connection:
        fails_in_time(how, stages, connection)


def fails_in_time(how: str, stages: Stages, connection: TritonConnection) -> None:
    engine, feed = connection.engines["visual"], clip(connection)
    engine.run(feed)
    stages.broken = how
    began_s = time.monotonic()
    with pytest.raises(AwayError) as failure:
        engine.run(feed)
    assert time.monotonic() - began_s < DEADLINE_S + GRACE_S + 0.3  # of a machine that does other things
    assert connection.failure is failure.value


def not_a_number(outputs: Arrays) -> Arrays:
    return {name: np.full_like(array, np.nan) for name, array in outputs.items()}


def infinite(outputs: Arrays) -> Arrays:
    return {name: np.full_like(array, np.inf) for name, array in outputs.items()}


def transposed(outputs: Arrays) -> Arrays:
    return {name: array.T for name, array in outputs.items()}


def doubles(outputs: Arrays) -> Arrays:
    return {name: array.astype(np.float64) for name, array in outputs.items()}


def two_rows(outputs: Arrays) -> Arrays:
    return {name: np.repeat(array, 2, axis=0) for name, array in outputs.items()}


def nothing(outputs: Arrays) -> Arrays:
    return {}


def renamed(outputs: Arrays) -> Arrays:
    return {f"{name}2": array for name, array in outputs.items()}


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
@pytest.mark.parametrize("spoil", [not_a_number, infinite, transposed, doubles, two_rows, nothing, renamed])
def test_wrong_outputs_are_never_taken(
    protocol: str,
    serve: Callable[..., Any],
    spoil: Callable[[Arrays], Arrays],
    stages: Stages,
    shared_bundle: Path,
) -> None:
    with serve(stages) as port, connected(port, protocol, shared_bundle) as connection:
        stages.spoil = spoil
        with pytest.raises(AwayError):
            connection.engines["visual"].run(clip(connection))


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_other_version_is_not_taken(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path
) -> None:
    with serve(stages) as port, connected(port, protocol, shared_bundle) as connection:
        stages.version = "2"
        with pytest.raises(AwayError, match="another version"):
            connection.engines["visual"].run(clip(connection))


@pytest.mark.parametrize(
    ("protocol", "serve", "how"),
    [
        ("http", http_server, "slow"),
        ("http", http_server, "a byte at a time"),
        ("grpc", grpc_server, "slow"),
    ],
)
def test_threads_end_also_where_the_server_hangs(
    protocol: str, serve: Callable[..., Any], how: str, stages: Stages, shared_bundle: Path
) -> None:
    before = set(threading.enumerate())
    with serve(stages) as port:
        with connected(port, protocol, shared_bundle) as connection:
            clients = [
                one
                for one in set(threading.enumerate()) - before
                if one.name == f"edge-mer {protocol} client"
            ]
            assert len(clients) == 3
            stages.broken = how
            with pytest.raises(EdgeMerError):
                connection.engines["visual"].run(clip(connection))
            connection.close()
            with pytest.raises(AwayError, match="hung up"):
                connection.engines["visual"].run(clip(connection))
        for one in clients:
            one.join(3)
        assert not any(one.is_alive() for one in clients)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_nobody_waits_for_a_client_that_forgets_the_time(protocol: Any) -> None:
    client, released = Client("127.0.0.1:9", protocol), threading.Event()
    began_s = time.monotonic()
    with pytest.raises(AwayError, match="within 50 ms"):
        client._ask(lambda *_: released.wait(), 0.05)
    assert time.monotonic() - began_s < 0.5
    released.set()
    client.join(5)


def test_want_of_the_library_is_told(shared_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tritonclient.grpc", None)
    with pytest.raises(MissingError, match=re.escape("pip install 'edge-mer[triton]'")):
        TritonServer("//gpu-box/jmt").connect(open_bundle(shared_bundle).manifest.model)


# -- who is there ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("protocol", "serve"), [("http", http_server), ("grpc", grpc_server)])
def test_only_a_server_with_a_trusted_certificate_is_talked_to(
    protocol: str, serve: Callable[..., Any], stages: Stages, shared_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="needs pip install 'edge-mer[daemon]'")
    from tests.helpers.certificates import write_certificates

    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    authority = write_certificates(own, "gpu-box", "127.0.0.1")
    stranger = write_certificates(other, "gpu-box", "127.0.0.1")
    model = open_bundle(shared_bundle).manifest.model
    with serve(stages, tls=own) as port:
        address = f"//127.0.0.1:{port}/m?protocol={protocol}"
        connection = TritonServer(f"{address}&ca_file={authority}", "tritons").connect(model)
        feed = clip(connection)
        expected = stages.engines["m_visual"].run(feed)
        np.testing.assert_array_equal(connection.engines["visual"].run(feed)["feature"], expected["feature"])
        connection.close()
        n_calls = stages.n_calls
        for rest, scheme in ((f"{address}&ca_file={stranger}", "tritons"), (address, "tritons")):
            with pytest.raises(AwayError, match=r"(?i)certificate|handshake|UNAVAILABLE"):
                TritonServer(rest, scheme).connect(model)
        with pytest.raises(MissingError):
            TritonServer(address).connect(model)
        assert stages.n_calls == n_calls


def test_files_of_tls_are_checked_before_anybody_is_called(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for keys, says in (
        (f"ca_file={tmp_path}/none.pem", "cannot read ca_file"),
        (f"ca_file={tmp_path}", "cannot read ca_file"),
        (f"ca_file={tmp_path}/empty.pem", "a file in PEM"),
        (f"key={tmp_path}/empty.pem", "go together"),
    ):
        with pytest.raises(UsageError, match=re.escape(says)):
            open_server(f"tritons://gpu-box/jmt?{keys}")
    with pytest.raises(UsageError, match="unknown key 'ca_file'"):
        open_server("triton://gpu-box/jmt?ca_file=ward.pem")


def test_threads_end_before_python_does(stages: Stages, shared_bundle: Path) -> None:
    """Else what greenlets leave behind may crash the process while it ends."""
    code = f"""
import atexit, threading
names = lambda: [one.name for one in threading.enumerate() if one.name == "edge-mer http client"]
atexit.register(lambda: print("left:", len(names())))
from pathlib import Path
from edge_mer.bundle.read import open_bundle
from edge_mer.engine.triton import TritonServer
model = open_bundle(Path({str(shared_bundle)!r})).manifest.model
connection = TritonServer("//127.0.0.1:PORT/m?protocol=http").connect(model)
print("running:", len(names()))
"""
    with http_server(stages) as port:
        done = subprocess.run(
            [sys.executable, "-c", code.replace("PORT", str(port))],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, "running: 3\nleft: 0\n"), done.stderr
