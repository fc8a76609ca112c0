"""Media files: picture and sound with the timestamps of the file itself, starting at 0.

A file is opened in three steps. It is looked at as bytes, so that something that is no file, or a
recording that was cut, is refused before anything is played. It is opened with FFmpeg (through PyAV)
with nothing allowed but this one file: no playlists, no second file, no network. Its streams are
decoded up to their first frame, which says what they carry.

How a cut recording is recognised, each at the cost of a few reads and never of a full decode:

    MP4, MOV      a box that is longer than the file, or no `moov` box at all
    AVI, WAV      a RIFF chunk that is longer than the file
    Matroska      a segment, or the last cluster or block, that is longer than the file
    MPEG-PS       a packet that is longer than the file; a last picture or sound frame that is incomplete
    MPEG-TS       a last packet that is shorter than the others
    Ogg           an incomplete last page, or one that is not marked as the last
    FLAC, AIFF, TTA, WavPack   less sound than the header declares, or a broken last frame
    MP3           fewer bytes than the Xing header declares
    PNG, JPEG     no end marker

A cut that leaves none of these traces (a raw stream without a container, a fragmented MP4 or a live
WebM cut exactly between two pieces) is played as far as it goes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError, UsageError
from edge_mer.types.signals import Chunk, StreamSpec

FORMATS = (
    "aac,ac3,aiff,amr,ape,apng,asf,au,avi,bmp_pipe,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,jpeg_pipe,m4v,"
    "matroska,mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,png_pipe,tiff_pipe,tta,w64,wav,webp_pipe,wv,"
    "yuv4mpegpipe"
)
"""FFmpeg's names of the formats that are read: each is one self-contained file."""

MAX_JUMP_BACK_S = Fraction(1, 10)
"""Timestamps that go back by more than this begin a new segment."""

MAX_JUMP_FORWARD_S = 10
"""So do timestamps that go forward by more than this, in formats that allow it (MPEG-PS, MPEG-TS)."""

MAX_WAITING_BYTES = 64 << 20
MAX_WAITING_PACKETS = 20_000
"""Encoded packets held while the other stream has none; past it, the streams are not kept in step."""

MAX_PICTURE_PX = 1 << 26
"""Larger pictures are refused: 8192 x 8192 pixels are 200 MB as RGB."""

_PYAV = int(av.__version__.split(".")[0])
# For every decoder; to those that look at a file on opening they cannot be given before PyAV 18, which
# crashes on formats that show their streams late, such as MPEG-PS.
_CODEC_OPTIONS = {"max_pixels": str(MAX_PICTURE_PX)}
# Colours are converted with one thread per core from PyAV 17 on, unless told otherwise.
_CONVERSION: dict[str, Any] = {"threads": 1} if _PYAV >= 17 else {}

_INTERLEAVE_S = Fraction(3, 2)  # MPEG-PS and MPEG-TS allow 1 s between what belongs together
_TIMESTAMPS_MAY_JUMP = 0x0200  # FFmpeg's AVFMT_TS_DISCONT
_DECODING_THREADS = 2
_MAX_FAILED_READS = 100
_MAX_SEGMENTS_KEPT = 16
_MAX_CHANGED_FRAMES = 4
_SAMPLE_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}

_TAIL_BYTES = 1 << 20
_MAX_BOXES = 200_000
_MAX_PICTURE_BYTES = 64 << 20
_LAST_PICTURES = 4  # the last one in the file may be shown up to three pictures before the end
_LAST_SOUND_FRAMES = 8
_CONSTANT_SIZE_CODECS = ("mp1", "mp2", "ac3")
_RIFF_UNKNOWN = (0, 0xFFFFFFFF)
_RIFF_SLACK_BYTES = 8
_WAV_UNKNOWN = 0x7FFF0000
_MP3_SLACK_BYTES = 1500  # encoders differ in whether they count the header's own frame, and the tags
_PS_PACK = b"\0\0\1\xba"
_EBML_SEGMENT = bytes.fromhex("18538067")
_EBML_CLUSTER = bytes.fromhex("1f43b675")
_EBML_CLUSTER_BEGINS = (b"\xe7", b"\xbf", b"\xec", b"\xa7", b"\xab")  # the time, as a rule
_ISO_FIRST = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_ISO_BOXES = _ISO_FIRST | {b"moof", b"mfra", b"sidx", b"ssix", b"meta", b"udta", b"uuid", b"emsg", b"prft"}


