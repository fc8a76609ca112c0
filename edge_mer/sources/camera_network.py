"""Cameras on a network, and programs that send pictures: RTSP, MJPEG over HTTP, containers over HTTP and TCP.

    rtsp://user:password@192.168.1.20/stream1?latency_ms=120
    http://192.168.1.21:8080/video
    tcp://127.0.0.1:5000

FFmpeg reads them. The sockets of HTTP and TCP are ours, so that it is known which byte came when, and so that
waiting ends as soon as it is asked to. RTSP is spoken by FFmpeg itself.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import urllib.error
import urllib.request
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, NoReturn, TypeAlias, cast
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import av
from av.codec.context import Flags
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import DataError, EdgeMerError, LostError, MissingError, UsageError
from edge_mer.sources.camera_live import CameraCounts, LiveCamera, Picture, See
from edge_mer.sources.camera_settings import LATENCY, Key, one_of, read_key
from edge_mer.sources.camera_times import Arrivals, FrameTimes
from edge_mer.sources.file_frames import pixel_aspect, to_rgb
from edge_mer.sources.file_open import MAX_PICTURE_PX, PYAV_MAJOR

SILENCE_S = 5
"""A connection without a byte for so long is lost: a cable that was pulled says nothing."""

FORMATS = "mpjpeg,mjpeg,mpegts,flv,matroska,mov,nut,ogg,h264,hevc"
"""FFmpeg's names of what may come over HTTP and TCP: no playlists, which name further addresses."""

_WITHOUT_CLOCK = {"mpjpeg", "mjpeg", "h264", "hevc"}
"""Formats without time stamps, for which FFmpeg makes some up."""

_OPTIONS = {"fflags": "nobuffer", "analyzeduration": "1000000", "probesize": "500000", "fpsprobesize": "0"}
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if PYAV_MAJOR < 19 else {}
_CLOSED = "the other side closed the connection"
_RTSP_POLL_S = 0.25
_RATE_LIMITS_HZ = (1, 240)
_MAX_IN_DECODER = 64


_VideoPacket: TypeAlias = "Packet[VideoStream]"


@dataclass(frozen=True)
class Feed:
    """An open connection.

    Attributes:
        container: What FFmpeg reads from it.
        arrived_ns: When the first byte of a packet came that was just read.
    """

    container: InputContainer
    arrived_ns: Callable[[_VideoPacket], int]


