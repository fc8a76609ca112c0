"""Plans of `build-engine` in a model repository for Triton."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc", reason="needs Triton's client: pip install 'edge-mer[triton]'")
pytest.importorskip("onnx", reason="a repository is checked with onnx: pip install 'edge-mer[triton]'")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from edge_mer.bundle.read import open_bundle
from edge_mer.cli.main import main
from edge_mer.cuda import open_gpu
from edge_mer.engine.tensorrt import TensorRtEngine
from edge_mer.runtime.build import fitting_build
from edge_mer.runtime.target_tensorrt import TensorRtTarget, stage_tensors, streaming_profile
from edge_mer_export.triton.options import Options
from edge_mer_export.triton.repository import write_repository
from tests.tensorrt.conftest import Load


@pytest.mark.parametrize("max_batch", [1, 2])
def test_plans_are_those_that_run_here(
    max_batch: int, shared_bundle: Path, tmp_path: Path, tensorrt: Load
) -> None:
    tensorrt()
    build = ["build-engine", str(shared_bundle), "--target", "tensorrt", "--max-batch", str(max_batch)]
    assert main(build) == 0
    bundle = open_bundle(shared_bundle)
    record = fitting_build(bundle, TensorRtTarget())
    assert record is not None
    write_repository(bundle, tmp_path / "models", Options(platform="tensorrt"))
    model = bundle.manifest.model
    for stage, (inputs, outputs) in stage_tensors(model).items():
        folder = tmp_path / "models" / f"jmt_tiny_{stage}"
        config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
        assert (config.platform, config.max_batch_size) == ("tensorrt_plan", max_batch)
        assert [list(one.profile) for one in config.instance_group] == [[str(max_batch - 1)]]
        assert config.parameters["edge_mer_precision"].string_value == record["precision"]
        plan = (folder / "1" / "model.plan").read_bytes()
        with open_gpu() as gpu:
            sizes = streaming_profile(model, stage).usual
            engine = TensorRtEngine(stage, plan, inputs, outputs, sizes, gpu)
            assert set(engine.run(engine.inputs)) == {spec.name for spec in outputs}
            engine.close()
