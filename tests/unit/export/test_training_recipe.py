"""Recipes: what is refused, in one message; who is learned from; and the page that explains them."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.main import get_command

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

from edge_mer.cli.main import verb_app
from edge_mer.errors import DataError, UsageError
from edge_mer.labels.manifest import Recording, Split
from edge_mer.runtime.labelled import ranges_of, truth_of
from edge_mer.sources.sim import SimSource
from edge_mer_export.models.zoo import MODELS, build
from edge_mer_export.training import run
from edge_mer_export.training.data import recordings_of, split_by_person
from edge_mer_export.training.recipe import (
    SHIPPED,
    Data,
    FusionPhase,
    Phase,
    Recipe,
    SimulatedPeople,
    read_recipe,
)
from edge_mer_export.training.run import check_phases

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.workbench

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how-to-train.md").read_text(encoding="utf-8")
PHASE = "epochs = 2\nbatch_size = 4\nlearning_rate = 1e-3\n"
PHASES = f"[backbones.visual]\n{PHASE}[backbones.audio]\n{PHASE}[fusion]\n{PHASE}"
PEOPLE = "[data.simulated]\nfirst_person = 3\nn_train = 2\nn_valid = 1\nn_steps = 3\n"


def written(folder: Path, text: str) -> str:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_recipe(written(folder, text))
    return str(caught.value)


# --- what is refused --------------------------------------------------------------------------------


def test_a_recipe_is_read(tmp_path: Path) -> None:
    text = f'model = "jmt-tiny"\n{PEOPLE}{PHASES}dropout = 0\n'
    read = read_recipe(written(tmp_path, text))
    assert (read.text, read.folder) == (text, tmp_path)
    assert read.recipe.data.simulated == SimulatedPeople(first_person=3, n_train=2, n_valid=1, n_steps=3)
    assert read.recipe.fusion == FusionPhase(epochs=2, batch_size=4, learning_rate=1e-3)


def test_one_message_lists_every_fault(tmp_path: Path) -> None:
    text = (
        f"model = 7\nsead = 1\nseed = -1\n{PEOPLE.replace('n_train = 2', 'n_train = 0')}"
        '[backbones.visual]\nepochs = "2"\nbatch_size = true\nlearning_rate = 1e-3\npatienc = 4\n'
        "[backbones.audio]\nepochs = 2.5\nbatch_size = 1\nlearning_rate = 0\ndropout = 1.0\n"
    )
    said = refused(tmp_path, text)
    assert said.startswith(f"recipe {tmp_path}/recipe.toml cannot be used:\n")
    faults = dict(line.removesuffix(".").split(": ", 1) for line in said.splitlines()[1:])
    assert {name.strip() for name in faults} == {
        "model",
        "sead",
        "seed",
        "data.simulated.n_train",
        *(f"backbones.visual.{key}" for key in ("epochs", "batch_size", "patienc")),
        *(f"backbones.audio.{key}" for key in ("epochs", "batch_size", "learning_rate", "dropout")),
    }
    assert faults["  sead"] == faults["  backbones.visual.patienc"] == "there is no such key"


def test_data_is_of_one_kind(tmp_path: Path) -> None:
    for data in (f'[data]\nmanifest = "people.csv"\n{PEOPLE}', "[data]\nvalid_share = 0.5\n"):
        said = refused(tmp_path, f'model = "jmt-tiny"\n{data}{PHASES}')
        assert "\n  data: give either [data.simulated] or a manifest" in said


def test_windows_are_not_dropped_twice(tmp_path: Path) -> None:
    text = f'model = "jmt-tiny"\n{PEOPLE}{PHASES}modality_dropout = 0.7\nstep_dropout = 0.4\n'
    assert "fusion: modality_dropout and step_dropout are together more" in refused(tmp_path, text)


@pytest.mark.parametrize("text", ["model = ", "[data\n", "model = 'a'\nmodel = 'b'\n", "\x00"])
def test_what_is_no_toml(tmp_path: Path, text: str) -> None:
    said = refused(tmp_path, text)
    assert said.startswith(f"cannot read recipe {tmp_path}/recipe.toml. Found: ")


def test_what_is_no_text_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "recipe.toml", tmp_path / "folder.toml"):
        (tmp_path / "folder.toml").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="cannot read recipe"):
            read_recipe(str(path))


@pytest.mark.parametrize("name", ["jmt-tinny", "nowhere/at-all.toml", "gone.toml"])
def test_no_such_recipe(name: str) -> None:
    with pytest.raises(UsageError, match=r"no recipe .* one of group-tiny, jmt-tiny, pain-tiny"):
        read_recipe(name)


def test_phases_are_those_of_the_model(tmp_path: Path) -> None:
    text = f'model = "jmt-tiny"\n{PEOPLE}{PHASES}'.replace("backbones.audio", "backbones.eda")
    with pytest.raises(
        UsageError, match=r"do not fit model jmt-tiny\. Expected: audio, visual\. Found: eda, visual"
    ):
        check_phases(build("jmt-tiny").spec, read_recipe(written(tmp_path, text)).recipe)


def test_only_one_step_of_one_encoder_does_without_a_fusion_of_its_own(tmp_path: Path) -> None:
    phases = PHASES.split("[fusion]")[0]
    recipe = read_recipe(written(tmp_path, f'model = "jmt-tiny"\n{PEOPLE}{phases}')).recipe
    with pytest.raises(UsageError, match=r"no \[fusion\].* since model jmt-tiny fuses several"):
        check_phases(build("jmt-tiny").spec, recipe)


@pytest.mark.parametrize(
    ("model", "found"), [("rjcma", "text, which reads utterances"), ("jmt-pain", "eda, which reads 4 steps")]
)
def test_what_is_not_trained_step_by_step_is_refused(model: str, found: str, tmp_path: Path) -> None:
    text = f'model = "{model}"\n{PEOPLE}{PHASES}'
    with torch.device("meta"), pytest.raises(UsageError, match=found):
        check_phases(build(model).spec, read_recipe(written(tmp_path, text)).recipe)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_fit_their_models_and_leave_people_for_judging(path: Path) -> None:
    from edge_mer_calibration.evaluation import simulated_people

    read = read_recipe(path.stem)
    assert read.recipe.model == path.stem
    spec = build(read.recipe.model).spec
    check_phases(spec, read.recipe)
    if read.recipe.data.manifest is not None:  # real people, who do not come along
        assert "build" in Path(read.recipe.data.manifest).parts
        return
    recordings, warning = recordings_of(spec, read)
    judged = {one.person for one in simulated_people(spec, 1000, 1)}
    assert warning == ""
    assert not judged & {one.person for one in recordings}


# --- simulated people -------------------------------------------------------------------------------


def test_simulated_people_are_all_different_and_last_long_enough(tmp_path: Path) -> None:
    spec = build("pain-tiny").spec
    text = f'model = "pain-tiny"\n{PEOPLE}keys = "fps=15"\n{PHASES}'.replace("audio", "eda")
    recordings, _ = recordings_of(spec, read_recipe(written(tmp_path, text)))
    assert [(one.person, one.split) for one in recordings] == [("3", "train"), ("4", "train"), ("5", "valid")]
    for one in recordings:
        (uri,) = one.sources
        assert f"person={one.person}&" in uri
        assert uri.endswith("&pain=1&fps=15")
        duration_s = float(re.findall(r"duration_s=([0-9.]+)", uri)[0])
        # 5.5 s of EDA that end 2 s after the step: 6 steps of 0.5 s reach before the start
        assert duration_s == pytest.approx(0.5 * (3 + 6) + 2, abs=0.5)


def test_simulated_pain_is_on_the_scale_of_the_levels() -> None:
    spec = build("pain-tiny").spec
    uri = "sim:seed=3&person=2&pain=1&duration_s=30"
    times_ns = range(0, 30_000_000_000, 250_000_000)
    found = truth_of(Recording("a", "a", (uri,), None), ranges_of(spec)).at(times_ns, 0)
    felt = SimSource(uri.removeprefix("sim:")).truth(times_ns)["pain"]
    assert felt.max() == 1
    assert found.keys() == {"pain"}
    assert found["pain"].tolist() == (4 * felt).tolist()


# --- who is learned from ----------------------------------------------------------------------------


def recording(person: str, number: int = 0, split: Split | None = None) -> Recording:
    return Recording(f"{person}{number}", person, (f"file:{person}{number}.mp4",), Path("x"), None, split)


def test_people_are_never_on_both_sides() -> None:
    recordings = [recording(f"p{i}", number) for number in range(3) for i in range(20)]
    split = split_by_person(recordings, 0.25, seed=0)
    assert [one.name for one in split] == [one.name for one in recordings]
    sides = {name: {one.person for one in split if one.split == name} for name in ("train", "valid")}
    assert not sides["train"] & sides["valid"]
    assert (len(sides["train"]), len(sides["valid"])) == (15, 5)


def test_a_split_depends_on_the_seed_alone() -> None:
    recordings = [recording(f"p{i}") for i in range(20)]

    def valid(seed: int, people: list[Recording] = recordings) -> set[str]:
        return {one.person for one in split_by_person(people, 0.25, seed) if one.split == "valid"}

    assert valid(0) == valid(0) == valid(0, recordings[::-1])
    assert len({frozenset(valid(seed)) for seed in range(8)}) > 4


def test_given_splits_are_kept_and_test_people_left_out() -> None:
    recordings = [
        recording("ann", 0, "valid"),
        recording("ben", 0, "train"),
        recording("cleo", 0, "test"),
        recording("cleo", 1, "test"),
        *(recording(f"p{i}") for i in range(10)),
    ]
    for seed in range(5):
        found = {one.person: one.split for one in split_by_person(recordings, 0.3, seed)}
        assert (found["ann"], found["ben"]) == ("valid", "train")
        assert "cleo" not in found
        assert sum(found[f"p{i}"] == "valid" for i in range(10)) == 3


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_two_people_are_enough(share: float) -> None:
    found = split_by_person([recording("ann"), recording("ben")], share, seed=0)
    assert {one.split for one in found} == {"train", "valid"}
    one_given = split_by_person([recording("ann", 0, "train"), recording("ben")], share, seed=0)
    assert {one.person: one.split for one in one_given} == {"ann": "train", "ben": "valid"}
    one_given = split_by_person([recording("ann", 0, "valid"), recording("ben")], 0.2, seed=0)
    assert {one.person: one.split for one in one_given} == {"ann": "valid", "ben": "train"}


@pytest.mark.parametrize(
    ("recordings", "found"),
    [
        ([recording("ann", 0), recording("ann", 1)], "1 for train"),
        ([recording("ann", 0, "valid")], "1 for valid"),
        (
            [recording("ann"), recording("ben", 0, "test"), recording("cleo", 0, "test")],
            "2 for test, 1 for train",
        ),
    ],
)
def test_one_person_is_too_few(recordings: list[Recording], found: str) -> None:
    with pytest.raises(
        UsageError, match=rf"nobody is left for the split .*at least two people.*Found: {found}"
    ):
        split_by_person(recordings, 0.2, seed=0)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    text = f'model = "jmt-tiny"\n[data]\nmanifest = "people.csv"\n{PHASES}'
    with pytest.raises(DataError, match=r"people\.csv\n +! there is no such manifest"):
        recordings_of(build("jmt-tiny").spec, read_recipe(written(tmp_path, text)))


def test_only_spectrograms_are_shifted_and_masked(tmp_path: Path) -> None:
    read = read_recipe(written(tmp_path, f'model = "jmt-tiny"\n{PEOPLE}{PHASES}mask_bands = 2\n'))
    with pytest.raises(UsageError, match=r"shifts or masks .* for fusion.*Expected: these keys for audio"):
        check_phases(build("jmt-tiny").spec, read.recipe)


@pytest.mark.parametrize("key", ["balance = 1", "smoothing = 0.1"])
def test_only_classes_are_balanced_and_smoothed(tmp_path: Path, key: str) -> None:
    read = read_recipe(written(tmp_path, f'model = "jmt-tiny"\n{PEOPLE}{PHASES}{key}\n'))
    with pytest.raises(UsageError, match="balances or smooths classes, and model jmt-tiny has none"):
        check_phases(build("jmt-tiny").spec, read.recipe)


# --- the page ---------------------------------------------------------------------------------------


def explained(heading: str) -> dict[str, str]:
    """Key -> default, of the tables under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| (.+) \|$", section, flags=re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def declared(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The same by the model: "dotted.key" -> default as TOML has it."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        kinds: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is not None:
            key = f"{prefix}{name}.NAME." if name == "backbones" else f"{prefix}{name}."
            found |= declared(inner, key)
            continue
        found[f"{prefix}{name}"] = _default(field.default)
    return found


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "always needed"
    if value is None:
        return "none"
    return f'`"{value}"`' if isinstance(value, str) else f"{value:g}"


