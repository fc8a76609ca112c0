"""The docs do what they say: commands run, links lead somewhere, lists are those of the code."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the workbench's verbs need PyTorch: pip install 'edge-mer[export]'")

from edge_mer.bundle.manifest import KINDS, RUN_OF
from edge_mer.cli.main import VERBS, main
from edge_mer.gateway.feed import INFERENCE_LOST
from edge_mer.sinks.registry import SINKS
from edge_mer.sources.registry import SOURCES
from edge_mer.types import predictions
from edge_mer.types.model import MissingPolicy
from edge_mer_calibration.forms import FORMS
from edge_mer_calibration.quantize import SCHEMES
from tests.helpers.clip import write_clip

pytestmark = pytest.mark.workbench

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED_PAGES = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs/decisions").glob("*.md"),
]
HEAVY = {"export", "calibrate", "demo", "train", "qat", "evaluate"}
"""Verbs that take a minute or more: `make check-slow` runs them, else only their options are checked."""

OWN_DATA = {"--data", "--checkpoint"}
"""Options that name what only the reader has; such commands, and training, which takes hours, never run."""

CLIP_S = 3


@dataclass(frozen=True)
class Command:
    """A command that a page asks its reader to type."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """The `edge-mer` and `make` commands in a page's fenced `sh` and `console` blocks, in order."""
    found: list[Command] = []
    fence, held, first = "", "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            assert not held, f"{page.name}:{number}: a line ends with a backslash and nothing follows"
            fence = "" if fence else line[3:].strip() or "text"
            continue
        if fence not in ("sh", "console") or (fence == "console" and not held and not line.startswith("$ ")):
            continue
        first = first if held else number
        held += line.removeprefix("$ ")
        if held.endswith("\\"):
            held = held[:-1]
            continue
        words = shlex.split(held, comments=True)
        held = ""
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0] in ("edge-mer", "make"):
            found.append(Command(page.relative_to(ROOT).as_posix(), first, tuple(words)))
    assert not fence, f"{page.name}: a fenced block is never closed"
    return found


def typed(page: Path, program: str) -> list[Command]:
    return [command for command in commands(page) if command.words[0] == program]


def test_commands_are_found(tmp_path: Path) -> None:
    page = ROOT / "docs" / "nothing.md"
    text = "```sh\nA=1 make demo  # x\nls\nedge-mer run a \\\n  --fast\n```\nedge-mer no\n"
    text += "```console\n$ edge-mer verify b\nedge-mer out\n```\n```text\nmake nothing\n```\n"
    copy = tmp_path / page.name
    copy.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "ROOT", tmp_path)
        found = [(command.line, *command.words) for command in commands(copy)]
    assert found == [
        (2, "make", "demo"),
        (4, "edge-mer", "run", "a", "--fast"),
        (9, "edge-mer", "verify", "b"),
    ]


def test_readme_shows_the_whole_way() -> None:
    verbs = [command.words[1] for command in typed(ROOT / "README.md", "edge-mer")]
    assert set(verbs) == set(VERBS) - {"bundle", "demo"}
    assert {("make", "demo"), ("make", "test")} <= {c.words for c in typed(ROOT / "README.md", "make")}


def test_make_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    asked = [c for page in (*PAGES, ROOT / "CONTRIBUTING.md") for c in typed(page, "make")]
    assert asked
    for command in asked:
        assert set(command.words[1:]) <= targets, command


# --- commands are executed -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few seconds of video with a face and a voice."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", CLIP_S)


def check_options(command: Command) -> None:
    """The verb would take these words; it does not run."""
    from typer.main import get_command

    from edge_mer.cli.main import verb_app

    verb, *arguments = command.words[1:]
    get_command(verb_app(verb)).make_context(verb, list(arguments))


