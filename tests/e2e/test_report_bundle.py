"""`edge-mer report` of a bundle as a user meets it, and its page in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli.main import main
from tests.e2e.test_report import IS_DARK, WIDEST, needs_browser
from tests.helpers.browser import Page, browse
from tests.helpers.evidence import write_calibrated
from tests.helpers.tiny_bundle import write_tiny_bundle
from tests.unit.report.test_page import Tree

EVIL = '<img src=x onerror="alert(1)"><b>'


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    write_calibrated(folder, text=EVIL)
    return folder


def report(*arguments: object) -> int:
    return main(["report", *map(str, arguments)])


def test_a_calibrated_bundle_becomes_a_page_with_times_of_this_machine(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert report(shared_bundle, "--out", page, "--title", "A <bundle>") == 0
    assert "kB." in capsys.readouterr().err
    html = page.read_text(encoding="utf-8")
    text = Tree(html).text
    assert "<h1>A &lt;bundle&gt;</h1>" in html
    assert "best of three medians" in text
    assert "Concordance with FP32, by time" in text
    assert "Not timed: fp16 and int8-trt" in text
    assert html.count('class="histogram"') > 50
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_all_that_a_bundle_knows_is_on_its_page(calibrated: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert report(calibrated, "--out", page, "--no-times") == 0
    html = page.read_text(encoding="utf-8")
    text = Tree(html).text
    for words in (
        "Times were not measured.",
        "within the budget",
        "concordance with FP32 lost by the worst output: at most 0.005",
        "points lost against labels: at most 1",
        "1 of 2 blocks stay in float.",
        "1 tensor of 1 went out of the calibrated range",
        "net.conv/Conv_3",
        "CCC of arousal against labels",
        "visual, rest zero",
        "±0.41 (91",
    ):
        assert words in text, words
    assert "<img" not in html
    assert text.count(EVIL) >= 8


def test_a_bundle_without_candidates_says_what_to_do(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    assert report(tmp_path / "bundle", "--out", tmp_path / "page.html") == 0
    text = Tree((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "Nothing was calibrated yet." in text
    assert "edge-mer calibrate" in text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{bundle}", "--out", "{bundle}/page.html"], 2, "it lies in the bundle"),
        (["{bundle}", "--out", "{bundle}", "--replace"], 2, "it lies in the bundle"),
        (["{bundle}", "--out", "{folder}/link/page.html"], 2, "it lies in the bundle"),
        (
            ["{bundle}", "--out", "{folder}/taken"],
            2,
            "exists already. Next: name another file, or replace it",
        ),
        (["{bundle}", "--out", "{folder}/none/p.html", "--no-times"], 2, "cannot write"),
        (["{bundle}", "--out", "{folder}/p.html", "--truth", "sim:seed=1"], 2, "--truth is of a run"),
        (["{folder}/empty", "--out", "{folder}/p.html"], 3, "manifest.json is missing"),
        (["{folder}/broken", "--out", "{folder}/p.html", "--no-times"], 3, "holds no ranges"),
        (["{folder}/altered", "--out", "{folder}/p.html", "--no-times"], 3, "ranges.json was altered"),
    ],
)
def test_mistakes_are_explained(
    calibrated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "link").symlink_to(calibrated)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "empty").mkdir()
    write_calibrated(tmp_path / "broken", ranges=b'{"stages": 3}')
    shutil.copytree(calibrated, tmp_path / "altered")
    (tmp_path / "altered" / "calibration" / "ranges.json").write_text("{}")
    before = sorted(path.name for path in calibrated.iterdir())
    filled = [argument.format(bundle=calibrated, folder=tmp_path) for argument in arguments]
    assert report(*filled) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert sorted(path.name for path in calibrated.iterdir()) == before
    assert (tmp_path / "taken").read_text() == "mine"
    assert not (tmp_path / "p.html").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_page_is_replaced_when_asked(calibrated: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine")
    assert report(calibrated, "--out", page, "--no-times", "--replace") == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("browser")
    assert report(calibrated, "--out", folder / "page.html", "--no-times") == 0
    with browse(folder / "profile") as page:
        yield page, folder / "page.html"


@needs_browser
@pytest.mark.parametrize("width_px", [360, 390, 800, 1400])
def test_the_page_fits_and_asks_for_nothing(shown: tuple[Page, Path], width_px: int) -> None:
    page, path = shown
    page.open(path, width_px=width_px)
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    # tables may scroll in their own boxes
    assert page.evaluate(WIDEST.replace("!e.closest('svg')", "!e.closest('svg, .scroll')")) <= width_px
    assert page.evaluate("document.querySelectorAll('.point').length") > 5
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]


@needs_browser
def test_our_style_is_let_in_and_names_keep_apart(shown: tuple[Page, Path]) -> None:
    page, path = shown
    page.open(path)
    light = page.evaluate(IS_DARK)
    assert light == "rgb(245, 244, 240)"
    boxes = page.evaluate(
        "[...document.querySelectorAll('#chart-near-size .name')].map((e) => {"
        "const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })"
    )
    assert len(boxes) == 3
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    page.open(path, is_dark=True)
    assert sum(map(int, page.evaluate(IS_DARK)[4:-1].split(","))) < 120


@needs_browser
def test_what_is_folded_is_printed(shown: tuple[Page, Path]) -> None:
    page, path = shown
    hidden = (
        "[...document.querySelectorAll('details *')]"
        ".filter((e) => !e.checkVisibility({contentVisibilityAuto: true})).length"
    )
    page.open(path)
    page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = false; })")
    assert page.evaluate(hidden) > 0
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate(hidden) == 0
    assert page.complaints() == []
