"""MicrophoneSource: a real PortAudio on a real sound server, whose microphone is fed what is known."""

from __future__ import annotations

import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import ManualClock, MonotonicClock
from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.sources.microphone import MicrophoneSource, attached
from edge_mer.sources.registry import LISTERS, open_source
from edge_mer.types.signals import Chunk
from tests.helpers.sound_server import DEVICE, FED, RATE_HZ, SoundServer
from tests.helpers.system_packages import needs

pytestmark = pytest.mark.live

NS = 1_000_000_000
MS = 1_000_000
CLOCK = MonotonicClock()


def read_until(
    source: MicrophoneSource, is_enough: Callable[[list[Chunk]], bool], within_s: float
) -> list[Chunk]:
    chunks: list[Chunk] = []
    until_ns = CLOCK.now_ns() + round(within_s * NS)
    while not is_enough(chunks):
        assert CLOCK.now_ns() < until_ns, f"not within {within_s} s"
        chunk = source.read(100)
        chunks += [] if chunk is None else [chunk]
    return chunks


def joined(chunks: list[Chunk]) -> NDArray[np.float32]:
    if not chunks:
        return np.zeros((0, 1), np.float32)
    return np.concatenate([np.asarray(chunk.data, np.float32) for chunk in chunks])


def written(path: Path, samples: NDArray[np.int16]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.tobytes())
    return path


