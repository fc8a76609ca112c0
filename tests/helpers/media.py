"""Small media files for tests: made from clips, pictures, arrays, or by spoiling a good file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

Codecs = tuple[tuple[str, ...], tuple[str, ...]]

_CODECS: dict[str, Codecs] = {
    ".avi": (("mpeg4",), ("mp2",)),
    ".mpg": (("mpeg2video",), ("mp2",)),
    ".ts": (("libx264", "mpeg2video"), ("mp2",)),
    ".webm": (("libvpx", "libvpx-vp9"), ("libopus", "opus")),
    ".wav": ((), ("pcm_s16le",)),
    ".flac": ((), ("flac",)),
    ".mp3": ((), ("libmp3lame",)),
    ".png": (("png",), ()),
    ".jpg": (("mjpeg",), ()),
}
_DEFAULT_CODECS: Codecs = (("libx264", "mpeg4"), ("aac",))
_X264_OPTIONS = {"preset": "superfast", "crf": "23"}


def join_clips(
    paths: Sequence[Path],
    out: Path,
    *,
    video_codec: str | None = None,
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Re-encode clips of one size and rate into one file, one after the other.

    The sound of each clip is filled up with silence to the end of its picture, so that both run on
    without a gap and keep their offset.

    Args:
        paths: Clips with picture and sound.
        out: The file to write; its suffix chooses the container and the codecs.
        video_codec: FFmpeg's name of the encoder, instead of the suffix's.
        audio_codec: The same for the sound.
        options: For the container, e.g. {"movflags": "+faststart"}.

    Returns:
        `out`.
    """
    with av.open(str(paths[0])) as first:
        picture, sound = first.streams.video[0], first.streams.audio[0]
        fps, rate_hz = picture.average_rate or Fraction(25), sound.codec_context.sample_rate
        size_px, layout = (picture.width, picture.height), sound.codec_context.layout.name
    with av.open(str(out), "w", options=options or {}) as container:
        video = add_video(container, size_px, fps, codec=video_codec)
        audio = add_audio(container, rate_hz, layout, codec=audio_codec)
        n_frames = 0
        for path in paths:
            frames, samples = _decode(path)
            length = round(len(frames) / fps * rate_hz)
            samples = np.pad(samples, ((0, max(0, length - len(samples))), (0, 0)))[:length]
            begins = round(n_frames / fps * rate_hz)
            encode_frames(container, video, frames, range(n_frames, n_frames + len(frames)))
            encode_samples(container, audio, samples, begins)
            n_frames += len(frames)
        flush(container)
    return out


def strip_audio(path: Path, out: Path) -> Path:
    """Copy the first video stream alone, without re-encoding."""
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return out


def video_from_image(png: Path, out: Path, seconds: float, fps: int) -> Path:
    """A silent video that shows one picture, cut to even sides as most codecs want."""
    with av.open(str(png)) as source:
        picture = next(source.decode(video=0)).to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
    n_frames = round(seconds * fps)
    return write_media(out, frames=(picture for _ in range(n_frames)), fps=Fraction(fps))


def truncate(path: Path, out: Path, fraction: float) -> Path:
    """The first part of a file, `fraction` of its bytes."""
    data = path.read_bytes()
    out.write_bytes(data[: int(len(data) * fraction)])
    return out


