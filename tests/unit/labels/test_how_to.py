"""The page on labels says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from edge_mer.labels.manifest import KEYS, Split, read_manifest
from edge_mer.labels.track import read_track
from edge_mer.sources.signal import _KEYS, MODALITIES, SignalSettings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "how-to-label.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def keys(heading: str) -> set[str]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))


def test_the_examples_are_one_manifest_without_problems(tmp_path: Path) -> None:
    table, lines = tmp_path / "people.csv", tmp_path / "people.jsonl"
    table.write_text(blocks("csv")[0], encoding="utf-8")
    lines.write_text(blocks("json")[0], encoding="utf-8")
    recordings, problems = read_manifest(table)
    assert (len(recordings), problems) == (4, [])
    assert read_manifest(lines) == (recordings, [])
    for recording in recordings:
        for uri in recording.sources:
            if uri.startswith("signal:"):
                SignalSettings.parse(uri.removeprefix("signal:"))


def test_the_label_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.csv"
    path.write_text(blocks("csv")[1], encoding="utf-8")
    track, problems = read_track(path, {"valence": (-1, 1), "arousal": (-1, 1)}, duration_ns=1_500_000_000)
    assert track.t_ns.tolist() == [0, 500_000_000, 1_000_000_000]
    assert not any(problem.is_fatal for problem in problems)


def test_every_key_is_explained() -> None:
    assert keys("A manifest") == set(KEYS)
    assert keys("Biosignals") == set(_KEYS)
    for name in (*get_args(Split), *MODALITIES):
        assert f"`{name}`" in PAGE
