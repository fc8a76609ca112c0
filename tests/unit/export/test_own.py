"""A user's own model: what is taken, and what is wrong with the file or the checkpoint."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
onnx = pytest.importorskip("onnx", reason="the workbench needs ONNX: pip install 'edge-mer[export]'")

from torch import Tensor

from edge_mer.cli.main import main
from edge_mer_export.checkpoint import import_model
from edge_mer_export.models.own import own_system
from edge_mer_export.models.zoo import Found, System, ZooModel
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
        "'tail' of arousal; linear layers are eda.1, head",
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
    FILE.replace('"withhold"', '"never"'): (3, "cannot be run", "ValidationError"),
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
