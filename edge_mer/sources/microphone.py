"""`mic:` is a microphone, through PortAudio.

mic:default
mic:USB%20Audio?rate=16000&channels=1&latency_ms=12
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from edge_mer.clock import Clock, MonotonicClock
from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.sources.base import Attached
from edge_mer.sources.capture import Put
from edge_mer.sources.live import LiveSource
from edge_mer.sources.sample_clock import SampleClock
from edge_mer.types import uri_keys
from edge_mer.types.signals import Chunk, StreamSpec

CHUNKS_PER_S = 50

INSTALL = "pip install 'edge-mer[mic]', which needs the system package portaudio19-dev"

_EXAMPLE = "mic:default?rate=16000&channels=1"
_KEYS = {
    "rate": uri_keys.whole(1_000, 384_000),
    "channels": uri_keys.whole(1, 32),
    "latency_ms": uri_keys.LATENCY_MS,
}
_FULL_SCALE = 32_768  # of 16 bits, as in a file
_LOOK_S = 0.1
_MAX_NOISE_BYTES = 4096
_SERVER_LATENCY_MS = "30"


class MicrophoneSource(LiveSource):
    """A microphone: stream "mic/audio", samples (n, channels) float32 in [-1, 1], about 20 ms a chunk.

    Samples are what the device delivers in 16 bits, divided by 32768. It is opened at its own rate, and
    with its own number of channels, where it refuses those asked for; `specs` says what it came to.

    A chunk is stamped with the time of its first sample, told from when chunks come and how long they are.
    Where sound was lost because nobody fetched it in time, the next chunk's time shows it.

    Args:
        rest: The URI after `mic:`, "default" or a name or a part of one, and keys "?rate=16000".
        clock: Stamps the sound.

    Attributes:
        n_overruns: How often the driver said that it lost sound, since `start`.

    Raises:
        UsageError: No name, an unknown key, or a value that is not allowed.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(f"mic:{rest}", clock or MonotonicClock())
        self._name, values = uri_keys.read("mic", rest, _KEYS, _EXAMPLE)
        if not self._name:
            raise UsageError(f"mic:{rest}: no microphone is named", expected=f"e.g. {_EXAMPLE}")
        self._rate_hz: int | None = values.get("rate")
        self._n_channels: int = values.get("channels", 1)
        self._latency_ns = uri_keys.latency_ns(values)
        self._device: _Device | None = None
        self.n_overruns = 0

    def _open(self) -> tuple[StreamSpec, ...]:
        self._device = device = _Device(self._name, self._rate_hz, self._n_channels, self._clock)
        names = {1: ("mono",), 2: ("left", "right")}
        spec = StreamSpec(
            name="mic/audio",
            modality="audio",
            axes=("sample", "channel"),
            shape=(None, device.n_channels),
            dtype="float32",
            rate_hz=float(device.rate_hz),
            unit="1",
            channels=names.get(device.n_channels, tuple(f"{i + 1}" for i in range(device.n_channels))),
        )
        return (spec,)

    def _begin(self) -> None:
        if self._device is not None:
            self._device.start()

    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        device = self._device
        if device is None:  # it is opened before it is started
            return
        self.n_overruns = 0
        times = SampleClock(device.rate_hz)
        for seq, block in enumerate(device.blocks(should_stop)):
            self.n_overruns += block.is_after_loss
            samples = np.frombuffer(block.data, "<i2").reshape(-1, device.n_channels)
            t_ns = times.stamp(len(samples), block.arrived_ns, is_after_loss=block.is_after_loss)
            put(
                Chunk(
                    stream="mic/audio",
                    modality="audio",
                    seq=seq,
                    t_ns=t_ns - self._latency_ns,
                    data=samples.astype(np.float32) / np.float32(_FULL_SCALE),
                    time_basis="arrival",
                    arrived_ns=block.arrived_ns,
                )
            )

    def _close(self) -> None:
        if self._device is not None:
            self._device.close()
        self._device = None


@dataclass(frozen=True)
class _Block:
    """What the driver handed over at once.

    Attributes:
        data: Samples, 16 bits each, channels interleaved.
        arrived_ns: When.
        is_after_loss: Whether sound before it was lost.
    """

    data: bytes
    arrived_ns: int
    is_after_loss: bool


