"""Checkpoints of the published systems through the command line: what comes out is what was recorded.

The weights are made up, their keys and shapes are those that the published code saves.
"""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the workbench needs PyTorch: pip install 'edge-mer[export]'")

import onnx

from edge_mer.cli.main import main
from tests.helpers import parity

pytestmark = pytest.mark.workbench

TOLERANCE = 1e-3
State = dict[str, Any]
Arrays = dict[str, NDArray[Any]]


def as_it_is(state: State) -> Any:
    return state


def with_scores(state: State) -> Any:
    """As the released training script of JCA saves it, from a model on several devices."""
    wrapped = {f"module.{key}": value for key, value in state.items()}
    return {"net": wrapped, "best_Val_accV": np.float64(0.7), "best_Val_acc_epoch": 5}


def under(prefix: str) -> Callable[[State], Any]:
    def save(state: State) -> Any:
        return {prefix + key: value for key, value in state.items()}

    return save


@dataclass(frozen=True)
class Case:
    """A recorded case as a user's file.

    Attributes:
        system: Its model's name.
        only: The stage that is exported.
        part: What the file is.
        file: How the published code names it.
        tensors: Recorded name -> name in the ONNX file, where they differ; of tensors that no modality
            names, the order counts.
        save: From the state_dict to what is saved.
        settings: What shapes cannot tell.
        outputs: Recorded outputs that the stage gives; all others lie inside its graph.
    """

    system: str
    only: str
    part: str
    file: str
    tensors: dict[str, str] = field(default_factory=dict)
    save: Callable[[State], Any] = as_it_is
    settings: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


AFFECT = ("valence", "arousal")
JMT = Case("jmt", "fusion", "fusion", "fusion_w.pt", outputs=AFFECT)
TWO_VOICES = Case(
    "jmt", "audio-fusion", "audio-fusion", "transformer_audio_modality_fusion.pt", outputs=("fused",)
)
TWO_FACES = Case(
    "jmt", "visual-fusion", "visual-fusion", "transformer_visio_modality_fusion.pt", outputs=("fused",)
)
PAIN = Case("jmt-pain", "fusion", "fusion", "fusion_model_fold1_.pth", {"physio": "eda"}, outputs=("logits",))
BACKBONES = Case("jmt-pain", "", "visphy", "visphy_model_fold1_.pth")
JCA = Case("jca", "fusion", "fusion", "cam_model.pt", save=with_scores, outputs=AFFECT)
JCA_ONE = Case("jca", "fusion", "fusion", "cam_model.t7", save=with_scores, outputs=("out",))
RJCMA_NAMES = {"video_feat": "visual", "vggish_feat": "audio", "bert_feat": "text"}
RJCMA = Case("rjcma", "fusion", "arousal", "model_state_dict0.65.pth", RJCMA_NAMES, outputs=("out",))
IR50 = Case("rjcma", "visual", "visual", "res50_ir_0.887.pth", outputs=("feat512",))


def like(case: Case, **changes: Any) -> Case:
    return Case(**{**case.__dict__, **changes})


