"""Model repositories for Triton: what is written for each system, what is refused, and what a check finds."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="a repository is checked with onnx")
pytest.importorskip("tritonclient.grpc", reason="needs Triton's client: pip install 'edge-mer[triton]'")
pytest.importorskip("torch", reason="the zoo declares its models in PyTorch: pip install 'edge-mer[export]'")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli.main import Verb, load, main
from edge_mer.engine import cache
from edge_mer.errors import BundleError, EdgeMerError, MissingError, UsageError
from edge_mer.runtime.build import engine_key
from edge_mer.runtime.target_tensorrt import TensorRtTarget
from edge_mer_export.triton import repository as repository_module
from edge_mer_export.triton.check import check_repository
from edge_mer_export.triton.options import Instances, Options, parse_instances, parse_platform
from edge_mer_export.triton.repository import write_repository
from tests.helpers.stand_in_bundle import published, write_stand_in
from tests.helpers.tiny_words import tokenizer_bytes

pytestmark = pytest.mark.workbench

PUBLISHED = ("jmt", "jca", "rjcma", "jmt-pain", "group")
SYSTEMS = (*PUBLISHED, "jmt-tiny", "pain-tiny", "group-tiny", "stress-e4", "voice-emodb")
FULL_SIZE = Path(__file__).resolve().parents[3] / "build" / "bench"


def stand_in(folder: Path, name: str) -> Bundle:
    return write_stand_in(folder / name, published(name), tokenizer_bytes())


def config_of(folder: Path, model: str) -> Any:
    return text_format.Parse((folder / model / "config.pbtxt").read_text(), pb.ModelConfig())


def change(folder: Path, model: str, edit: Callable[[Any], object]) -> None:
    config = config_of(folder, model)
    before = config.SerializeToString(deterministic=True)
    edit(config)
    assert config.SerializeToString(deterministic=True) != before
    (folder / model / "config.pbtxt").write_text(text_format.MessageToString(config))


# -- what is written -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system(name: str, tmp_path: Path) -> None:
    bundle = stand_in(tmp_path, name)
    model = bundle.manifest.model
    folder = tmp_path / "models"
    made = write_repository(bundle, folder, Options())
    begin = name.replace("-", "_")
    assert made.models == tuple(f"{begin}_{stage}" for stage in (*model.stages, "stream"))
    assert made.n_checks > 100
    assert check_repository(bundle, folder) == made.n_checks
    for encoder in model.encoders:
        config = config_of(folder, f"{begin}_{encoder.stage}")
        assert config.output[0].dims[-1] == encoder.feature
        assert config.dynamic_batching.preferred_batch_size == [4, 8]
    stream = config_of(folder, f"{begin}_stream")
    steps = [model.fusion.hop] if model.fusion.hop > 1 else []
    assert list(stream.input[0].dims) == [*steps, model.encoders[0].feature]
    rings = {one.input_name: list(one.dims) for one in stream.sequence_batching.state}
    for encoder, spec in zip(model.encoders, model.fusion.inputs, strict=False):
        assert rings[f"ring.{spec.name}"] == [model.fusion.n_steps, encoder.feature]
    assert ("ring.present" in rings) == model.fusion.has_present_input
    assert "{" not in (folder / "README.md").read_text().replace("{'", ""), "every place is filled in"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PUBLISHED, "jmt-tiny"])
def test_every_system_at_full_size(name: str, tmp_path: Path) -> None:
    path = FULL_SIZE / name / "bundle"
    if not path.is_dir():
        pytest.skip(f"needs {path}: make bench-all")
    bundle = open_bundle(path)
    for precision in bundle.precisions:
        made = write_repository(bundle, tmp_path / "models", Options(precision=precision), replace=True)
        assert made.n_checks > 100
        shutil.rmtree(tmp_path / "models")


@pytest.mark.parametrize(
    ("name", "output", "labels"),
    [
        ("group", "emotion", ["positive", "neutral", "negative"]),
        ("jmt-pain", "logits", ["no pain", "pain"]),
        ("voice-emodb", "emotion", None),
        ("pain-tiny", "pain", None),
    ],
)
def test_labels_name_the_numbers_of_one_step(
    name: str, output: str, labels: list[str] | None, tmp_path: Path
) -> None:
    bundle = stand_in(tmp_path, name)
    folder = tmp_path / "models"
    write_repository(bundle, folder, Options())
    begin, model = name.replace("-", "_"), bundle.manifest.model
    for stage in ("fusion", "stream"):
        config = config_of(folder, f"{begin}_{stage}")
        file = config.output[0].label_filename
        if stage == "fusion" and "steps" in model.fusion.outputs[0].axes:
            assert not file, "Triton would count through the steps"
            continue
        lines = (folder / f"{begin}_{stage}" / file).read_text().splitlines()
        assert len(lines) == config.output[0].dims[-1]
        assert labels is None or lines == labels


def test_samples_to_warm_up_with_are_golden_inputs(shared_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shared_bundle)
    folder = tmp_path / "models"
    write_repository(bundle, folder, Options())
    golden = bundle.read_arrays(bundle.manifest.golden.sessions[0])
    found = np.fromfile(folder / "jmt_tiny_visual" / "warmup" / "clip.raw", "<f4")
    assert np.array_equal(found, golden["input.visual"][0].ravel())
    (sample,) = config_of(folder, "jmt_tiny_visual").model_warmup
    assert list(sample.inputs["clip"].dims) == [3, 4, 48, 48]
    found = np.fromfile(folder / "jmt_tiny_fusion" / "warmup" / "audio.raw", "<f4")
    assert np.array_equal(found, golden["feature.audio"][-8:].ravel())


def test_words_are_warmed_up_with_tokens_of_what_was_said(tmp_path: Path) -> None:
    bundle = stand_in(tmp_path, "rjcma")
    write_repository(bundle, tmp_path / "models", Options())
    config = config_of(tmp_path / "models", "rjcma_text")
    assert [list(one.dims) for one in config.input] == [[-1]]
    (sample,) = config.model_warmup
    ids = np.fromfile(tmp_path / "models" / "rjcma_text" / "warmup" / "ids.raw", "<i8")
    assert list(sample.inputs["ids"].dims) == [len(ids)]
    assert len(ids) >= 4, "two words between the tokens that begin and end"


def test_what_a_user_chooses_stands_in_the_configuration(shared_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shared_bundle)
    options = Options(
        precision="int8-cpu",
        name="ward 3",
        max_batch=16,
        max_queue_delay_us=500,
        max_sequence_idle_s=2.5,
        max_sequences=12,
        instances=parse_instances(["cpu:2"]),
    )
    made = write_repository(bundle, tmp_path / "models", options)
    assert made.models == ("ward_3_visual", "ward_3_audio", "ward_3_fusion", "ward_3_stream")
    visual = config_of(tmp_path / "models", "ward_3_visual")
    assert (visual.max_batch_size, list(visual.dynamic_batching.preferred_batch_size)) == (16, [8, 16])
    assert visual.dynamic_batching.max_queue_delay_microseconds == 500
    assert [(one.kind, one.count) for one in visual.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 2)]
    assert visual.parameters["edge_mer_precision"].string_value == "int8-cpu"
    assert visual.parameters["edge_mer_bundle_id"].string_value == bundle.bundle_id
    assert visual.parameters["edge_mer_step_s"].string_value == "4/15"
    stream = config_of(tmp_path / "models", "ward_3_stream").sequence_batching
    assert stream.max_sequence_idle_microseconds == 2_500_000
    assert stream.oldest.max_candidate_sequences == 12
    data = (tmp_path / "models" / "ward_3_visual" / "1" / "model.onnx").read_bytes()
    assert data == bundle.read_stage("int8-cpu", "visual")


def test_a_batch_of_one_waits_for_nobody(shared_bundle: Path, tmp_path: Path) -> None:
    write_repository(open_bundle(shared_bundle), tmp_path / "models", Options(max_batch=1))
    config = config_of(tmp_path / "models", "jmt_tiny_visual")
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


# -- TensorRT --------------------------------------------------------------------------------------

HERE = {"tensorrt": "10.3.0", "cuda_driver": "13.0", "gpu": "a GPU", "compute_capability": "8.7"}


def built(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, max_batch: int) -> None:
    """What `build-engine --target tensorrt` leaves in the cache, with plans that nobody could run."""
    monkeypatch.setattr(TensorRtTarget, "environment", lambda _: HERE)
    one = {"smallest": {"batch": 1}, "usual": {"batch": 1}, "largest": {"batch": 1}}
    more = {**one, "largest": {"batch": max_batch}}
    profiles = [one] if max_batch == 1 else [one, more]
    target, model = TensorRtTarget(), bundle.manifest.model
    from edge_mer import __version__

    record = {
        "bundle": bundle.bundle_id,
        "target": "tensorrt",
        "edge_mer": __version__,
        "precision": "int8-trt",
        "environment": HERE,
        "settings": {"max_batch": max_batch},
        "built": {"stages": {stage: {"profiles": profiles} for stage in model.stages}},
    }
    plans = {f"{stage}.plan": f"plan of {stage}".encode() for stage in model.stages}
    cache.store(engine_key(bundle, target, HERE), record, plans)


def test_plans_that_were_built_here(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(shared_bundle)
    built(bundle, monkeypatch, 4)
    write_repository(bundle, tmp_path / "models", Options(platform="tensorrt"))
    visual = config_of(tmp_path / "models", "jmt_tiny_visual")
    assert (visual.platform, visual.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert visual.max_batch_size == 4
    (group,) = visual.instance_group
    assert (group.kind, list(group.profile)) == (pb.ModelInstanceGroup.KIND_GPU, ["1"])
    assert visual.parameters["edge_mer_precision"].string_value == "int8-trt"
    plan = tmp_path / "models" / "jmt_tiny_visual" / "1" / "model.plan"
    assert plan.read_bytes() == b"plan of visual"
    stream = config_of(tmp_path / "models", "jmt_tiny_stream")
    assert stream.platform == "onnxruntime_onnx"
    assert stream.parameters["edge_mer_precision"].string_value == "fp32"
    assert not any(one.profile for one in stream.instance_group)


def test_plans_that_do_not_fit_are_refused(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(shared_bundle)

    def refused(**options: Any) -> str:
        with pytest.raises(EdgeMerError) as caught:
            write_repository(bundle, tmp_path / "models", Options(platform="tensorrt", **options))
        assert not (tmp_path / "models").exists()
        return str(caught.value)

    assert "was not built for TensorRT here" in refused()
    built(bundle, monkeypatch, 1)
    assert "Expected: --max-batch 1 or less" in refused(max_batch=8)
    assert "Expected: fp16. Found: int8-trt" in refused(precision="fp16")
    assert "on a GPU only" in refused(instances=(Instances("cpu"),))
    monkeypatch.setattr(TensorRtTarget, "environment", lambda _: {**HERE, "tensorrt": "11.4.0"})
    assert "does not fit this device" in refused()


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(precision="int8"), "did you mean int8-trt"),
        (Options(precision="bf16"), "has no precision 'bf16'"),
        (Options(precision="fp16"), "Expected: fp32 or int8-cpu"),
        (Options(precision="int8-trt"), "or --platform tensorrt"),
        (Options(precision="int8-cpu", instances=(Instances("gpu"),)), "Expected: fp16 or fp32"),
        (Options(precision="fp16", instances=(Instances("gpu"), Instances("cpu"))), "fp16 well on a CPU"),
    ],
)
def test_what_a_platform_cannot_run(options: Options, said: str, shared_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_repository(open_bundle(shared_bundle), tmp_path / "models", options)
    assert said in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_words_that_are_no_instances_or_platform() -> None:
    assert parse_instances(["cpu", "gpu:3"]) == (Instances("cpu"), Instances("gpu", 3))
    for words in (["cpu:0"], ["tpu:1"], ["cpu:x"], ["cpu:1", "cpu:2"], [""]):
        with pytest.raises(UsageError):
            parse_instances(words)
    with pytest.raises(UsageError, match="Expected: onnx or tensorrt"):
        parse_platform("trt")


def test_places_that_are_taken(shared_bundle: Path, tmp_path: Path) -> None:
    bundle, folder = open_bundle(shared_bundle), tmp_path / "models"
    folder.mkdir()
    write_repository(bundle, folder, Options())
    with pytest.raises(UsageError, match="or add --replace"):
        write_repository(bundle, folder, Options())
    write_repository(bundle, folder, Options(name="other"), replace=True)
    assert not (folder / "jmt_tiny_visual").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "link").symlink_to(folder)
    for place in ("mine", "mine/thesis.txt", "link"):
        with pytest.raises(UsageError, match="is not replaced"):
            write_repository(bundle, tmp_path / place, Options(), replace=True)
    with pytest.raises(UsageError, match="create it first"):
        write_repository(bundle, tmp_path / "no" / "models", Options())


def test_what_does_not_pass_its_check_never_gets_its_name(
    shared_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, folder = open_bundle(shared_bundle), tmp_path / "models"
    write_repository(bundle, folder, Options())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def wrong(*arguments: Any) -> Any:
        config = stage_config(*arguments)
        config.input[0].dims[0] = 5
        return config

    stage_config = repository_module.stage_config
    monkeypatch.setattr(repository_module, "stage_config", wrong)
    with pytest.raises(BundleError, match="jmt_tiny_visual: inputs: clip"):
        write_repository(bundle, folder, Options(max_batch=2), replace=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder], "nothing is left beside it"


def test_a_broken_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (tiny_bundle / "stages" / "audio.fp32.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="was altered"):
        write_repository(bundle, tmp_path / "models", Options())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("library", ["onnx", "tritonclient", "google.protobuf"])
def test_without_its_libraries_it_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith(("edge_mer_export.triton", library))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    verb = Verb("", "edge_mer_export.triton.cli:triton", "triton")
    with pytest.raises(MissingError, match=r"pip install 'edge-mer\[triton\]'"):
        load("bundle triton", verb, "edge_mer.bundle_verbs")


def test_no_pytorch_is_needed() -> None:
    loaded = "import edge_mer_export.triton.cli, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_the_command(shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = str(tmp_path / "models")
    words = ["bundle", "triton", str(shared_bundle), "--out", to]
    assert main([*words, "--precision", "int8-cpu", "--instances", "cpu:2", "--name", "ward"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:4] == ["ward_visual", "ward_audio", "ward_fusion", "ward_stream"]
    assert "checks against the bundle and the files passed" in printed.out
    for more, code in (
        ([], 2),
        (["--replace", "--instances", "tpu:1"], 2),
        (["--replace", "--platform", "tensorrt"], 5),
        (["--replace", "--name", ""], 2),
        (["--replace", "--max-batch", "0"], 2),
    ):
        assert main([*words, *more]) == code, more
        assert "Traceback" not in capsys.readouterr().err
    assert main([*words, "--replace"]) == 0
    assert main(["bundle", "triton", str(tmp_path), "--out", to, "--replace"]) == 3
    assert (tmp_path / "models" / "jmt_tiny_stream").is_dir()


# -- what a check finds ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A model with labels and without a mask, and its repository."""
    folder = tmp_path_factory.mktemp("group")
    bundle = stand_in(folder, "group")
    write_repository(bundle, folder / "models", Options())
    return bundle, folder / "models"


