"""What every network must hold to: outputs of a row that no other row changes, and a faithful export."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from torch import Tensor, nn

from edge_mer.types.model import TensorSpec
from edge_mer_export.onnx_stage import check_values, export_stage
from tests.helpers import parity

Shape = tuple[int | str, ...]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every key of its state_dict."""
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def vary(module: nn.Module, gain: float = 2.0) -> nn.Module:
    """Give the module weights with which its outputs depend on its inputs, as trained ones do."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = noise * gain / fan_in**0.5
    return module.eval()


def run(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Its outputs, always as a tuple."""
    with torch.inference_mode():
        outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def load_case(module: nn.Module, name: str, dead: tuple[str, ...]) -> nn.Module:
    """The module with a case's weights; it must have that case's keys and shapes, but for the dead ones."""
    assert shapes_of(module) == parity.shapes(name, dead)
    module.load_state_dict(parity.state(name, dead))
    return module.eval()


def check_rows(module: nn.Module, *inputs: Tensor) -> None:
    """Rows differ from each other, and each is the same alone as beside the others."""
    together = run(module, *inputs)
    alone = run(module, *(tensor[1:2] for tensor in inputs))
    for whole, row in zip(together, alone, strict=True):
        scale = whole.std()
        assert (row - whole[1:2]).abs().max() < 1e-4 * scale
        assert (whole[:1] - whole[1:2]).abs().max() > 0.1 * scale, "outputs must depend on inputs"


def check_export(
    module: nn.Module, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape], n_steps: int = 6
) -> list[str]:
    """Its ONNX file gives what it gives, for one row and for three; returns the file's operators."""
    specs, results = _specs(inputs), _specs(outputs)
    data = export_stage("stage", module, specs, results, n_steps)
    sizes = ({"batch": 1, "steps": 4}, {"batch": 3, "steps": n_steps})
    feeds = [{spec.name: torch.randn(spec.concrete(**size)).numpy() for spec in specs} for size in sizes]
    check_values("stage", data, module, specs, results, feeds, 1e-4)
    return [node.op_type for node in onnx.load_model_from_string(data).graph.node]


def _specs(shapes: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=name,
            axes=tuple(size if isinstance(size, str) else f"axis{i}" for i, size in enumerate(shape)),
            shape=shape,
        )
        for name, shape in shapes.items()
    )