CASES = {
    "jmt_self_atten": JMT,
    "jmt_fc": JMT,
    "jmt_vanilla": JMT,
    "jmt_concat": JMT,
    "jmt_self_atten_h4_l2": like(JMT, settings=("num_heads=4",)),
    "jmt_fc_h4": like(JMT, settings=("num_heads=4",), save=under("module.")),
    "intra_audio_768": TWO_VOICES,
    "intra_visual_512": TWO_FACES,
    "concat_audio_768": like(TWO_VOICES, file="fc_layer_for_audio_concat.pt"),
    "concat_visual_512": like(TWO_FACES, file="fc_layer_for_video_concat.pt"),
    "bb_r2plus1d18_clip8x112": Case(
        "jmt", "visual", "visual", "vision_r2d1.pt", save=under("r2plus1d."), outputs=("max512",)
    ),
    "bb_audio_resnet18_1ch": Case(
        "jmt", "audio", "audio", "audio_resnet18.pt", save=under("resnet."), outputs=("feat512",)
    ),
    "i3d_tcn": Case("jmt", "visual", "i3d", "vision_i3d.pt", outputs=("feat512",)),
    "i3d_tcn_224": Case("jca", "visual", "i3d", "vision_i3d.t7", save=with_scores, outputs=("feat512",)),
    "biovid_multi_seq": PAIN,
    "biovid_multi_seq_5class": PAIN,
    "biovid_two_seq": PAIN,
    "biovid_concat_seq": PAIN,
    "biovid_multi_nonseq": PAIN,
    "biovid_two_nonseq": like(PAIN, settings=("sequence=no",)),
    "biovid_conv1d": like(BACKBONES, only="eda", save=under("phy_model."), outputs=("feat512", "logits")),
    "r3d18_clip5": like(
        BACKBONES, only="visual", save=under("vis_model.visual_model."), outputs=("feat512",)
    ),
    "jca_tbiom_origcam_L16": JCA,
    "jca_origcam_numseq2": JCA,
    "rja_lstm_origcam_L16": JCA,
    "jca_tbiom_cam_L16": JCA,
    "jca_tbiom_cam512_L16": like(JCA_ONE, settings=("target=arousal",)),
    "jca_cvprw_cam_L8_visonly": JCA_ONE,
    "jca_cvprw_cam_L8_head256": JCA_ONE,
    "rjcma_L300": RJCMA,
    "rjcma_widths": RJCMA,
    "rjcma_ir50_40px": IR50,
    "ir50": IR50,
    "vggish": Case("rjcma", "audio", "audio", "vggish.pth", outputs=("feat128",)),
}
SLOW = (
    "bb_r2plus1d18_clip8x112",
    "biovid_multi_nonseq",
    "biovid_multi_seq",
    "biovid_multi_seq_5class",
    "i3d_tcn",
    "i3d_tcn_224",
    "ir50",
    "jca_origcam_numseq2",
    "jca_tbiom_origcam_L16",
    "jmt_fc",
    "jmt_fc_h4",
    "jmt_self_atten_h4_l2",
    "jmt_vanilla",
    "r3d18_clip5",
    "rja_lstm_origcam_L16",
    "rjcma_L300",
    "rjcma_ir50_40px",
    "rjcma_widths",
    "vggish",
)
"""Seconds each, and of networks that others are of too, or that are compared module by module elsewhere."""


def test_every_recorded_case_is_tested() -> None:
    assert set(parity.cases()) <= set(CASES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_a_published_checkpoint_computes_what_was_recorded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, description, recorded = CASES[name], parity.description(name), parity.arrays(name)
    file = tmp_path / case.file
    torch.save(case.save(parity.state(name)), file)
    words = ["export", case.system, "--checkpoint", f"{case.part}={file}", "--only", case.only]
    words += [word for setting in case.settings for word in ("--set", setting)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    if "dead_params" in description and case.only == "fusion":
        pruned = f"Pruned: {description['dead_params']:,} of {description['params']:,} parameters"
        assert pruned in capsys.readouterr().out
    model = onnx.load(tmp_path / "out" / "stages" / f"{case.only}.fp32.onnx")
    assert model.ir_version <= 10
    assert [entry.version for entry in model.opset_import] == [20]
    inputs = [key for key in recorded if key.startswith("in_")]
    given = {key.removeprefix("in_"): recorded[key].numpy() for key in inputs}
    outputs, inner = computed(model, case, given)
    for key, value in recorded.items():
        if key.startswith("out_"):
            among = outputs if key.removeprefix("out_") in case.outputs else inner
            error = smallest_error(among, as_ours(name, value.numpy()))
            assert error < TOLERANCE, f"{key}: {error:.2e} of its deviation"


def as_ours(name: str, recorded: NDArray[Any]) -> NDArray[Any]:
    """A recorded output in the layout of a deployed stage."""
    if name.startswith("jmt_fc"):  # the published read-out is time-major
        return recorded.swapaxes(0, 1)
    if name == "biovid_concat_seq":  # the published code selects no step
        return recorded[:, -1]
    return recorded


def computed(
    model: onnx.ModelProto, case: Case, given: Arrays
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """What the stage gives, and every other tensor inside its graph."""
    n_outputs = len(model.graph.output)
    known = {value.name for value in model.graph.output}
    for node in model.graph.node:
        fresh = [name for name in node.output if name and name not in known]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in fresh)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    named = {case.tensors.get(name, name): array for name, array in given.items()}
    if set(named) != set(names):
        named = dict(zip(names, given.values(), strict=True))
    found = session.run(None, named)
    return found[:n_outputs], found[n_outputs:]


def smallest_error(found: list[NDArray[Any]], expected: NDArray[Any]) -> float:
    """Of the tensor that comes nearest, whatever the order of its last two axes."""
    alike = [array for array in found if array.size == expected.size and array.dtype == np.float32]
    alike += [array.swapaxes(-1, -2) for array in alike if array.ndim > 2]
    return min(parity.deviation_error(array.reshape(expected.shape), expected) for array in alike)
