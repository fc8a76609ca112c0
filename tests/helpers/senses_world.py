"""A room full of live sensors: the other ends of a camera, a microphone, a cable, a network and a board."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from edge_mer.sources.sim import SimSource
from tests.helpers.lsl_network import LslNetwork
from tests.helpers.pty_pair import PtyPair
from tests.helpers.senders import SYSTEM_PYTHON, Sender, free_port
from tests.helpers.sound_server import FED, RATE_HZ, SoundServer

FPS = 25
KINDS = ("audio", "visual", "eda", "lsl")
"""What can be turned off and on: a microphone, a camera, and skin conductance by cable and by network."""


def voice_and_face(raw: Path) -> tuple[bytes, tuple[int, int]]:
    """A person's voice, 16 bits at 16 kHz, and the height and width of their pictures, kept as bare RGB."""
    source = SimSource("seed=3&duration_s=8&fps=25")
    source.ensure_ready()
    source.start()
    (rate_hz,) = (spec.rate_hz for spec in source.specs if spec.modality == "audio")
    sound = []
    with raw.open("wb") as file:
        while not source.ended:
            chunk = source.read(100)
            if chunk is not None and chunk.modality == "audio":
                sound.append(np.asarray(chunk.data, np.float32)[:, 0])
            elif chunk is not None and chunk.modality == "visual":
                file.write(chunk.data.tobytes())
                size = chunk.data.shape[:2]
    assert rate_hz is not None
    voice = resample_poly(np.concatenate(sound), RATE_HZ, int(rate_hz))
    return (np.clip(voice, -1, 1) * 32_767).astype("<i2").tobytes(), size


class SensesWorld:
    """The sensors' other ends, in processes and threads of their own.

    Args:
        folder: For sockets, settings and pictures.

    Attributes:
        sound: What the microphone hears.
        sources: A URI for each sensor.
    """

    def __init__(self, folder: Path) -> None:
        face = folder / "face.rgb"
        self._voice, size = voice_and_face(face)
        self._over = threading.Event()
        self.sound, self._cable, self._lab = (
            SoundServer(folder / "sound"),
            PtyPair(folder),
            LslNetwork(folder),
        )
        self._port = free_port()
        script = Path(__file__).parents[1] / "helpers" / "rtsp_sender.py"
        self._rtsp = [
            SYSTEM_PYTHON,
            str(script),
            str(self._port),
            str(face),
            str(size[1]),
            str(size[0]),
            str(FPS),
        ]
        self._camera: Sender | None = None
        self.sources = [
            f"rtsp://127.0.0.1:{self._port}/cam",
            f"mic:{FED}?rate={RATE_HZ}&channels=1",
            f"serial:{self._cable.port}?eda=1&rate_hz=50",
            "brainflow:synthetic?ecg=1",
            "lsl:type=EDA",
        ]
        self._threads = [threading.Thread(target=work) for work in (self._speak, self._sweat)]

    def start(self) -> None:
        """Turn everything on."""
        for name in KINDS:
            self.turn_on(name)
        for thread in self._threads:
            thread.start()

    def turn_on(self, name: str) -> None:
        """Start one of `KINDS`, or start it again."""
        if name == "audio":
            self.sound.start()
        elif name == "visual":
            self._camera = Sender(self._rtsp, self._port)
        elif name == "lsl":
            self._lab.send(name="Wrist", type="EDA", rate_hz=50, channels=[["GSR", "microsiemens", "EDA"]])
        else:
            self._cable.plug()

    def turn_off(self, name: str) -> None:
        """End it at once, as a crash or a pulled plug would."""
        if name == "audio":
            self.sound.kill()
        elif name == "visual" and self._camera is not None:
            self._camera.kill()
        elif name == "lsl":
            self._lab.stop()
        else:
            self._cable.unplug()

    def end(self) -> None:
        """Turn everything off."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for name in KINDS:
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
                self._cable.write(f"{4 + np.sin(number / 50):.4f}\n".encode())
            except (OSError, AssertionError):
                continue
