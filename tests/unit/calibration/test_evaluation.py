"""How right a bundle is: every precision and subset against a direct computation, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mer.bundle.manifest import OutputError
from edge_mer.bundle.read import Bundle
from edge_mer.cli.main import main
from edge_mer.corpus.cut import Cutter, Piece
from edge_mer.engine.base import Engine
from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording
from edge_mer.runtime.blank import blank_feature
from edge_mer.runtime.labelled import LabelledSession, Labels
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.runtime.proof import concordance
from edge_mer.sources.base import Source
from edge_mer.types.evaluation import Findings, Interval
from edge_mer.types.model import EmotionOutput, ModelSpec, TensorSpec
from edge_mer_calibration import against_fp32, cli_evaluate, estimating, guesses
from edge_mer_calibration.cli_evaluate import written
from edge_mer_calibration.corruption import CorruptedSource, Corruption
from edge_mer_calibration.estimating import Attempt, Kept, Said, attempts
from edge_mer_calibration.evaluation import FIRST_PERSON, Evaluation, evaluate_bundle, simulated_people
from edge_mer_calibration.findings import findings
from edge_mer_calibration.judging import CorruptedRow, Row, judge
from edge_mer_calibration.metrics import CLASS_MEASURES, Estimate
from edge_mer_calibration.scoring import Found, People
from tests.helpers.fake_session import tiny_manifest_alone
from tests.helpers.numpy_engines import SCALE, mean_feature, mean_of_window, tiny_engines
from tests.helpers.tiny_model import N_STEPS, tiny_model
from tests.helpers.tiny_session import SquareDetector

pytestmark = pytest.mark.workbench

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to-evaluate.md"
Doubles = NDArray[np.float64]
BOTH = ("visual", "audio")


def a_bundle(model: ModelSpec | None = None) -> Bundle:
    """A bundle that says it has all candidates; its files are nowhere."""
    manifest = tiny_manifest_alone()
    fp32 = manifest.candidates["fp32"]
    int8 = fp32.model_copy(update={"golden": {"valence": OutputError(max=1, rms=1)}})
    candidates = {"fp32": fp32, "int8-cpu": int8, "int8-trt": int8}
    update = {"candidates": candidates, "model": model or manifest.model}
    return Bundle(Path("nowhere"), manifest.model_copy(update=update))


def halved(face: Any, voice: Any, present: Any = None) -> tuple[Any, ...]:
    """What eight bits do to a window, say."""
    return tuple(0.5 * one for one in mean_of_window(face, voice, present))


def a_session(
    person: str, n_steps: int, seed: int, absent: dict[str, set[int]] | None = None
) -> LabelledSession:
    """Step tensors whose means show the labels; one label is not there."""
    rng = np.random.default_rng(seed)
    labels = {name: rng.uniform(-1, 1, n_steps).astype(np.float32) for name in ("valence", "arousal")}
    traces = []
    for k in range(n_steps):
        inputs, features = {}, {}
        for encoder, name in zip(tiny_model().encoders, labels, strict=True):
            features[encoder.stage] = np.zeros((1, 1, encoder.feature), np.float32)
            if k not in (absent or {}).get(encoder.stage, ()):
                noise = 4 * rng.standard_normal(encoder.input.concrete(batch=1)) + rng.normal(0, 2)
                inputs[encoder.stage] = (8 * labels[name][k] + noise).astype(np.float32)
                features[encoder.stage][:, 0] = mean_feature(inputs[encoder.stage])[0]
        traces.append(
            StepTrace(k, inputs, features, np.zeros((2, N_STEPS), np.bool_), 0, {}, len(inputs) == 2)
        )
    labels["arousal"][2] = np.nan
    return LabelledSession(person, traces, labels)


SESSIONS = {
    "a": a_session("ann", 9, 0, {"visual": {3, 4}, "audio": {4, 5, 6}}),
    "b": a_session("ben", 3, 1, {"audio": {0, 1, 2}}),
    "c": a_session("cleo", 12, 2),
    "d": a_session("ann", 6, 3),
}


def recordings(names: Sequence[str] = tuple(SESSIONS)) -> list[Recording]:
    return [Recording(name, SESSIONS[name].person, (f"file:{name}",), Path("x")) for name in names]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every setup that was opened; sessions are those of this file."""
    names: list[str] = []

    def open_setup(bundle: Bundle, precision: str, _: object) -> PipelineSetup:
        names.append(precision)
        model = bundle.manifest.model
        fusion = mean_of_window if precision == "fp32" else halved
        return PipelineSetup(model, tiny_engines(model, fusion), SquareDetector())

    monkeypatch.setattr(estimating, "open_setup", open_setup)
    play(monkeypatch, SESSIONS)
    return names


