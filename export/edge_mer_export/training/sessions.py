"""Labelled sessions in steps: through the device's own runtime, once, and kept in the run's folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mer.errors import DataError
from edge_mer.labels.manifest import Recording
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.labelled import collect_labelled
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.types.model import Clip, Encoder, ModelSpec
from edge_mer_export.engines import zero_engines

Progress = Callable[[int, int], None]
_THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Session:
    """One person's session in steps.

    Attributes:
        person: Who it is.
        steps: Stage -> (steps, …), zero where absent.
        present: Stage -> (steps,).
        labels: Output -> (steps,) float32; NaN = none.
    """

    person: str
    steps: dict[str, Floats]
    present: dict[str, NDArray[np.bool_]]
    labels: dict[str, NDArray[np.float32]]

    @property
    def n_steps(self) -> int:
        """How many."""
        return len(next(iter(self.present.values())))


def load_sessions(
    spec: ModelSpec, recordings: Sequence[Recording], folder: Path, n_processes: int, progress: Progress
) -> list[Session]:
    """The sessions of `recordings`, in their order.

    Args:
        spec: The model's declaration.
        recordings: What to play.
        folder: Keeps what was played, so that it is played once.
        n_processes: How many at a time.
        progress: Told (done, all).

    Raises:
        DataError: A recording cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_key(spec, one)}.npz" for one in recordings]
    missing = [i for i, file in enumerate(files) if not file.exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context, initializer=_start_worker) as pool:
        with _deaf_children(), _single_threaded_children():
            jobs = [pool.submit(_keep, spec, recordings[i], files[i]) for i in missing]
        try:
            for n_done, job in enumerate(jobs, 1):
                job.result()
                progress(len(files) - len(jobs) + n_done, len(files))
        except BrokenProcessPool as error:
            raise DataError(
                "a process that played sessions was ended from outside",
                found="most likely too little memory",
                hint="lower the recipe's threads, or cut the recordings, and go on with --resume",
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():
                worker.terminate()  # a session that is half played is played again
            raise
    return [_read(spec, file) for file in files]


def _key(spec: ModelSpec, recording: Recording) -> str:
    """Names what was played, with which labels, and how it was cut; not what is made of it then."""
    cut, played = [spec.step, *spec.encoders, *spec.outputs], dataclasses.replace(recording, split=None)
    digest = hashlib.sha256(f"{cut!r}\n{played!r}\n".encode())
    if recording.labels is not None:
        digest.update(recording.labels.read_bytes())
    return digest.hexdigest()[:24]


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started meanwhile do not hear Ctrl-C, which is for the one that started them to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Processes started meanwhile do their sums in one thread: two for each would wait for each other."""
    before = {name: os.environ.get(name) for name in _THREAD_COUNTS}
    os.environ.update(dict.fromkeys(_THREAD_COUNTS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed takes its workers with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _keep(spec: ModelSpec, recording: Recording, file: Path) -> None:
    setup = PipelineSetup(spec, zero_engines(spec), open_face_detector())
    played = collect_labelled(setup, recording)
    arrays: dict[str, NDArray[Any]] = {"person": np.array(recording.person)}
    for encoder in spec.encoders:
        stage = encoder.stage
        there = np.array([stage in trace.inputs for trace in played.traces], np.bool_)
        steps = np.zeros((len(there), *encoder.input.concrete(batch=1)[1:]), _kept_type(encoder))
        for index in np.flatnonzero(there):
            steps[index] = played.traces[index].inputs[stage][0]
        arrays |= {f"steps.{stage}": steps, f"present.{stage}": there}
    arrays |= {f"label.{name}": values for name, values in played.labels.items()}
    partial = file.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as target:
        np.savez(target, allow_pickle=False, **arrays)
    partial.replace(file)


def _kept_type(encoder: Encoder) -> type[np.floating[Any]]:
    """Pixels had 8 bits; half precision keeps them and halves what a run needs."""
    return np.float16 if isinstance(encoder.preprocess, Clip) else np.float32


def _read(spec: ModelSpec, file: Path) -> Session:
    with np.load(file, allow_pickle=False) as arrays:
        stages = [encoder.stage for encoder in spec.encoders]
        return Session(
            person=str(arrays["person"]),
            steps={stage: arrays[f"steps.{stage}"] for stage in stages},
            present={stage: arrays[f"present.{stage}"] for stage in stages},
            labels={output.name: arrays[f"label.{output.name}"] for output in spec.outputs},
        )
