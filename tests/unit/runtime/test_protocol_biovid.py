"""The protocol of BioVid: one prediction per clip, of 20 frames around the peak and the whole EDA."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.engine.base import Array
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.protocols.registry import open_protocol
from edge_mer.sources.registry import open_source
from edge_mer.types.model import Encoder, Fusion, MissingPolicy, ModelSpec, PainOutput, Signal, TensorSpec
from edge_mer.types.signals import Chunk, StreamSpec
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
from tests.helpers.tiny_model import tiny_clip, tiny_model, visual_encoder
from tests.helpers.tiny_session import VISUAL

FRAME = Fraction(1, 25)
EDA_HZ, SPAN = 64, Fraction(11, 2)
N_SAMPLES = int(EDA_HZ * SPAN)
CLIP = tiny_clip(n_frames=5, frame_interval=FRAME, last_frame_before_end=FRAME, frame_tolerance=FRAME / 2)
EDA = StreamSpec("bio/eda", "eda", ("sample", "channel"), (None, 1), "float32", float(EDA_HZ), "uS", ("eda",))
PIECES = [[*range(first, first + 5)] for first in (52, 56, 60, 64)]


def by_hand(n_steps: int = 4, offset: Fraction = SPAN - 68 * FRAME, **changes: Any) -> ModelSpec:
    """The published geometry: the face's last frame is 68, the EDA begins with the clip."""
    step = 4 * FRAME
    axes = ("batch", "steps", "feature")
    five = TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 5))
    two = TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 2))
    eda: dict[str, Any] = {
        "stage": "eda",
        "modality": "eda",
        "input": TensorSpec(name="eda", axes=("batch", "channel", "sample"), shape=("batch", 1, N_SAMPLES)),
        "output": two,
        "period": step * n_steps,
        "span": SPAN,
        "offset": offset,
        "repeat": n_steps,
        "preprocess": Signal(rate_hz=EDA_HZ, unit="uS"),
        "min_coverage": 1.0,
    }
    missing: MissingPolicy | None = changes.pop("missing", None)
    face = visual_encoder(CLIP, output=five, period=step, span=5 * FRAME, missing=missing)
    declared: dict[str, Any] = {
        "step": step,
        "encoders": (face, Encoder(**eda)),
        "fusion": Fusion(
            n_steps=n_steps,
            inputs=tuple(
                TensorSpec(name=name, axes=axes, shape=("batch", n_steps, size))
                for name, size in (("face", 5), ("skin", 2))
            ),
            outputs=(TensorSpec(name="logits", axes=("batch", "class"), shape=("batch", 2)),),
            warm_up="withhold",
            hop=n_steps,
        ),
        "outputs": (PainOutput(scale="test", levels=("none", "pain")),),
    }
    return tiny_model(**(declared | changes))