class _Device:
    """An open microphone. PortAudio's own thread fills a queue, so that nobody's slowness loses sound."""

    def __init__(self, name: str, rate_hz: int | None, n_channels: int, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._pyaudio = pyaudio = _pyaudio()
        self._blocks: queue.SimpleQueue[_Block] = queue.SimpleQueue()
        with _quiet_stderr() as noise, contextlib.ExitStack() as on_failure:
            # devices are looked for here only
            self._portaudio = pyaudio.PyAudio()
            on_failure.callback(self._portaudio.terminate)
            found = _find(self._portaudio, name)
            own_rate_hz = round(float(found["defaultSampleRate"]))
            asked = (rate_hz or own_rate_hz, min(n_channels, int(found["maxInputChannels"])))
            self._stream: Any = None
            refusals = []
            for self.rate_hz, self.n_channels in _attempts(
                asked, own_rate_hz, int(found["maxInputChannels"])
            ):
                try:
                    self._stream = self._opened(int(found["index"]))
                    break
                except (OSError, ValueError) as error:
                    refusals.append(f"{self.rate_hz} Hz, {self.n_channels} channels: {_reason(error)}")
            if self._stream is None:
                raise MissingError(
                    f"microphone {found['name']!r} cannot be opened",
                    expected="a device that delivers 16 bits",
                    found="; ".join([*refusals, *noise()]),
                    hint="check that no other program holds it, and list others with: edge-mer sources",
                )
            on_failure.pop_all()

    def _opened(self, index: int) -> Any:
        return self._portaudio.open(
            format=self._pyaudio.paInt16,
            rate=self.rate_hz,
            channels=self.n_channels,
            input=True,
            input_device_index=index,
            frames_per_buffer=max(1, self.rate_hz // CHUNKS_PER_S),
            stream_callback=self._take,
            start=False,
        )

    def _take(
        self, data: bytes | None, n_frames: int, times: Mapping[str, float], status: int
    ) -> tuple[None, int]:
        """Called by PortAudio in a thread of its own."""
        arrived_ns = self._clock.now_ns()
        if data:
            # the driver's own times are no use: through a sound server they are wrong by 0.3 s at first
            self._blocks.put(_Block(data, arrived_ns, bool(status & self._pyaudio.paInputOverflow)))
        return None, self._pyaudio.paContinue

    def start(self) -> None:
        """Begin to capture."""
        with self._as_lost():
            self._stream.start_stream()

    def blocks(self, should_stop: threading.Event) -> Iterator[_Block]:
        """What comes, until asked to stop.

        Raises:
            LostError: The device stopped by itself.
        """
        while not should_stop.is_set():
            try:
                yield self._blocks.get(timeout=_LOOK_S)
            except queue.Empty:
                with self._as_lost():
                    if not self._stream.is_active():
                        raise OSError("the device stopped delivering") from None

    def close(self) -> None:
        """Release the device, and PortAudio with it."""
        with _quiet_stderr(), contextlib.suppress(OSError):
            self._stream.close()
        with _quiet_stderr():
            self._portaudio.terminate()

    @contextlib.contextmanager
    def _as_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LostError(
                f"microphone {self._name!r} is gone",
                found=_reason(error),
                hint="plug it in again; where it belongs to a sound server, check that the server runs",
            ) from error


def attached() -> list[Attached]:
    """The microphones there are, the default one first."""
    try:
        module = _pyaudio()
    except MissingError as error:
        return [Attached("mic:default", "microphones", str(error))]
    with _quiet_stderr():
        portaudio = module.PyAudio()
        try:
            devices = _inputs(portaudio)
            default = _default(portaudio)
        finally:
            portaudio.terminate()
    found = [_listed(device, f"mic:{quote(device['name'])}") for device in devices]
    return found if default is None else [_listed(default, "mic:default"), *found]


def _listed(device: Mapping[str, Any], uri: str) -> Attached:
    n, rate_hz = int(device["maxInputChannels"]), float(device["defaultSampleRate"])
    return Attached(uri, str(device["name"]), f"{n} channel{'s' * (n > 1)}, {rate_hz:g} Hz")


def _pyaudio() -> Any:
    try:
        import pyaudio
    except ImportError as error:
        raise MissingError(
            "microphones need PyAudio", found=str(error), hint=f"install it with: {INSTALL}"
        ) from error
    # Sound servers buffer a second and more for whoever does not ask for less.
    os.environ.setdefault("PULSE_LATENCY_MSEC", _SERVER_LATENCY_MS)
    return pyaudio


def _inputs(portaudio: Any) -> list[dict[str, Any]]:
    devices = (portaudio.get_device_info_by_index(i) for i in range(portaudio.get_device_count()))
    return [device for device in devices if device["maxInputChannels"] > 0]


def _default(portaudio: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = portaudio.get_default_input_device_info()
    except OSError:  # there is none
        return None
    return found


def _find(portaudio: Any, name: str) -> dict[str, Any]:
    """The device of that name, or with that part of one."""
    devices = _inputs(portaudio)
    if name == "default" and (device := _default(portaudio)) is not None:
        return device
    matches = [device for device in devices if device["name"] == name]
    matches = matches or [device for device in devices if name.lower() in device["name"].lower()]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(repr(device["name"]) for device in devices)
    raise MissingError(
        f"{'no' if not matches else 'more than one'} microphone is called {name!r}",
        expected=f"one of {names}" if names else None,
        found=None if names else "no microphone at all",
        hint="list them with: edge-mer sources",
    )


def _attempts(asked: tuple[int, int], own_rate_hz: int, max_channels: int) -> Sequence[tuple[int, int]]:
    """Rates and channels in the order in which they are tried."""
    rate_hz, n_channels = asked
    wishes = [
        (rate_hz, n_channels),
        (own_rate_hz, n_channels),
        (rate_hz, max_channels),
        (own_rate_hz, max_channels),
    ]
    return list(dict.fromkeys(wishes))


def _reason(error: Exception) -> str:
    return " ".join(str(part) for part in error.args) or repr(error)


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[Callable[[], list[str]]]:
    """Keep what ALSA and PortAudio say of every device there is away from the terminal.

    Yields:
        What gives the last lines of it.
    """
    with _stderr_lock, tempfile.TemporaryFile() as noise:

        def last_lines() -> list[str]:
            noise.seek(max(0, noise.seek(0, os.SEEK_END) - _MAX_NOISE_BYTES))
            return [line.strip() for line in noise.read().decode(errors="replace").splitlines()][-3:]

        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(noise.fileno(), 2)
            yield last_lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
