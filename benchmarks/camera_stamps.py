"""How late frames of network cameras are placed, and handed on, after a program sent them on this machine.

python -m benchmarks.camera_stamps
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from edge_mer.sources.registry import open_source
from tests.helpers import senders
from tests.helpers.live_sources import read_chunks
from tests.helpers.senders import Sender, free_port, number_of

N_FRAMES = 200


def measure(command: list[str], port: int, uri: str) -> str:
    """One row: medians and 95th percentiles in milliseconds."""
    source = open_source(uri)
    placed_ms, handed_ms = [], []
    with Sender(command, port) as sender:
        source.start()
        taken = [
            (chunk, time.monotonic_ns()) for chunk in (read_chunks(source, 1)[0] for _ in range(N_FRAMES))
        ]
        source.ensure_stopped()
        sender.kill()
    for chunk, now_ns in taken:
        sent_ns = sender.written_ns.get(number_of(chunk.data))
        if sent_ns is not None and not senders.is_flash(chunk.data):
            placed_ms.append((chunk.t_ns - sent_ns) / 1e6)
            handed_ms.append((now_ns - sent_ns) / 1e6)
    columns = (np.percentile(values, (50, 95)) for values in (placed_ms, handed_ms))
    return "".join(f"{median:8.1f}{high:8.1f}" for median, high in columns)


def main() -> None:
    """Print the table."""
    print(f"{'milliseconds after sending':28}  placed  (95 %)  handed  (95 %)")
    with tempfile.TemporaryDirectory() as folder:
        raw = senders.write_counted_raw(Path(folder) / "counted.rgb")
        port = free_port()
        print(f"{'MJPEG over HTTP':28}{measure(senders.flashes(port), port, f'http://127.0.0.1:{port}/')}")
        port = free_port()
        print(
            f"{'H.264 in MPEG-TS over TCP':28}{measure(senders.mpeg_ts(port), port, f'tcp://127.0.0.1:{port}')}"
        )
        for transport in ("tcp", "udp"):
            port = free_port()
            uri = f"rtsp://127.0.0.1:{port}/cam?transport={transport}"
            print(f"{f'H.264 over RTSP, {transport}':28}{measure(senders.rtsp(raw, port), port, uri)}")


if __name__ == "__main__":
    main()