class NetworkCamera(LiveCamera):
    """Pictures from an address: stream "ADDRESS/visual", RGB pictures (height, width, 3) uint8.

    Where the sender stamps pictures, its stamps say how far apart they are, and the quickest of the last
    seconds how late; else a picture is placed when its first byte came (`FrameTimes`).

    Args:
        rest: The URI behind its scheme and colon. Of its query, `latency_ms` is for us.
        clock: Stamps what comes.

    Raises:
        UsageError: No address, or a value that is not allowed.
    """

    scheme: ClassVar[str]
    example: ClassVar[str]
    own_keys: ClassVar[tuple[Key, ...]] = (LATENCY,)

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        uri = f"{self.scheme}:{rest}"
        self._address, values = _split(uri, {key.name: key for key in self.own_keys}, self.example)
        self._values = values
        self._codec = ""
        self._hang_up: Callable[[], None] | None = None
        name = f"{self.scheme}://{_without_password(self._address)}{self._address.path.rstrip('/')}"
        super().__init__(uri, name, values.get("latency_ms", Fraction(0)), clock or MonotonicClock())

    @property
    def url(self) -> str:
        """What is asked of the camera: the URI without our own keys."""
        return urlunsplit(self._address)

    @abstractmethod
    def _feed(self, stop: threading.Event) -> contextlib.AbstractContextManager[Feed]:
        """Connect."""

    def _capture(self, see: See, stop: threading.Event) -> None:
        with contextlib.ExitStack() as connection:
            with self._explained(MissingError, "cannot be opened"):
                feed = connection.enter_context(self._feed(stop))
                stream = self._video(feed.container)
            with self._explained(LostError, "was cut off"):
                self._watch(feed, stream, see, stop)
            if not stop.is_set():
                raise LostError(f"{self._name} was cut off", found=_CLOSED)

    def _video(self, container: InputContainer) -> VideoStream:
        """The first video stream, set up to be decoded without delay."""
        if not container.streams.video:
            raise DataError(f"{self._name} sends no pictures", expected="a video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None or stream.time_base is None:
            raise DataError(f"{self._name} sends pictures in a code that cannot be decoded")
        context.options = {"max_pixels": str(MAX_PICTURE_PX)}
        context.thread_type = "SLICE"  # threads by frame hold frames back
        context.flags |= Flags.low_delay
        rate_hz = stream.average_rate if _is_clocked(container) else None
        low, high = _RATE_LIMITS_HZ
        self._rate_hz = float(rate_hz) if rate_hz and low <= rate_hz <= high else None
        self._codec = context.name
        return stream

    def _watch(self, feed: Feed, stream: VideoStream, see: See, stop: threading.Event) -> None:
        times, counts, aspect = FrameTimes(), self._counts, pixel_aspect(stream)
        is_clocked = _is_clocked(feed.container)
        arrivals: dict[int | None, int] = {}
        for packet, arrived_ns in self._packets(feed, stream, stop):
            arrivals[packet.pts] = arrived_ns
            for frame in _decoded(stream, packet, counts):
                came_ns = arrivals.pop(frame.pts, arrived_ns)
                t_ns = times.place(came_ns, _stamp_ns(frame) if is_clocked else None)
                counts.n_stale = times.n_stale
                if t_ns is not None:
                    see(Picture(to_rgb(frame, aspect, (None, None, 3)), t_ns, came_ns))
            while len(arrivals) > _MAX_IN_DECODER:
                del arrivals[next(iter(arrivals))]

    def _packets(
        self, feed: Feed, stream: VideoStream, stop: threading.Event
    ) -> Iterator[tuple[_VideoPacket, int]]:
        """Packets with their times of arrival, until there are no more.

        FFmpeg's own connections stop waiting every `_RTSP_POLL_S`, to ask whether to go on.
        """
        heard_ns = self._clock.now_ns()
        while not stop.is_set():
            try:
                for packet in feed.container.demux(stream):
                    heard_ns = self._clock.now_ns()
                    if packet.size:
                        yield packet, feed.arrived_ns(packet)
                    if stop.is_set():
                        return
                return
            except av.error.ExitError:
                if self._clock.now_ns() - heard_ns > SILENCE_S * NS_PER_S:
                    raise

    @contextlib.contextmanager
    def _explained(self, kind: type[MissingError], what: str) -> Iterator[None]:
        """Turn what FFmpeg and the network report into one clear message."""
        try:
            yield
        except EdgeMerError:
            raise
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError, _NotAllowed) as error:
            raise MissingError(
                f"{self._name} asks for a name and a password",
                hint=f"write {self.scheme}://NAME:PASSWORD@{_without_password(self._address)}...",
            ) from error
        except av.error.InvalidDataError as error:
            raise DataError(
                f"{self._name} sends nothing that can be read",
                expected=f"one of {FORMATS}",
                found=str(error.strerror),
                hint="a page or a playlist is no stream: look for its address in the camera's manual",
            ) from error
        except (av.FFmpegError, OSError, http.client.HTTPException) as error:
            hint = "check the address, and that the camera is on"
            raise kind(f"{self._name} {what}", found=_reason(error), hint=hint) from error

    def _interrupt(self) -> None:
        hang_up = self._hang_up
        if hang_up is not None:
            hang_up()

    def _mode_of(self, height_px: int, width_px: int) -> str:
        rate = f" at {self._rate_hz:g} Hz" if self._rate_hz else ""
        return f"{width_px} x {height_px}{rate}, {self._codec}"


class _NotAllowed(Exception):  # noqa: N818
    """The camera wants to know who asks."""


