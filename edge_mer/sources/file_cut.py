"""Recognises a recording that was cut, at the cost of a few reads and never of a full decode.

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
import io
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from edge_mer.errors import DataError
from edge_mer.sources.file_open import as_data_error, open_alone, shown

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


@dataclass(frozen=True)
class _Cut:
    """Why a recording is held to be cut: what a whole one would have, and what is there."""

    expected: str
    found: str


def refuse_cut(file: BinaryIO, path: Path) -> None:
    """Refuse a recording that ends before the end of what was recorded."""
    with as_data_error(path):
        head = _read_at(file, 0, 200)
        size = os.fstat(file.fileno()).st_size
        check = next((check for fits, check in _CUT_CHECKS if fits(head)), None)
        cut = check(file, size) if check else None
    if cut:
        raise _cut_error(cut, path)


def _cut_error(cut: _Cut, path: Path) -> DataError:
    return DataError(
        f"the recording {shown(path)} was cut off",
        expected=cut.expected,
        found=cut.found,
        hint="copy or record it again; what is left of it another program may be able to re-encode",
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
        with open_alone(io.BytesIO(tail), "mpeg") as container:
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
        with open_alone(file) as container:
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
