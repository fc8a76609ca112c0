"""The protocol of RJCMA: windows that overlap, averaged per frame, computed here by plain loops."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.engine.base import Array
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.protocols import rjcma
from edge_mer.runtime.protocols.rjcma import hop_of
from edge_mer.sources.registry import open_source
from edge_mer.types.model import Fusion, ModelSpec, TensorSpec
from edge_mer.types.signals import Chunk
from tests.helpers.independent import log_mel_reference
from tests.helpers.numbered_session import (
    Evaluated,
    Function,
    ListSource,
    engines_of,
    evaluate,
    numbers_in,
    pictures,
    refused,
    samples,
)
from tests.helpers.tiny_model import (
    FRAME,
    RATE_HZ,
    audio_encoder,
    tiny_clip,
    tiny_log_mel,
    tiny_model,
    visual_encoder,
)
from tests.helpers.tiny_session import AUDIO, VISUAL

K, HOP = 9, 6
CLIP = tiny_clip(n_frames=1, frame_interval=FRAME)
MEL = tiny_log_mel(n_fft=128, win_samples=100, hop_samples=100, width=3)
BLANK_VOICE = 0.25
"""What the encoder of the voice makes of silence."""


def by_hand(k: int = K, *, mask: bool = False, look_ahead: Fraction = Fraction(0)) -> ModelSpec:
    """A step of one frame, and a window of `k` frames."""
    one = TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 1))
    face = TensorSpec(name="face", axes=("batch", "channel", "height", "width"), shape=("batch", 3, 8, 8))
    axes = ("batch", "steps", "feature")
    inputs = [TensorSpec(name=name, axes=axes, shape=("batch", k, 1)) for name in ("face", "voice")]
    if mask:
        axes = ("batch", "modality", "steps")
        inputs.append(TensorSpec(name="present", axes=axes, shape=("batch", 2, k), dtype="bool"))
    outputs = [TensorSpec(name=n, axes=("batch", "steps"), shape=("batch", k)) for n in ("val", "aro")]
    encoders = (
        visual_encoder(CLIP, input=face, output=one, period=FRAME, span=FRAME),
        audio_encoder(MEL, output=one, period=FRAME, span=FRAME, offset=look_ahead),
    )
    fusion = Fusion(
        n_steps=k,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        has_present_input=mask,
        warm_up="mask" if mask else "pad",
        hop=2,
    )
    return tiny_model(step=FRAME, encoders=encoders, fusion=fusion)


class Watched:
    """Valence is made of the frames in the window, arousal of where in it each is."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.windows: list[list[float]] = []
        self.voices: list[NDArray[Any]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self.mels: list[NDArray[Any]] = []
        self.seen: list[float] = []
        functions: dict[str, Function] = {"visual": self._see, "audio": self._hear, "fusion": self._fuse}
        self.engines = engines_of(model, functions)

    def _see(self, clip: Array) -> tuple[Array, ...]:
        numbers = numbers_in(clip, CLIP)
        self.seen += numbers[:, 0].tolist()
        return (numbers,)

    def _hear(self, mel: Array) -> tuple[Array, ...]:
        self.mels.append(mel[0].copy())
        return (np.where(mel.max() < -4, BLANK_VOICE, 1.0) * np.ones((len(mel), 1), np.float32),)

    def _fuse(self, face: Array, voice: Array, present: Array | None = None) -> tuple[Array, ...]:
        self.windows.append(face[0, :, 0].tolist())
        self.voices.append(voice[0, :, 0])
        if present is not None:
            self.masks.append(present[0])
        outputs = [given(face[0, :, 0]), (np.arange(face.shape[1]) / 100 + voice[0, :, 0] / 10)]
        return tuple(np.array([o], np.float32) for o in outputs)


def given(numbers: NDArray[Any]) -> list[float]:
    """Valence of each frame of a window, none like another's."""
    whole = sum((j + 1) * float(n) for j, n in enumerate(numbers))
    return [0.002 * float(n) + 0.0001 * whole + 0.01 * i for i, n in enumerate(numbers)]


def windows_of(n: int) -> list[list[int]]:
    """Frames from 1 on in each window; 0 = padding."""
    if n < K:
        return [[*range(1, n + 1), *[0] * (K - n)]]
    starts = [i * HOP for i in range((n - K) // HOP + 1)]
    if starts[-1] + K - 1 < n - 1:
        starts.append(n - K)
    return [list(range(start + 1, start + K + 1)) for start in starts]


def expected(n: int) -> tuple[list[float], list[float]]:
    """Valence and arousal of the frames 1 to `n`, when everything is there."""
    held: dict[int, list[tuple[float, float]]] = {}
    for window in windows_of(n):
        for i, (frame, valence) in enumerate(zip(window, given(np.array(window)), strict=True)):
            if frame:
                held.setdefault(frame, []).append((valence, i / 100 + 0.1))
    means = [np.mean(held[frame], axis=0) for frame in range(1, n + 1)]
    return [float(m[0]) for m in means], [float(m[1]) for m in means]


def tone(n_frames: float) -> NDArray[np.float32]:
    index = np.arange(round(n_frames * RATE_HZ / 30))
    return (0.2 * np.sin(2 * np.pi * 440 * index / RATE_HZ)).astype(np.float32)


def run(
    watched: Watched, n: int, sound: NDArray[np.float32] | None, *others: ListSource, **how: Any
) -> Evaluated:
    sources = [pictures(VISUAL, n, **how), *others]
    sources += [] if sound is None else [samples(AUDIO, sound)]
    return evaluate("rjcma", watched.model, watched.engines, sources)


# -- tests --------------------------------------------------------------------------------------------


def test_the_published_numbers() -> None:
    assert hop_of(300) == 200
    assert hop_of(K) == HOP
    assert rjcma.MAX_PAUSE_NS == 60 * 10**9


@pytest.mark.parametrize("n", [1, K - 1, K, K + 1, K + HOP, K + HOP + 1, 2 * HOP + K - 1, 40])
def test_each_frame_is_the_mean_of_its_windows(n: int) -> None:
    watched = Watched(by_hand())
    found = run(watched, n, tone(n))
    valence, arousal = expected(n)
    np.testing.assert_allclose(found.series("valence"), valence, atol=2e-6)
    np.testing.assert_allclose(found.series("arousal"), arousal, atol=2e-6)
    assert watched.windows == [[float(f) for f in window] for window in windows_of(n)]
    assert [r.window_index for r in found.records] == list(range(n))
    assert [r.t_end_ns for r in found.records] == [i * 10**9 // 30 for i in range(n)]
    assert {r.status for r in found.records} == ({"degraded"} if n < K else {"ok"})


def test_each_frame_is_encoded_once() -> None:
    watched = Watched(by_hand())
    run(watched, 40, tone(40))
    assert watched.seen[:40] == [float(frame) for frame in range(1, 41)]
    assert len(watched.seen) <= 42, "behind the end there may be the last frame once more, and a blank"
    assert watched.engines["fusion"].n_runs == len(windows_of(40))


def test_a_short_recording_is_padded_with_nothing_behind() -> None:
    watched = Watched(by_hand())
    found = run(watched, 5, tone(5))
    assert watched.windows == [[1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    assert watched.voices[0].tolist() == [1.0] * 5 + [BLANK_VOICE] * 4
    assert all(r.reasons == ("warming_up",) for r in found.records)


def test_what_is_missing_is_blank_and_said() -> None:
    watched, faceless = Watched(by_hand()), {4, 20}
    found = run(watched, 21, tone(21), faceless=faceless)
    assert watched.windows[0][3] == 0.0
    touched = {f for window in windows_of(21) for f in window if faceless & set(window)}
    for frame in range(1, 22):
        wanted = ("visual_missing",) if frame in faceless else ("visual_gap",) if frame in touched else ()
        assert found.records[frame - 1].reasons == wanted, frame
        assert found.records[frame - 1].modalities["visual"].present == (frame not in faceless)
    assert found.records[3].affect is not None


def test_without_sound_there_is_silence() -> None:
    watched = Watched(by_hand())
    found = run(watched, 12, None)
    assert all(voice.tolist() == [BLANK_VOICE] * K for voice in watched.voices)
    assert {r.reasons for r in found.records} == {("audio_missing",)}
    assert {r.status for r in found.records} == {"degraded"}


def test_where_nothing_is_there_nothing_is_said() -> None:
    found = run(Watched(by_hand()), 12, None, faceless={6})
    assert found.records[5].status == "withheld"
    assert found.records[5].reasons == ("visual_missing", "audio_missing")
    assert found.records[6].status == "degraded"


def test_a_mask_says_where_nothing_is() -> None:
    watched = Watched(by_hand(mask=True))
    run(watched, 6, tone(6), faceless={2})
    assert watched.masks[0].tolist() == [
        [True, False, True, True, True, True, False, False, False],
        [True] * 6 + [False] * 3,
    ]


def test_frames_end_with_the_picture() -> None:
    """Sound that goes on makes no more frames, and is in no window."""
    watched = Watched(by_hand())
    found = run(watched, 20, tone(200))
    assert len(found.records) == 20
    assert watched.windows == [[float(f) for f in window] for window in windows_of(20)]


def test_a_model_that_looks_ahead_has_no_frame_less() -> None:
    watched = Watched(by_hand(look_ahead=Fraction(1, 2)))
    found = run(watched, 40, tone(40))
    assert len(found.records) == 40
    assert {r.reasons for r in found.records} == {()}
    np.testing.assert_allclose(found.series("valence"), expected(40)[0], atol=2e-6)


def test_the_last_sample_goes_on_for_a_second() -> None:
    """So the frames whose sound reaches behind the end are what the paper makes of them."""
    watched, sound = Watched(by_hand(look_ahead=Fraction(1, 2))), tone(40)
    sound[-1] = 0.3
    found = run(watched, 40, None, samples(AUDIO, sound, 1000))
    assert (found.report.counters.n_gaps, found.report.counters.n_late) == (0, 0)
    endless = np.concatenate([sound, np.full(RATE_HZ, 0.3, np.float32)])
    stop = int(Fraction(40, 30) * RATE_HZ + Fraction(1, 2) * RATE_HZ)
    piece = endless[stop - int(FRAME * RATE_HZ) : stop]
    np.testing.assert_allclose(watched.mels[-1], log_mel_reference(piece, MEL), atol=1e-4)


def heard(found: Evaluated) -> list[int]:
    """Frames whose sound is there."""
    return [r.window_index for r in found.records if r.modalities["audio"].present]


def test_a_picture_that_goes_on_much_longer_has_the_last_sample_for_a_second_too() -> None:
    """It would come too late behind all pictures: steps do not wait that long for sound."""
    watched, sound = Watched(by_hand()), tone(15)
    sound[-1] = 0.3
    found = evaluate(
        "rjcma", watched.model, watched.engines, [pictures(VISUAL, 36, fps=10.0), samples(AUDIO, sound)]
    )
    assert len(found.records) == 106
    assert heard(found) == list(range(45))
    assert (found.report.counters.n_gaps, found.report.counters.n_late) == (0, 0)
    flat = np.full(int(FRAME * RATE_HZ), 0.3, np.float32)
    np.testing.assert_allclose(watched.mels[44], log_mel_reference(flat, MEL), atol=1e-4)


def test_sound_that_comes_back_has_lost_nothing() -> None:
    """Where it stops for long, the last sample goes on too; where it comes back, all of it is used."""
    watched, sound = Watched(by_hand()), samples(AUDIO, tone(105), 400)
    sound.chunks = [chunk for chunk in sound.chunks if not 500_000_000 <= chunk.t_ns < 3_000_000_000]
    found = evaluate("rjcma", watched.model, watched.engines, [pictures(VISUAL, 35, fps=10.0), sound])
    assert heard(found) == [*range(45), *range(90, len(found.records))]
    assert (found.report.counters.n_gaps, found.report.counters.n_late) == (1, 0)


def test_only_what_was_recorded_can_be_late() -> None:
    """A file with its sound behind its pictures: each sample is too late for its frame, none is invented."""
    watched, sound = Watched(by_hand()), samples(AUDIO, tone(15))
    picture = pictures(VISUAL, 36, fps=10.0)
    both = ListSource((*picture.specs, *sound.specs), [*picture.chunks, *sound.chunks])
    found = evaluate("rjcma", watched.model, watched.engines, [both])
    assert heard(found) == []
    assert found.report.counters.n_late == RATE_HZ // 2


def test_a_picture_that_stops_for_long_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rjcma, "MAX_PAUSE_NS", 4 * 10**9)
    late = 7 * 10**9
    source = pictures(VISUAL, 12)
    last = source.chunks[-1]
    source.chunks = [*source.chunks, Chunk(last.stream, "visual", 12, late, last.data)]
    found = evaluate(
        "rjcma", by_hand(), Watched(by_hand()).engines, [source, samples(AUDIO, tone(30 * 7), 2000)]
    )
    assert len(found.records) == 12
    assert "picture stopped" in found.notes[0]


def test_another_person_in_the_window_is_said() -> None:
    watched = Watched(by_hand())
    found = run(watched, 33, tone(33), person=lambda number: int(number > 18))
    assert watched.windows == [[float(f) for f in window] for window in windows_of(33)], "nothing is cleared"
    both = {f for window in windows_of(33) for f in window if min(window) <= 18 < max(window)}
    said = {i + 1 for i, r in enumerate(found.records) if "face_switched" in r.reasons}
    assert said == both


def test_a_simulated_person_is_evaluated() -> None:
    model = by_hand(30)
    source = open_source("sim:seed=2&person=3&duration_s=2")
    watched = Watched(model)
    found = evaluate("rjcma", model, watched.engines, [source], detector=open_face_detector(None))
    assert len(found.records) == 60
    assert len(watched.windows) == 3
    assert np.isfinite(found.series("valence")).all()
    assert {r.status for r in found.records} <= {"ok", "degraded"}


def test_other_models_are_refused() -> None:
    assert "step is one frame" in refused("rjcma", tiny_model())
    assert "4 frames per step" in refused("rjcma", tiny_model())
    free = by_hand()
    inputs = tuple(spec.model_copy(update={"shape": ("batch", "steps", 1)}) for spec in free.fusion.inputs)
    fusion = free.fusion.model_copy(update={"inputs": inputs})
    assert f"always looks at {K} frames" in refused("rjcma", free.model_copy(update={"fusion": fusion}))
    last = tuple(TensorSpec(name=n, axes=("batch",), shape=("batch",)) for n in ("v", "a"))
    fusion = free.fusion.model_copy(update={"outputs": last})
    assert "every frame of the window" in refused("rjcma", free.model_copy(update={"fusion": fusion}))
