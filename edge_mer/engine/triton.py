"""`triton://` has a server of the Open Inference Protocol run the stages, such as Triton or KServe.

triton://gpu-box:8001/jmt
triton://[fd00::7]:8000/jmt?protocol=http&deadline_ms=100&precision=int8-trt&fallback=none
tritons://gpu-box:8001/jmt?ca_file=ward.pem
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from edge_mer.engine.base import Array, Engine, buffer_sizes
from edge_mer.engine.triton_client import Client, Metadata, Protocol, RefusedError, Tensor, Tls
from edge_mer.errors import AwayError, EdgeMerError, MissingError, UsageError
from edge_mer.types import uri_keys
from edge_mer.types.model import ModelSpec, TensorSpec, written
from edge_mer.types.uri_keys import read_query

EXAMPLE = "triton://gpu-box:8001/jmt?deadline_ms=100"

PATIENCE_S = 10.0
"""So long a server may take for what is asked of it before anything is live: it may load models then."""

_MAX_PEM_BYTES = 1 << 20
_DEFAULT_DEADLINE_MS = 200.0
_DEFAULT_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
TLS_KEYS = {
    "ca_file": uri_keys.text("a file with the certificates to trust"),
    "certificate": uri_keys.text("a file with this side's certificate"),
    "key": uri_keys.text("a file with this side's private key"),
}
_KEYS = {
    "protocol": uri_keys.one_of("grpc", "http"),
    "deadline_ms": uri_keys.number(1, 60_000),
    "precision": uri_keys.text("what the server runs, e.g. fp16"),
    "fallback": uri_keys.text("local, none, or a precision"),
}


class TritonServer:
    """A server, and which of its models are a bundle's stages.

    Args:
        rest: The URI after `triton:`.
        scheme: "tritons" for TLS.

    Attributes:
        name: For the records: who ran a stage.
        shown: The URI without its keys.
        precision: What the server runs.
        fallback: "local", as `build-engine` chose or fp32; "none"; or the precision that stands in.
        deadline_s: So long a stage may take, all in all.

    Raises:
        UsageError: No host, more than one name behind it, or a wrong key.
    """

    def __init__(self, rest: str, scheme: str = "triton") -> None:
        host, port, path, query = _split(scheme, rest)
        where = host if ":" not in host else f"[{host}]"
        self.shown = f"{scheme}://{where}{'' if port is None else f':{port}'}{f'/{path}' if path else ''}"
        keys = _KEYS if scheme == "triton" else _KEYS | TLS_KEYS
        values = read_query(self.shown, query, keys, EXAMPLE)
        self._tls = _tls(self.shown, values) if scheme == "tritons" else None
        self.protocol: Protocol = values.get("protocol", "grpc")
        self.deadline_s: float = values.get("deadline_ms", _DEFAULT_DEADLINE_MS) / 1000
        self.precision: str = values.get("precision", "fp32")
        self.fallback: str = values.get("fallback", "local")
        self._address = f"{where}:{port or _DEFAULT_PORTS[self.protocol]}"
        self._model = path
        self.name = f"triton@{self._address}"

    def connect(self, model: ModelSpec) -> TritonConnection:
        """Call it, and hold what it says of its models against what a bundle declares.

        Raises:
            AwayError: It does not answer, or not in time.
            MissingError: It has no such models, or others; or tritonclient is not installed.
        """
        names = {stage: f"{self._model or valid_name(model.name)}_{stage}" for stage in model.stages}
        return TritonConnection(self._address, self.protocol, self.deadline_s, model, names, self._tls)


def open_secure(rest: str) -> TritonServer:
    """`tritons:`, the same over TLS."""
    return TritonServer(rest, "tritons")


def _tls(shown: str, values: Mapping[str, Any]) -> Tls:
    """The files that keys name.

    Raises:
        UsageError: One cannot be read, or belongs to another one that is not named.
    """
    if ("key" in values) != ("certificate" in values):
        raise UsageError(f"{shown}: key= and certificate= go together")
    files = {name: str(Path(values[name]).expanduser()) for name in TLS_KEYS if name in values}
    for name, path in files.items():
        try:
            with Path(path).open("rb") as file:
                is_pem = b"-----BEGIN" in file.read(_MAX_PEM_BYTES)
        except OSError as error:
            raise UsageError(f"{shown}: cannot read {name}={path}", found=error.strerror) from error
        if not is_pem:
            raise UsageError(f"{shown}: cannot use {name}={path}", expected="a file in PEM")
    return Tls(**files)


def valid_name(name: str) -> str:
    """A name with letters, digits and underscores only: models' names stand in paths and addresses."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


