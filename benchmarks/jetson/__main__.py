"""Holds edge-mer on an emulated aarch64 against x86-64, and writes docs/jetson-check.md.

    make jetson-check

Needs an x86-64 Debian or Ubuntu; missing system packages are installed with apt-get. What is made on the way
is kept in build/jetson, and what was found in benchmarks/measured/jetson.json. The exit code is 1 where a
check failed, 2 where one could not be made.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.jetson import compare, wheels
from benchmarks.jetson.machines import PROCESSORS, SUITE, Machine, install_tools, machines, qemu_version
from benchmarks.jetson.page import page, verdict
from benchmarks.jetson.tools import ROOT, WORK, CheckError, elapsed_s, say
from edge_mer.bundle.manifest import Manifest
from edge_mer.bundle.read import open_bundle
from edge_mer.engine.cache import processor
from edge_mer.runtime.setup import cpu_precisions
from edge_mer.runtime.simulated import simulated
from tests.helpers.bundle import ensure_bundle
from tests.helpers.clip import write_clip

PAGE = ROOT / "docs" / "jetson-check.md"
MEASURED = ROOT / "benchmarks" / "measured" / "jetson.json"
PROBE = Path(__file__).with_name("probe.py")

JETPACKS = {
    "3.10": ("JetPack 6, Ubuntu 22.04", wheels.Target("3.10", 35)),
    "3.12": ("JetPack 7, Ubuntu 24.04", wheels.Target("3.12", 39)),
}
N_SHAKES = 50
SIMULATED_STEPS = 15
CLIP_S = 4
LIMIT_S = 1800
"""For one command on one machine."""

Checks = list[compare.Check]


def main() -> int:
    """The exit code."""
    try:
        found = check()
    except CheckError as error:
        print(f"make jetson-check could not be made.\n{error}", file=sys.stderr)
        return 2
    MEASURED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
    checks = [(where, one) for where, held in found["checks"].items() for one in held]
    print()
    width = [max(len(str(cell)) for cell in cells) for cells in zip(*map(_cells, checks), strict=True)]
    for one in checks:
        print("  ".join(cell.ljust(n) for cell, n in zip(_cells(one), width, strict=True)).rstrip())
    say(f"wrote {wheels.relative(PAGE)}")
    return 0 if all(one["passed"] for _, one in checks) else 1


def _cells(one: tuple[str, dict[str, Any]]) -> tuple[str, str, str, str]:
    where, held = one
    return f"{where}: {held['name']}", held["found"], held["must_be"], verdict(held)


def check() -> dict[str, Any]:
    """Everything, made and compared.

    Raises:
        CheckError: Something could not be made.
    """
    WORK.mkdir(parents=True, exist_ok=True)
    install_tools()
    wheel = wheels.build_wheel()
    say("asking pip for the wheels of JetPack's Pythons")
    packages = {python: resolved(wheel, *jetpack) for python, jetpack in JETPACKS.items()}
    say("making a bundle, if there is none for this code")
    bundle = made_bundle()
    native, emulated = machines(wheel)
    manifest = open_bundle(bundle).manifest
    work = Work(bundle, manifest, native, emulated)
    verified = work.run()
    found = {name: compare.read(work.probed(name)) for name in (native.name, *emulated, WORKBENCH)}
    return {
        "date": datetime.date.today().isoformat(),
        "minutes": elapsed_s() / 60,
        "model": manifest.model.name,
        "qemu": qemu_version(),
        "debian": SUITE,
        "processor": processor()["name"],
        "processors": {name: PROCESSORS[name] for name in emulated},
        "about": json.loads(found[next(iter(emulated))]["about"].item()),
        "max_stage": compare.MAX_STAGE,
        "checks": {
            **{name: as_dicts(work.checks(name, found, verified)) for name in emulated},
            "wheels": as_dicts([wheel_check(one) for one in packages.values()]),
        },
        "shaken": shaken_lines(found[native.name], manifest),
        "workbench": onnxruntime.__version__,
        "versions": version_lines(found[native.name], found[WORKBENCH], manifest),
        "wheels": packages,
    }


def as_dicts(checks: Checks) -> list[dict[str, Any]]:
    """For JSON."""
    return [dataclasses.asdict(one) for one in checks]


def made_bundle() -> Path:
    """The demo's bundle, or one by `export` and `calibrate`.

    Raises:
        CheckError: One of them failed.
    """
    try:
        return ensure_bundle()
    except subprocess.CalledProcessError as error:
        raise CheckError(f"making the bundle: {shlex.join(error.cmd)} failed, as it says above") from error


def resolved(wheel: Path, where: str, target: wheels.Target) -> dict[str, Any]:
    """Names and versions, with and without the extra for words; of neither where something has no wheel."""
    lacking, core, text = None, [], []
    try:
        core, text = (wheels.resolve([f"{wheel}{extra}"], target) for extra in ("", "[text]"))
    except wheels.NoWheelError as error:
        print(error)
        lacking = next((line for line in str(error).splitlines() if "No matching" in line), str(error))
    for one in text:
        print(f"  Python {target.python}: {one.file}")
    return {
        "python": target.python,
        "glibc": target.glibc,
        "where": where,
        "core": {one.name: one.version for one in core},
        "text": {one.name: one.version for one in text},
        "lacking": lacking,
    }


def wheel_check(one: dict[str, Any]) -> compare.Check:
    """Whether pip found everything."""
    found = one["lacking"] or f"{len(one['core'])} for the core, {len(one['text'])} with words"
    name = f"wheels for Python {one['python']}"
    return compare.Check(name, found.strip(), "a wheel for everything", passed=one["lacking"] is None)


WORKBENCH = "workbench"
"""This very Python, with its own packages."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What the machines have to do.

    Attributes:
        bundle: The bundle's folder.
        manifest: Its manifest.
        native: The x86-64 machine.
        emulated: The others, by name; the first one does everything, the others no more than the stages.
    """

    bundle: Path
    manifest: Manifest
    native: Machine
    emulated: dict[str, Machine]

    @property
    def whole(self) -> Machine:
        """The emulated machine that does everything."""
        return next(iter(self.emulated.values()))

    @property
    def sources(self) -> dict[str, str]:
        """What is played: a person simulated on the spot, and a file with picture and sound."""
        return {
            "a simulated person": simulated(self.manifest.model, seed=3, person=3, n_steps=SIMULATED_STEPS),
            "an MP4 file": f"file:{WORK / 'clip.mp4'}",
        }

    def probed(self, machine: str) -> Path:
        """Where a machine's probe is."""
        return WORK / f"probe-{machine}.npz"

    def predicted(self, machine: str, precision: str, source: str) -> Path:
        """Where a machine's predictions are."""
        return WORK / f"{machine}-{precision}-{source.split()[-1]}.jsonl"

    def run(self) -> compare.Check:
        """All of it, a command per core at a time; whether `verify` agreed."""
        write_clip(WORK / "clip.mp4", CLIP_S)
        jobs = [partial(self.play, self.whole, *one) for one in self.plays()]
        jobs += [partial(self.probe, one) for one in self.emulated.values()]
        jobs += [partial(self.play, self.native, *one) for one in self.plays()]
        jobs += [partial(self.probe, self.native, N_SHAKES)]
        jobs += [partial(self.probe, Machine(WORKBENCH, (sys.executable,), (ROOT,)))]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                verified = pool.submit(self.verify, self.whole)
                for done in [pool.submit(job) for job in jobs]:
                    done.result()
            except CheckError:
                pool.shutdown(cancel_futures=True)
                raise
        return verified.result()

    def plays(self) -> list[tuple[str, str]]:
        """Candidates and sources."""
        able = cpu_precisions(self.manifest.candidates)
        return [(precision, source) for source in self.sources for precision in able]

    def verify(self, machine: Machine) -> compare.Check:
        """The verb; what it refuses is a failed check."""
        try:
            machine.run("edge-mer verify", *VERB, "verify", str(self.bundle), limit_s=LIMIT_S)
        except CheckError as error:
            print(error)
            return compare.Check("verify", str(error).splitlines()[0], "exit code 0", passed=False)
        say(f"{machine.name}: verified")
        return compare.Check("verify", "every proof passed", "exit code 0", passed=True)

    def probe(self, machine: Machine, n_shakes: int = 0) -> None:
        """Its outputs from equal tensors."""
        arguments = (str(PROBE), str(self.bundle), str(self.probed(machine.name)), str(n_shakes))
        machine.run("stages", *arguments, limit_s=LIMIT_S)
        say(f"{machine.name}: stages")

    def play(self, machine: Machine, precision: str, source: str) -> None:
        """The verb `run`."""
        file = self.predicted(machine.name, precision, source)
        file.unlink(missing_ok=True)
        asked = ["--source", self.sources[source], "--fast", "--precision", precision]
        arguments = [*VERB, "run", str(self.bundle), *asked, "--sink", f"jsonl:{file}"]
        machine.run(f"edge-mer run, {source}", *arguments, limit_s=LIMIT_S)
        say(f"{machine.name}: {precision}, {source}")

    def checks(self, name: str, found: dict[str, compare.Found], verified: compare.Check) -> Checks:
        """One emulated processor against x86-64."""
        here, there = found[self.native.name], found[name]
        checks = compare.stage_checks(here, there, self.manifest) + compare.face_check(here, there)
        if name != self.whole.name:
            return checks
        for precision, source in self.plays():
            files = (self.predicted(machine, precision, source) for machine in (self.native.name, name))
            checks.append(compare.run_check(f"run, {precision}, {source}", *files))
        return [verified, *checks]


VERB = ("-m", "edge_mer.cli.main")


def shaken_lines(found: compare.Found, manifest: Manifest) -> list[str]:
    """What a last bit changes, per candidate."""
    lines = []
    for precision in cpu_precisions(manifest.candidates):
        one = compare.shaken(found, precision, manifest.model.fusion.stage, manifest.golden.deviation)
        lines.append(f"{precision}: {amount(one)}.")
    return lines


def version_lines(here: compare.Found, there: compare.Found, manifest: Manifest) -> list[str]:
    """What another version of ONNX Runtime changes, per candidate and stage."""
    return [
        f"{precision}, {stage}: {amount(compare.differences(here, there, names, manifest.golden.deviation))}."
        for precision, stage, names in compare.tensors(here, manifest)
    ]


def amount(one: compare.Differences) -> str:
    """In words."""
    far = f"{one.n_beyond} of {one.n} beyond {compare.MAX_STAGE:g}"
    return f"at most {one.absolute:.2g}, or {one.relative:.2g} deviations; {far}"


if __name__ == "__main__":
    sys.exit(main())
