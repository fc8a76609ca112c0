"""`edge-mer report` as a user meets it, and its page in a browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edge_mer.cli.main import main
from tests.helpers.browser import PACKAGE, Page, browse, find_browser
from tests.helpers.predictions import degraded, pain, record, withheld, write_records

SIM = "sim:seed=4&person=2&duration_s=4"


def session(n: int = 40) -> list[dict[str, Any]]:
    """A bit of everything."""
    lines = []
    for i in range(n):
        line = record(i, 0.5, i / n, pain=pain(0.5, 0.25, 0.25), emotion={"neutral": 0.75, "happy": 0.25})
        if i < 3:
            line = degraded(i, "warming_up")
        if 10 <= i < 15:
            line = withheld(i, "audio_missing", "<script>alert(1)</script>")
        lines.append(line)
    return lines


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return write_records(tmp_path / "out.jsonl", session())


def test_a_run_becomes_a_page_with_the_simulation_s_truth(
    shared_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out.jsonl", tmp_path / "report.html"
    assert main(["run", str(shared_bundle), "--source", SIM, "--sink", f"jsonl:{out}", "--fast"]) == 0
    capsys.readouterr()
    assert main(["report", str(out), "--out", str(page), "--truth", SIM, "--title", "A <sim>"]) == 0
    assert "15 predictions in" in capsys.readouterr().err
    html = page.read_text(encoding="utf-8")
    assert "<h1>A &lt;sim&gt;</h1>" in html
    assert "CCC of valence" in html
    assert "15 compared steps" in html


def test_a_truth_from_a_file(predictions: Path, tmp_path: Path) -> None:
    truth, page = tmp_path / "truth.csv", tmp_path / "report.html"
    truth.write_text("t_s,valence,pain,rater\n1.0,0.5,2,a\n2.0,0.4,1,a\n", encoding="utf-8")
    assert main(["report", str(predictions), "--out", str(page), "--truth", str(truth)]) == 0
    html = page.read_text(encoding="utf-8")
    assert "CCC of pain" in html
    assert "not used: rater." in html


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{folder}/none.jsonl", "--out", "{folder}/r.html"], 3, "No such file"),
        (["{folder}/empty", "--out", "{folder}/r.html"], 3, "an empty file"),
        (["{folder}/notes", "--out", "{folder}/r.html"], 3, "notes, line 2 is no prediction"),
        (["{given}", "--out", "{given}"], 2, "it is what the page is made from"),
        (["{given}", "--out", "{given}", "--replace"], 2, "it is what the page is made from"),
        (["{given}", "--out", "{folder}/link", "--replace"], 2, "it is what the page is made from"),
        (["{given}", "--out", "{folder}/truth", "--replace", "--truth", "{folder}/truth"], 2, "made from"),
        (["{given}", "--out", "{folder}/notes"], 2, "exists already. Next: name another file, or replace it"),
        (["{given}", "--out", "{folder}/none/r.html"], 2, "cannot write"),
        (["{given}", "--out", "{folder}/r.html", "--truth", "{folder}/none.csv"], 3, "No such file"),
        (["{given}", "--out", "{folder}/r.html", "--truth", "{folder}/truth"], 3, "says nothing about any"),
        (["{given}", "--out", "{folder}/r.html", "--truth", "sim:sead=1"], 2, "unknown key"),
        (
            ["{given}", "--out", "{folder}/r.html", "--truth", "sim:duration_s=2"],
            3,
            "the run had as its source",
        ),
    ],
)
def test_mistakes_are_explained(
    predictions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "notes").write_text(predictions.read_text().splitlines()[0] + "\nremember the milk\n")
    (tmp_path / "truth").write_text("t_s,valence\n1000,0\n")
    os.link(predictions, tmp_path / "link")
    before = predictions.read_bytes()
    filled = [argument.format(given=predictions, folder=tmp_path) for argument in arguments]
    assert main(["report", *filled]) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert predictions.read_bytes() == before
    assert not (tmp_path / "r.html").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_page_is_replaced_only_when_asked(predictions: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("mine")
    assert main(["report", str(predictions), "--out", str(page)]) == 2
    assert page.read_text() == "mine"
    assert main(["report", str(predictions), "--out", str(page), "--replace"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


# --- in a browser --------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(find_browser() is None, reason=f"needs the system package {PACKAGE}")
IS_DARK = "getComputedStyle(document.body).backgroundColor"
WIDEST = """
Math.max(...[...document.querySelectorAll('body *')]
    .filter((e) => !e.closest('svg'))
    .map((e) => e.getBoundingClientRect().right))
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("browser")
    write_records(folder / "out.jsonl", session())
    assert main(["report", str(folder / "out.jsonl"), "--out", str(folder / "report.html")]) == 0
    with browse(folder / "profile") as page:
        yield page, folder / "report.html"


@needs_browser
@pytest.mark.parametrize("width_px", [360, 390, 800, 1400])
def test_the_page_fits_and_asks_for_nothing(shown: tuple[Page, Path], width_px: int) -> None:
    page, path = shown
    page.open(path, width_px=width_px)
    assert page.evaluate("document.documentElement.scrollWidth") == width_px
    assert page.evaluate(WIDEST) <= width_px
    assert page.evaluate("document.querySelectorAll('.plot svg path').length") > 20
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]


@needs_browser
def test_what_is_wrong_in_a_page_would_be_noticed(shown: tuple[Page, Path], tmp_path: Path) -> None:
    page, _ = shown
    wrong = tmp_path / "wrong.html"
    wrong.write_text("<p style='width:900px'>x<img src=y.png><script>nothing()</script>", encoding="utf-8")
    page.open(wrong, width_px=390)
    assert page.evaluate(WIDEST) > 390
    assert any("nothing" in complaint for complaint in page.complaints())
    assert (tmp_path / "y.png").as_uri() in page.requests()


@needs_browser
def test_it_is_dark_where_that_is_preferred(shown: tuple[Page, Path]) -> None:
    page, path = shown
    page.open(path)
    light = page.evaluate(IS_DARK)
    page.open(path, is_dark=True)
    dark = page.evaluate(IS_DARK)
    assert light == "rgb(245, 244, 240)"
    assert sum(map(int, dark[4:-1].split(","))) < 120


@needs_browser
def test_the_pointer_shows_numbers_and_why_there_are_none(shown: tuple[Page, Path]) -> None:
    page, path = shown
    page.open(path)
    for part, words in ((0.305, ("withheld: the voice was missing",)), (0.775, ("valence", "0.5", "ok"))):
        x, y = page.evaluate(
            "(() => { const plot = document.querySelector('#chart-valence .plot');"
            "plot.scrollIntoView({block: 'center'}); const box = plot.getBoundingClientRect();"
            f"return [box.left + box.width * {part}, box.top + 30]; }})()"
        )
        page.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        said = page.evaluate("document.querySelector('.tip').innerText")
        assert all(word in said for word in words), said
        assert page.evaluate("document.querySelectorAll('.hair:not([hidden])').length") > 3
    assert page.complaints() == []
