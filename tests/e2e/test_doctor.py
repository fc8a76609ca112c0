"""`edge-mer doctor` on this machine, and how it shows what recorded machines lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli.doctor import lines, summary
from edge_mer.cli.main import main
from edge_mer.doctor.finding import Finding, Purpose
from edge_mer.doctor.probe import Import
from edge_mer.doctor.registry import TOPICS, examine
from tests.helpers.recorded_systems import imports, orin_nano_super

KEYS = ["topic", "name", "status", "found", "expected", "fix", "needed_for"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "edge_mer.cli.main", "doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60, check=False
    )


def parsed(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = run("--json", *arguments)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_the_exit_code_says_whether_there_is_a_problem() -> None:
    code, findings = parsed()
    problems = [finding for finding in findings if finding["status"] == "problem"]
    assert code == (5 if problems else 0), problems
    assert all(list(finding) == KEYS for finding in findings)
    assert list(dict.fromkeys(finding["topic"] for finding in findings)) == list(TOPICS)


def test_a_purpose_turns_a_note_into_a_problem() -> None:
    _, findings = parsed("--for", "cpu")
    status = {finding["name"]: finding["status"] for finding in findings if finding["name"] == "camera"}
    code, asked = parsed("--for", "camera")
    none = next(f for f in asked if f["name"] == "camera")["found"] == "none"
    if none:  # as on most machines that test
        assert (status["camera"], code) == ("note", 5)
    assert all(f["needed_for"] in ("cpu", "camera") for f in asked if f["status"] == "problem")


def test_the_core_is_whole_where_tests_run() -> None:
    _, findings = parsed("--for", "cpu")
    core = [finding for finding in findings if finding["needed_for"] == "cpu"]
    assert core == []


def test_the_table_reads_well_at_80_columns() -> None:
    done = run(COLUMNS="80", EDGE_MER_CACHE="/tmp/short")  # noqa: S108 (nothing is written there)
    assert "Traceback" not in done.stderr
    text = done.stdout.splitlines()
    assert [line for line in text if line in TOPICS] == list(TOPICS)
    long = [line for line in text[:-1] if len(line) > 80 and "fix: " not in line]
    assert [line for line in long if " " in line.strip()] == [], "only a word that is too long may be"
    assert "problem" in text[-1]
    assert text[-1].endswith((" notes.", " note."))
    assert "\x1b" not in done.stdout


def test_a_core_package_that_crashes_is_named(tmp_path: Path) -> None:
    """A real one: a module that ends its process as a library for another processor would."""
    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("--for", "cpu", PYTHONPATH=path)
    assert done.returncode == 5
    assert "ended by SIGILL" in " ".join(done.stdout.split())
    assert "1 problem for cpu: onnxruntime" in done.stdout


def test_doctor_loads_nothing_of_what_it_examines() -> None:
    code = (
        "import sys\nimport edge_mer.cli.doctor\n"
        "heavy = {'numpy', 'scipy', 'cv2', 'av', 'onnxruntime', 'pydantic', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_purpose_is_a_matter_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "coffee"]) == 2
    assert "coffee" in capsys.readouterr().err


def test_a_finding_wraps_and_its_fix_stays_whole() -> None:
    fix = "sudo apt-get update && sudo apt-get install " + " ".join(f"package-{n}" for n in range(9))
    finding = Finding("TensorRT", "word " * 30, "problem", "another " * 10, fix)
    shown = lines(finding, 80).plain.splitlines()
    assert shown[0].startswith("  problem  TensorRT       word word")
    assert shown[-1] == f"           fix: {fix}"
    assert all(len(line) <= 80 for line in shown[:-1])
    assert all(line.startswith(" " * 26) for line in shown[1:-1])
    assert any(line.strip().startswith("expected: another") for line in shown)


def test_the_last_line_names_the_problems(tmp_path: Path) -> None:
    purposes = frozenset({Purpose.cpu, Purpose.tensorrt})
    whole = orin_nano_super(tmp_path / "whole")
    assert summary(examine(whole, purposes), purposes) == "No problem for cpu, tensorrt; 5 notes."
    broken = orin_nano_super(tmp_path / "broken", imports=imports(cuda=Import("ok", "12.6", "Orin")))
    assert summary(examine(broken, purposes), purposes) == (
        "2 problems for cpu, tensorrt: TensorRT, PyCUDA; 5 notes."
    )
    one = Finding("a", "b", "note")
    assert summary([one], frozenset({Purpose.cpu})) == "No problem for cpu; 1 note."
