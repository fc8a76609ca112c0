"""`lsl:` is a stream of the Lab Streaming Layer, on this machine or another one in its network.

lsl:type=EDA
lsl:name='Shimmer 3'&type=ECG&channel=LL-RA&unit=mV
lsl:type=Markers
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import DataError, LostError, MissingError, UsageError
from edge_mer.sources.base import Attached
from edge_mer.sources.capture import Put
from edge_mer.sources.live import LiveSource
from edge_mer.sources.lsl_choice import EXAMPLE, Channel, Chosen, Description, LslSettings, choose
from edge_mer.sources.pieces import pieces
from edge_mer.sources.transcript_line import MAX_WORDS, Word, parse_line
from edge_mer.types.signals import UNITS, Chunk, ClockOffset, StreamSpec

INSTALL = "pip install 'edge-mer[bio]'; on aarch64 liblsl itself too, see docs/how-to-sensors.md"

LOOK_S = 1.0
"""So often the remote clock is looked at; liblsl itself asks it every few seconds."""

_RESOLVE_S = 3.0
_SECOND_S = 0.6  # they are asked again after half a second
_OPEN_S = 3.0
_PULL_S = 0.02
_MAX_PULLED = 4096
_MAX_WAITING_LOOKS = 4096
_BUFFER_S = 30


class LslSource(LiveSource):
    """One channel of an LSL stream: "lsl/MODALITY", samples (n, 1) float32, or words (n, 3) str.

    Samples carry the stamps of the machine that sends them (`time_basis` "remote"), and `clock_offsets` tells
    how its clock stands. A lost outlet is a `LostError`; nothing is waited for in silence.

    A string is one line in a layout of `transcript:`, whose times are seconds from `start`; any other text is
    words that were out when they were stamped.

    Args:
        rest: The URI after `lsl:`, keys of `LslSettings` as "type=EDA".
        clock: The host's.

    Attributes:
        n_bad: Strings that could not be used, since `start`.

    Raises:
        UsageError: As `LslSettings.parse`.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(f"lsl:{rest}", clock or MonotonicClock())
        self._settings = LslSettings.parse(rest)
        self._inlet: Any = None
        self._chosen: Chosen | None = None
        self._looks: _Looks | None = None
        self.n_bad = 0

    @property
    def settings(self) -> LslSettings:
        """What the URI asks for."""
        return self._settings

    def clock_offsets(self) -> list[ClockOffset]:
        """Looks at the remote clock since this was last asked, oldest first; never waits."""
        return [] if self._looks is None else self._looks.taken()

    def _open(self) -> tuple[StreamSpec, ...]:
        pylsl = _pylsl()
        inlet = pylsl.StreamInlet(
            _resolved(pylsl, self._settings.predicate, self._clock), max_buflen=_BUFFER_S, recover=False
        )
        try:
            found = _described(inlet.info(timeout=_OPEN_S), pylsl)
            self._chosen = chosen = choose(found, self._settings)
            inlet.open_stream(timeout=_OPEN_S)
        except (pylsl.util.LostError, pylsl.util.TimeoutError) as error:
            raise LostError(
                f"{self.uri}: the stream was found, and does not answer",
                found=str(error),
                hint="check that its program runs, and that a firewall lets LSL through",
            ) from error
        self._inlet = inlet
        return (_spec(found, chosen),)

    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        if self._chosen is None:  # it is opened before it is started
            return
        pylsl = _pylsl()
        self.n_bad = 0
        self._looks = looks = _Looks(pylsl, self._inlet, f"lsl/{self._chosen.modality}", self._clock)
        try:
            take = self._words if self._chosen.modality == "text" else self._samples
            for chunk in take(pylsl, self._chosen, looks, should_stop):
                put(chunk)
        except (pylsl.util.LostError, pylsl.util.InternalError) as error:
            raise LostError(
                f"{self.uri}: the outlet is gone", found=str(error), hint="start its program again"
            ) from error
        finally:
            looks.stop()

    def _samples(
        self, pylsl: Any, chosen: Chosen, looks: _Looks, should_stop: threading.Event
    ) -> Iterator[Chunk]:
        rate_hz = self._specs[0].rate_hz
        seqs = itertools.count()
        for samples, stamps_s, arrived_ns in self._pulled(pylsl, should_stop):
            values = np.array([sample[chosen.index] for sample in samples], np.float64) * chosen.factor
            stamps_ns = np.rint(np.array(stamps_s) * NS_PER_S).astype(np.int64) - self._settings.latency_ns
            for part in pieces(stamps_ns, rate_hz):
                yield Chunk(
                    stream=looks.stream,
                    modality=chosen.modality,
                    seq=next(seqs),
                    t_ns=int(stamps_ns[part.start]),
                    data=values[part, np.newaxis].astype(np.float32),
                    time_basis="remote",
                    arrived_ns=arrived_ns,
                )

    def _words(
        self, pylsl: Any, chosen: Chosen, looks: _Looks, should_stop: threading.Event
    ) -> Iterator[Chunk]:
        zero_ns = self._clock.now_ns()
        seqs = itertools.count()
        for samples, stamps_s, arrived_ns in self._pulled(pylsl, should_stop):
            for sample, stamp_s in zip(samples, stamps_s, strict=True):
                said_ns = looks.on_host(round(stamp_s * NS_PER_S), arrived_ns) - self._settings.latency_ns
                words = self._understood(str(sample[chosen.index]), said_ns - zero_ns)
                if words:
                    yield Chunk(
                        stream=looks.stream,
                        modality="text",
                        seq=next(seqs),
                        t_ns=zero_ns + max(word.end_ns for word in words),
                        data=np.array([[text, str(start), str(end)] for text, start, end in words]),
                        time_basis="arrival",
                        arrived_ns=arrived_ns,
                    )

    def _understood(self, line: str, said_ns: int) -> tuple[Word, ...]:
        """The words of one string, none where it cannot be used or says nothing."""
        if not line.lstrip().startswith("{"):
            words = tuple(Word(text, said_ns, said_ns) for text in line.split()[:MAX_WORDS])
        else:
            try:
                words = parse_line(line.encode("utf-8", "replace"), self.uri) or ()
            except DataError:
                self.n_bad += 1
                return ()
        return tuple(word for word in words if word.start_ns >= 0)

    def _pulled(
        self, pylsl: Any, should_stop: threading.Event
    ) -> Iterator[tuple[list[list[Any]], list[float], int]]:
        """Samples with their stamps in seconds, and when they came, until asked to stop."""
        while not should_stop.is_set():
            try:
                samples, stamps_s = self._inlet.pull_chunk(timeout=_PULL_S, max_samples=_MAX_PULLED)
            except UnicodeDecodeError:
                self.n_bad += 1
                continue
            arrived_ns = self._clock.now_ns()
            if stamps_s:
                yield samples, stamps_s, arrived_ns

    def _close(self) -> None:
        inlet, self._inlet = self._inlet, None
        inlet.close_stream()


