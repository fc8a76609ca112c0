"""Writes what a session takes in, and its predictions, to an MCAP file, in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import DataError, UsageError
from edge_mer.sinks.mcap_file import McapFile
from edge_mer.sinks.recorded_message import schema_of, to_message
from edge_mer.types.predictions import Prediction
from edge_mer.types.recording import (
    CLOCK_OFFSET,
    CLOCKS_TOPIC,
    FEATURE,
    FEATURES_TOPIC,
    MAX_MESSAGE_BYTES,
    PREDICTION,
    PREDICTIONS_TOPIC,
    RecordedChannel,
    SessionInfo,
    why_unrecordable,
)
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec

Samples = NDArray[np.float32]

FLUSH_EVERY_NS = NS_PER_S // 2
"""So often a part is completed: at most a second is to be lost, and what is on its way counts towards it."""

MAX_QUEUED_BYTES = 128 << 20
"""What waits for the disk: 4 s of 640 x 480 pixels at 30 Hz."""

_FLUSH_AT_BYTES = 4 << 20
_MESSAGE_BYTES = 4096
_N_MAKERS = 2
_NICENESS = 10
_LOOK_EVERY_S = 0.1
_MAX_T_NS = 1 << 63
_UNFIT = "a chunk is too large or has an impossible time, and is left out"


@dataclass(frozen=True)
class _Message:
    """Where and when a message belongs; `n_bytes` is what it takes up while it waits."""

    channel: int
    log_ns: int
    publish_ns: int
    seq: int
    n_bytes: int


@dataclass(frozen=True)
class _Queued:
    """A message whose contents are being made."""

    message: _Message
    data: Future[bytes]


class Recorder:
    """Keeps a session in a file. Nothing that goes wrong with it reaches the session.

    A disk that is too slow makes it drop whole chunks, which it counts, and one that is full ends the
    recording; `tell` is told of both, once. What the file has by then stays. At most a second is lost
    with the process. Its threads give way to all others.

    Args:
        path: A new file.
        clock: Says when to flush.
        waits: The session can wait, as a recording that is played: then nothing is dropped.
        tell: Told in one sentence what the user must know, from the recorder's thread.
        max_queued_bytes: What may wait for the disk.

    Attributes:
        n_messages: Messages that the file has.
        n_dropped: Messages that it has not.
        failure: What ended the recording early; None: nothing did.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        waits: bool,
        tell: Callable[[str], None],
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self._path, self._clock, self._waits, self._tell = path, clock, waits, tell
        self._max_queued_bytes = max_queued_bytes
        self._file: McapFile | None = None
        self._thread: threading.Thread | None = None
        self._makers = ThreadPoolExecutor(_N_MAKERS, "recorder", _give_way)
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._channels: dict[str, tuple[int, RecordedChannel]] = {}
        self._utc_zero_ns = self._end_ns = 0
        self.n_messages = self.n_dropped = self._n_added = 0
        self.failure: Exception | None = None

    @property
    def target(self) -> Path:
        """The file."""
        return self._path

    @property
    def n_bytes(self) -> int:
        """Bytes that were written so far."""
        return 0 if self._file is None else self._file.n_bytes

    def open(self) -> None:
        """Create the file, so that nothing begins that could not be kept.

        Raises:
            UsageError: There is such a file, or it cannot be written.
        """
        try:
            self._file = McapFile(self._path)
        except FileExistsError as error:
            raise UsageError(
                f"{self._path} exists", hint="name another file: a recording never takes one's place"
            ) from error
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot record to {self._path}",
                found=getattr(error, "strerror", None) or str(error),
                hint="name a file in a folder that you may write to",
            ) from error

    def begin(self, specs: Sequence[StreamSpec], info: SessionInfo, stages: Sequence[str] = ()) -> None:
        """Begin to write.

        Args:
            specs: The streams that are kept.
            info: What session it is.
            stages: Encoders whose features are kept.

        Raises:
            DataError: A stream that no recording can keep, or two of one name.
        """
        if self._file is None:
            raise RuntimeError("the recorder is not open")
        for spec in specs:
            if why := why_unrecordable(spec):
                raise DataError(f"stream {spec.name} cannot be recorded", found=why)
        names = [spec.name for spec in specs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(
                f"two streams are called {twice[0]}", hint="record them one by one, or rename a file"
            )
        found = [RecordedChannel(f"/{spec.name}", schema_of(spec), spec) for spec in specs]
        found += [
            RecordedChannel(CLOCKS_TOPIC, CLOCK_OFFSET),
            RecordedChannel(PREDICTIONS_TOPIC, PREDICTION),
            *(RecordedChannel(f"{FEATURES_TOPIC}{stage}", FEATURE) for stage in stages),
        ]
        self._channels = {channel.topic: (number, channel) for number, channel in enumerate(found, 1)}
        self._utc_zero_ns = info.utc_zero_ns
        self._file.begin(info, dict(self._channels.values()))
        self._thread = threading.Thread(target=self._work, args=(self._file,), name="recorder", daemon=True)
        self._thread.start()

    def chunk(
        self,
        chunk: Chunk,
        arrived_ns: int | None = None,
        given_ns: int | None = None,
        heard_ns: int | None = None,
    ) -> None:
        """Take a chunk of the session.

        Args:
            chunk: With the session's time.
            arrived_ns: The session's time when it came; None: when it was captured.
            given_ns: The time by the remote clock that stamped it; None where none did.
            heard_ns: The session's time up to which all that came had been given before it; None: it was not
                live.
        """
        number, channel = self._channels[f"/{chunk.stream}"]
        if channel.stream is None:
            return
        utc_ns = self._utc_zero_ns + chunk.t_ns
        log_ns = utc_ns if arrived_ns is None else self._utc_zero_ns + arrived_ns
        message = _Message(number, log_ns, utc_ns, chunk.seq, chunk.data.nbytes + _MESSAGE_BYTES)
        self._put(
            message, partial(to_message, chunk, channel.stream, channel.schema, utc_ns, given_ns, heard_ns)
        )
        self._end_ns = max(self._end_ns, chunk.t_ns)

    def offset(self, look: ClockOffset) -> None:
        """Take a look at a remote clock, its `host_ns` of the session's time."""
        fields = {
            "stream": look.stream,
            "remote_ns": look.remote_ns,
            "host_ns": look.host_ns,
            "uncertainty_ns": look.uncertainty_ns,
        }
        self._beside(CLOCKS_TOPIC, look.host_ns, look.host_ns, lambda: fields)

    def prediction(self, prediction: Prediction, made_ns: int) -> None:
        """Take a prediction that was made at `made_ns` of the session's time."""
        self._beside(PREDICTIONS_TOPIC, made_ns, prediction.t_end_ns, prediction.to_dict)

    def feature(self, stage: str, step: int, t_end_ns: int, values: Samples, *, present: bool) -> None:
        """Take what an encoder made of a step that ends at `t_end_ns`; values are (feature,)."""
        self._beside(
            f"{FEATURES_TOPIC}{stage}",
            t_end_ns,
            t_end_ns,
            lambda: {"step": step, "present": present, "values": values.tolist()},
        )

    def close(self) -> None:
        """Write what still waits, and the summary; harmless when nothing was opened, and twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        elif self._file is not None:  # nothing was ever begun
            self._file.abandon()
            self._path.unlink(missing_ok=True)
            self._file = None

    # -- the queue ------------------------------------------------------------------------------

    def _beside(self, topic: str, log_ns: int, publish_ns: int, fields: Callable[[], Any]) -> None:
        number, _ = self._channels[topic]
        zero_ns = self._utc_zero_ns

        def make() -> bytes:
            return json.dumps(fields(), allow_nan=False).encode()

        self._put(_Message(number, zero_ns + log_ns, zero_ns + publish_ns, 0, _MESSAGE_BYTES), make)

    def _put(self, message: _Message, make: Callable[[], bytes]) -> None:
        is_possible = all(0 <= t_ns < _MAX_T_NS for t_ns in (message.log_ns, message.publish_ns))
        if not is_possible or message.n_bytes > self._max_queued_bytes:
            self._drop(_UNFIT)
            return
        with self._changed:
            if self._waits:
                self._changed.wait_for(lambda: self._has_room(message) or self.failure is not None)
            if self.failure is not None:
                self.n_dropped += 1
                return
            if has_room := self._has_room(message):
                self._queue.append(_Queued(message, self._makers.submit(make)))
                self._queued_bytes += message.n_bytes
                self._changed.notify_all()
        if not has_room:
            self._drop("the disk is too slow; what it cannot keep up with is left out")

    def _has_room(self, message: _Message) -> bool:
        return self._queued_bytes + message.n_bytes <= self._max_queued_bytes

    def _drop(self, why: str) -> None:
        with self._changed:
            self.n_dropped += 1
            is_first = self.n_dropped == 1
        if is_first:
            self._tell(f"Recording {self._path}: {why}.")

    # -- the thread -----------------------------------------------------------------------------

    def _work(self, file: McapFile) -> None:
        _give_way()
        try:
            self._write(file)
            file.finish(self._utc_zero_ns + self._end_ns, self.n_dropped)
            self.n_messages = self._n_added
        except Exception as failure:
            file.abandon()
            with self._changed:
                self.failure = failure
                self.n_dropped += len(self._queue) + self._n_added - self.n_messages
                self._queue.clear()
                self._queued_bytes = 0
                self._changed.notify_all()
            reason = getattr(failure, "strerror", None) or repr(failure)
            self._tell(
                f"Recording stopped: {self._path} cannot be written any more ({reason}). What it has so far "
                f"is kept; edge-mer record --repair {self._path} completes it."
            )
        finally:
            self._makers.shutdown(cancel_futures=True)

    def _write(self, file: McapFile) -> None:
        due_ns = self._clock.now_ns() + FLUSH_EVERY_NS
        is_over = False
        while not is_over:
            queued, is_over = self._take()
            if queued is not None:
                self._add(file, queued)
            if file.held_bytes >= _FLUSH_AT_BYTES or self._clock.now_ns() >= due_ns:
                file.flush(self.n_dropped)
                self.n_messages = self._n_added
                due_ns = self._clock.now_ns() + FLUSH_EVERY_NS

    def _add(self, file: McapFile, queued: _Queued) -> None:
        message, data = queued.message, queued.data.result()
        if len(data) > MAX_MESSAGE_BYTES:
            self._drop(_UNFIT)
            return
        file.add(message.channel, message.log_ns, message.publish_ns, data, message.seq)
        self._n_added += 1

    def _take(self) -> tuple[_Queued | None, bool]:
        """The next message, if one came soon, and whether none ever will."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closing, _LOOK_EVERY_S)
            if not self._queue:
                return None, self._is_closing
            queued = self._queue.popleft()
            self._queued_bytes -= queued.message.n_bytes
            self._changed.notify_all()
            return queued, False


def _give_way() -> None:
    """Let this thread run when no other wants to; the session's own come first."""
    with contextlib.suppress(OSError):  # of use, not of need
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
