"""Checkpoints and options that cannot be used: one message each on the command line, nothing written."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
safetensors_torch = pytest.importorskip(
    "safetensors.torch", reason="the workbench needs safetensors: pip install 'edge-mer[export]'"
)

from edge_mer.cli.main import main
from edge_mer_export.models.jmt import FeatureConcat
from tests.helpers import tiny_checkpoints as tiny

pytestmark = pytest.mark.workbench

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command line that must fail with one message and write nothing."""

    def run(*words: object, code: int = 3) -> str:
        out = tmp_path / "out"
        before = sorted(out.rglob("*")) if out.exists() else None
        assert main(["export", *map(str, words), "--out", str(out)]) == code
        said = capsys.readouterr()
        assert said.out == ""
        assert "Traceback" not in said.err
        assert said.err.count("edge-mer: ") == 1
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        message = said.err[said.err.index("edge-mer: ") :]
        assert "internal error" not in message
        return message

    return run


@pytest.fixture
def fusion(tmp_path: Path) -> Path:
    return tiny.save(tmp_path / "fusion_w.pt", tiny.randomized(tiny.jmt()))


def alone(path: Path, part: str = "fusion", system: str = "jmt") -> list[str]:
    return [system, "--checkpoint", f"{part}={path}", "--only", "fusion"]


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    state = torch.load(path, weights_only=True)
    change(state)
    return tiny.save(path, state)


# files of another system

FUSIONS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "jmt": (lambda: tiny.randomized(tiny.jmt()), "the fusion of JMT", "jmt --checkpoint fusion="),
    "jca": (lambda: tiny.randomized(tiny.jca_dense()), "the fusion of JCA", "jca --checkpoint fusion="),
    "rjcma": (tiny.one_target, "RJCMA's model of one target", "rjcma --checkpoint valence="),
    "jmt-pain": (
        lambda: tiny.randomized(tiny.pain()),
        "the fusion of JMT for pain",
        "jmt-pain --checkpoint fusion=",
    ),
}
PAIRS = [(given, to) for given in FUSIONS for to in FUSIONS if given != to]


@pytest.mark.parametrize(("given", "to"), PAIRS)
@pytest.mark.parametrize("named", [True, False])
def test_the_fusion_of_another_system_is_named(
    given: str, to: str, named: bool, tmp_path: Path, refused: Refused
) -> None:
    make, what, command = FUSIONS[given]
    path = tiny.save(tmp_path / "weights.pt", make())
    message = refused(to, "--checkpoint", f"fusion={path}" if named else path)
    assert f"model {to}" in message
    assert "Expected: " in message
    assert f"Found: {what}." in message
    assert f"Next: edge-mer export {command}{path}." in message


@pytest.mark.parametrize("system", ["jca", "jmt"])
def test_a_part_of_the_same_system_is_named_in_it(system: str, tmp_path: Path, refused: Refused) -> None:
    path = tiny.save(tmp_path / "weights.pt", tiny.tsav())
    message = refused(system, "--checkpoint", f"fusion={path}")
    assert "Found: the two TSAV backbones" in message
    assert f"Next: edge-mer export {system} --checkpoint tsav={path}" in message


def test_keys_of_nothing_known_are_named(tmp_path: Path, refused: Refused) -> None:
    path = tiny.save(tmp_path / "weights.pt", {"weight": torch.zeros(2)})
    message = refused("jmt", "--checkpoint", path)
    assert "is no checkpoint of model jmt" in message
    assert "fusion=fusion_w.pt" in message
    assert "Found: keys of nothing known" in message


# keys that do not fit


