"""Network cameras against real senders: FFmpeg over TCP and HTTP, a GStreamer RTSP server, HTTP servers."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.clock import NS_PER_S, MonotonicClock
from edge_mer.errors import DataError, EdgeMerError, LostError, MissingError, UsageError
from edge_mer.runtime.arrivals import check_chunk, since_start
from edge_mer.sources.camera_live import MAX_PICTURES, LiveCamera
from edge_mer.sources.camera_network import RtspCamera
from edge_mer.sources.registry import open_source
from edge_mer.types.signals import Chunk
from tests.helpers import senders
from tests.helpers.flash_sender import BOUNDARY
from tests.helpers.live_sources import lost_within_s, read_chunks
from tests.helpers.senders import FPS, N_FRAMES, PATCHES, Sender, free_port, number_of, patch_colours
from tests.helpers.system_packages import needs, needs_rtsp

pytestmark = pytest.mark.live

STEP_NS = NS_PER_S // FPS
KINDS = [
    pytest.param("http", marks=needs("ffmpeg")),
    pytest.param("tcp", marks=needs("ffmpeg")),
    pytest.param("rtsp", marks=needs_rtsp()),
]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The counted pictures, as each kind of sender wants them."""
    folder = tmp_path_factory.mktemp("clips")
    clip = senders.write_counted_clip(folder / "counted.mp4")
    return {"http": clip, "tcp": clip, "rtsp": senders.write_counted_raw(folder / "counted.rgb")}


def command(kind: str, clips: dict[str, Path], port: int) -> list[str]:
    makes: dict[str, Callable[[Path, int], list[str]]] = {
        "http": senders.ffmpeg_http,
        "tcp": senders.ffmpeg_tcp,
        "rtsp": senders.rtsp,
    }
    return makes[kind](clips[kind], port)


def uri(kind: str, port: int) -> str:
    return f"{kind}://127.0.0.1:{port}{'/cam' if kind == 'rtsp' else ''}"


@contextlib.contextmanager
def opened(address: str) -> Iterator[LiveCamera]:
    source = open_source(address)
    assert isinstance(source, LiveCamera)
    try:
        source.start()
        yield source
    finally:
        source.ensure_stopped()


def off_ms(chunks: list[Chunk]) -> Any:
    """How much later than the first one each picture is placed than its number says."""
    numbers = np.unwrap([number_of(chunk.data) for chunk in chunks], period=N_FRAMES)
    times_ns = np.array([chunk.t_ns for chunk in chunks])
    return (times_ns - times_ns[0] - (numbers - numbers[0]) * STEP_NS) / 1e6


def check_places(chunks: list[Chunk]) -> None:
    """Most are placed where their number says; some may come late on a busy machine, none by a pause."""
    off = off_ms(chunks)
    assert np.ptp(np.percentile(off, (15, 75))) < STEP_NS / 1e6, off
    assert np.ptp(off) < 400, off