def write_files(page: Path, folder: Path) -> None:
    """What a page shows as a file: a block of TOML or CSV whose first line is its name."""
    text = page.read_text(encoding="utf-8")
    for name, content in re.findall(
        r"^```(?:toml|csv)\n# ([\w.-]+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    ):
        (folder / name).write_text(content, encoding="utf-8")


def execute(command: Command, folder: Path) -> None:
    run = [sys.executable, "-m", "edge_mer.cli.main", *command.words[1:]]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for word in command.words:
        if word.startswith("jsonl:") and word != "jsonl:-":
            lines = (folder / word.removeprefix("jsonl:")).read_text(encoding="utf-8").splitlines()
            assert lines, f"{command}: no predictions"
            assert all(json.loads(line)["bundle_id"].startswith("sha256:") for line in lines)


def pages_with_commands() -> list[Path]:
    return [page for page in PAGES if typed(page, "edge-mer")]


@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.name)
def test_commands_run(page: Path, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    for name in ("demo/bundle", "bundle"):
        shutil.copytree(tiny_bundle, folder / name)
    shutil.copy(clip, folder / "clip.mp4")
    write_files(page, folder)
    for command in typed(page, "edge-mer"):
        if command.words[1] in HEAVY:
            check_options(command)
        else:
            execute(command, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in pages_with_commands() if HEAVY & {c.words[1] for c in typed(p, "edge-mer")}],
    ids=lambda page: page.name,
)
def test_heavy_commands_run_too(page: Path, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(tiny_bundle, folder / "demo" / "bundle")  # what `make demo` left
    shutil.copy(clip, folder / "clip.mp4")
    write_files(page, folder)
    for command in typed(page, "edge-mer"):
        if command.words[1] == "train" or OWN_DATA & set(command.words):
            check_options(command)
        else:
            execute(command, folder)


def test_a_wrong_command_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nobody"):
        execute(Command("x.md", 1, ("edge-mer", "verify", "nobody")), tmp_path)
    with pytest.raises(Exception, match="--stpes"):
        check_options(Command("x.md", 1, ("edge-mer", "evaluate", "bundle", "--stpes", "9")))
    with pytest.raises(Exception, match="--checkpiont"):
        check_options(Command("x.md", 1, ("edge-mer", "export", "jmt", "--out", "x", "--checkpiont", "y")))
    assert main(["export", "--help"]) == 0


# --- links ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)


@pytest.mark.parametrize("page", LINKED_PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), f"{page.name}: {link}"
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the project"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_every_page_can_be_found_from_the_readme() -> None:
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        if page.suffix == ".md":
            paths = [
                (page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link
            ]
            left += [path for path in paths if path.is_file() and path not in seen]
    assert set(PAGES) <= seen


# --- lists in the docs are those of the code -----------------------------------------------------


def section(page: str, heading: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert match, f"{page} has no heading {heading!r}"
    return match[2]


def first_column(table: str) -> set[str]:
    """Names in backticks in the first column of a section's tables."""
    cells = re.findall(r"^\| ([^|]*) \|", table, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def emitted_reasons() -> set[str]:
    """Every reason that the code can give, its modality as "<modality>"."""
    files = ("runtime/pipeline.py", "runtime/people.py", "runtime/window.py", "postprocess/gate.py")
    code = "".join((ROOT / "edge_mer" / file).read_text(encoding="utf-8") for file in files)
    patterns = (
        r'reasons\.append\(f?"([^"]+)"\)',  # why it is degraded
        r'tuple\(f"([^"]+)" for',  # why it is withheld
        r'\("([a-z_]+)",\)',
        r'\(\*reasons, "([a-z_]+)"\)',
    )
    found = {match for pattern in patterns for match in re.findall(pattern, code)}
    return {re.sub(r"\{[^}]*modality\}", "<modality>", reason) for reason in found} | {INFERENCE_LOST}


def test_every_reason_is_explained() -> None:
    reasons = emitted_reasons()
    assert {"<modality>_missing", "window_has_gaps", "face_switched", "output_not_finite"} <= reasons
    assert first_column(section("docs/concepts.md", "Status and reasons")) == reasons


def test_every_status_policy_and_precision_is_explained() -> None:
    concepts = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    for status in typing.get_args(predictions.Status):
        assert f"- `{status}`: " in concepts
    policies = first_column(section("docs/concepts.md", "When a modality is missing"))
    assert policies == set(typing.get_args(MissingPolicy))
    precisions = first_column(section("docs/concepts.md", "Precisions"))
    prepared = {f"{name}+prepared" for name in SCHEMES}
    assert precisions == {*KINDS, *RUN_OF, *prepared, *(f"{name}+mixed" for name in FORMS)}


def test_every_source_and_sink_is_explained() -> None:
    how_to = (ROOT / "docs/how-to-run.md").read_text(encoding="utf-8")
    for scheme in (*SOURCES, *SINKS):
        assert f"`{scheme}:" in how_to, f"docs/how-to-run.md does not speak of {scheme}:"


def field_paths() -> set[str]:
    """Every field of a record as "affect.valence"; a modality's as "modalities.*.present"."""
    nested: dict[str, tuple[Any, str]] = {
        "affect": (predictions.Affect, "affect"),
        "pain": (predictions.Pain, "pain"),
        "modalities": (predictions.ModalityStatus, "modalities.*"),
        "sync": (predictions.SyncQuality, "sync"),
        "latency_ms": (predictions.Latency, "latency_ms"),
    }
    found = set()
    for field in dataclasses.fields(predictions.Prediction):
        kind, prefix = nested.get(field.name, (None, field.name))
        if kind is None or field.name in ("affect", "pain", "modalities"):
            found.add(field.name)
        if kind is not None:
            found |= {f"{prefix}.{inner.name}" for inner in dataclasses.fields(kind)}
    return found


def test_every_field_of_a_record_is_explained() -> None:
    table = section("docs/how-to-run.md", "Reading a record")
    assert first_column(table) == field_paths()


def test_exit_codes_are_explained() -> None:
    from edge_mer import errors

    codes = {0, 1, 130} | {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.EdgeMerError)
    }
    table = section("docs/how-to-run.md", "Exit codes")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)} == codes


def test_demo_output_has_its_place() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(
        r"<!-- demo-output -->\n```text\n(.+?)```\n<!-- /demo-output -->", readme, flags=re.DOTALL
    )
    assert match
    demo = (ROOT / "edge_mer/cli/demo.py").read_text(encoding="utf-8")
    columns = re.search(r"columns = (\[.*?\])", demo, flags=re.DOTALL)
    assert columns
    heads = re.findall(r'"([^"]+)"', columns[1])
    assert re.split(r"\s{2,}", match[1].splitlines()[0].strip()) == heads


def test_decisions_have_their_parts() -> None:
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [int(record.name[:4]) for record in records]
    assert numbers == list(range(len(records)))
    for record in records:
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {record.name[:4]}: ")
        assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == ["Context", "Decision", "Consequences"]
        assert len(text.splitlines()) <= 60, f"{record.name} is longer than a page"
