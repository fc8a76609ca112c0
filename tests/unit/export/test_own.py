"""A user's own model: what is taken, and what is wrong with the file or the checkpoint."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.cli.main import main
from edge_mer.errors import DataError, UsageError
from edge_mer_export.bundle_from_model import Checkpoint, load_weights
from edge_mer_export.checkpoint import import_model
from edge_mer_export.golden import make_sessions
from edge_mer_export.models.own import own_system
from edge_mer_export.models.vocabulary import n_tokens
from edge_mer_export.models.zoo import Found, System, ZooModel, shipped_weights, system
from tests.helpers import tiny_checkpoints as tiny

pytestmark = pytest.mark.workbench

SPEC = """
from fractions import Fraction
import torch
from torch import nn
from edge_mer.types.model import AffectOutput, Encoder, Fusion, ModelSpec, Signal, TensorSpec

STEP = Fraction(1, 2)
SPEC = ModelSpec(
    name="mine", title="Mine", source="me", step=STEP,
    encoders=(Encoder(
        stage="eda", modality="eda",
        input=TensorSpec(name="x", axes=("batch", "channel", "sample"), shape=("batch", 1, 8)),
        output=TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 3)),
        period=STEP, span=STEP, preprocess=Signal(rate_hz=16, unit="uS"), min_coverage=1.0,
    ),),
    fusion=Fusion(
        n_steps=4,
        inputs=(TensorSpec(name="eda", axes=("batch", "steps", "feature"), shape=("batch", 4, 3)),),
        outputs=(TensorSpec(name="arousal", axes=("batch", "steps"), shape=("batch", 4)),),
        warm_up="withhold",
    ),
    outputs=(AffectOutput(name="arousal"),), intended_use="Trials.", licence="mine",
)
"""
CLASS = """
class Mine(nn.Module):
    spec = SPEC
    last_layers = {"arousal": "head"}

    def __init__(self):
        super().__init__()
        self.eda = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
        self.head = nn.Linear(3, 1)
        self.gain = nn.Parameter(torch.ones(3))
        self.register_buffer("place", torch.arange(4.0)[:, None], persistent=False)
        self.offset = float(torch.ones(1))

    def fuse(self, eda):
        return self.head(eda * self.gain + self.place + self.offset).squeeze(-1)
"""
FILE = SPEC + CLASS
WORDY = (
    FILE.replace("Signal, ", "Signal, Words, ")
    .replace(
        "    ),),\n    fusion",
        """    ), Encoder(
        stage="text", modality="text",
        input=TensorSpec(name="ids", axes=("batch", "token"), shape=("batch", "token"), dtype="int64"),
        output=TensorSpec(name="v", axes=("batch", "token", "feature"), shape=("batch", "token", 3)),
        period=STEP, span=STEP, offset=Fraction(3), preprocess=Words(tokenizer="my/words.json"),
    )),
    fusion""",
    )
    .replace(
        'shape=("batch", 4, 3)),),',
        'shape=("batch", 4, 3)), '
        'TensorSpec(name="text", axes=("batch", "steps", "feature"), shape=("batch", 4, 3))),',
    )
    .replace("        self.head =", "        self.text = nn.Embedding(N_TOKENS, 3)\n        self.head =")
    .replace("def fuse(self, eda):", "def fuse(self, eda, text):\n        eda = eda + text")
)
"""Hears what is said, too."""

N_TOKENS = 80
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "so", "mo", "ha"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """Writes the user's file; what the user would name."""

    def written(text: str) -> str:
        (tmp_path / "my_model.py").write_text(text)
        return f"{tmp_path / 'my_model.py'}:Mine"

    return written


def state_of(name: str, seed: int = 0) -> tiny.State:
    model = own_system(name).build(Found({}, {}))
    whole = tiny.under("eda.", tiny.randomized(model.stages["eda"], seed))
    return whole | tiny.randomized(model.stages["fusion"], seed)


def loaded(name: str, state: object, folder: Path) -> ZooModel:
    return import_model(own_system(name), [tiny.save(folder / "my.pt", state)]).model