def play(monkeypatch: pytest.MonkeyPatch, sessions: Mapping[str, LabelledSession]) -> None:
    """Recordings are those of this file, whole."""

    def play_labelled(
        _: PipelineSetup, one: Recording, on_step: Callable[[StepTrace], None], *__: object
    ) -> tuple[NDArray[np.int64], Labels]:
        session = sessions[one.name]
        for trace in session.traces:
            on_step(trace)
        return session.steps, session.labels

    monkeypatch.setattr(estimating, "play_labelled", play_labelled)
    monkeypatch.setattr(estimating, "check", lambda *_: [])
    monkeypatch.setattr(Cutter, "do", lambda _, one: [Piece(one)])


def directly(subset: Sequence[str], factor: float = 1.0) -> dict[str, tuple[float, int]]:
    """CCC and number of pairs of each output, from masked means of masked windows."""
    pairs: dict[str, list[tuple[float, float]]] = {"valence": [], "arousal": []}
    for session in SESSIONS.values():
        for k in range(len(session.traces)):
            if not any(stage in session.traces[k].inputs for stage in subset):
                continue
            for stage, name in zip(BOTH, pairs, strict=True):
                window = session.traces[max(0, k - N_STEPS + 1) : k + 1]
                shown = [
                    float(t.inputs[stage].mean()) for t in window if stage in subset and stage in t.inputs
                ]
                estimate = factor * SCALE * sum(shown) / max(1, len(shown))
                if np.isfinite(session.labels[name][k]):
                    pairs[name].append((min(1.0, max(-1.0, estimate)), float(session.labels[name][k])))
    found = {}
    for name, some in pairs.items():
        a, b = np.array(some).T
        found[name] = (concordance(a, b) or 0.0, len(some))
    return found


# --- the numbers ------------------------------------------------------------------------------------


def test_every_subset_and_precision_is_a_direct_computation(opened: list[str]) -> None:
    found = evaluate_bundle(a_bundle(), None, recordings(), [], lambda *_: None)
    assert [(row.precision, row.modalities) for row in found.rows] == [
        (precision, subset)
        for precision in ("fp32", "int8-cpu")
        for subset in (BOTH, ("visual",), ("audio",))
    ]
    assert (found.model, found.n_people) == ("tiny", 3)
    assert opened == ["fp32", "int8-cpu"]  # once each
    values = set()
    for row in found.rows:
        expected = directly(row.modalities, 1.0 if row.precision == "fp32" else 0.5)
        for name, (ccc, n) in expected.items():
            assert row.scores[name]["CCC"].value == pytest.approx(ccc, abs=1e-5)
            assert (
                row.scores[name]["CCC"].low <= row.scores[name]["CCC"].value <= row.scores[name]["CCC"].high
            )
            values.add(round(ccc, 4))
            if name == "arousal":
                assert row.n_steps == n
        assert row.scores["mean"]["CCC"].value == pytest.approx(
            np.mean([ccc for ccc, _ in expected.values()]), abs=1e-5
        )
    assert len(values) > 8