class RtspCamera(NetworkCamera):
    """A camera that speaks RTSP, over TCP unless `transport=udp` is asked for.

    FFmpeg would put the parts of a frame together, and hand them on once the next frame begins. So they are
    taken as they come, to know when the first one did, and put together here.
    """

    scheme = "rtsp"
    example = "rtsp://192.168.1.20/stream1"
    own_keys = (LATENCY, one_of("transport", "tcp", "udp"))

    @contextlib.contextmanager
    def _feed(self, stop: threading.Event) -> Iterator[Feed]:
        with self._opened() as container:
            yield Feed(container, lambda _: self._clock.now_ns())

    def _opened(self) -> InputContainer:
        transport = self._values.get("transport", "tcp")
        try:
            container: InputContainer = av.open(
                self.url,
                format="rtsp",
                options={**_OPTIONS, "fflags": "nobuffer+noparse+nofillin", "rtsp_transport": transport},
                container_options={"protocol_whitelist": "rtp,tcp,udp"},
                timeout=(SILENCE_S, _RTSP_POLL_S),
                **_METADATA,
            )
            return container
        except av.error.InvalidDataError as error:  # FFmpeg says so too where it waited in vain
            raise MissingError(
                f"{self._name} does not speak RTSP",
                found=f"nothing within {SILENCE_S} s, or something else",
                hint="check the address and its port, mostly 554",
            ) from error

    def _packets(
        self, feed: Feed, stream: VideoStream, stop: threading.Event
    ) -> Iterator[tuple[_VideoPacket, int]]:
        parts: list[_VideoPacket] = []
        began_ns = 0
        for part, arrived_ns in super()._packets(feed, stream, stop):
            if parts and part.pts != parts[0].pts:
                yield _joined(parts), began_ns
                parts = []
            if not parts:
                began_ns = arrived_ns
            parts.append(part)


class _Reader:
    """What FFmpeg takes for a file: it can only be read."""

    def __init__(self, read: Callable[[int], bytes], clock: Clock) -> None:
        self._read, self._clock = read, clock
        self.arrivals = Arrivals()

    def read(self, n_bytes: int) -> bytes:
        data = self._read(n_bytes)
        self.arrivals.took(len(data), self._clock.now_ns())
        return data


class SocketCamera(NetworkCamera):
    """One that is read through a socket of ours."""

    @contextlib.contextmanager
    def _read_by_ffmpeg(self, read: Callable[[int], bytes], file_format: str | None = None) -> Iterator[Feed]:
        reader = _Reader(read, self._clock)
        with av.open(
            reader,
            mode="r",
            format=file_format,
            container_options={**_OPTIONS, "format_whitelist": FORMATS},
            io_open=_refuse_second_address,
            **_METADATA,
        ) as container:
            yield Feed(container, lambda packet: reader.arrivals.of(packet.pos))

    @contextlib.contextmanager
    def _interruptible(self, connection: socket.socket, stop: threading.Event) -> Iterator[None]:
        """While inside, `_interrupt` ends whatever waits for this connection."""

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_RDWR)

        if stop.is_set():  # long ago, while it was connecting: another connection may be open by now
            raise ConnectionAbortedError("asked to stop")
        self._hang_up = hang_up
        try:
            if stop.is_set():  # before there was anything to interrupt
                hang_up()
            yield
        finally:
            if self._hang_up is hang_up:
                self._hang_up = None


class TcpCamera(SocketCamera):
    """A program that listens on a TCP port and sends a container, such as MPEG-TS."""

    scheme = "tcp"
    example = "tcp://127.0.0.1:5000"

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(rest, clock)
        address = self._address
        if address.port is None or address.query or address.path not in ("", "/"):
            raise UsageError(f"tcp:{rest} is no address of a socket", expected=f"e.g. {self.example}")

    @contextlib.contextmanager
    def _feed(self, stop: threading.Event) -> Iterator[Feed]:
        target = str(self._address.hostname), int(self._address.port or 0)
        with (
            socket.create_connection(target, SILENCE_S) as connection,
            self._interruptible(connection, stop),
            self._read_by_ffmpeg(connection.recv) as feed,
        ):
            yield feed


