"""NVIDIA's Triton Inference Server, of a Python package that holds it: its core and its Python backend.

The package has no backend for ONNX or TensorRT. One for ONNX is compiled here, small and of our own, on the
ONNX Runtime of a Python package: a repository runs as it was written. Where no compiler is, a model's backend
is swapped for one in Python that runs the same file. Protocol, scheduling, batching and sequences with their
states are Triton's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from edge_mer.bundle.read import Bundle, open_bundle
from tests.helpers.waiting import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2", f"onnxruntime=={version('onnxruntime')}")
"""With the ONNX Runtime of this side, whose numbers are compared."""
TRITON_DEADLINE_S = 120.0
"""What a start may take while other tests fill the cores."""
_BACKEND = Path(__file__).with_name("triton_onnxruntime.cpp")
_MODEL = Path(__file__).with_name("triton_by_onnxruntime.py")


class TritonServer:
    """A server on ports of its own, which a restart keeps.

    Args:
        repository: Models that this server can run, see `serve_by_onnxruntime`.
        options: More of its command line, e.g. "--log-verbose=1".

    Attributes:
        http_port: Of the loopback.
        grpc_port: Of the loopback.
        log: What it says.
    """

    def __init__(self, repository: Path, *options: str) -> None:
        self.repository = repository
        self.http_port, self.grpc_port = free_port(), free_port()
        self.log = repository.with_name(f"{repository.name}.log")
        self._options = options
        self._shared = f"edge-mer-{os.getpid()}-{self.http_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TritonServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, *, wait: bool = True) -> None:
        """Start it; returns when it is ready, or at once."""
        packages = _packages()
        backends = self._backends(packages)
        server = packages / "pytriton" / "tritonserver"
        libraries = [server / "lib", server / "external_libs", packages / "nvidia_pytriton.libs"]
        python = packages.parents[2] / "bin"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": f"{python}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        }
        command = [
            str(server / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shared}",
            f"--http-address={HOST}",
            f"--http-port={self.http_port}",
            f"--grpc-address={HOST}",
            f"--grpc-port={self.grpc_port}",
            "--allow-metrics=false",
            "--exit-timeout-secs=5",
            *self._options,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until every model is loaded.

        Raises:
            AssertionError: It ended, or is not ready in time; with the end of its log.
        """
        until_s = time.monotonic() + TRITON_DEADLINE_S
        while not self.is_ready():
            ended = self._process is None or self._process.poll() is not None
            assert not ended, f"Triton ended: {self._end_of_log()}"
            assert time.monotonic() < until_s, f"not in {TRITON_DEADLINE_S:g} s: {self._end_of_log()}"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it says that it can serve all of its models."""
        with contextlib.suppress(OSError, urllib.error.URLError):
            url = f"http://{HOST}:{self.http_port}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def stop(self) -> None:
        """SIGTERM, and wait until it has ended in its own way."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            wait_until(lambda: self._process is None or self._process.poll() is not None, "Triton ends")
        self.kill()

    def kill(self) -> None:
        """SIGKILL, to the processes of its models too."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for left in Path("/dev/shm").glob(f"{self._shared}*"):  # noqa: S108 -- where the kernel has it
            left.unlink(missing_ok=True)

    def _end_of_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def _backends(self, packages: Path) -> Path:
        """The Python backend with the process that runs models, and where it can be made one of ONNX."""
        folder = self.repository.with_name(f"{self.repository.name}-backends")
        server = packages / "pytriton" / "tritonserver"
        if not folder.exists():
            shutil.copytree(server / "backends" / "python", folder / "python")
            stubs = server / "python_backend_stubs" / packages.parent.name.removeprefix("python")
            shutil.copy(stubs / "triton_python_backend_stub", folder / "python")
            if why_no_onnx_backend() is None:
                shutil.copytree(_onnx_backend(), folder / "onnxruntime", symlinks=True)
        return folder


def why_no_onnx_backend() -> str | None:
    """What is missing for a repository to run as it was written; None if nothing is."""
    if shutil.which("g++") is None:
        return "needs g++ to make a backend for Triton that runs ONNX"
    if not list((_packages() / "onnxruntime" / "capi").glob("libonnxruntime.so.*")):
        return f"needs an ONNX Runtime in {_packages()} with its library"
    return None


@functools.cache
def _onnx_backend() -> Path:
    """The compiled backend beside a link to the library that it calls."""
    (library,) = (_packages() / "onnxruntime" / "capi").glob("libonnxruntime.so.*")
    key = hashlib.sha256(_BACKEND.read_bytes() + str(library).encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"triton-onnxruntime-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one makes it
        made = folder / "libtriton_onnxruntime.so"
        if not made.exists():
            link = folder / "libonnxruntime.so.1"
            link.unlink(missing_ok=True)
            link.symlink_to(library)
            flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
            flags += ["-fvisibility=hidden", "-Wl,-rpath,$ORIGIN"]
            command = ["g++", *flags, str(_BACKEND), str(library), "-o", str(folder / "new.so")]
            subprocess.run(command, check=True)
            (folder / "new.so").rename(made)
    return folder


def _packages() -> Path:
    """Where the server's packages lie; made once, in an environment of their own: they need NumPy 1."""
    given = os.environ.get("EDGE_MER_TEST_TRITON")
    folder = Path(given) if given else ROOT / "build" / "triton-venv"
    if given is None and (why := _why_not_installed(folder)) is not None:
        pytest.skip(f"{PACKAGES[0]} cannot be installed here: {why}")
    found = [path.parent for path in folder.glob("lib/python3.*/site-packages/pytriton")]
    if not found:
        pytest.skip(f"no {PACKAGES[0]} in {folder}, which EDGE_MER_TEST_TRITON names")
    return found[0]


