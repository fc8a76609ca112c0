"""`edge-mer run` on real people who talk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli.main import main
from tests.helpers.data import real
from tests.helpers.media import join_clips, strip_audio, truncate, video_from_image
from tests.helpers.system_packages import needs

N_STEPS_WINDOW = 8
CLIP_S = 2.98
N_PEOPLE, N_STEPS = 3, 33
"""Of the joined file; that any two of all six are told apart is shown where faces are followed."""
STEP_S = 4 / 15


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Six people, one clip of 2.98 s each."""
    return sorted(real("talking_head_video").glob("*.mpg"))


@pytest.fixture(scope="session")
def joined(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some clips one after the other, byte by byte as `cat` does."""
    path = tmp_path_factory.mktemp("joined") / "three people.mpg"
    path.write_bytes(b"".join(clip.read_bytes() for clip in clips[:N_PEOPLE]))
    return path


@pytest.fixture(scope="module")
def joined_records(
    shared_bundle: Path, joined: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What comes of the joined clips; in a precision of its own, since no cache is set aside for it."""
    return run(shared_bundle, joined, tmp_path_factory.mktemp("run") / "out.jsonl", "--precision", "fp32")


def run(bundle: Path, source: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    arguments = ["run", str(bundle), "--source", f"file:{source}", "--sink", f"jsonl:{out}", "--fast", *more]
    assert main(arguments) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_several_people_in_one_file(joined_records: list[dict[str, Any]]) -> None:
    """A prediction per hop, a face nearly always, and every change of person noticed."""
    records, steps = joined_records, range(N_STEPS)
    assert [record["window_index"] for record in records] == list(steps)
    assert [record["t_end_ns"] for record in records] == [(k + 1) * 4_000_000_000 // 15 for k in steps]
    seen = [record["modalities"]["visual"]["present"] for record in records]
    assert sum(seen) >= 0.95 * len(records)
    assert all(record["modalities"]["audio"]["present"] for record in records)
    warming_up = [record for record in records if "warming_up" in record["reasons"]]
    assert [record["window_index"] for record in warming_up] == list(range(N_STEPS_WINDOW - 1))
    switched = ["face_switched" in record["reasons"] for record in records]
    starts = [k for k in steps[1:] if switched[k] and not switched[k - 1]]
    expected = [clip * CLIP_S / STEP_S for clip in range(1, N_PEOPLE)]
    assert len(starts) == N_PEOPLE - 1, starts
    assert all(abs(found - wanted) <= 1.5 for found, wanted in zip(starts, expected, strict=True)), starts
    statuses = [record["status"] for record in records]
    assert "withheld" not in statuses
    assert statuses.count("ok") >= 2 * N_PEOPLE
    assert statuses[N_STEPS_WINDOW - 1] == "ok"


def test_reencoded_file_gives_the_same_steps(
    shared_bundle: Path, clips: list[Path], joined_records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Another container, other codecs: the same steps see the same people, up to where it ends."""
    other = tmp_path / "joined.mp4"
    join_clips(clips[:2], other)
    found = run(shared_bundle, other, tmp_path / "out.jsonl", "--precision", "fp32")
    assert abs(len(found) - int(2 * CLIP_S / STEP_S)) <= 1
    pairs = list(zip(joined_records, found, strict=False))
    assert sum(a["status"] == b["status"] for a, b in pairs) >= 0.9 * len(pairs)


def test_one_short_clip_is_degraded_from_its_first_step(
    shared_bundle: Path, clips: list[Path], tmp_path: Path
) -> None:
    records = run(shared_bundle, clips[0], tmp_path / "out.jsonl")
    assert len(records) == 11
    assert records[0]["status"] == "degraded"
    assert records[0]["reasons"] == ["warming_up"]
    assert records[0]["affect"] is not None
    assert [record["status"] for record in records[N_STEPS_WINDOW - 1 :]] == ["ok"] * 4


def test_where_the_user_wants_no_estimate_without_sound_it_is_withheld(
    shared_bundle: Path, clips: list[Path], tmp_path: Path
) -> None:
    silent = tmp_path / "silent.mpg"
    strip_audio(clips[0], silent)
    records = run(shared_bundle, silent, tmp_path / "out.jsonl", "--missing", "audio=abstain")
    assert {record["status"] for record in records} == {"withheld"}
    assert {tuple(record["reasons"]) for record in records} == {("audio_missing",)}
    assert all(record["affect"] is None for record in records)
    assert not any(record["modalities"]["audio"]["present"] for record in records)
    assert all(record["modalities"]["visual"]["present"] for record in records)


def test_without_sound_the_estimate_is_degraded(
    shared_bundle: Path, clips: list[Path], tmp_path: Path
) -> None:
    """The weights were measured without sound, and masking it was found good enough."""
    silent = tmp_path / "silent.mpg"
    strip_audio(clips[0], silent)
    records = run(shared_bundle, silent, tmp_path / "out.jsonl")
    assert {record["status"] for record in records} == {"degraded"}
    assert all("audio_missing" in record["reasons"] for record in records)
    assert all(record["affect"] is not None for record in records)


def test_a_cup_of_coffee_has_no_face(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "coffee.mp4"
    video_from_image(real("face_photos", "coffee_noface_600x400.png"), video, 4.0, 25)
    records = run(shared_bundle, video, tmp_path / "out.jsonl")
    assert records
    assert {record["status"] for record in records} == {"withheld"}
    assert all("visual_missing" in record["reasons"] for record in records)
    assert "every prediction was withheld" in capsys.readouterr().err


@needs("ffmpeg")
def test_a_file_that_ffmpeg_made(shared_bundle: Path, joined: Path, tmp_path: Path) -> None:
    """Another program's muxer, 15 fps, 48 kHz mono: the same grid of steps."""
    import subprocess

    other = tmp_path / "made.mkv"
    options = ["-t", "5", "-r", "15", "-ar", "48000", "-ac", "1"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(joined), *options, str(other)], check=True)
    records = run(shared_bundle, other, tmp_path / "out.jsonl")
    assert 18 <= len(records) <= 19
    assert sum(record["modalities"]["visual"]["present"] for record in records) >= 0.95 * len(records)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cut.mpg", "was cut off"),
        ("text.mp4", "not a media file"),
        ("absent.mp4", "not found"),
        ("empty.mp4", "empty"),
    ],
)
def test_bad_files_give_one_message(
    shared_bundle: Path,
    clips: list[Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    words: str,
) -> None:
    path, out = tmp_path / name, tmp_path / "out.jsonl"
    if name == "cut.mpg":
        truncate(clips[0], path, 0.6)
    elif name == "text.mp4":
        path.write_text("Dear diary, today I was renamed.\n" * 50, encoding="utf-8")
    elif name == "empty.mp4":
        path.touch()
    assert (
        main(["run", str(shared_bundle), "--source", f"file:{path}", "--sink", f"jsonl:{out}", "--fast"]) == 3
    )
    captured = capfd.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("edge-mer:")]
    assert len(errors) == 1
    assert name in errors[0]
    assert words in errors[0].lower()
    assert "Traceback" not in captured.err
    assert list(tmp_path.glob("out.jsonl*")) == []
