"""`make gpu-check` runs whole, at tiny sizes; PyTorch is held against the kernels on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import face, sound, table, timing
from benchmarks.gpu.end_to_end import EndToEndCheck
from benchmarks.gpu.torch_ways import TorchFaces, TorchLogMel
from edge_mer.cuda import Gpu, Kernel
from tests.helpers.host_cuda import needs_host

pytestmark = [
    needs_host,
    pytest.mark.skipif(
        "asan" in os.environ.get("HOST_CUDA_KERNELS", ""), reason="PyTorch is not made for AddressSanitizer"
    ),
]

Kernels = dict[str, Kernel]


def test_it_runs_and_says_what_it_could_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("host-cuda-*.json")
    found = json.loads(file.read_text(encoding="utf-8"))
    assert (found["card"], found["sm"], found["cuda"]) == ("host CUDA", "sm_87", "13.0")
    verdicts = {(row["part"], row["measured"]): row["verdict"] for row in found["rows"]}
    crops = [measured for part, measured in verdicts if part == "face crops"]
    for kind in face.KINDS:
        for dtype in ("float32", "float16"):
            assert f"{kind} to {dtype}, beyond the cache, against a copy of the same bytes" in crops
    without = [row["found"] for row in found["rows"] if row["verdict"] == "not run"]
    assert len(without) == 5
    assert all("has no CUDA" in why or "there is no PyTorch" in why for why in without)
    assert set(verdicts.values()) == {"-", "pass", "not run"}
    last = done.stdout.rstrip().splitlines()
    assert last[-1] == "Nothing failed."
    assert last[-3].endswith("not run")  # the table is what one sees last
    assert file.with_suffix(".md").read_text(encoding="utf-8").count("| face crops |") == len(crops)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_CUDA_NO_DEVICE", "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "no CUDA-capable device" in done.stderr


def test_pytorch_computes_the_same(gpu: Gpu, kernels: Kernels) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch to compare with")
    scene = face.Scene(face.QUICK)
    ours = face.Kernels(gpu, kernels, scene, "float32", n_sets=2)
    theirs = TorchFaces(torch, "cpu", scene.frames, scene.transforms, scene.sizes.clip, scene.layout)
    row = table.parity("crops", "", theirs.sampled().numpy(), ours.written(), face.TORCH_PARITY)
    assert row.verdict() == "pass", row.found
    assert tuple(theirs.interpolated().shape) == ours.out.shape
    ours.free()
    steps = sound.noise(2, sound.QUICK_SAMPLES)
    spectrograms = sound.Spectrograms(gpu, kernels, sound.QUICK, steps)
    found = TorchLogMel(torch, "cpu", sound.QUICK)(torch.from_numpy(steps)).numpy()
    row = table.parity("log-mel", "", found, spectrograms.written(), sound.TORCH_PARITY)
    assert row.verdict() == "pass", row.found
    spectrograms.free()


def test_end_to_end_both_ways_agree_with_both_engines(gpu: Gpu, kernels: Kernels) -> None:
    pytest.importorskip("torch", reason="needs PyTorch as the engine")
    pytest.importorskip("onnx", reason="needs onnx to write the engine's file")
    check = EndToEndCheck(gpu, kernels, face.QUICK, sound.QUICK, sound.QUICK_SAMPLES, timing.QUICK)
    rows = list(check.on_processor())
    assert [row.verdict() for row in rows] == ["pass", "-", "pass", "-"]
    assert all(0.0 < (row.figure or 0.0) < 1e-3 for row in rows[::2])


def test_end_to_end_a_step_of_another_person_fails(
    gpu: Gpu, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine gives depends on what goes in, or agreement says nothing."""
    pytest.importorskip("torch", reason="needs PyTorch as the engine")
    from benchmarks.gpu.engines import TorchEngine

    check = EndToEndCheck(gpu, kernels, face.QUICK, sound.QUICK, sound.QUICK_SAMPLES, timing.QUICK)
    by_processor, other = check.path.by_processor, check.steps[::-1]
    mixed_up = dict(zip(map(id, check.steps), other, strict=True))
    monkeypatch.setattr(check.path, "by_processor", lambda step: by_processor(mixed_up[id(step)]))
    engine = TorchEngine(gpu, "cpu", check.path.clip, check.path.sound)
    row = next(iter(check.with_engine("PyTorch", engine)))
    assert row.verdict() == "FAIL"