class TritonConnection:
    """A client per stage, all of whose models are what a bundle declares.

    Args:
        address: "host:port".
        protocol: "grpc" or "http".
        deadline_s: So long a stage may take.
        model: Declares the stages.
        names: Stage -> model on the server.
        tls: What proves who is there; None: nothing.

    Raises:
        AwayError: It does not answer, or not in time.
        MissingError: It has no such models, or others.
    """

    def __init__(
        self,
        address: str,
        protocol: Protocol,
        deadline_s: float,
        model: ModelSpec,
        names: Mapping[str, str],
        tls: Tls | None = None,
    ) -> None:
        self.engines: dict[str, TritonEngine] = {}
        self.failure: AwayError | None = None
        sizes = buffer_sizes(model)
        try:
            for stage, (inputs, outputs) in model.tensors.items():
                client = Client(address, protocol, tls)
                self.engines[stage] = TritonEngine(
                    stage, names[stage], inputs, outputs, sizes, client, deadline_s, self
                )
            next(iter(self.engines.values())).demand_loaded()
            self._demand_fitting()
            for engine in self.engines.values():
                engine.warm_up()
        except BaseException:
            self.close()
            raise

    def _demand_fitting(self) -> None:
        """Have all that does not fit told at once."""
        found = [problem for engine in self.engines.values() for problem in engine.problems()]
        if found:
            raise MissingError(
                "what the inference server has is not what the bundle declares",
                found="; ".join(found),
                hint="serve this bundle: edge-mer bundle triton writes its models",
            )

    def failed(self, why: AwayError) -> None:
        """Note that there was no good answer."""
        self.failure = self.failure or why

    def close(self) -> None:
        """Hang up; never waits. Twice does no harm."""
        for engine in self.engines.values():
            engine.close()


