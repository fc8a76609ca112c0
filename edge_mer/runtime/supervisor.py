"""Keeps live sources going: sees that one broke, opens it again, and says how each stream is."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import EdgeMerError, LostError, SpecMismatchError
from edge_mer.runtime.arrival_watch import STALL_LEAST_NS, ArrivalWatch, BackOff, StreamState
from edge_mer.sources.base import RemotelyClocked, Source
from edge_mer.types.signals import Chunk, ClockOffset, StreamSpec
from edge_mer.types.uri_keys import shown

_WRONG_RATE_FOR_NS = 5 * NS_PER_S
"""A stream of samples at a wrong rate for so long is opened again. Pictures are not: a camera in the dark
takes its time, and would after it was opened again."""

_LOOK_EVERY_S = 0.005


@dataclass(frozen=True)
class SourceHealth:
    """How one live source is.

    Attributes:
        uri: Names it; without a password.
        states: Stream -> how it comes.
        n_restarts: Times that it was opened again, with success.
        n_failed: Times that opening it again failed.
        trouble: What was wrong last; "" if nothing ever was.
    """

    uri: str
    states: dict[str, StreamState]
    n_restarts: int
    n_failed: int
    trouble: str


class SupervisedSource:
    """A live source that is opened again whenever it is lost, falls silent or runs at a wrong rate.

    To whoever reads it is one source whose chunks' numbers go on counting. Opening it again happens in a
    thread of its own, so that reading never waits for it. Errors other than `LostError` are raised: they
    are no matter of the device.

    Args:
        source: Not yet opened.
        clock: Where the time comes from.
        hop_ns: Time between two predictions: half of it in silence is a stall.
    """

    is_live = True

    def __init__(self, source: Source, clock: Clock, hop_ns: int) -> None:
        self._source, self._clock, self._hop_ns = source, clock, hop_ns
        self._remote = source if isinstance(source, RemotelyClocked) else None
        self._specs: tuple[StreamSpec, ...] = ()
        self._watches: dict[str, ArrivalWatch] = {}
        self._wrong_since_ns: int | None = None
        self._started_ns = self._emptied_ns = 0
        self._next_seqs: dict[str, int] = {}
        self._first_seqs: dict[str, int] = {}
        self._back_off = BackOff(zlib.crc32(source.uri.encode()))
        self._n_restarts = self._n_failed = 0
        self._trouble = ""
        self._lock = threading.Lock()
        self._stop_asked = threading.Event()
        self._mended = threading.Event()
        self._mender: threading.Thread | None = None

    # -- a source --------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """The source's own."""
        return self._source.uri

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """As the source described its streams when it was first opened."""
        return self._specs

    @property
    def ended(self) -> bool:
        """Whether the source says that it is over for good; one that was lost is not."""
        return self._mender is None and self._source.ended

    def ensure_ready(self) -> None:
        """Open the source; the first time it must succeed, so that a wrong URI is told at once."""
        if not self._specs:
            self._source.ensure_ready()
            self._specs = self._source.specs
            self._watches = {spec.name: ArrivalWatch(spec, self._stall_ns(spec)) for spec in self._specs}

    def start(self) -> None:
        """Begin to deliver."""
        self._source.start()
        self._begin_watching()

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next chunk, or None when none came within `timeout_ms`, for whatever reason."""
        if self._mender is not None and not self._is_mended(timeout_ms):
            return None
        try:
            chunk = self._source.read(timeout_ms)
        except LostError as lost:
            self._mend(str(lost))
            return None
        if chunk is None:
            self._emptied_ns = self._clock.now_ns()
        counted = None if chunk is None else self._counted(chunk)
        if not self._source.ended:
            self._look_for_trouble()
        return counted

    def clock_offsets(self) -> list[ClockOffset]:
        """What the source knows of a remote clock; nothing while it is being opened again."""
        return [] if self._remote is None or self._mender is not None else self._remote.clock_offsets()

    def ensure_stopped(self) -> None:
        """Release everything, also in the middle of opening it again."""
        self._stop_asked.set()
        if self._mender is not None:
            self._mender.join()
        self._source.ensure_stopped()

    # -- how it is -------------------------------------------------------------------------------

    @property
    def streams(self) -> frozenset[str]:
        """The names of its streams."""
        return frozenset(self._watches)

    def state(self, stream: str) -> StreamState:
        """How a stream is now; any thread may ask."""
        if self._mender is not None:
            return "restarting"
        with self._lock:
            return self._watches[stream].state(self._emptied_ns)

    def health(self) -> SourceHealth:
        """How it all is now; any thread may ask."""
        states = {name: self.state(name) for name in self._watches}
        return SourceHealth(shown(self.uri), states, self._n_restarts, self._n_failed, self._trouble)

    # -- watching --------------------------------------------------------------------------------

    def _stall_ns(self, spec: StreamSpec) -> int:
        few_ns = 0 if spec.rate_hz is None else int(3 * NS_PER_S / spec.rate_hz)
        return max(self._hop_ns // 2, STALL_LEAST_NS, few_ns)

    def _begin_watching(self) -> None:
        self._started_ns = self._emptied_ns = self._clock.now_ns()
        self._wrong_since_ns = None
        with self._lock:
            for watch in self._watches.values():
                watch.start(self._started_ns, again=self._n_restarts > 0)

    def _counted(self, chunk: Chunk) -> Chunk:
        arrived_ns = self._clock.now_ns() if chunk.arrived_ns is None else chunk.arrived_ns
        with self._lock:
            watch = self._watches.get(chunk.stream)
            if watch is not None:
                watch.arrived(chunk, arrived_ns)
        self._back_off.was_well(arrived_ns - self._started_ns)
        seq = self._first_seqs.get(chunk.stream, 0) + chunk.seq
        self._next_seqs[chunk.stream] = max(seq + 1, self._next_seqs.get(chunk.stream, 0))
        return replace(chunk, seq=seq, arrived_ns=arrived_ns)

    def _look_for_trouble(self) -> None:
        now_ns = self._clock.now_ns()
        with self._lock:
            states = {name: watch.state(self._emptied_ns) for name, watch in self._watches.items()}
        stalled = [name for name, state in states.items() if state == "stalled"]
        wrong = [
            name
            for name, state in states.items()
            if state == "wrong_rate" and self._watches[name].spec.modality != "visual"
        ]
        if not wrong:
            self._wrong_since_ns = None
        elif self._wrong_since_ns is None:
            self._wrong_since_ns = now_ns
        if stalled:
            self._mend(f"{', '.join(stalled)}: nothing came any more.")
        elif self._wrong_since_ns is not None and now_ns - self._wrong_since_ns > _WRONG_RATE_FOR_NS:
            self._mend(f"{', '.join(wrong)}: another rate than was said.")

    # -- mending ---------------------------------------------------------------------------------

    def _is_mended(self, timeout_ms: int) -> bool:
        """Wait for the mending; True once the source delivers again."""
        if not self._mended.is_set():
            self._clock.sleep_until_ns(self._clock.now_ns() + timeout_ms * NS_PER_S // 1000)
        if not self._mended.is_set():
            return False
        if self._mender is not None:
            self._mender.join()
        self._mender = None
        return True

    def _mend(self, trouble: str) -> None:
        self._trouble = trouble
        self._mended.clear()
        self._mender = threading.Thread(target=self._open_again, name="edge-mer mending", daemon=True)
        self._mender.start()

    def _open_again(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self._source.ensure_stopped()
                if self._is_stopped_before(self._clock.now_ns() + self._back_off.next_ns()):
                    return
                self._source.ensure_ready()
                self._check_same()
                self._source.start()
            except Exception as error:
                self._n_failed += 1
                self._trouble = str(error) if isinstance(error, EdgeMerError) else repr(error)
                continue
            self._n_restarts += 1
            self._first_seqs = dict(self._next_seqs)
            self._begin_watching()
            self._mended.set()
            return

    def _is_stopped_before(self, t_ns: int) -> bool:
        """Wait until the clock says so; True as soon as nobody wants the source any more."""
        while self._clock.now_ns() < t_ns:
            if self._stop_asked.wait(_LOOK_EVERY_S):
                return True
        return False

    def _check_same(self) -> None:
        if _kinds(self._source.specs) != _kinds(self._specs):
            raise SpecMismatchError(
                f"{shown(self.uri)} came back as something else",
                expected=_written(self._specs),
                found=_written(self._source.specs),
                hint="connect the sensor that was there before, or start again",
            )


def supervised(sources: Sequence[Source], clock: Clock, hop_ns: int) -> list[Source]:
    """The same sources, each live one under supervision."""
    return [SupervisedSource(one, clock, hop_ns) if one.is_live else one for one in sources]


def health_of(sources: Sequence[Source]) -> list[SourceHealth]:
    """How each live source is."""
    return [source.health() for source in sources if isinstance(source, SupervisedSource)]


def _kinds(specs: Sequence[StreamSpec]) -> list[StreamSpec]:
    """What must not change while a session runs; a camera may take another rate in other light."""
    return [replace(spec, rate_hz=None) if spec.modality == "visual" else spec for spec in specs]


def _written(specs: Sequence[StreamSpec]) -> str:
    return ", ".join(f"{s.name} ({s.rate_hz} Hz, {len(s.channels)} channels, {s.unit})" for s in specs)