class Watched:
    """The frames and samples that the window is made of."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.faces: list[NDArray[Any]] = []
        self.skins: list[NDArray[Any]] = []
        functions: dict[str, Function] = {"visual": self._see, "eda": self._feel, "fusion": self._fuse}
        self.engines = engines_of(model, functions)

    def _see(self, clip: Array) -> tuple[Array, ...]:
        return (numbers_in(clip, CLIP),)

    def _feel(self, piece: Array) -> tuple[Array, ...]:
        return (piece[:, 0, [0, -1]],)

    def _fuse(self, face: Array, skin: Array) -> tuple[Array, ...]:
        self.faces.append(face[0].copy())
        self.skins.append(skin[0].copy())
        return (np.array([[0.0, 1.0]], np.float32),)


def ramp(n_samples: int) -> NDArray[np.float32]:
    return np.arange(n_samples, dtype=np.float32)


def run(watched: Watched, n_frames: int = 120, n_samples: int = N_SAMPLES, **how: Any) -> Evaluated:
    sources = [pictures(VISUAL, n_frames, **({"fps": 25.0} | how)), samples(EDA, ramp(n_samples), 32)]
    return evaluate("biovid", watched.model, watched.engines, sources)


def test_the_frames_and_the_whole_eda() -> None:
    watched = Watched(by_hand())
    found = run(watched)
    assert watched.faces[0].tolist() == PIECES
    assert watched.skins[0].tolist() == [[0.0, N_SAMPLES - 1.0]] * 4
    assert len(watched.faces) == len(found.records) == 1
    assert watched.engines["visual"].n_runs == 4
    assert watched.engines["eda"].n_runs == 1
    record = found.records[0]
    assert (record.status, record.reasons, record.window_index) == ("ok", (), 0)
    assert (record.t_start_ns, record.t_end_ns) == (0, 5_500_000_000)
    assert record.pain is not None
    assert record.pain.level_probs["pain"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert record.modalities["eda"].age_ms == pytest.approx(0, abs=1e-3)
    assert record.modalities["visual"].age_ms == pytest.approx(5500 - 67 * 40)
    assert record.utc.endswith("00:00:05.500000+00:00")
    assert found.notes == []


@pytest.mark.parametrize("moved_by", [Fraction(0), Fraction(1, 25), Fraction(-3, 10)])
def test_only_how_face_and_eda_lie_to_each_other_counts(moved_by: Fraction) -> None:
    """Where on its own grid a model looks is its own affair."""
    model = by_hand()
    encoders = tuple(e.model_copy(update={"offset": e.offset + moved_by}) for e in model.encoders)
    watched = Watched(model.model_copy(update={"encoders": encoders}))
    run(watched)
    assert watched.faces[0].tolist() == PIECES


def test_of_a_longer_recording_only_the_first_clip_is_looked_at() -> None:
    watched, skin = Watched(by_hand()), samples(EDA, ramp(4 * N_SAMPLES), 32)
    found = evaluate("biovid", watched.model, watched.engines, [pictures(VISUAL, 120, fps=25.0), skin])
    assert watched.faces[0].tolist() == PIECES
    assert len(found.records) == len(watched.faces) == 1
    assert found.notes == ["The recording goes on after 5.5 s: only that much was looked at."]
    assert not skin.ended, "the rest is not even read"


def test_a_shorter_recording_is_refused() -> None:
    with pytest.raises(DataError, match=r"clip of 5\.5 s, and the recording is shorter.*Found: 5\.4"):
        run(Watched(by_hand()), n_samples=N_SAMPLES - 3)
    with pytest.raises(DataError, match=r"Found: 0\.5"):
        run(Watched(by_hand()), n_frames=12, n_samples=EDA_HZ // 2)


def test_a_face_that_is_not_seen_is_said() -> None:
    found = run(Watched(by_hand()), faceless={*range(1, 121)})
    assert (found.records[0].status, found.records[0].reasons) == ("withheld", ("visual_missing",))
    found = run(Watched(by_hand(missing="zero_feature")), faceless={*range(56, 61)})
    assert (found.records[0].status, found.records[0].reasons) == ("degraded", ("visual_gap",))


def test_a_camera_of_30_fps_is_taken_by_time() -> None:
    watched = Watched(by_hand())
    run(watched, fps=30.0)
    nearest = [[1 + round((number - 1) / 25 * 30) for number in piece] for piece in PIECES]
    assert watched.faces[0].tolist() == nearest


def test_a_simulated_person_is_evaluated() -> None:
    eda_hz = 512
    model = by_hand()
    face, eda = model.encoders
    real = eda.model_copy(
        update={
            "preprocess": Signal(rate_hz=eda_hz, unit="uS"),
            "input": eda.input.model_copy(update={"shape": ("batch", 1, int(eda_hz * SPAN))}),
        }
    )
    model = model.model_copy(update={"encoders": (face, real)})
    source = open_source(
        f"sim:seed=2&person=3&duration_s=11/2&fps=25&streams=visual+eda&eda_hz={eda_hz}&pain=1"
    )
    found = evaluate("biovid", model, Watched(model).engines, [source], detector=open_face_detector(None))
    assert [r.status for r in found.records] == ["ok"], found.records[0].reasons
    assert found.notes == []


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (tiny_model(), "face clips and EDA"),
        (by_hand(offset=SPAN - 67 * FRAME), "found: frames 51-55"),
        (by_hand(n_steps=1), "4 steps whose frames are 52-56, 56-60, 60-64, 64-68"),
        (
            by_hand(fusion=by_hand().fusion.model_copy(update={"hop": 8})),
            "4 steps per window, a hop of 8",
        ),
    ],
)
def test_other_models_are_refused(model: ModelSpec, words: str) -> None:
    assert words.lower() in refused("biovid", model).lower()


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="affwild2, biovid, rjcma"):
        open_protocol("biovit")


def test_part_of_an_evaluation_is_not_kept() -> None:
    """Ctrl-C ends a session with what was written; of an evaluation nothing is left."""

    class Interrupted(ListSource):
        def read(self, timeout_ms: int) -> Chunk | None:
            if self.n_read == 5:
                raise KeyboardInterrupt
            return super().read(timeout_ms)

    sink, watched, whole = ListSink(), Watched(by_hand()), pictures(VISUAL, 20, fps=25.0)
    source = Interrupted(whole.specs, whole.chunks)
    with pytest.raises(KeyboardInterrupt):
        evaluate("biovid", watched.model, watched.engines, [source], sink)
    assert sink.ending == "abandoned"
    assert source.n_stopped == 1


def test_a_sink_is_abandoned_when_the_recording_is_of_no_use() -> None:
    sink, watched = ListSink(), Watched(by_hand())
    with pytest.raises(DataError):
        evaluate("biovid", watched.model, watched.engines, [pictures(VISUAL, 20, fps=25.0)], sink)
    assert sink.ending == "abandoned"
