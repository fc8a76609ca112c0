"""Recordings and labels joined: lengths, everything wrong in one message, and the label of each step."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edge_mer.errors import DataError
from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import demand, summary
from edge_mer.runtime import labelled
from edge_mer.runtime.labelled import check, collect_labelled, measure, ranges_of, truth_of
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.sources.registry import open_source
from edge_mer.sources.sim import SimSource
from edge_mer.types.model import EmotionOutput, PainOutput
from tests.helpers import media
from tests.helpers.data import real
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import STEP, tiny_model
from tests.helpers.tiny_session import SquareDetector, frame_of

NS = 1_000_000_000
N_FRAMES = 64
AFFECT = {"valence": (-1.0, 1.0), "arousal": (-1.0, 1.0)}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pictures at 30 Hz, which are 8 steps, and sound as long."""
    path = tmp_path_factory.mktemp("labelled") / "clip.mp4"
    return media.write_media(
        path,
        frames=(frame_of(0, shade=k % 5) for k in range(N_FRAMES)),
        fps=Fraction(30),
        samples=media.tone(N_FRAMES / 30, 48_000, 440, 1),
    )


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def recording(clip: Path, labels: Path | None, rate_hz: int | None = None) -> Recording:
    return Recording("one", "anna", (f"file:{clip}",), labels, None if rate_hz is None else Fraction(rate_hz))


def setup() -> PipelineSetup:
    model = tiny_model(visual="mask", audio="mask")
    return PipelineSetup(model, tiny_engines(model), SquareDetector())


# --- everything wrong at once -----------------------------------------------------------------------


