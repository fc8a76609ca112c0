"""A proof without a bundle: sessions recorded with engines done by hand, and compared with themselves."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edge_mer.bundle.manifest import Candidate, Golden, OutputError
from edge_mer.clock import ManualClock
from edge_mer.errors import ParityError
from edge_mer.runtime.golden import (
    TEXT_STREAM,
    Arrays,
    PlaybackDetector,
    RecordingDetector,
    session_arrays,
    session_chunks,
    session_specs,
)
from edge_mer.runtime.pipeline import Pipeline, PipelineSetup, StepTrace
from edge_mer.runtime.proof import Proof, compare, deviation_of, golden_policies
from edge_mer.types.model import ModelSpec
from tests.helpers.numpy_engines import NumpyEngine
from tests.helpers.tiny_model import STEP, audio_encoder, visual_encoder
from tests.helpers.tiny_session import SquareDetector, TinySession
from tests.helpers.tiny_words import (
    TEXT,
    WordySession,
    emotion_model,
    emotion_setup,
    running_means,
    scene_encoder,
    text_encoder,
    utterance,
    wordy_model,
)

N_STEPS = 12


def recorded(setup: PipelineSetup, session: TinySession) -> Arrays:
    """A golden session's arrays, of what these engines make of it."""
    model, detector = setup.model, RecordingDetector(SquareDetector())
    traces: list[StepTrace] = []
    playing = dataclasses.replace(setup, detector=detector, missing=golden_policies(model))
    pipeline = Pipeline(playing, session.specs, ManualClock(), on_step=traces.append)
    chunks = list(session.chunks())
    for chunk in chunks:
        pipeline.push(chunk)
    pipeline.finish()
    arrays = session_arrays(chunks, session.specs) | detector.arrays()
    for encoder in model.encoders:
        stage = encoder.stage
        there = [trace for trace in traces if stage in trace.inputs]
        arrays[f"present.{stage}"] = np.array([stage in trace.inputs for trace in traces])
        arrays[f"input.{stage}"] = np.concatenate([there[0].inputs[stage], there[-1].inputs[stage]])
        arrays[f"feature.{stage}"] = np.stack([trace.features[stage][0, -1] for trace in traces])
    for output in model.outputs:
        rows = [trace.raw.get(output.name, np.full(output.value_shape, np.nan)) for trace in traces]
        arrays[f"output.{output.name}"] = np.array(rows, np.float32)
    return stored(arrays)


