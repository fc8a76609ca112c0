"""The order in which a device proves what it timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import edge_mer
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.cli import build_engine
from edge_mer.cli.build_engine import _verdict
from edge_mer.cli.main import main
from edge_mer.clock import MonotonicClock
from edge_mer.engine.base import Array
from edge_mer.engine.onnxruntime import OrtOptions
from edge_mer.errors import ParityError
from edge_mer.runtime import target_cpu
from edge_mer.runtime.build import Trial, build, by_worth, fitting_build
from edge_mer.runtime.opening import open_chosen
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.target import Choice
from edge_mer.runtime.target_cpu import CpuTarget


def timed(precision: str, hop_ms: float, threads: int = 1) -> Trial:
    return Trial(Choice(precision, (("fusion", OrtOptions(threads=threads)),)), hop_ms)


@pytest.mark.parametrize(
    ("int8_ms", "bf16_ms", "first"),
    [
        (5.0, 12.0, "int8-cpu"),
        (8.0, 12.0, "int8-cpu"),
        (8.2, 12.0, "fp32"),
        (12.0, 8.9, "bf16"),
        (12.0, 9.1, "fp32"),
        (5.0, 5.0, "bf16"),
        (4.6, 5.0, "bf16"),
        (4.4, 5.0, "int8-cpu"),
    ],
)
def test_each_halving_of_the_bits_must_save_a_tenth(int8_ms: float, bf16_ms: float, first: str) -> None:
    trials = [timed("int8-cpu", int8_ms), timed("bf16", bf16_ms), timed("fp32", 10.0)]
    assert by_worth(trials)[0].choice.precision == first


def test_among_the_like_the_fastest_comes_first() -> None:
    trials = [timed("fp32", 10.0), timed("fp32", 9.9, 2), timed("int8-cpu", 8.0), timed("int8-cpu", 7.9, 2)]
    assert [one.hop_ms for one in by_worth(trials)] == [7.9, 8.0, 9.9, 10.0]


def test_the_table_says_why_something_faster_was_not_taken() -> None:
    chosen = Trial(timed("fp32", 10.0).choice, 10.0, error=0.0)
    assert _verdict(timed("int8-cpu", 9.5), chosen) == "saves too little"
    assert _verdict(timed("int8-cpu", 10.5), chosen) == "slower"
    assert _verdict(chosen, chosen) == "passed"


class OneWay(CpuTarget):
    """A processor with one way to run a bundle, whose visual encoder errs in batches of 8."""

    def __init__(self, precision: str, by: float = 0.0) -> None:
        super().__init__(max_batch=8)
        self._precision, self._by = precision, by

    def choices(self, bundle: Bundle) -> list[Choice]:
        return [Choice.alike(bundle.manifest.model, self._precision, OrtOptions())]

    def open(self, bundle: Bundle, choice: Choice, files: Mapping[str, bytes]) -> PipelineSetup:
        setup = super().open(bundle, choice, files)
        engine: Any = setup.engines["visual"]
        right = engine._run

        def run(feed: Mapping[str, Array]) -> dict[str, Array]:
            found: dict[str, Array] = right(feed)
            return {name: rows + self._by * (len(rows) == 8) for name, rows in found.items()}

        engine._run = run
        return setup


def test_a_candidate_that_errs_at_a_batch_size_is_refused_by_name(shared_bundle: Path) -> None:
    wanted = "int8-cpu: visual at batch 8 against alone, in onnxruntime-cpu failed.*Found: "
    with pytest.raises(ParityError, match=wanted):
        list(build(open_bundle(shared_bundle), MonotonicClock(), OneWay("int8-cpu", by=0.4)))
    assert fitting_build(open_bundle(shared_bundle), CpuTarget()) is None


def test_batches_are_proven_timed_and_kept(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_engine, "CpuTarget", lambda max_batch: OneWay("fp32"))
    command = ["build-engine", str(shared_bundle), "--max-batch", "8"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "sessions that share run" in said
    record = fitting_build(open_bundle(shared_bundle), CpuTarget())
    assert record is not None
    assert record["settings"] == {"max_batch": 8}
    for told in record["batches"].values():
        times = {int(size): ms for size, ms in told["ms_per_row"].items()}
        assert list(times) == [1, 2, 4, 8]
        fastest = min(times, key=times.__getitem__)
        assert told["best"] == (fastest if times[fastest] <= 0.9 * times[1] else 1)
    assert set(record["batches"]) == {"visual", "audio", "fusion"}
    with edge_mer.open_model(shared_bundle) as model:
        assert model.max_batch == {stage: told["best"] for stage, told in record["batches"].items()}
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Built before" in said
    assert "sessions that share run" in said


def test_what_was_chosen_for_more_threads_is_passed_over(
    shared_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, target = open_bundle(shared_bundle), CpuTarget()
    list(build(bundle, MonotonicClock(), target))
    assert fitting_build(bundle, target) is not None
    _, choice, was_built = open_chosen(bundle, None)
    assert was_built
    monkeypatch.setattr(target_cpu, "available_threads", lambda: 64)
    assert fitting_build(bundle, target) is None
    _, choice, was_built = open_chosen(bundle, None)
    assert (choice.precision, was_built) == ("fp32", False)
