"""What an engine says of itself, in both dialects, held against what its ONNX asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_mer.engine.tensorrt_audit import audit, read_layers
from edge_mer.errors import ParityError


def old(name: str, kind: str, *, weights: str = "", tactic: str = "", product: str = "") -> dict[str, Any]:
    """A layer as TensorRT 10 describes it."""
    layer: dict[str, Any] = {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 3], "Format/Datatype": kind}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 3], "Format/Datatype": "Half"}],
        "TacticName": tactic,
        "Metadata": f"[ONNX Layer: {product}]" if product else "",
    }
    return {**layer, "Weights": {"Type": weights, "Count": 9}} if weights else layer


def new(name: str, kind: str, product: str) -> dict[str, Any]:
    """A layer as TensorRT 11 describes it."""
    tensor = {
        "Name": "x",
        "Dimensions": [1, 3],
        "Format": "Row major linear format (kLINEAR)",
        "DataType": kind,
    }
    return {"Name": name, "LayerType": "gemm", "Inputs": [tensor], "Metadata": f"[ONNX Layer: {product}]"}


def inspected(*layers: dict[str, Any], dialect: int = 10) -> str:
    io_tensors = {"Bindings": ["x", "y"]} if dialect == 10 else {"I/O Tensors": [{"Name": "x"}]}
    return json.dumps({"Layers": layers, **io_tensors})


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear FP32", "fp32"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
    ],
)
def test_types_of_both_spellings_are_read(kind: str, found: str) -> None:
    (layer,) = read_layers(inspected(old("conv", kind)))
    assert layer.used == found
    (layer,) = read_layers(inspected(new("conv", kind, "conv"), dialect=11))
    assert layer.used == found


def test_fused_layers_are_found_by_any_of_their_names() -> None:
    layers = read_layers(
        inspected(old("conv1.weight + conv1 + relu1", "Int8"), old("gemm", "Half", product="fc"))
    )
    found = audit({"conv1": "int8", "fc": "fp16"}, layers)
    assert found.used == {"conv1": "int8", "fc": "fp16"}
    assert not found.hidden
    found.demand("visual")


def test_a_kernel_or_weights_tell_more_than_the_input() -> None:
    i8 = old("conv", "Half", tactic="sm80_xmma_gemm_i8i8_i8i32_f32_tn_n")
    assert read_layers(inspected(i8))[0].used == "int8"
    assert read_layers(inspected(old("conv", "Half", weights="Int8")))[0].used == "int8"
    half = old("conv", "Float", tactic="sm80_xmma_gemm_f16f16_f16f32_f32_tn")
    assert read_layers(inspected(half))[0].used == "fp16"


def test_what_was_made_one_by_the_compiler_is_hidden_not_wrong() -> None:
    block = old("{ForeignNode[/attention/MatMul.../norm/Add]}", "Half", product="/attention/MatMul")
    found = audit({"/attention/MatMul": "int8"}, read_layers(inspected(block)))
    assert found.hidden == ("/attention/MatMul",)
    found.demand("fusion")


@pytest.mark.parametrize("dialect", [10, 11])
def test_more_bits_than_were_asked_for_are_refused_by_name(dialect: int) -> None:
    layer = old("conv", "Half", product="conv") if dialect == 10 else new("conv", "Half", "conv")
    found = audit({"conv": "int8"}, read_layers(inspected(layer, dialect=dialect)))
    assert found.wider == ("conv",)
    with pytest.raises(ParityError, match=r"stage visual: .*conv \(int8 asked, fp16 used\)"):
        found.demand("visual")
    assert found.summary() == {
        "asked": {"int8": 1},
        "used": {"fp16": 1},
        "n_hidden": 0,
        "wider": ["conv"],
        "narrower": [],
    }


def test_fewer_bits_than_were_asked_for_are_refused_too() -> None:
    found = audit({"conv": "fp32"}, read_layers(inspected(old("conv", "Half", product="conv"))))
    assert found.narrower == ("conv",)
    with pytest.raises(ParityError, match="fp32 asked, fp16 used"):
        found.demand("audio")


def test_copies_between_formats_are_no_products() -> None:
    copy = {
        **old("Reformatting CopyNode for Input Tensor 0 to conv", "Float", product="conv"),
        "LayerType": "Reformat",
    }
    found = audit({"conv": "fp16"}, read_layers(inspected(copy, old("conv", "Half", product="conv"))))
    assert found.used == {"conv": "fp16"}


def test_many_wrong_ones_are_counted() -> None:
    names = [f"conv{i}" for i in range(12)]
    layers = read_layers(inspected(*(old(name, "Float", product=name) for name in names)))
    with pytest.raises(ParityError, match="and 4 more"):
        audit(dict.fromkeys(names, "fp16"), layers).demand("visual")


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", '{"Layers": ["conv + relu"]}'])
def test_what_tells_nothing_is_refused(text: str) -> None:
    with pytest.raises(ParityError):
        read_layers(text)