@needs("pulseaudio")
@needs("paplay")
def test_samples_are_those_that_were_played_until_the_server_dies(
    sound_server: SoundServer, tmp_path: Path
) -> None:
    noise = np.random.default_rng(7).integers(-32_768, 32_768, RATE_HZ // 2).astype(np.int16)
    noise[:3] = (-32_768, 32_767, 12_345)
    wav = written(tmp_path / "noise.wav", noise)
    source = MicrophoneSource(f"{DEVICE}?rate={RATE_HZ}&channels=1")
    try:
        source.start()
        (spec,) = source.specs
        assert (spec.name, spec.modality, spec.rate_hz, spec.unit) == ("mic/audio", "audio", RATE_HZ, "1")
        first = read_until(source, bool, 5)
        player = threading.Thread(target=sound_server.play, args=(wav,))
        player.start()
        expected = (noise / 32_768).astype(np.float32)[:, np.newaxis]
        wanted = expected.tobytes()
        chunks = first + read_until(source, lambda found: wanted in joined(found).tobytes(), 8)
        player.join()
        assert [chunk.seq for chunk in chunks] == list(range(len(chunks)))
        assert {chunk.data.shape for chunk in chunks} == {(320, 1)}
        assert source.n_overruns == source.n_dropped == 0

        sound_server.kill()
        killed_ns = CLOCK.now_ns()
        with pytest.raises(LostError, match="is gone"):
            read_until(source, lambda found: False, 5)
        assert CLOCK.now_ns() - killed_ns < NS
        source.ensure_stopped()
        with pytest.raises(MissingError):
            source.ensure_ready()

        sound_server.start()
        back_ns = CLOCK.now_ns()
        source.start()
        again = read_until(source, bool, 5)
        assert CLOCK.now_ns() - back_ns < 5 * NS
        assert again[0].seq == 0
    finally:
        source.ensure_stopped()
        source.ensure_stopped()


@needs("pulseaudio")
@needs("paplay")
def test_a_click_is_stamped_with_its_time(sound_server: SoundServer) -> None:
    source = MicrophoneSource(f"{FED}?rate={RATE_HZ}")
    try:
        source.start()
        with ThreadPoolExecutor() as pool:
            feeding = pool.submit(sound_server.click, 1.5, every_s=0.2, since_s=0.5)
            chunks: list[Chunk] = []
            while not feeding.done() or not np.any(joined(chunks[-5:]) > 0.5):
                chunk = source.read(100)
                chunks += [] if chunk is None else [chunk]
            clicked_ns = feeding.result()
    finally:
        source.ensure_stopped()
    heard_ns = [
        chunk.t_ns + int(index) * NS // RATE_HZ
        for chunk in chunks
        for index in np.flatnonzero(chunk.data[:, 0] > 0.5)
    ]
    error_ns = [heard - clicked for heard, clicked in zip(heard_ns, clicked_ns, strict=False)]
    assert len(error_ns) >= 4
    assert max(map(abs, error_ns)) < 30 * MS, error_ns
    assert {chunk.time_basis for chunk in chunks} == {"arrival"}
    assert all(chunk.arrived_ns is not None and chunk.t_ns < chunk.arrived_ns for chunk in chunks)


@needs("pulseaudio")
@needs("paplay")
def test_what_there_is_and_what_there_is_not(sound_server: SoundServer) -> None:
    found = {device.uri: device for device in attached()}
    assert found[f"mic:{DEVICE}"].note == "32 channels, 44100 Hz"
    assert "mic:default" in found
    assert LISTERS["mic"] == "edge_mer.sources.microphone:attached"
    with pytest.raises(MissingError, match=f"{DEVICE}.*edge-mer sources"):
        open_source("mic:no%20such%20thing").ensure_ready()
    source = MicrophoneSource(f"{DEVICE[:-2]}?latency_ms=12.5&channels=2")  # a part of the name is enough
    try:
        source.ensure_ready()
        assert source.specs[0].channels == ("left", "right")
        assert source.specs[0].rate_hz == 44_100  # the device's own
    finally:
        source.ensure_stopped()


@needs("pulseaudio")
@needs("paplay")
def test_what_libraries_say_stays_off_the_terminal(sound_server: SoundServer) -> None:
    code = f"""
from edge_mer.sources.microphone import MicrophoneSource, attached
attached()
source = MicrophoneSource("{DEVICE}?rate=16000")
source.start()
source.ensure_stopped()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


# --- what a sound server never does -----------------------------------------------------------------


class PickyPortAudio:
    """A device that takes nothing but 44.1 kHz in stereo, and loses 0.3 s before its second block."""

    paInt16, paInputOverflow, paContinue = 8, 2, 0  # noqa: N815 - PyAudio's names
    device: ClassVar[dict[str, Any]] = {
        "index": 0,
        "name": "picky",
        "maxInputChannels": 2,
        "defaultSampleRate": 44_100.0,
    }

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def PyAudio(self) -> PickyPortAudio:  # noqa: N802
        return self

    def get_device_count(self) -> int:
        return 1

    def get_device_info_by_index(self, index: int) -> dict[str, Any]:
        return self.device

    def open(self, *, rate: int, channels: int, stream_callback: Any, **_: Any) -> PickyPortAudio:
        if (rate, channels) != (44_100, 2):
            raise OSError(-9997, "Invalid sample rate" if rate != 44_100 else "Invalid number of channels")
        self._call = stream_callback
        return self

    def start_stream(self) -> None:
        for status in (0, self.paInputOverflow, 0):
            self._clock.advance_ns(320 * MS if status else 20 * MS)
            assert self._call(np.full(1764, 16_384, "<i2").tobytes(), 882, {}, status) == (None, 0)

    def is_active(self) -> bool:
        return False

    def close(self) -> None: ...

    def terminate(self) -> None: ...


def test_a_device_that_refuses_and_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    monkeypatch.setitem(sys.modules, "pyaudio", PickyPortAudio(clock))  # type: ignore[arg-type]
    source = MicrophoneSource("picky?rate=16000&latency_ms=5", clock)
    source.start()
    assert (source.specs[0].rate_hz, source.specs[0].channels) == (44_100.0, ("left", "right"))
    chunks = read_until(source, lambda found: len(found) == 3, 5)
    assert {(chunk.data.shape, float(chunk.data.mean())) for chunk in chunks} == {((882, 2), 0.5)}
    assert source.n_overruns == 1
    assert [chunk.t_ns for chunk in chunks] == [-5 * MS, 315 * MS, 335 * MS]
    assert [chunk.arrived_ns for chunk in chunks] == [20 * MS, 340 * MS, 360 * MS]
    with pytest.raises(LostError, match="stopped delivering"):
        read_until(source, lambda found: False, 5)
    source.ensure_stopped()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "no microphone is named"),
        ("default?rat=16000", "did you mean rate"),
        ("default?rate=16", "cannot use rate=16"),
        ("default?rate=16000&rate=16000", "given twice"),
        ("default?channels", "has no value"),
        ("default?latency_ms=-1", "cannot use latency_ms"),
    ],
)
def test_wrong_uris(rest: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"mic:{rest}")


def test_reading_before_starting_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="must be started"):
        MicrophoneSource("default").read(0)
