"""Import of trained weights: what is read, what is refused, and how it is said."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")
safetensors_torch = pytest.importorskip(
    "safetensors.torch", reason="the workbench needs safetensors: pip install 'edge-mer[export]'"
)

from torch import Tensor

from edge_mer.errors import DataError, UsageError
from edge_mer_export import weight_files
from edge_mer_export.checkpoint import CheckpointReport, import_model
from edge_mer_export.models import jmt, r2plus1d, resnet_audio, tsav
from edge_mer_export.models.spec_jmt import JMT
from edge_mer_export.models.zoo import Found, Route, System, ZooModel, build, system

pytestmark = pytest.mark.workbench

FILES = {"visual": "vision_r2d1.pt", "audio": "audio_resnet18.pt", "fusion": "fusion_w.pt"}
DEAD = "mm_transformer.final_encoder.layers.0.layer_norm1.weight"


def small_system() -> System:
    """A model small enough for many files, with the published layout of files."""
    dead = {"visual": r2plus1d.DEAD_KEYS, "audio": resnet_audio.DEAD_KEYS, "fusion": jmt.DEAD_KEYS}

    def build_tiny(found: Found) -> ZooModel:
        tiny = build("jmt-tiny")
        return ZooModel(tiny.spec, tiny.stages, tiny.last_layers, dead)

    visual = dataclasses.replace(tsav.VISUAL, routes=(Route("", "visual"),))
    parts = tuple(visual if part.name == "visual" else part for part in JMT.parts)
    return System("jmt-tiny", JMT.stages, build_tiny, parts)


def load(path: Path | str, of: System | None = None) -> tuple[ZooModel, CheckpointReport]:
    imported = import_model(of or small_system(), [path])
    return imported.model, imported.report


def trained(seed: int = 3) -> dict[str, Tensor]:
    """Weights that no fresh model has."""
    generator = torch.Generator().manual_seed(seed)
    state = build("jmt-tiny").state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for key, value in state.items()
    }


def of_stage(state: dict[str, Tensor], stage: str) -> dict[str, Any]:
    return {
        key.removeprefix(f"{stage}."): value for key, value in state.items() if key.startswith(f"{stage}.")
    }


def save_folder(folder: Path, state: dict[str, Tensor]) -> None:
    for stage, name in FILES.items():
        torch.save(of_stage(state, stage), folder / name)


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a torch.save file holds; `change` may return something else to save."""
    state = torch.load(path, weights_only=True)
    torch.save(change(state) or state, path)


def assert_holds(model: ZooModel, state: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value), key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_folder(tmp_path, trained())
    return tmp_path


# what is read