def write_media(
    out: Path,
    *,
    frames: Iterable[NDArray[np.uint8]] = (),
    fps: Fraction = Fraction(25),
    pts: Iterable[int] | None = None,
    time_base_s: Fraction | None = None,
    samples: NDArray[Any] | None = None,
    rate_hz: int = 48_000,
    first_sample: int = 0,
    video_codec: str | None = None,
    audio_codec: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames and samples that are known exactly.

    Args:
        out: The file to write; its suffix chooses the container and the codecs.
        frames: RGB (height, width, 3) uint8, all of one even size; none for sound alone.
        fps: The declared rate.
        pts: Timestamps in `time_base_s`; 0, 1, 2, ... by default.
        time_base_s: Unit of `pts`; one frame by default.
        samples: (n, channels) float32 in [-1, 1], int16 or int32; None for picture alone.
        rate_hz: Of the samples.
        first_sample: Timestamp of the first one, in samples.
        video_codec: FFmpeg's name of the encoder, instead of the suffix's.
        audio_codec: The same for the sound.
        options: For the container.

    Returns:
        `out`.
    """
    pictures = list(frames)
    with av.open(str(out), "w", options=options or {}) as container:
        video = audio = None
        if pictures:
            size_px = (pictures[0].shape[1], pictures[0].shape[0])
            video = add_video(container, size_px, fps, codec=video_codec, time_base_s=time_base_s)
        if samples is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
            audio = add_audio(container, rate_hz, layout, codec=audio_codec)
        if video is not None:
            encoded = (av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures)
            encode_frames(container, video, encoded, range(len(pictures)) if pts is None else pts)
        if audio is not None and samples is not None:
            encode_samples(container, audio, samples, first_sample)
        flush(container)
    return out


def add_video(
    container: OutputContainer,
    size_px: tuple[int, int],
    fps: Fraction,
    *,
    codec: str | None = None,
    time_base_s: Fraction | None = None,
) -> VideoStream:
    """Add a video stream of (width, height), with the codec that suits the container."""
    name = codec or _available(_codecs_for(container)[0])
    options = _X264_OPTIONS if name == "libx264" else {}
    stream = container.add_stream(name, rate=fps, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = size_px
    stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(name, "yuv420p")
    stream.codec_context.time_base = time_base_s or 1 / Fraction(fps)
    return stream


def add_audio(
    container: OutputContainer, rate_hz: int, layout: str, *, codec: str | None = None
) -> AudioStream:
    """Add an audio stream, with the codec that suits the container."""
    name = codec or _available(_codecs_for(container)[1])
    stream = container.add_stream(name, rate=rate_hz, layout=layout)
    assert isinstance(stream, AudioStream)
    return stream


def encode_frames(
    container: OutputContainer, stream: VideoStream, frames: Iterable[av.VideoFrame], pts: Iterable[int]
) -> None:
    """Encode frames with timestamps in the stream's time base."""
    for frame, time in zip(frames, pts, strict=True):
        fresh = frame.reformat(format=stream.pix_fmt)
        fresh.pts, fresh.time_base = time, stream.codec_context.time_base
        fresh.pict_type = 0
        container.mux(stream.encode(fresh))


def encode_samples(
    container: OutputContainer, stream: AudioStream, samples: NDArray[Any], first_sample: int
) -> None:
    """Encode (n, channels) samples, the first one at `first_sample` / rate."""
    rate_hz = stream.codec_context.sample_rate
    names = {"float32": "flt", "int16": "s16", "int32": "s32"}
    for begin in range(0, len(samples), 1024):
        piece = np.ascontiguousarray(samples[begin : begin + 1024])
        frame = av.AudioFrame.from_ndarray(
            piece.reshape(1, -1), format=names[piece.dtype.name], layout=stream.codec_context.layout.name
        )
        frame.sample_rate, frame.pts = rate_hz, first_sample + begin
        frame.time_base = Fraction(1, rate_hz)
        container.mux(stream.encode(frame))


def flush(container: OutputContainer) -> None:
    """Write out what the encoders still hold back."""
    for stream in container.streams:
        if isinstance(stream, VideoStream | AudioStream):
            container.mux(stream.encode(None))


def tone(seconds: float, rate_hz: int, frequency_hz: float, n_channels: int = 1) -> NDArray[np.float32]:
    """A sine of amplitude 0.5, (n, channels) float32."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = (0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)
    return np.repeat(wave[:, None], n_channels, axis=1)


def counter_frames(
    n_frames: int, height: int = 48, width: int = 64, n_bits: int = 8
) -> Iterator[NDArray[np.uint8]]:
    """Frames that show their own number as black and white columns, lowest bit on the left."""
    for number in range(n_frames):
        bits = (number >> np.arange(n_bits)) & 1
        row = np.repeat(bits * 255, width // n_bits).astype(np.uint8)
        yield np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_counter(frame: NDArray[np.uint8], n_bits: int = 8) -> int:
    """The number that `counter_frames` drew."""
    width = frame.shape[1] // n_bits
    columns = frame.mean(axis=(0, 2))[: width * n_bits].reshape(n_bits, width).mean(axis=1)
    return int(np.sum((columns > 127) << np.arange(n_bits)))


def _decode(path: Path) -> tuple[list[av.VideoFrame], NDArray[np.float32]]:
    frames: list[av.VideoFrame] = []
    pieces: list[NDArray[np.float32]] = []
    with av.open(str(path)) as source:
        resampler = av.AudioResampler(format="flt")
        for frame in source.decode(source.streams.video[0], source.streams.audio[0]):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame)
            elif isinstance(frame, av.AudioFrame):
                n_channels = frame.layout.nb_channels
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray().reshape(-1, n_channels).astype(np.float32, copy=False))
    return frames, np.concatenate(pieces)


def _codecs_for(container: OutputContainer) -> Codecs:
    return _CODECS.get(Path(container.name).suffix.lower(), _DEFAULT_CODECS)


def _available(names: tuple[str, ...]) -> str:
    for name in names:
        if name in av.codecs_available:
            return name
    raise RuntimeError(f"this build of FFmpeg has none of the encoders {', '.join(names)}")