class FileSource:
    """A media file as a source of chunks, read as fast as it is asked for.

    The first video stream (cover pictures do not count) becomes "<file name>/visual": frames
    (height, width, 3) uint8 RGB, turned upright where the file carries a rotation (mirroring is not
    undone) and widened to square pixels. The first audio stream becomes "<file name>/audio": samples
    (n, channels) float32 in [-1, 1], whatever the format in the file. A still picture is one frame,
    and has no rate. A frame whose size differs from the first one's is fitted into it, with black
    borders where the proportions differ.

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
        self._path = _expand(rest)
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
            file = on_failure.enter_context(_open_regular(self._path))
            _refuse_cut(file, self._path)
            container = on_failure.enter_context(_open_container(file, self._path))
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


# --- playing ------------------------------------------------------------------------------------


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
    pixel_aspect: Fraction = Fraction(1)
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
        self._tracks = [_make_track(stream, path) for stream in _used_streams(container, path)]
        self._packets = self._demux()
        self._demux_ended = False
        self._waiting_bytes = 0
        self._offsets_s: dict[int, Fraction] = {}
        self._end_s = Fraction(0)
        self._specs: dict[int, StreamSpec] = {}

    def close(self) -> None:
        self._packets.close()
        self._tracks.clear()
        self._container.close()
        self._file.close()

    def describe(self) -> tuple[StreamSpec, ...]:
        """Decode up to the first frame of each stream, and say what they carry."""
        with _as_data_error(self._path):
            self._fill()
        self._tracks = [track for track in self._tracks if track.pieces or not track.drained]
        if not any(track.pieces for track in self._tracks):
            raise DataError(
                f"no picture and no sound of {_shown(self._path)} can be decoded",
                expected=f"sound, or pictures of at most {MAX_PICTURE_PX} pixels",
                found=f"{self.n_corrupt} unreadable packets and no readable one",
                hint="try another player, or copy the file again",
            )
        with _as_data_error(self._path):
            self._specs = {track.stream.index: self._spec(track) for track in self._tracks}
        return tuple(self._specs.values())

    def _spec(self, track: _Track) -> StreamSpec:
        frame = track.pieces[0].frame if track.pieces else None
        if isinstance(track.stream, VideoStream):
            return _video_spec(track.stream, cast("VideoFrame | None", frame), self._path)
        return _audio_spec(track.stream, cast("AudioFrame | None", frame), self._path)

    def next_chunk(self) -> Chunk | None:
        """The earliest frame or piece of sound not yet delivered; None at the end."""
        with _as_data_error(self._path):
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
            return _rgb(frame, track.pixel_aspect, (spec.shape[0], spec.shape[1]))
        samples = _samples(frame)
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
            f"the sound of {_shown(self._path)} changes on the way, at {float(self._end_s):.2f} s",
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
        duration_s = _duration_s(track, frame)
        track.decoded_end_s = start_s + duration_s
        track.pieces.append(_Piece(track.decoded_segment, start_s, duration_s, frame))


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


def _make_track(stream: VideoStream | AudioStream, path: Path) -> _Track:
    context = stream.codec_context
    if context is None or stream.time_base is None:
        kind = "picture" if isinstance(stream, VideoStream) else "sound"
        raise DataError(
            f"the {kind} of {_shown(path)} is in a code that cannot be decoded",
            hint="re-encode it, e.g. to H.264 and AAC in .mp4",
        )
    if isinstance(stream, VideoStream):
        _refuse_huge_picture(stream.codec_context.width, stream.codec_context.height, path)
        context.options = dict(_CODEC_OPTIONS)
        context.thread_count = _DECODING_THREADS
        context.thread_type = "AUTO"
        return _Track(stream, stream.time_base, _pixel_aspect(stream))
    return _Track(stream, stream.time_base)


def _refuse_huge_picture(width_px: int, height_px: int, path: Path) -> None:
    if width_px * height_px > MAX_PICTURE_PX:
        raise DataError(
            f"the picture of {_shown(path)} is too large",
            expected=f"at most {MAX_PICTURE_PX} pixels",
            found=f"{width_px} x {height_px}",
            hint="scale it down; a face needs a few hundred pixels",
        )


def _duration_s(track: _Track, frame: VideoFrame | AudioFrame) -> Fraction:
    if isinstance(frame, AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration:
        return frame.duration * track.time_base_s
    rate_hz = cast(VideoStream, track.stream).average_rate
    return 1 / rate_hz if rate_hz else Fraction(0)


def _video_spec(stream: VideoStream, frame: VideoFrame | None, path: Path) -> StreamSpec:
    height, width = _upright_size(frame, _pixel_aspect(stream)) if frame else (None, None)
    # FFmpeg makes up a rate for still pictures.
    rate = None if stream.container.format.name.endswith("_pipe") else stream.average_rate
    return StreamSpec(
        name=f"{path.name}/visual",
        modality="visual",
        axes=("height", "width", "channel"),
        shape=(height, width, 3),
        dtype="uint8",
        rate_hz=float(rate) if rate else None,
        unit="rgb24",
        channels=("r", "g", "b"),
    )


def _audio_spec(stream: AudioStream, frame: AudioFrame | None, path: Path) -> StreamSpec:
    source = frame or stream.codec_context
    if source.format.name.removesuffix("p") not in _SAMPLE_SCALES:
        raise DataError(
            f"the sound of {_shown(path)} has a sample format that cannot be converted",
            expected=f"one of {', '.join(_SAMPLE_SCALES)}, planar or not",
            found=source.format.name,
            hint="re-encode it, e.g. to 24-bit WAV or FLAC",
        )
    channels = _channel_names(source.layout)
    return StreamSpec(
        name=f"{path.name}/audio",
        modality="audio",
        axes=("sample", "channel"),
        shape=(None, len(channels)),
        dtype="float32",
        rate_hz=float(source.sample_rate),
        unit="1",
        channels=channels,
    )


def _channel_names(layout: AudioLayout) -> tuple[str, ...]:
    n_channels = layout.nb_channels
    if n_channels <= 2:
        return ("mono",) if n_channels == 1 else ("left", "right")
    names = tuple(channel.name for channel in layout.channels)
    if len(set(names)) == n_channels and all(names):
        return names
    return tuple(f"channel_{index}" for index in range(n_channels))


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height; 1 where the file says nothing believable."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the picture upright."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """(height, width) in square pixels, once turned upright."""
    width_px = max(1, round(frame.width * pixel_aspect))
    return (width_px, frame.height) if _quarter_turns(frame) % 2 else (frame.height, width_px)


def _rgb(
    frame: VideoFrame, pixel_aspect: Fraction, size_px: tuple[int | None, int | None]
) -> NDArray[np.uint8]:
    """The frame as upright RGB (height, width, 3) uint8, fitted into `size_px` (height, width)."""
    height, width = _upright_size(frame, pixel_aspect)
    box_height, box_width = size_px[0] or height, size_px[1] or width
    scale = min(Fraction(box_height, height), Fraction(box_width, width))
    inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    turns = _quarter_turns(frame)
    down, across = inner[::-1] if turns % 2 else inner
    turned = frame.reformat(width=across, height=down, format="rgb24", **_CONVERSION).to_ndarray()
    rgb: NDArray[np.uint8] = np.ascontiguousarray(np.rot90(turned, turns))
    if inner == (box_height, box_width):
        return rgb
    boxed = np.zeros((box_height, box_width, 3), np.uint8)
    top, left = (box_height - inner[0]) // 2, (box_width - inner[1]) // 2
    boxed[top : top + inner[0], left : left + inner[1]] = rgb
    return boxed


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """The samples (n, channels) as float32, clipped to [-1, 1]."""
    raw = frame.to_ndarray()
    raw = raw.T if frame.format.is_planar else raw.reshape(-1, frame.layout.nb_channels)
    name = frame.format.name.removesuffix("p")
    samples: NDArray[np.float32] = raw.astype(np.float32, order="C")
    if name == "u8":
        samples -= 128
    samples /= np.float32(_SAMPLE_SCALES[name])
    np.clip(samples, -1, 1, out=samples)
    return samples


# --- opening ------------------------------------------------------------------------------------


def _shown(path: Path) -> str:
    return repr(str(path))


def _expand(rest: str) -> Path:
    path = Path(rest)
    if not rest.startswith("~") or os.path.lexists(rest):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn what FFmpeg or the disk reports into one clear message."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{_shown(path)} cannot be read on",
            found=str(getattr(error, "strerror", None) or error),
            hint="check the disk, or copy the file again",
        ) from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular, non-empty file; nothing else is ever opened or waited for."""
    try:
        _refuse_irregular(path.stat().st_mode, path)
        raw = io.FileIO(str(path), opener=_open_without_waiting)
    except FileNotFoundError as error:
        is_address = "://" in str(path) or ":/" in str(path)
        hint = "download it first: file: takes a path, no address" if is_address else "check the path"
        raise DataError(f"file {_shown(path)} not found", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"file {_shown(path)} cannot be opened", found=reason, hint="check the path and its permissions"
        ) from error
    raw.name = "media"  # FFmpeg takes some names for patterns of many files; it is to go by the contents
    try:
        status = os.fstat(raw.fileno())
        _refuse_irregular(status.st_mode, path)
        if status.st_size == 0:
            raise DataError(f"file {_shown(path)} is empty", found="0 bytes", hint="record or copy it again")
    except BaseException:
        raw.close()
        raise
    return io.BufferedReader(raw)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(mode: int, path: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
    }
    raise DataError(
        f"{_shown(path)} is not a file",
        expected="a regular media file",
        found=kinds.get(stat.S_IFMT(mode), "something else"),
        hint="for a camera use camera:0, for a microphone mic:default",
    )


