"""What one bed costs on one processor: each system in FP32 and in 8 bits, and the knobs of the smallest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scaling.clips import CAMERA, LARGE, SECONDS, SMALL, clip
from benchmarks.scaling.kept import ROOT, SYSTEMS, Found, bundle_of, bundle_path, face_detector, here, say
from benchmarks.scaling.shares import BITS, FP32
from benchmarks.speed.machine import Others
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.runtime.session import merged
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec, PainOutput, Signal

MEASURE_S = 6
OF_CAMERA = ("visual", "audio")


def bed() -> Found:
    """All of it."""
    others = Others()
    decode = {f"{w}x{h}": decoding((w, h)) for w, h in (SMALL, CAMERA, LARGE)}
    systems = {name: system(open_bundle(path)) for name in SYSTEMS if (path := bundle_of(name)) is not None}
    return here() | {
        "decode": decode,
        "systems": systems,
        "knobs": knobs(),
        "others_share": others.share(),
    }


def decoding(size_px: tuple[int, int]) -> Found:
    """Processor time to read a recording, a second of it; and what a camera would send."""
    path = clip(size_px)
    source = open_source(f"file:{path}")
    source.ensure_ready()
    source.start()
    began_s = time.process_time()
    n = sum(1 for chunk in merged([source]) if chunk.modality == "visual")
    cpu_s = time.process_time() - began_s
    source.ensure_stopped()
    return {
        "cpu_share": round(cpu_s / SECONDS, 5),
        "n_frames": n,
        "bytes_per_s": round(path.stat().st_size / SECONDS),
    }


def system(bundle: Bundle) -> Found:
    """A system in both of its ways."""
    model = bundle.manifest.model
    bits = _bits(bundle)
    uris = [f"file:{clip()}", *others_of(model)]
    ways = {FP32: ("onnxruntime", "fp32"), BITS: ("openvino", bits)}
    found = {name: one(bundle.path, *way, uris) for name, way in ways.items()}
    return {"ways": found, "sources": ["camera", *others_of(model)]}


def _bits(bundle: Bundle) -> str:
    return next(one for one in bundle.manifest.candidates if one.startswith("int8-cpu"))


def others_of(model: ModelSpec) -> list[str]:
    """What no camera gives, of a simulated person."""
    streams = [one for one in model.modalities if one not in OF_CAMERA]
    if not streams:
        return []
    parts = ["sim:seed=1", "person=2", f"duration_s={SECONDS}", f"streams={'+'.join(streams)}"]
    parts += [
        f"{one.modality}_hz={one.preprocess.rate_hz}"
        for one in model.encoders
        if isinstance(one.preprocess, Signal)
    ]
    parts += ["pain=1"] * any(isinstance(one, PainOutput) for one in model.outputs)
    return ["&".join(parts)]


def knobs() -> Found:
    """The smallest model with cameras of other sizes, and with the other face detector."""
    path = bundle_path()
    found = {
        f"{w}x{h}": one(path, "onnxruntime", "fp32", [f"file:{clip((w, h))}"]) for w, h in (SMALL, LARGE)
    }
    if (yunet := face_detector()) is not None:
        found["yunet"] = one(path, "onnxruntime", "fp32", [f"file:{clip()}"], yunet)
    return found


def one(
    bundle: Path,
    engine: str,
    precision: str,
    uris: Sequence[str],
    detector: Path | None = None,
) -> Found:
    """One way to run one bundle, bound to one processor."""
    say("bed", f"{bundle} {engine} {precision}")
    seconds = os.environ.get("EDGE_MER_SCALING_MEASURE_S", str(MEASURE_S))
    done = subprocess.run(
        [
            "taskset",
            "-c",
            str(min(os.sched_getaffinity(0))),
            sys.executable,
            "-m",
            "benchmarks.scaling.one",
            str(bundle),
            engine,
            precision,
            seconds,
            str(detector or "-"),
            *uris,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Found = json.loads(done.stdout)
    if "1 thread" not in found["label"] or found["n_processors"] != 1:
        raise SystemExit(f"not one thread on one processor: {found}")
    return found
