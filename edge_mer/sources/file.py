"""Media files: picture and sound with the timestamps of the file itself, starting at 0.

A file is opened in three steps. It is looked at as bytes, so that something that is no file, or a
recording that was cut, is refused before anything is played. It is opened with FFmpeg (through PyAV)
with nothing allowed but this one file: no playlists, no second file, no network. Its streams are
decoded up to their first frame, which says what they carry.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, UsageError
from edge_mer.sources.file_cut import refuse_cut
from edge_mer.sources.file_frames import (
    duration_s,
    is_still,
    pixel_aspect,
    still_chunks,
    stream_spec,
    to_rgb,
    to_samples,
)
from edge_mer.sources.file_open import (
    MAX_PICTURE_PX,
    as_data_error,
    expand,
    open_container,
    open_regular,
    shown,
    used_streams,
)
from edge_mer.types.signals import Chunk, StreamSpec

MAX_JUMP_BACK_S = Fraction(1, 10)
"""Timestamps that go back by more than this begin a new segment."""

MAX_JUMP_FORWARD_S = 10
"""So do timestamps that go forward by more than this, in formats that allow it (MPEG-PS, MPEG-TS)."""

MAX_WAITING_BYTES = 64 << 20
MAX_WAITING_PACKETS = 20_000
"""Encoded packets held while the other stream has none; past it, the streams are not kept in step."""

_INTERLEAVE_S = Fraction(3, 2)  # MPEG-PS and MPEG-TS allow 1 s between what belongs together
_TIMESTAMPS_MAY_JUMP = 0x0200  # FFmpeg's AVFMT_TS_DISCONT
_MAX_FAILED_READS = 100
_MAX_SEGMENTS_KEPT = 16
_MAX_CHANGED_FRAMES = 4


class FileSource:
    """A media file as a source of chunks, read as fast as it is asked for.

    The first video stream (cover pictures do not count) becomes "<file name>/visual": frames
    (height, width, 3) uint8 RGB, turned upright where the file carries a rotation (mirroring is not
    undone) and widened to square pixels. The first audio stream becomes "<file name>/audio": samples
    (n, channels) float32 in [-1, 1], whatever the format in the file. A frame whose size differs from
    the first one's is fitted into it, with black borders where the proportions differ.

    A still picture (PNG, JPEG, BMP, TIFF, WebP; the first where a file holds several) is shown for 10 s
    at 25 frames per second, as a clip that stands still. Its chunks share their pixels, read-only.

    `t_ns` is computed without rounding errors from the file's timestamps. 0 is the earliest first
    timestamp of the streams used, so picture and sound keep their offset. Frames without a timestamp
    follow the one before. Files joined end to end, whose timestamps start again at each joint, play
    on: both streams are moved by one common offset, to where the longer one ended.

    Chunks of one stream come in strictly increasing order of `t_ns`, and those of both streams in
    common order, unless the file holds them more than `MAX_WAITING_BYTES` apart.

    Args:
        rest: The path, any characters; a leading "~" is the home directory unless a file is so named.

    Attributes:
        n_corrupt: Packets and frames that could not be decoded and were left out, since opening. Damage
            that FFmpeg covers up without a word, as it does in MPEG-4 part 2 (DivX), is not among them.

    Raises:
        UsageError: `rest` is empty.
    """

    is_live = False

    def __init__(self, rest: str) -> None:
        if not rest:
            raise UsageError("a file source needs a path", expected="file:PATH, e.g. file:clip.mp4")
        self._rest = rest
        self._path = expand(rest)
        self._media: _Media | None = None
        self._specs: tuple[StreamSpec, ...] = ()
        self._started = False
        self._ended = False
        self.n_corrupt = 0

    @property
    def uri(self) -> str:
        """The URI that opens this file again."""
        return f"file:{self._rest}"

    @property
    def path(self) -> Path:
        """The file that is read."""
        return self._path

    @property
    def specs(self) -> tuple[StreamSpec, ...]:
        """One spec per stream, visual before audio; valid after `ensure_ready`."""
        return self._specs

    @property
    def ended(self) -> bool:
        """True once `read` has found the end."""
        return self._ended

    def ensure_ready(self) -> None:
        """Open the file, refuse it if it is not whole, and describe its streams.

        Raises:
            DataError: No such file, no regular file, not readable, empty, not a media file, cut off,
                or without picture and sound that can be decoded.
        """
        if self._media is not None:
            return
        with contextlib.ExitStack() as on_failure:
            file = on_failure.enter_context(open_regular(self._path))
            refuse_cut(file, self._path)
            container = on_failure.enter_context(open_container(file, self._path))
            media = _Media(container, file, self._path)
            self._specs = media.describe()
            on_failure.pop_all()
        self._media = media
        self.n_corrupt = media.n_corrupt
        self._ended = False

    def start(self) -> None:
        """Begin to deliver, from the start of the file.

        Raises:
            DataError: As `ensure_ready`.
        """
        self.ensure_ready()
        self._started = True

    def read(self, timeout_ms: int) -> Chunk | None:
        """The next frame or piece of sound, or None at the end.

        Args:
            timeout_ms: Not needed by a file, which never makes anyone wait.

        Raises:
            DataError: The disk failed, the sound changed its rate or channels, or too little of the
                rest can be read.
            RuntimeError: Not started.
        """
        if not self._started or self._media is None:
            raise RuntimeError(f"{self.uri} must be started before it is read")
        chunk = self._media.next_chunk()
        self.n_corrupt = self._media.n_corrupt
        self._ended = chunk is None
        return chunk

    def ensure_stopped(self) -> None:
        """Close the file; harmless when it is not open."""
        if self._media is not None:
            self._media.close()
        self._media = None
        self._started = False


@dataclass
class _Piece:
    """One decoded frame, placed on the time axis of its segment of the file."""

    segment: int
    start_s: Fraction
    duration_s: Fraction
    frame: VideoFrame | AudioFrame


@dataclass
class _Track:
    """One stream: its waiting packets, the frames decoded ahead, and how far each step has come."""

    stream: VideoStream | AudioStream
    time_base_s: Fraction
    pixel_aspect: Fraction
    packets: deque[tuple[int, Packet[Any]]] = field(default_factory=deque)
    pieces: deque[_Piece] = field(default_factory=deque)
    drained: bool = False
    # The demuxer and the decoder, on the time axis of a segment.
    demuxed_segment: int = 0
    demuxed_s: Fraction | None = None
    decoded_segment: int = 0
    decoded_end_s: Fraction | None = None
    # The chunks delivered, on the time axis of the session.
    seq: int = 0
    last_start_s: Fraction | None = None
    last_end_s: Fraction = Fraction(0)
    n_changed: int = 0


class _Media:
    """An open file: demuxes on demand, numbers segments, decodes, and merges the streams in time.

    What waits for the other stream waits as encoded packets; of decoded frames each stream has only
    those that its decoder gave for one packet.
    """

    def __init__(self, container: InputContainer, file: BinaryIO, path: Path) -> None:
        self._path = path
        self._file = file
        self.n_corrupt = 0
        self._container = container
        self._may_jump = bool(container.format.flags & _TIMESTAMPS_MAY_JUMP)
        # A stream without a time base is refused before it comes here.
        self._tracks = [
            _Track(stream, cast(Fraction, stream.time_base), pixel_aspect(stream))
            for stream in used_streams(container, path)
        ]
        self._packets = self._demux()
        self._demux_ended = False
        self._waiting_bytes = 0
        self._offsets_s: dict[int, Fraction] = {}
        self._end_s = Fraction(0)
        self._specs: dict[int, StreamSpec] = {}
        self._still: Iterator[Chunk] | None = None

    def close(self) -> None:
        self._packets.close()
        self._tracks.clear()
        self._container.close()
        self._file.close()

    def describe(self) -> tuple[StreamSpec, ...]:
        """Decode up to the first frame of each stream, and say what they carry."""
        with as_data_error(self._path):
            self._fill()
        self._tracks = [track for track in self._tracks if track.pieces or not track.drained]
        if not any(track.pieces for track in self._tracks):
            raise DataError(
                f"no picture and no sound of {shown(self._path)} can be decoded",
                expected=f"sound, or pictures of at most {MAX_PICTURE_PX} pixels",
                found=f"{self.n_corrupt} unreadable packets and no readable one",
                hint="try another player, or copy the file again",
            )
        with as_data_error(self._path):
            for track in self._tracks:
                frame = track.pieces[0].frame if track.pieces else None
                spec = self._specs[track.stream.index] = stream_spec(track.stream, frame, self._path)
                if isinstance(frame, VideoFrame) and is_still(track.stream):
                    self._still = still_chunks(spec, to_rgb(frame, track.pixel_aspect, spec.shape))
        return tuple(self._specs.values())

    def next_chunk(self) -> Chunk | None:
        """The earliest frame or piece of sound not yet delivered; None at the end."""
        if self._still is not None:
            return next(self._still, None)
        with as_data_error(self._path):
            while True:
                self._fill()
                ready = [track for track in self._tracks if track.pieces]
                if not ready:
                    return None
                track = min(ready, key=lambda t: (t.pieces[0].segment, t.pieces[0].start_s))
                t_ns = self._place(track, ready)
                data = self._convert(track, track.pieces.popleft().frame)
                if data is not None:
                    return self._chunk(track, t_ns, data)

    def _chunk(self, track: _Track, t_ns: int, data: NDArray[np.generic]) -> Chunk:
        spec = self._specs[track.stream.index]
        chunk = Chunk(stream=spec.name, modality=spec.modality, seq=track.seq, t_ns=t_ns, data=data)
        track.seq += 1
        return chunk

    def _place(self, track: _Track, ready: list[_Track]) -> int:
        """Session time of the track's next frame, in ns; begins a segment where it is the first of one."""
        piece = track.pieces[0]
        if piece.segment not in self._offsets_s:
            starts_s = [t.pieces[0].start_s for t in ready if t.pieces[0].segment == piece.segment]
            if not self._offsets_s:
                starts_s += self._declared_starts_s()
            self._offsets_s[piece.segment] = self._end_s - min(starts_s)
            if len(self._offsets_s) > _MAX_SEGMENTS_KEPT:
                del self._offsets_s[min(self._offsets_s)]
        start_s = max(piece.start_s + self._offsets_s[piece.segment], Fraction(0))
        if track.last_start_s is not None and start_s <= track.last_start_s:
            start_s = track.last_end_s
        track.last_start_s = start_s
        track.last_end_s = start_s + max(piece.duration_s, Fraction(1, NS_PER_S))
        self._end_s = max(self._end_s, track.last_end_s)
        return round(start_s * NS_PER_S)

    def _declared_starts_s(self) -> list[Fraction]:
        """Where the streams begin whose first frame lies too far on in the file to be waited for."""
        late = [t for t in self._tracks if not t.pieces and not t.drained]
        return [t.stream.start_time * t.time_base_s for t in late if t.stream.start_time is not None]

    def _convert(self, track: _Track, frame: VideoFrame | AudioFrame) -> NDArray[np.generic] | None:
        """The data of a chunk; None for sound that is not what it was declared to be, or no numbers."""
        spec = self._specs[track.stream.index]
        if isinstance(frame, VideoFrame):
            return to_rgb(frame, track.pixel_aspect, spec.shape)
        samples = to_samples(frame)
        is_same = frame.sample_rate == spec.rate_hz and samples.shape[1] == len(spec.channels)
        if is_same and np.isfinite(samples).all():
            track.n_changed = 0
            return samples
        self.n_corrupt += 1
        if not is_same:
            track.n_changed += 1
            self._refuse_changed_sound(track, spec, f"{samples.shape[1]} channels at {frame.sample_rate} Hz")
        return None

    def _refuse_changed_sound(self, track: _Track, spec: StreamSpec, found: str) -> None:
        if track.n_changed < _MAX_CHANGED_FRAMES:  # one damaged header is no change
            return
        raise DataError(
            f"the sound of {shown(self._path)} changes on the way, at {float(self._end_s):.2f} s",
            expected=f"{len(spec.channels)} channels at {spec.rate_hz:g} Hz throughout",
            found=found,
            hint="play the parts one by one, or re-encode them to one rate",
        )

    def _fill(self) -> None:
        """Give every track a decoded frame, as far as the bound on waiting packets allows."""
        for track in self._tracks:
            while not track.pieces and not track.drained:
                if track.packets:
                    self._decode_next(track)
                elif self._demux_ended:
                    self._drain(track)
                    track.drained = True
                elif self._is_full():
                    break
                else:
                    self._read_packet()

    def _is_full(self) -> bool:
        n_waiting = sum(len(track.packets) for track in self._tracks)
        return self._waiting_bytes > MAX_WAITING_BYTES or n_waiting > MAX_WAITING_PACKETS

    # Demuxing.

    def _demux(self) -> Generator[Packet[Any], None, None]:
        """Packets of the used streams; what cannot be read is counted and passed over, within limits."""
        n_failures = 0
        while True:
            try:
                for packet in self._container.demux(*[track.stream for track in self._tracks]):
                    n_failures = 0
                    if packet.size:
                        yield packet
                return
            except av.FFmpegError:
                n_failures += 1
                self.n_corrupt += 1
                if n_failures > _MAX_FAILED_READS:
                    raise

    def _read_packet(self) -> None:
        packet = next(self._packets, None)
        if packet is None:
            self._demux_ended = True
            return
        track = next(track for track in self._tracks if track.stream.index == packet.stream_index)
        self._enter_segment(track, packet)
        track.packets.append((track.demuxed_segment, packet))
        self._waiting_bytes += packet.size

    def _enter_segment(self, track: _Track, packet: Packet[Any]) -> None:
        if self._may_jump:
            _mend_times_at_joint(track, packet)
        # Decoding times only grow within a segment; presentation times of video are out of order.
        time = packet.pts if packet.dts is None and isinstance(track.stream, AudioStream) else packet.dts
        if time is not None:
            time_s = time * track.time_base_s
            track.demuxed_segment = self._segment_of(track, time_s)
            track.demuxed_s = time_s

    def _segment_of(self, track: _Track, time_s: Fraction) -> int:
        """The segment a packet belongs to: its own, the one that the other stream is in, or a new one."""
        others = [t for t in self._tracks if t is not track and t.demuxed_s is not None]
        leader = max(others, key=lambda t: t.demuxed_segment, default=None)
        if track.demuxed_s is None:
            return leader.demuxed_segment if leader else 0
        back = time_s < track.demuxed_s - MAX_JUMP_BACK_S
        forward = self._may_jump and time_s > track.demuxed_s + MAX_JUMP_FORWARD_S
        if not back and not forward:
            return track.demuxed_segment
        if leader is None or leader.demuxed_s is None:
            return track.demuxed_segment + 1
        # A jump to where the other stream is: the other one was first over the joint, or this was a gap.
        ahead = leader.demuxed_segment - track.demuxed_segment
        if (ahead > 0 or (ahead == 0 and forward)) and abs(time_s - leader.demuxed_s) <= _INTERLEAVE_S:
            return leader.demuxed_segment
        return max(leader.demuxed_segment, track.demuxed_segment) + 1

    # Decoding.

    def _decode_next(self, track: _Track) -> None:
        segment, packet = track.packets.popleft()
        self._waiting_bytes -= packet.size
        if segment != track.decoded_segment:
            self._drain(track)
            track.stream.codec_context.flush_buffers()
            track.decoded_segment = segment
            track.decoded_end_s = None
        begins = packet.dts if packet.pts is None else packet.pts
        if track.decoded_end_s is None and begins is not None:
            track.decoded_end_s = begins * track.time_base_s
        self._decode(track, packet)

    def _drain(self, track: _Track) -> None:
        """Take out of the decoder what it still holds back."""
        with contextlib.suppress(av.EOFError):
            self._decode(track, None)

    def _decode(self, track: _Track, packet: Packet[Any] | None) -> None:
        try:
            frames = track.stream.codec_context.decode(packet)
        except av.EOFError:
            raise
        except av.FFmpegError:
            self.n_corrupt += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self.n_corrupt += 1
            else:
                self._keep(track, frame)

    def _keep(self, track: _Track, frame: VideoFrame | AudioFrame) -> None:
        start_s = track.decoded_end_s or Fraction(0)
        if frame.pts is not None:
            start_s = frame.pts * track.time_base_s
        piece = _Piece(track.decoded_segment, start_s, duration_s(track.stream, frame), frame)
        track.decoded_end_s = start_s + piece.duration_s
        track.pieces.append(piece)


def _mend_times_at_joint(track: _Track, packet: Packet[Any]) -> None:
    """Undo what FFmpeg guesses where the file leaves out one of a packet's two times.

    Across a joint the guess comes from the other side of it. The packet that begins a part is a key
    frame and has a presentation time of its own; the one that ends a part has seldom both properties.
    """
    if packet.pts is None or packet.dts is None:
        return
    delay_s = (packet.pts - packet.dts) * track.time_base_s
    if -MAX_JUMP_BACK_S <= delay_s <= MAX_JUMP_FORWARD_S:
        return
    if packet.is_keyframe:
        packet.dts = packet.pts
    else:
        packet.pts = None