def sequences(config: Any) -> Any:
    return config.sequence_batching


EDITS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "a shape": ("group_visual", lambda c: c.input[0].dims.__setitem__(1, 9), "inputs: clip is"),
    "a type": ("group_visual", lambda c: setattr(c.input[0], "data_type", pb.TYPE_FP16), "inputs: clip is"),
    "a name": ("group_audio", lambda c: setattr(c.output[0], "name", "features"), "outputs is"),
    "one more input": ("group_fusion", lambda c: c.input.add(name="x", dims=[1]), "inputs is"),
    "the model's name": ("group_audio", lambda c: setattr(c, "name", "group_voice"), "its name is"),
    "another bundle": (
        "group_audio",
        lambda c: setattr(c.parameters["edge_mer_bundle_id"], "string_value", "sha256:0"),
        "its bundle is",
    ),
    "another candidate": (
        "group_audio",
        lambda c: setattr(c.parameters["edge_mer_precision"], "string_value", "fp16"),
        "has no precision 'fp16'",
    ),
    "another stage": (
        "group_audio",
        lambda c: setattr(c.parameters["edge_mer_stage"], "string_value", "visual"),
        "the models' stages is",
    ),
    "no batch": ("group_audio", lambda c: setattr(c, "max_batch_size", 0), "a batch of one or more is"),
    "batches preferred": (
        "group_audio",
        lambda c: c.dynamic_batching.preferred_batch_size.append(9),
        "preferred batches fit is",
    ),
    "a platform": ("group_audio", lambda c: setattr(c, "platform", "pytorch"), "a platform that is known is"),
    "memory": (
        "group_fusion",
        lambda c: setattr(sequences(c), "max_sequence_idle_microseconds", 9),
        "memory of sequences is",
    ),
    "a warm-up": (
        "group_visual",
        lambda c: c.model_warmup[0].inputs["clip"].dims.__setitem__(0, 2),
        "warm-up of clip: sizes that fit is",
    ),
    "no warm-up": ("group_visual", lambda c: c.model_warmup.pop(), "samples to warm up with is"),
    "no labels": ("group_stream", lambda c: c.output[0].ClearField("label_filename"), "emotion: a file is"),
    "a ring": (
        "group_stream",
        lambda c: sequences(c).state[0].dims.__setitem__(0, 6),
        "states: ring.visual is",
    ),
    "a ring's type": (
        "group_stream",
        lambda c: setattr(sequences(c).state[0], "data_type", pb.TYPE_BOOL),
        "states: ring.visual is",
    ),
    "a state left out": ("group_stream", lambda c: sequences(c).state.pop(), "states is"),
    "a state's way out": (
        "group_stream",
        lambda c: setattr(sequences(c).state[0], "output_name", "emotion"),
        "where it comes out is",
    ),
    "a state's beginning": (
        "group_stream",
        lambda c: sequences(c).state[0].initial_state.pop(),
        "what it starts as is",
    ),
    "the start's control": (
        "group_stream",
        lambda c: sequences(c).control_input[0].control[0].bool_false_true.__setitem__(1, False),
        "what tells that a sequence starts is",
    ),
    "no sequences": (
        "group_stream",
        lambda c: setattr(sequences(c).oldest, "max_candidate_sequences", 0),
        "sequences that are carried along is",
    ),
    "sequences for ever": (
        "group_stream",
        lambda c: setattr(sequences(c), "max_sequence_idle_microseconds", 0),
        "a time after which",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_configuration_that_was_changed(what: str, group: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, written = group
    folder = Path(shutil.copytree(written, tmp_path / "models"))
    model, edit, said = EDITS[what]
    change(folder, model, edit)
    with pytest.raises(BundleError) as caught:
        check_repository(bundle, folder)
    assert said in str(caught.value)


def label_lost(folder: Path) -> None:
    file = folder / "group_stream" / "emotion.labels.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def labels_swapped(folder: Path) -> None:
    (folder / "group_fusion" / "emotion.labels.txt").write_text("negative\nneutral\npositive\n")


def other_weights(folder: Path) -> None:
    file = folder / "group_visual" / "1" / "model.onnx"
    made = onnx.load(file)
    made.graph.initializer[-1].raw_data = bytes(len(made.graph.initializer[-1].raw_data))
    onnx.save(made, file)


def stream_edited(edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def change_it(folder: Path) -> None:
        file = folder / "group_stream" / "1" / "model.onnx"
        made = onnx.load(file)
        edit(made)
        onnx.save(made, file)

    return change_it


def batch_fixed(made: Any) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def newest_in_front(made: Any) -> None:
    for node in made.graph.node:
        if node.op_type == "Concat" and node.output[0].startswith("ring."):
            kept, newest = node.input
            del node.input[:]
            node.input.extend([newest, kept])


def too_new(made: Any) -> None:
    made.ir_version = 12


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a label lost": (label_lost, "labels of emotion is ['positive', 'neutral'], not"),
    "labels swapped": (labels_swapped, "labels of emotion is"),
    "labels gone": (lambda f: (f / "group_fusion" / "emotion.labels.txt").unlink(), "cannot be read"),
    "other weights": (other_weights, "1/model.onnx: sha256 is"),
    "a sample cut": (
        lambda f: (f / "group_audio" / "warmup" / "log_mel.raw").write_bytes(b"1234"),
        "warm-up of log_mel: bytes is 4, not 25856",
    ),
    "a sample gone": (lambda f: (f / "group_audio" / "warmup" / "log_mel.raw").unlink(), "bytes is nothing"),
    "no file": (lambda f: (f / "group_audio" / "1" / "model.onnx").unlink(), "model.onnx is there is False"),
    "no ONNX": (
        lambda f: (f / "group_stream" / "1" / "model.onnx").write_bytes(b"\x00" * 9),
        "is no ONNX file that fits",
    ),
    "no configuration": (lambda f: (f / "group_audio" / "config.pbtxt").unlink(), "config.pbtxt cannot be"),
    "no configuration's text": (
        lambda f: (f / "group_audio" / "config.pbtxt").write_text("name: 7"),
        "config.pbtxt cannot be read",
    ),
    "one model too many": (
        lambda f: shutil.copytree(f / "group_audio", f / "group_copy"),
        "group_copy: its name is",
    ),
    "one model too few": (lambda f: shutil.rmtree(f / "group_stream"), "the models' stages is"),
    "a fixed batch": (stream_edited(batch_fixed), "a free batch axis is False"),
    "too new a file": (stream_edited(too_new), "IR version 12"),
    "another arithmetic": (stream_edited(newest_in_front), "emotion is off by"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_was_changed(what: str, group: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, written = group
    folder = Path(shutil.copytree(written, tmp_path / "models"))
    edit, said = FILES[what]
    edit(folder)
    with pytest.raises(BundleError) as caught:
        check_repository(bundle, folder)
    assert said in str(caught.value)


def test_every_problem_is_told(group: tuple[Bundle, Path], tmp_path: Path) -> None:
    bundle, written = group
    folder = Path(shutil.copytree(written, tmp_path / "models"))
    label_lost(folder)
    change(folder, "group_visual", EDITS["a shape"][1])
    change(folder, "group_stream", EDITS["a ring"][1])
    with pytest.raises(BundleError) as caught:
        check_repository(bundle, folder)
    for said in ("labels of emotion", "inputs: clip is", "states: ring.visual is"):
        assert said in str(caught.value)


def test_an_output_of_one_number_without_steps(tmp_path: Path) -> None:
    """Triton's shapes have a number at least; the model's has none."""
    model = published("group")
    from edge_mer.types.model import AffectOutput, TensorSpec

    fusion = model.fusion.model_copy(
        update={"outputs": (TensorSpec(name="valence", axes=("batch",), shape=("batch",)),)}
    )
    model = model.model_copy(update={"fusion": fusion, "outputs": (AffectOutput(name="valence"),)})
    bundle = write_stand_in(tmp_path / "bundle", type(model).model_validate(model.model_dump()))
    write_repository(bundle, tmp_path / "models", Options())
    (output,) = config_of(tmp_path / "models", "group_fusion").output
    assert (list(output.dims), output.HasField("reshape"), list(output.reshape.shape)) == ([1], True, [])
    with pytest.raises(MissingError):
        write_repository(bundle, tmp_path / "other", Options(platform="tensorrt"))
