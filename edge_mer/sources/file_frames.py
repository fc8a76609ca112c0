"""What a file's streams carry, and decoded frames as arrays: upright RGB, and float samples."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S
from edge_mer.errors import DataError
from edge_mer.sources.file_open import PYAV_MAJOR, shown
from edge_mer.types.signals import Chunk, StreamSpec

STILL_RATE_HZ = 25
STILL_S = 10
"""A still picture is shown at this rate for so long, as if a camera looked at it."""

_SWS_BILINEAR, _SWS_ACCURATE_RND = 2, 0x40000
"""FFmpeg's flags; older PyAVs have no names for them. Without the second one the last two bits of a colour
depend on the processor, and with them where a cascade sees eyes."""

_CONVERSION: dict[str, Any] = {"interpolation": _SWS_BILINEAR | _SWS_ACCURATE_RND}
if PYAV_MAJOR >= 17:
    _CONVERSION["threads"] = 1  # else one per core
_SAMPLE_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}


def stream_spec(
    stream: VideoStream | AudioStream, frame: VideoFrame | AudioFrame | None, path: Path
) -> StreamSpec:
    """What a stream carries, by its first frame; by its header where that frame is not there yet."""
    if isinstance(stream, VideoStream):
        return _video_spec(stream, cast("VideoFrame | None", frame), path)
    return _audio_spec(stream, cast("AudioFrame | None", frame), path)


def _video_spec(stream: VideoStream, frame: VideoFrame | None, path: Path) -> StreamSpec:
    height, width = _upright_size(frame, pixel_aspect(stream)) if frame else (None, None)
    rate = STILL_RATE_HZ if is_still(stream) else stream.average_rate
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
            f"the sound of {shown(path)} has a sample format that cannot be converted",
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


def pixel_aspect(stream: VideoStream | AudioStream) -> Fraction:
    """Width of a pixel over its height; 1 where the file says nothing believable."""
    aspect = stream.sample_aspect_ratio if isinstance(stream, VideoStream) else None
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the picture upright."""
    return round(frame.rotation / 90) % 4


def _upright_size(frame: VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """(height, width) in square pixels, once turned upright."""
    width_px = max(1, round(frame.width * pixel_aspect))
    return (width_px, frame.height) if _quarter_turns(frame) % 2 else (frame.height, width_px)


def to_rgb(frame: VideoFrame, pixel_aspect: Fraction, shape: tuple[int | None, ...]) -> NDArray[np.uint8]:
    """The frame as upright RGB (height, width, 3) uint8, fitted into `shape` (height, width, ...)."""
    height, width = _upright_size(frame, pixel_aspect)
    box_height, box_width = shape[0] or height, shape[1] or width
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


def to_samples(frame: AudioFrame) -> NDArray[np.float32]:
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


def duration_s(stream: VideoStream | AudioStream, frame: VideoFrame | AudioFrame) -> Fraction:
    """How long a frame is shown or heard; 0 where the file does not say."""
    if isinstance(frame, AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    if frame.duration and stream.time_base:
        return frame.duration * stream.time_base
    rate_hz = cast(VideoStream, stream).average_rate
    return 1 / rate_hz if rate_hz else Fraction(0)


def is_still(stream: VideoStream | AudioStream) -> bool:
    """Whether the file is of a format for one picture, such as PNG, JPEG or BMP."""
    return stream.container.format.name.endswith("_pipe")


def still_chunks(spec: StreamSpec, picture: NDArray[np.uint8]) -> Iterator[Chunk]:
    """A still picture as a video that stands still; its chunks share the pixels, which are read-only."""
    picture.setflags(write=False)
    for seq in range(STILL_S * STILL_RATE_HZ):
        yield Chunk(spec.name, spec.modality, seq, seq * NS_PER_S // STILL_RATE_HZ, picture)
