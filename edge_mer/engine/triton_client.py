"""A client of the Open Inference Protocol in a thread of its own: every call ends in time.

The HTTP client belongs to the thread that made it and knows no total time: its time-outs begin anew with
every byte that comes. So each stage has a client in a thread, and who asks waits for an answer no longer than
it may take, whatever the client does.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import AwayError, EdgeMerError, MissingError

Protocol = Literal["grpc", "http"]
Array = NDArray[Any]
T = TypeVar("T")

GRACE_S = 0.02
"""So much longer than the call itself may take is waited for its thread."""

MAX_ANSWER_BYTES = 64 << 20
"""No stage gives more; what is larger is not read."""

_GRPC_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new client waits for an older one's pause to be over
)
_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "499", "408", "429")
_MAX_TEXT = 200
_EXIT_S = 2.0


@dataclass(frozen=True)
class Tls:
    """What proves who is there; files in PEM.

    Attributes:
        ca_file: Certificates to trust; None: the system's.
        certificate: This side's; None: it has none.
        key: Its private key.
    """

    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Tensor:
    """What a server says of a model's tensor.

    Attributes:
        dtype: NumPy's name of its type; "" where it has none.
        shape: A size per axis, -1 where it is free.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Metadata:
    """What a server says of a model: the tensors by their names."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """What a server made of tensors.

    Attributes:
        outputs: Name -> array.
        id: Of the request that it answers.
        version: Of the model that ran.
    """

    outputs: Mapping[str, Array]
    id: str
    version: str


class RefusedError(MissingError):
    """The server answers in its protocol that it will not do this, e.g. for want of a model."""


class Client:
    """A client in a thread of its own, which lives until `close`, or as long as its last call.

    Args:
        address: "host:port".
        protocol: "grpc" or "http".
        tls: What proves who is there; None: nothing, and what is said can be read on the way.

    Raises:
        MissingError: tritonclient is not installed.
    """

    def __init__(self, address: str, protocol: Protocol, tls: Tls | None = None) -> None:
        self._address, self._protocol, self._tls = address, protocol, tls
        self._library = _library(protocol)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_binary: bool | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=f"edge-mer {protocol} client", daemon=True)
        self._thread.start()
        _running.add(self)

    def is_loading(self, within_s: float) -> bool:
        """Whether the server says that it lives, but is not ready.

        Raises:
            AwayError: No answer in time.
            MissingError: What answers is no inference server.
        """

        def ask(client: Any, told: dict[str, Any]) -> bool:
            return bool(client.is_server_live(**told) and not client.is_server_ready(**told))

        return self._ask(ask, within_s)

    def metadata(self, model: str, within_s: float) -> Metadata:
        """What the server says of a model.

        Raises:
            AwayError: No answer in time.
            MissingError: It has no such model, or what answers is no inference server.
        """

        def ask(client: Any, told: dict[str, Any]) -> Metadata:
            found = client.get_model_metadata(model, **told, **self._as_json)
            return Metadata(_tensors(found.get("inputs", ())), _tensors(found.get("outputs", ())))

        return self._ask(ask, within_s)

    def infer(
        self, model: str, feed: Mapping[str, Array], outputs: Sequence[str], request_id: str, within_s: float
    ) -> Answer:
        """Have a model run.

        Args:
            model: Its name on the server.
            feed: Name -> array.
            outputs: What is wanted of it.
            request_id: Which the answer repeats.
            within_s: So long it may take, all in all.

        Raises:
            AwayError: No answer in time.
            MissingError: It does not take this, or what it says is no answer.
        """

        def ask(client: Any, told: dict[str, Any]) -> Answer:
            how = {} if self._protocol == "grpc" else {"binary_data": self._takes_bytes(client)}
            given = [self._input(name, array, how) for name, array in feed.items()]
            wanted = [self._library.InferRequestedOutput(name, **how) for name in outputs]
            found = client.infer(model, given, outputs=wanted, request_id=request_id, **told)
            arrays = {name: found.as_numpy(name) for name in outputs}
            said = found.get_response()
            if isinstance(said, dict):
                return Answer(arrays, str(said.get("id", "")), str(said.get("model_version", "")))
            return Answer(arrays, said.id, said.model_version)

        return self._ask(ask, within_s)

    def close(self) -> None:
        """Hang up; never waits. Twice does no harm."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait until its thread has ended, or no longer."""
        self._thread.join(timeout_s)

    @property
    def _as_json(self) -> dict[str, bool]:
        return {"as_json": True} if self._protocol == "grpc" else {}

    def _takes_bytes(self, client: Any) -> bool:
        """Whether tensors may go as bytes; all servers take them as text, which is longer, and as exact."""
        if self._is_binary is None:
            told = client.get_server_metadata()
            self._is_binary = "binary_tensor_data" in told.get("extensions", ())
        return self._is_binary

    def _input(self, name: str, array: Array, how: dict[str, bool]) -> Any:
        from tritonclient.utils import np_to_triton_dtype

        given = self._library.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        given.set_data_from_numpy(array, **how)
        return given

    def _ask(self, work: Callable[[Any, dict[str, Any]], T], within_s: float) -> T:
        if self._is_closed:
            raise AwayError(f"{self._address} was hung up")
        job = _Job(work, within_s)
        self._jobs.put(job)
        if not job.done.wait(within_s + GRACE_S):
            self.close()  # whatever it is at, this thread is of no more use
            raise AwayError(f"{self._address} did not answer within {within_s * 1000:.0f} ms")
        if job.failure is not None:
            raise _told(self._address, job.failure, within_s)
        found: T = job.found
        return found

    # -- on the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        client: Any = None
        try:
            while (job := self._jobs.get()) is not None:
                try:
                    with self._within(job.within_s):
                        client = client or self._open(job.within_s)
                        job.found = job.work(client, self._told_of_time(job.within_s))
                except BaseException as failure:  # gevent's time-out is no Exception; told to who asked
                    job.failure = failure.with_traceback(None)  # whose frames hold a socket
                job.done.set()
        finally:
            with contextlib.suppress(Exception):
                if client is not None:
                    client.close()
            if self._protocol == "http":
                _forget_hub()

    def _open(self, within_s: float) -> Any:
        make, tls = self._library.InferenceServerClient, self._tls
        if self._protocol == "grpc":
            files = tls or Tls()
            return make(
                self._address,
                ssl=tls is not None,
                root_certificates=files.ca_file,
                private_key=files.key,
                certificate_chain=files.certificate,
                channel_args=list(_GRPC_OPTIONS),
            )
        return make(
            self._address,
            concurrency=1,
            connection_timeout=within_s,
            network_timeout=within_s,
            ssl=tls is not None,
            ssl_context_factory=None if tls is None else partial(_context, tls),
        )

    def _told_of_time(self, within_s: float) -> dict[str, Any]:
        return {"client_timeout": within_s} if self._protocol == "grpc" else {}

    def _within(self, seconds: float) -> contextlib.AbstractContextManager[Any]:
        if self._protocol == "grpc":
            return contextlib.nullcontext()
        import gevent

        timeout: contextlib.AbstractContextManager[Any] = gevent.Timeout(seconds)
        return timeout


