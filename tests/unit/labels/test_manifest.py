"""Manifests: two formats with one meaning, and everything wrong with them in one go."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import Problem

HEADER = "person,sources,labels,name,label_rate_hz,split"


def written(folder: Path, *lines: str, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def told(problems: list[Problem]) -> list[str]:
    assert all(problem.is_fatal for problem in problems)
    return [f"{problem.line}: {problem.what}" for problem in problems]


def wrong(path: Path) -> list[str]:
    return told(read_manifest(path)[1])


def test_both_formats_give_the_same_recordings(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        HEADER,
        "anna,clip.mp4 ; signal:bio.csv?modality=eda&column=gsr&rate_hz=512,labels/a.csv,,25,train",
        '7,"file:one, two.mp4",/data/b.csv,second,30000/1001,',
        "",
        "sim1,sim:seed=1&person=3,,,,test",
    )
    rows = [
        {
            "person": "anna",
            "sources": ["clip.mp4", "signal:bio.csv?modality=eda&column=gsr&rate_hz=512"],
            "labels": "labels/a.csv",
            "label_rate_hz": 25,
            "split": "train",
        },
        {
            "person": 7,
            "sources": ["file:one, two.mp4"],
            "labels": "/data/b.csv",
            "name": "second",
            "label_rate_hz": "30000/1001",
        },
        {"person": "sim1", "sources": ["sim:seed=1&person=3"], "labels": None, "split": "test"},
    ]
    lines = written(tmp_path, *(json.dumps(row) for row in rows), name="people.jsonl")
    recordings, problems = read_manifest(table)
    assert problems == []
    assert read_manifest(lines) == (recordings, [])
    assert recordings == [
        Recording(
            name="clip.mp4",
            person="anna",
            sources=(
                f"file:{tmp_path}/clip.mp4",
                f"signal:{tmp_path}/bio.csv?modality=eda&column=gsr&rate_hz=512",
            ),
            labels=tmp_path / "labels/a.csv",
            label_rate_hz=Fraction(25),
            split="train",
        ),
        Recording(
            "second", "7", (f"file:{tmp_path}/one, two.mp4",), Path("/data/b.csv"), Fraction(30_000, 1_001)
        ),
        Recording("sim:seed=1&person=3", "sim1", ("sim:seed=1&person=3",), None, None, "test"),
    ]


def test_paths_start_at_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    written(tmp_path / "study", HEADER, "a,sub/x.mp4,x.csv,,,", "a,~/y.mp4,/z.csv,,,", "a,/w.mp4,~/w.csv,,,")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    recordings, problems = read_manifest(Path("study/people.csv"))
    assert problems == []
    assert [one.sources[0] for one in recordings] == [
        "file:study/sub/x.mp4",
        "file:/home/anna/y.mp4",
        "file:/w.mp4",
    ]
    assert [str(one.labels) for one in recordings] == ["study/x.csv", "/z.csv", "/home/anna/w.csv"]
    assert [one.name for one in recordings] == ["sub/x.mp4", "~/y.mp4", "/w.mp4"]


def test_a_split_given_once_holds_for_the_person(tmp_path: Path) -> None:
    rows = ["a,1.mp4,1.csv,,,", "a,2.mp4,2.csv,,,valid", "b,3.mp4,3.csv,,,"]
    recordings, problems = read_manifest(written(tmp_path, HEADER, *rows))
    assert problems == []
    assert [one.split for one in recordings] == ["valid", "valid", None]


def test_people_must_not_be_torn(tmp_path: Path) -> None:
    rows = ["a,1.mp4,1.csv,,,train", "b,2.mp4,2.csv,,,train", "a,3.mp4,3.csv,,,test", "a,4.mp4,4.csv,,,"]
    recordings, problems = read_manifest(written(tmp_path, HEADER, *rows))
    assert told(problems) == ["2: person a is in test and train"]
    assert problems[0].more_lines == (4,)
    assert [one.split for one in recordings] == ["train", "train", "test", None]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (",a.mp4,a.csv,,,", "2: no person"),
        ("a,,a.csv,,,", "2: no sources"),
        ("a, ; ,a.csv,,,", "2: no sources"),
        ("a,a.mp4,,,,", "2: no labels"),
        ("a,sim:seed=1,a.csv,,,", "2: labels for a simulated person"),
        ("a,sim:seed=1;sim:seed=2,,,,", "2: two simulated people"),
        ("a,bio.csv,a.csv,,,", "2: bio.csv is a table"),
        ("a,a.mp4,a.csv,,fast,", "2: label_rate_hz 'fast' is no rate"),
        ("a,a.mp4,a.csv,,0,", "2: label_rate_hz '0' is no rate"),
        ("a,a.mp4,a.csv,,,training", "2: no such split: 'training'"),
        ("a,a.mp4,a.csv", "2: 3 cells under a header of 6"),
        ("a,a.mp4;a.mp4,a.csv,,,", "2: the same source more than once: file:"),
        ('a,"a.mp4,a.csv,,,', "None: not readable"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, row: str, wanted: str) -> None:
    (found,) = wrong(written(tmp_path, HEADER, row))
    assert found.startswith(wanted)


def test_names_and_sources_are_there_once(tmp_path: Path) -> None:
    rows = ["a,1.mp4,1.csv,n,,", "b,2.mp4,2.csv,n,,", "b,2.mp4,3.csv,m,,"]
    assert wrong(written(tmp_path, HEADER, *rows)) == [
        "2: the same name more than once: n",
        f"3: the same source more than once: file:{tmp_path}/2.mp4",
    ]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], ["None: no recording in it"]),
        ([HEADER], ["None: no recording in it"]),
        (["person,source,labels"], ["1: unknown column or key 'source'", "1: no column 'sources'"]),
        (["person,person,sources,labels"], ["1: two columns are named 'person'"]),
        (["{not json"], ["1: no JSON"]),
        (['{"person": "a"}', "[1]"], ["1: sources is no list of texts", "2: no JSON object"]),
        (['{"person": "a", "sources": "a.mp4", "labels": "a"}'], ["1: sources is no list of texts"]),
        (
            ['{"person": ["a"], "sources": ["sim:"]}'],
            ["1: person is neither text nor number", "1: no person"],
        ),
        (['{"person": "a", "sources": ["sim:"], "spilt": "test"}'], ["1: unknown column or key 'spilt'"]),
        (['{"person": true, "sources": ["sim:"]}'], ["1: person is neither", "1: no person"]),
        (["{" + '"a":[' * 100_000], ["1: no JSON"]),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, lines: list[str], wanted: list[str]) -> None:
    found = wrong(written(tmp_path, *lines))
    assert len(found) == len(wanted), found
    for one, text in zip(found, wanted, strict=True):
        assert one.startswith(text)


def test_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"person\xff")
    for name, said in (("none.csv", "no such manifest"), ("", "not a file"), ("bytes.csv", "utf-8")):
        recordings, problems = read_manifest(tmp_path / name)
        assert recordings == []
        assert [said in problem.what for problem in problems] == [True]
