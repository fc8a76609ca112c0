"""A small network in place of a model's engines, run by PyTorch or ONNX Runtime on what the kernels wrote."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.torch_ways import exact_float32, why_no_cuda
from edge_mer.cuda import Gpu, GpuTensor

Floats = NDArray[np.float32]
CLIP_LAYERS = ((3, 16, (3, 5, 5), (1, 2, 2)), (16, 32, (3, 3, 3), (2, 2, 2)), (32, 64, (3, 3, 3), (2, 2, 2)))
SOUND_LAYERS = ((1, 16, (5, 5), (2, 2)), (16, 32, (3, 3), (2, 2)))
"""Per convolution: channels in and out, its size, and its steps."""

N_OUTPUTS = 2


class Engine(Protocol):
    """Something that computes the network's outputs from the two tensors."""

    def run(self) -> Floats:
        """(output,); the tensors are those on the GPU, once the stream's work so far is done."""


@dataclass(frozen=True)
class Network:
    """Two encoders of convolutions, their means, and a linear layer; weights are drawn, not learned."""

    seed: int = 4

    @cached_property
    def weights(self) -> dict[str, Floats]:
        """By name, scaled so that numbers keep their size from layer to layer."""
        random = np.random.default_rng(self.seed)
        found = {}
        for name, layers in (("clip", CLIP_LAYERS), ("sound", SOUND_LAYERS)):
            for index, (n_in, n_out, size, _) in enumerate(layers):
                shape = (n_out, n_in, *size)
                scale = np.sqrt(2.0 / (n_in * np.prod(size)))
                found[f"{name}{index}"] = (random.standard_normal(shape) * scale).astype(np.float32)
        n_features = CLIP_LAYERS[-1][1] + SOUND_LAYERS[-1][1]
        linear = random.standard_normal((n_features, N_OUTPUTS)) / np.sqrt(n_features)
        return {**found, "linear": linear.astype(np.float32)}


class TorchEngine:
    """PyTorch on the GPU, in our own stream; or on the processor, where device memory can be read there.

    Args:
        gpu: Whose stream.
        device: "cuda" or "cpu".
        clip: (1, 3, frame, height, width) float32.
        sound: (1, 1, mel, column) float32.
    """

    def __init__(self, gpu: Gpu, device: str, clip: GpuTensor, sound: GpuTensor) -> None:
        import torch

        exact_float32(torch)
        self._torch, self._gpu, self._device = torch, gpu, device
        self._tensors = (clip, sound)
        self._inputs = [self._seen(tensor) for tensor in self._tensors]
        self._weights = {k: torch.from_numpy(v).to(device) for k, v in Network().weights.items()}

    def _seen(self, tensor: GpuTensor) -> Any:
        if self._device == "cpu":
            return self._torch.from_numpy(tensor.host)
        return self._torch.as_tensor(_Seen(tensor), device=self._device)

    def run(self) -> Floats:
        """Outputs, (output,)."""
        if self._device == "cpu":
            for tensor in self._tensors:
                tensor.download()
            self._gpu.synchronize()
            return self._computed()
        stream = self._torch.cuda.ExternalStream(self._gpu.stream.handle)
        with self._torch.cuda.stream(stream):
            return self._computed()  # whose last copy waits

    def _computed(self) -> Floats:
        torch, functional = self._torch, self._torch.nn.functional
        features = []
        with torch.no_grad():
            for name, layers, x in zip(
                ("clip", "sound"), (CLIP_LAYERS, SOUND_LAYERS), self._inputs, strict=True
            ):
                convolve = functional.conv3d if name == "clip" else functional.conv2d
                for index, (*_, size, stride) in enumerate(layers):
                    edge = tuple(n // 2 for n in size)
                    x = convolve(x, self._weights[f"{name}{index}"], stride=stride, padding=edge).relu()
                features.append(x.flatten(2).mean(2))
            found: Floats = (torch.cat(features, 1) @ self._weights["linear"])[0].cpu().numpy()
        return found


class _Seen:
    """Memory of ours as other packages take it."""

    def __init__(self, tensor: GpuTensor) -> None:
        self.__cuda_array_interface__ = {
            "shape": tensor.shape,
            "typestr": tensor.dtype.str,
            "data": (tensor.pointer, False),
            "version": 3,
        }


class OrtEngine:
    """ONNX Runtime, reading the GPU's memory with its CUDA provider, or the host's with the processor's.

    Args:
        gpu: Whose stream.
        device: "cuda" or "cpu".
        clip: (1, 3, frame, height, width) float32.
        sound: (1, 1, mel, column) float32.
    """

    def __init__(self, gpu: Gpu, device: str, clip: GpuTensor, sound: GpuTensor) -> None:
        import onnxruntime

        self._gpu, self._device = gpu, device
        self._tensors = {"clip": clip, "sound": sound}
        cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
        providers = [cuda] if device == "cuda" else ["CPUExecutionProvider"]
        model = _onnx({name: tensor.shape for name, tensor in self._tensors.items()})
        self._session = onnxruntime.InferenceSession(model, providers=providers)

    def run(self) -> Floats:
        """Outputs, (output,)."""
        if self._device == "cpu":
            for tensor in self._tensors.values():
                tensor.download()
        self._gpu.synchronize()  # it works in a stream of its own
        if self._device == "cpu":
            fed = {name: tensor.host for name, tensor in self._tensors.items()}
            return np.asarray(self._session.run(None, fed)[0][0], np.float32)
        binding = self._session.io_binding()
        for name, tensor in self._tensors.items():
            binding.bind_input(name, "cuda", 0, np.float32, tensor.shape, tensor.pointer)
        binding.bind_output("outputs", "cpu")
        self._session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0][0], np.float32)


def _onnx(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The network as an ONNX file."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes, features = [], []
    for name, layers in (("clip", CLIP_LAYERS), ("sound", SOUND_LAYERS)):
        x = name
        for index, (*_, size, stride) in enumerate(layers):
            layer, edges = f"{name}{index}", [n // 2 for n in size] * 2
            nodes.append(helper.make_node("Conv", [x, layer], [f"{layer}.sum"], strides=stride, pads=edges))
            nodes.append(helper.make_node("Relu", [f"{layer}.sum"], [f"{layer}.out"]))
            x = f"{layer}.out"
        nodes.append(helper.make_node("GlobalAveragePool", [x], [f"{name}.mean"]))
        nodes.append(helper.make_node("Flatten", [f"{name}.mean"], [f"{name}.feature"]))
        features.append(f"{name}.feature")
    nodes.append(helper.make_node("Concat", features, ["features"], axis=1))
    nodes.append(helper.make_node("MatMul", ["features", "linear"], ["outputs"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [1, N_OUTPUTS])]
    weights = [numpy_helper.from_array(values, name) for name, values in Network().weights.items()]
    graph = helper.make_graph(nodes, "stand-in", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def why_no_torch() -> str:
    """Why `TorchEngine` cannot run on the GPU; empty where it can."""
    return why_no_cuda()


def why_no_ort() -> str:
    """Why `OrtEngine` cannot run on the GPU; empty where it can."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider"
    return "" if importlib.util.find_spec("onnx") else "there is no onnx to write its file with"