def test_gain_is_that_of_all_over_the_best_single_one(opened: list[str]) -> None:
    found = evaluate_bundle(a_bundle(), None, recordings(), ["int8-cpu"], lambda *_: None)
    assert found.gain.keys() == {"int8-cpu"}
    for name in ("valence", "arousal"):
        both, *alone = (directly(subset, 0.5)[name][0] for subset in (BOTH, ("visual",), ("audio",)))
        gain = found.gain["int8-cpu"][name]
        assert gain.value == pytest.approx(both - max(alone), abs=1e-5)
        assert gain.low <= gain.value <= gain.high
    assert "mean" in found.gain["int8-cpu"]


def test_a_precision_is_held_against_fp32_on_the_same_people(opened: list[str]) -> None:
    found = evaluate_bundle(a_bundle(), None, recordings(), [], lambda *_: None)
    (one,) = found.differences
    rows = {row.precision: row.scores for row in found.rows if row.modalities == BOTH}
    assert one.precision == "int8-cpu"
    for name in ("valence", "arousal", "mean"):
        for measure, change in one.change[name].items():
            plain = rows["int8-cpu"][name][measure].value - rows["fp32"][name][measure].value
            assert change.value == pytest.approx(plain, abs=1e-12)
            assert change.low <= change.value <= change.high
    # paired, it is known far better than either side; half of every estimate, but for what was cut at 1
    both = rows["fp32"]["valence"]["CCC"]
    assert one.change["valence"]["CCC"].high - one.change["valence"]["CCC"].low < both.high - both.low
    assert one.ccc["valence"] is not None
    assert 0.5 < one.ccc["valence"] < 0.9
    assert one.flips == {}
    assert not evaluate_bundle(a_bundle(), None, recordings(), ["int8-cpu"], lambda *_: None).differences


def test_flips_are_the_share_of_steps_with_another_likeliest_class() -> None:
    output = EmotionOutput(labels=LABELS)
    reference = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.45, 0.45], [0.3, 0.3, 0.4]])
    own = reference.copy()
    own[2] = [0.1, 0.44, 0.46]
    assert against_fp32.flips(own, reference) == 0.25
    ccc = against_fp32.agreement(output, own, reference)
    assert ccc == pytest.approx(concordance(own.ravel(), reference.ravel()))
    assert against_fp32.agreement(output, np.full((4, 3), 1 / 3), np.full((4, 3), 1 / 3)) is None


@pytest.mark.parametrize(("half_width", "share"), [(0.0, 0.0), (10.0, 1.0)])
def test_what_a_bundle_says_of_itself_is_held_against_other_people(
    opened: list[str], half_width: float, share: float
) -> None:
    first = evaluate_bundle(a_bundle(), None, recordings(["a", "c", "d"]), ["fp32"], lambda *_: None)
    assert all(row.held == {} for row in first.rows)
    others = evaluate_bundle(
        a_bundle_that_says(findings(first, "fp32", "three people"), half_width),
        None,
        recordings(["c", "a"]),
        ["fp32"],
        lambda *_: None,
    )
    assert others.rows
    assert all(row.held == {"valence": share, "arousal": share} for row in others.rows)


def a_bundle_that_says(said: Findings, half_width: float) -> Bundle:
    """One that gives every output an interval this wide."""
    subsets = tuple(
        one.model_copy(
            update={"interval": {k: Interval(half_width=half_width, coverage=0.9) for k in one.interval}}
        )
        for one in said.subsets
    )
    bundle = a_bundle()
    knowing = bundle.manifest.candidates["fp32"].model_copy(
        update={"findings": said.model_copy(update={"subsets": subsets})}
    )
    candidates = bundle.manifest.candidates | {"fp32": knowing}
    return Bundle(Path("nowhere"), bundle.manifest.model_copy(update={"candidates": candidates}))