def test_one_message_has_everything_that_is_wrong(clip: Path, tmp_path: Path) -> None:
    for name in ("nan", "minus", "short", "nobody", "split1", "split2", "good", "text", "gone"):
        (tmp_path / f"{name}.mp4").symlink_to(clip)
    (tmp_path / "gone.mp4").unlink()
    good = [f"{k % 3 / 4},0.5" for k in range(N_FRAMES)]
    for name in ("nobody", "split1", "split2", "good", "gone"):
        written(tmp_path / f"{name}.csv", "valence,arousal", *good)
    written(tmp_path / "nan.csv", "valence,arousal", "nan,0", ",0", *good[2:])
    written(tmp_path / "minus.csv", "valence,arousal", *good[:-3], *["-5,-5"] * 3)
    written(tmp_path / "short.csv", "valence,arousal", *good[: N_FRAMES // 2])
    written(tmp_path / "text.csv", "valence,arousal", "high,0", *good[1:])
    manifest = written(
        tmp_path / "people.csv",
        "person,sources,labels,split",
        "anna,nan.mp4,nan.csv,",
        "ben,minus.mp4,minus.csv,",
        "cleo,short.mp4,short.csv,",
        ",nobody.mp4,nobody.csv,",
        "dora,split1.mp4,split1.csv,train",
        "dora,split2.mp4,split2.csv,test",
        "emil,gone.mp4,gone.csv,",
        "fay,good.mp4,good.csv,",
        "gus,text.mp4,text.csv,",
    )
    recordings, problems = read_manifest(manifest)
    assert len(recordings) == 9
    problems += check(recordings, AFFECT)
    with pytest.raises(DataError) as caught:
        demand(problems, "manifest people.csv")
    text = str(caught.value)
    for wanted in (
        "! line 5: no person",
        "! lines 6, 7: person dora is in test and train (2 times)",
        "- lines 2, 3: valence: empty or NaN (2 times)",
        "- lines 63, 64, 65: valence: -5, which means that there is no label (3 times)",
        "- lines 63, 64, 65: arousal: -5, which means that there is no label (3 times)",
        "! 32 rows for 64 pictures",
        f"! file '{tmp_path}/gone.mp4' not found",
        "! line 2: valence: no number in the cell",
    ):
        assert wanted in text
    for name in ("nan.csv", "minus.csv", "short.csv", "gone.mp4", "people.csv", "text.csv"):
        assert text.count(f"  {tmp_path}/{name}\n") == 1
    for name in ("good", "split1", "gone.csv"):
        assert name not in text.replace("gone.mp4", "")
    assert "nan.csv" in summary(problems)
    assert "short.csv" not in summary(problems)


def test_what_is_right_has_no_problems(clip: Path, tmp_path: Path) -> None:
    times = written(tmp_path / "t.csv", "t_s,valence,arousal", *(f"{k / 4},0,{k / 9}" for k in range(9)))
    rows = written(tmp_path / "r.csv", "valence,arousal", *["0,0"] * 21)
    signal = written(tmp_path / "eda.csv", "gsr", *["1"] * 64)
    both = (f"file:{clip}", f"signal:{signal}?modality=eda&column=gsr&rate_hz=32")
    recordings = [
        Recording("a", "anna", both, times),
        recording(clip, rows, 10),
        Recording("c", "cleo", ("sim:seed=3&duration_s=1",), None),
    ]
    assert check(recordings, AFFECT) == []


def test_a_signal_that_is_broken_far_in_is_found(tmp_path: Path) -> None:
    signal = written(tmp_path / "eda.csv", "gsr", *["1"] * 500, "off", *["1"] * 11)
    labels = written(tmp_path / "a.csv", "pain", *["1"] * 16)
    uri = f"signal:{signal}?modality=eda&column=gsr&rate_hz=32"
    (problem,) = check([Recording("a", "anna", (uri,), labels, Fraction(1))], {"pain": (0, 1)})
    assert (problem.path, problem.is_fatal) == (str(signal), True)
    assert "line 502" in problem.what


def test_sources_that_cannot_be_labelled(clip: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "a.csv", "valence,arousal", *["0,0"] * N_FRAMES)
    for uri, said in (("sim:sed=1", "unknown key"), ("fil:a.mp4", "unknown source")):
        (problem,) = check([Recording("a", "anna", (uri,), None)], AFFECT)
        assert problem.is_fatal
        assert said in problem.what
    (problem,) = check([Recording("a", "anna", ("sim:",), None)], AFFECT | {"mood": (0.0, 1.0)})
    assert "has no mood, only valence, arousal" in problem.what
    (problem,) = check([Recording("a", "anna", ("sim:",), None)], {"emotion": (0.0, 1.0)})
    assert "has no emotion of these classes" in problem.what
    assert check([Recording("a", "anna", ("sim:",), None)], {"emotion": (0.0, 2.0)}) == []
    # sound alone has no pictures that rows could belong to
    sound = media.write_media(tmp_path / "a.wav", samples=media.tone(2, 8_000, 440, 1), rate_hz=8_000)
    (problem,) = check([recording(sound, labels)], AFFECT)
    assert "no video to count pictures in" in problem.what


# --- how long recordings are ------------------------------------------------------------------------


def assert_measured_as_played(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_played: bool = False
) -> None:
    wanted = labelled._played_extent(open_source(f"file:{path}"))
    with monkeypatch.context() as patch:
        if not is_played:
            patch.delattr(labelled, "_played_extent")
        found = measure(f"file:{path}")
    assert found.duration_ns == pytest.approx(wanted.duration_ns, abs=NS // 4)
    np.testing.assert_array_equal(found.frames_ns, wanted.frames_ns)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mpg", ".ts"])
def test_pictures_are_counted_without_decoding(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    media.write_media(
        path, frames=media.counter_frames(50), samples=media.tone(2, 44_100, 440, 2), rate_hz=44_100
    )
    assert_measured_as_played(path, monkeypatch)


def test_pictures_at_odd_times_and_behind_the_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "odd.mp4"
    media.write_media(
        odd, frames=media.counter_frames(20), pts=[k * k for k in range(20)], time_base_s=Fraction(1, 100)
    )
    late = tmp_path / "late.mp4"
    sound = media.tone(2, 44_100, 440, 2)
    media.write_media(late, frames=media.counter_frames(50), pts=range(25, 75), samples=sound, rate_hz=44_100)
    for path in (odd, late):
        assert_measured_as_played(path, monkeypatch)
    frames_ns = measure(f"file:{late}").frames_ns
    assert frames_ns is not None
    assert frames_ns[0] == NS


def test_files_that_only_their_decoder_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = media.write_media(tmp_path / "a.mpg", frames=media.counter_frames(25))
    later = media.write_media(tmp_path / "b.mpg", frames=media.counter_frames(25), pts=range(2_500, 2_525))
    for second in (first, later):
        joined = tmp_path / "joined.mpg"
        joined.write_bytes(first.read_bytes() + second.read_bytes())
        assert_measured_as_played(joined, monkeypatch, is_played=True)
        assert measure(f"file:{joined}").duration_ns == pytest.approx(2 * NS, abs=NS // 4)
    import cv2

    cv2.imwrite(str(tmp_path / "still.png"), np.zeros((32, 32, 3), np.uint8))
    assert measure(f"file:{tmp_path / 'still.png'}").duration_ns == pytest.approx(10 * NS)


def test_a_real_video(monkeypatch: pytest.MonkeyPatch) -> None:
    path = real("talking_head_video", "grid_bbaf2n.mpg")
    assert_measured_as_played(path, monkeypatch)
    frames_ns = measure(f"file:{path}").frames_ns
    assert frames_ns is not None
    assert frames_ns.size == 75


# --- labels of steps --------------------------------------------------------------------------------


def expected_labels(times_s: list[Fraction], labels: list[float], n_steps: int) -> list[float]:
    """By search through all rows, in exact numbers."""
    found = []
    for step in range(n_steps):
        end_s = Fraction(int(STEP * (step + 1) * NS), NS)
        row = min(range(len(times_s)), key=lambda k: (abs(times_s[k] - end_s), k))
        found.append(labels[row] if abs(times_s[row] - end_s) <= STEP else float("nan"))
    return found


def test_steps_have_the_labels_of_their_ends(clip: Path, tmp_path: Path) -> None:
    times_s = [Fraction(k * k, 50) for k in range(8)] + [Fraction(2)]
    valence = [k / 10 for k in range(9)]
    lines = (f"{float(t)},{v},{-v}" for t, v in zip(times_s, valence, strict=True))
    labels = written(tmp_path / "a.csv", "t_s,valence,arousal", *lines)
    signal = written(tmp_path / "eda.csv", "gsr", *["1"] * 64)
    sources = (f"file:{clip}", f"signal:{signal}?modality=eda&column=gsr&rate_hz=32")
    session = collect_labelled(setup(), Recording("a", "anna", sources, labels))
    assert session.person == "anna"
    assert [trace.index for trace in session.traces] == list(range(N_FRAMES // 8))
    wanted = np.float32(expected_labels(times_s, valence, len(session.traces)))
    np.testing.assert_array_equal(session.labels["valence"], wanted)
    np.testing.assert_array_equal(session.labels["arousal"], -wanted)
    assert session.labels["valence"].dtype == np.float32


def test_steps_have_the_labels_of_their_pictures(clip: Path, tmp_path: Path) -> None:
    """A step ends with picture 8 * (step + 1); the last one of the clip ends with the clip."""
    rows = [f"{k / 100},0" for k in range(N_FRAMES)]
    rows[16] = "-5,0"
    session = collect_labelled(
        setup(), recording(clip, written(tmp_path / "a.csv", "valence,arousal", *rows))
    )
    wanted = np.float32([0.08, np.nan, 0.24, 0.32, 0.40, 0.48, 0.56, 0.63])
    np.testing.assert_array_equal(session.labels["valence"], wanted)


def test_steps_far_from_any_label_have_none(clip: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "a.csv", "t_s,valence,arousal", "1.0,0.5,0.5")
    session = collect_labelled(setup(), recording(clip, labels))
    near = [abs(STEP * (step + 1) - 1) <= STEP for step in range(len(session.traces))]
    assert 0 < sum(near) < len(near)
    assert np.isfinite(session.labels["valence"]).tolist() == near


def test_simulated_people_are_labelled_by_their_truth() -> None:
    one = Recording("a", "anna", ("sim:seed=3&person=2&duration_s=2&fps=15",), None)
    session = collect_labelled(setup(), one)
    assert len(session.traces) >= 6
    ends_ns = [int(STEP * (step + 1) * NS) for step in range(len(session.traces))]
    truth = SimSource("seed=3&person=2&duration_s=2&fps=15").truth(ends_ns)
    assert set(session.labels) == {"valence", "arousal"}
    for name, values in session.labels.items():
        np.testing.assert_array_equal(values, truth[name])


def test_the_truth_of_simulated_people_ends_with_them() -> None:
    truth = truth_of(Recording("a", "anna", ("sim:duration_s=2",), None), {"valence": (-1, 1)})
    found = truth.at([-10, 0, 2 * NS, 2 * NS + 10, 2 * NS + 11], 10)
    assert list(found) == ["valence"]
    assert np.isfinite(found["valence"]).tolist() == [True, True, True, True, False]
    assert found["valence"][2] == found["valence"][3]
    everything = truth_of(Recording("a", "anna", ("sim:duration_s=2",), None)).at(0, 0)
    assert {"valence", "arousal"} <= set(everything)


def test_labels_that_cannot_be_used_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such label file"):
        truth_of(recording(clip, tmp_path / "none.csv"))
    with pytest.raises(DataError, match="has no labels"):
        truth_of(recording(clip, None))
    with pytest.raises(DataError, match="has no mood"):
        truth_of(Recording("a", "anna", ("sim:",), None), {"mood": (0, 1)})
    short = written(tmp_path / "a.csv", "valence,arousal", "0,0")
    with pytest.raises(DataError, match="1 rows for 64 pictures"):
        collect_labelled(setup(), recording(clip, short))


def test_there_is_nothing_between_two_classes(clip: Path, tmp_path: Path) -> None:
    ranges = {"emotion": (0.0, 2.0)}
    good = written(tmp_path / "good.csv", "t_s,emotion", "0,0", "0.5,2", "1,-5", "1.5,", "2,1")
    found = truth_of(recording(clip, good), ranges).at([0, NS, 2 * NS], 0)["emotion"]
    np.testing.assert_array_equal(found, np.float32([0, np.nan, 1]))
    bad = written(tmp_path / "bad.csv", "t_s,emotion", "0,0", "1,1.5", "2,0.5")
    with pytest.raises(DataError, match=r"2 labels of emotion are no number of a class, such as 1\.5"):
        truth_of(recording(clip, bad), ranges)
    problems = check([recording(clip, bad)], ranges)
    assert sum("no number of a class" in problem.what for problem in problems) == 1
    # a model that is not asked about emotions may have any column of that name beside it
    other = written(tmp_path / "other.csv", "t_s,valence,emotion", "0,0,1.5", "2,0,0.5")
    assert "emotion" not in truth_of(recording(clip, other), {"valence": (-1, 1)}).at(0, 0)
    assert truth_of(recording(clip, other)).at(0, 0)["emotion"] == 1.5


def test_a_company_is_labelled_with_its_emotion() -> None:
    one = Recording("a", "anna", ("sim:seed=3&person=6&people=3&duration_s=9",), None)
    times_ns = np.arange(0, 9 * NS, NS)
    found = truth_of(one, {"emotion": (0, 2)}).at(times_ns, 0)
    assert list(found) == ["emotion"]
    company = SimSource("seed=3&person=6&people=3&duration_s=9")
    np.testing.assert_array_equal(found["emotion"], company.truth(times_ns)["emotion"])


def test_ranges_are_those_of_the_model() -> None:
    model = tiny_model()
    assert ranges_of(model) == AFFECT
    pain = PainOutput(scale="test", levels=("none", "some", "much"))
    assert ranges_of(model.model_copy(update={"outputs": (pain,)})) == {"pain": (0.0, 2.0)}
    emotion = EmotionOutput(labels=("good", "none", "bad", "both"))
    assert ranges_of(model.model_copy(update={"outputs": (emotion,)})) == {"emotion": (0.0, 3.0)}