@functools.cache
def _why_not_installed(folder: Path) -> str | None:
    """Install it, unless that was done; what pip said last where it cannot."""
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes, and one makes it
        try:
            _install(folder)
        except subprocess.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
            return said[-1] if said else str(error)
    return None


def _install(folder: Path) -> None:
    stamp, wanted = folder / "stamp", "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--retries=1", "--only-binary=:all:", *PACKAGES]
    subprocess.run(command, check=True, capture_output=True)
    stamp.write_text(wanted, encoding="utf-8")


def serve_by_onnxruntime(repository: Path) -> Path:
    """Have every ONNX model of a repository run by the Python backend; returns the repository, changed."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    for file in sorted(repository.glob("*/config.pbtxt")):
        config = text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
        if config.platform != "onnxruntime_onnx":
            continue
        config.platform, config.backend, config.default_model_filename = "", "python", ""
        if config.HasField("sequence_batching"):
            _tell_who_it_is(config.sequence_batching)
        file.write_text(text_format.MessageToString(config), encoding="utf-8")
        for number in file.parent.glob("[0-9]*"):
            shutil.copy(_MODEL, number / "model.py")
    return repository


def _tell_who_it_is(batching: Any) -> None:
    """The swapped backend keeps states itself, and must know whose."""
    from tritonclient.grpc import model_config_pb2 as pb

    Control = pb.ModelSequenceBatching.Control
    kinds = {control.kind for given in batching.control_input for control in given.control}
    if Control.CONTROL_SEQUENCE_CORRID not in kinds:
        control = Control(kind=Control.CONTROL_SEQUENCE_CORRID, data_type=pb.TYPE_UINT64)
        batching.control_input.add(name="CORRID", control=[control])


def write_stages(bundle: Path, repository: Path, precision: str = "fp32", model: str | None = None) -> Path:
    """A repository with the stages of a bundle alone, ready to be served: `<model>_<stage>`."""
    opened = open_bundle(bundle)
    name = model or opened.name.replace("-", "_")
    for stage, inputs, outputs in _edges(opened):
        folder = repository / f"{name}_{stage}"
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.onnx").write_bytes(opened.read_stage(precision, stage))
        shutil.copy(_MODEL, folder / "1" / "model.py")
        lines = [f'name: "{folder.name}"', 'backend: "python"', "max_batch_size: 8"]
        lines += [f"input [{{ {_tensor(spec)} }}]" for spec in inputs]
        lines += [f"output [{{ {_tensor(spec)} }}]" for spec in outputs]
        (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return repository


def _edges(opened: Bundle) -> Iterator[tuple[str, Any, Any]]:
    model = opened.manifest.model
    for encoder in model.encoders:
        yield encoder.stage, (encoder.input,), (encoder.output,)
    yield model.fusion.stage, model.fusion.inputs, model.fusion.outputs


def _tensor(spec: Any) -> str:
    types = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}
    dims = [size if isinstance(size, int) else -1 for size in spec.shape[1:]]
    return f"name: {json.dumps(spec.name)} data_type: {types[spec.dtype]} dims: {dims}"
