"""Opens a media file, this one and no other: no playlist, no second file, no network, no device."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from edge_mer.errors import DataError

FORMATS = (
    "aac,ac3,aiff,amr,ape,apng,asf,au,avi,bmp_pipe,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,jpeg_pipe,m4v,"
    "matroska,mjpeg,mov,mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,png_pipe,tiff_pipe,tta,w64,wav,webp_pipe,wv,"
    "yuv4mpegpipe"
)
"""FFmpeg's names of the formats that are read: each is one self-contained file."""

MAX_PICTURE_PX = 1 << 26
"""Larger pictures are refused: 8192 x 8192 pixels are 200 MB as RGB."""

PYAV_MAJOR = int(av.__version__.split(".")[0])
"""The series of PyAV that is installed, e.g. 18."""

# For every decoder; to those that look at a file on opening they cannot be given before PyAV 18, which
# crashes on formats that show their streams late, such as MPEG-PS.
_CODEC_OPTIONS = {"max_pixels": str(MAX_PICTURE_PX)}
# PyAV 19 always replaces what is no text in a file's tags, and has no such choice any more.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if PYAV_MAJOR < 19 else {}
_DECODING_THREADS = 2


def shown(path: Path) -> str:
    """The path as messages have it, on one line whatever its characters."""
    return repr(str(path))


def expand(rest: str) -> Path:
    """The path that a URI names; a leading "~" is the home directory unless a file is so named."""
    path = Path(rest)
    if not rest.startswith("~") or os.path.lexists(rest):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


@contextlib.contextmanager
def as_data_error(path: Path) -> Iterator[None]:
    """Turn what FFmpeg or the disk reports into one clear message."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"{shown(path)} cannot be read on",
            found=str(getattr(error, "strerror", None) or error),
            hint="check the disk, or copy the file again",
        ) from error


def open_regular(path: Path, kind: str = "media file", *, may_be_empty: bool = False) -> BinaryIO:
    """Open a regular file; nothing else is ever opened or waited for.

    Args:
        path: The file.
        kind: What messages call such a file.
        may_be_empty: Whether a file without a byte is one too.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    try:
        _refuse_irregular(path.stat().st_mode, path, kind)
        raw = io.FileIO(str(path), opener=_open_without_waiting)
    except FileNotFoundError as error:
        is_address = "://" in str(path) or ":/" in str(path)
        hint = "download it first: a path is needed, no address" if is_address else "check the path"
        raise DataError(f"file {shown(path)} not found", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"file {shown(path)} cannot be opened", found=reason, hint="check the path and its permissions"
        ) from error
    raw.name = "media"  # FFmpeg takes some names for patterns of many files; it is to go by the contents
    try:
        status = os.fstat(raw.fileno())
        _refuse_irregular(status.st_mode, path, kind)
        if status.st_size == 0 and not may_be_empty:
            raise DataError(f"file {shown(path)} is empty", found="0 bytes", hint="record or copy it again")
    except BaseException:
        raw.close()
        raise
    return io.BufferedReader(raw)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_irregular(mode: int, path: Path, kind: str) -> None:
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
        f"{shown(path)} is not a file",
        expected=f"a regular {kind}",
        found=kinds.get(stat.S_IFMT(mode), "something else"),
        hint=f"name a {kind}",
    )


def _refuse_second_file(url: str, *_: object) -> NoReturn:
    raise PermissionError(f"the file asks for another one: {url!r}")


def open_container(file: BinaryIO, path: Path) -> InputContainer:
    """Open with FFmpeg, which may read this file and nothing else."""
    try:
        return open_alone(file)
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        is_refused = getattr(error, "errno", None) == errno.EINVAL
        raise DataError(
            f"{shown(path)} is not a media file that can be read",
            expected="video, sound or a picture, e.g. .mp4 .mkv .avi .mpg .wav .flac .png; no playlist",
            found="a format that is not read" if is_refused else reason,
            hint="check that it plays elsewhere; convert it to .mp4 or .wav if it does",
        ) from error


def open_alone(file: BinaryIO, file_format: str | None = None) -> InputContainer:
    """As `open_container`, with the errors as FFmpeg gives them."""
    file.seek(0)
    container: InputContainer = av.open(
        file,
        mode="r",
        format=file_format,
        options=_CODEC_OPTIONS if PYAV_MAJOR >= 18 else {},
        container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
        io_open=_refuse_second_file,
        **_METADATA,
    )
    return container


def used_streams(container: InputContainer, path: Path) -> list[VideoStream | AudioStream]:
    """The first video and the first audio stream, their decoders set up."""
    pictures = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    streams: list[VideoStream | AudioStream] = [*pictures[:1], *container.streams.audio[:1]]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise DataError(
            f"{shown(path)} has neither picture nor sound",
            expected="a video or an audio stream",
            found=", ".join(kinds) or "no stream at all",
            hint="check that this is the right file",
        )
    for stream in streams:
        _set_up_decoder(stream, path)
    return streams


def _set_up_decoder(stream: VideoStream | AudioStream, path: Path) -> None:
    context = stream.codec_context
    if context is None or stream.time_base is None:
        kind = "picture" if isinstance(stream, VideoStream) else "sound"
        raise DataError(
            f"the {kind} of {shown(path)} is in a code that cannot be decoded",
            hint="re-encode it, e.g. to H.264 and AAC in .mp4",
        )
    if isinstance(stream, VideoStream):
        _refuse_huge_picture(stream.codec_context.width, stream.codec_context.height, path)
        context.options = dict(_CODEC_OPTIONS)
        context.thread_count = _DECODING_THREADS
        context.thread_type = "AUTO"


def _refuse_huge_picture(width_px: int, height_px: int, path: Path) -> None:
    if width_px * height_px > MAX_PICTURE_PX:
        raise DataError(
            f"the picture of {shown(path)} is too large",
            expected=f"at most {MAX_PICTURE_PX} pixels",
            found=f"{width_px} x {height_px}",
            hint="scale it down; a face needs a few hundred pixels",
        )