def stored(arrays: Arrays) -> Arrays:
    """As they come back from a file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def described(model: ModelSpec, sessions: list[Arrays]) -> Golden:
    names = [f"output.{o.name}" for o in model.outputs] + [f"feature.{e.stage}" for e in model.encoders]
    deviation = {
        name.removeprefix("output."): float(np.nanstd(np.concatenate([one[name] for one in sessions])))
        for name in names
    }
    return Golden(sessions=("a", "b"), n_steps=N_STEPS, deviation=deviation)


def sessions_of(model: ModelSpec) -> list[TinySession]:
    """Two people; where the model reads words, the second one says something else."""
    if "text" not in model.modalities:
        return [TinySession(N_STEPS), TinySession(N_STEPS, persons={0: 1}, faceless={2})]
    said = (
        (utterance(("so", 0.5, 1.4), ("safe", 1.6, 3.2)), utterance(("ha", 8.5, 11.4), seq=1)),
        (utterance(("mo", 2.5, 4.5), ("ha", 4.6, 6.5)), utterance(("safemi", 9.5, 11.2), seq=1)),
    )
    return [WordySession(N_STEPS, utterances=one, streams=("audio",)) for one in said]


@functools.lru_cache(maxsize=4)
def recorded_once(model: ModelSpec) -> list[Arrays]:
    """Golden sessions that many tests compare with; not to be changed."""
    return [recorded(emotion_setup(model), one) for one in sessions_of(model)]


def prove(
    model: ModelSpec,
    change: Callable[[list[Arrays]], None] | None = None,
    fusion: Any = running_means,
    candidate: Candidate | None = None,
    sessions: list[TinySession] | None = None,
) -> Proof:
    """Compare recordings with the same engines, after `change`, or with another fusion."""
    if sessions is None:
        held = [{name: array.copy() for name, array in one.items()} for one in recorded_once(model)]
    else:
        held = [recorded(emotion_setup(model), one) for one in sessions]
    golden = described(model, held)
    if change is not None:
        change(held)
    expected_rms = None if candidate is None else {n: one.rms for n, one in candidate.golden.items()}
    return compare(emotion_setup(model, fusion), golden, held, expected_rms)


def failed(proof: Proof) -> list[str]:
    return [check.name for check in proof.checks if not check.passed]


def models() -> Iterator[Any]:
    """Every way that a window and a feature can come about."""
    voice = audio_encoder(period=2 * STEP, span=2 * STEP, repeat=2)
    for name, model in {
        "full windows": emotion_model(),
        "faces": emotion_model(visual_encoder(), audio_encoder(), n_steps=2),
        "one frame": emotion_model(scene_encoder(1), audio_encoder()),
        "shorter windows": emotion_model(warm_up="shorten"),
        "padded windows": emotion_model(warm_up="pad"),
        "padded, by hops": emotion_model(warm_up="pad", hop=3),
        "padded, and always full": emotion_model(warm_up="pad", hop=6),
        "masked windows": emotion_model(warm_up="mask"),
        "features of two steps": emotion_model(scene_encoder(), voice, hop=2),
        "features of two steps, padded": emotion_model(scene_encoder(), voice, hop=2, warm_up="pad"),
        "look ahead": emotion_model(scene_encoder(), audio_encoder(span=2 * STEP, offset=STEP / 2)),
    }.items():
        yield pytest.param(model, id=name)


@pytest.mark.parametrize("model", list(models()))
def test_engines_prove_themselves(model: ModelSpec) -> None:
    proof = prove(model)
    assert failed(proof) == []
    assert sum(check.is_control for check in proof.checks) == 2
    proof.demand("the tiny model")
    assert set(proof.outputs) == {"valence", "emotion"}
    assert max(one.max for one in proof.outputs.values()) < 1e-6


@pytest.mark.parametrize("warm_up", ["withhold", "pad", "mask", "shorten"])
@pytest.mark.parametrize("hop", [1, 2])
def test_engines_of_words_prove_themselves(warm_up: Any, hop: int) -> None:
    pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    proof = prove(wordy_model(text_encoder(offset=4 * STEP), warm_up=warm_up, hop=hop))
    assert failed(proof) == []


@pytest.mark.parametrize("end", [11.99, 12.0, 12.4, 40.0])
def test_what_is_said_after_the_last_step_was_taken_is_encoded_and_right(end: float) -> None:
    pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    model = wordy_model()
    sessions = sessions_of(model)
    assert isinstance(sessions[0], WordySession)
    sessions[0].utterances = (*sessions[0].utterances, utterance(("safe", 11.5, end), seq=2))
    proof = prove(model, sessions=sessions)
    assert failed(proof) == []
    (check,) = (one for one in proof.checks if "encoder text" in one.name)
    assert check.error == 0


def test_a_session_in_which_nobody_speaks_proves_as_well() -> None:
    pytest.importorskip("tokenizers", reason="needs the tokenizers library")
    model = wordy_model(warm_up="pad")
    sessions = sessions_of(model)
    sessions[1] = WordySession(N_STEPS, streams=("audio",))
    proof = prove(model, sessions=sessions)
    assert failed(proof) == []


def altered(name: str, step: int, by: float) -> Callable[[list[Arrays]], None]:
    def change(sessions: list[Arrays]) -> None:
        sessions[1][name] = sessions[1][name].copy()
        sessions[1][name][step] += by

    return change


@pytest.mark.parametrize(
    ("name", "step", "by", "expected"),
    [
        ("output.emotion", 7, 0.1, "output emotion against PyTorch"),
        ("output.valence", 7, 0.1, "output valence against PyTorch"),
        ("feature.audio", 3, 0.5, "feature of audio against PyTorch"),
        ("feature.visual", 3, 0.5, "feature of visual against PyTorch"),
        ("input.visual", 0, 0.5, "step tensor visual.scene"),
        ("input.audio", 1, 0.5, "step tensor audio.log_mel"),
    ],
)
@pytest.mark.parametrize("warm_up", ["withhold", "pad"])
def test_any_other_number_is_seen(warm_up: Any, name: str, step: int, by: float, expected: str) -> None:
    proof = prove(emotion_model(warm_up=warm_up), altered(name, step, by))
    assert failed(proof) == [expected]
    with pytest.raises(ParityError, match=expected):
        proof.demand("the tiny model")


def test_another_presence_is_seen() -> None:
    def change(sessions: list[Arrays]) -> None:
        sessions[0]["present.audio"][4] = False

    assert failed(prove(emotion_model(), change)) == [
        "steps in which audio is present, against the recording",
        "runs of encoder audio, minus those needed",
    ]


def test_a_withheld_window_where_there_was_an_estimate_is_seen() -> None:
    def change(sessions: list[Arrays]) -> None:
        sessions[0]["output.emotion"][2] = 0.0

    proof = prove(emotion_model(), change)
    assert failed(proof) == ["output emotion against PyTorch"]
    assert proof.outputs["emotion"].max == np.inf


def test_an_output_of_the_wrong_step_is_seen() -> None:
    """Of a padded window, the last step's valence is not that of the last one that was there."""

    def last(*windows: Any) -> Any:
        valence, emotion = running_means(*windows)
        return np.repeat(valence[:, -1:], valence.shape[1], axis=1), emotion

    assert "output valence against PyTorch" in failed(prove(emotion_model(warm_up="pad"), fusion=last))
    assert failed(prove(emotion_model(warm_up="withhold"), fusion=last)) == []


