"""All rivals of the benchmark of speed compute the same, and what is told of them is what they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

import onnx
import torch
from torch import Tensor, nn

from benchmarks.speed.rivals.base import EachStepOnce, Rival, SlidingWindow, Values
from benchmarks.speed.rivals.products import products_of
from benchmarks.speed.rivals.registry import NAIVE, RIVALS, WholeRival
from benchmarks.speed.rivals.whole import InOnnxRuntime, InOpenVino
from benchmarks.speed.steps import Steps, n_people_of, share_of, steps_of
from benchmarks.speed.turns import SLOW_EVERY, Player, agreement, by_turns, off, told
from benchmarks.speed.weights import look
from benchmarks.speed.whole import join
from edge_mer.engine import openvino
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.runtime.pipeline import StepTrace
from edge_mer.runtime.setup import open_engines
from edge_mer.types.model import Fusion, ModelSpec
from edge_mer_export.engines import torch_engines
from edge_mer_export.onnx_stage import export_stage
from tests.helpers.tiny_model import FEATURE, N_STEPS, STEP, audio_encoder, tiny_model
from tests.helpers.tiny_training import Flat

pytestmark = pytest.mark.workbench

HOP, N_WINDOWS, N_SHOWN = 2, 4, 3

World = tuple[ModelSpec, Steps, dict[str, Rival], Path]
"""A model, what all look at, all of them, and the joined graph."""


class Mixing(nn.Module):
    """Every step's outputs from all steps of a window, where something is there; (B, L) each."""

    def __init__(self) -> None:
        super().__init__()
        self.over_steps = nn.Linear(N_STEPS, N_STEPS)
        self.over_features = nn.Linear(2 * FEATURE, 2)

    def forward(self, face: Tensor, voice: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        there = present.to(face.dtype).unsqueeze(-1)  # (B, M, L, 1)
        both = torch.cat([face * there[:, 0], voice * there[:, 1]], dim=-1)  # (B, L, 2D)
        mixed = self.over_steps(both.transpose(1, 2)).transpose(1, 2)  # (B, L, 2D)
        found = self.over_features(torch.tanh(mixed))  # (B, L, 2)
        return found[..., 0], found[..., 1]


def spec_of() -> ModelSpec:
    """A hop of two steps, and a sound that serves both."""
    model = tiny_model()
    voice = audio_encoder(period=2 * STEP, span=2 * STEP, repeat=2)
    fusion = Fusion(**{**dict(model.fusion), "hop": HOP})
    return model.model_copy(update={"encoders": (model.encoders[0], voice), "fusion": fusion})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model of two layers in every way."""
    spec = spec_of()
    torch.manual_seed(3)
    sizes = {encoder.stage: int(np.prod(encoder.input.concrete(batch=1))) for encoder in spec.encoders}
    stages: dict[str, nn.Module] = {stage: Flat(size) for stage, size in sizes.items()}
    stages["fusion"] = Mixing()
    for module in stages.values():
        module.eval()
    tensors = {encoder.stage: ((encoder.input,), (encoder.output,)) for encoder in spec.encoders}
    tensors["fusion"] = (spec.fusion.inputs, spec.fusion.outputs)
    files = {stage: export_stage(stage, one, *tensors[stage], N_STEPS) for stage, one in stages.items()}
    file = tmp_path_factory.mktemp("whole") / "whole.onnx"
    onnx.save(join(spec, files), file)
    rng = np.random.default_rng(0)
    n = 8
    steps = Steps(
        {
            encoder.stage: rng.standard_normal(
                (N_SHOWN, n // encoder.repeat, *encoder.input.concrete(batch=1)[1:])
            ).astype(np.float32)
            for encoder in spec.encoders
        }
    )
    rivals: dict[str, Rival] = {
        NAIVE: SlidingWindow(spec, torch_engines(spec, stages), steps),
        "torch-once": EachStepOnce(spec, torch_engines(spec, stages), steps),
        "whole-ort": WholeRival(InOnnxRuntime(file), spec, steps),
        "ort": EachStepOnce(spec, open_engines(spec, files, OrtOptions()), steps),
    }
    if openvino.is_installed():
        rivals["whole-ov"] = WholeRival(InOpenVino(file, "f32"), spec, steps)
    return spec, steps, rivals, file


def test_all_ways_give_the_same_outputs(world: World) -> None:
    spec, steps, rivals, _ = world
    first, second = ([steps.places(spec, encoder, i) for encoder in spec.encoders] for i in (2, 3))
    assert [(who, numbers.tolist()) for who, numbers in first] == [(2, [0, 1, 2, 3]), (2, [0, 1])]
    assert [(who, numbers.tolist()) for who, numbers in second] == [(0, [2, 3, 4, 5]), (0, [1, 2])]
    players = {name: Player(one) for name, one in rivals.items()}
    by_turns(players, N_WINDOWS, 2, lambda _: None)
    right = np.array([[players[NAIVE].found[i][name] for name in ("valence", "arousal")] for i in range(4)])
    assert right.std(axis=0).min() > 0.05, "outputs that do not vary prove nothing"
    for name, player in players.items():
        found = np.array([[player.found[i][out] for out in ("valence", "arousal")] for i in range(4)])
        np.testing.assert_allclose(found, right, atol=1e-5, err_msg=name)
    rows = told(spec, players, [NAIVE], NAIVE)
    assert all(row["ccc"] == {"valence": 1.0, "arousal": 1.0} for row in rows.values())
    assert rows["whole-ort"]["executed"]["f32"] >= 4


def test_features_that_are_not_a_windows_own_would_be_seen(world: World) -> None:
    spec, _, rivals, _ = world
    naive, once = rivals[NAIVE], rivals["torch-once"]
    once.warm_up(range(N_WINDOWS))
    right = {i: naive.predict(i) for i in range(N_WINDOWS)}
    late = {i: once.predict((i + N_SHOWN) % N_WINDOWS) for i in range(N_WINDOWS)}
    assert agreement(spec, {i: once.predict(i) for i in right}, right)["valence"] == 1.0
    assert agreement(spec, late, right)["valence"] < 0.99


def test_a_prediction_encodes_its_hop_alone(world: World) -> None:
    _, steps, rivals, _ = world
    once = rivals["ort"]
    once.warm_up(range(N_WINDOWS))
    right = once.predict(1)["valence"]
    held = {stage: one.copy() for stage, one in steps.tensors.items()}
    steps.tensors["visual"][1, :2] = steps.tensors["audio"][1, :1] = 9
    assert once.predict(1)["valence"] == right, "the window's first half was encoded before"
    steps.tensors["visual"][1, 3] = 9
    assert once.predict(1)["valence"] != right
    for stage, one in held.items():
        steps.tensors[stage][...] = one


def test_a_window_longer_than_what_is_held_shows_it_again() -> None:
    spec, steps = spec_of(), Steps({"visual": np.zeros((2, 8, 1)), "audio": np.zeros((2, 4, 1))})
    fusion = spec.fusion.model_copy(update={"n_steps": 12})
    long = spec.model_copy(update={"fusion": fusion})
    assert steps.places(long, spec.encoders[0], 3)[1].tolist() == [2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5]
    assert steps.places(long, spec.encoders[1], 3)[1].tolist() == [1, 2, 3, 0, 1, 2]


class Counting(Rival):
    """Remembers what it was asked."""

    def __init__(self, *, is_streaming: bool = False) -> None:
        self.is_streaming = is_streaming
        self.asked: list[int] = []

    def warm_up(self, windows: Sequence[int]) -> None:
        """Nothing."""

    def predict(self, window: int) -> Values:
        """Nothing much."""
        self.asked.append(window)
        return {"valence": np.float32(window), "arousal": np.float32(-window)}


def test_who_is_slow_sees_few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.speed.turns.ENOUGH_MS", -1.0)
    monkeypatch.setattr("benchmarks.speed.turns.SLOW_S", -1.0)
    players = {"once": Player(Counting(is_streaming=True)), "whole": Player(Counting())}
    by_turns(players, 20, 5, lambda _: None)
    asked = {name: one.rival.asked for name, one in players.items()}  # type: ignore[attr-defined]
    assert asked["once"] == list(range(20))
    assert asked["whole"] == [0, 4 * SLOW_EVERY]


def test_ratios_are_taken_within_rounds() -> None:
    slow, fast, rare = Player(Counting()), Player(Counting()), Player(Counting())
    slow.rounds_ms, fast.rounds_ms, rare.rounds_ms = [[100.0], [300.0]], [[10.0, 10.0], [10.0]], [[], [60.0]]
    for one in (slow, fast, rare):
        one.found = {i: one.rival.predict(i) for i in range(3)}
    rows = told(tiny_model(), {"slow": slow, "fast": fast, "rare": rare}, ["slow"], "slow")
    assert rows["fast"]["ratio"]["slow"] == {"median": 20.0, "low": 10.0, "high": 30.0}
    assert rows["rare"]["ratio"]["slow"] == {"median": 5.0, "low": 5.0, "high": 5.0}
    assert rows["fast"]["rounds_ms"] == [10.0, 10.0]
    assert rows["fast"]["ms"]["n"] == 3


def test_an_error_beyond_the_range_of_affect_counts() -> None:
    right = {i: {"valence": np.float32(i), "arousal": np.float32(-i)} for i in range(2, 6)}
    wrong = {i: {"valence": np.float32(9 - i), "arousal": np.float32(-i)} for i in range(2, 6)}
    found = agreement(tiny_model(), wrong, right)
    assert found["arousal"] == 1.0
    assert found["valence"] < 0
    assert off(tiny_model(), wrong, right) == {"valence": 2.683, "arousal": 0.0}
    assert agreement(tiny_model(), {7: wrong[2]} | wrong, right) == found, "a window that only one saw"
    assert agreement(tiny_model(), {2: right[2], 3: right[3]}, right) == {"valence": None, "arousal": None}


def test_steps_of_people_begin_where_a_hop_does() -> None:
    spec = spec_of()
    sessions = [[_trace(spec, person, index) for index in range(1, 9)] for person in range(3)]
    steps = steps_of(spec, sessions, 4)
    assert steps.n_people == 3
    visual, audio = steps.tensors["visual"], steps.tensors["audio"]
    assert visual[:, :, 0, 0, 0, 0].tolist() == [[2, 3, 4, 5], [102, 103, 104, 105], [202, 203, 204, 205]]
    assert audio[:, :, 0, 0, 0].tolist() == [[3, 5], [103, 105], [203, 205]], "of a pair's last step"
    assert steps.of_one().n_people == 1
    with pytest.raises(ValueError, match="7 steps of 8"):
        steps_of(spec, sessions, 8)


def test_no_two_windows_are_the_same() -> None:
    spec = spec_of()
    for n_windows in (3, 12, 40, 150):
        steps = Steps({"visual": np.zeros((n_people_of(n_windows), share_of(spec, n_windows), 1))})
        shown = [steps.places(spec, spec.encoders[0], window) for window in range(n_windows)]
        assert len({(person, tuple(numbers)) for person, numbers in shown}) == n_windows


def _trace(spec: ModelSpec, person: int, index: int) -> StepTrace:
    inputs = {
        encoder.stage: np.full(encoder.input.concrete(batch=1), 100 * person + index, np.float32)
        for encoder in spec.encoders
    }
    nothing: dict[str, Any] = {"features": {}, "n_used": 0, "raw": {}, "is_real": True, "spoken": {}}
    return StepTrace(index=index, inputs=inputs, present=np.ones((2, 4), np.bool_), **nothing)


@pytest.mark.parametrize("n_numbers", [1, 3])
def test_heads_look_where_windows_differ(n_numbers: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(50, 6) * torch.tensor([0.01, 0.02, 5.0, 0.01, 3.0, 0.01]) + 7
    last = nn.Linear(6, n_numbers)
    look(last, hidden)
    with torch.no_grad():
        found = last(hidden)
    assert found.mean(dim=0).abs().max() < 1e-4
    assert found[:, 0].std() == pytest.approx(0.3, rel=0.02)
    assert last.weight[0].abs().argmax() == 2
    if n_numbers > 1:
        assert found.sum(dim=1).abs().max() < 1e-4


def test_products_in_8_bits_are_counted(world: World, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    whole = world[3]
    quantized = tmp_path / "int8.onnx"
    quantize_dynamic(whole, quantized)
    before, after = products_of(whole), products_of(quantized.read_bytes())
    assert set(before) == {"f32"}
    assert after["i8"] >= 3, "two encoders and the fusion"
    assert after["i8"] + after.get("f32", 0) == before["f32"]


def test_every_rival_has_a_name() -> None:
    from benchmarks.speed.words import SHORT, name_of

    assert set(SHORT) == set(RIVALS)
    assert len({name_of(key) for key in RIVALS}) == len(RIVALS)
