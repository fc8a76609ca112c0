"""The check on aarch64 sees what differs, and asks for what another Python needs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("packaging", reason="needs packaging, which comes with pytest")

from benchmarks.jetson import compare
from benchmarks.jetson.tools import CheckError, call
from benchmarks.jetson.wheels import Target, core_of, walk
from edge_mer.bundle.manifest import Manifest
from edge_mer.bundle.read import open_bundle

N = 20


@pytest.fixture
def manifest(shared_bundle: Path) -> Manifest:
    return open_bundle(shared_bundle).manifest


def probed() -> compare.Found:
    """What a machine might have found: a few tensors and N windows."""
    rng = np.random.default_rng(0)
    found: compare.Found = {}
    for precision in ("fp32", "int8-cpu"):
        for stage in ("visual", "audio"):
            found[f"{precision}/{stage}/feature.{stage}"] = rng.standard_normal((4, 8))
        for output in ("valence", "arousal"):
            found[f"{precision}/fusion/{output}"] = rng.standard_normal((N, 1))
    found["faces/box_px"] = rng.uniform(0, 100, (5, 4))
    found["faces/eyes_px"] = np.vstack([rng.uniform(0, 100, (4, 4)), [[np.nan] * 4]])
    return found


def judged(manifest: Manifest, name: str, rows: slice, by: float) -> dict[str, bool]:
    """Verdicts where one machine's rows of one array differ."""
    here, there = probed(), probed()
    there[name][rows] += by
    return {one.name: one.passed for one in compare.stage_checks(here, there, manifest)}


def test_equal_numbers_pass(manifest: Manifest) -> None:
    verdicts = judged(manifest, "fp32/fusion/valence", slice(0), 0.0)
    assert len(verdicts) == 6
    assert all(verdicts.values())
    assert all(one.passed for one in compare.face_check(probed(), probed()))


@pytest.mark.parametrize("stage", ["visual/feature.visual", "audio/feature.audio", "fusion/arousal"])
def test_one_number_in_fp32_is_enough_to_fail(manifest: Manifest, stage: str) -> None:
    verdicts = judged(manifest, f"fp32/{stage}", slice(1), 3e-4)
    assert [name for name, passed in verdicts.items() if not passed] == [f"fp32, {stage.split('/')[0]}"]


def test_a_difference_counts_in_deviations_too(manifest: Manifest) -> None:
    """5e-5 of something that varies by 0.36 is more than 1e-4 of its deviation."""
    by = 0.9 * compare.MAX_STAGE
    assert manifest.golden.deviation["feature.audio"] < 0.9
    assert not judged(manifest, "fp32/audio/feature.audio", slice(1), by)["fp32, audio"]


def test_8_bits_may_differ_in_few_windows_and_by_little(manifest: Manifest) -> None:
    little = 0.5 * manifest.model.tolerances.int8_drift * manifest.golden.deviation["valence"]
    for rows, by, passed in (
        (slice(2), little, True),
        (slice(3), little, False),
        (slice(N), little, False),
        (slice(1), 4 * little, False),
    ):
        assert judged(manifest, "int8-cpu/fusion/valence", rows, by)["int8-cpu, fusion"] is passed


def test_what_is_withheld_on_one_machine_alone_fails(manifest: Manifest) -> None:
    for name in ("fp32/fusion/valence", "int8-cpu/fusion/valence"):
        assert not all(judged(manifest, name, slice(1), np.nan).values())


def test_eyes_must_be_equal_and_be_found() -> None:
    for rows, by in ((slice(1), 0.5), (slice(1), np.nan)):
        there = probed()
        there["faces/eyes_px"][rows] += by
        assert [one.passed for one in compare.face_check(probed(), there)] == [False]
    nobody = probed()
    nobody["faces/eyes_px"][:] = np.nan
    assert [one.passed for one in compare.face_check(nobody, nobody)] == [False]


def test_a_last_bit_is_held_against_the_same_machine(manifest: Manifest) -> None:
    found = probed()
    for output in ("valence", "arousal"):
        found[f"fp32/shaken/{output}"] = np.stack([found[f"fp32/fusion/{output}"]] * 3)
    found["fp32/shaken/valence"][1, 4] += 0.01
    one = compare.shaken(found, "fp32", "fusion", manifest.golden.deviation)
    assert (one.n, one.n_beyond) == (3 * N, 1)
    assert one.absolute == pytest.approx(0.01)
    assert one.relative == pytest.approx(0.01 / manifest.golden.deviation["valence"])


