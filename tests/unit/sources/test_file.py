"""FileSource: times, values, joints, and every kind of file that must be refused."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import correlate

from edge_mer.errors import DataError, UsageError
from edge_mer.sources import file as file_module
from edge_mer.sources.file import FileSource
from edge_mer.sources.file_frames import to_rgb
from edge_mer.sources.file_open import PYAV_MAJOR
from edge_mer.sources.registry import open_source
from edge_mer.types.signals import Chunk, StreamSpec
from tests.helpers import media
from tests.helpers.data import real

GRID_FRAMES, GRID_PIECES = 75, 114
GRID_NS = 3_000_000_000  # the picture, 75 frames at 25 Hz, is the longer stream


@contextmanager
def opened(path: Path | str) -> Iterator[FileSource]:
    source = FileSource(str(path))
    try:
        source.start()
        yield source
    finally:
        source.ensure_stopped()


def rest_of(source: FileSource) -> Iterator[Chunk]:
    """All chunks still to come, with what must hold for every file checked on the way."""
    specs = {spec.name: spec for spec in source.specs}
    last: dict[str, Chunk] = {}
    while (chunk := source.read(100)) is not None:
        spec, before = specs[chunk.stream], last.get(chunk.stream)
        assert chunk.seq == (before.seq + 1 if before else 0)
        assert chunk.t_ns > (before.t_ns if before else -1)
        assert chunk.time_basis == "driver"
        assert chunk.modality == spec.modality
        assert chunk.data.dtype == spec.dtype
        assert all(size in (None, found) for size, found in zip(spec.shape, chunk.data.shape, strict=True))
        last[chunk.stream] = chunk
        yield chunk
    assert source.ended


def play(path: Path) -> dict[str, list[Chunk]]:
    """All chunks by modality."""
    with opened(path) as source:
        chunks: dict[str, list[Chunk]] = {spec.modality: [] for spec in source.specs}
        for chunk in rest_of(source):
            chunks[chunk.modality].append(chunk)
    return chunks


def specs_of(path: Path) -> tuple[StreamSpec, ...]:
    with opened(path) as source:
        return source.specs


def times_ns(chunks: list[Chunk]) -> list[int]:
    return [chunk.t_ns for chunk in chunks]


def sound(chunks: list[Chunk]) -> NDArray[np.float32]:
    return np.concatenate([chunk.data for chunk in chunks]).astype(np.float32, copy=False)


def counters(chunks: Iterable[Chunk]) -> list[int]:
    return [media.read_counter(chunk.data.astype(np.uint8, copy=False)) for chunk in chunks]


def refusal(path: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        FileSource(str(path)).ensure_ready()
    return caught.value


def cat(out: Path, *paths: Path) -> Path:
    out.write_bytes(b"".join(path.read_bytes() for path in paths))
    return out


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made media")


@pytest.fixture(scope="session")
def grid() -> list[Path]:
    return sorted(real("talking_head_video").glob("*.mpg"))


@pytest.fixture(scope="session")
def joined(made: Path, grid: list[Path]) -> dict[str, Path]:
    """The six clips joined: byte by byte, and re-encoded into two containers."""
    return {
        "mpg": cat(made / "joined.mpg", *grid),
        "mp4": media.join_clips(grid, made / "joined.mp4"),
        "mkv": media.join_clips(grid, made / "joined.mkv", video_codec="mpeg4", audio_codec="mp2"),
    }


@pytest.fixture(scope="session")
def clip(made: Path) -> Path:
    """Two seconds: a counter at 25 Hz and a 440 Hz tone."""
    return synthetic(made / "clip.mp4")


def synthetic(
    out: Path, *, start_s: int = 0, with_sound: bool = True, options: dict[str, str] | None = None
) -> Path:
    n_frames = 50
    return media.write_media(
        out,
        frames=media.counter_frames(n_frames),
        pts=range(25 * start_s, 25 * start_s + n_frames),
        samples=media.tone(2, 44_100, 440, 2) if with_sound else None,
        rate_hz=44_100,
        first_sample=44_100 * start_s,
        options=options,
    )


# --- one frame ------------------------------------------------------------------------------------------


def test_colours_are_the_same_on_every_processor() -> None:
    """The checksum is that of x86-64 and of aarch64, by the FFmpeg of PyAV 16 to 18."""
    if PYAV_MAJOR < 16:
        pytest.skip("PyAV 15 has an FFmpeg that rounds otherwise")
    y, x = np.mgrid[0:48, 0:32]
    planes = ((37 * y + 11 * x + y * x) % 220 + 16).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    assert zlib.crc32(to_rgb(frame, Fraction(1), (32, 32, 3)).tobytes()) == 1317155935
    assert zlib.crc32(frame.reformat(format="rgb24").to_ndarray().tobytes()) != 1317155935


# --- what a file is ---------------------------------------------------------------------------------


def test_describes_picture_and_sound(clip: Path) -> None:
    source = open_source(f"file:{clip}")
    source.ensure_ready()
    visual, audio = source.specs
    assert source.uri == f"file:{clip}"
    assert not source.is_live
    assert not source.ended
    assert (visual.name, visual.modality) == ("clip.mp4/visual", "visual")
    assert (visual.axes, visual.shape) == (("height", "width", "channel"), (48, 64, 3))
    assert (visual.dtype, visual.unit, visual.channels) == ("uint8", "rgb24", ("r", "g", "b"))
    assert visual.rate_hz == 25.0
    assert (audio.name, audio.modality) == ("clip.mp4/audio", "audio")
    assert (audio.axes, audio.shape) == (("sample", "channel"), (None, 2))
    assert (audio.dtype, audio.unit, audio.channels) == ("float32", "1", ("left", "right"))
    assert audio.rate_hz == 44_100.0
    source.ensure_stopped()
    source.ensure_stopped()


def test_plays_again_from_the_start_after_a_stop(clip: Path) -> None:
    source = FileSource(str(clip))
    with pytest.raises(RuntimeError, match="started"):
        source.read(0)
    firsts = []
    for _ in range(2):
        source.start()
        chunks = [source.read(0) for _ in range(3)]
        firsts.append([(c.stream, c.seq, c.t_ns) for c in chunks if c is not None])
        source.ensure_stopped()
    assert len(firsts[0]) == 3
    assert firsts[0] == firsts[1]


def test_delivers_every_frame_and_both_streams_in_common_order(clip: Path) -> None:
    with opened(clip) as source:
        chunks = list(rest_of(source))
        assert source.n_corrupt == 0
    assert times_ns(chunks) == sorted(times_ns(chunks))
    assert counters(chunk for chunk in chunks if chunk.modality == "visual") == list(range(50))


def test_sound_alone_and_picture_alone(made: Path, clip: Path) -> None:
    alone = media.write_media(made / "tone.wav", samples=media.tone(1, 16_000, 440), rate_hz=16_000)
    assert list(play(alone)) == ["audio"]
    silent = media.strip_audio(clip, made / "silent.mp4")
    assert [len(chunks) for chunks in play(silent).values()] == [50]
    assert list(play(silent)) == ["visual"]


def test_a_still_picture_is_shown_as_a_clip_that_stands_still(made: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    png = media.write_media(made / "still.png", frames=[picture], options={"update": "1"})
    chunks = play(png)["visual"]
    assert times_ns(chunks) == [40_000_000 * k for k in range(250)]
    assert all(np.array_equal(chunk.data, picture) for chunk in chunks)
    assert not chunks[0].data.flags.writeable
    assert (specs_of(png)[0].rate_hz, specs_of(png)[0].shape) == (25.0, (40, 60, 3))
    pattern = png.rename(made / "a%03d still*.png")
    assert np.array_equal(play(pattern)["visual"][0].data, picture)


@pytest.mark.parametrize("suffix", ["bmp", "jpg", "png", "tiff", "webp"])
def test_every_kind_of_still_picture(made: Path, suffix: str) -> None:
    path = made / f"grey.{suffix}"
    cv2.imwrite(str(path), np.full((40, 60, 3), 90, np.uint8))
    with opened(path) as source:
        chunks = list(rest_of(source))
        assert (source.read(0), source.n_corrupt) == (None, 0)
    assert (len(chunks), chunks[-1].t_ns) == (250, 9_960_000_000)
    assert all(np.abs(chunk.data.astype(int) - 90).max() <= 2 for chunk in chunks)


def test_a_jpeg_has_the_full_range_of_greys(made: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (64, 256, 3)).copy()
    jpeg = media.write_media(made / "ramp.jpg", frames=[ramp], options={"update": "1"})
    decoded = cv2.imread(str(jpeg))
    assert decoded is not None
    played = play(jpeg)["visual"][0].data
    assert np.abs(played.astype(float) - decoded).max() <= 4
    assert played.min() < 8
    assert played.max() > 247
    assert "cut off" in str(refusal(media.truncate(jpeg, made / "cut.jpg", 0.9)))


def test_a_video_made_from_a_picture(made: Path) -> None:
    png = real("face_photos") / "astronaut_512.png"
    chunks = play(media.video_from_image(png, made / "astronaut.mp4", 1.2, 25))["visual"]
    assert times_ns(chunks) == [40_000_000 * k for k in range(30)]
    original = play(png)["visual"][0].data.astype(float)
    assert np.abs(chunks[-1].data - original).mean() < 6


def test_any_path_can_be_named(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("with space.mp4", "~odd", "concat:x|y.mp4", "%03d*?.mp4", "é:ü.mp4", "no_suffix"):
        (tmp_path / name).write_bytes(clip.read_bytes())
        with opened(name) as source:
            assert source.specs[0].name == f"{name}/visual"
    with opened("~/with space.mp4") as source:
        assert source.uri == "file:~/with space.mp4"


def test_a_path_that_is_not_unicode(tmp_path: Path, clip: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4")
    Path(path).write_bytes(clip.read_bytes())
    with opened(path) as source:
        assert len(source.specs) == 2


# --- times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "fps"),
    [
        ("mp4", Fraction(25)),
        ("mp4", Fraction(30_000, 1001)),
        ("mov", Fraction(24_000, 1001)),
        ("avi", Fraction(25)),
    ],
)
def test_frame_times_are_exact(made: Path, suffix: str, fps: Fraction) -> None:
    path = media.write_media(made / f"exact.{suffix}", frames=media.counter_frames(100), fps=fps)
    chunks = play(path)["visual"]
    assert times_ns(chunks) == [round(k / fps * 1_000_000_000) for k in range(100)]
    assert counters(chunks) == list(range(100))
    assert specs_of(path)[0].rate_hz == float(fps)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate_keeps_each_time(made: Path, suffix: str) -> None:
    gaps_ms = [40, 33, 34, 1, 500, 40, 7, 100] * 5
    pts = np.cumsum([0, *gaps_ms]).tolist()
    path = media.write_media(
        made / f"variable.{suffix}",
        frames=media.counter_frames(len(pts)),
        pts=pts,
        time_base_s=Fraction(1, 1000),
        video_codec="mpeg4",
    )
    chunks = play(path)["visual"]
    assert times_ns(chunks) == [1_000_000 * ms for ms in pts]


def test_sound_times_are_exact(made: Path) -> None:
    path = media.write_media(made / "exact.wav", samples=media.tone(3, 44_100, 440), rate_hz=44_100)
    chunks = play(path)["audio"]
    begins = np.cumsum([0, *(chunk.n_samples for chunk in chunks)])
    assert begins[-1] == 3 * 44_100
    assert times_ns(chunks) == [round(Fraction(int(b), 44_100) * 1_000_000_000) for b in begins[:-1]]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mpg"])
def test_picture_and_sound_keep_their_offset(made: Path, suffix: str) -> None:
    """The sound begins 0.6 s after the picture, in a file that begins at 3 s."""
    path = media.write_media(
        made / f"offset.{suffix}",
        frames=media.counter_frames(50),
        pts=range(75, 125),
        samples=media.tone(1, 44_100, 440),
        rate_hz=44_100,
        first_sample=round(3.6 * 44_100),
    )
    chunks = play(path)
    assert chunks["visual"][0].t_ns == 0
    assert counters(chunks["visual"]) == list(range(50))
    quiet = sound(chunks["audio"])[:, 0]
    onset = int(np.argmax(np.abs(quiet) > 0.1))
    assert (chunks["audio"][0].t_ns / 1e9 + onset / 44_100) == pytest.approx(0.6, abs=0.03)


def test_streams_far_apart_in_the_file_are_delivered_within_bounds(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = synthetic(made / "apart.mkv", options={"max_interleave_delta": "1"})
    in_step = play(path)
    order = [chunk.t_ns for chunk in in_step["visual"] + in_step["audio"]]
    assert (len(in_step["visual"]), min(order)) == (50, 0)
    monkeypatch.setattr(file_module, "MAX_WAITING_PACKETS", 5)
    bounded = play(path)
    assert times_ns(bounded["visual"]) == times_ns(in_step["visual"])
    assert len(bounded["audio"]) == len(in_step["audio"])


# --- values -------------------------------------------------------------------------------------------


def test_stereo_48_khz_16_bit_values_are_exact(made: Path) -> None:
    values = np.random.default_rng(1).integers(-32768, 32768, (9_600, 2), np.int16)
    values[:2] = [[-32768, 32767], [0, 1]]
    path = media.write_media(made / "s16.wav", samples=values, rate_hz=48_000, audio_codec="pcm_s16le")
    chunks = play(path)["audio"]
    assert np.array_equal(sound(chunks), values.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("suffix", "codec", "tolerance"),
    [
        ("wav", "pcm_u8", 2**-7),
        ("wav", "pcm_s16le", 2**-15),
        ("wav", "pcm_s24le", 2**-23),
        ("wav", "pcm_s32le", 2**-23),
        ("wav", "pcm_f32le", 0),
        ("wav", "pcm_f64le", 0),
        ("flac", "flac", 2**-15),
        ("mka", "pcm_s16be", 2**-15),
        ("m4a", "alac", 2**-15),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_every_sample_format(made: Path, suffix: str, codec: str, tolerance: float, n_channels: int) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no encoder {codec}")
    samples = media.tone(0.5, 44_100, 440, n_channels)
    samples[:, -1] *= 0.5
    name = f"{codec}_{n_channels}.{suffix}"
    path = media.write_media(made / name, samples=samples, rate_hz=44_100, audio_codec=codec)
    played = sound(play(path)["audio"])[: len(samples)]
    assert played.shape == samples.shape
    assert np.abs(played - samples).max() <= tolerance


def test_24_bit_values_are_exact(made: Path) -> None:
    values = np.random.default_rng(2).integers(-(2**23), 2**23, (4_800, 1)).astype(np.int32)
    path = media.write_media(made / "s24.wav", samples=values << 8, audio_codec="pcm_s24le")
    assert np.array_equal(sound(play(path)["audio"]), values.astype(np.float32) / 2**23)


def test_sound_beyond_full_scale_is_clipped_and_sound_that_is_no_number_left_out(made: Path) -> None:
    samples = media.tone(1, 8_000, 50)
    samples[:100] = 3.0
    samples[5_000] = np.nan
    path = media.write_media(made / "wild.wav", samples=samples, rate_hz=8_000, audio_codec="pcm_f32le")
    with opened(path) as source:
        pieces = [chunk.data for chunk in rest_of(source)]
        assert source.n_corrupt == 1
    assert all(np.isfinite(piece).all() and np.abs(piece).max() <= 1 for piece in pieces)


def test_six_channels_have_their_standard_names(made: Path) -> None:
    samples = media.tone(0.5, 48_000, 440, 6)
    path = media.write_media(made / "surround.wav", samples=samples, audio_codec="pcm_s16le")
    assert specs_of(path)[0].channels == ("FL", "FR", "FC", "LFE", "BL", "BR")


def y4m(out: Path, header: str, luma: NDArray[np.uint8]) -> Path:
    grey = bytes([128]) * (luma.size // 2)
    out.write_bytes(f"YUV4MPEG2 {header}\n".encode() + (b"FRAME\n" + luma.tobytes() + grey) * 2)
    return out


def test_pixels_that_are_not_square_are_widened(made: Path) -> None:
    luma = np.repeat(np.linspace(16, 235, 48).astype(np.uint8)[:, None], 64, axis=1)
    path = y4m(made / "wide.y4m", "W64 H48 F25:1 A64:45 C420jpeg", luma)
    frame = play(path)["visual"][0].data
    assert frame.shape == (48, 91, 3)
    assert np.all(np.diff(frame[:, 40, 0].astype(int)) >= 0)


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["90 clockwise", "180", "90 counter-clockwise"],
)
def test_a_picture_held_sideways_is_turned_upright(
    made: Path, clip: Path, matrix: tuple[int, int, int, int], turns: int
) -> None:
    data = bytearray(clip.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = made / f"turned{turns}.mp4"
    path.write_bytes(data)
    upright = play(clip)["visual"][21].data
    assert np.array_equal(play(path)["visual"][21].data, np.rot90(upright, turns))


def test_a_cover_picture_is_not_video(made: Path) -> None:
    flac = media.write_media(made / "plain.flac", samples=media.tone(1, 16_000, 440), rate_hz=16_000)
    picture = media.write_media(made / "cover.png", frames=media.counter_frames(1), options={"update": "1"})
    data, cover = flac.read_bytes(), picture.read_bytes()
    mime = b"image/png"
    block = (
        struct.pack(">II", 3, len(mime)) + mime + struct.pack(">IIIIII", 0, 64, 48, 24, 0, len(cover)) + cover
    )
    header = bytes([6]) + len(block).to_bytes(3, "big")
    first_block = 4 + 4 + 34  # "fLaC", then the header and body of STREAMINFO
    covered = made / "covered.flac"
    covered.write_bytes(data[:first_block] + header + block + data[first_block:])
    assert list(play(covered)) == ["audio"]


# --- joined files -----------------------------------------------------------------------------------


@dataclass
class Alone:
    """What one of the real clips is when it is played alone."""

    times_ns: dict[str, list[int]]
    picture_sums: list[int]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    voice: NDArray[np.float32]


@pytest.fixture(scope="session")
def alone(grid: list[Path]) -> list[Alone]:
    clips = []
    for path in grid:
        chunks = play(path)
        pictures = chunks["visual"]
        clips.append(
            Alone(
                {modality: times_ns(chunks[modality]) for modality in chunks},
                [zlib.crc32(chunk.data.tobytes()) for chunk in pictures],
                small(pictures[0]),
                small(pictures[-1]),
                sound(chunks["audio"]),
            )
        )
    return clips


def small(chunk: Chunk) -> NDArray[np.float64]:
    return chunk.data[::6, ::6].astype(float)


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.abs(a - b).mean())


def test_clips_joined_byte_by_byte_play_on(alone: list[Alone], joined: dict[str, Path]) -> None:
    with opened(joined["mpg"]) as source:
        whole = rest_of(source)
        for number, clip in enumerate(alone):
            part: dict[str, list[Chunk]] = {"visual": [], "audio": []}
            for chunk in itertools.islice(whole, GRID_FRAMES + GRID_PIECES):
                part[chunk.modality].append(chunk)
            for modality, chunks in part.items():
                assert times_ns(chunks) == [number * GRID_NS + t for t in clip.times_ns[modality]]
            assert [zlib.crc32(chunk.data.tobytes()) for chunk in part["visual"]] == clip.picture_sums
            # The decoder of the sound remembers a little of the clip before.
            assert np.abs(sound(part["audio"])[2000:] - clip.voice[2000:]).max() < 1e-3
        assert next(whole, None) is None
        assert source.n_corrupt == 0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_clips_joined_by_encoding_keep_lips_and_voice_together(
    alone: list[Alone], joined: dict[str, Path], suffix: str
) -> None:
    pictures, show_ns, pieces = [], [], []
    with opened(joined[suffix]) as source:
        for chunk in rest_of(source):
            if chunk.modality == "visual":
                pictures.append(small(chunk))
                show_ns.append(chunk.t_ns)
            else:
                pieces.append(chunk)
    assert len(pictures) == 6 * GRID_FRAMES
    voice = sound(pieces)[:, 0]
    assert len(voice) / 44_100 == pytest.approx(17.98, abs=0.1)
    for number, clip in enumerate(alone):
        if number:  # the first picture that looks more like this clip than like the one before
            near = range(number * GRID_FRAMES - 5, number * GRID_FRAMES + 6)
            before = alone[number - 1].last
            new = next(k for k in near if distance(pictures[k], clip.first) < distance(pictures[k], before))
            assert abs(show_ns[new] - number * GRID_NS) <= 40_000_000
        own = clip.voice[22_050:66_150, 0]
        at = round((number * 3 + 0.5 - pieces[0].t_ns / 1e9) * 44_100)
        window = voice[at - 4_410 : at + len(own) + 4_410]
        lag = int(np.argmax(correlate(window, own, "valid"))) - 4_410
        assert abs(lag) / 44_100 <= 0.04


@pytest.mark.parametrize(
    ("suffix", "parts"),
    [
        *itertools.product(("mpg", "ts"), (("zero", "zero"), ("zero", "later"), ("later", "zero"))),
        # The streams of a transport stream are those of its first part.
        ("mpg", ("zero", "silent", "zero")),
        ("mpg", ("silent", "zero")),
    ],
    ids=str,
)
def test_joints_of_all_kinds(made: Path, suffix: str, parts: tuple[str, ...]) -> None:
    """Times that go back, times that go forward by 100 s, and parts without sound."""
    kinds = {"zero": (0, True), "later": (100, True), "silent": (0, False)}
    paths = []
    for kind in dict.fromkeys(parts):
        start_s, with_sound = kinds[kind]
        out = made / f"{kind}.{suffix}"
        paths.append(out if out.exists() else synthetic(out, start_s=start_s, with_sound=with_sound))
    by_kind = dict(zip(dict.fromkeys(parts), paths, strict=True))
    chunks = play(cat(made / f"{'-'.join(parts)}.{suffix}", *(by_kind[kind] for kind in parts)))
    assert counters(chunks["visual"]) == list(range(50)) * len(parts)
    # 50 frames last 2 s; the coder of the sound adds a little to that.
    shows = times_ns(chunks["visual"])[::50]
    assert np.allclose(np.diff(shows), 2e9, atol=40e6)
    hears = times_ns(chunks["audio"])[:: len(chunks["audio"]) // sum(kind != "silent" for kind in parts)]
    sounding = [show for show, kind in zip(shows, parts, strict=True) if kind != "silent"]
    assert np.allclose(hears[: len(sounding)], sounding, atol=40e6)


def test_a_part_of_another_size_is_fitted_with_borders(made: Path) -> None:
    white = [np.full((64, 48, 3), 255, np.uint8)] * 10
    first = media.write_media(made / "wide.mpg", frames=media.counter_frames(10))
    second = media.write_media(made / "tall.mpg", frames=white)
    frame = play(cat(made / "sizes.mpg", first, second))["visual"][-1].data
    assert frame.shape == (48, 64, 3)
    assert frame[:, 16:48].min() > 240
    assert frame[:, :13].max() == frame[:, 51:].max() == 0


def test_a_part_with_another_sound_rate_is_refused_when_it_comes(made: Path) -> None:
    parts = [
        media.write_media(made / f"{hz}.mpg", samples=media.tone(1, hz, 440), rate_hz=hz)
        for hz in (44_100, 48_000)
    ]
    with pytest.raises(DataError, match=r"changes on the way.*1 channels at 48000 Hz"):
        play(cat(made / "rates.mpg", *parts))


# --- damage in the middle ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg", "ts"])
def test_damage_in_the_middle_is_counted_and_passed_over(made: Path, suffix: str) -> None:
    noise = np.random.default_rng(3)
    busy = (frame // 2 + noise.integers(0, 99, frame.shape, np.uint8) for frame in media.counter_frames(50))
    tone = media.tone(2, 44_100, 440, 2)
    path = media.write_media(made / f"whole.{suffix}", frames=busy, samples=tone, rate_hz=44_100)
    data = bytearray(path.read_bytes())
    for at in noise.integers(len(data) * 3 // 10, len(data) * 6 // 10, 12):
        data[at : at + 150] = noise.bytes(150)
    damaged = made / f"damaged.{suffix}"
    damaged.write_bytes(data)
    with opened(damaged) as source:
        chunks = list(rest_of(source))
        # MPEG-4 part 2, which AVI and some builds' Matroska hold here, FFmpeg mends without a word.
        assert source.n_corrupt > 0 or suffix in ("avi", "mkv")
    assert max(times_ns(chunks)) > 1_800_000_000
    assert 20 < sum(chunk.modality == "visual" for chunk in chunks) <= 50


# --- recordings that were cut -----------------------------------------------------------------------

CUTTABLE: dict[str, dict[str, str]] = {
    "mp4": {},
    "fast.mp4": {"movflags": "+faststart"},
    "pieces.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "mov": {},
    "mkv": {},
    "live.mkv": {"live": "1"},
    "avi": {},
    "mpg": {},
    "ts": {},
}
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "aiff": "pcm_s16be", "ogg": "libopus", "mp3": "libmp3lame"}


@pytest.mark.parametrize("kind", [*CUTTABLE, *SOUNDS])
def test_a_cut_recording_is_refused_and_a_whole_one_is_not(made: Path, kind: str) -> None:
    path = made / f"cuttable.{kind}"
    if kind in SOUNDS:
        if SOUNDS[kind] not in av.codecs_available:
            pytest.skip(f"this build of FFmpeg has no encoder {SOUNDS[kind]}")
        media.write_media(path, samples=media.tone(2, 48_000, 440, 2), audio_codec=SOUNDS[kind])
    else:
        synthetic(path, options=CUTTABLE[kind])
    play(path)
    size = path.stat().st_size
    cut = made / f"cut.{kind}"
    for fraction in (0.5, 0.9, *np.random.default_rng(4).uniform(0.3, 0.9, 6)):
        media.truncate(path, cut, fraction)
        error = refusal(cut)
        assert "cut off" in str(error), (fraction, size)
        assert error.expected
        assert error.found
        assert error.hint


def test_a_cut_program_stream_is_recognised_wherever_it_was_cut(
    made: Path, grid: list[Path], joined: dict[str, Path]
) -> None:
    cut = made / "cut grid.mpg"
    random = np.random.default_rng(5)
    for path in grid:
        data = path.read_bytes()
        # Half of one clip is a whole number of sectors: no packet is cut there, but a picture is.
        sizes = [
            len(data) // 2,
            len(data) * 9 // 10,
            len(data) - 2048,
            *random.integers(9_000, len(data) - 300, 4),
        ]
        for size in sizes:
            cut.write_bytes(data[:size])
            assert "cut off" in str(refusal(cut)), (path.name, size)
    data = joined["mpg"].read_bytes()
    for size in (
        len(data) // 2,
        len(data) * 9 // 10,
        len(data) - 4096,
        *random.integers(9_000, len(data) - 300, 3),
    ):
        cut.write_bytes(data[:size])
        assert "cut off" in str(refusal(cut)), size


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.987])
def test_a_cut_real_recording_is_refused(made: Path, joined: dict[str, Path], fraction: float) -> None:
    speech = real("speech")
    photo = real("face_photos") / "astronaut_512.png"
    paths = [
        joined["mp4"],
        joined["mkv"],
        speech / "jfk_inaugural_1961.flac",
        speech / "ljspeech_LJ050-0131.wav",
        photo,
    ]
    for path in paths:
        assert "cut off" in str(refusal(media.truncate(path, made / f"cut real{path.suffix}", fraction)))


def test_no_real_file_is_refused(grid: list[Path], joined: dict[str, Path]) -> None:
    paths = [*grid, *joined.values()]
    for folder, patterns in {
        "speech": ("*.wav", "*.flac"),
        "speech_emodb": ("flac/*.flac",),
        "face_photos": ("*.png",),
    }.items():
        found = [path for pattern in patterns for path in real(folder).glob(pattern)]
        assert found
        paths += found
    for path in paths:
        assert specs_of(path)


def test_bytes_after_the_end_do_no_harm(made: Path) -> None:
    tone = media.tone(1, 44_100, 440)
    for suffix, codec in (("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame")):
        path = media.write_media(made / f"tail.{suffix}", samples=tone, rate_hz=44_100, audio_codec=codec)
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
        # FFmpeg before 8.1 takes the tag for a part of FLAC's last frame, and loses it.
        assert len(sound(play(path)["audio"])) >= (44_100 if suffix != "flac" else 39_000)
    for suffix in ("mp4", "mkv", "avi", "mpg"):
        path = synthetic(made / f"tail.{suffix}")
        path.write_bytes(path.read_bytes() + bytes(64))
        assert len(play(path)["visual"]) == 50


@pytest.mark.parametrize("length", [0, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_a_wav_written_to_a_pipe_has_no_length_to_hold_it_to(made: Path, length: int) -> None:
    path = media.write_media(made / "whole.wav", samples=media.tone(1, 8_000, 440), rate_hz=8_000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = length.to_bytes(4, "little")
    data[4:8] = b"\xff\xff\xff\xff"
    piped = made / "piped.wav"
    piped.write_bytes(data)
    assert len(sound(play(piped)["audio"])) == 8_000


# --- what is no media file --------------------------------------------------------------------------


def bad_files(folder: Path) -> Iterator[tuple[Path | str, str]]:
    """Paths, and what the message about each must say."""

    def file(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    yield folder / "missing.mp4", "not found"
    yield "http://example.com/clip.mp4", "not found"
    yield "nul\0.mp4", "cannot be opened"
    yield "x" * 5000, "cannot be opened"
    yield folder, "a directory"
    yield file("empty.mp4", b""), "is empty"
    yield file("text.mp4", b"This is a letter.\n" * 500), "not a media file"
    yield file("text.txt", b"This is a letter.\n" * 500), "not a media file"
    yield file("short.mp4", b"\0"), "not a media file"
    yield file("zeros.mp4", bytes(100_000)), "not a media file"
    yield file("noise.wav", np.random.default_rng(6).bytes(100_000)), "not a media file"
    yield file("only_riff.wav", b"RIFF\x24\0\0\0WAVE"), "not a media file"
    yield file("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.mp4\n"), "not a media file"
    yield file("list.mp4", b"ffconcat version 1.0\nfile clip.mp4\n"), "not a media file"
    yield (
        file("list.mpd", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>'),
        "not a media file",
    )
    yield file("words.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n" * 20), "not a media file"


def test_bad_input_gives_one_clear_message_and_no_noise(
    tmp_path: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    for path, says in bad_files(tmp_path):
        error = refusal(path)
        assert says in str(error), path
        assert error.hint, path
        assert "\n" not in str(error)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a named pipe" in str(refusal(tmp_path / "pipe.mp4"))
    assert "a character device" in str(refusal("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.mp4"))
        assert "a socket" in str(refusal(tmp_path / "s.mp4"))


def test_a_file_that_may_not_be_read(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # who may read everything: become nobody for a moment
        os.seteuid(65534)
    try:
        error = refusal(path)
    finally:
        if is_root:
            os.seteuid(0)
    assert "Permission denied" in str(error)


def test_a_picture_of_absurd_size_is_refused(made: Path, tmp_path: Path) -> None:
    png = media.write_media(tmp_path / "huge.png", frames=media.counter_frames(1), options={"update": "1"})
    data = bytearray(png.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 10_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    png.write_bytes(data)
    assert "at most 67108864 pixels" in str(refusal(png))


def test_a_path_must_be_given() -> None:
    with pytest.raises(UsageError, match="file:PATH"):
        open_source("file:")
