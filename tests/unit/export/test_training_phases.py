"""What each phase feeds its network: the same windows as on the device, gaps, and copies that are changed."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from torch import Tensor, nn

from edge_mer.errors import DataError
from edge_mer.runtime.proof import concordance, offline_outputs
from edge_mer.types.model import ModelSpec
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.training.augment import augmented, hidden_in_part
from edge_mer_export.training.phases import BackboneTask, FusionTask, _class_weights, _drawn, _with_gaps
from edge_mer_export.training.recipe import FusionPhase, Phase
from edge_mer_export.training.sessions import Session
from edge_mer_export.training.trainer import State, train_phase
from tests.helpers.tiny_model import FEATURE, N_STEPS, tiny_clip, tiny_log_mel, tiny_model
from tests.helpers.tiny_training import tiny_emotion_model, tiny_pain_model, tiny_session, tiny_zoo

pytestmark = pytest.mark.workbench

PHASE = FusionPhase(
    epochs=1, batch_size=4, learning_rate=0.1, dropout=0.25, modality_dropout=0.0, step_dropout=0.0
)
Window = tuple[list[Any], Any]


class Watcher(nn.Module):
    """A fusion that notes what it is given; it answers each step's first numbers of both features."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Window] = []

    def forward(self, face: Tensor, voice: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        for n in range(len(face)):
            mask = None if present is None else present[n].numpy()
            self.seen.append(([face[n].numpy(), voice[n].numpy()], mask))
        return face[..., 0], voice[..., 0]


def counted(person: int, n_steps: int, absent: dict[str, set[int]]) -> Session:
    """Step tensors that are features already, each number only once; labels are their first numbers."""
    steps, present = {}, {}
    for index, stage in enumerate(("visual", "audio")):
        first = 1000 * person + 500 * index
        there = np.array([k not in absent.get(stage, ()) for k in range(n_steps)], np.bool_)
        numbers = first + 1 + np.arange(n_steps * FEATURE, dtype=np.float32).reshape(n_steps, FEATURE)
        steps[stage], present[stage] = numbers / 10_000 * there[:, None], there
    labels = {"valence": steps["visual"][:, 0].copy(), "arousal": steps["audio"][:, 0].copy()}
    return Session(str(person), steps, present, labels)


SESSIONS = [
    counted(1, 7, {"visual": {2, 3}, "audio": {3, 4}}),
    counted(2, 1, {}),
    counted(3, 9, {"audio": {0, 1, 2, 8}}),
    counted(4, 2, {"visual": {0, 1}, "audio": {0, 1}}),
]


def watched(
    spec: ModelSpec, sessions: list[Session] = SESSIONS, phase: FusionPhase = PHASE
) -> tuple[FusionTask, Watcher]:
    watcher = Watcher()
    stages: dict[str, nn.Module] = {"visual": nn.Identity(), "audio": nn.Identity(), "fusion": watcher}
    return FusionTask(ZooModel(spec, stages, {}, {}), phase, sessions, sessions), watcher


def fed_on_the_device(spec: ModelSpec, subset: tuple[str, ...] = ("visual", "audio")) -> list[Window]:
    """Every full window that the device's own offline computation feeds its fusion."""
    seen: list[Window] = []

    def note(features: dict[str, Any], present: Any, _step: int) -> dict[str, Any]:
        if present.shape[1] == spec.fusion.n_steps:
            seen.append(([*features.values()], present if spec.fusion.has_present_input else None))
        return {"valence": 0.0, "arousal": 0.0}  # type: ignore[dict-item]

    for one in SESSIONS:
        present = {stage: there & np.bool_(stage in subset) for stage, there in one.present.items()}
        features = {stage: rows * present[stage][:, None] for stage, rows in one.steps.items()}
        offline_outputs(spec, features, present, note)
    return seen


def assert_same(found: list[Window], expected: list[Window]) -> None:
    assert len(found) == len(expected) > 0
    for (features, mask), (right, right_mask) in zip(found, expected, strict=True):
        for one, other in zip(features, right, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (mask is None) == (right_mask is None)
        if mask is not None:
            np.testing.assert_array_equal(mask, right_mask)


# --- windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm_up", ["mask", "withhold", "shorten"])
def test_windows_are_those_that_the_device_feeds(warm_up: Any) -> None:
    spec = tiny_model(warm_up=warm_up)
    task, watcher = watched(spec)
    task.scores()
    assert_same(watcher.seen, fed_on_the_device(spec))


def test_windows_reach_before_the_start_and_never_into_another_session() -> None:
    task, watcher = watched(tiny_model())
    task.scores()
    # 7 steps but the one in which nothing shows, 1, 9 without a step of nothing, none of the last
    assert len(watcher.seen) == 6 + 1 + 9
    for (face, voice), mask in watcher.seen:
        people = {int(v * 10_000) // 1000 for one in (face, voice) for v in one[:, 0] if v}
        assert len(people) == 1
        assert mask[:, -1].any()
        assert face[~mask[0]].any() == voice[~mask[1]].any() == np.False_
        assert face[mask[0]].all()
        assert voice[mask[1]].all()
    (face, _), mask = watcher.seen[0]
    assert not face[: N_STEPS - 1].any()
    assert mask.tolist() == [[False] * (N_STEPS - 1) + [True]] * 2


@pytest.mark.parametrize("subset", [("visual",), ("audio",)])
def test_the_others_are_missing_where_a_subset_is_judged(subset: tuple[str, ...]) -> None:
    spec = tiny_model()
    task, watcher = watched(spec)
    task.scores_of(subset)
    assert_same(watcher.seen, fed_on_the_device(spec, subset))


def test_scores_hold_the_last_step_against_its_own_label() -> None:
    spec = tiny_model()
    task, _ = watched(spec)
    assert task.scores() == pytest.approx({"valence": 1.0, "arousal": 1.0}, abs=1e-9)
    shifted = [
        replace(one, labels={**one.labels, "valence": np.where(np.arange(one.n_steps) % 2, 0.3, np.nan)})
        for one in SESSIONS
    ]
    # of valence, every second label is gone, and the others are no longer what the face shows
    shown = [one.steps["visual"][1::2, 0] for one in shifted]
    usable = [np.any([*one.present.values()], axis=0)[1::2] for one in shifted]
    found = np.concatenate([a[b] for a, b in zip(shown, usable, strict=True)]).astype(np.float64)
    scores = watched(spec, shifted)[0].scores()
    assert found.size == 2 + 0 + 4
    assert scores["valence"] == pytest.approx(concordance(found, np.full(found.size, 0.3)))
    assert scores["arousal"] == pytest.approx(1.0, abs=1e-9)


def test_people_to_choose_by_must_show_something() -> None:
    nothing = [counted(4, 2, {"visual": {0, 1}, "audio": {0, 1}})]
    some = [counted(1, 3, {})]
    model = tiny_zoo()
    with pytest.raises(DataError, match="nothing to choose visual by"):
        BackboneTask(
            model,
            model.spec.encoders[0],
            PHASE,
            [tiny_session("a", 3)],
            [tiny_session("b", 2, absent={"visual": {0, 1}})],
        )
    stages = {"visual": nn.Identity(), "audio": nn.Identity(), "fusion": Watcher()}
    with pytest.raises(DataError, match="nothing to choose fusion by"):
        FusionTask(ZooModel(tiny_model(), stages, {}, {}), PHASE, some, nothing)


# --- gaps -------------------------------------------------------------------------------------------


def gapped(present: Tensor, modality: float, step: float, seed: int = 0) -> Tensor:
    phase = PHASE.model_copy(update={"modality_dropout": modality, "step_dropout": step})
    return _with_gaps(present, phase, torch.Generator().manual_seed(seed))


def test_gaps_are_as_many_as_asked_for() -> None:
    n, length = 6000, 8
    found = gapped(torch.ones(n, 2, length, dtype=torch.bool), 0.3, 0.2)
    n_there = found.sum(dim=2)  # (n, modality)
    is_partial = ((n_there > 0) & (n_there < length)).any(dim=1)
    # a run of steps hits the whole window if it begins at the first and is the longest
    is_whole = (n_there == 0).any(dim=1)
    assert is_whole.float().mean().item() == pytest.approx(0.3 + 0.2 / 64, abs=0.02)
    assert is_partial.float().mean().item() == pytest.approx(0.2 * 63 / 64, abs=0.02)
    assert ((n_there < length).sum(dim=1) <= 1).all()
    for modality in range(2):
        assert (n_there[:, modality] == 0).float().mean().item() == pytest.approx(0.15, abs=0.02)
    missing_runs = (~found[is_partial]).any(dim=1).int()  # (partial, L); one run each, at any place
    assert ((missing_runs.diff(dim=1) == 1).sum(dim=1) + missing_runs[:, 0] == 1).all()
    assert missing_runs.any(dim=0).all()


def test_without_shares_nothing_is_taken_away() -> None:
    present = torch.rand(200, 2, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    assert torch.equal(gapped(present, 0.0, 0.0), present)


@pytest.mark.parametrize("seed", range(3))
def test_gaps_only_take_away_and_never_the_newest_step_wholly(seed: int) -> None:
    present = torch.rand(3000, 3, 6, generator=torch.Generator().manual_seed(seed)) < 0.5
    present[:, seed, -1] |= ~present[:, :, -1].any(dim=1)
    found = gapped(present, 0.6, 0.4, seed)
    assert not (found & ~present).any()
    assert found[:, :, -1].any(dim=1).all()
    assert (found != present).any()


# --- batches ----------------------------------------------------------------------------------------


def test_every_usable_window_is_in_one_batch_and_gaps_are_shown() -> None:
    spec = tiny_model()
    task, watcher = watched(spec)
    losses = [*task.losses(torch.Generator().manual_seed(0))]
    assert len(losses) == 4
    newest = sorted(float(face[-1, 0] + voice[-1, 0]) for (face, voice), _ in watcher.seen)
    expected = sorted(float(face[-1, 0] + voice[-1, 0]) for (face, voice), _ in fed_on_the_device(spec))
    assert newest == expected
    task, watcher = watched(spec, phase=PHASE.model_copy(update={"modality_dropout": 0.9}))
    assert [*task.losses(torch.Generator().manual_seed(0))]
    n_whole = sum(mask[:, -1].all() for _, mask in fed_on_the_device(spec))
    assert sum(mask[:, -1].all() for _, mask in watcher.seen) < n_whole
    for (face, voice), mask in watcher.seen:
        assert not face[~mask[0]].any()
        assert not voice[~mask[1]].any()


def test_samples_are_drawn_anew_and_a_batch_of_one_is_left_out() -> None:
    model = tiny_zoo()
    train = [tiny_session("a", 9), tiny_session("b", 6, absent={"visual": {0, 1}})]

    def batches(samples: int, seed: int = 0) -> list[float]:
        phase = Phase(epochs=1, batch_size=4, learning_rate=0.1, samples_per_epoch=samples)
        task = BackboneTask(model, model.spec.encoders[0], phase, train, train)
        return [loss.item() for loss in task.losses(torch.Generator().manual_seed(seed))]

    assert len(batches(0)) == 3  # of 13: 4, 4, 4, and one alone
    assert len(batches(6)) == 2
    torch.manual_seed(0)
    once = batches(6)
    torch.manual_seed(0)
    again = batches(6)
    torch.manual_seed(0)
    assert once == again != batches(6, seed=1)


def test_drop_out_is_what_the_recipe_says() -> None:
    model = tiny_zoo()
    train = [tiny_session("a", 5)]
    FusionTask(model, PHASE, train, train)
    assert [m.p for m in model.stages["fusion"].modules() if isinstance(m, nn.Dropout)] == [0.25]
    task = BackboneTask(model, model.spec.encoders[0], PHASE, train, train)
    assert [m.p for m in task.network.modules() if isinstance(m, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    "spec", [tiny_model(), tiny_pain_model(), tiny_emotion_model()], ids=["affect", "pain", "emotion"]
)
def test_every_phase_learns_what_is_shown(spec: ModelSpec) -> None:
    """The face shows the first output through noise, to people who were not learned from too."""
    torch.manual_seed(0)
    model = tiny_zoo(spec)
    train = [tiny_session(f"p{i}", 40, spec=spec) for i in range(4)]
    valid = [tiny_session(f"v{i}", 40, spec=spec) for i in range(2)]
    name = spec.outputs[0].name
    backbone = Phase(epochs=20, batch_size=16, learning_rate=2e-3, patience=20)
    for encoder in spec.encoders:
        before = [one.clone() for one in model.stages[encoder.stage].parameters()]
        task = BackboneTask(model, encoder, backbone, train, valid)
        train_phase(task, State(encoder.stage), 0, lambda _: None, lambda _: None)
        assert any(
            not torch.equal(a, b)
            for a, b in zip(before, model.stages[encoder.stage].parameters(), strict=True)
        )
        if encoder.stage == "visual":
            assert _scores(task)[name] > 0.4
    encoders = {s: [p.clone() for p in model.stages[s].parameters()] for s in ("visual", "audio")}
    phase = FusionPhase(epochs=12, batch_size=16, learning_rate=2e-2, patience=12, modality_dropout=0.0)
    fusion = FusionTask(model, phase, train, valid)
    train_phase(fusion, State("fusion"), 0, lambda _: None, lambda _: None)
    scores = _scores(fusion)
    assert all(scores[output.name] > 0.6 for output in spec.outputs)
    for stage, kept in encoders.items():
        assert all(torch.equal(a, b) for a, b in zip(kept, model.stages[stage].parameters(), strict=True))


def test_classes_are_scored_by_kappa_over_whole_windows() -> None:
    """One answer per window stands for its last step; it is held against that step's own label."""
    spec = tiny_emotion_model()
    one = tiny_session("a", 30, spec=spec)
    known = one.labels["emotion"].copy()
    shown = known.copy()
    shown[20:] = 0
    features = {
        stage: np.repeat(shown[:, np.newaxis], FEATURE, axis=1).astype(np.float32) for stage in one.steps
    }
    known[25] = np.nan

    class Answer(nn.Module):
        def forward(self, face: Tensor, voice: Tensor) -> Tensor:
            return -(face[:, -1, :1] - torch.arange(3)).abs()

    stages = {"visual": nn.Identity(), "audio": nn.Identity(), "fusion": Answer()}
    session = replace(one, steps=features, labels={"emotion": known})
    task = FusionTask(ZooModel(spec, stages, {}), PHASE, [session], [session])
    kept = [k for k in range(N_STEPS - 1, 30) if k != 25]
    agreed = np.mean(shown[kept] == known[kept])
    chance = sum(np.mean(shown[kept] == k) * np.mean(known[kept] == k) for k in range(3))
    assert task.scores() == pytest.approx({"emotion": (agreed - chance) / (1 - chance)})
    assert 0.3 < task.scores()["emotion"] < 0.95


def _scores(task: BackboneTask | FusionTask) -> dict[str, float]:
    with torch.no_grad():
        return task.scores()


# --- changed copies ---------------------------------------------------------------------------------


def test_faces_are_mirrored_and_lit_otherwise() -> None:
    clip = tiny_clip()
    steps = torch.randn(400, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = augmented(steps, clip, torch.Generator().manual_seed(1))
    n_mirrored, gains, lights = 0, [], []
    colours = torch.eye(3).repeat_interleave(4 * 8 * 8, dim=0)  # which channel a number is of
    for before, after in zip(steps, found, strict=True):
        fits = []
        for is_mirrored, face in ((False, before), (True, before.flip(-1))):
            x = torch.cat([face.reshape(-1, 1), colours], dim=1)
            line = torch.linalg.lstsq(x, after.flatten()[:, None]).solution[:, 0]
            fits.append((float((x @ line - after.flatten()).abs().max()), is_mirrored, *line.tolist()))
        error, is_mirrored, gain, *light = min(fits)
        assert error < 1e-4
        n_mirrored += is_mirrored
        gains.append(gain)
        lights.append(light)
    assert 150 < n_mirrored < 250
    assert 0.8 - 1e-4 < min(gains) < 0.82
    assert 1.18 < max(gains) < 1.2 + 1e-4
    assert 0.2 < max(abs(one) for light in lights for one in light) * 0.2 < 0.25 + 1e-4
    assert 0.15 < max(max(light) - min(light) for light in lights) * 0.2 < 0.2 + 1e-4


def test_sound_is_louder_or_softer() -> None:
    log_mel = tiny_log_mel()
    steps = torch.randn(100, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    change = (augmented(steps, log_mel, torch.Generator().manual_seed(1)) - steps).flatten(1) * log_mel.std
    assert change.std(dim=1).max() < 1e-4
    assert 2.5 < change.abs().max() <= 3.0 + 1e-4


def changed(log_mel: Tensor, seed: int = 1, **keys: int) -> Tensor:
    phase = Phase(epochs=1, batch_size=2, learning_rate=0.1, **keys)
    return hidden_in_part(log_mel, phase, torch.Generator().manual_seed(seed))


def test_spectrograms_are_shifted_round_their_end_and_up_and_down() -> None:
    rows = torch.arange(1.0, 7.0)[None, None, :, None].expand(300, 1, 6, 9)
    columns = torch.arange(1.0, 10.0)[None, None, None].expand(300, 1, 6, 9)
    shifted = changed(columns, shift_columns=2)
    assert {tuple(one) for one in shifted[:, 0, 0].tolist()} == {
        tuple(torch.arange(1.0, 10.0).roll(by).tolist()) for by in range(-2, 3)
    }
    assert torch.equal(shifted, shifted[:, :, :1].expand_as(shifted))
    assert {tuple(one) for one in changed(rows, shift_bands=1)[:, 0, :, 0].tolist()} == {
        (1, 2, 3, 4, 5, 6),
        (1, 1, 2, 3, 4, 5),
        (2, 3, 4, 5, 6, 6),
    }


def test_pieces_of_spectrograms_are_hidden() -> None:
    whole = torch.ones(300, 1, 6, 9)
    bands = changed(whole, mask_bands=2)[:, 0]
    assert torch.equal(bands, bands[:, :, :1].expand_as(bands))
    columns = changed(whole, mask_columns=3)[:, 0]
    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    for hidden, most in ((bands[:, :, 0] == 0, 2), (columns[:, 0] == 0, 3)):
        assert set(hidden.sum(dim=1).tolist()) == set(range(most + 1))
        assert hidden.any(dim=0).all()
        assert ((hidden[:, 1:] & ~hidden[:, :-1]).sum(dim=1) <= 1).all()


def test_nothing_is_hidden_and_nothing_drawn_unless_it_is_asked_for() -> None:
    steps = torch.randn(4, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    phase = Phase(epochs=1, batch_size=2, learning_rate=0.1)
    assert torch.equal(hidden_in_part(steps, phase, generator), steps)
    assert torch.equal(generator.get_state(), before)
    assert not torch.equal(changed(steps, mask_bands=2, seed=1), changed(steps, mask_bands=2, seed=2))


@pytest.mark.parametrize(("balance", "ratio"), [(0.5, 3), (1.0, 9)])
def test_samples_of_rare_classes_count_more(balance: float, ratio: float) -> None:
    """Of nine to one, the root of it, and so much that both classes count alike; what has no label never."""
    outputs = tiny_emotion_model().outputs
    labels = torch.tensor([0.0] * 90 + [2.0] * 10 + [float("nan")] * 30)
    (weights,) = _class_weights(outputs, [labels], balance)
    assert weights is not None
    assert float(weights[2] / weights[0]) == pytest.approx(ratio)
    assert torch.isfinite(weights).all()


def test_nothing_counts_more_unless_it_is_asked_for() -> None:
    assert _class_weights(tiny_emotion_model().outputs, [torch.zeros(20)], 0.0) == [None]


def test_an_epoch_looks_at_other_samples_each_time() -> None:
    phase = Phase(epochs=1, batch_size=2, learning_rate=0.1, samples_per_epoch=7)
    order = _drawn(20, phase, torch.Generator().manual_seed(3))
    assert torch.equal(order, torch.randperm(20, generator=torch.Generator().manual_seed(3))[:7])
