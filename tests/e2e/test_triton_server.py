"""Model repositories in NVIDIA's own server: two beds, interleaved, have the numbers that a device gives."""

# ruff: noqa: E402  what the workbench needs is asked for first
from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="a repository is written with onnx: pip install 'edge-mer[triton]'")
grpc = pytest.importorskip(
    "tritonclient.grpc", reason="needs Triton's client: pip install 'edge-mer[triton]'"
)
http = pytest.importorskip(
    "tritonclient.http", reason="needs Triton's client: pip install 'edge-mer[triton]'"
)

from tritonclient.utils import InferenceServerException

from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.runtime.golden import Arrays
from edge_mer.runtime.proof import golden_sessions, play
from edge_mer.runtime.setup import open_setup
from edge_mer.runtime.window import StepTrace
from edge_mer_export.triton.options import Instances, Options
from edge_mer_export.triton.repository import write_repository
from tests.helpers.triton_server import TritonServer, serve_by_onnxruntime, why_no_onnx_backend

pytestmark = [pytest.mark.workbench, pytest.mark.live]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inference-server.md"
FULL_SIZE = Path(__file__).resolve().parents[2] / "build" / "bench"
PUBLISHED = ("jmt", "jca", "rjcma", "jmt-pain", "group")
TYPES = {"float32": "FP32", "int64": "INT64", "bool": "BOOL"}
BEDS = (11, 12)
Feed = dict[str, Any]


class Client:
    """Asks a server over HTTP or gRPC."""

    def __init__(self, server: TritonServer, protocol: str) -> None:
        self.protocol = grpc if protocol == "grpc" else http
        port = server.grpc_port if protocol == "grpc" else server.http_port
        self.client = self.protocol.InferenceServerClient(f"127.0.0.1:{port}")

    def ask(self, model: str, feed: Feed, **sequence: Any) -> Any:
        return self.client.infer(model, self.inputs(feed), **sequence)

    def inputs(self, feed: Feed) -> list[Any]:
        made = []
        for name, values in feed.items():
            made.append(self.protocol.InferInput(name, list(values.shape), TYPES[str(values.dtype)]))
            made[-1].set_data_from_numpy(values)
        return made


def serve(folder: Path) -> TritonServer:
    """The repository as it is where its backend can be made, else with its backends swapped."""
    if why_no_onnx_backend() is not None:
        serve_by_onnxruntime(folder)
    return TritonServer(folder)


@pytest.fixture(scope="module")
def tiny(shared_bundle: Path) -> Bundle:
    return open_bundle(shared_bundle)