def test_a_missing_part_is_named(fusion: Path, tmp_path: Path, refused: Refused) -> None:
    audio = tiny.save(tmp_path / "audio.pt", tiny.randomized(tiny.voice()))
    message = refused("jmt", "--checkpoint", f"fusion={fusion}", "--checkpoint", f"audio={audio}")
    assert "model jmt lacks weights of visual" in message
    assert "for visual: --checkpoint visual=vision_r2d1.pt or --checkpoint tsav=" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: state.pop("vregressor.3.bias"),
            "vregressor.3.bias: expected (1,) float32, found nothing",
        ),
        (
            lambda state: state.update(extra=torch.zeros(2)),
            "'extra': expected no such key, found (2,) float32",
        ),
        (
            lambda state: state.update({"aregressor.3.weight": torch.zeros(2, 5)}),
            "aregressor.3.weight: expected (1, 5) float32, found (2, 5) float32",
        ),
        (
            lambda state: state["aregressor.3.weight"].fill_(float("nan")),
            "aregressor.3.weight: expected (1, 5) float32, found 5 of 5 numbers NaN, infinite",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_named(
    change: Callable[[dict[str, Any]], Any], said: str, fusion: Path, refused: Refused
) -> None:
    message = refused(*alone(changed(fusion, change)))
    assert f"checkpoint {fusion} does not fit model jmt; problems: 1" in message
    assert f"fusion_w.pt: {said}" in message
    assert "Next: " in message


# files that are none


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Found: an empty file."),
        (b"# My weights\n\nThey are elsewhere.\n", "Found: text, '# My weights'."),
        (b"version https://git-lfs.github.com/spec/v1\n", "Found: text, 'version https://git-lfs"),
        (b"<!DOCTYPE html>\n<html>", "Found: text, '<!DOCTYPE html>'."),
        (bytes(100), "Found: neither."),
        (safetensors_torch.save({"a": torch.zeros(2)}), "Found: a safetensors file."),
    ],
)
def test_a_file_that_holds_no_weights_is_named(
    data: bytes, said: str, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "fusion_w.pt"
    path.write_bytes(data)
    message = refused(*alone(path))
    assert f"{path} is no file of weights. Expected: what torch.save wrote" in message
    assert said in message
    assert "Next: copy or download it again" in message


@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_named(new_format: bool, fusion: Path, refused: Refused) -> None:
    torch.save(tiny.randomized(tiny.jmt()), fusion, _use_new_zipfile_serialization=new_format)
    fusion.write_bytes(fusion.read_bytes()[:2000])
    message = refused(*alone(fusion))
    assert f"{fusion} is not a whole torch.save file. Found: 2000 bytes" in message
    assert "Next: copy it again" in message


def test_a_truncated_safetensors_file_is_named(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "fusion.safetensors"
    safetensors_torch.save_file(tiny.randomized(tiny.jmt()), path)
    path.write_bytes(path.read_bytes()[:2000])
    assert "is not a whole safetensors file" in refused(*alone(path))


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path, refused: Refused) -> None:
    mark = tmp_path / "executed"
    state = {**tiny.randomized(tiny.jmt()), "extra": Bomb(mark)}
    message = refused(*alone(tiny.save(tmp_path / "fusion_w.pt", state)))
    assert "nothing in it was executed" in message
    assert "mkdir" in message
    assert not mark.exists()


def test_a_pickle_of_a_whole_module_is_named(tmp_path: Path, refused: Refused) -> None:
    message = refused(*alone(tiny.save(tmp_path / "fusion_w.pt", torch.nn.Linear(2, 2))))
    assert "Found: torch.nn.modules.linear.Linear" in message
    assert "re-save it as a plain state_dict" in message


def test_a_tensor_without_end_is_refused_unread(tmp_path: Path, refused: Refused) -> None:
    state = {**tiny.randomized(tiny.jmt()), "extra": torch.zeros(1).expand(1_000_000, 1_000_000)}
    message = refused(*alone(tiny.save(tmp_path / "fusion_w.pt", state)))
    assert "is too large for a checkpoint" in message


@pytest.mark.parametrize("words", [("jmt", "fusion"), ("rjcma", "vocabulary")])
def test_an_unreadable_file_is_named(
    words: tuple[str, str], fusion: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.open

    def deny(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == fusion:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", deny)  # root may read everything
    system, part = words
    message = refused(*alone(fusion, part, system))
    assert f"cannot read {fusion}" in message
    assert "Found: Permission denied. Next: check the path and its permissions" in message


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path, refused: Refused) -> None:
    message = refused(*alone(tmp_path))
    assert f"cannot read {tmp_path}. Expected: a file for part fusion" in message
    assert "Found: a folder" in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path, refused: Refused) -> None:
    message = refused(*alone(tmp_path / "nothing.pt"))
    assert "Expected: a file for part fusion" in message
    assert "Found: no such file" in message


# options that exclude each other, or name nothing


def test_a_part_given_twice_is_named(fusion: Path, refused: Refused) -> None:
    message = refused(*alone(fusion), "--checkpoint", f"fusion={fusion}", code=2)
    assert "part fusion of model jmt was given twice" in message


def test_an_unknown_part_is_named(fusion: Path, refused: Refused) -> None:
    message = refused(*alone(fusion, "voice"), code=2)
    assert "model jmt has no part 'voice'" in message
    assert "Expected: one of fusion, visual, audio" in message


@pytest.mark.parametrize("setting", ["heads=4", "num_heads", "num_heads=none"])
def test_an_unknown_setting_is_named(setting: str, fusion: Path, refused: Refused) -> None:
    message = refused(*alone(fusion), "--set", setting, code=2)
    assert f"model jmt: cannot use --set {setting}" in message
    assert "a whole number from 1 to 64" in message


@pytest.mark.parametrize("heads", ["3", "16"])
def test_heads_that_do_not_divide_the_feature_are_named(heads: str, fusion: Path, refused: Refused) -> None:
    message = refused(*alone(fusion), "--set", f"num_heads={heads}", code=2)
    assert f"{heads} heads do not divide a feature of 8" in message


def test_an_unknown_stage_is_named(fusion: Path, refused: Refused) -> None:
    message = refused("jmt", "--checkpoint", f"fusion={fusion}", "--only", "head", code=2)
    assert "model jmt has no stage 'head'" in message
    assert "audio or visual or fusion or visual-fusion or audio-fusion" in message


def test_one_stage_without_weights_is_refused(refused: Refused) -> None:
    message = refused("jmt", "--only", "fusion", code=2)
    assert "--only fusion needs weights" in message
    assert "Next: add --checkpoint" in message


def test_random_weights_and_a_checkpoint_exclude_each_other(fusion: Path, refused: Refused) -> None:
    message = refused(*alone(fusion), "--random", code=2)
    assert "--random and --checkpoint exclude each other" in message


# where it is written


def test_one_stage_is_not_put_into_a_bundle(fusion: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text("{}")
    message = refused(*alone(fusion), code=2)
    assert "is a bundle, which is whole as it is" in message
    assert "Next: give another --out" in message


def test_one_stage_is_not_put_into_a_file(fusion: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "out").write_text("mine")
    message = refused(*alone(fusion), code=2)
    assert "Expected: a folder. Found: a file." in message
    assert (tmp_path / "out").read_text() == "mine"


def test_a_stage_is_replaced_only_when_asked_to(tmp_path: Path, refused: Refused) -> None:
    fusion = tiny.save(tmp_path / "fusion_w.pt", FeatureConcat(tiny.D, 5).state_dict())
    path = tmp_path / "out" / "stages" / "fusion.fp32.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    message = refused(*alone(fusion), code=2)
    assert f"{path} exists already" in message
    assert "Next: give another --out or add --replace" in message
    assert path.read_bytes() == b"mine"
    assert main(["export", *alone(fusion), "--out", str(tmp_path / "out"), "--replace"]) == 0
    assert path.read_bytes() != b"mine"
    assert [one.name for one in path.parent.iterdir()] == [path.name]
