"""A flash and a click whose distance is known, through a camera and a microphone into one recording."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge_mer.cli.main import main
from edge_mer.clock import NS_PER_S
from edge_mer.sources.replay import ReplaySource
from edge_mer.types.signals import Chunk
from tests.helpers import senders
from tests.helpers.recordings import played
from tests.helpers.senders import FPS, Sender, free_port
from tests.helpers.sound_server import FED, RATE_HZ, SoundServer
from tests.helpers.system_packages import needs

FRAME_NS = NS_PER_S // FPS
pytestmark = pytest.mark.live


@needs("pulseaudio")
def test_the_distance_of_a_flash_and_a_click(sound_server: SoundServer, tmp_path: Path) -> None:
    path, port = tmp_path / "a.mcap", free_port()
    sources = [f"http://127.0.0.1:{port}/", f"mic:{FED}?rate={RATE_HZ}&channels=1"]
    command = ["record", "--out", str(path), "--duration-s", "4"]
    with Sender(senders.flashes(port, every=FPS), port) as sender, ThreadPoolExecutor() as pool:
        clicking = pool.submit(sound_server.click, 8.0, every_s=0.73)
        assert main([*command, *(part for uri in sources for part in ("--source", uri))]) == 0
        clicked_ns = clicking.result()
        sender.kill()
    chunks = played(ReplaySource(str(path)))
    seen_ns = [c.t_ns for c in chunks if c.modality == "visual" and senders.is_flash(c.data)]
    heard_ns = [t_ns for c in chunks if c.modality == "audio" for t_ns in clicks_in(c)]
    assert len(seen_ns) >= 2
    assert len(heard_ns) >= 3

    # when the recording began is not known: each flash and click that can be meant is tried
    def errors_ns(origin_ns: int) -> list[int]:
        pairs = [(seen_ns, sender.flashes_ns), (heard_ns, clicked_ns)]
        return [
            min((origin_ns + t - true for true in truth), key=abs) for found, truth in pairs for t in found
        ]

    origins_ns = [flash - seen_ns[0] for flash in sender.flashes_ns]
    errors = min((errors_ns(origin) for origin in origins_ns), key=lambda e: max(map(abs, e)))
    assert max(errors) - min(errors) < FRAME_NS, errors


def clicks_in(chunk: Chunk) -> list[int]:
    """When something clicked."""
    return [chunk.t_ns + int(i) * NS_PER_S // RATE_HZ for i in np.flatnonzero(np.asarray(chunk.data) > 0.5)]