def _refuse_second_file(url: str, *_: object) -> NoReturn:
    raise PermissionError(f"the file asks for another one: {url!r}")


def _open_container(file: BinaryIO, path: Path) -> InputContainer:
    """Open with FFmpeg, which may read this file and nothing else."""
    try:
        return _open_alone(file)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        is_refused = getattr(error, "errno", None) == errno.EINVAL
        raise DataError(
            f"{_shown(path)} is not a media file that can be read",
            expected="video, sound or a picture, e.g. .mp4 .mkv .avi .mpg .wav .flac .png; no playlist",
            found="a format that is not read" if is_refused else reason,
            hint="check that it plays elsewhere; convert it to .mp4 or .wav if it does",
        ) from error


def _open_alone(file: BinaryIO, file_format: str | None = None) -> InputContainer:
    file.seek(0)
    return av.open(
        file,
        mode="r",
        format=file_format,
        options=_CODEC_OPTIONS if _PYAV >= 18 else {},
        container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
        metadata_errors="replace",
        io_open=_refuse_second_file,
    )


def _used_streams(container: InputContainer, path: Path) -> list[VideoStream | AudioStream]:
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    streams: list[VideoStream | AudioStream] = [*pictures[:1], *container.streams.audio[:1]]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(
            f"{_shown(path)} has neither picture nor sound",
            expected="a video or an audio stream",
            found=", ".join(kinds) or "no stream at all",
            hint="check that this is the right file",
        )
    return streams