@pytest.fixture(scope="module")
def server(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("triton") / "models"
    write_repository(tiny, folder, Options(max_queue_delay_us=20_000, instances=(Instances("cpu", 2),)))
    with serve(folder) as running:
        yield running


def with_gaps(session: Arrays) -> Arrays:
    """Nobody's face is found for a while."""
    changed = {name: values.copy() for name, values in session.items()}
    n_frames = len(changed["face.box_px"])
    changed["face.box_px"][n_frames // 3 : n_frames // 2] = np.nan
    return changed


@pytest.fixture(scope="module")
def beds(tiny: Bundle) -> list[list[StepTrace]]:
    """What a device does with two people, the first of whom turns away for a while."""
    first, second = golden_sessions(tiny.manifest, tiny.read_arrays)[:2]
    setup = open_setup(tiny, "fp32", None, OrtOptions(threads=1))
    traces = [play(setup, with_gaps(first)), play(setup, second)]
    setup.close()
    missing = [trace for trace in traces[0] if "visual" not in trace.inputs]
    assert 0 < len(missing) < len(traces[0]), "both ways are gone"
    return traces


def newest(client: Client, bundle: Bundle, trace: StepTrace) -> Feed:
    """The features of a step, encoded by the server."""
    feed, present = Feed(), []
    for encoder in bundle.manifest.model.encoders:
        there = encoder.stage in trace.inputs
        present.append(there)
        value = np.full((1, encoder.feature), 9, np.float32)  # must not count
        if there:
            step = {encoder.input.name: trace.inputs[encoder.stage]}
            value = client.ask(f"jmt_tiny_{encoder.stage}", step).as_numpy(encoder.output.name)
        feed[encoder.stage] = value
    return {**feed, "present": np.array([present])}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_two_beds_have_the_numbers_of_a_device(
    protocol: str, server: TritonServer, tiny: Bundle, beds: list[list[StepTrace]]
) -> None:
    client, n_compared = Client(server, protocol), 0
    for step, traces in enumerate(zip(*beds, strict=True)):
        for bed, trace in zip(BEDS, traces, strict=True):
            feed = newest(client, tiny, trace)
            answer = client.ask("jmt_tiny_stream", feed, sequence_id=bed, sequence_start=step == 0)
            assert answer.as_numpy("n_steps_seen").tolist() == [[step + 1]]
            for output, value in trace.raw.items():
                assert np.array_equal(answer.as_numpy(output).reshape(value.shape), value), (step, bed)
                n_compared += 1
    assert n_compared >= 40


def test_a_window_that_is_sent_whole_gives_the_same(
    server: TritonServer, beds: list[list[StepTrace]]
) -> None:
    client, trace = Client(server, "grpc"), beds[1][-1]
    answer = client.ask("jmt_tiny_fusion", {**trace.features, "present": trace.present[None]})
    for output, value in trace.raw.items():
        assert answer.as_numpy(output)[0, -1] == value


def test_beds_share_batches_and_keep_their_own_windows(server: TritonServer) -> None:
    """Eight beds at once, then each of them alone."""
    client = Client(server, "grpc")
    rng = np.random.default_rng(3)
    steps = rng.normal(size=(8, 6, 2, 80)).astype(np.float32)

    def feed(bed: int, step: int) -> Feed:
        visual, audio = steps[bed, step][:, None]
        return {"visual": visual, "audio": audio, "present": np.ones((1, 2), bool)}

    together = []
    for step in range(6):
        together.append(asked_at_once(client, [(bed, feed(bed, step)) for bed in range(8)], step))
    assert max(batches_of(client, "jmt_tiny_stream")) > 1, "none were worked on together"
    for bed in range(8):
        for step in range(6):
            answer = client.ask("jmt_tiny_stream", feed(bed, step), sequence_id=99, sequence_start=step == 0)
            assert np.abs(answer.as_numpy("valence") - together[step][bed]).max() < 1e-5


def asked_at_once(client: Client, asked: list[tuple[int, Feed]], step: int) -> dict[int, Any]:
    """Bed -> valence, of requests that are all under way before the first answer."""
    found: dict[int, Any] = {}
    done = threading.Semaphore(0)

    def keep(bed: int, result: Any, error: Any) -> None:
        found[bed] = error or result.as_numpy("valence")
        done.release()

    for bed, feed in asked:
        client.client.async_infer(
            "jmt_tiny_stream",
            client.inputs(feed),
            lambda result, error, bed=bed: keep(bed, result, error),
            sequence_id=200 + bed,
            sequence_start=step == 0,
        )
    for _ in asked:
        assert done.acquire(timeout=30)
    return found


def batches_of(client: Client, model: str) -> set[int]:
    (stats,) = client.client.get_inference_statistics(model).model_stats
    return {int(one.batch_size) for one in stats.batch_stats}


def test_a_sequence_must_begin_with_its_start(server: TritonServer, beds: list[list[StepTrace]]) -> None:
    """Also after the server was killed: two halves of a stay never lie in one window."""
    client = Client(server, "grpc")
    feed = {"visual": np.zeros((1, 80), np.float32), "audio": np.zeros((1, 80), np.float32)}
    feed["present"] = np.ones((1, 2), bool)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        client.ask("jmt_tiny_stream", feed, sequence_id=500)
    client.ask("jmt_tiny_stream", feed, sequence_id=500, sequence_start=True)
    client.ask("jmt_tiny_stream", feed, sequence_id=500)
    server.kill()
    server.start()
    again = Client(server, "grpc")
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        again.ask("jmt_tiny_stream", feed, sequence_id=500)
    answer = again.ask("jmt_tiny_stream", feed, sequence_id=500, sequence_start=True)
    assert answer.as_numpy("n_steps_seen").tolist() == [[1]]


def test_a_silent_sequence_is_forgotten(tiny: Bundle, tmp_path: Path) -> None:
    write_repository(tiny, tmp_path / "models", Options(max_sequence_idle_s=0.5, name="ward"))
    feed = {"visual": np.zeros((1, 80), np.float32), "audio": np.zeros((1, 80), np.float32)}
    feed["present"] = np.ones((1, 2), bool)
    with serve(tmp_path / "models") as running:
        client = Client(running, "grpc")
        client.ask("ward_stream", feed, sequence_id=1, sequence_start=True)
        client.ask("ward_stream", feed, sequence_id=1)
        time.sleep(2.5)  # the server's own clock
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            client.ask("ward_stream", feed, sequence_id=1)


def test_one_sequence_too_many_waits_until_another_ends(tiny: Bundle, tmp_path: Path) -> None:
    write_repository(tiny, tmp_path / "models", Options(max_sequences=1))
    feed = {"visual": np.zeros((1, 80), np.float32), "audio": np.zeros((1, 80), np.float32)}
    feed["present"] = np.ones((1, 2), bool)
    with serve(tmp_path / "models") as running:
        client, answered = Client(running, "grpc"), threading.Event()
        client.ask("jmt_tiny_stream", feed, sequence_id=1, sequence_start=True)
        client.client.async_infer(
            "jmt_tiny_stream",
            client.inputs(feed),
            lambda result, error: answered.set(),
            sequence_id=2,
            sequence_start=True,
        )
        assert not answered.wait(0.5)
        client.ask("jmt_tiny_stream", feed, sequence_id=1, sequence_end=True)
        assert answered.wait(30)


def test_swapped_backends_give_the_same(tiny: Bundle, beds: list[list[StepTrace]], tmp_path: Path) -> None:
    write_repository(tiny, tmp_path / "models", Options())
    with TritonServer(serve_by_onnxruntime(tmp_path / "models")) as running:
        client = Client(running, "grpc")
        for step, trace in enumerate(beds[0]):
            feed = newest(client, tiny, trace)
            answer = client.ask("jmt_tiny_stream", feed, sequence_id=1, sequence_start=step == 0)
            for output, value in trace.raw.items():
                assert np.array_equal(answer.as_numpy(output).reshape(value.shape), value)


def test_every_published_system_is_taken(tmp_path: Path) -> None:
    """Their sizes, rules and labels, with small graphs in the place of their stages."""
    pytest.importorskip("torch", reason="the zoo declares its models in PyTorch")
    from tests.helpers.stand_in_bundle import published, write_stand_in
    from tests.helpers.tiny_words import tokenizer_bytes

    folder = tmp_path / "models"
    folder.mkdir()
    for name in PUBLISHED:
        bundle = write_stand_in(tmp_path / name, published(name), tokenizer_bytes())
        write_repository(bundle, tmp_path / f"{name}-models", Options())
        for model in (tmp_path / f"{name}-models").iterdir():
            model.rename(folder / model.name)
    with serve(folder) as running:
        client = Client(running, "grpc")
        for name in PUBLISHED:
            labels = stream_full_window(
                client, open_bundle(tmp_path / name), f"{name.replace('-', '_')}_stream"
            )
            if name == "group":
                assert sorted(labels) == ["negative", "neutral", "positive"]
            if name == "jmt-pain":
                assert sorted(labels) == ["no pain", "pain"]


def stream_full_window(client: Client, bundle: Bundle, model: str) -> list[str]:
    """Withheld until the window is full, unless it pads; names of the classes then."""
    spec = bundle.manifest.model
    feed = {
        one.name: np.ones((1, spec.fusion.hop, encoder.feature), np.float32)
        for encoder, one in zip(spec.encoders, spec.fusion.inputs, strict=False)
    }
    if spec.fusion.hop == 1:
        feed = {name: values[:, 0] for name, values in feed.items()}
    for step in range(spec.fusion.hop - 1, spec.fusion.n_steps, spec.fusion.hop):
        output = spec.fusion.outputs[0].name
        answer = client.ask(model, feed, sequence_id=7, sequence_start=step < spec.fusion.hop)
        is_early = step + 1 < spec.fusion.n_steps and spec.fusion.warm_up != "pad"
        assert np.isnan(answer.as_numpy(output)).all() == is_early, (model, step)
    value = answer.as_numpy(output)
    asked = grpc.InferRequestedOutput(output, class_count=value.shape[-1])
    classes = client.client.infer(model, client.inputs(feed), outputs=[asked], sequence_id=7)
    return [one.decode().split(":")[2] for one in classes.as_numpy(output).ravel() if one.count(b":") == 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_streams_of_full_size_give_the_outputs_of_pytorch(name: str, tmp_path: Path) -> None:
    path = FULL_SIZE / name / "bundle"
    if not path.is_dir():
        pytest.skip(f"needs {path}: make bench-all")
    bundle = open_bundle(path)
    model = bundle.manifest.model
    write_repository(bundle, tmp_path / "models", Options())
    session = bundle.read_arrays(bundle.manifest.golden.sessions[0])
    n_compared, worst = 0, 0.0
    with serve(tmp_path / "models") as running:
        client = Client(running, "grpc")
        for step in range(model.fusion.hop - 1, bundle.manifest.golden.n_steps, model.fusion.hop):
            hop = slice(step + 1 - model.fusion.hop, step + 1) if model.fusion.hop > 1 else step
            feed = {
                one.name: session[f"feature.{encoder.stage}"][hop][None]
                for encoder, one in zip(model.encoders, model.fusion.inputs, strict=True)
            }
            stream = f"{name.replace('-', '_')}_stream"
            answer = client.ask(stream, feed, sequence_id=1, sequence_start=step < model.fusion.hop)
            for spec, output in zip(model.fusion.outputs, model.outputs, strict=True):
                expected = session[f"output.{output.name}"][step]
                value = answer.as_numpy(spec.name)[0].reshape(expected.shape)
                if np.isfinite(expected).all() and np.isfinite(value).all():
                    off = np.abs(value - expected).max() / bundle.manifest.golden.deviation[output.name]
                    worst, n_compared = max(worst, float(off)), n_compared + 1
    assert n_compared > 0
    assert worst < model.tolerances.parity


# -- what the docs say -----------------------------------------------------------------------------


def on_ports_of(server: TritonServer, text: str) -> str:
    return text.replace(":8001", f":{server.grpc_port}").replace(":8000", f":{server.http_port}")


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_page_s_examples_run(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code, *_) = blocks(PAGE, "python")
    exec(compile(on_ports_of(server, code), PAGE.name, "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["[[1]]", "[[2]]"]
    (curl,) = (block for block in blocks(PAGE, "sh") if "curl" in block)
    done = subprocess.run(
        ["sh", "-ec", on_ports_of(server, curl)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    config = json.loads(done.stdout)
    assert config["parameters"]["edge_mer_step_s"] == {"string_value": "4/15"}
    assert len(config["sequence_batching"]["state"]) == 4


@pytest.mark.parametrize("system", ["jmt-tiny", "rjcma", "group"])
def test_the_repository_s_own_readme_runs(
    system: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="the zoo declares its models in PyTorch")
    from tests.helpers.stand_in_bundle import published, write_stand_in
    from tests.helpers.tiny_words import tokenizer_bytes

    bundle = write_stand_in(tmp_path / "bundle", published(system), tokenizer_bytes())
    write_repository(bundle, tmp_path / "models", Options())
    (code,) = blocks(tmp_path / "models" / "README.md", "python")
    with serve(tmp_path / "models") as running:
        exec(compile(on_ports_of(running, code), "README.md", "exec"), {})  # noqa: S102
    hop = bundle.manifest.model.fusion.hop
    assert capsys.readouterr().out.splitlines()[-1] == f"[[{hop}]]"