def test_guesses_know_the_others_and_the_time_and_answer_where_the_model_does(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "NEAR_S", 0.3)
    found = evaluate_bundle(a_bundle(), None, recordings(), ["fp32"], lambda *_: None)
    near = 0.3
    ends = [
        (s, k, tiny_model().step_end_ns(t.index) / 1e9)
        for s in SESSIONS.values()
        for k, t in enumerate(s.traces)
    ]
    for name in ("valence", "arousal"):
        by_time, constant, truths = [], [], []
        for session, k, end_s in ends:
            others = [
                (float(other.labels[name][j]), abs(at_s - end_s))
                for other, j, at_s in ends
                if other.person != session.person and np.isfinite(other.labels[name][j])
            ]
            if session.traces[k].inputs and np.isfinite(session.labels[name][k]):
                constant.append(np.mean([label for label, _ in others]))
                nearby = [label for label, away_s in others if away_s <= near]
                by_time.append(np.mean(nearby) if nearby else constant[-1])
                truths.append(float(session.labels[name][k]))
        for what, guessed in (("constant", constant), ("time", by_time)):
            scores = found.baselines[what][name]
            expected = concordance(np.array(guessed), np.array(truths)) or 0.0
            assert scores["CCC"].value == pytest.approx(expected, abs=1e-6), what
            assert scores["MAE"].value == pytest.approx(
                np.mean(np.abs(np.subtract(guessed, truths))), abs=1e-6
            )


LABELS = ("positive", "neutral", "negative")


def emotion_model() -> ModelSpec:
    """The tiny model with one answer in three classes for each window."""
    tensor = TensorSpec(name="emotion", axes=("batch", "class"), shape=("batch", 3))
    fusion = tiny_model(warm_up="withhold").fusion.model_copy(update={"outputs": (tensor,)})
    return tiny_model(warm_up="withhold", fusion=fusion, outputs=(EmotionOutput(labels=LABELS),))


def ranked(face: Any, voice: Any) -> tuple[Any, ...]:
    """Logits that are highest for the class whose number is nearest to a window's mean, times 2, plus 1."""
    mean = SCALE * (face[:, :, 0] + voice[:, :, 0]).mean(axis=1) / 2
    return (-np.abs(np.arange(3) - 2 * mean[:, np.newaxis] - 1).astype(np.float32),)


def test_classes_have_kappa_in_the_place_of_ccc(monkeypatch: pytest.MonkeyPatch) -> None:
    model = emotion_model()
    monkeypatch.setattr(
        estimating, "open_setup", lambda *_: PipelineSetup(model, tiny_engines(model, ranked), None)
    )
    sessions = {name: replace(SESSIONS[name], labels=in_classes(SESSIONS[name])) for name in "cd"}
    play(monkeypatch, sessions)
    found = evaluate_bundle(a_bundle(model), None, recordings(["c", "d"]), ["fp32"], lambda *_: None)
    row = found.rows[0]
    estimates, truths = [], []
    for session in sessions.values():
        means = [np.mean([one.mean() for one in trace.inputs.values()]) for trace in session.traces]
        for k in range(N_STEPS - 1, len(means)):
            if np.isfinite(session.labels["emotion"][k]):
                nearest = np.abs(np.arange(3) - 2 * SCALE * np.mean(means[k - N_STEPS + 1 : k + 1]) - 1)
                estimates.append(int(nearest.argmin()))
                truths.append(int(session.labels["emotion"][k]))
    a, b = np.array(estimates), np.array(truths)
    chance = sum(np.mean(a == k) * np.mean(b == k) for k in range(3))
    assert row.scores.keys() == {"emotion"}
    assert tuple(row.scores["emotion"]) == CLASS_MEASURES
    assert row.scores["emotion"]["accuracy"].value == pytest.approx(np.mean(a == b))
    assert row.scores["emotion"]["kappa"].value == pytest.approx(
        (np.mean(a == b) - chance) / (1 - chance), abs=1e-9
    )
    assert (
        row.scores["emotion"]["kappa"].low
        <= row.scores["emotion"]["kappa"].value
        <= row.scores["emotion"]["kappa"].high
    )
    assert row.n_steps == len(a) == 10


def in_classes(session: LabelledSession) -> dict[str, NDArray[np.float32]]:
    """Valence in thirds; of the fifth step there is no label."""
    numbers = np.floor((session.labels["valence"] + 1) * 1.5).astype(np.float32)
    numbers[4] = np.nan
    return {"emotion": numbers}


