"""Every kind of live sensor in one run, each a real component, three of which are killed and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

import edge_mer
from edge_mer.clock import NS_PER_S
from edge_mer.sources.sim import SimSource
from edge_mer.types.predictions import Prediction
from tests.helpers.lsl_network import LslNetwork
from tests.helpers.pty_pair import PtyPair
from tests.helpers.senders import SYSTEM_PYTHON, Sender, free_port
from tests.helpers.sound_server import FED, RATE_HZ, SoundServer
from tests.helpers.system_packages import needs, needs_rtsp

DURATION_S = 60
OUTAGES_S = {"audio": (12, 14), "visual": (26, 28), "eda": (40, 42)}
"""Modality -> when its sensor is killed, and when it is started again."""

BACK_S = 5
FPS = 25


@pytest.fixture
def voice_and_face(tmp_path: Path) -> tuple[bytes, Path, tuple[int, int]]:
    """A simulated person's voice, 16 bits at 16 kHz, and a file of pictures in bare RGB with their size."""
    source = SimSource("seed=3&duration_s=8&fps=25")
    source.ensure_ready()
    source.start()
    (rate_hz,) = (spec.rate_hz for spec in source.specs if spec.modality == "audio")
    sound, path = [], tmp_path / "face.rgb"
    with path.open("wb") as file:
        while not source.ended:
            chunk = source.read(100)
            if chunk is not None and chunk.modality == "audio":
                sound.append(np.asarray(chunk.data, np.float32)[:, 0])
            elif chunk is not None and chunk.modality == "visual":
                file.write(chunk.data.tobytes())
                size = chunk.data.shape[:2]
    assert rate_hz is not None
    voice = resample_poly(np.concatenate(sound), RATE_HZ, int(rate_hz))
    return (np.clip(voice, -1, 1) * 32_767).astype("<i2").tobytes(), path, size


class World:
    """The sensors' other ends, in processes and threads of their own."""

    def __init__(self, folder: Path, voice: bytes, face: Path, size: tuple[int, int]) -> None:
        self._voice = voice
        self._over = threading.Event()
        self.sound, self.cable, self.lab = SoundServer(folder / "sound"), PtyPair(folder), LslNetwork(folder)
        self.port = free_port()
        script = Path(__file__).parents[1] / "helpers" / "rtsp_sender.py"
        self._rtsp = [
            SYSTEM_PYTHON,
            str(script),
            str(self.port),
            str(face),
            str(size[1]),
            str(size[0]),
            str(FPS),
        ]
        self._camera: Sender | None = None
        self._threads = [threading.Thread(target=work) for work in (self._speak, self._sweat)]

    def start(self) -> None:
        for name in OUTAGES_S:
            self.turn_on(name)
        self.lab.send(name="Wrist", type="EDA", rate_hz=50, channels=[["GSR", "microsiemens", "EDA"]])
        for thread in self._threads:
            thread.start()

    def turn_on(self, name: str) -> None:
        if name == "audio":
            self.sound.start()
        elif name == "visual":
            self._camera = Sender(self._rtsp, self.port)
        else:
            self.cable.plug()

    def turn_off(self, name: str) -> None:
        if name == "audio":
            self.sound.kill()
        elif name == "visual" and self._camera is not None:
            self._camera.kill()
        else:
            self.cable.unplug()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self.lab.stop()
        for name in OUTAGES_S:
            self.turn_off(name)

    def _speak(self) -> None:
        """20 ms of the voice every 20 ms, over and over, into the microphone, while there is one."""
        n_bytes = 2 * RATE_HZ // 50
        while not self._over.is_set():
            try:
                with self.sound.fed() as pipe:
                    begin_s, number = time.monotonic(), 0
                    while not self._over.wait(max(0.0, begin_s + number / 50 - time.monotonic())):
                        at = number * n_bytes % (len(self._voice) - n_bytes)
                        pipe.write(self._voice[at : at + n_bytes])
                        number += 1
            except OSError:
                self._over.wait(0.1)

    def _sweat(self) -> None:
        """A line with skin conductance every 20 ms, while the cable is in."""
        begin_s, number = time.monotonic(), 0
        while not self._over.wait(max(0.0, begin_s + number / 50 - time.monotonic())):
            number += 1
            try:
                self.cable.write(f"{4 + np.sin(number / 50):.4f}\n".encode())
            except (OSError, AssertionError):
                continue


@pytest.fixture
def world(
    tmp_path: Path, voice_and_face: tuple[bytes, Path, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    for package in ("pyaudio", "brainflow", "pylsl", "serial"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'edge-mer[mic,bio]'")
    found = World(tmp_path, *voice_and_face)
    for name, value in found.sound.environment.items():
        monkeypatch.setenv(name, value)
    found.start()
    yield found
    found.end()


@needs("pulseaudio")
@needs("socat")
@needs_rtsp()
def test_all_together_with_predictions_throughout(world: World, shared_bundle: Path) -> None:
    sources = [
        f"rtsp://127.0.0.1:{world.port}/cam",
        f"mic:{FED}?rate={RATE_HZ}&channels=1",
        f"serial:{world.cable.port}?eda=1&rate_hz=50",
        "brainflow:synthetic?ecg=1",
        "lsl:type=EDA",
    ]
    predictions: list[Prediction] = []
    with edge_mer.open_session(shared_bundle, sources=sources, on_prediction=predictions.append) as session:
        begin_s = time.monotonic()
        plan = sorted((at, act, name) for name, times in OUTAGES_S.items() for act, at in enumerate(times))
        for at_s, is_back, name in [*plan, (DURATION_S, 0, "")]:
            threading.Event().wait(max(0.0, begin_s + at_s - time.monotonic()))
            if name:
                (world.turn_on if is_back else world.turn_off)(name)
        health = {source.uri.partition(":")[0]: source for source in session.report.sources()}

    hop_s = (predictions[-1].t_end_ns - predictions[0].t_end_ns) / NS_PER_S / (len(predictions) - 1)
    assert [p.window_index for p in predictions] == list(range(len(predictions)))
    assert predictions[-1].t_end_ns / NS_PER_S > DURATION_S - 3 * max(hop_s, 1)
    assert session.counters.n_dropped_steps == 0

    for modality in ("visual", "audio"):
        gone_s, on_s = OUTAGES_S[modality]
        seen = {round(p.t_end_ns / NS_PER_S, 3): p.modalities[modality] for p in predictions}
        out = {t: one for t, one in seen.items() if gone_s + 1 + hop_s < t < on_s}
        assert out
        assert not any(one.present for one in out.values())
        assert {one.source for one in out.values()} <= {"stalled", "restarting"}
        well = {t: one for t, one in seen.items() if 5 < t < gone_s or t > on_s + BACK_S + hop_s}
        assert [t for t, one in well.items() if not one.present or one.source != "ok"] == []
    ok = [p for p in predictions if p.status == "ok"]
    assert len(ok) > 0.6 * len(predictions)
    assert all(source.states and set(source.states.values()) == {"ok"} for source in health.values())
    restarts = {name: source.n_restarts for name, source in health.items()}
    assert restarts["brainflow"] == restarts["lsl"] == 0
    assert min(restarts[name] for name in ("rtsp", "mic", "serial")) >= 1
