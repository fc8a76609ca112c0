"""docs/benchmarks.md, from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.speed.kept import ROOT, Found
from benchmarks.speed.phases import ISA_RIVALS
from benchmarks.speed.rivals.registry import NAIVE, REFERENCE, RIVALS
from benchmarks.speed.words import MIN_CCC, agreement, is_right, listed, name_of, number, table, times

PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
CHART = ROOT / "docs" / "benchmarks.svg"

PICTURE = (
    '<img src="benchmarks.svg" alt="Milliseconds per prediction of every way, on a logarithmic axis." '
    'width="960">'
)

HEAD = """\
# What a prediction costs

Made by `make bench` (`jmt`, `jmt-pain`, `jmt-tiny`) or `make bench-all` (all that `make systems` knows); do
not edit. The same windows go through PyTorch, through one ONNX of the whole model, and through edge-mer, by
turns in one process, on all threads. Each window shows another simulated person, whom no calibration saw.

{picture}

- **Sliding window**: what code without a memory does. Each prediction encodes all L clips of its window, one
  after the other.
- **Each clip once**: PyTorch again, but features are kept, as the published code does when it reads a
  recording: one hop of clips per prediction, and the fusion.
- **Whole ONNX**: encoders over the window's L clips and the fusion in one graph, with the libraries' own
  defaults: FP32; 8 bits as ONNX Runtime's `quantize_static` and `quantize_dynamic` make them, when nothing
  else is said; and in OpenVINO, whose precision is always asked for: without that it takes bf16 by itself
  where a processor is fast in it.
- **edge-mer**: each step is encoded once, in the bundle's stages, as a session runs them.

A time is the median without the fastest and slowest 5 %. A ratio is taken within each round and stands with
the lowest and highest round; rounds go through the rivals in alternating order. Agreement is the
concordance (CCC, 1 = equal) of a window's last outputs with PyTorch's, the lowest of all outputs; **bold
where it is under {least}**. "Ran in" is not what was asked for but what the library says of its layers that
multiply, as it loaded them; PyTorch says nothing. Ready: from starting a process to having loaded, its
imports included. Memory: the most that such a process held, one prediction included.