def check_content(chunks: list[Chunk]) -> None:
    """Every picture is what it should be, in order, and placed as far apart as it was captured."""
    assert [chunk.seq for chunk in chunks] == list(range(chunks[0].seq, chunks[0].seq + len(chunks)))
    numbers = np.unwrap([number_of(chunk.data) for chunk in chunks], period=N_FRAMES)
    assert all(np.diff(numbers) >= 1)
    check_places(chunks)
    for chunk in chunks:
        assert chunk.arrived_ns is not None
        assert chunk.t_ns <= chunk.arrived_ns <= time.monotonic_ns()
        assert chunk.time_basis == "arrival"
        assert np.abs(patch_colours(chunk.data) - PATCHES).max() < 12


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_come_through_a_death_of_the_sender(kind: str, clips: dict[str, Path]) -> None:
    port = free_port()
    with Sender(command(kind, clips, port), port) as sender, opened(uri(kind, port)) as source:
        begin_ns = time.monotonic_ns()
        first = read_chunks(source, 15)
        assert first[0].seq == 0
        assert all(since_start(c, begin_ns - NS_PER_S, MonotonicClock()) is not None for c in first)
        (spec,) = source.specs
        for chunk in first:
            check_chunk(chunk, {spec.name: spec})
        check_content(first)
        assert source.mode.startswith("128 x 96")
        sender.kill()
        if kind == "rtsp":
            check_sent(first, sender)
        assert lost_within_s(source, "closed|reset") < 1
        with pytest.raises(LostError):  # and it stays so
            source.read(0)
        source.ensure_stopped()
        with pytest.raises(MissingError, match="refused"):
            source.ensure_ready()
        with Sender(command(kind, clips, port), port):
            source.ensure_ready()
            source.start()
            again = read_chunks(source, 15)
    check_content(again)
    assert again[0].seq == 0
    assert again[0].t_ns > first[-1].t_ns
    assert source.counts.n_corrupt == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_is_silence_and_what_waited_is_not_new(kind: str, clips: dict[str, Path]) -> None:
    port = free_port()
    with Sender(command(kind, clips, port), port) as sender, opened(uri(kind, port)) as source:
        before = read_chunks(source, 10)
        sender.pause()
        silent_ns = time.monotonic_ns() + NS_PER_S
        n_none = 0
        while time.monotonic_ns() < silent_ns:
            chunk = source.read(100)
            n_none += chunk is None
            before += [] if chunk is None else [chunk]
        assert n_none >= 5
        n_stale = source.counts.n_stale
        sender.go_on()
        after = read_chunks(source, 15)
        n_stale = source.counts.n_stale - n_stale
    both = [*before, *after]
    assert all(a.t_ns < b.t_ns for a, b in pairwise(both))
    if kind == "rtsp":  # this one sends what it then sees, and nothing that waited
        late_ms = [(c.t_ns - sender.written_ns[number_of(c.data)]) / 1e6 for c in after]
        assert np.percentile(late_ms, 75) < STEP_NS / 1e6, late_ms
    else:  # these catch up: what comes still stands where its number says
        assert n_stale >= 5
        check_places(both)


def check_sent(chunks: list[Chunk], sender: Sender, latency_ms: float = 0) -> None:
    """Most are placed when they were sent. FFmpeg's own way to join a frame's parts would be a frame late."""
    late_ms = [(chunk.t_ns - sender.written_ns[number_of(chunk.data)]) / 1e6 + latency_ms for chunk in chunks]
    assert np.median(np.abs(late_ms)) < STEP_NS / 2e6, late_ms


@needs_rtsp()
def test_rtsp_over_udp(clips: dict[str, Path]) -> None:
    port = free_port()
    with (
        Sender(senders.rtsp(clips["rtsp"], port), port) as sender,
        opened(f"{uri('rtsp', port)}?transport=udp&latency_ms=62.5") as source,
    ):
        assert source.specs[0].rate_hz == FPS
        chunks = read_chunks(source, 15)
        sender.kill()
    check_sent(chunks, sender, latency_ms=62.5)


def test_a_flash_is_placed_when_it_was_sent() -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/?latency_ms=10"
    with Sender(senders.flashes(port, every=3), port) as sender, opened(address) as source:
        chunks = read_chunks(source, 30)
        sender.kill()
    assert source.uri == address
    seen_ns = [chunk.t_ns + 10_000_000 for chunk in chunks if senders.is_flash(chunk.data)]
    assert len(seen_ns) == 10
    errors_ms = [min((seen - sent) / 1e6 for sent in sender.flashes_ns if sent < seen) for seen in seen_ns]
    assert np.percentile(errors_ms, 75) < STEP_NS / 1e6, errors_ms
    check_sent([chunk for chunk in chunks if not senders.is_flash(chunk.data)], sender, latency_ms=10)
    assert all(chunk.arrived_ns == chunk.t_ns + 10_000_000 for chunk in chunks)


def test_a_slow_reader_gets_the_latest_and_the_rest_is_counted() -> None:
    port = free_port()
    with Sender(senders.flashes(port), port) as sender, opened(f"http://127.0.0.1:{port}/") as source:
        until = time.monotonic() + 10
        while source.counts.n_dropped < 3:
            assert time.monotonic() < until
            threading.Event().wait(0.01)
        sender.pause()
        seqs = []
        while (chunk := source.read(200)) is not None:
            seqs.append(chunk.seq)
    assert len(seqs) == MAX_PICTURES
    assert seqs == list(range(seqs[0], seqs[0] + MAX_PICTURES))
    assert seqs[0] == source.counts.n_dropped >= 3