# --- recognising a recording that was cut ---------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """Why a recording is held to be cut: what a whole one would have, and what is there."""

    expected: str
    found: str


def _refuse_cut(file: BinaryIO, path: Path) -> None:
    with _as_data_error(path):
        head = _read_at(file, 0, 200)
        size = os.fstat(file.fileno()).st_size
        check = next((check for fits, check in _CUT_CHECKS if fits(head)), None)
        cut = check(file, size) if check else None
    if cut:
        raise _cut_error(cut, path)


def _cut_error(cut: _Cut, path: Path) -> DataError:
    return DataError(
        f"the recording {_shown(path)} was cut off",
        expected=cut.expected,
        found=cut.found,
        hint="copy or record it again; to use what is left, re-encode it: ffmpeg -i CUT.mpg REST.mp4",
    )


def _read_at(file: BinaryIO, position: int, n_bytes: int) -> bytes:
    file.seek(position)
    return file.read(n_bytes)


def _too_long(name: str, position: int, end: int, size: int) -> _Cut:
    return _Cut(f"{name} at byte {position} to end at byte {end}", f"a file of {size} bytes")


def _cut_iso(file: BinaryIO, size: int) -> _Cut | None:
    """MP4, MOV: boxes, each with its length, one after the other."""
    kinds: set[bytes] = set()
    position = 0
    for _ in range(_MAX_BOXES):
        header = _read_at(file, position, 16)
        if len(header) < 8:
            break
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:
            kinds.add(kind)
            break
        if length < 8 or (position + length > size and kind not in _ISO_BOXES):
            return None  # nothing that can be judged, e.g. bytes appended by another program
        if position + length > size:
            return _too_long(f"the {kind.decode()!r} box", position, position + length, size)
        kinds.add(kind)
        position += length
    else:
        return None
    if kinds & {b"moov", b"meta"}:
        return None
    return _Cut("a 'moov' box, which is written when a recording ends", "none")