class HttpCamera(SocketCamera):
    """A camera that sends MJPEG, or a container, as the answer to one HTTP request."""

    scheme = "http"
    example = "http://192.168.1.21:8080/video"

    @contextlib.contextmanager
    def _feed(self, stop: threading.Event) -> Iterator[Feed]:
        with (
            self._asked() as answer,
            socket.socket(fileno=os.dup(answer.fileno())) as connection,
            self._interruptible(connection, stop),
        ):
            kind = answer.headers.get_content_type()
            is_mjpeg = kind.startswith("multipart/")
            with self._read_by_ffmpeg(answer.read1, "mpjpeg" if is_mjpeg else None) as feed:
                yield feed

    def _asked(self) -> http.client.HTTPResponse:
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # it is in the room
        if self._address.username is not None:
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            name, password = unquote(self._address.username), unquote(self._address.password or "")
            passwords.add_password(None, self._plain_url, name, password)
            handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
            handlers.append(urllib.request.HTTPDigestAuthHandler(passwords))
        try:
            answer = urllib.request.build_opener(*handlers).open(self._plain_url, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise _NotAllowed from error
                raise MissingError(
                    f"{self._name} does not answer with pictures",
                    found=f"HTTP status {error.code}: {error.reason}",
                    hint="look for the stream's address in the camera's manual",
                ) from error
        return cast(http.client.HTTPResponse, answer)

    @property
    def _plain_url(self) -> str:
        return urlunsplit(self._address._replace(netloc=_without_password(self._address)))


class HttpsCamera(HttpCamera):
    """As `HttpCamera`, encrypted, from a camera with a certificate that this host trusts."""

    scheme = "https"
    example = "https://192.168.1.21/video"


def _refuse_second_address(url: str, *_: object) -> NoReturn:
    raise PermissionError(f"the stream asks for another address: {url!r}")


def _split(uri: str, keys: dict[str, Key], example: str) -> tuple[SplitResult, dict[str, Any]]:
    """The camera's own address, and the values of our keys, taken out of its query."""
    try:
        address = urlsplit(uri)
        is_good = uri.startswith(f"{address.scheme}://") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is none
        is_good = False
    if not is_good or not uri.isprintable() or " " in uri:
        raise UsageError(f"{uri!r} is no address", expected=f"e.g. {example}")
    values: dict[str, Any] = {}
    left = []
    for part in address.query.split("&") if address.query else ():
        name, separator, text = part.partition("=")
        if name in keys:
            values[name] = read_key(uri, keys[name], text if separator else None, is_again=name in values)
        else:
            left.append(part)
    return address._replace(query="&".join(left), fragment=""), values


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return _CLOSED
    if isinstance(error, (av.error.ExitError, TimeoutError)):
        return f"timed out after {SILENCE_S} s"
    found = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return str(found) or repr(error)


def _without_password(address: SplitResult) -> str:
    return address.netloc.rpartition("@")[2]


def _is_clocked(container: InputContainer) -> bool:
    return not _WITHOUT_CLOCK & set(container.format.name.split(","))


def _stamp_ns(frame: VideoFrame) -> int | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return round(frame.pts * frame.time_base * NS_PER_S)


def _joined(parts: list[_VideoPacket]) -> _VideoPacket:
    """A frame's parts, as FFmpeg's decoders want them."""
    packet = cast(_VideoPacket, Packet(b"".join(map(bytes, parts))))
    packet.pts, packet.dts, packet.time_base = parts[0].pts, parts[0].dts, parts[0].time_base
    return packet


def _decoded(stream: VideoStream, packet: _VideoPacket, counts: CameraCounts) -> list[VideoFrame]:
    """The frames that a packet completes; what was damaged on the way is left out."""
    try:
        frames = stream.codec_context.decode(packet)
    except av.FFmpegError:
        counts.n_corrupt += 1
        return []
    whole = [frame for frame in frames if not frame.is_corrupt]
    counts.n_corrupt += len(frames) - len(whole)
    return whole
