"""The page itself: its numbers, its gaps, what it refuses to run, and how large it is."""

from __future__ import annotations

import itertools
import random
import re
import statistics
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mer.errors import UsageError
from edge_mer.report import page as page_module
from edge_mer.report.page import render, write_page
from edge_mer.report.read import read_records
from edge_mer.report.truth import Truth
from tests.helpers.predictions import BUNDLE, STEP_NS, degraded, pain, record, withheld, write_records

STEP_S = STEP_NS / 1e9
SWATCHES = {"M1 7h26", "M1 1h26v12H1Z"}
VOID = {"meta", "link", "path", "br", "img", "input"}


class Tree(HTMLParser):
    """Every element with its attributes, and all text; checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        """What a person reads, with single spaces."""
        return " ".join(" ".join(self.texts).split())

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def paths(self, css: str) -> list[str]:
        """Drawn paths of exactly that class; swatches of legends are not among them."""
        return [a["d"] for a in self.named("path") if a["class"] == css and a["d"] not in SWATCHES]


def page(folder: Path, records: Any, truth: Truth | None = None, **options: Any) -> str:
    return render(read_records(write_records(folder / "out.jsonl", records)), truth, **options)


def subpaths(d: str) -> list[list[tuple[float, float]]]:
    """Points of every piece of a path that is made of moves and lines."""
    found = []
    for part in d.split("M")[1:]:
        numbers = [float(n) for n in part.split("h")[0].split()]
        found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


# --- gaps ----------------------------------------------------------------------------------------


def test_no_line_crosses_a_withheld_stretch(tmp_path: Path) -> None:
    lines = [withheld(i, "audio_missing") if 8 <= i < 12 else record(i, 0.5) for i in range(20)]
    tree = Tree(page(tmp_path, lines))
    (d,) = tree.paths("line stroke-valence")
    before, after = subpaths(d)
    # 20 steps are 1000 units: step i ends at 50 * (i + 1).
    assert [x for x, _ in before] == [50.0 * (i + 1) for i in range(8)]
    assert [x for x, _ in after] == [50.0 * (i + 1) for i in range(12, 20)]
    assert {y for _, y in before} == {50.0}  # valence 0.5 of -1 to 1 is a quarter from the top of 200
    spans = [a for a in tree.named("div") if a.get("class") == "span withheld" and "top" not in a["style"]]
    assert spans
    assert {a["style"] for a in spans} == {"left:40.0%;width:20.0%"}
    assert all("the voice was missing" in a["title"] for a in spans)


def test_a_lone_estimate_is_a_dot(tmp_path: Path) -> None:
    lines = [record(i, 0.0) if i == 5 else withheld(i, "audio_missing") for i in range(10)]
    tree = Tree(page(tmp_path, lines))
    assert tree.paths("line stroke-valence") == []
    assert tree.paths("dot stroke-valence") == ["M600 100h0"]


def test_missing_records_are_a_gap_too(tmp_path: Path) -> None:
    tree = Tree(page(tmp_path, [record(i) for i in (*range(5), *range(15, 20))]))
    (d,) = tree.paths("line stroke-valence")
    assert [len(piece) for piece in subpaths(d)] == [5, 5]
    assert "Records are missing in 1 place, 2.5 s in all." in tree.text


def test_degraded_stretches_are_drawn_apart(tmp_path: Path) -> None:
    lines = [degraded(i, "audio_gap") if i < 4 else record(i) for i in range(10)]
    tree = Tree(page(tmp_path, lines))
    (weak,), (sound,) = tree.paths("line weak stroke-valence"), tree.paths("line stroke-valence")
    assert [len(piece) for piece in subpaths(weak)] == [5]  # up to the first that is ok
    assert [len(piece) for piece in subpaths(sound)] == [6]


def test_areas_stop_where_predictions_are_withheld(tmp_path: Path) -> None:
    lines = [withheld(i, "audio_missing") if i == 2 else record(i, pain=pain(0.75, 0.25)) for i in range(4)]
    tree = Tree(page(tmp_path, lines))
    (d,) = tree.paths("area level-0")
    first, second = d.split("M")[1:]
    assert first.startswith("0 50V50H250V50H500V200")  # 0.75 of the height, two steps of 250 units
    assert second.startswith("750 50V50H1000V200")


# --- numbers -------------------------------------------------------------------------------------


def test_the_summary_counts_what_is_there(tmp_path: Path) -> None:
    lines = [
        *(degraded(i, "warming_up") for i in range(2)),
        *(withheld(i, "audio_missing", "face_switched") for i in range(2, 5)),
        *(record(i) for i in range(5, 20)),
    ]
    text = Tree(page(tmp_path, lines)).text
    assert "Bundle 0123456789ab ran in fp32 on onnxruntime-cpu over 5 s and gave 20 predictions" in text
    assert "one every 0.25 s." in text
    assert "Of these were 15 ok (75 %), 2 degraded (10 %) and 3 withheld (15 %)." in text
    assert "The main reasons: the voice was missing (15 %); another person sat down (15 %)" in text
    assert "0:00.50 0:01.25 0.75 s 3 the voice was missing, another person sat down" in text
    assert "no medical device" in text


def test_percentiles_are_those_of_the_records(tmp_path: Path) -> None:
    rng = random.Random(3)
    infer = [rng.uniform(5, 90) for _ in range(101)]
    lines = [record(i) for i in range(101)]
    for line, value in zip(lines, infer, strict=True):
        line["latency_ms"]["infer"] = value
        line["latency_ms"]["end_to_end"] = value + 10
    text = Tree(page(tmp_path, lines)).text
    ordered = sorted(infer)  # of 101 values the 95th percentile is the 96th
    row = f"model {ordered[50]:.1f} {ordered[95]:.1f} {ordered[99]:.1f} {ordered[100]:.1f}"
    assert row in text
    middle = statistics.median(infer) + 10
    assert f"End to end a prediction took {middle:.1f} ms (median)" in text
    assert "Not measured: capture and waiting." in text
    assert "capture" not in re.findall(r"<th scope=\"row\">(\w+)", page(tmp_path, lines))


def test_agreement_is_shown_with_its_steps(tmp_path: Path) -> None:
    values = [0.1, 0.4, -0.3, 0.8]
    lines = [record(i, v) for i, v in enumerate(values)]
    truth = Truth("raters.csv", {"valence": np.array([0.2, 0.2, -0.2, np.nan])})
    tree = Tree(page(tmp_path, lines, truth))
    a, b = values[:3], [0.2, 0.2, -0.2]
    shift = statistics.fmean(a) - statistics.fmean(b)
    both = sum((x - statistics.fmean(a)) * (y - statistics.fmean(b)) for x, y in zip(a, b, strict=True)) / 3
    ccc = 2 * both / (statistics.pvariance(a) + statistics.pvariance(b) + shift**2)
    assert f"Agreement with the truth in valence: CCC {ccc:.3f} over 3 compared steps." in tree.text
    (d,) = tree.paths("line stroke-truth")
    assert [len(piece) for piece in subpaths(d)] == [3]


def test_intervals_are_a_band_where_they_are_given(tmp_path: Path) -> None:
    affect = {"valence": 0.0, "arousal": 0.0, "interval": {"valence": [-0.5, 0.5]}}
    tree = Tree(page(tmp_path, [record(0), *(record(i, affect=affect) for i in (1, 2)), record(3)]))
    (d,) = tree.paths("band fill-valence")
    assert d == "M500 50 750 50 750 150 500 150Z"
    assert tree.paths("band fill-arousal") == []


def test_pain_and_emotion_only_when_present(tmp_path: Path) -> None:
    plain = Tree(page(tmp_path, [record(0), record(1)])).text
    assert "Pain" not in plain
    assert "Emotion:" not in plain
    rich = [record(i, pain=pain(0.25, 0.75), emotion={"calm": 0.4, "sad": 0.6}) for i in range(2)]
    text = Tree(page(tmp_path, rich)).text
    assert "Pain: expected level on the scale sim-0-4" in text
    assert "l1, on average 75 %" in text
    assert "sad, on average 60 %" in text


def test_a_pain_model_alone_has_a_page(tmp_path: Path) -> None:
    tree = Tree(page(tmp_path, [record(i, affect=None, pain=pain(0.5, 0.5)) for i in range(3)]))
    assert tree.paths("line stroke-pain")
    assert "Valence" not in tree.text


@pytest.mark.parametrize("n", [1, 2])
def test_nothing_but_withheld_has_a_page(tmp_path: Path, n: int) -> None:
    text = Tree(page(tmp_path, [withheld(i, "audio_missing") for i in range(n)])).text
    assert "All of them are withheld." in text
    assert "the voice was missing (100 %)" in text


def test_an_absent_modality_is_marked(tmp_path: Path) -> None:
    lines = [record(i) for i in range(4)]
    lines[1]["modalities"]["audio"] = {"present": False, "coverage": 0.2, "age_ms": None}
    tree = Tree(page(tmp_path, lines))
    (span,) = [a for a in tree.named("div") if a.get("class") == "span absent"]
    assert "left:25.0%;width:25.0%" in span["style"]
    assert (
        "The voice (audio) was present in 75 % of the steps; on average 80 % of a step was covered."
        in tree.text
    )


def test_notes_say_what_is_unusual(tmp_path: Path) -> None:
    other = "sha256:" + "f" * 64
    path = write_records(tmp_path / "out.jsonl.part", [record(0), record(1, bundle_id=other), record(2)])
    assert "unfinished run" in Tree(render(read_records(path))).text
    path.write_bytes(path.read_bytes()[:-9])
    text = Tree(render(read_records(path))).text
    assert "ends in the middle of a line" in text
    assert "predictions of 2 bundles: 0123456789ab (1) and ffffffffffff (1)" in text
    assert BUNDLE in text
    assert other in text


# --- reasons -------------------------------------------------------------------------------------


def test_every_documented_reason_is_explained(tmp_path: Path) -> None:
    concepts = Path(__file__).resolve().parents[3] / "docs" / "concepts.md"
    part = concepts.read_text(encoding="utf-8").split("## Status and reasons")[1].split("\n## ")[0]
    codes = [c.replace("<modality>", "visual") for c in re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)]
    assert {"warming_up", "visual_missing"} <= set(codes)
    html = page(tmp_path, [degraded(i, code) for i, code in enumerate(codes)])
    assert "Shown as it stands in the file." not in html


def test_an_unknown_reason_is_shown_as_it_is(tmp_path: Path) -> None:
    text = Tree(page(tmp_path, [degraded(0, "moon_in_the_way"), record(1)])).text
    assert "moon_in_the_way 0 1 50 % Shown as it stands in the file." in text


# --- safety --------------------------------------------------------------------------------------

EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&'


def test_nothing_from_the_file_is_run(tmp_path: Path) -> None:
    lines = [
        withheld(0, EVIL),
        record(
            1,
            engine=EVIL,
            precision=EVIL,
            bundle_id=EVIL,
            utc=EVIL,
            pain={"scale": EVIL, "level_probs": {EVIL: 1.0, "b": 0.0}, "expected": 0.0},
            emotion={EVIL: 1.0},
            modalities={EVIL: {"present": True, "coverage": 1.0, "age_ms": None}},
        ),
        degraded(2, EVIL),
    ]
    truth = Truth(EVIL, {"valence": np.zeros(3)}, (EVIL,))
    html = page(tmp_path, lines, truth, title=EVIL)
    tree = Tree(html)
    assert len(tree.named("script")) == 2 == html.count("<script")
    assert not tree.named("img")
    assert not any(key.startswith("on") for _, attributes in tree.elements for key in attributes)
    assert tree.text.count("alert(1)") >= 8, "it is shown, as text"


def test_the_policy_lets_only_our_script_run(tmp_path: Path) -> None:
    import base64
    import hashlib

    html = page(tmp_path, [record(0)])
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in Tree(html).named("meta") if "http-equiv" in a]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    html = page(tmp_path, [record(0), withheld(1, "audio_missing")])
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|WebSocket|eval\(", html)
    for _, attributes in Tree(html).elements:
        assert not {"src", "srcset", "action"} & set(attributes)
        assert attributes.get("href", "data:").startswith("data:")


# --- looks ---------------------------------------------------------------------------------------


def test_it_suits_phones_the_dark_and_paper(tmp_path: Path) -> None:
    html = page(tmp_path, [record(0)])
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    for rule in ("prefers-color-scheme: dark", "@media (max-width: 700px)", "@media print"):
        assert rule in html


def test_headings_and_names_are_there_for_readers_that_do_not_see(tmp_path: Path) -> None:
    tree = Tree(page(tmp_path, [record(i, pain=pain(0.5, 0.5)) for i in range(3)]))
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    pointed = [a["aria-labelledby"] for _, a in tree.elements if "aria-labelledby" in a]
    assert pointed
    assert set(pointed) <= set(ids)
    drawn = [a for a in tree.named("svg") if a.get("aria-hidden") != "true"]
    assert drawn
    assert all(a["role"] == "img" and a["aria-labelledby"] in ids for a in drawn)
    assert len(tree.named("h1")) == 1
    assert ("html", {"lang": "en"}) in tree.elements


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough(scheme: str) -> None:
    css = (Path(page_module.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    block = (light if scheme == "light" else dark).split("}")[0]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block))
    for text, ground in itertools.product(("ink", "soft"), ("card", "paper", "note")):
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for line in ("valence", "arousal", "pain", "measure", "truth", "absent", "ok", "withheld"):
        assert contrast(colour[line], colour["card"]) >= 3.0, line
    for i in range(12):
        assert contrast(colour[f"t{i}"], colour["card"]) >= 2.8, i


# --- size ----------------------------------------------------------------------------------------


def rich(index: int, rng: random.Random) -> dict[str, Any]:
    made = record(index, rng.uniform(-1, 1), rng.uniform(-1, 1))
    made["pain"] = pain(0.2, 0.2, 0.2, 0.2, 0.2)
    made["emotion"] = dict.fromkeys(("neutral", "happy", "sad", "angry", "afraid"), 0.2)
    made["sync"]["skew_ms"] = rng.uniform(0, 9)
    made["latency_ms"]["end_to_end"] = rng.uniform(20, 60)
    return made


def test_a_small_report_is_small(tmp_path: Path) -> None:
    rng = random.Random(1)
    assert len(page(tmp_path, (record(i, rng.uniform(-1, 1)) for i in range(75)))) < 80_000
    assert len(page(tmp_path, (rich(i, rng) for i in range(240)))) < 200_000


def test_a_long_session_gives_a_page_of_the_same_size(tmp_path: Path) -> None:
    """Some thousand lines, then twice as many; every column is used in both."""
    rng, sizes = random.Random(2), []
    for n in (3_000, 6_000):
        lines = (withheld(i, "audio_missing") if i % 97 == 0 else rich(i, rng) for i in range(n))
        path = write_records(tmp_path / "long.jsonl", lines)
        start_s = time.process_time()
        html = render(read_records(path))
        assert time.process_time() - start_s < 6
        sizes.append(len(html))
        assert f"{n:,} predictions are more than a screen has columns" in html
    assert max(sizes) < 1_000_000
    assert sizes[1] < 1.1 * sizes[0]


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    lines = [record(i, i / 10) for i in range(5)]
    assert page(tmp_path, lines) == page(tmp_path, lines)


# --- writing -------------------------------------------------------------------------------------


def test_a_page_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    write_page("first", out, replace=False)
    with pytest.raises(UsageError, match=r"exists already.*--replace"):
        write_page("second", out, replace=False)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(UsageError, match="No space left"):
            write_page("third", out, replace=True)
    assert out.read_text() == "first"
    write_page("fourth", out, replace=True)
    assert out.read_text() == "fourth"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write.*No such file"):
        write_page("x", tmp_path / "none" / "report.html", replace=False)
    with pytest.raises(UsageError, match="something else than a file"):
        write_page("x", tmp_path, replace=True)