def test_a_fusion_that_does_not_look_at_its_inputs_proves_nothing() -> None:
    def constant(*windows: Any) -> Any:
        return tuple(np.zeros_like(one) for one in running_means(*windows))

    model = emotion_model()
    held = [recorded(emotion_setup(model, constant), one) for one in sessions_of(model)]
    golden = described(model, held)
    proof = compare(emotion_setup(model, constant), golden, held, None)
    assert failed(proof) == ["control: ring shifted by one step", "control: last step of another person"]


# -- batches ---------------------------------------------------------------------------------------


def wrong_at(size: int, by: float, function: Any) -> Any:
    """An engine that is right at every batch size but one, where the last row of the batch is off."""

    def run(*tensors: Any) -> Any:
        outputs = function(*tensors)
        if len(tensors[0]) == size:
            if np.isnan(by):
                raise RuntimeError("no kernel for this shape")
            for one in outputs:
                one[-1] += np.float32(by)
        return outputs

    return run


@pytest.mark.parametrize(
    ("stage", "size", "by", "is_quantized"),
    [
        ("visual", 2, 0.4, False),
        ("visual", 8, 0.4, True),
        ("audio", 4, np.nan, True),
        ("fusion", 8, 0.4, True),
        ("fusion", 4, 0.01, False),
    ],
)
def test_an_engine_that_is_wrong_at_one_batch_size_is_refused_by_name(
    stage: str, size: int, by: float, is_quantized: bool
) -> None:
    model = emotion_model()
    held = recorded_once(model)
    setup = emotion_setup(model)
    engine = setup.engines[stage]
    assert isinstance(engine, NumpyEngine)
    engine._function = wrong_at(size, by, engine._function)
    zeros = {"valence": 0.0, "emotion": 0.0} if is_quantized else None
    proof = compare(setup, described(model, held), held, zeros, max_batch=8)
    name = f"{stage} at batch {size} against alone, in numpy"
    assert failed(proof) == [name]
    with pytest.raises(ParityError, match=rf"int8-cpu: {name} failed.*Found: (inf|[\d.]+).*--max-batch"):
        proof.demand("int8-cpu")


def test_sizes_that_nothing_uses_are_not_proven() -> None:
    model = emotion_model()
    held = recorded_once(model)
    golden = described(model, held)

    def sizes(max_batch: int) -> dict[str, list[int]]:
        names = [
            one.name.split() for one in compare(emotion_setup(model), golden, held, None, max_batch).checks
        ]
        batches = [(words[0], int(words[3])) for words in names if words[1:3] == ["at", "batch"]]
        return {stage: [n for one, n in batches if one == stage] for stage in model.stages}

    assert sizes(1) == {"visual": [2, 4, 8], "audio": [2, 4, 8], "fusion": []}
    assert sizes(16) == {"visual": [2, 4, 8, 16], "audio": [2, 4, 8, 16], "fusion": [2, 4, 8, 16]}


