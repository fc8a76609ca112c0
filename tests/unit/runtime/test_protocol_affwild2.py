"""The protocol of Affwild2: every frame once, by the published rules, computed here by plain loops."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.clock import ManualClock
from edge_mer.engine.base import Array
from edge_mer.engine.sharing import OFFLINE_BATCH
from edge_mer.errors import UsageError
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup
from edge_mer.runtime.protocols import affwild2
from edge_mer.runtime.protocols.base import Recording
from edge_mer.runtime.protocols.counting import OnGrid, Picture
from edge_mer.sources.registry import open_source
from edge_mer.sync.frames import Frame
from edge_mer.types.model import ModelSpec, TensorSpec
from edge_mer.types.predictions import Prediction
from tests.helpers.independent import log_mel_reference
from tests.helpers.numbered_session import (
    Evaluated,
    Function,
    ListSink,
    ListSource,
    engines_of,
    evaluate,
    numbers_in,
    pictures,
    refused,
    samples,
)
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.tiny_model import (
    FRAME,
    RATE_HZ,
    audio_encoder,
    tiny_clip,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_session import AUDIO, VISUAL, SquareDetector, TinySession

F, L, N = 8, 3, 3
"""Frames of a sub-clip, sub-clips of a window, frames that are looked at."""
BLOCK = F * L
CLIP = tiny_clip(n_frames=N, frame_interval=2 * FRAME)
MEL = tiny_log_mel()
SPAN = int(F * FRAME * RATE_HZ)


def by_hand(*, mask: bool = False) -> ModelSpec:
    """Three frames of eight, three sub-clips in a window."""
    frames = TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", N))
    one = TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 1))
    axes = ("batch", "steps", "feature")
    model = tiny_model(warm_up="mask" if mask else "shorten", n_steps=L)
    inputs = (
        TensorSpec(name="face", axes=axes, shape=("batch", "steps", N)),
        TensorSpec(name="voice", axes=axes, shape=("batch", "steps", 1)),
        *model.fusion.inputs[2:],
    )
    return model.model_copy(
        update={
            "encoders": (visual_encoder(CLIP, output=frames), audio_encoder(MEL, output=one)),
            "fusion": model.fusion.model_copy(update={"inputs": inputs}),
        }
    )


class Watched:
    """The model done by hand, and what its stages were given.

    Valence is made of the frames that each sub-clip shows, arousal of its sound; both of where in the window
    it is, and of the window as a whole.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.shown: list[tuple[float, ...]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.sizes: list[int] = []
        functions: dict[str, Function] = {"visual": self._see, "audio": self._hear, "fusion": self._fuse}
        self.engines = engines_of(model, functions)

    def _see(self, clip: Array) -> tuple[Array, ...]:
        numbers = numbers_in(clip, CLIP)
        self.shown += [tuple(row) for row in numbers.tolist()]
        self.sizes.append(len(clip))
        return (numbers,)

    def _hear(self, mel: Array) -> tuple[Array, ...]:
        return (mel.reshape(len(mel), -1).mean(axis=1, keepdims=True, dtype=np.float32),)

    def _fuse(self, face: Array, voice: Array, present: Array | None = None) -> tuple[Array, ...]:
        if present is not None:
            self.masks.append(present[0])
        outputs = [combined(face[0, :, :] @ [1.0, 0.1, 0.01]), combined(10 * voice[0, :, 0])]
        return tuple(np.array([o], np.float32) for o in outputs)


def combined(features: NDArray[Any]) -> list[float]:
    """One number per sub-clip of a window, none like another's."""
    whole = sum((j + 1) * float(f) for j, f in enumerate(features))
    return [0.004 * float(f) + 0.0005 * whole + 0.01 * i - 0.2 for i, f in enumerate(features)]


# -- the rules, by loops ------------------------------------------------------------------------------


def frames_shown(end: int, length: int, faceless: set[int]) -> list[int]:
    """Numbers of the frames of the sub-clip that ends with frame `end`; zeros for black ones."""
    listed = [f for f in range(end - F + 1, end + 1) if 1 <= f <= length and f not in faceless]
    if not listed:
        return [0] * N
    stride = {n: 2 if n >= 2 * N else 1 for n in range(F + 1)}[len(listed)]
    found: list[int] = []
    place = len(listed) - 1
    while place >= 0 and len(found) < N:
        found.insert(0, listed[place])
        place -= stride
    while len(found) < N:
        found.append(listed[-1])
    return found


def sound_heard(end: int, length: int, sound: NDArray[np.float32]) -> float:
    """Mean of the spectrogram of the sound of the last F frames before the sub-clip's end."""
    if end > length:
        piece = np.zeros(SPAN, np.float32)
    else:
        stop = min(round(end * RATE_HZ / 30), len(sound))
        start = max(0, round((end - F) * RATE_HZ / 30))
        piece = sound[start:stop]
        while len(piece) < SPAN:
            piece = np.concatenate([np.zeros(SPAN - len(piece), np.float32), piece])
    return float(log_mel_reference(piece, MEL).mean())


def expected(
    length: int,
    sound: NDArray[np.float32],
    faceless: set[int] = set(),  # noqa: B006
) -> tuple[list[float], list[float]]:
    """Raw valence and arousal of the frames 1 to `length`."""
    valence, arousal = [float("nan")] * length, [float("nan")] * length
    heard = {end: sound_heard(end, length, sound) for end in range(1, length + BLOCK + 1)}
    for b in range(length // BLOCK + 1):
        for r in range(F):
            ends = [BLOCK * b + 1 + r + F * i for i in range(L)]
            if ends[0] > length + 1:
                continue
            shown = [frames_shown(end, length, faceless) for end in ends]
            v = combined(np.array([s[0] + 0.1 * s[1] + 0.01 * s[2] for s in shown]))
            a = combined(np.array([10 * heard[end] for end in ends]))
            for i, end in enumerate(ends):
                if end <= length:
                    valence[end - 1], arousal[end - 1] = v[i], a[i]
    return valence, arousal


def averaged(values: list[float], size: int) -> list[float]:
    """Clipped, then the mean of `size` values around each, zeros beyond the edges."""
    clipped = [min(1.0, max(-1.0, value)) for value in values]
    found = []
    for i in range(len(clipped)):
        window = [clipped[j] for j in range(i - size // 2, i + size // 2) if 0 <= j < len(clipped)]
        found.append(sum(window) / size)
    return found


def tone(n_frames: float) -> NDArray[np.float32]:
    """A tone that grows louder."""
    index = np.arange(round(n_frames * RATE_HZ / 30))
    return (0.6 * index / RATE_HZ * np.sin(2 * np.pi * 440 * index / RATE_HZ) / 3).astype(np.float32)


def run(watched: Watched, length: int, sound: NDArray[np.float32] | None = None, **how: Any) -> Evaluated:
    sources = [pictures(VISUAL, length, **how)]
    sources += [] if sound is None else [samples(AUDIO, sound)]
    return evaluate("affwild2", watched.model, watched.engines, sources)


def reasons(found: Evaluated) -> list[tuple[str, ...]]:
    return [record.reasons for record in found.records]


# -- tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 5, 2 * BLOCK + 17])
def test_every_frame_gets_what_the_rules_say(length: int) -> None:
    sound, watched = tone(length), Watched(by_hand())
    found = run(watched, length, sound)
    valence, arousal = expected(length, sound)
    np.testing.assert_allclose(found.series("valence"), averaged(valence, 20), atol=2e-6)
    np.testing.assert_allclose(found.series("arousal"), averaged(arousal, 50), atol=2e-5)
    assert [record.window_index for record in found.records] == list(range(length))
    assert [record.t_end_ns for record in found.records] == [int(i * 1e9 / 30) for i in range(length)]


def test_the_numbers_before_smoothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the moving average, each frame shows its own phase and place."""
    monkeypatch.setattr(affwild2, "SMOOTHED_OVER", {"valence": 1, "arousal": 1})
    sound, faceless = tone(40), {3, 4, *range(11, 24), 30}
    found = run(Watched(by_hand()), 40, sound, faceless=faceless)
    valence, arousal = expected(40, sound, faceless)
    np.testing.assert_allclose(found.series("valence"), valence, atol=2e-6)
    np.testing.assert_allclose(found.series("arousal"), arousal, atol=2e-5)
    assert len(set(np.round(valence, 5))) == 34, "black sub-clips are alike, others are not"


def test_outputs_are_clipped_before_they_are_smoothed() -> None:
    watched = Watched(by_hand())
    watched.engines = engines_of(
        watched.model,
        {
            "visual": watched._see,
            "audio": watched._hear,
            "fusion": lambda face, voice: (face[:, :, 0] - 20, face[:, :, 0]),
        },
    )
    found = run(watched, 60, tone(60))
    shown = [float(frames_shown(f, 60, set())[0]) for f in range(1, 61)]
    np.testing.assert_allclose(found.series("valence"), averaged([s - 20 for s in shown], 20), atol=1e-6)
    np.testing.assert_allclose(found.series("arousal"), averaged(shown, 50), atol=1e-6)


def test_each_sub_clip_is_encoded_once() -> None:
    """One per frame; those behind the end only where a phase needs them, and black ones once for all."""
    length = BLOCK + 3
    watched = Watched(by_hand())
    run(watched, length, tone(length))
    wanted = [tuple(map(float, frames_shown(f, length, set()))) for f in range(1, length + 1)]
    behind = [BLOCK + 1 + r + F * i for r in range(3) for i in (1, 2)]
    wanted += [tuple(map(float, frames_shown(f, length, set()))) for f in behind]
    black = (0.0, 0.0, 0.0)
    assert sorted(one for one in watched.shown if one != black) == sorted(w for w in wanted if w != black)
    assert watched.shown.count(black) == 1
    assert max(watched.sizes) == OFFLINE_BATCH


@pytest.mark.parametrize(
    ("n", "rule"),
    [
        (32, [4, 8, 12, 16, 20, 24, 28, 32]),
        (31, [10, 13, 16, 19, 22, 25, 28, 31]),
        (24, [3, 6, 9, 12, 15, 18, 21, 24]),
        (23, [9, 11, 13, 15, 17, 19, 21, 23]),
        (16, [2, 4, 6, 8, 10, 12, 14, 16]),
        (15, [8, 9, 10, 11, 12, 13, 14, 15]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (3, [1, 2, 3, 3, 3, 3, 3, 3]),
        (1, [1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_eight_frames_of_thirty_two(n: int, rule: list[int]) -> None:
    listed = [Picture(i, 0, np.zeros((3, 1, 1), np.float32), True, 0) for i in range(1, n + 1)]
    assert [one.t_ns for one in affwild2.chosen(listed, 8)] == rule


def test_a_window_of_the_stream_is_a_window_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last phase of a block lies on the stream's grid of steps."""
    monkeypatch.setattr(affwild2, "SMOOTHED_OVER", {"valence": 1, "arousal": 1})
    session, model = TinySession(9), tiny_model()
    source = ListSource(tuple(session.specs), list(session.chunks()))
    found = evaluate("affwild2", model, tiny_engines(model), [source])
    pipeline = Pipeline(
        PipelineSetup(model, tiny_engines(model), SquareDetector()), session.specs, ManualClock()
    )
    streamed: list[Prediction] = [p for chunk in session.chunks() for p in pipeline.push(chunk)]
    streamed += pipeline.finish()
    for step, frame in ((3, 31), (7, 63)):
        here, there = found.records[frame].affect, streamed[step].affect
        assert here is not None
        assert there is not None
        assert here.valence == pytest.approx(there.valence, abs=1e-5)
        assert here.arousal == pytest.approx(there.arousal, abs=1e-4)


def test_a_mask_says_where_nothing_is() -> None:
    watched = Watched(by_hand(mask=True))
    run(watched, 2 * BLOCK - 4, tone(2 * BLOCK - 4), faceless=set(range(9, 17)))
    whole = np.ones((2, L), np.bool_)
    expected_first = [whole] * 7 + [np.array([[True, False, True], [True] * L])]
    for phase, mask in enumerate(watched.masks[:F]):
        assert (mask == expected_first[phase]).all(), phase
    beyond = [int(BLOCK + 1 + r + F * 2 > 2 * BLOCK - 4) for r in range(F)]
    assert [int(mask[1].sum()) for mask in watched.masks[F:]] == [L - b for b in beyond]


def test_what_is_missing_is_said() -> None:
    length, faceless = 2 * BLOCK, set(range(BLOCK + 9, BLOCK + 15))
    found = run(Watched(by_hand()), length, tone(length), faceless=faceless)
    for frame in range(1, length + 1):
        into = (frame - 1) % BLOCK
        own = sum(f not in faceless for f in range(max(1, frame - F + 1), frame + 1)) / min(frame, F)
        ends = [frame - into + into % F + F * i for i in range(L)]
        seen = [sum(f not in faceless for f in range(e - F + 1, e + 1)) / F >= 0.5 for e in ends]
        wanted = ["warming_up"] if frame <= BLOCK and into % F < F - 1 else []
        if own < 0.5:
            wanted.append("visual_missing")
        elif frame > BLOCK and not all(seen):
            wanted.append("visual_gap")
        assert found.records[frame - 1].reasons == tuple(wanted), frame
        status = found.records[frame - 1].modalities["visual"]
        assert status.coverage == pytest.approx(own, abs=1e-4)
        assert status.present == (own >= 0.5)
    assert {record.status for record in found.records} == {"ok", "degraded"}


def test_sub_clips_behind_the_end_are_gaps() -> None:
    found = run(Watched(by_hand()), BLOCK + 20, tone(BLOCK + 20))
    last = found.records[BLOCK:]
    assert [("audio_gap" in record.reasons) for record in last] == [i % F + 2 * F >= 20 for i in range(20)]


def test_without_sound_there_is_silence() -> None:
    length, watched = 30, Watched(by_hand())
    found = run(watched, length, None)
    valence, arousal = expected(length, np.zeros(0, np.float32))
    np.testing.assert_allclose(found.series("valence"), averaged(valence, 20), atol=2e-6)
    np.testing.assert_allclose(found.series("arousal"), averaged(arousal, 50), atol=2e-5)
    assert all("audio_missing" in one for one in reasons(found))


def test_sound_that_ends_before_the_picture_is_padded_in_front() -> None:
    sound = tone(33.5)
    found = run(Watched(by_hand()), 40, sound)
    _, arousal = expected(40, sound)
    # frames whose piece has ended altogether are silent
    np.testing.assert_allclose(found.series("arousal"), averaged(arousal, 50), atol=2e-5)


def test_a_break_in_the_sound_is_counted_and_stays_one() -> None:
    session, model = TinySession(9, silent={4}), tiny_model()
    source = ListSource(tuple(session.specs), list(session.chunks()))
    found = evaluate("affwild2", model, tiny_engines(model), [source])
    assert found.report.counters.n_gaps == 1
    for frame in range(8, 73):
        there = sum(not 32 < f <= 40 for f in range(frame - 7, frame + 1)) / 8
        assert found.records[frame - 1].modalities["audio"].coverage == pytest.approx(there, abs=2e-3), frame
    assert found.records[39].reasons == ("audio_missing",)


def test_sound_that_goes_on_is_not_kept() -> None:
    source = pictures(VISUAL, 10)
    sound = samples(AUDIO, np.zeros(60 * RATE_HZ, np.float32), RATE_HZ)
    watched = Watched(by_hand())
    setup = PipelineSetup(watched.model, watched.engines, SquareDetector())
    recording = Recording(setup, (*source.specs, *sound.specs), [], ManualClock())
    run = affwild2._Run(recording)
    for chunk in [*source.chunks, *sound.chunks]:
        run.push(chunk)
    assert run._track is not None
    assert sum(held.size for _, held in run._track._segments) <= 3 * RATE_HZ
    assert run.finish() == 10


def test_where_nothing_is_there_nothing_is_said() -> None:
    found = run(Watched(by_hand()), 30, None, faceless=set(range(10, 31)))
    assert found.records[-1].status == "withheld"
    assert found.records[-1].reasons == ("visual_missing", "audio_missing")
    assert found.records[-1].affect is None
    assert found.records[0].status == "degraded"


def test_what_is_no_number_spoils_only_what_it_is_averaged_with() -> None:
    watched = Watched(by_hand())

    def broken(face: Array, voice: Array) -> tuple[Array, ...]:
        valence = np.where(face[:, :, 0] == 70.0, np.nan, 0.5).astype(np.float32)
        return valence, np.full_like(valence, 0.1)

    watched.engines = engines_of(
        watched.model, {"visual": watched._see, "audio": watched._hear, "fusion": broken}
    )
    found = run(watched, 110, tone(110))
    centre = next(f for f in range(1, 111) if frames_shown(f, 110, set())[0] == 70)
    held = [r.window_index + 1 for r in found.records if r.status == "withheld"]
    assert held == list(range(centre - 9, centre + 11))
    assert {r.reasons for r in found.records if r.status == "withheld"} == {("output_not_finite",)}


def test_another_person_in_the_window_is_said() -> None:
    found = run(Watched(by_hand()), 3 * BLOCK, tone(3 * BLOCK), person=lambda number: int(number > 60))
    switched = [("face_switched" in one) for one in reasons(found)]
    assert not any(switched[: 2 * BLOCK])
    assert all(switched[2 * BLOCK :])


def test_another_camera_is_taken_by_time() -> None:
    """For every point of the grid the nearest frame; the last one stands as long as any other."""
    found = run(Watched(by_hand()), 20, tone(40), fps=15.0)
    assert len(found.records) == 40
    assert [r.t_end_ns for r in found.records] == [i * 10**9 // 30 for i in range(40)]
    assert "15 fps" in found.notes[0]
    assert "30 fps" in found.notes[0]
    fast = run(Watched(by_hand()), 60, tone(30), fps=60.0)
    assert len(fast.records) == 30
    assert fast.records[5].modalities["visual"].age_ms == pytest.approx(0, abs=1e-5)
    watched = Watched(by_hand())
    run(watched, 25, tone(30), fps=25.0)
    nearest = [
        1 + min(range(25), key=lambda i: abs(Fraction(i, 25) - Fraction(point, 30))) for point in range(30)
    ]
    assert (nearest[3], nearest[5], nearest[7]) in {(int(a), int(b), int(c)) for a, b, c in watched.shown}


def test_what_is_too_far_from_the_grid_is_not_taken() -> None:
    """Half a second without a frame; one stands for the points at most 1/30 s away."""
    grid = OnGrid(tolerance_ns=10**9 // 30 + 1, rate_hz=25.0)
    times_ns = [*range(0, 200_000_001, 40_000_000), *range(700_000_000, 900_000_001, 40_000_000)]
    frames = [Frame(t_ns, np.zeros((1, 1, 3), np.uint8)) for t_ns in times_ns]
    found = [*(count for frame in frames for count in grid.push(frame)), *grid.finish()]
    assert [count.t_ns for count in found] == [i * 10**9 // 30 for i in range(len(found))]
    without = [i for i, count in enumerate(found) if count.frame is None]
    assert without == [i for i in range(29) if 200 + 34 < i * 1000 / 30 < 700 - 34]
    assert len(found) == 29, "up to 0.9 s and the 40 ms for which the last one stands"


def test_frames_at_nearly_thirty_a_second_are_counted_as_they_are() -> None:
    found = run(Watched(by_hand()), 30, tone(30), fps=30_000 / 1001)
    assert len(found.records) == 30
    assert found.notes == []
    assert found.records[29].t_end_ns == int(29 * 1e9 * 1001 / 30_000)


def test_a_simulated_person_is_evaluated() -> None:
    model = tiny_model()
    source = open_source("sim:seed=2&person=3&duration_s=3")
    found = evaluate("affwild2", model, tiny_engines(model), [source], detector=open_face_detector(None))
    assert len(found.records) == 90
    assert {r.status for r in found.records} <= {"ok", "degraded"}
    assert np.isfinite(found.series("valence")).all()
    assert found.records[60].modalities["audio"].age_ms == pytest.approx(-1000 / 30, abs=0.2)
    assert all(r.latency_ms.wait is None for r in found.records)


def test_it_says_how_far_it_is() -> None:
    chunks = pictures(VISUAL, 100, fps=30.0).chunks
    slow = [type(c)(c.stream, c.modality, c.seq, c.t_ns * 20, c.data) for c in chunks]
    found = evaluate("affwild2", by_hand(), Watched(by_hand()).engines, [ListSource((VISUAL,), slow)])
    assert found.said == ["played 0:30 of the recording", "played 1:00 of the recording"]


def changed(**changes: Any) -> ModelSpec:
    """The model done by hand, declared otherwise."""
    return by_hand().model_copy(update=changes)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (changed(encoders=(visual_encoder(),)), "found: face_clip (visual)"),
        (changed(step=Fraction(4, 45)), "whole frames at 30 fps"),
        (changed(encoders=(visual_encoder(tiny_clip(n_frames=8)), audio_encoder())), "evenly"),
        (changed(encoders=(visual_encoder(CLIP, offset=FRAME), audio_encoder())), "evenly"),
    ],
)
def test_other_models_are_refused(model: ModelSpec, words: str) -> None:
    assert words.lower() in refused("affwild2", model).lower()


def test_outputs_of_the_last_step_only_are_refused() -> None:
    model = by_hand()
    outputs = tuple(TensorSpec(name=n, axes=("batch",), shape=("batch",)) for n in ("v", "a"))
    fusion = model.fusion.model_copy(update={"outputs": outputs})
    assert "every step" in refused("affwild2", model.model_copy(update={"fusion": fusion}))


def test_a_live_source_is_refused_and_nothing_is_written() -> None:
    source, sink = pictures(VISUAL, 5), ListSink()
    source.is_live = True
    with pytest.raises(UsageError, match="live source has no end"):
        evaluate("affwild2", by_hand(), Watched(by_hand()).engines, [source], sink)
    assert sink.ending == ""


def test_a_recording_without_a_picture_is_refused() -> None:
    sink, source = ListSink(), samples(AUDIO, tone(30))
    with pytest.raises(UsageError, match="no source has a picture"):
        evaluate("affwild2", by_hand(), Watched(by_hand()).engines, [source], sink)
    assert sink.ending == "abandoned"
    assert source.n_stopped == 1