def _cut_riff(file: BinaryIO, size: int) -> _Cut | None:
    """WAV and RF64: a chunk longer than the file. AVI and WebP: a whole RIFF part longer than it."""
    if _read_at(file, 8, 4) == b"WAVE":
        return _cut_wav(file, size)
    position = 0
    for _ in range(_MAX_BOXES):
        header = _read_at(file, position, 8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF" or length in _RIFF_UNKNOWN:
            return None
        end = position + 8 + length
        if end > size + _RIFF_SLACK_BYTES:
            return _too_long("the RIFF part", position, end, size)
        position = end + (length & 1)
    return None


def _cut_wav(file: BinaryIO, size: int) -> _Cut | None:
    position, long_length = 12, 0
    for _ in range(_MAX_BOXES):
        header = _read_at(file, position, 24)
        if len(header) < 8:
            return None
        kind, length = header[:4], int.from_bytes(header[4:8], "little")
        if kind == b"ds64":
            long_length = int.from_bytes(header[16:24], "little")
        elif kind == b"data":
            # Programs that write to a pipe put a length here that they do not know.
            length = long_length if length == 0xFFFFFFFF else length
            if length >= _WAV_UNKNOWN and not long_length:
                return None
            end = position + 8 + length
            return _too_long("the sound ('data' chunk)", position, end, size) if end > size else None
        position += 8 + length + (length & 1)
    return None


def _cut_matroska(file: BinaryIO, size: int) -> _Cut | None:
    """Matroska, WebM: the segment has a length; where a live recording left it open, the clusters have."""
    position = 0
    for _ in range(_MAX_BOXES):
        element = _ebml_element(_read_at(file, position, 16))
        if element is None:
            return None
        kind, header_bytes, length = element
        if length is None:
            return _cut_live_matroska(file, size) if kind == _EBML_SEGMENT else None
        end = position + header_bytes + length
        if end > size:
            return _too_long("the segment" if kind == _EBML_SEGMENT else "an element", position, end, size)
        position = end
    return None


def _cut_live_matroska(file: BinaryIO, size: int) -> _Cut | None:
    begin = max(0, size - 8 * _TAIL_BYTES)
    tail = _read_at(file, begin, size - begin)
    position = _last_cluster(tail)
    while 0 <= position < len(tail):
        element = _ebml_element(tail[position : position + 16])
        if element is None and len(tail) - position < 12 and any(tail[position:]):
            return _Cut("a whole element at the end", f"{len(tail) - position} bytes of one")
        if element is None:
            return None
        kind, header_bytes, length = element
        if length is None:  # a cluster of open length: go on with what is in it
            length = 0
        end = position + header_bytes + length
        if end > len(tail):
            return _too_long(f"element {kind.hex()}", begin + position, begin + end, size)
        position = end
    return None


def _last_cluster(tail: bytes) -> int:
    position = tail.rfind(_EBML_CLUSTER)
    while position >= 0:
        element = _ebml_element(tail[position : position + 16])
        if element and tail[position + element[1] : position + element[1] + 1] in _EBML_CLUSTER_BEGINS:
            return position
        position = tail.rfind(_EBML_CLUSTER, 0, position)
    return -1


def _ebml_element(data: bytes) -> tuple[bytes, int, int | None] | None:
    """(ID, bytes of ID and length, length or None if open) of the element that begins here."""
    n_id = 9 - data[0].bit_length() if data else 9
    n_length = 9 - data[n_id].bit_length() if n_id <= 4 and n_id < len(data) else 9
    if n_length > 8 or n_id + n_length > len(data):
        return None
    mask = (1 << 7 * n_length) - 1
    length = int.from_bytes(data[n_id : n_id + n_length], "big") & mask
    return data[:n_id], n_id + n_length, None if length == mask else length


def _cut_program_stream(file: BinaryIO, size: int) -> _Cut | None:
    """MPEG-PS: the last packet must end inside the file, and the last picture and sound frame be whole."""
    begin = max(0, size - _TAIL_BYTES)
    tail = _read_at(file, begin, size - begin)
    pack = tail.find(_PS_PACK)
    if pack < 0:
        return None
    cut = _cut_inside_packet(tail, pack, begin)
    return cut or _cut_inside_frame(tail[pack:])


def _cut_inside_packet(tail: bytes, position: int, begin: int) -> _Cut | None:
    while position < len(tail):
        header = tail[position : position + 14]
        if not header.startswith(b"\0\0\1"[: len(header)]):
            return None  # padding, or bytes of another program
        end = position + _ps_packet_bytes(header)
        if end > len(tail):
            return _too_long("the last packet", begin + position, begin + end, begin + len(tail))
        position = end
    return None


def _ps_packet_bytes(header: bytes) -> int:
    """Length of the packet that begins with `header`; more than `header` where that is incomplete."""
    if len(header) < 4:
        return 6
    if header[3] == 0xB9:  # end code
        return 4
    if header[3] == 0xBA:  # pack header: 12 bytes in MPEG-1, 14 and stuffing in MPEG-2
        is_mpeg1 = len(header) > 4 and header[4] >> 4 == 0b0010
        return 12 if is_mpeg1 else 14 + (header[13] & 7 if len(header) > 13 else 0)
    return 6 + (int.from_bytes(header[4:6], "big") if len(header) >= 6 else 0)


def _cut_inside_frame(tail: bytes) -> _Cut | None:
    """Decode the last second or so, and look at the last picture and the last frame of sound."""
    broken_pictures: deque[bool] = deque(maxlen=_LAST_PICTURES)
    sound_bytes: deque[int] = deque(maxlen=_LAST_SOUND_FRAMES)
    try:
        with _open_alone(io.BytesIO(tail), "mpeg") as container:
            for packet in container.demux(*container.streams.video[:1], *container.streams.audio[:1]):
                if isinstance(packet.stream, VideoStream):
                    broken_pictures.extend(_broken_pictures(packet))
                elif packet.size and packet.stream.codec_context.name.startswith(_CONSTANT_SIZE_CODECS):
                    sound_bytes.append(packet.size)
    except (av.FFmpegError, OSError, ValueError):
        return None  # whether the file can be read at all is found out later
    # Before the first whole picture there is what the start of the tail had cut off.
    if not all(broken_pictures) and any(list(broken_pictures)[broken_pictures.index(False) :]):
        return _Cut("a whole last picture", "a part of one")
    if len(sound_bytes) > 1 and sound_bytes[-1] < min(list(sound_bytes)[:-1]) - 8:
        return _Cut(f"a last frame of sound of {sound_bytes[-2]} bytes", f"{sound_bytes[-1]} bytes")
    return None


def _broken_pictures(packet: Packet[Any]) -> list[bool]:
    try:
        return [frame.is_corrupt for frame in packet.decode()]
    except av.FFmpegError:
        return [True]


def _cut_transport_stream(file: BinaryIO, size: int) -> _Cut | None:
    """MPEG-TS: packets of 188 bytes, in .m2ts of 192 with the sync byte at 4."""
    sync = 0 if _read_at(file, 0, 1) == b"G" else 4
    packet_bytes = 188 + sync
    rest = size % packet_bytes
    last = size - rest - packet_bytes
    if rest and _read_at(file, last + sync, 1) == b"G":
        return _Cut(f"a last packet of {packet_bytes} bytes", f"{rest} bytes")
    return None


def _cut_ogg(file: BinaryIO, size: int) -> _Cut | None:
    begin = max(0, size - _TAIL_BYTES)
    tail = _read_at(file, begin, size - begin)
    page = tail.rfind(b"OggS")
    if page < 0:
        return None
    n_segments = tail[page + 26] if page + 26 < len(tail) else 255
    segments = tail[page + 27 : page + 27 + n_segments]
    end = page + 27 + n_segments + sum(segments)
    if end > len(tail):
        return _too_long("the last page", begin + page, begin + end, size)
    if not tail[page + 5] & 4:
        return _Cut("a last page marked as the last", "an unmarked one")
    return None


def _cut_mp3(file: BinaryIO, size: int) -> _Cut | None:
    """MP3 with a Xing header, which says how many bytes of sound there are."""
    head = _read_at(file, 0, 10)
    begin = 0
    if head[:3] == b"ID3" and len(head) == 10:
        begin = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    frame = _read_at(file, begin, 200)
    xing = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:1] != b"\xff" or xing < 0 or len(frame) < xing + 16:
        return None
    flags = frame[xing + 7]
    at = xing + 8 + 4 * (flags & 1)
    n_bytes = int.from_bytes(frame[at : at + 4], "big") if flags & 2 else 0
    if n_bytes > size + _MP3_SLACK_BYTES:
        return _too_long("the sound", begin, begin + n_bytes, size)
    return None