# what is taken


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"net": state, "epoch": 3},
        lambda state: {"state_dict": tiny.under("module.", state)},
    ],
)
def test_a_checkpoint_finds_its_stages(
    write: Callable[[str], str], tmp_path: Path, wrap: Callable[[tiny.State], object]
) -> None:
    name = write(FILE)
    state = state_of(name)
    model = loaded(name, wrap(state), tmp_path)
    for key, value in model.stages["eda"].state_dict().items():
        assert torch.equal(value, state[f"eda.{key}"])
    fusion = model.stages["fusion"].state_dict()
    assert set(fusion) == {"gain", "head.weight", "head.bias"}
    assert all(torch.equal(value, state[key]) for key, value in fusion.items())


def test_the_fusion_computes_what_fuse_does(write: Callable[[str], str], tmp_path: Path) -> None:
    name = write(FILE)
    state = state_of(name)
    features = torch.randn(2, 4, 3)
    found: Tensor = loaded(name, state, tmp_path).stages["fusion"](features)
    hidden = features * state["gain"] + torch.arange(4.0)[:, None] + 1
    assert torch.allclose(found, (hidden @ state["head.weight"].T + state["head.bias"]).squeeze(-1))


@pytest.mark.parametrize("line", ["from beside_{} import WIDTH", "from .beside_{} import WIDTH"])
def test_files_beside_it_are_imported(write: Callable[[str], str], tmp_path: Path, line: str) -> None:
    kind = "package" if line.startswith("from .") else "script"
    (tmp_path / f"beside_{kind}.py").write_text("WIDTH = 3\n")
    own = own_system(write(line.format(kind) + FILE.replace("nn.Linear(3, 1)", "nn.Linear(WIDTH, 1)")))
    assert own.name == "mine"


def test_a_dataclass_in_the_file_knows_its_module(write: Callable[[str], str]) -> None:
    first = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    own = own_system(write(f"{first}{FILE}\n@dataclass\nclass Sizes:\n    width: int = 3\n"))
    assert own.stages == ("eda", "fusion")


def test_two_files_of_one_name_are_two_models(tmp_path: Path) -> None:
    names: list[System] = []
    for folder, model in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "my_model.py"
        path.write_text(FILE.replace('name="mine"', f'name="{model}"'))
        names.append(own_system(f"{path}:Mine"))
    assert [own.name for own in names] == ["first", "second"]


def test_an_encoder_without_weights_needs_none(write: Callable[[str], str], tmp_path: Path) -> None:
    pooled = "nn.Sequential(nn.AdaptiveAvgPool1d(3), nn.Flatten())"
    name = write(FILE.replace("nn.Sequential(nn.Flatten(), nn.Linear(8, 3))", pooled))
    assert loaded(name, state_of(name), tmp_path).stages["eda"](torch.randn(1, 1, 8)).shape == (1, 3)