class TritonEngine(Engine):
    """One stage on a server.

    Args:
        stage: Name of the stage.
        model: Its name on the server.
        inputs: Declared inputs.
        outputs: Declared outputs.
        sizes: Sizes of free axes of the input buffers.
        client: Closed with this.
        deadline_s: So long a run may take, all in all.
        connection: Is told what fails.
    """

    name = "triton"

    def __init__(
        self,
        stage: str,
        model: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        sizes: dict[str, int],
        client: Client,
        deadline_s: float,
        connection: TritonConnection,
    ) -> None:
        super().__init__(stage, inputs, outputs, sizes)
        self._model, self._client, self._deadline_s = model, client, deadline_s
        self._connection = connection
        self._output_names = [spec.name for spec in outputs]
        self._version: str | None = None

    def demand_loaded(self) -> None:
        """Go on only if the server does not say that it still loads its models.

        Raises:
            AwayError: It says so, or nothing.
            MissingError: What answers is no inference server.
        """
        if self._client.is_loading(PATIENCE_S):
            raise AwayError("the inference server is not ready yet")

    def problems(self) -> list[str]:
        """How what the server has differs from what is declared; empty where it does not.

        Raises:
            AwayError: It does not answer.
            MissingError: What answers is no inference server.
        """
        try:
            found = self._client.metadata(self._model, PATIENCE_S)
        except RefusedError as error:
            return [f"no model {self._model}: {error.found}"]
        return [f"{self._model}: {problem}" for problem in self._problems(found)]

    def _problems(self, found: Metadata) -> list[str]:
        problems: list[str] = []
        declared = {spec.name for spec in self.input_specs}
        if extra := sorted(found.inputs.keys() - declared):
            problems.append(f"it wants {', '.join(extra)}, which the bundle does not give")
        sides = (("input", self.input_specs, found.inputs), ("output", self.output_specs, found.outputs))
        for side, specs, told in sides:
            for spec in specs:
                one = told.get(spec.name)
                if one is None:
                    problems.append(f"no {side} {spec.name}")
                elif not _fits(spec, one):
                    is_told = len(one.shape) == len(spec.axes)
                    shape = (
                        written(one.dtype, _sizes(spec, one)) if is_told else f"{one.dtype} {list(one.shape)}"
                    )
                    problems.append(f"{side} {spec.name} is {shape}, not {spec}")
        return problems

    def warm_up(self) -> None:
        """Run once on nothing, which may take long: the server may make its kernels ready.

        Raises:
            AwayError: It does not run, or not as it should.
        """
        self._ask(self.inputs, PATIENCE_S)

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._ask(feed, self._deadline_s)
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise self._failed("gave what is no number")
        return outputs

    def _ask(self, feed: Mapping[str, Array], within_s: float) -> dict[str, Array]:
        request_id = f"{self.stage}-{self.n_runs}"
        try:
            answer = self._client.infer(self._model, feed, self._output_names, request_id, within_s)
        except AwayError as why:
            self._connection.failed(why)
            raise
        except EdgeMerError as error:
            raise self._failed("gives no answer", str(error)) from error
        if answer.id not in ("", request_id):
            raise self._failed("answered something else", f"{answer.id}, not {request_id}")
        if self._version is None:
            self._version = answer.version
        if answer.version != self._version:
            raise self._failed("is another version now", f"{answer.version}, not {self._version}")
        sizes = {
            axis: size
            for spec in self.input_specs
            for axis, size in zip(spec.shape, feed[spec.name].shape, strict=True)
            if isinstance(axis, str)
        }
        return {
            spec.name: self._checked(spec, answer.outputs.get(spec.name), sizes) for spec in self.output_specs
        }

    def _checked(self, spec: TensorSpec, array: Any, sizes: Mapping[str, int]) -> Array:
        expected = spec.concrete(**{**self.sizes, **sizes})
        if not isinstance(array, np.ndarray) or array.dtype != spec.dtype or array.shape != expected:
            found = "nothing" if not isinstance(array, np.ndarray) else f"{array.dtype} {array.shape}"
            raise self._failed(f"gave another {spec.name}", f"{found}, not {spec.dtype} {expected}")
        return array

    def _failed(self, what: str, found: str | None = None) -> AwayError:
        why = AwayError(f"{self._model} on the inference server {what}", found=found)
        self._connection.failed(why)
        return why

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def _fits(spec: TensorSpec, told: Tensor) -> bool:
    """Whether a server's tensor takes, or gives, what is declared, at batch 1."""
    if told.dtype != spec.dtype or len(told.shape) != len(spec.shape):
        return False
    return all(
        found == -1 or (found == 1 if declared == "batch" else found == declared)
        for declared, found in zip(spec.shape, told.shape, strict=True)
    )


def _sizes(spec: TensorSpec, told: Tensor) -> dict[str, int | str]:
    return {axis: axis if size == -1 else size for axis, size in zip(spec.axes, told.shape, strict=True)}


def _split(scheme: str, rest: str) -> tuple[str, int | None, str, str]:
    """Host, port, model and keys of "//host:port/model?key=value"."""
    try:
        parts = urlsplit(f"{scheme}:{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{scheme}: cannot read the host and port", expected=EXAMPLE) from error
    if "@" in parts.netloc:
        raise UsageError(
            f"{scheme}://…@{host or ''}: a name or password stands in the URI",
            expected=EXAMPLE,
            hint="this protocol has neither",
        )
    path = unquote(parts.path).strip("/")
    if not rest.startswith("//") or not host or parts.fragment or port == 0:
        raise UsageError(f"{scheme}:{parts.netloc}{parts.path} names no host", expected=EXAMPLE)
    if re.fullmatch(r"[A-Za-z0-9_.-]*", path) is None:
        raise UsageError(
            f"{scheme}://{parts.netloc}{parts.path}: {path!r} is no name of a model",
            expected="letters, digits, _, . and -: the models are called MODEL_STAGE",
        )
    return host, port, path, parts.query