def _cut_png(file: BinaryIO, size: int) -> _Cut | None:
    return _cut_without_end_mark(file, size, b"IEND")


def _cut_jpeg(file: BinaryIO, size: int) -> _Cut | None:
    return _cut_without_end_mark(file, size, b"\xff\xd9")


def _cut_without_end_mark(file: BinaryIO, size: int, mark: bytes) -> _Cut | None:
    # Not at the start, where a preview has an end of its own; and phones append a video to a photo.
    begin = min(size // 2, 1 << 16)
    return (
        None
        if mark in _read_at(file, begin, _MAX_PICTURE_BYTES)
        else _Cut(f"the end marker {mark!r}", "none")
    )


def _cut_sound(file: BinaryIO, size: int) -> _Cut | None:
    """FLAC, AIFF, TTA, WavPack: the header declares a length, and the last frame must end there."""
    # With an ID3 tag behind it, FFmpeg before 8.1 cannot decode the last frame of a whole FLAC.
    if _read_at(file, max(0, size - 128), 3) == b"TAG":
        return None
    try:
        with _open_alone(file) as container:
            return _cut_before_declared_end(container)
    except (av.FFmpegError, OSError, ValueError):
        return None  # whether the file can be read at all is found out later


def _cut_before_declared_end(container: InputContainer) -> _Cut | None:
    stream = container.streams.audio[0]
    if not stream.duration or not stream.time_base:
        return None
    declared = (stream.start_time or 0) + stream.duration
    # Where it cannot be sought near the declared end, which is missing then, it is passed through.
    with contextlib.suppress(av.FFmpegError):
        container.seek(max(0, declared - int(1 / stream.time_base)), stream=stream)
    last: deque[Packet[Any]] = deque(maxlen=_LAST_SOUND_FRAMES)
    is_broken = False
    try:
        last.extend(packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError:
        is_broken = True
    end = 0
    for packet in last:
        try:
            frames = cast("list[AudioFrame]", packet.decode())
        except av.FFmpegError:
            is_broken = is_broken or packet is last[-1]
            continue
        end = max([end, *(_sample_end(frame, stream.time_base) for frame in frames)])
    if is_broken or end < declared:
        expected = f"sound up to {float(declared * stream.time_base):.3f} s, as the header says"
        after = ", then a broken frame" if is_broken else ""
        return _Cut(expected, f"sound up to {float(end * stream.time_base):.3f} s{after}")
    return None


def _sample_end(frame: AudioFrame, time_base_s: Fraction) -> int:
    return (frame.pts or 0) + round(Fraction(frame.samples, frame.sample_rate) / time_base_s)


_CUT_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], _Cut | None]], ...] = (
    (lambda head: head[4:8] in _ISO_FIRST, _cut_iso),
    (lambda head: head[:4] in (b"RIFF", b"RF64"), _cut_riff),
    (lambda head: head.startswith(b"\x1aE\xdf\xa3"), _cut_matroska),
    (lambda head: head.startswith(_PS_PACK), _cut_program_stream),
    (
        lambda head: head[:1] == head[188:189] == b"G" or head[4:5] == head[196:197] == b"G",
        _cut_transport_stream,
    ),
    (lambda head: head.startswith(b"OggS"), _cut_ogg),
    (lambda head: head[:4] in (b"fLaC", b"TTA1", b"wvpk") or head[8:12] == b"AIFF", _cut_sound),
    (lambda head: head.startswith((b"ID3", b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")), _cut_mp3),
    (lambda head: head.startswith(b"\x89PNG"), _cut_png),
    (lambda head: head.startswith(b"\xff\xd8\xff"), _cut_jpeg),
)
"""How a kind of file is known by its first bytes, and what tells that one was cut; the first fit counts."""
