"""A real sound server without a sound card: what is played into it comes out of a microphone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_mer.clock import NS_PER_S, MonotonicClock

RATE_HZ = 16_000
DEVICE = "edgemer_test"
"""What PortAudio calls the microphone that hears what is played."""

FED = "edgemer_fed"
"""What it calls the one that hears what is written into a pipe."""

_READY_S = 30.0
_ALSA = """
</usr/share/alsa/alsa.conf>
pcm.edgemer_test { type pulse device "edgemer_mic" }
pcm.edgemer_fed { type pulse device "edgemer_fed" }
"""


class SoundServer:
    """PulseAudio with a sink that nobody hears, and a microphone that hears it.

    Args:
        folder: For its socket and its settings.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "asound.conf").write_text(_ALSA, encoding="utf-8")
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find it."""
        folder = str(self._folder)
        return {
            "XDG_RUNTIME_DIR": folder,
            "HOME": folder,
            "PULSE_SERVER": f"unix:{folder}/socket",
            "ALSA_CONFIG_PATH": f"{folder}/asound.conf",
        }

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def start(self) -> None:
        """Return when it answers."""
        socket = self._folder / "socket"
        for left in (socket, self._folder / "pipe"):
            left.unlink(missing_ok=True)
        pipe = f"file={self._folder}/pipe rate={RATE_HZ} channels=1 format=s16le"
        modules = (
            f"module-native-protocol-unix socket={socket} auth-anonymous=1",
            f"module-null-sink sink_name=vmic rate={RATE_HZ} channels=1 format=s16le",
            "module-remap-source master=vmic.monitor source_name=edgemer_mic",
            f"module-pipe-source source_name=edgemer_fed {pipe}",
        )
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"]
        command += [
            "--log-level=error",
            "--disable-shm=yes",
            *(part for module in modules for part in ("-L", module)),
        ]
        self._server = subprocess.Popen(command, env=self._environment)
        until_s = time.monotonic() + _READY_S
        while not self._answers():
            if time.monotonic() > until_s or self._server.poll() is not None:
                self.kill()
                raise RuntimeError(f"PulseAudio did not answer within {_READY_S} s")

    def _answers(self) -> bool:
        asked = subprocess.run(
            ["pactl", "list", "short", "sources"], env=self._environment, capture_output=True, check=False
        )
        return b"edgemer_fed" in asked.stdout

    def kill(self) -> None:
        """End it at once, as a crash would; harmless when it does not run."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._server = None

    def play(self, wav: Path) -> None:
        """Play a file to its end."""
        subprocess.run(["paplay", "--device=vmic", str(wav)], env=self._environment, check=True)

    @contextlib.contextmanager
    def fed(self) -> Iterator[BinaryIO]:
        """What is written here, 16 bits per sample, comes out of the microphone `FED` as it is written.

        While nobody listens, what no longer fits the pipe is lost.

        Raises:
            OSError: The server does not run.
        """
        pipe_fd = os.open(
            self._folder / "pipe", os.O_WRONLY | os.O_NONBLOCK
        )  # otherwise it would wait for one
        with os.fdopen(pipe_fd, "wb", buffering=0) as pipe:
            yield pipe

    def click(self, duration_s: float, every_s: float, since_s: float = 0.0) -> list[int]:
        """Feed silence with clicks in it, 10 ms every 10 ms as a device does.

        Where the machine is busy, what was captured in time is handed over late.

        Args:
            duration_s: How long.
            every_s: From one click to the next.
            since_s: From here on.

        Returns:
            When each click sounded, host monotonic nanoseconds.
        """
        clock, block_ns = MonotonicClock(), NS_PER_S // 100
        silence = np.zeros(RATE_HZ // 100, np.int16)
        click = silence.copy()
        click[0] = 30_000
        clicked_ns = []
        with self.fed() as pipe:
            start_ns = clock.now_ns()
            for number in range(round(duration_s * 100)):
                full_ns = start_ns + (number + 1) * block_ns
                clock.sleep_until_ns(full_ns)
                is_click = number >= since_s * 100 and number % round(every_s * 100) == 0
                if is_click:
                    clicked_ns.append(full_ns - block_ns)
                pipe.write((click if is_click else silence).tobytes())
        return clicked_ns