def test_a_model_without_a_mask_is_judged_with_what_stands_in_best(opened: list[str]) -> None:
    bundle = a_bundle(tiny_model(warm_up="withhold"))
    found = evaluate_bundle(bundle, None, recordings(["c", "d"]), ["fp32"], lambda *_: None)
    assert [row.modalities for row in found.rows] == [BOTH, ("visual",), ("audio",)]
    assert [row.stand_in is None for row in found.rows] == [True, False, False]
    # windows of 4 steps in sessions of 12 and 6, all of whose labels but those of step 2 are there
    assert {row.n_steps for row in found.rows} == {9 + 3}
    # what stands in is in no mean of the other modality, and is a constant in its own
    for row, name in zip(found.rows[1:], ("valence", "arousal"), strict=True):
        assert row.scores[name] == found.rows[0].scores[name]
        other = "arousal" if name == "valence" else "valence"
        assert row.scores[other]["CCC"].value == pytest.approx(0, abs=1e-6)


def said_by(model: ModelSpec, engines: Mapping[str, Engine], names: str) -> list[dict[Attempt, Found]]:
    """What engines say of sessions of this file."""
    found = []
    for name in names:
        kept = Kept(model, {"fp32": engines})
        for trace in SESSIONS[name].traces:
            kept.take(trace)
        features, present = kept.finish()
        said = Said(model, engines)
        found.append({one: said.estimates(features["fp32"], present, one) for one in attempts(model)})
    return found


def test_what_stands_in_is_a_zero_or_a_blank_whichever_does_better() -> None:
    """Blank sound is -15 dB, -1 after its normalisation: with this fusion it is much too low."""
    model = tiny_model(warm_up="withhold")
    people = People.of([SESSIONS["c"], SESSIONS["d"]])

    def summed(face: Any, voice: Any) -> tuple[Any, ...]:
        both = SCALE * (face[:, :, 0] + 3 * voice[:, :, 0])
        return both, both

    found = {}
    for favoured in ("zero_feature", "blank_input"):
        shift = 0.0 if favoured == "zero_feature" else None
        engines = tiny_engines(model, summed)
        blank = float(blank_feature(model.encoders[1], engines["audio"])[0])
        assert abs(blank) > 0.5

        def moved(face: Any, voice: Any, by: float = blank if shift is None else 0.0) -> tuple[Any, ...]:
            return summed(face, voice - by)

        rows = judge(model, "fp32", people, said_by(model, tiny_engines(model, moved), "cd")).rows
        found[favoured] = next(row.stand_in for row in rows if row.modalities == ("visual",))
    assert found == {"zero_feature": "zero_feature", "blank_input": "blank_input"}


def test_what_is_done_is_said(opened: list[str]) -> None:
    said: list[str] = []
    evaluate_bundle(a_bundle(), None, recordings(["a", "b"]), ["int8-cpu"], lambda one, *_: said.append(one))
    assert said == ["looking at recordings, 2 of 2", "playing, 2 of 2", "judging int8-cpu"]