def test_of_a_quantized_candidate_the_mean_square_counts() -> None:
    def coarse(*windows: Any) -> Any:
        valence, emotion = running_means(*windows)
        return valence.round(4), emotion.round(4)

    zero = {name: OutputError(max=0.0, rms=0.0) for name in ("valence", "emotion")}
    candidate = Candidate(stages={}, n_bytes=1, golden=zero)
    proof = prove(emotion_model(), fusion=coarse, candidate=candidate)
    assert not any("output" in name for name in failed(proof))
    assert 0 < proof.outputs["emotion"].rms < 0.05
    assert proof.outputs["emotion"].ccc == pytest.approx(1, abs=0.01)


def test_a_quantized_candidate_may_make_something_else_of_words() -> None:
    zero = {name: OutputError(max=0.0, rms=0.0) for name in ("valence", "emotion")}
    change = altered("input.text", 0, 0.5)
    assert failed(prove(wordy_model(), change, candidate=Candidate(stages={}, n_bytes=1, golden=zero))) == []
    change = altered("feature.text", 0, 0.5)
    assert failed(prove(wordy_model(), change)) == ["feature of text against PyTorch"]


# -- recordings of words ---------------------------------------------------------------------------


def test_words_come_back_as_they_were_said() -> None:
    said = (
        utterance(("so", 0.5, 1.5), ("猫", 1.5, 2.0)),
        utterance(at=3.0, seq=1),
        utterance(("x" * 100, 3.5, 4.5), seq=2),
    )
    session = WordySession(6, utterances=said, streams=("audio",))
    arrays = stored(session_arrays(session.chunks(), session.specs))
    assert session_specs(arrays)[-1] == TEXT_STREAM
    found = [chunk for chunk in session_chunks(arrays) if chunk.modality == "text"]
    assert [(chunk.seq, chunk.t_ns, chunk.data.tolist()) for chunk in found] == [
        (chunk.seq, chunk.t_ns, chunk.data.tolist()) for chunk in said
    ]
    assert all(chunk.data.shape[1:] == (3,) for chunk in found)


def test_a_transcript_without_words_is_still_a_stream() -> None:
    session = WordySession(2, streams=("audio",))
    arrays = stored(session_arrays(session.chunks(), session.specs))
    assert [spec.modality for spec in session_specs(arrays)] == ["audio", "text"]
    assert not [chunk for chunk in session_chunks(arrays) if chunk.modality == "text"]
    without = stored(session_arrays(session.chunks(), [s for s in session.specs if s != TEXT]))
    assert [spec.modality for spec in session_specs(without)] == ["audio"]


def test_all_streams_come_in_order_of_capture() -> None:
    session = WordySession(3, utterances=(utterance(("so", 0.5, 1.5)),))
    chunks = session_chunks(session_arrays(session.chunks(), session.specs))
    times = [chunk.t_ns for chunk in chunks]
    assert times == sorted(times)
    assert {chunk.modality for chunk in chunks} == {"visual", "audio", "text"}


def test_what_was_found_is_found_again_and_nothing_else() -> None:
    session, recording = TinySession(1), RecordingDetector(SquareDetector())
    frames = [chunk.data for chunk in session.chunks() if chunk.modality == "visual"]
    first = recording.detect(frames[0])
    playing = PlaybackDetector(stored(recording.arrays()))
    (again,) = playing.detect(frames[0])
    assert again.box_px == first[0].box_px
    assert playing.detect(np.zeros_like(frames[0])) == []


def test_what_always_lies_between_columns_is_no_deviation() -> None:
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((4000, 2))
    assert deviation_of(steps) == pytest.approx(1, abs=0.03)
    assert deviation_of(steps + np.array([3, -3])) == pytest.approx(1, abs=0.03)
    assert deviation_of(steps[:, 0]) == pytest.approx(float(steps[:, 0].std()))
    steps[::3] = np.nan
    assert deviation_of(steps) == pytest.approx(1, abs=0.03)


def test_what_hardly_varies_has_a_deviation_above_rounding() -> None:
    steps = np.full((100, 2), [0.4, -0.4]) + 1e-9 * np.random.default_rng(0).standard_normal((100, 2))
    assert deviation_of(steps) == pytest.approx(0.004, rel=1e-3)