class _Looks:
    """Looks at the clock of the machine that sends, in a thread of its own.

    Args:
        pylsl: The package.
        inlet: Open.
        stream: Name of the stream.
        clock: The host's.
    """

    def __init__(self, pylsl: Any, inlet: Any, stream: str, clock: Clock) -> None:
        self.stream = stream
        self._pylsl, self._inlet, self._clock = pylsl, inlet, clock
        self._found: deque[ClockOffset] = deque(maxlen=_MAX_WAITING_LOOKS)
        self._last: ClockOffset | None = None
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"clock of {stream}", daemon=True)
        self._thread.start()

    def taken(self) -> list[ClockOffset]:
        """Those that were not taken yet."""
        return [self._found.popleft() for _ in range(len(self._found))]

    def on_host(self, remote_ns: int, arrived_ns: int) -> int:
        """A remote time on the host's clock; before the first look, when it arrived."""
        last = self._last
        return arrived_ns if last is None else min(arrived_ns, remote_ns + last.host_ns - last.remote_ns)

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self._thread.join(LOOK_S + _OPEN_S)

    def _work(self) -> None:
        while not self._stop_asked.is_set():
            with contextlib.suppress(RuntimeError):  # no answer in time, or lost: who pulls samples says so
                look = self._look()
                if self._last is None or look.remote_ns != self._last.remote_ns:
                    self._last = look
                    self._found.append(look)
            self._stop_asked.wait(LOOK_S)

    def _look(self) -> ClockOffset:
        """The newest round trip that liblsl made; its uncertainty is the whole trip's time."""
        remote_s, trip_s, code = ctypes.c_double(), ctypes.c_double(), ctypes.c_int()
        ask = self._pylsl.lib.lib.lsl_time_correction_ex
        ask.restype = ctypes.c_double
        offset_s = ask(
            self._inlet.obj,
            ctypes.byref(remote_s),
            ctypes.byref(trip_s),
            ctypes.c_double(_OPEN_S),
            ctypes.byref(code),
        )
        self._pylsl.util.handle_error(code)
        before_ns = self._clock.now_ns()
        lsl_ns = round(self._pylsl.local_clock() * NS_PER_S)
        after_ns = self._clock.now_ns()
        host_of_lsl_ns = (before_ns + after_ns) // 2 - lsl_ns
        return ClockOffset(
            stream=self.stream,
            remote_ns=round(remote_s.value * NS_PER_S),
            host_ns=round((remote_s.value + offset_s) * NS_PER_S) + host_of_lsl_ns,
            uncertainty_ns=round(trip_s.value * NS_PER_S / 2) + (after_ns - before_ns) // 2,
        )