def test_own_file_comes_back(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", trained()
    safetensors_torch.save_file(state, path)
    model, report = load(path, system("jmt-tiny"))
    assert_holds(model, state)
    assert report.sha256 == {"weights.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert report.n_params == sum(p.numel() for module in model.stages.values() for p in module.parameters())
    assert (report.n_params_dead, report.dropped) == (0, ())


def test_published_folder_comes_back(folder: Path) -> None:
    model, report = load(folder)
    assert_holds(model, trained())
    assert sorted(report.sha256) == sorted(FILES.values())
    assert report.sha256["fusion_w.pt"] == hashlib.sha256((folder / "fusion_w.pt").read_bytes()).hexdigest()


def test_data_parallels_prefix_is_stripped(folder: Path) -> None:
    rewrite(folder / "fusion_w.pt", lambda state: {f"module.{key}": value for key, value in state.items()})
    model, _ = load(folder)
    assert_holds(model, trained())


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_scores_as_numpy_scalars_may_stand_beside_the_weights(folder: Path, module: str) -> None:
    path = folder / "fusion_w.pt"
    rewrite(path, lambda state: {"net": state, "best_Val_acc": np.float64(0.7), "last": np.float32(0.6)})
    rename_in_pickle(path, b"numpy._core.multiarray", module.encode())
    model, _ = load(folder)
    assert_holds(model, trained())


def rename_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Make a torch.save file name another module, as one written with another NumPy does."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(old, new) if name.endswith("data.pkl") else data)


def test_old_torch_files_are_read(folder: Path) -> None:
    path = folder / "audio_resnet18.pt"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    model, _ = load(folder)
    assert_holds(model, trained())


def test_dead_keys_are_dropped_and_counted(folder: Path) -> None:
    rewrite(folder / "fusion_w.pt", lambda state: state.update({DEAD: torch.ones(12)}))
    rewrite(folder / "audio_resnet18.pt", lambda state: state.update({"resnet.fc.bias": torch.ones(5)}))
    _, report = load(folder)
    dead = {file.name: file.n_params_dead for file in report.files}
    assert dead == {"fusion_w.pt": 12, "vision_r2d1.pt": 0, "audio_resnet18.pt": 5}
    assert report.n_params_dead == 17
    assert report.dropped == ("mm_transformer.final_encoder.*", "resnet.fc.*")


def test_batch_counts_may_be_absent_and_halves_are_widened(folder: Path) -> None:
    def change(state: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        return {key: value.double() if key.endswith("bias") else value for key, value in kept.items()}

    rewrite(folder / "audio_resnet18.pt", change)
    model, _ = load(folder)
    for key, value in trained().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(model.state_dict()[key], value), key


# what is refused


def refusal(path: Path | str, of: System | None = None) -> str:
    """The refusal's message."""
    with pytest.raises(DataError) as caught:
        load(path, of)
    return str(caught.value)


def test_every_problem_is_in_one_message(folder: Path) -> None:
    def change_fusion(state: dict[str, Any]) -> None:
        del state["vregressor.3.bias"]
        state["aregressor.0.weight"] = torch.zeros(128, 80)
        state["mm_transformer.gated_attention.weight"] = torch.zeros(1, 160)
        state["mm_transformer.out_layer_pv.bias"][3] = float("nan")

    def change_audio(state: dict[str, Any]) -> None:
        state["resnet.bn1.weight"] = torch.zeros(16, dtype=torch.int64)
        state["resnet.bn1.bias"] = 0.5
        state["resnet.bn1.running_var"] = torch.full((16,), 1e300, dtype=torch.float64)

    rewrite(folder / "fusion_w.pt", change_fusion)
    rewrite(folder / "audio_resnet18.pt", change_audio)
    text = refusal(folder)
    for line in (
        "problems: 7",
        "fusion_w.pt: vregressor.3.bias: expected (1,) float32, found nothing",
        "fusion_w.pt: aregressor.0.weight: expected (64, 80) float32, found (128, 80) float32",
        "fusion_w.pt: 'mm_transformer.gated_attention.weight': expected no such key, found (1, 160) float32",
        "fusion_w.pt: mm_transformer.out_layer_pv.bias: expected (80,) float32, found 1 of 80 numbers NaN",
        "audio_resnet18.pt: resnet.bn1.weight: expected (16,) float32, found (16,) int64",
        "audio_resnet18.pt: resnet.bn1.bias: expected (16,) float32, found a float",
        "audio_resnet18.pt: resnet.bn1.running_var: expected (16,) float32, found 16 of 16 numbers NaN",
    ):
        assert line in text


def test_own_file_for_another_model_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.safetensors", trained()
    state["fusion.vregressor.0.weight"] = torch.zeros(128, 80)
    state["text.encoder.weight"] = torch.zeros(2)
    safetensors_torch.save_file(state, path)
    text = refusal(path, system("jmt-tiny"))
    assert "fusion.vregressor.0.weight: expected (64, 80) float32, found (128, 80) float32" in text
    assert "'text.encoder.weight': expected no such key, found (2,) float32" in text


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_code_is_refused(folder: Path, new_format: bool) -> None:
    mark = folder / "executed"
    state = {**of_stage(trained(), "fusion"), "extra": Bomb(mark)}
    torch.save(state, folder / "fusion_w.pt", _use_new_zipfile_serialization=new_format)
    text = refusal(folder)
    assert "nothing in it was executed" in text
    assert "re-save it as a plain state_dict" in text
    assert not mark.exists()


def test_a_whole_module_is_refused(folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), folder / "fusion_w.pt")
    assert "nothing in it was executed" in refusal(folder)


@pytest.mark.parametrize("held", [[torch.zeros(2)], {3: torch.zeros(2)}, torch.zeros(2), {"net": {0: 1}}])
def test_what_is_no_state_dict_is_refused(folder: Path, held: Any) -> None:
    torch.save(held, folder / "fusion_w.pt")
    assert "holds no state_dict" in refusal(folder)


def test_keys_with_and_without_prefix_are_refused(folder: Path) -> None:
    rewrite(folder / "fusion_w.pt", lambda state: state.update({"module.vregressor.3.bias": torch.zeros(1)}))
    assert "both with and without `module.`" in refusal(folder)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_cut_pickle_is_refused(folder: Path, cut: int) -> None:
    path = folder / "fusion_w.pt"
    path.write_bytes(path.read_bytes()[:cut])
    assert "fusion_w.pt" in refusal(folder)


@pytest.mark.parametrize(
    "data", [b"PK\x03\x04 not a zip", b"PK\x05\x06" + bytes(18), pickle.dumps({"a": 1}), b"\x80"]
)
def test_a_foreign_file_is_refused(folder: Path, data: bytes) -> None:
    (folder / "fusion_w.pt").write_bytes(data)
    assert "fusion_w.pt" in refusal(folder)


@pytest.mark.parametrize("cut", [0, 4, 100, 5000])
def test_a_cut_safetensors_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors_torch.save_file(trained(), path)
    path.write_bytes(path.read_bytes()[:cut])
    assert "is not a whole safetensors file" in refusal(path, system("jmt-tiny"))


def test_a_file_over_the_bound_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors_torch.save_file(trained(), path)
    monkeypatch.setattr(weight_files, "MAX_FILE_BYTES", path.stat().st_size - 1)
    assert "is too large for a checkpoint" in refusal(path, system("jmt-tiny"))


def test_a_zip_bomb_is_refused_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "fusion_w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(20_000_000))
    monkeypatch.setattr(weight_files, "MAX_FILE_BYTES", 10_000_000)
    assert path.stat().st_size < 100_000
    assert "is too large for a checkpoint" in refusal(folder)


def test_parts_that_are_absent_are_named(folder: Path) -> None:
    (folder / "fusion_w.pt").unlink()
    (folder / "vision_r2d1.pt").unlink()
    text = refusal(folder)
    assert "lacks weights of visual and fusion" in text
    assert "--checkpoint fusion=fusion_w.pt" in text
    assert "--checkpoint visual=vision_r2d1.pt" in text


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing.pt", "nowhere/weights"])
def test_a_path_to_nothing_is_refused(tmp_path: Path, name: str) -> None:
    text = refusal(tmp_path / name)
    assert "a folder with the published files, or fusion=fusion_w.pt" in text
    assert "no such file" in text


def test_a_file_without_the_name_of_its_part_is_told_by_its_keys(folder: Path) -> None:
    imported = import_model(small_system(), [folder / name for name in FILES.values()])
    assert_holds(imported.model, trained())


def test_one_stage_alone_needs_only_its_file(folder: Path) -> None:
    imported = import_model(small_system(), [f"fusion={folder / 'fusion_w.pt'}"], only="fusion")
    found = imported.model.stages["fusion"].state_dict()
    expected = of_stage(trained(), "fusion")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_file_of_another_part_is_named(folder: Path) -> None:
    text = refusal(f"fusion={folder / 'audio_resnet18.pt'}")
    assert "is not part fusion of model jmt-tiny" in text
    assert "Found: a ResNet18 of spectrograms" in text


def test_a_part_given_twice_is_refused(folder: Path) -> None:
    files = [folder / "fusion_w.pt", f"fusion={folder / 'fusion_w.pt'}"]
    with pytest.raises(UsageError, match="part fusion of model jmt-tiny was given twice"):
        import_model(small_system(), files)


def test_an_unknown_part_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no part 'voice'"):
        import_model(small_system(), [f"voice={folder / 'audio_resnet18.pt'}"])


def test_unknown_settings_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot use --set heads=4"):
        import_model(small_system(), [folder], ["heads=4"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "has no file of model jmt-tiny" in refusal(tmp_path)


def test_a_model_without_published_files_takes_no_folder(folder: Path) -> None:
    assert "has no file of model jmt-tiny" in refusal(folder, system("jmt-tiny"))


def folded(g: Tensor, v: Tensor) -> Tensor:
    return g * v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    "ends",
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")],
)
def test_weight_norms_are_folded_and_aliases_dropped(tmp_path: Path, ends: tuple[str, str]) -> None:
    g, v = torch.rand(3, 1, 1), torch.randn(3, 2, 5)
    state = {f"a.network.0.conv1.{ends[0]}": g, f"a.network.0.conv1.{ends[1]}": v}
    state |= {key.replace("conv1", "net.0"): value for key, value in state.items()}
    torch.save(state, tmp_path / "w.pt")
    read = weight_files.read_weights(tmp_path / "w.pt", published=True)
    assert list(read.values) == ["a.network.0.conv1.weight"]
    assert torch.allclose(read.values["a.network.0.conv1.weight"], folded(g, v))
    assert read.n_params == {"a.network.0.conv1.weight": 3 + 30}


@pytest.mark.parametrize(
    "keys",
    [
        ["conv.weight_g", "conv.weight_v"],
        ["conv.parametrizations.weight.original0", "conv.parametrizations.weight.original1"],
        ["tcn.network.0.conv1.weight", "tcn.network.0.net.0.weight"],
        ["LayerNorm.gamma", "LayerNorm.beta"],
        ["module.weight", "head.weight"],
    ],
)
def test_keys_of_a_file_that_is_not_of_published_code_stay(tmp_path: Path, keys: list[str]) -> None:
    torch.save(dict.fromkeys(keys, torch.ones(2, 1, 1)), tmp_path / "w.pt")
    assert list(weight_files.read_weights(tmp_path / "w.pt").values) == keys


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_stands_before_every_key_is_stripped(tmp_path: Path, prefix: str, published: bool) -> None:
    torch.save({f"{prefix}{key}": torch.ones(2) for key in ("a.weight", "b")}, tmp_path / "w.pt")
    read = weight_files.read_weights(tmp_path / "w.pt", published=published)
    assert list(read.values) == ["a.weight", "b"]


@pytest.mark.parametrize("wrapper", ["net", "state_dict", "model_state_dict", "model"])
def test_a_state_dict_may_be_wrapped(tmp_path: Path, wrapper: str) -> None:
    torch.save({wrapper: {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "w.pt")
    assert list(weight_files.read_weights(tmp_path / "w.pt").values) == ["a"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(DataError, match="is a pipe or a device"):
        weight_files.read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("published", [True, False])
def test_sparse_weights_are_refused_by_name(folder: Path, published: bool) -> None:
    key = "vregressor.3.weight"
    rewrite(folder / "fusion_w.pt", lambda state: state.update({key: state[key].to_sparse()}))
    weight_files.read_weights(folder / "fusion_w.pt", published=published)
    line = "vregressor.3.weight: expected (1, 64) float32, found (1, 64) float32, torch.sparse_coo"
    assert line in refusal(folder)


def test_an_alias_that_differs_is_refused(tmp_path: Path) -> None:
    state = {"network.0.conv2.bias": torch.zeros(3), "network.0.net.4.bias": torch.ones(3)}
    torch.save({f"t.{key}": value for key, value in state.items()}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"net\.4\.bias differs from"):
        weight_files.read_weights(tmp_path / "w.pt", published=True)


def test_a_path_that_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    text = refusal(tmp_path / ("x" * 300) / "weights.safetensors")
    assert "cannot read" in text
