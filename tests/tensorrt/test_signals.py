"""Biosignals on TensorRT: kernels write an encoder's input from a stream of any rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from edge_mer.clock import MonotonicClock
from edge_mer.cuda import Gpu, open_gpu
from edge_mer.engine.tensorrt import TensorRtEngine
from edge_mer.engine.tensorrt_build import BuildOptions, Profile, build_plan
from edge_mer.preprocess.gpu import load_kernels
from edge_mer.runtime.front import CpuFrontEnd
from edge_mer.runtime.gpu_front import GpuFrontEnd
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.types.model import Encoder
from tests.helpers.graphs import graph, node
from tests.helpers.numpy_engines import tiny_engines
from tests.helpers.skin_session import RATE_HZ, SPAN_S, arousal, live, recorded, skin, skin_model
from tests.helpers.tiny_model import FEATURE
from tests.helpers.tiny_session import SquareDetector
from tests.tensorrt.conftest import Load

WIDE = skin_model((4.0, 512.0))
DURATION_S = 6


def network() -> bytes:
    """A convolution over the piece, and a feature of its maxima."""
    random = np.random.default_rng(3)
    nodes = [
        node("Conv", "piece kernels", "found", strides=[8]),
        node("Tanh", "found", "bent"),
        node("GlobalMaxPool", "bent", "most"),
        node("Flatten", "most", "flat"),
        node("MatMul", "flat mixed", "feature"),
    ]
    constants = {
        "kernels": random.standard_normal((6, 1, 16)).astype(np.float32) / 4,
        "mixed": random.standard_normal((6, FEATURE)).astype(np.float32),
    }
    model = onnx.load_model_from_string(
        graph(nodes, {"piece": [1, 1, SPAN_S * RATE_HZ]}, constants, output="feature")
    )
    shape = helper.make_tensor_value_info("feature", TensorProto.FLOAT, [1, FEATURE])
    model.graph.output[0].CopyFrom(shape)
    return bytes(model.SerializeToString())


def engine(gpu: Gpu, encoder: Encoder) -> TensorRtEngine:
    sizes = {"batch": 1}
    options = BuildOptions((Profile(sizes, sizes, sizes),), 1 << 28)
    inputs, outputs = (encoder.input,), (encoder.output,)
    plan = build_plan(encoder.stage, network(), inputs, options, MonotonicClock()).plan
    return TensorRtEngine(encoder.stage, plan, inputs, outputs, sizes, gpu)


def set_up(gpu: Gpu) -> PipelineSetup:
    engines = {**tiny_engines(WIDE), "eda": engine(gpu, WIDE.encoders[1])}
    front_end = GpuFrontEnd(gpu, load_kernels(gpu))
    return PipelineSetup(WIDE, engines, SquareDetector(), front_end=front_end)


def test_kernels_and_the_processor_resample_alike(tensorrt: Load) -> None:
    tensorrt()
    with open_gpu() as gpu:
        setup = set_up(gpu)
        own = arousal(recorded(setup, *skin(RATE_HZ, DURATION_S)))
        assert np.nanstd(own) > 1e-3
        assert not setup.engines["eda"].inputs["piece"].any()  # the processor wrote nothing there
        ways = (
            (recorded, RATE_HZ, 0.0),
            (live, 2 * RATE_HZ, 1e-5),
            (recorded, 32, 2e-4),
            (live, 130.5, 1e-5),
        )
        for play, rate_hz, most in ways:
            stream = skin(rate_hz, DURATION_S)
            on_gpu = arousal(play(setup, *stream))
            on_processor = arousal(play(replace(setup, front_end=CpuFrontEnd()), *stream))
            np.testing.assert_allclose(on_gpu, on_processor, rtol=0, atol=1e-6)
            np.testing.assert_allclose(on_gpu, own[: len(on_gpu)], rtol=0, atol=most)
        setup.close()