def attached() -> list[Attached]:
    """The streams that answer within a second."""
    try:
        pylsl = _pylsl()
    except MissingError as error:
        return [Attached(EXAMPLE, "streams of the Lab Streaming Layer", str(error))]
    found = pylsl.resolve_streams(wait_time=1.0)
    return [_listed(info) for info in sorted(found, key=lambda info: str(info.name()))]


def _listed(info: Any) -> Attached:
    rate_hz, n = info.nominal_srate(), info.channel_count()
    rate = f"{rate_hz:g} Hz" if rate_hz else "irregular"
    uri = f"lsl:name={quote(info.name())}&type={quote(info.type())}"
    return Attached(uri, f"{info.name()} on {info.hostname()}", f"{n} channel{'s' * (n > 1)}, {rate}")


def _pylsl() -> Any:
    try:
        import pylsl
    except (ImportError, RuntimeError) as error:  # the latter where liblsl is missing
        raise MissingError(
            "streams of the Lab Streaming Layer need pylsl",
            found=str(error).strip().splitlines()[0],
            hint=f"install it with: {INSTALL}",
        ) from error
    return pylsl


def _answers(pylsl: Any, predicate: str, clock: Clock) -> list[Any]:
    """The streams that answer; after the first, others have a moment to do so.

    liblsl's own `resolve_bypred` now and then takes five seconds longer than it was given.
    """
    resolver = pylsl.ContinuousResolver(pred=predicate)
    until_ns = clock.now_ns() + round(_RESOLVE_S * NS_PER_S)
    found: list[Any] = []
    while len(found) < 2 and clock.now_ns() < until_ns:
        clock.sleep_until_ns(clock.now_ns() + round(_PULL_S * NS_PER_S))
        before, found = found, resolver.results()
        if found and not before:
            until_ns = clock.now_ns() + round(_SECOND_S * NS_PER_S)
    return found


def _resolved(pylsl: Any, predicate: str, clock: Clock) -> Any:
    found = _answers(pylsl, predicate, clock)
    if len(found) == 1:
        return found[0]
    if not found:
        raise MissingError(
            f"no lsl stream with {predicate}",
            found=f"nobody answered within {_RESOLVE_S:g} s",
            hint="start its program, and list what there is with: edge-mer sources",
        )
    names = ", ".join(f"name={info.name()!r} on {info.hostname()}" for info in found)
    raise UsageError(
        f"{len(found)} lsl streams with {predicate}",
        expected="one",
        found=names,
        hint="add name=, hostname= or source_id=",
    )


def _described(info: Any, pylsl: Any) -> Description:
    channel = info.desc().child("channels").child("channel")
    channels = []
    for _ in range(info.channel_count()):
        channels.append(Channel(*(channel.child_value(name) for name in ("label", "unit", "type"))))
        channel = channel.next_sibling()
    is_text = info.channel_format() == pylsl.cf_string
    return Description(info.name(), info.type(), info.nominal_srate(), is_text, tuple(channels))


def _spec(found: Description, chosen: Chosen) -> StreamSpec:
    is_text = chosen.modality == "text"
    label = found.channels[chosen.index].label or chosen.modality
    return StreamSpec(
        name=f"lsl/{chosen.modality}",
        modality=chosen.modality,
        axes=("word", "field") if is_text else ("sample", "channel"),
        shape=(None, 3) if is_text else (None, 1),
        dtype="str" if is_text else "float32",
        rate_hz=None if is_text or not found.rate_hz else found.rate_hz,
        unit=UNITS[chosen.modality],
        channels=("word", "start_ns", "end_ns") if is_text else (label,),
    )
