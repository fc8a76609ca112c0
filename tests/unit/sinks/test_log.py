"""Lines that are only added: over restarts, power cuts and full files."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edge_mer.errors import UsageError
from edge_mer.sinks.log import LogSink
from tests.helpers.sent import ok


def indices(path: Path) -> list[int]:
    return [json.loads(line)["window_index"] for line in path.read_text(encoding="utf-8").splitlines()]


def write(rest: str, *numbers: int) -> LogSink:
    sink = LogSink(rest)
    sink.open()
    for number in numbers:
        sink.write(ok(number))
    return sink


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(str(path), 0, 1).close()
    write(str(path), 2).abandon()
    assert indices(path) == [0, 1, 2]


def test_what_a_killed_process_wrote_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    script = (
        "import os,sys; from tests.unit.sinks.test_log import write; write(sys.argv[1], 0, 1, 2); os._exit(9)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=root, check=False)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"window_index": 3, "t_st')  # and the power went
    write(str(path), 4).close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(lines[i])["window_index"] for i in (0, 1, 2, 4)] == [0, 1, 2, 4]
    assert lines[3] == '{"window_index": 3, "t_st'


def test_full_files_are_numbered_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"window_index": -1, "filler": "x" * (1 << 20)}) + "\n")
    write(f"{path}?max_mb=1&keep=2", 0, 1).close()
    assert indices(tmp_path / "a.jsonl.1") == [-1]
    assert indices(path) == [0, 1]
    for number in range(2):
        path.write_text(json.dumps({"window_index": 10 + number, "filler": "x" * (1 << 20)}) + "\n")
        write(f"{path}?max_mb=1&keep=2", 20 + number).close()
    assert {one.name for one in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.1", "a.jsonl.2"}
    assert indices(tmp_path / "a.jsonl.1") == [11]


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", "names no file"),
        ("a?max_mb=0", "max_mb=0"),
        ("a?kep=1", "keep"),
        ("/proc/none/a", "cannot write"),
    ],
)
def test_what_cannot_be_written_is_said(rest: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        LogSink(rest).open()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no regular file"):
        LogSink(str(tmp_path)).open()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    sink = write(str(tmp_path / "a.jsonl"), 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "a.jsonl").stat().st_size
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 10}, {size + 10}))
from edge_mer.errors import UsageError
from tests.unit.sinks.test_log import write
try:
    write(sys.argv[1], 1)
except UsageError as error:
    print(error)
"""
    sink.close()
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.jsonl")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert "cannot write" in done.stdout, done.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == limits