def prediction(index: int, **changes: Any) -> dict[str, Any]:
    plain = {"window_index": index, "status": "ok", "reasons": [], "pain": None, "emotion": None}
    affect = {"valence": 0.1 * index, "arousal": 0.2, "interval": None}
    return {**plain, "affect": affect, "confidence": None, "utc": "now", "latency_ms": {}} | changes


def runs(tmp_path: Path, *changes: dict[str, Any]) -> compare.Check:
    """Three predictions against the same with changes."""
    files = (tmp_path / "here.jsonl", tmp_path / "there.jsonl")
    others = [prediction(i, **change) for i, change in enumerate(changes)]
    for file, lines in zip(files, ([prediction(i) for i in range(3)], others), strict=True):
        file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return compare.run_check("run", *files)


def test_predictions_are_near_and_all_else_is_equal(tmp_path: Path) -> None:
    near = {"affect": {"valence": 0.009, "arousal": 0.2, "interval": None}, "utc": "later"}
    far = {"affect": {"valence": 0.011, "arousal": 0.2, "interval": None}}
    assert runs(tmp_path, near, {}, {}).passed
    assert runs(tmp_path, near, {}, {}).found == "0.009 in 3 predictions"
    assert not runs(tmp_path, far, {}, {}).passed
    assert not runs(tmp_path, {"status": "degraded"}, {}, {}).passed
    assert not runs(tmp_path, {}, {}).passed
    assert not runs(tmp_path, {}, {}, {"affect": None}).passed


def test_runs_without_an_estimate_prove_nothing(tmp_path: Path) -> None:
    file = tmp_path / "withheld.jsonl"
    file.write_text(json.dumps(prediction(0, affect=None, status="withheld")), encoding="utf-8")
    assert not compare.run_check("run", file, file).passed


def item(name: str, version: str, *requires: str, asked: bool = False) -> dict[str, Any]:
    """As pip reports it."""
    return {"metadata": {"name": name, "version": version, "requires_dist": requires}, "requested": asked}


def test_conditions_are_those_of_the_target_and_not_of_this_python() -> None:
    chosen = {
        "one": item("one", "1", 'tomli>=1; python_version < "3.11"', "two", 'gone; extra == "x"', asked=True),
        "two": item("two", "2", 'old; python_version < "3"', 'arm>=4; platform_machine == "aarch64"'),
        "arm": item("arm", "3"),
        "stray": item("stray", "1"),
    }
    assert walk(chosen, Target("3.10", 35).environment()) == ({"one", "two"}, ["arm>=4", "tomli>=1"])
    assert walk(chosen, Target("3.12", 39).environment()) == ({"one", "two"}, ["arm>=4"])
    chosen["arm"] = item("arm", "4.1")
    assert walk(chosen, Target("3.12", 39).environment()) == ({"one", "two", "arm"}, [])


def test_extras_bring_what_they_require() -> None:
    chosen = {
        "one": item("one", "1", 'two[fast]; extra == "text"', asked=True) | {"requested_extras": ["text"]},
        "two": item("two", "2", 'speed; extra == "fast"'),
    }
    assert walk(chosen, Target("3.12", 39).environment()) == ({"one", "two"}, ["speed"])


def test_wheels_for_a_newer_glibc_are_not_asked_for() -> None:
    options = Target("3.10", 35).options()
    assert "manylinux_2_35_aarch64" in options
    assert "manylinux_2_36_aarch64" not in options
    assert "--only-binary=:all:" in options


def test_what_fails_says_why_and_what_to_do() -> None:
    with pytest.raises(CheckError, match=r"(?s)counting: exit code 3.*  no numbers here.*Count yourself"):
        call("counting", ["sh", "-c", "echo no numbers here; exit 3"], limit_s=10, hint="Count yourself.")
    with pytest.raises(CheckError, match=r"(?s)counting: there is no /nowhere/abacus.*Buy one"):
        call("counting", ["/nowhere/abacus"], limit_s=10, hint="Buy one.")
    with pytest.raises(CheckError, match="counting: not done after 0 s"):
        call("counting", ["sleep", "60"], limit_s=0.2)


def test_the_core_is_what_the_wheel_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as wheel:
        lines = [
            "Name: one",
            "Requires-Dist: numpy>=1",
            'Requires-Dist: torch; extra == "export"',
            "",
            "About.",
        ]
        wheel.writestr("one-1.dist-info/METADATA", "\n".join(lines))
    assert core_of(tmp_path / "one.whl") == ["numpy>=1"]