def test_what_goes_wrong_is_judged_on_the_same_people(
    opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of each session's labels are turned round, say, whenever something is opened with noise."""
    said: list[str] = []

    as_it_is = estimating.play_labelled

    def turned(
        setup: PipelineSetup,
        one: Recording,
        on_step: Callable[[StepTrace], None],
        opened: Callable[[str], Source],
        *rest: Any,
    ) -> tuple[NDArray[np.int64], Labels]:
        steps, labels = as_it_is(setup, one, on_step, opened, *rest)
        if not isinstance(opened("sim:duration_s=1"), CorruptedSource):
            return steps, labels
        return steps, {name: -values for name, values in labels.items()}

    monkeypatch.setattr(estimating, "play_labelled", turned)
    noise = Corruption.parse("noise=3")
    found = evaluate_bundle(a_bundle(), None, recordings(), [], lambda one, *_: said.append(one), [noise])
    assert [(one.corruption, one.precision) for one in found.corrupted] == [
        ("noise=3", "fp32"),
        ("noise=3", "int8-cpu"),
    ]
    assert "playing with noise=3, 4 of 4" in said
    clean = {row.precision: row for row in found.rows if row.modalities == BOTH}
    for one in found.corrupted:
        for name in ("valence", "arousal", "mean"):
            change = one.scores[name]["CCC"].value - clean[one.precision].scores[name]["CCC"].value
            assert one.change[name].value == pytest.approx(change, abs=1e-9)
            assert one.change[name].low < change < one.change[name].high
            assert change < -0.2


def test_a_corruption_of_what_is_not_looked_at_is_refused(opened: list[str]) -> None:
    with pytest.raises(UsageError, match="artefacts=3 changes nothing that model tiny looks at"):
        evaluate_bundle(
            a_bundle(), None, recordings(), [], lambda *_: None, [Corruption.parse("artefacts=3")]
        )
    assert opened == []


@pytest.mark.parametrize("precision", ["int8-trt", "fp16", "int4"])
def test_a_precision_that_cannot_run_here_is_refused(opened: list[str], precision: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{precision} cannot be evaluated here\. Expected: fp32 or int8-cpu"
    ):
        evaluate_bundle(a_bundle(), None, recordings(), ["fp32", precision], lambda *_: None)
    assert opened == []


def test_simulated_people_are_others_than_those_of_recipes() -> None:
    found = simulated_people(tiny_model(), 3, 5)
    assert [one.person for one in found] == [str(FIRST_PERSON + k) for k in range(3)]
    assert len({one.sources for one in found}) == 3
    assert {one.labels for one in found} == {None}


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """What the command hands over to be judged; the rest is the numbers of this file."""
    names: list[Recording] = []
    one = Estimate(0.5, 0.25, 0.625)
    row = Row("fp32", BOTH, 12, {"valence": {"CCC": one, "MAE": Estimate(0.75, 0.5, 1)}})
    rows = (row, replace(row, modalities=("visual",)))

    def evaluate(_b: object, _d: object, given: list[Recording], *_: object) -> Evaluation:
        names.extend(given)
        return Evaluation(
            "tiny",
            "sha256:0",
            len(given),
            rows,
            {"time": {"valence": {"CCC": Estimate(0.125, 0, 0.5), "MAE": one}}},
            {"fp32": {"valence": Estimate(-0.1, -0.2, 0.3)}},
        )

    monkeypatch.setattr(cli_evaluate, "open_bundle", lambda _: a_bundle())
    monkeypatch.setattr(cli_evaluate, "evaluate_bundle", evaluate)
    return names


def a_manifest(folder: Path, *rows: str) -> str:
    path = folder / "people.csv"
    lines = ["person,sources,labels,split", *rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


SIM = "sim:seed=1&person={}&duration_s=1"


def test_the_table_and_the_file_have_the_same_numbers(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    assert main(["evaluate", "x", "--people", "3", "--steps", "5", "--json", str(out)]) == 0
    assert [one.person for one in judged] == [str(FIRST_PERSON + k) for k in range(3)]
    shown = capsys.readouterr().out
    assert re.search(r"fp32 +CCC valence", shown)
    assert re.search(r"visual \+ audio +0\.500 \[0\.25, 0\.62\]", shown)
    assert re.search(r"fusion minus best single +-0\.100 \[-0\.20, \+0\.30\]", shown)
    assert re.search(r"guessed: time +0\.125 \[0\.00, 0\.50\]", shown)
    assert re.search(r"valence +CCC +MAE", shown)
    assert re.search(r"fp32 +0\.500 \[0\.25, 0\.62\] +0\.750 \[0\.50, 1\.00\]", shown)
    assert "3 people, 12 steps" in shown
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["rows"][1]["modalities"] == ["visual"]
    assert found["rows"][0]["scores"]["valence"]["CCC"] == {"value": 0.5, "low": 0.25, "high": 0.625}
    assert found["gain"]["fp32"]["valence"]["high"] == 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_the_table_names_the_measure_of_each_output(
    judged: list[Recording], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("fp32", BOTH, 12, {"emotion": {"kappa": Estimate(0.25, 0.125, 0.5)}})
    found = Evaluation("tiny", "sha256:0", 2, (row,), {}, {"fp32": {}})
    monkeypatch.setattr(cli_evaluate, "evaluate_bundle", lambda *_: found)
    assert main(["evaluate", "x"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"fp32 +kappa emotion", shown)
    assert re.search(r"visual \+ audio +0\.250 \[0\.12, 0\.50\]", shown)
    assert "CCC" not in shown
    assert found.to_dict()["rows"][0]["scores"] == {
        "emotion": {"kappa": {"value": 0.25, "low": 0.125, "high": 0.5}}
    }


def test_a_file_is_there_whole_or_not_at_all(
    judged: list[Recording],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "found.json"
    out.write_text("before", encoding="utf-8")
    write = Path.write_text

    def full(self: Path, text: str, **how: Any) -> int:
        write(self, text[:40], **how)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert main(["evaluate", "x", "--json", str(out)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "before"


def test_a_folder_that_is_not_there_is_told_before_anything_is_played(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "x", "--json", str(tmp_path / "no" / "found.json")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert judged == []


def test_people_held_out_are_judged_where_there_are_some(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        f"p{k},{SIM.format(k)},,{split}" for k, split in enumerate(["train", "test", "", "valid", "test"])
    ]
    assert main(["evaluate", "x", "--data", a_manifest(tmp_path, *rows)]) == 0
    assert [one.person for one in judged] == ["p1", "p4"]
    assert capsys.readouterr().err == ""


def test_all_are_judged_where_nobody_is_held_out_and_it_is_said(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{k},{SIM.format(k)},,{split}" for k, split in enumerate(["train", ""])]
    assert main(["evaluate", "x", "--data", a_manifest(tmp_path, *rows)]) == 0
    assert [one.person for one in judged] == ["p0", "p1"]
    assert "has the split test, so all are judged" in capsys.readouterr().err
    assert (
        main(["evaluate", "x", "--data", a_manifest(tmp_path, *(row.replace("train", "") for row in rows))])
        == 0
    )
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "rows",
    [
        [f"ann,{SIM.format(1)},,", f"ann,{SIM.format(2)},,"],
        [f"ann,{SIM.format(1)},,test", f"ben,{SIM.format(2)},,train", f"cleo,{SIM.format(3)},,valid"],
    ],
)
def test_one_person_is_too_few(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[str]
) -> None:
    assert main(["evaluate", "x", "--data", a_manifest(tmp_path, *rows)]) == 2
    assert "at least two people" in capsys.readouterr().err
    assert main(["evaluate", "x", "--people", "1"]) == 2
    assert judged == []


def test_a_manifest_is_refused_with_everything_wrong(
    judged: list[Recording], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"ann,{SIM.format(1)},,", ",gone.mp4,gone.csv,"]
    assert main(["evaluate", "x", "--data", a_manifest(tmp_path, *rows)]) == 3
    said = capsys.readouterr().err
    assert "! line 3: no person" in said
    assert "gone.mp4" in said
    assert "Traceback" not in said
    assert judged == []


def test_numbers_are_written_with_their_interval() -> None:
    assert written(Estimate(0.8125, 0.5, 1.0)) == "0.812 [0.50, 1.00]"
    assert written(Estimate(0.05, -0.1, 0.2), sign=True) == "+0.050 [-0.10, +0.20]"


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_names_everything_in_the_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for kind in (Evaluation, Row, CorruptedRow, Estimate):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in text, name


def test_the_pages_commands_are_ones_that_the_verb_takes() -> None:
    from typer.main import get_command

    from edge_mer.cli.main import verb_app

    text = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^edge-mer (evaluate .*)$", text, flags=re.MULTILINE)
    assert len(lines) >= 3
    command = get_command(verb_app("evaluate"))
    named = set()
    for line in lines:
        words = shlex.split(line)
        command.make_context("evaluate", words[1:])
        named |= {word for word in words if word.startswith("--")}
    options = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    assert named <= options
    assert {name for name in options if f"`{name}`" in text or f"`{name} " in text} == options