def test_every_key_is_explained_with_its_default() -> None:
    everything = declared(Recipe)
    phase = {
        key.removeprefix("fusion."): value for key, value in everything.items() if key.startswith("fusion.")
    }
    rest = {key: value for key, value in everything.items() if not key.startswith(("fusion.", "backbones."))}
    assert explained("A recipe") == rest | phase
    assert set(Phase.model_fields) < set(phase)
    assert set(Data.model_fields) == {key.split(".")[1] for key in rest if key.startswith("data.")}


def test_the_example_is_a_recipe(tmp_path: Path) -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    whole = read_recipe(written(tmp_path, examples[0])).recipe
    check_phases(build(whole.model).spec, whole)
    Data.model_validate(tomllib.loads(examples[1])["data"], strict=True)


def test_the_pages_commands_are_ones_that_the_verbs_take() -> None:
    lines = re.findall(r"^edge-mer (.+)$", PAGE, flags=re.MULTILINE)
    named = set()
    for line in lines:
        verb, *words = shlex.split(line)
        get_command(verb_app(verb)).make_context(verb, list(words))
        named |= {(verb, word) for word in words if word.startswith("--")}
    assert {("train", "--out"), ("train", "--resume"), ("export", "--checkpoint")} <= named
    for name in re.findall(r"^\| `([^`]+)` \| [^|]+ \|$", PAGE, flags=re.MULTILINE):
        assert name.rstrip("/") in (run.__doc__ or ""), name


def test_every_model_that_has_a_recipe_is_named() -> None:
    for path in SHIPPED.glob("*.toml"):
        assert f"`{path.stem}`" in PAGE
        assert path.stem in MODELS