# --- servers of our own -----------------------------------------------------------------------------


@contextlib.contextmanager
def serving(
    answer: Callable[[bytes], bytes],
    *,
    n_clients: int = 1,
    greets: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """A port on which every client gets an answer to its request, or a greeting, and then nothing more."""
    server = socket.create_server(("127.0.0.1", 0))
    clients: list[socket.socket] = []

    def serve() -> None:
        for _ in range(n_clients):
            with contextlib.suppress(OSError):
                client, _address = server.accept()
                clients.append(client)
                if tls is not None:
                    clients[-1] = client = tls.wrap_socket(client, server_side=True)
                client.sendall(answer(b"" if greets else client.recv(65536)))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for client in clients:
            client.close()


def jpeg_parts(n: int) -> bytes:
    import cv2

    jpegs = [bytes(cv2.imencode(".jpg", picture)[1]) for picture in senders.counted_pictures(n)]
    head = b"--" + BOUNDARY + b"\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
    return b"".join(head % (len(jpeg), jpeg) for jpeg in jpegs)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=" + BOUNDARY + b"\r\n\r\n"


def refuse(_: bytes) -> bytes:
    return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def test_a_name_and_a_password_are_asked_for_and_never_shown() -> None:
    wanted = b"Basic " + base64.b64encode(b"me:s3cret word")
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        if wanted in request:
            return OK + jpeg_parts(5)
        head = b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="camera"\r\nContent-Length: 0\r\n'
        return head + b"Connection: close\r\n\r\n"

    with serving(answer, n_clients=3) as port:
        address = f"http://me:s3cret%20word@127.0.0.1:{port}/video?size=2"
        source = open_source(address)
        source.ensure_ready()
        assert source.uri == address
        assert "s3cret" not in source.specs[0].name
        source.ensure_stopped()
        assert b"GET /video?size=2 " in asked[-1]
        with pytest.raises(MissingError, match="name and a password") as failed:
            open_source(f"http://127.0.0.1:{port}/video").ensure_ready()
    assert failed.value.exit_code == 5


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (refuse, MissingError, "HTTP status 404"),
        (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n<html></html", DataError, "no stream"),
        (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n#EXTM3U\n", DataError, "playlist"),
        (lambda _: b"\x00\x01 what is this\r\n\r\n", MissingError, "cannot be opened"),
    ],
)
def test_what_is_no_camera_is_refused(
    answer: Callable[[bytes], bytes], kind: type[EdgeMerError], message: str
) -> None:
    with serving(answer) as port:
        source = open_source(f"http://127.0.0.1:{port}/")
        with pytest.raises(kind, match=message):
            source.ensure_ready()
        source.ensure_stopped()


def test_an_rtsp_camera_that_does_not_answer_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mer.sources import camera_network

    monkeypatch.setattr(camera_network, "SILENCE_S", 0.5)
    with (
        serving(lambda _: b"", greets=True) as port,
        pytest.raises(MissingError, match=r"nothing within 0\.5 s"),
    ):
        open_source(f"rtsp://127.0.0.1:{port}/cam").ensure_ready()


def test_a_camera_that_says_nothing_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mer.sources import camera_live

    monkeypatch.setattr(camera_live, "OPEN_TIMEOUT_MS", 300)
    with serving(lambda _: OK) as port:
        source = open_source(f"http://127.0.0.1:{port}/")
        begin = time.monotonic()
        with pytest.raises(MissingError, match="no picture came"):
            source.ensure_ready()
        assert time.monotonic() - begin < 1.5
        assert not [t for t in threading.enumerate() if t.name.startswith("http://")]


def test_stopping_does_not_wait_for_a_silent_camera() -> None:
    with serving(lambda _: OK + jpeg_parts(5)) as port:
        source = open_source(f"http://127.0.0.1:{port}/")
        source.start()
        while source.read(200) is not None:  # until it waits for more
            pass
        begin = time.monotonic()
        source.ensure_stopped()
        source.ensure_stopped()
        assert time.monotonic() - begin < 0.5
        assert not [t for t in threading.enumerate() if t.name.startswith("http://")]
        with pytest.raises(RuntimeError, match="started"):
            source.read(0)


def test_a_frame_of_mpeg_ts_is_placed_by_its_first_byte() -> None:
    """Its end is known only when the next one begins, and FFmpeg hands it on another one later."""
    port = free_port()
    with Sender(senders.mpeg_ts(port), port) as sender, opened(f"tcp://127.0.0.1:{port}") as source:
        chunks = read_chunks(source, 15)
        sender.kill()
    check_sent(chunks, sender)


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_a_connection_that_went_silent_is_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_mer.sources import camera_network

    monkeypatch.setattr(camera_network, "SILENCE_S", 0.5)
    begin = jpeg_parts(8) if kind == "http" else (OK + jpeg_parts(8)).partition(b"\r\n\r\n")[2]
    with serving(lambda _: (OK if kind == "http" else b"") + begin, greets=kind == "tcp") as port:
        source = open_source(f"{kind}://127.0.0.1:{port}")
        source.start()
        assert 0.3 < lost_within_s(source, "timed out") < 2
        source.ensure_stopped()


@needs("openssl")
def test_https_wants_a_certificate_that_it_can_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=camera"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serving(lambda _: OK + jpeg_parts(5), n_clients=2, tls=tls) as port:
        source = open_source(f"https://127.0.0.1:{port}/")
        with pytest.raises(MissingError, match="certificate"):
            source.ensure_ready()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        source.start()
        while source.read(200) is not None:  # until it waits for more
            pass
        begin = time.monotonic()
        source.ensure_stopped()
        assert time.monotonic() - begin < 0.5
        assert source.specs[0].name == f"https://127.0.0.1:{port}/visual"


def test_a_picture_may_change_its_size_and_a_broken_one_is_counted() -> None:
    import cv2

    def part(jpeg: bytes) -> bytes:
        head = b"--" + BOUNDARY + b"\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
        return head % (len(jpeg), jpeg)

    small, large = (
        bytes(cv2.imencode(".jpg", np.full((side, side, 3), 90, np.uint8))[1]) for side in (64, 96)
    )
    server = socket.create_server(("127.0.0.1", 0))
    source = open_source(f"http://127.0.0.1:{server.getsockname()[1]}/")
    assert isinstance(source, LiveCamera)

    def serve(sizes: list[bytes], client: socket.socket) -> None:
        for jpeg in sizes:
            client.sendall(part(jpeg))
            threading.Event().wait(0.02)

    ready: list[Any] = []
    opening = threading.Thread(target=lambda: ready.append(source.start()))
    opening.start()
    client, _ = server.accept()
    with server, client:
        client.recv(65536)
        client.sendall(OK)
        serve([small] * 3, client)
        opening.join()
        serve([small, b"no picture at all", large, small], client)
        shapes = [chunk.data.shape for chunk in (source.read(100) for _ in range(6)) if chunk is not None]
        source.ensure_stopped()
    assert (96, 96, 3) in shapes
    assert shapes[-1] == (64, 64, 3)
    assert source.counts.n_corrupt == 1


@pytest.mark.parametrize(
    "wrong",
    [
        "rtsp:",
        "rtsp://",
        "rtsp:/cam",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:port/",
        "http://a b/",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:80/path",
        "tcp://127.0.0.1:80?listen=1",
        "rtsp://host/cam?latency_ms=fast",
        "rtsp://host/cam?latency_ms=-1",
        "rtsp://host/cam?latency_ms",
        "rtsp://host/cam?latency_ms=1&latency_ms=2",
        "rtsp://host/cam?transport=pigeon",
    ],
)
def test_wrong_addresses_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError):
        open_source(wrong)


def test_our_keys_are_taken_out_of_the_address() -> None:
    camera = RtspCamera("//u:p@host:554/cam?channel=1&latency_ms=80&transport=udp&subtype=0")
    assert camera.url == "rtsp://u:p@host:554/cam?channel=1&subtype=0"