Preprocessing is left out for all in these tables: the others have none. [Below](#a-live-session) it is in.
"""

MANY = """\
`{bundle}` ({choice}) on {where}: sessions of `open_model` at real pace,
with pictures, sounds and found faces in memory; crops and spectrograms are in, cameras and the search for
faces are not. Steps of several sessions are encoded together (batches of {most} at most), or each for itself.
Delay: from the capture of a prediction's newest data to its record. `python -m benchmarks.sessions` measures
it anew.
"""

AIMS = (
    ("OpenVINO INT8, with AMX", "ov-int8", 150, True),
    ("OpenVINO INT8, VNNI at most", "ov-int8", 60, False),
    ("ONNX Runtime INT8", "ort-int8", 35, None),
    ("OpenVINO FP32", "ov", 20, None),
    ("ONNX Runtime FP32", "ort", 15, None),
)
"""What `jmt` shall reach, times as fast as the sliding window: title, rival, aim, whether with AMX."""

MAX_OTHERS = 0.05
"""Part of the processors' time that others may take."""

MIN_GAIN = 1.7
"""Times as fast as its engine's FP32 that the best candidate in 8 bits shall be."""


def page(found: Mapping[str, Found], sessions: Found | None = None) -> str:
    """The page's text.

    Args:
        found: System -> what was measured.
        sessions: What `benchmarks.sessions` measured; None if it never did.
    """
    parts = [HEAD.format(least=MIN_CCC, picture=PICTURE), *_machines(found), "", *_busy(found)]
    for name, one in found.items():
        parts += ["", *_system(name, one)]
    parts += ["", *_aims(found), "", *_isas(found), "", *_live(found), "", *_lengths(found)]
    parts += [*_sessions(sessions or {}), "", *_made(found)]
    return "\n".join([*parts, ""])


BEGIN, END = "<!-- benchmarks -->\n", "<!-- /benchmarks -->"
"""Around what the README says, which is made with the page."""


def in_readme(readme: str, found: Mapping[str, Found]) -> str:
    """The README with what was measured of one system, `jmt` if that was."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    name = "jmt" if "jmt" in found else next(iter(found))
    return f"{before}{BEGIN}{_short(name, found[name])}\n{END}{after}"


def _short(name: str, one: Found) -> str:
    """Three lines."""
    rivals, here = one["turns"]["rivals"], one["machine"]
    chosen, whole = rivals["chosen"], rivals["whole-ov"]
    beside = ", beside other work" if one["others_share"] > MAX_OTHERS else ""
    return (
        f"On {here['threads']} threads of {here['processor']} ({', '.join(here['has'][:2])}){beside}, "
        f"the networks of `{name}` took {number(chosen['ms']['p50'])} ms for a prediction,\n"
        f"{number(rivals[NAIVE]['ms']['p50'])} ms in PyTorch as a sliding window, "
        f"{number(whole['ms']['p50'])} ms as one ONNX in OpenVINO's FP32; with faces found and all else,\n"
        f"a prediction took {number(one['live']['1']['whole']['p50'])} ms. "
        "[What a prediction costs](docs/benchmarks.md) has every way and system, with spreads and agreement."
    )


def _machines(found: Mapping[str, Found]) -> list[str]:
    """What it was measured on; with the systems' names where that was not the same."""
    told: dict[str, list[str]] = {}
    for name, one in found.items():
        told.setdefault(_machine(one), []).append(name)
    if len(told) == 1:
        return [f"Measured on {next(iter(told))}."]
    return ["\n\n".join(f"{listed(names)}: measured on {text}." for text, names in told.items())]


def _busy(found: Mapping[str, Found]) -> list[str]:
    """What must not be believed because others were at work."""
    watched = {name: one for name, one in found.items() if "others_share" in one}
    told = [
        f"{name} {100 * one['others_share']:.0f} % ({one['machine']['load_before']})"
        for name, one in watched.items()
    ]
    told += [f"{name} not measured" for name in found.keys() - watched.keys()]
    busy = [name for name, one in watched.items() if one["others_share"] > MAX_OTHERS]
    text = [
        "Of the processors' time others took while it was measured, and the load before it began:\n"
        f"{', '.join(told)}."
    ]
    if busy:
        text += [
            "",
            f"**Not a quiet machine** for {listed(busy)}. PyTorch suffers most from others, since its\n"
            "threads wait for each other: ratios to it are too high there.",
        ]
    return text


def _machine(one: Found) -> str:
    here = one["machine"]
    versions = listed(f"{name} {version}" for name, version in here["versions"].items())
    return (
        f"{here['threads']} threads of {here['processor']}, which has {listed(here['has'])} and lacks\n"
        f"{listed(here['lacks'])}, with {versions}, on {one['date']}"
    )


def _system(name: str, one: Found) -> Iterator[str]:
    model, rivals = one["model"], one["turns"]["rivals"]
    clips = listed(f"{n['window']} of {stage}" for stage, n in model["clips"].items())
    per_hop = listed(f"{n['hop']} of {stage}" for stage, n in model["clips"].items())
    deviation = listed(f"{number(value)} ({output})" for output, value in one["turns"]["deviation"].items())
    yield from (f"## {name}", "")
    yield (
        f"A window is {clips} clips, a hop {per_hop}, every {model['hop_s']:.3g} s. Weights:\n"
        f"{model['weights']}; outputs vary from window to window by {deviation}. Rounds: {one['n_rounds']}."
    )
    if model["given"]:
        given = listed(model["given"])
        yield f"Everybody is given the vectors of {given}, which are encoded once per utterance."
    yield ""
    titles = ["", "ran in", "ms", "times as fast as sliding window", "as whole OpenVINO FP32"]
    titles += ["agreement", "ready, s", "memory, MB"]
    starts = one["starts"]
    yield from table(titles, (_cells(key, row, starts[key]) for key, row in rivals.items()))
    yield ""
    for key, why in model["refused"].items():
        yield f"{name_of(key)}: does not load. `{why}`"
        yield ""
    yield f"`build-engine` chose {model['chosen']}."
    yield ""
    yield _gain(rivals)


def _cells(key: str, row: Found, start: Found) -> list[str]:
    against = row["ratio"].get("whole-ov")
    return [
        name_of(key),
        ", ".join(f"{n}x {what}" for what, n in row["executed"].items()) or "-",
        number(row["ms"]["p50"]),
        times(row["ratio"][NAIVE]),
        "-" if against is None else times(against),
        agreement(row) if is_right(row) else f"**{agreement(row)}**",
        f"{start['start_s']:.1f}",
        str(start["peak_mb"]),
    ]


def _gain(rivals: Found) -> str:
    """The best 8 bits against FP32 in the same engine."""
    key, base = max(
        (("ort-int8", "ort"), ("ov-int8", "ov")), key=lambda one: rivals[one[0]]["ratio"][NAIVE]["median"]
    )
    gain = rivals[key]["ratio"][base]
    verdict = "reached" if gain["median"] >= MIN_GAIN else "**not reached**"
    return (
        f"The fastest candidate in 8 bits, {name_of(key)}, is {times(gain)} times as fast as FP32 in the\n"
        f"same engine; the aim is {MIN_GAIN:g}: {verdict}."
    )


def _aims(found: Mapping[str, Found]) -> Iterator[str]:
    yield from ("## Aims for jmt", "")
    if "jmt" not in found:
        yield "Not measured."
        return
    one = found["jmt"]
    has_amx = "AMX" in one["machine"]["has"]
    rows = [
        [title, f"{aim}", *_reached(one["turns"]["rivals"][key], aim)]
        for title, key, aim, needs_amx in AIMS
        if needs_amx in (None, has_amx)
    ]
    yield from table(["times as fast as the sliding window", "aim", "measured", ""], rows)
    for title, _, aim, needs_amx in AIMS:
        if needs_amx not in (None, has_amx):
            yield from ("", f"{title}, aim {aim}: not measured, this processor {_lack(has_amx)}.")


def _lack(has_amx: bool) -> str:
    return "has AMX" if has_amx else "has no AMX"


def _reached(row: Found, aim: float) -> list[str]:
    ratio = row["ratio"][NAIVE]
    return [times(ratio), "reached" if ratio["median"] >= aim else "**not reached**"]


def _isas(found: Mapping[str, Found]) -> Iterator[str]:
    yield from ("## Other instruction sets", "")
    yield (
        "The same processor, but oneDNN, which multiplies in OpenVINO and in PyTorch, was held to less by\n"
        "`ONEDNN_MAX_CPU_ISA` (and PyTorch's own kernels by `ATEN_CPU_CAPABILITY` where it is AVX2), in\n"
        "processes of their own. ONNX Runtime has kernels of its own, which this does not reach: it has no\n"
        "rows here."
    )
    for name, one in found.items():
        yield from ("", f"### {name}", "")
        titles = ["at most", *(f"{name_of(key)}, ms" for key in ISA_RIVALS)]
        titles += ["OpenVINO FP32, times as fast as sliding window", "OpenVINO INT8", "kernels, FP32", "INT8"]
        yield from table(titles, (_isa_cells(level, row) for level, row in one["isa"].items()))


def _isa_cells(level: str, one: Found) -> list[str]:
    rivals = one["rivals"]
    return [
        level,
        *(number(rivals[key]["ms"]["p50"]) if key in rivals else "does not run" for key in ISA_RIVALS),
        *(times(rivals[key]["ratio"][NAIVE]) if key in rivals else "-" for key in ("ov", "ov-int8")),
        *(", ".join(f"{n}x {what}" for what, n in kernels.items()) for kernels in one["kernels"].values()),
    ]


def _live(found: Mapping[str, Found]) -> Iterator[str]:
    yield from ("## A live session", "")
    yield (
        "edge-mer as `build-engine` chose, on a simulated person, everything in: from a hop's first data to\n"
        "its prediction, with finding faces, crops, spectrograms, and what keeps the session together. With\n"
        "several faces each is followed and has predictions of its own; times are per hop of all of them."
    )
    for name, one in found.items():
        yield from ("", f"### {name}", "")
        parts = list(one["live"]["1"]["parts"])
        titles = ["faces", "ms per hop", *parts, "part of the hop's time"]
        yield from table(titles, (_live_cells(int(n), cost, parts) for n, cost in one["live"].items()))


def _live_cells(n_faces: int, cost: Found, parts: list[str]) -> list[str]:
    whole_ms = cost["whole"]["p50"] * n_faces
    return [
        str(n_faces),
        number(whole_ms),
        *(number(cost["parts"][part]["p50"] * n_faces) for part in parts),
        f"{100 * whole_ms / cost['hop_ms']:.0f} %",
    ]


def _lengths(found: Mapping[str, Found]) -> Iterator[str]:
    yield from ("## Longer windows", "")
    yield "Milliseconds per prediction where the fusion takes windows of any length; the others' is fixed."
    for name, one in found.items():
        if one["lengths"]:
            keys = list(next(iter(one["lengths"].values())))
            own = {key: one["turns"]["rivals"][key]["ms"]["p50"] for key in keys}
            lengths = one["lengths"] | {str(one["model"]["n_steps"]): own}
            by_length = sorted(lengths.items(), key=lambda item: int(item[0]))
            rows = [[n, *(number(row[key]) for key in keys)] for n, row in by_length]
            yield from ("", f"### {name}", "", *table(["steps", *map(name_of, keys)], rows))


def _sessions(found: Found) -> Iterator[str]:
    """Several sessions in one process, as `benchmarks.sessions` measured them; nothing where it did not."""
    if not found:
        return
    yield from ("", "## Many sessions in one process", "")
    most = max(row["max_batch"] for row in found["sessions"])
    where = f"{found['n_cores']} cores of {found['processor']['name']}"
    yield MANY.format(bundle=found["bundle"], choice=found["choice"], where=where, most=most)
    yield from _session_rows(found["sessions"])
    yield from ("", _memory(found["rss_mb"]))


def _session_rows(measured: Sequence[Found]) -> Iterator[str]:
    """One row for each number of sessions, together and each for itself."""
    by_n: dict[int, dict[int, Found]] = {}
    for row in measured:
        by_n.setdefault(row["n"], {})[row["max_batch"]] = row
    titles = [
        "sessions",
        "wanted per s",
        "together, per s",
        "p50, p99 ms",
        "each for itself, per s",
        "p50, p99 ms",
    ]
    cells = []
    for n, rows in by_n.items():
        together, alone = rows[max(rows)], rows[min(rows)]
        cells.append([str(n), number(alone["asked_per_s"]), *_paced(together), *_paced(alone)])
    yield from table(titles, cells)


def _paced(row: Found) -> tuple[str, str]:
    delay = f"{number(row['end_to_end_ms_p50'])}, {number(row['end_to_end_ms_p99'])}"
    return number(row["predictions_per_s"]), delay


def _memory(rss_mb: Sequence[Found]) -> str:
    """What the process holds, engines shared or not."""
    told = ", ".join(f"{row['n']}: {row['shared']:.0f} ({row['apart']:.0f})" for row in rss_mb)
    return f"Memory of such a process in MB by its sessions, and where each opens engines of its own: {told}."


def _made(found: Mapping[str, Found]) -> Iterator[str]:
    yield from ("## What it took, and what it leaves out", "")
    columns = list(dict.fromkeys(what for one in found.values() for what in one["made_s"]))
    rows = (
        [name, *(_seconds(one["made_s"], what) for what in columns), str(one.get("took_s", "-"))]
        for name, one in found.items()
    )
    yield from table(["seconds", *columns, "measuring"], rows)
    yield ""
    yield (
        f'What is made is kept in `build/bench` and used again. The reference is "{name_of(REFERENCE)}".\n'
        "CCC is taken over the windows that a row had time for, few of slow ones. The windows that\n"
        "`quantize_static` was shown are among those that it is judged by; edge-mer's candidates never saw\n"
        "them. Left out: NNCF, `torch.compile`, and batches over several predictions, of which a live\n"
        "session has one at a time."
    )


def _seconds(made_s: Found, what: str) -> str:
    """As many as something took; nothing where it was there."""
    return f"{made_s[what]:.0f}" if what in made_s else "-"


__all__ = ["CHART", "PAGE", "RIVALS", "page"]