class _Job:
    """A call, and what came of it."""

    def __init__(self, work: Callable[[Any, dict[str, Any]], Any], within_s: float) -> None:
        self.work, self.within_s = work, within_s
        self.done = threading.Event()
        self.found: Any = None
        self.failure: BaseException | None = None


_running: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Greenlets must have ended before Python does: what is left of them would crash the process."""
    until_s = time.monotonic() + _EXIT_S
    for client in tuple(_running):
        client.close()
    for client in tuple(_running):
        client.join(max(0.0, until_s - time.monotonic()))


def _library(protocol: Protocol) -> Any:
    try:
        return importlib.import_module(f"tritonclient.{protocol}")
    except (ImportError, RuntimeError) as error:  # tritonclient raises the latter for want of gRPC or gevent
        raise MissingError(
            "calling an inference server needs tritonclient",
            hint="install it with: pip install 'edge-mer[triton]'",
        ) from error


def _context(tls: Tls, cafile: str | None = None) -> Any:
    """What an HTTP client verifies the server with; it would trust authorities of its own otherwise."""
    import gevent.ssl

    context = gevent.ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key, lambda: "")  # asks nobody for a password
    return context


def _forget_hub() -> None:
    """Free what gevent keeps for a thread, which ends."""
    import gevent

    with contextlib.suppress(Exception):
        gevent.get_hub().destroy(destroy_loop=True)


def _tensors(told: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    from tritonclient.utils import triton_to_np_dtype

    found: dict[str, Tensor] = {}
    for one in told:
        kind = triton_to_np_dtype(one["datatype"])
        dtype = "" if kind is None else np.dtype(kind).name
        found[str(one["name"])] = Tensor(dtype, tuple(int(size) for size in one.get("shape", ())))
    return found


def _told(address: str, failure: BaseException, within_s: float) -> EdgeMerError:
    """A failure of the client's in our words: the server is away, or another one than what is wanted."""
    from tritonclient.utils import InferenceServerException

    if isinstance(failure, TimeoutError) or type(failure).__module__.startswith("gevent"):
        return AwayError(f"{address} did not answer within {within_s * 1000:.0f} ms")
    if isinstance(failure, OSError):
        found = getattr(failure, "verify_message", None) or failure.strerror or str(failure)
        return AwayError(f"{address} cannot be reached", found=_short(found))
    if isinstance(failure, InferenceServerException):
        status = str(failure.status() or "").removeprefix("StatusCode.")
        if status == "DEADLINE_EXCEEDED":
            return AwayError(f"{address} did not answer within {within_s * 1000:.0f} ms")
        said = _short(str(failure.message()))
        if status in _AWAY or status.startswith("5"):
            return AwayError(f"{address} does not answer as it should", found=f"{status} {said}")
        return RefusedError(f"{address} refuses", found=f"{status} {said}".strip())
    return MissingError(
        f"what answers at {address} is no inference server, or not in this protocol",
        found=_short(f"{type(failure).__name__}: {failure}"),
        hint="check the port, and protocol=grpc or protocol=http",
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"
