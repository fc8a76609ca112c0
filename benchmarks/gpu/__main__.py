"""Tests and times the kernels on the GPU that is here; prints its table last.

    make gpu-check

What was found goes to benchmarks/results, by card and date (docs/gpu-check.md). The exit code is 1 where a
goal was missed or a test failed, 5 where there is no GPU that can be used.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu import checks, face, sound, table, timing
from benchmarks.gpu.end_to_end import EndToEndCheck
from benchmarks.gpu.torch_ways import exact_float32, why_no_cuda
from edge_mer.cuda import Gpu, Kernel, open_gpu
from edge_mer.engine.cache import processor
from edge_mer.errors import EdgeMerError
from edge_mer.nvrtc import nvrtc_version
from edge_mer.preprocess.gpu import load_kernels
from tests.helpers.front_ends import JMT_LOG_MEL

OUT = Path(__file__).resolve().parents[1] / "results"
LIMIT_S = 270.0
"""For all of it but the installation; what is left when all else is done is the sanitizer's."""

TESTS_LIMIT_S = 120.0
RACES_LIMIT_S = 60.0
_BEGAN_S = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for what was found (benchmarks/results)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes and no tests: does it run at all?")
    asked = parser.parse_args(arguments)
    try:
        with open_gpu() as gpu:
            about = describe(gpu)
            say(f"{about['card']}, driver {about['driver']}")
            rows = list(told(everything(gpu, quick=asked.quick)))
    except EdgeMerError as error:
        print(f"make gpu-check could not be made: {error}", file=sys.stderr)
        return error.exit_code
    if not asked.quick:
        rows = [*rows, *told(under_sanitizer())]
    about["minutes"] = round(elapsed_s() / 60, 1)
    if asked.out is not None or not asked.quick:
        print(f"\nWrote {write(asked.out or OUT, about, rows)}")
    print(f"\n{title(about)}\n\n{table.plain(rows)}")
    missed = table.failed(rows)
    print(
        f"\n{len(missed)} failed: {'; '.join(row.measured for row in missed)}"
        if missed
        else "\nNothing failed."
    )
    return 1 if missed else 0


def everything(gpu: Gpu, *, quick: bool) -> Iterator[table.Row]:
    """All rows of one process."""
    if not quick:
        yield from part(checks.PART, lambda: [checks.plain_tests(TESTS_LIMIT_S)])
    kernels = load_kernels(gpu)
    plan = timing.QUICK if quick else timing.Plan()
    sizes = face.QUICK if quick else face.FULL
    spec, n_samples = (sound.QUICK, sound.QUICK_SAMPLES) if quick else (JMT_LOG_MEL, sound.N_SAMPLES)
    if not why_no_cuda():
        import torch

        exact_float32(torch)
    yield from part(face.PART, face.FaceCheck(gpu, kernels, sizes, plan, judged=not quick).rows)
    yield from part(sound.PART, sound.SoundCheck(gpu, kernels, spec, n_samples, plan, judged=not quick).rows)
    yield from part("end to end", lambda: end_to_end(gpu, kernels, sizes, spec, n_samples, plan))


def end_to_end(gpu: Gpu, kernels: dict[str, Kernel], *what: Any) -> Iterator[table.Row]:
    """The whole way."""
    yield from EndToEndCheck(gpu, kernels, *what).rows()


def under_sanitizer() -> Iterator[table.Row]:
    """When our own hold on the GPU is given back."""
    for tool, tests, at_most_s in (
        ("racecheck", checks.SHARED_MEMORY, RACES_LIMIT_S),
        ("memcheck", checks.ALL, LIMIT_S),
    ):
        limit_s = max(30.0, min(at_most_s, LIMIT_S - elapsed_s()))
        yield from part(checks.PART, lambda: [checks.sanitizer_tests(tool, tests, limit_s)])  # noqa: B023


def part(name: str, rows: Callable[[], Iterable[table.Row]]) -> Iterator[table.Row]:
    """Its rows; what breaks it is a failed row, and the others go on."""
    try:
        yield from rows()
    except Exception as error:
        traceback.print_exc()
        yield table.Row(name, "all that would follow", f"broke: {error}".splitlines()[0], goal=checks.NONE)


def told(rows: Iterable[table.Row]) -> Iterator[table.Row]:
    """The same, with a line of progress each."""
    for row in rows:
        part_, measured, found, _, verdict = row.cells()
        say(f"{part_}: {measured}: {found} [{verdict}]")
        yield row


def say(what: str) -> None:
    """A line of progress, with the time since the start."""
    print(f"[{elapsed_s():4.0f} s] {what}", flush=True)


def elapsed_s() -> float:
    """Seconds since the start."""
    return time.monotonic() - _BEGAN_S


def describe(gpu: Gpu) -> dict[str, Any]:
    """On what it was measured."""
    about = {
        "card": gpu.name,
        "sm": gpu.sm,
        "driver": driver_version(),
        "cuda": gpu.driver_version,
        "nvrtc": nvrtc_version(),
        "date": datetime.date.today().isoformat(),
        "processor": processor()["name"],
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pytorch": "none",
    }
    if not why_no_cuda():
        import torch

        about["pytorch"] = torch.__version__
    return about


def driver_version() -> str:
    """Of the NVIDIA driver: of nvidia-smi, or of its kernel module where there is none, as on a Jetson."""
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    module = Path("/proc/driver/nvidia/version")
    found = re.search(r"Module\D+([\d.]+)", module.read_text(encoding="utf-8")) if module.exists() else None
    return found[1] if found else "of unknown version"


def title(about: dict[str, Any]) -> str:
    """One line above the table."""
    return (
        f"{about['card']} ({about['sm']}), driver {about['driver']}, CUDA {about['cuda']}, {about['date']}, "
        f"in {about['minutes']} minutes"
    )


def write(folder: Path, about: dict[str, Any], rows: list[table.Row]) -> Path:
    """As JSON, and as a page; the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", about["card"].lower()).strip("-") + f"-{about['date']}"
    found = {**about, "rows": [row.as_dict() for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = folder / f"{name}.md"
    on = ", ".join(
        f"{key} {about[key]}" for key in ("nvrtc", "pytorch", "opencv", "numpy", "python", "processor")
    )
    head = f"# {about['card']}, {about['date']}\n\nMade by `make gpu-check`; do not edit. "
    head += f"[What it measures](../../docs/gpu-check.md).\n\n{title(about)}. With {on}.\n\n"
    page.write_text(f"{head}{table.markdown(rows)}\n", encoding="utf-8")
    return page


if __name__ == "__main__":
    sys.exit(main())
