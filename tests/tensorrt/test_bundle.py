"""A bundle on TensorRT, from `build-engine` to a run, on the oldest and the newest version in the field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.cli.main import main
from edge_mer.clock import MonotonicClock
from edge_mer.cuda import open_gpu
from edge_mer.engine.cache import cache_folder, records
from edge_mer.engine.tensorrt import TensorRtEngine
from edge_mer.errors import MissingError
from edge_mer.runtime import target_tensorrt
from edge_mer.runtime.build import build, by_worth, fitting_build, open_built
from edge_mer.runtime.front import CpuFrontEnd
from edge_mer.runtime.gpu_front import GpuFrontEnd
from edge_mer.runtime.proof import golden_sessions, play, prove
from edge_mer.runtime.shared_model import SharedModel
from edge_mer.runtime.target_tensorrt import TensorRtSettings, TensorRtTarget
from tests.tensorrt.conftest import VERSIONS, Load

Live = Callable[[], dict[str, int]]


def built(bundle: Path) -> dict[str, Any]:
    """The record of the only bundle that was built."""
    (record,) = [one for one in records() if one.get("target") == "tensorrt"]
    assert record["bundle"] == open_bundle(bundle).bundle_id
    return record


def run(bundle: Path, out: Path) -> int:
    return main(
        ["run", str(bundle), "--source", "sim:seed=3&duration_s=15", "--sink", f"jsonl:{out}", "--fast"]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_way(
    version: str, shared_bundle: Path, tmp_path: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt(version)
    command = ["build-engine", str(shared_bundle), "--target", "tensorrt"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert all(f"{name}, TensorRT" in said for name in ("fp32", "fp16", "int8-trt"))
    assert "refused" not in said

    record = built(shared_bundle)
    assert record["environment"] == {
        "tensorrt": version,
        "cuda_driver": "13.0",
        "gpu": "host CUDA",
        "compute_capability": "8.7",
    }
    assert record["built"]["strongly_typed"]
    has_editable = version != VERSIONS[0]
    assert record["built"]["flags"] == (["EDITABLE_TIMING_CACHE", "MONITOR_MEMORY"] if has_editable else [])
    for stage in ("visual", "audio", "fusion"):
        facts = record["built"]["stages"][stage]
        assert facts["onnx_sha256"] in {
            one.sha256 for one in open_bundle(shared_bundle).manifest.files.values()
        }
        assert facts["precision"]["used"] == facts["precision"]["asked"]
        assert f"{stage}.plan" in record["files"]

    assert main(command) == 0
    assert "Built before" in capsys.readouterr().out
    assert run(shared_bundle, tmp_path / "out.jsonl") == 0
    last = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["engine"], last["precision"]) == ("tensorrt", record["precision"])
    assert main(["verify", str(shared_bundle), "--precision", record["precision"]]) == 0

    measured = tmp_path / "bench.json"
    bench = ["bench", str(shared_bundle), "--engine", "tensorrt", "--seconds", "0", "--json", str(measured)]
    assert main(bench) == 0
    (told,) = json.loads(measured.read_text(encoding="utf-8"))["measured"]
    assert (told["engine"], told["precision"]) == ("tensorrt", record["precision"])
    used = {stage: facts["precision"]["used"] for stage, facts in record["built"]["stages"].items()}
    assert told["executed"] == used
    assert all(part["p50"] > 0 for part in told["parts_ms"].values()), "kernels write step tensors, too"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-trt"])
@pytest.mark.parametrize("no_graphs", ["", "1"])
def test_every_candidate_keeps_its_numbers_recorded_or_not(
    precision: str,
    no_graphs: str,
    shared_bundle: Path,
    tensorrt: Load,
    live: Live,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOST_CUDA_NO_GRAPHS", no_graphs)
    tensorrt()
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    choice = next(one for one in target.choices(bundle) if one.precision == precision)
    setup = target.open(bundle, choice, target.prepare(bundle, choice, lambda *_: None).files)
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    before = live()
    prove(setup, bundle.manifest, precision, sessions).demand(precision)
    # one graph and what runs of it, per stage whose shapes never change
    assert live()["graphs"] - before["graphs"] == (0 if no_graphs else 6)
    setup.close()


def test_kernels_write_what_the_processor_would(shared_bundle: Path, tensorrt: Load) -> None:
    tensorrt()
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    choice = target.choices(bundle)[0]
    prepared = target.prepare(bundle, choice, lambda *_: None)
    assert prepared.facts["preprocessing"] == "GPU"
    assert {"crop.cubin", "log_mel.cubin"} <= prepared.files.keys()
    setup = target.open(bundle, choice, prepared.files)
    assert isinstance(setup.front_end, GpuFrontEnd)
    session = golden_sessions(bundle.manifest, bundle.read_arrays)[0]
    on_gpu = play(setup, session)
    on_processor = play(replace(setup, front_end=CpuFrontEnd()), session)
    n_compared = 0
    for a, b in zip(on_gpu, on_processor, strict=True):
        assert a.inputs.keys() == b.inputs.keys()
        for stage, most in (("visual", 1e-5), ("audio", 1e-4)):
            if stage in a.inputs:
                assert np.abs(a.inputs[stage] - b.inputs[stage]).max() < most
                n_compared += 1
        assert all(np.abs(a.raw[name] - b.raw[name]).max() < 1e-4 for name in b.raw)
    assert n_compared > 20
    setup.close()


def test_without_nvrtc_the_processor_preprocesses(
    shared_bundle: Path, tensorrt: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(sm: str) -> dict[str, bytes]:
        raise MissingError("NVRTC is not installed")

    tensorrt()
    monkeypatch.setattr(target_tensorrt, "compile_kernels", nowhere)
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    choice = target.choices(bundle)[0]
    prepared = target.prepare(bundle, choice, lambda *_: None)
    assert prepared.facts["preprocessing"] == "processor: NVRTC is not installed."
    setup = target.open(bundle, choice, prepared.files)
    assert isinstance(setup.front_end, CpuFrontEnd)
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    prove(setup, bundle.manifest, "fp32", sessions).demand("fp32")
    setup.close()


def test_closing_gives_everything_back_a_thousand_times(
    shared_bundle: Path, tensorrt: Load, live: Live
) -> None:
    tensorrt()
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    choice = target.choices(bundle)[0]
    files = target.prepare(bundle, choice, lambda *_: None).files
    target.open(bundle, choice, files).close()
    before = live()
    setup = target.open(bundle, choice, files)
    for engine in setup.engines.values():
        engine.infer()
        engine.infer()
    assert live() != before
    setup.close()
    setup.close()
    assert live() == before

    (audio,) = (one for one in bundle.manifest.model.encoders if one.stage == "audio")
    resident = 0
    for done in range(1000):
        if done == 100:
            resident = resident_bytes()
        with open_gpu() as gpu:
            engine = TensorRtEngine(
                "audio", files["audio.plan"], (audio.input,), (audio.output,), {"batch": 1}, gpu
            )
            engine.infer()
            engine.infer()
            engine.close()
        assert live() == before
    assert resident_bytes() - resident < 8 << 20


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_another_version_is_named_and_built_anew(
    shared_bundle: Path, tmp_path: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt("10.3.0")
    command = ["build-engine", str(shared_bundle), "--target", "tensorrt"]
    assert main(command) == 0
    tensorrt("11.4.0")
    assert run(shared_bundle, tmp_path / "out.jsonl") == 5
    said = capsys.readouterr().err
    assert "built for TensorRT 10.3.0 on SM 8.7, here 11.4.0 on SM 8.7" in said
    assert "run edge-mer build-engine" in said
    assert main(command) == 0
    assert "Building anew: built for TensorRT 10.3.0 on SM 8.7" in capsys.readouterr().out
    assert run(shared_bundle, tmp_path / "out.jsonl") == 0


def test_a_plan_that_was_altered_is_not_loaded(
    shared_bundle: Path, tmp_path: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt()
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 0
    folder = cache_folder() / "engines" / built(shared_bundle)["key"]
    plan = folder / "audio.plan"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(shared_bundle, tmp_path / "out.jsonl") == 3
    said = capsys.readouterr().err
    assert "audio.plan was altered" in said
    assert "--force" in said
    assert not (tmp_path / "out.jsonl").exists()

    plan.write_bytes(whole)
    record = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    record["precision"] = "fp16" if record["precision"] == "fp32" else "fp32"
    (folder / "build.json").write_text(json.dumps(record), encoding="utf-8")
    assert run(shared_bundle, tmp_path / "out.jsonl") == 0
    assert "No engine was built" in capsys.readouterr().err


def test_what_was_built_by_another_host_counts_for_nothing(shared_bundle: Path, tensorrt: Load) -> None:
    tensorrt()
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 0
    (cache_folder() / "host.key").write_bytes(bytes(32))
    assert fitting_build(open_bundle(shared_bundle), TensorRtTarget()) is None


def test_the_timings_of_an_earlier_build_are_used_again(shared_bundle: Path, tensorrt: Load) -> None:
    tensorrt()
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()

    def timings() -> list[str]:
        stages = target.prepare(bundle, target.choices(bundle)[0], lambda *_: None).facts["stages"]
        return [facts["timing_cache_sha256"] for facts in stages.values()]

    first, again = timings(), timings()
    assert len(set(first)) == 3  # each stage adds its own
    assert again == first[-1:] * 3


def test_words_of_the_parser_are_shown_with_their_nodes(
    shared_bundle: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt(refuse_operators=["Conv"])
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 4
    said = capsys.readouterr().err
    assert "does not take this ONNX" in said
    assert "(Conv): no importer registered for op: Conv" in said


def test_weights_in_8_bits_are_expanded_where_the_parser_wants_them_so(
    shared_bundle: Path, tensorrt: Load
) -> None:
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    choice = next(one for one in target.choices(bundle) if one.precision == "int8-trt")
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    for refuses in (False, True):
        tensorrt(refuse_int8_constants=refuses)
        prepared = target.prepare(bundle, choice, lambda *_: None)
        stages = prepared.facts["stages"]
        assert [stage["expanded"] for stage in stages.values()] == [refuses] * 3
        assert stages["visual"]["precision"]["asked"]["int8"] > 10
        setup = target.open(bundle, choice, prepared.files)
        prove(setup, bundle.manifest, "int8-trt", sessions).demand("int8-trt")
        setup.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_precision_that_was_asked_for_and_not_used_is_refused(
    version: str, shared_bundle: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt(version, ignore_precision=["CONVOLUTION"])
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "int8-trt, TensorRT was refused" in said
    assert "fp16, TensorRT was refused" in said
    assert "(int8 asked, fp32 used)" in said
    assert "(fp16 asked, fp32 used)" in said
    assert "Chosen: fp32, TensorRT" in said


def test_what_cannot_be_built_says_why(
    shared_bundle: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt(build_error="insufficient memory for any tactic")
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 4
    said = capsys.readouterr().err
    assert "stage visual: TensorRT 10.3.0 could not build an engine" in said
    assert "insufficient memory for any tactic" in said
    assert "--workspace-mb" in said


def test_too_little_memory_names_what_is_needed(
    shared_bundle: Path, tensorrt: Load, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt()
    bundle, target = open_bundle(shared_bundle), TensorRtTarget()
    list(build(bundle, MonotonicClock(), target))
    record = fitting_build(bundle, target)
    assert record is not None
    before = live()
    tensorrt(no_context=True)
    with pytest.raises(Exception, match=r"stage visual: no execution context.*1 MiB needed.*MiB free"):
        open_built(bundle, target, record)
    assert live() == before
    tensorrt()
    monkeypatch.setenv("HOST_CUDA_BYTES", str(before["device_bytes"] + (3 << 20)))
    with pytest.raises(Exception, match="memory"):
        open_built(bundle, target, record)
    assert live() == before


def test_a_run_that_fails_names_stage_and_shapes(
    shared_bundle: Path, tmp_path: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt()
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 0
    tensorrt(run_error="CUDA error 700: illegal memory access")
    assert run(shared_bundle, tmp_path / "out.jsonl") == 5
    said = capsys.readouterr().err
    assert "illegal memory access" in said
    assert "the run failed (" in said
    assert " x " in said


def test_batches_have_a_profile_of_their_own(shared_bundle: Path, tensorrt: Load) -> None:
    tensorrt()
    bundle = open_bundle(shared_bundle)
    target = TensorRtTarget(TensorRtSettings(max_batch=4, workspace_mib=64))
    choice = target.choices(bundle)[0]
    prepared = target.prepare(bundle, choice, lambda *_: None)
    assert prepared.facts["workspace_bytes"] == 64 << 20
    profiles = prepared.facts["stages"]["audio"]["profiles"]
    assert [(p["smallest"]["batch"], p["largest"]["batch"]) for p in profiles] == [(1, 1), (1, 4)]
    setup = target.open(bundle, choice, prepared.files)
    sessions = golden_sessions(bundle.manifest, bundle.read_arrays)
    prove(setup, bundle.manifest, "fp32", sessions, target.max_batch).demand("fp32")
    setup.close()


def test_sessions_share_a_gpu(shared_bundle: Path, tensorrt: Load, live: Live) -> None:
    tensorrt()
    bundle = open_bundle(shared_bundle)
    target = TensorRtTarget(TensorRtSettings(max_batch=4, workspace_mib=64))
    choice = target.choices(bundle)[0]
    before = live()
    setup = target.open(bundle, choice, target.prepare(bundle, choice, lambda *_: None).files)
    golden = golden_sessions(bundle.manifest, bundle.read_arrays)
    alone = [play(setup, session) for session in golden]
    most = dict.fromkeys(setup.engines, 4)
    with SharedModel(bundle, setup, choice, True, most, 20_000_000, MonotonicClock()) as model:
        lent = [model.lend()[0] for _ in golden]
        before_runs = setup.engines["fusion"].n_runs
        with ThreadPoolExecutor(len(golden)) as threads:
            together = list(threads.map(play, lent, golden))
        assert setup.engines["fusion"].n_runs - before_runs < sum(bool(t.raw) for s in alone for t in s)
    for one, other in zip(alone, together, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.raw.keys() == b.raw.keys()
            for name in a.raw:
                np.testing.assert_allclose(b.raw[name], a.raw[name], atol=1e-4)
    assert live() == before


def test_what_an_accelerator_could_run_is_said(
    shared_bundle: Path, tensorrt: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt(n_dla_cores=2)
    bundle, target = open_bundle(shared_bundle), TensorRtTarget(TensorRtSettings(report_dla=True))
    reports = {}
    for choice in target.choices(bundle):
        facts = target.prepare(bundle, choice, lambda *_: None).facts
        reports[choice.precision] = facts["stages"]["visual"]["dla"]
    assert reports["fp32"]["verdict"] == "nothing of it can run on the accelerator"
    assert "convolution: it is neither FP16 nor INT8" in reports["fp32"]["unable"]
    assert reports["fp16"]["able"]["convolution"] > 10
    assert "layers can; each change between accelerator and GPU costs time" in reports["fp16"]["verdict"]
    tensorrt()
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt", "--dla"]) == 0
    assert "DLA, visual: TensorRT 10.3.0 sees no accelerator here" in capsys.readouterr().out


def test_without_tensorrt_it_is_said_what_to_do(
    shared_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert main(["build-engine", str(shared_bundle), "--target", "tensorrt"]) == 5
    said = capsys.readouterr().err
    assert "TensorRT is not installed" in said
    assert "--system-site-packages" in said


def test_the_fewest_bits_must_win_by_a_tenth_each() -> None:
    from edge_mer.runtime.build import Trial
    from edge_mer.runtime.target import Choice

    def timed(precision: str, ms: float) -> Trial:
        return Trial(Choice(precision, target="tensorrt"), ms)

    close = [timed("fp32", 10.0), timed("fp16", 5.0), timed("int8-trt", 4.6)]
    assert by_worth(close)[0].choice.precision == "fp16"
    clear = [timed("fp32", 10.0), timed("fp16", 5.0), timed("int8-trt", 4.4)]
    assert by_worth(clear)[0].choice.precision == "int8-trt"