def test_one_stage_is_exported_with_the_parameters_of_the_class(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    name = write(FILE)
    state = state_of(name)
    path = tiny.save(tmp_path / "my.pt", state)
    words = ["export", name, "--checkpoint", str(path), "--only", "fusion", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    graph = onnx.load(tmp_path / "out" / "stages" / "fusion.fp32.onnx").graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert any(one.shape == (3,) and (one == state["gain"].numpy()).all() for one in arrays)


# what its checkpoint may hold


@pytest.mark.parametrize(
    "body",
    [
        "self.head = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 1))",
        "self.head = nn.Linear(3, 1); self.module = nn.Linear(3, 3)",
        "self.head = nn.Linear(3, 1); self.network = nn.ModuleList([Block()])",
        "self.head = nn.Linear(3, 1); self.tcn = nn.Module(); self.tcn.network = nn.ModuleList([Block()])",
        "self.head = nn.Linear(3, 1); self.LayerNorm = Scaled()",
    ],
)
def test_a_plain_state_dict_comes_back_whatever_its_keys_look_like(
    write: Callable[[str], str], tmp_path: Path, body: str
) -> None:
    parts = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Linear(3, 3), nn.Linear(3, 3)
        self.net = nn.Sequential(self.conv1, nn.ReLU(), nn.ReLU(), nn.ReLU(), self.conv2)

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
"""
    name = write(SPEC + parts + CLASS.replace("self.head = nn.Linear(3, 1)", body))
    state = state_of(name)
    found = loaded(name, state, tmp_path).stages["fusion"].state_dict()
    fusion = {key: value for key, value in state.items() if not key.startswith("eda.")}
    assert found.keys() == fusion.keys()
    # two names of one tensor hold what stands under the later one
    assert all(torch.equal(found[key], fusion[key]) for key in fusion if ".conv" not in key)


def with_buffer(value: str) -> str:
    return FILE.replace("self.head =", f"self.register_buffer('mask', {value})\n        self.head =")


@pytest.mark.parametrize(
    "value",
    ["torch.full((4, 4), float('-inf')).triu(1)", "torch.zeros(0)", "torch.ones(2, dtype=torch.complex64)"],
)
def test_buffers_of_any_kind_come_back(write: Callable[[str], str], tmp_path: Path, value: str) -> None:
    name = write(with_buffer(value))
    fresh = own_system(name).build(Found({}, {})).stages["fusion"].get_buffer("mask").clone()
    assert torch.equal(loaded(name, state_of(name) | {"mask": fresh}, tmp_path).stages["fusion"].mask, fresh)


@pytest.mark.parametrize(
    ("value", "saved", "found"),
    [
        ("torch.full((2,), float('-inf'))", [float("inf")] * 2, "2 of 2 numbers NaN, infinite"),
        ("torch.full((2,), float('-inf'))", [float("-inf"), float("nan")], "1 of 2 numbers NaN, infinite"),
        ("torch.zeros(2)", [float("-inf"), 0.0], "1 of 2 numbers NaN, infinite"),
        ("torch.zeros(2)", [1j, 0.0], "(2,) complex64"),
        ("torch.ones(2, dtype=torch.complex64)", [1.0, 0.0], "(2,) float32"),
    ],
)
def test_other_infinities_and_kinds_than_the_models_own_are_refused(
    write: Callable[[str], str], tmp_path: Path, value: str, saved: list[complex], found: str
) -> None:
    name = write(with_buffer(value))
    with pytest.raises(DataError) as caught:
        loaded(name, state_of(name) | {"mask": torch.tensor(saved)}, tmp_path)
    kind = "complex64" if "complex" in value else "float32"
    assert f"mask: expected (2,) {kind}, found {found}" in str(caught.value)


def test_where_no_stage_is_found_the_first_keys_are_shown(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    name = write(FILE)
    with pytest.raises(DataError) as caught:
        loaded(name, tiny.under("net.", state_of(name)), tmp_path)
    assert "lacks weights of eda" in str(caught.value)
    assert "my.pt with 'net.eda.1.weight', 'net.eda.1.bias', 'net.gain', …" in str(caught.value)


def test_a_models_own_name_does_not_bring_shipped_weights(write: Callable[[str], str]) -> None:
    assert shipped_weights(system("jmt-tiny")) is not None
    assert shipped_weights(own_system(write(FILE.replace('name="mine"', 'name="jmt-tiny"')))) is None


# numbers that no checkpoint holds


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("self.scale = torch.rand(3)", "scale"),
        ("self.scale = float(torch.rand(()))", "scale"),
        ("self.scales = {'a': [torch.rand(3).numpy()]}", "scales['a'][0]"),
        ("self.register_buffer('scale', torch.rand(3), persistent=False)", "scale"),
        ("self.eda[1].scale = torch.rand(3)", "eda.1.scale"),
        ("self.parts = [nn.Linear(3, 3)]", "parts[0].bias, parts[0].weight"),
        ("self.twice = self.head.weight * 2", "twice"),
    ],
)
def test_random_numbers_outside_the_state_dict_are_refused(
    write: Callable[[str], str], line: str, named: str
) -> None:
    name = write(FILE.replace("        self.gain", f"        {line}\n        self.gain"))
    with pytest.raises(DataError) as caught:
        own_system(name).build(Found({}, {}))
    assert f"other numbers each time it is built in {named}." in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "self.scale = torch.linspace(0, 1, 3)",
        "self.scale = float('nan')",
        "self.parts = [self.head, self.head.weight, self.head.weight.t()]",
        "self.register_buffer('scale', torch.rand(3))",
        "self.rnn = nn.LSTM(3, 3)",
        "self.made_at = __import__('time').perf_counter_ns()",
    ],
)
def test_numbers_that_are_the_same_each_time_or_in_the_state_dict_are_taken(
    write: Callable[[str], str], line: str
) -> None:
    name = write(FILE.replace("        self.gain", f"        {line}\n        self.gain"))
    torch.manual_seed(3)
    model = own_system(name).build(Found({}, {}))
    torch.manual_seed(3)
    first = own_system(name).build(Found({}, {})).state_dict()
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items())


# random weights


def randomly(name: str) -> ZooModel:
    return load_weights(own_system(name), Checkpoint(random=True), 0, lambda _: None)[0]


@pytest.mark.parametrize("head", ["nn.Linear(3, 1)", "nn.Linear(3, 1, bias=False)"])
def test_random_heads_are_scaled_with_or_without_a_bias(write: Callable[[str], str], head: str) -> None:
    model = randomly(write(FILE.replace("nn.Linear(3, 1)", head)))
    outputs = np.concatenate([one.arrays["output.arousal"] for one in make_sessions(model)])
    assert 0.05 < np.nanstd(outputs) < 2


def test_batch_norms_of_a_masked_fusion_see_its_mask(write: Callable[[str], str]) -> None:
    masked = FILE.replace('warm_up="withhold"', 'warm_up="mask", has_present_input=True').replace(
        'shape=("batch", 4, 3)),)',
        'shape=("batch", 4, 3)), TensorSpec(name="there", axes=("batch", "modality", "steps"), '
        'shape=("batch", 1, 4), dtype="bool"))',
    )
    masked = masked.replace("self.head =", "self.norm = nn.BatchNorm1d(3)\n        self.head =")
    masked = masked.replace(
        "def fuse(self, eda):",
        "def fuse(self, eda, there):\n        eda = self.norm((eda * there.mT).mT).mT",
    )
    norm = randomly(write(masked)).stages["fusion"].norm
    assert int(norm.num_batches_tracked) > 0
    assert not torch.equal(norm.running_mean, torch.zeros(3))


def test_random_features_of_other_sizes_are_refused(write: Callable[[str], str]) -> None:
    text = FILE.replace('shape=("batch", 4, 3)', 'shape=("batch", 4, 5)').replace(
        "nn.Linear(3, 1)", "nn.Linear(5, 1)"
    )
    name = write(text.replace("torch.ones(3)", "torch.ones(5)"))
    with pytest.raises(
        DataError, match=r"Expected: a feature of 5 numbers .* Found: 3 numbers from stage eda"
    ):
        randomly(name)


@pytest.mark.parametrize(("seed", "bound"), [("-1", "equal to 0"), (str(2**32), "equal to 4294967295")])
def test_a_seed_is_a_whole_number_of_32_bits(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: str, bound: str
) -> None:
    assert main(["export", write(FILE), "--random", "--seed", seed, "--out", str(tmp_path / "out")]) == 2
    assert "Invalid value for '--seed': Input should be " in (said := capsys.readouterr().err)
    assert bound in said


# golden sessions


@pytest.mark.parametrize("hop", [1, 2, 3, 4, 5, 7])
def test_a_golden_session_ends_with_a_prediction(write: Callable[[str], str], hop: int) -> None:
    model = randomly(write(FILE.replace('warm_up="withhold"', f'warm_up="withhold", hop={hop}')))
    for session in make_sessions(model):
        arousal = session.arrays["output.arousal"]
        assert len(arousal) % hop == 0
        assert np.isfinite(arousal[-1])


# words


def wordy(write: Callable[[str], str], n_known: int = N_TOKENS) -> str:
    return write(WORDY.replace("N_TOKENS", str(n_known)))


def save_vocabulary(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder / "vocab.txt"


def test_a_tokenizer_comes_as_a_part_and_lies_where_it_is_declared(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    name = wordy(write, len(WORDS))
    state = {
        **tiny.under("eda.", tiny.randomized(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3)))),
        "text.weight": torch.rand(len(WORDS), 3),
        "gain": torch.ones(3),
        "head.weight": torch.ones(1, 3),
        "head.bias": torch.zeros(1),
    }
    path = tiny.save(tmp_path / "my.pt", state)
    model = import_model(own_system(name), [path, f"vocabulary={save_vocabulary(tmp_path)}"]).model
    assert {place: n_tokens(data) for place, data in model.assets.items()} == {"my/words.json": len(WORDS)}
    assert model.n_tokens("text") == len(WORDS)
    assert model.n_tokens("eda") is None
    session = make_sessions(model)[0]
    assert np.isfinite(session.arrays["output.arousal"][-1])
    with pytest.raises(DataError, match=r"--checkpoint vocabulary=FILE: the tokenizer of its words"):
        import_model(own_system(name), [path])
    import_model(own_system(name), [path], only="fusion")


def test_words_of_a_model_of_ones_own_go_all_the_way(write: Callable[[str], str], tmp_path: Path) -> None:
    """Exported, proven, and run on a body and what it says; another transcript gives other numbers."""
    state = {
        "eda.1.weight": torch.full((3, 8), 0.01),
        "eda.1.bias": torch.zeros(3),
        "text.weight": torch.rand(len(WORDS), 3, generator=torch.Generator().manual_seed(0)),
        "gain": torch.ones(3),
        "head.weight": torch.full((1, 3), 0.02),
        "head.bias": torch.zeros(1),
    }
    weights = ["--checkpoint", str(tiny.save(tmp_path / "my.pt", state))]
    weights += ["--checkpoint", f"vocabulary={save_vocabulary(tmp_path)}"]
    bundle = tmp_path / "bundle"
    assert main(["export", wordy(write, len(WORDS)), *weights, "--out", str(bundle)]) == 0
    assert (bundle / "my" / "words.json").is_file()
    assert main(["verify", str(bundle)]) == 0
    simulated = [
        word
        for number, kind in enumerate(("--data", "--data", "--data", "--data", "--check"))
        for word in (kind, f"sim:seed=1&person={number}&duration_s=12&streams=eda+text&eda_hz=16")
    ]
    half = tmp_path / "half"
    assert main(["calibrate", str(bundle), "--out", str(half), "--precision", "fp16", *simulated]) == 0
    assert (half / "my" / "words.json").is_file()
    assert main(["verify", str(half)]) == 0
    estimates = []
    for word in ("so", "ha"):
        said = tmp_path / f"{word}.jsonl"
        said.write_text(json.dumps({"words": [{"word": word, "start": 2.0, "end": 4.5}]}) + "\n")
        out = tmp_path / f"out-{word}.jsonl"
        body = "sim:seed=1&person=3&duration_s=12&streams=eda&eda_hz=16"
        sources = ["--source", body, "--source", f"transcript:{said}"]
        assert main(["run", str(bundle), *sources, "--sink", f"jsonl:{out}", "--fast"]) == 0
        records = [json.loads(line) for line in out.read_text().splitlines()]
        estimates.append({r["t_end_ns"]: r["affect"]["arousal"] for r in records if r["affect"]})
    assert estimates[0].keys() == estimates[1].keys()
    differ = [t_ns for t_ns, value in estimates[0].items() if value != estimates[1][t_ns]]
    assert differ
    assert min(differ) > 2_000_000_000
    assert len(differ) < len(estimates[0])


def test_a_vocabulary_of_more_words_than_the_encoder_knows_is_refused(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    path = tiny.save(tmp_path / "my.pt", {"text.weight": torch.rand(len(WORDS) - 1, 3)})
    with pytest.raises(DataError, match=r"text fails .*, of the vocabulary's 7 tokens\. Found: IndexError"):
        import_model(
            own_system(wordy(write, len(WORDS) - 1)), [path, f"vocabulary={save_vocabulary(tmp_path)}"]
        )


def test_a_model_that_does_not_wait_for_its_words_is_told_how_long_they_take(
    write: Callable[[str], str],
) -> None:
    hasty = randomly(wordy(write))
    encoders = (hasty.spec.encoders[0], hasty.spec.encoders[1].model_copy(update={"offset": Fraction(1)}))
    spec = hasty.spec.model_copy(update={"encoders": encoders})
    with pytest.raises(DataError, match=r"an offset of [23] s or more: .* Found: 1 s\."):
        make_sessions(dataclasses.replace(hasty, spec=spec))


def test_random_weights_read_the_words_of_simulated_people(write: Callable[[str], str]) -> None:
    assert list(randomly(wordy(write)).assets) == ["my/words.json"]


# what is wrong


BROKEN = {
    "def broken(:\n": (3, "cannot be run", "SyntaxError"),
    "raise RuntimeError('no data here')\n": (3, "cannot be run", "RuntimeError: no data here"),
    "import sys\nsys.exit(4)\n": (3, "cannot be run", "SystemExit: 4"),
    "import no_such_package_of_mine\n": (3, "cannot be run", "No module named 'no_such_package_of_mine'"),
    "": (2, "has no model 'Mine'", "nothing of that name"),
    "Mine = 3\n": (2, "has no model 'Mine'", "something of type int"),
    "class Mine: pass\n": (2, "has no model 'Mine'", "a class derived from object"),
    FILE.replace("spec = SPEC", ""): (2, "`spec`", "Found: none"),
    FILE.replace("spec = SPEC", "spec = {}"): (2, "`spec`", "Found: one of type dict"),
    FILE.replace("def fuse", "def forward"): (2, "a method `fuse`", "Found: none"),
    FILE.replace("def __init__(self):", "def __init__(self, width):"): (
        3,
        "cannot be built without arguments",
        "missing 1 required positional argument: 'width'",
    ),
    FILE.replace("self.eda =", "self.skin ="): (2, "a submodule for each encoder: eda", "skin, head"),
    FILE.replace('"arousal": "head"', '"arousal": "tail"'): (
        2,
        "in `last_layers`, for each output the name of a linear layer",
        "'tail' of arousal; linear layers are head",
    ),
    FILE.replace('"arousal": "head"', '"arousal": "eda.1"'): (
        2,
        "the name of a linear layer of the fusion",
        "'eda.1' of arousal; linear layers are head",
    ),
    FILE.replace('"arousal": "head"', '"arousl": "head"'): (
        2,
        "in `last_layers`, for each output",
        "'arousl', which is no output; outputs are arousal",
    ),
    FILE.replace('{"arousal": "head"}', '["head"]'): (
        2,
        "e.g. {'arousal': 'head'}",
        "something of type list",
    ),
    FILE.replace("self.head(eda", "self.head(eda @ eda"): (
        3,
        "fuse fails on random numbers of the declared inputs: eda (1, 4, 3)",
        "Found: RuntimeError: ",
    ),
    FILE.replace(".squeeze(-1)", ""): (
        3,
        "fuse does not give the declared arousal. Expected: float32 (1, 4).",
        "Found: float32 (1, 4, 1).",
    ),
    FILE.replace("nn.Linear(8, 3))", "nn.Linear(8, 4))"): (
        3,
        "eda does not give the declared feature. Expected: float32 (1, 3).",
        "Found: float32 (1, 4).",
    ),
    FILE.replace("        return self.head", "        return 1, self.head"): (
        3,
        "fuse does not give the declared arousal. Expected: float32 (1, 4).",
        "Found: int, float32 (1, 4).",
    ),
    FILE.replace('"withhold"', '"never"'): (
        3,
        "cannot be run",
        "ValidationError of Fusion: warm_up: Input should be 'mask', ",
    ),
    FILE.replace('shape=("batch", 3)', 'shape=("batch", "feature")'): (
        3,
        "cannot be run",
        "ValidationError of TensorSpec: tensor feature: the size of axis 'feature' is a number from 1 on",
    ),
    FILE.replace('modality="eda"', 'modality="emg"'): (
        2,
        "a modality among visual, audio, eda, ecg, ppg, rsp, skt, text",
        "Found: emg",
    ),
    FILE.replace('modality="eda"', 'modality="emg"'): (2, "simulated people have no emg", "Found: emg"),
    FILE.replace('modality="eda"', 'modality="audio"'): (
        2,
        "preprocess = LogMel or VggishLogMel",
        "Found: Signal",
    ),
    FILE.replace('modality="eda"', 'modality="visual"'): (2, "= FaceClip or SceneClip", "Found: Signal"),
    FILE.replace('unit="uS"', 'unit="mV"'): (2, "unit='uS'", "Found: 'mV'"),
}


def said_by(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a command line that ends with this code."""
    assert main(words) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    messages = [line for line in said.err.splitlines() if line.startswith("edge-mer: ")]
    assert len(messages) == 1
    return said.err[said.err.index("edge-mer: ") :]


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_declares_no_model_is_refused(
    text: str, write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, what, found = BROKEN[text]
    tiny.save(tmp_path / "my.pt", {"eda.1.weight": torch.zeros(3, 8)})
    checkpoint, out = str(tmp_path / "my.pt"), tmp_path / "out"
    message = said_by(["export", write(text), "--checkpoint", checkpoint, "--out", str(out)], code, capsys)
    assert what in message
    assert found in message
    assert "Next:" in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "found"), [("nothing.py:Mine", "no such file"), ("folder.py:Mine", "a folder")]
)
def test_no_file_is_refused(
    name: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.py").mkdir()
    message = said_by(["export", str(tmp_path / name), "--out", str(tmp_path / "out")], 2, capsys)
    assert f"Expected: a Python file. Found: {found}." in message


def test_a_file_without_a_class_is_no_model() -> None:
    with pytest.raises(
        UsageError, match=r"my_model\.py is a file, not a model\. .* give my_model\.py:Name\."
    ):
        system("my_model.py")


def test_a_stage_that_cannot_be_written_is_a_usage_error(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(FILE)
    path = tiny.save(tmp_path / "my.pt", state_of(name))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stages").write_text("in the way")
    words = ["export", name, "--checkpoint", str(path), "--only", "eda", "--out", str(tmp_path / "out")]
    assert "cannot write" in said_by(words, 2, capsys)


def test_random_weights_need_the_last_layers(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(FILE.replace('last_layers = {"arousal": "head"}', ""))
    message = said_by(["export", name, "--random", "--out", str(tmp_path / "out")], 2, capsys)
    assert "model mine does not say which layer gives arousal" in message
    assert "`last_layers` in its declaration" in message


def test_a_checkpoint_that_does_not_fit_is_listed_whole(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(FILE)
    state = state_of(name)
    del state["eda.1.bias"], state["gain"]
    state |= {"head.weight": torch.zeros(1, 4), "eda.2.weight": torch.zeros(2), "tail": torch.zeros(1)}
    path = tiny.save(tmp_path / "my.pt", state)
    words = ["export", name, "--checkpoint", str(path), "--out", str(tmp_path / "out")]
    message = said_by(words, 3, capsys)
    for line in (
        "problems: 5",
        "my.pt: eda.1.bias: expected (3,) float32, found nothing",
        "my.pt: gain: expected (3,) float32, found nothing",
        "my.pt: head.weight: expected (1, 3) float32, found (1, 4) float32",
        "my.pt: 'eda.2.weight': expected no such key, found (2,) float32",
        "my.pt: 'tail': expected no such key, found (1,) float32",
    ):
        assert line in message
    assert not (tmp_path / "out").exists()


def test_a_folder_as_checkpoint_is_refused(
    write: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", write(FILE), "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out")]
    message = said_by(words, 3, capsys)
    assert "the state_dict of Mine, as torch.save or safetensors write it" in message
