"""The examples run as a reader would run them, on simulated people."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> list[str]:
    """The lines that it printed."""
    out, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    assert not complaints
    return out.splitlines()


@pytest.mark.live
def test_both_examples_do_what_they_say(shared_bundle: Path, tmp_path: Path) -> None:
    robot, bedside = (start(tmp_path, name, str(shared_bundle)) for name in ("robot.py", "bedside.py"))
    check_robot(finished(robot))
    check_bedside(finished(bedside), tmp_path)
    again = start(
        tmp_path,
        "bedside.py",
        str(shared_bundle),
        "--acknowledge",
        "ward-3",
        "--source",
        "sim:duration_s=0.5",
    )
    known = finished(again)
    assert known[0].startswith("still standing: high-arousal: affect.arousal 0.")
    assert "acknowledged by ward-3" in known[1]


def check_robot(lines: list[str]) -> None:
    said = [re.fullmatch(r"(\d\.\d\d) m/s  (.+)", line) for line in lines]
    speeds = [(float(match[1]), match[2]) for match in said if match]
    assert len(speeds) == len(lines)
    assert speeds[-1] == (0.0, "the sources have ended")
    sure = [(speed, because) for speed, because in speeds if because.startswith("arousal")]
    for speed, because in sure:
        assert speed == pytest.approx(0.6 - 0.4 * float(because.split()[1]), abs=0.01)
    assert {speed for speed, because in speeds[:-1] if not because.startswith("arousal")} == {0.2}
    assert max(speed for speed, _ in sure) > min(speed for speed, _ in sure) > 0.2


def check_bedside(lines: list[str], folder: Path) -> None:
    [raised] = lines
    assert re.fullmatch(r"raised: high-arousal: affect\.arousal 0\.\d+, above 0\.5, for 1 s", raised)
    [alarm] = json.loads((folder / "alarms.json").read_text())["alarms"]
    assert alarm["state"] == "active"
    lines_out = (folder / "observations.ndjson").read_text().splitlines()
    observations = [json.loads(line) for line in lines_out]
    assert {one["resourceType"] for one in observations} == {"Observation"}
    texts = [one["code"]["text"] for one in observations]
    assert texts.count("Estimated arousal") == texts.count("Estimated valence") == 15


def test_an_error_is_one_message(tmp_path: Path) -> None:
    missing = str(tmp_path / "nobody")
    for process in [start(tmp_path, name, missing) for name in ("robot.py", "bedside.py")]:
        out, complaints = process.communicate(timeout=60)
        assert out == ""
        assert "nobody" in complaints
        assert "Traceback" not in complaints
