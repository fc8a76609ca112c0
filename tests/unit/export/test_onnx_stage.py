"""Stages as ONNX files: what must be true of each, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from edge_mer.bundle.onnx_guard import inspect_onnx
from edge_mer.errors import DataError, ParityError
from edge_mer.types.model import TensorSpec
from edge_mer_export.onnx_stage import check_values, export_stage

pytestmark = pytest.mark.workbench

INPUT = (TensorSpec(name="x", axes=("batch", "channel", "column"), shape=("batch", 3, 16)),)
OUTPUT = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 4)),)


class Small(nn.Module):
    """A convolution with a batch norm, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16) -> (B, 4)."""
        normed: Tensor = self.norm(self.conv(x))
        return normed.mean(-1)


class Doubles(Small):
    """Computes something else while it is exported than when it runs."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16) -> (B, 4)."""
        return super().forward(x) * (2.0 if torch.compiler.is_exporting() else 1.0)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().eval()


def feeds() -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((n, 3, 16)).astype(np.float32)} for n in (1, 5)]


def test_versions_names_and_axes_are_as_declared(small: nn.Module) -> None:
    data = export_stage("small", small, INPUT, OUTPUT, 4)
    model = onnx.load_model_from_string(data)
    facts = inspect_onnx(data, "small.onnx")
    assert (facts.ir_version, facts.opset) == (10, 20)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [value.name for value in model.graph.input] == ["x"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 4


def test_batch_norms_are_folded_and_nothing_needless_is_kept(small: nn.Module) -> None:
    model = onnx.load_model_from_string(export_stage("small", small, INPUT, OUTPUT, 4))
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert not model.graph.value_info
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


class Decides(Small):
    """Looks at its numbers to know what to do."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16) -> (B, 4)."""
        return super().forward(x) if float(x.sum()) > 0 else super().forward(-x)


class DecidesPlainly(nn.Module):
    """The same without a batch norm, which is folded before anything is exported."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16) -> (B, 4)."""
        return x[:, 0, :4] if float(x.sum()) > 0 else x[:, 1, :4]


class Unknown(Small):
    """Takes singular values, which ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 16) -> (B, 4)."""
        return super().forward(x) + torch.linalg.svdvals(x)[:, :1]


class Starred(Small):
    """Names no argument."""

    def forward(self, *x: Tensor) -> Tensor:
        """(B, 3, 16) twice -> (B, 4)."""
        return super().forward(x[0] + x[1])


@pytest.mark.parametrize(
    ("kind", "n_inputs", "found"),
    [
        (Decides, 1, "float()"),
        (DecidesPlainly, 1, "data-dependent"),
        (Unknown, 1, "svd"),
        (Starred, 2, "structure of `inputs`"),
    ],
)
def test_what_onnx_cannot_express_is_said_in_one_line(
    kind: type[nn.Module], n_inputs: int, found: str
) -> None:
    inputs = tuple(INPUT[0].model_copy(update={"name": f"x{i}"}) for i in range(n_inputs))
    with pytest.raises(DataError, match=r"stage odd cannot be written as ONNX opset 20") as caught:
        export_stage("odd", kind().eval(), inputs, OUTPUT, 4)
    assert found in (caught.value.found or "")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_graph_that_onnx_refuses_is_said_in_one_line(small: nn.Module) -> None:
    same = (OUTPUT[0].model_copy(update={"name": "x"}),)
    with pytest.raises(DataError, match="stage small cannot be written as ONNX"):
        export_stage("small", small, INPUT, same, 4)


def test_the_same_module_gives_the_same_bytes(small: nn.Module) -> None:
    assert export_stage("small", small, INPUT, OUTPUT, 4) == export_stage("small", small, INPUT, OUTPUT, 4)


def test_the_same_numbers_pass(small: nn.Module) -> None:
    data = export_stage("small", small, INPUT, OUTPUT, 4)
    assert check_values("small", data, small, INPUT, OUTPUT, feeds(), 1e-3) < 1e-5


def test_other_numbers_are_refused_by_name() -> None:
    """A parity proof must see a graph that computes something else."""
    torch.manual_seed(0)
    module = Doubles().eval()
    data = export_stage("small", module, INPUT, OUTPUT, 4)
    with pytest.raises(ParityError, match=r"stage small: feature differs .* Found: \d"):
        check_values("small", data, module, INPUT, OUTPUT, feeds(), 1e-3)


def test_another_output_than_declared_is_refused(small: nn.Module) -> None:
    wrong = (TensorSpec(name="feature", axes=("batch", "feature"), shape=("batch", 5)),)
    with pytest.raises(ParityError, match="feature has wrong axes"):
        export_stage("small", small, INPUT, wrong, 4)
