"""A server of the Open Inference Protocol that runs a bundle's stages rightly, or breaks in a chosen way."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from edge_mer.bundle.read import open_bundle
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.runtime.setup import open_engine

TYPES = {"float32": "FP32", "bool": "BOOL", "int64": "INT64", "float64": "FP64"}
DTYPES = {name: dtype for dtype, name in TYPES.items()}

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Stages:
    """What a server serves, and how it breaks; both may be changed while it runs.

    Args:
        bundle: Whose stages; called `m_<stage>`.

    Attributes:
        spoil: Makes other outputs of the right ones.
        metadata: Makes other metadata of the right ones.
        only: Nothing but this model breaks; "" for all of them.
        broken: How answers to inference break: "", or a name that a server below knows.
        version: Of all models.
        extensions: Of the protocol, over HTTP; without "binary_tensor_data" tensors are text.
        n_calls: Inference that was asked for.
    """

    def __init__(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        model = opened.manifest.model
        self.engines = {
            f"m_{stage}": open_engine(model, stage, opened.read_stage("fp32", stage), OrtOptions())
            for stage in model.stages
        }
        self.spoil: Callable[[Arrays], Arrays] = dict
        self.metadata: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self.only = ""
        self.broken = ""
        self.version = "1"
        self.extensions = ["binary_tensor_data"]
        self.n_calls = 0

    def told_of(self, name: str) -> dict[str, Any]:
        """A model's metadata, as the protocol has it."""
        engine = self.engines[name]
        sides = {"inputs": engine.input_specs, "outputs": engine.output_specs}
        told = {
            side: [
                {
                    "name": spec.name,
                    "datatype": TYPES[spec.dtype],
                    "shape": [size if isinstance(size, int) else -1 for size in spec.shape],
                }
                for spec in specs
            ]
            for side, specs in sides.items()
        }
        right = {"name": name, "versions": [self.version], "platform": "test", **told}
        return self.metadata(right) if self.only in ("", name) else right

    def run(self, name: str, feed: Arrays) -> Arrays:
        """What a model makes of tensors, spoilt as it should be."""
        self.n_calls += 1
        engine = self.engines[name]
        assert isinstance(engine, OrtEngine)
        outputs = engine.run(feed)
        return self.spoil(outputs) if self.only in ("", name) else outputs

    def breaks(self, name: str, how: str) -> bool:
        """Whether an answer of this model breaks in this way."""
        return self.broken == how and self.only in ("", name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stages: Stages

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if self.stages.broken == "web page":
            self._say(200, b"<html>It works!</html>", "text/html")
        elif self.stages.broken == "no such page":
            self._say(404, b"<html>404</html>", "text/html")
        elif self.stages.broken == "loading" and parts[-1] == "ready":
            self._say(400, b"{}")
        elif parts == ["v2"]:
            self._say(200, json.dumps({"name": "test", "extensions": self.stages.extensions}).encode())
        elif parts[:2] == ["v2", "health"]:
            self._say(200, b"")
        elif parts[:2] == ["v2", "models"] and parts[2] in self.stages.engines:
            self._say(200, json.dumps(self.stages.told_of(parts[2])).encode())
        else:
            self._say(400, json.dumps({"error": f"Request for unknown model: '{parts[-1]}'"}).encode())

    def do_POST(self) -> None:
        name = self.path.strip("/").split("/")[2]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        asked, rest = json.loads(body[:length]), body[length:]
        feed = {}
        for one in asked["inputs"]:
            if "data" in one:
                feed[one["name"]] = np.array(one["data"], DTYPES[one["datatype"]]).reshape(one["shape"])
                continue
            n_bytes = one["parameters"]["binary_data_size"]
            array = np.frombuffer(rest[:n_bytes], DTYPES[one["datatype"]]).reshape(one["shape"])
            feed[one["name"]], rest = array, rest[n_bytes:]
        self._answer(name, asked.get("id", ""), self.stages.run(name, feed))

    def _answer(self, name: str, request_id: str, outputs: Arrays) -> None:
        stages = self.stages
        if not stages.extensions:
            told = [
                {
                    "name": key,
                    "datatype": TYPES[array.dtype.name],
                    "shape": list(array.shape),
                    "data": array.ravel().tolist(),
                }
                for key, array in outputs.items()
            ]
            head = {"id": request_id, "model_name": name, "model_version": stages.version, "outputs": told}
            self._say(200, json.dumps(head).encode())
            return
        told, data = [], b""
        for key, array in outputs.items():
            raw = np.ascontiguousarray(array).tobytes()
            told.append(
                {
                    "name": key,
                    "datatype": TYPES[array.dtype.name],
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
            data += raw
        if stages.breaks(name, "another id"):
            request_id = "somebody-elses"
        head = {"id": request_id, "model_name": name, "model_version": stages.version, "outputs": told}
        text = json.dumps(head).encode()
        if stages.breaks(name, "web page for an answer"):
            self._say(200, b"<html>please log in</html>", "text/html")
        elif stages.breaks(name, "500"):
            self._say(500, b'{"error": "out of memory"}')
        elif stages.breaks(name, "502"):
            self._say(502, b"<html>Bad Gateway</html>", "text/html")
        elif stages.breaks(name, "400"):
            self._say(400, b'{"error": "unexpected shape"}')
        elif stages.breaks(name, "half a body"):
            self._say(200, text + data, head_bytes=len(text), cut=len(text) + len(data) // 2)
        elif stages.breaks(name, "fewer bytes than said"):
            self._say(200, text + data[:-4], head_bytes=len(text))
        elif stages.breaks(name, "garbage"):
            self._say(200, b"\x00\xff" * 500, head_bytes=100)
        elif stages.breaks(name, "hung up"):
            self.close_connection = True
        elif stages.breaks(name, "slow"):
            time.sleep(2)
            self._say(200, text + data, head_bytes=len(text))
        elif stages.breaks(name, "a byte at a time"):
            self._say(200, text + data, head_bytes=len(text), pause_s=0.02)
        else:
            self._say(200, text + data, head_bytes=len(text))

    def _say(
        self,
        status: int,
        body: bytes,
        kind: str = "application/json",
        *,
        head_bytes: int | None = None,
        cut: int | None = None,
        pause_s: float = 0,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if head_bytes is not None:
            self.send_header("Inference-Header-Content-Length", str(head_bytes))
        self.end_headers()
        with suppress(OSError):  # who asked may have gone
            if pause_s:
                for at in range(len(body)):
                    self.wfile.write(body[at : at + 1])
                    time.sleep(pause_s)
            else:
                self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Who asked has gone."""


@contextmanager
def http_server(stages: Stages, tls: Path | None = None) -> Iterator[int]:
    """A server in this process; gives its port. `tls`: the folder of its certificate."""
    handler = type("Handler", (_Handler,), {"stages": stages})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def grpc_server(stages: Stages, tls: Path | None = None) -> Iterator[int]:
    """The same over gRPC; it breaks by `spoil`, or as "slow", "another id", "loading" or "error" say."""
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ServerLive(self, *_: Any) -> Any:  # noqa: N802 -- the protocol's names
            return pb.ServerLiveResponse(live=True)

        def ServerReady(self, *_: Any) -> Any:  # noqa: N802
            return pb.ServerReadyResponse(ready=stages.broken != "loading")

        def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            if request.name not in stages.engines:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}'")
            return pb.ModelMetadataResponse(**stages.told_of(request.name))

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            name = request.model_name
            feed = {
                one.name: np.frombuffer(raw, DTYPES[one.datatype]).reshape(tuple(one.shape))
                for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            outputs = stages.run(name, feed)
            if stages.breaks(name, "error"):
                context.abort(grpc.StatusCode.INTERNAL, "out of memory")
            if stages.breaks(name, "slow"):
                time.sleep(2)
            given = "somebody-elses" if stages.breaks(name, "another id") else request.id
            answer = pb.ModelInferResponse(model_name=name, model_version=stages.version, id=given)
            for key, array in outputs.items():
                answer.outputs.add(name=key, datatype=TYPES[array.dtype.name], shape=array.shape)
                answer.raw_output_contents.append(np.ascontiguousarray(array).tobytes())
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (tls / "key.pem").read_bytes(), (tls / "cert.pem").read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@contextmanager
def raw_server(say: bytes | None) -> Iterator[int]:
    """Somebody who says the same to everybody and hangs up; None: takes all and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []
        is_over = threading.Event()

        def serve() -> None:
            with suppress(OSError):
                while not is_over.is_set():
                    one, _ = listener.accept()
                    if say is None:
                        held.append(one)
                        continue
                    with one, suppress(OSError):
                        one.sendall(say)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            is_over.set()
            with suppress(OSError):
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join(2)
            for one in held:
                one.close()
