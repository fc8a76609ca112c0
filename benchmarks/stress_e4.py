"""Trains `stress-e4` on real people, judges it on people it never saw, and writes docs/stress-e4.md.

    .venv/bin/python benchmarks/stress_e4.py DATA           everything: figures, page
    .venv/bin/python benchmarks/stress_e4.py DATA --weights  the weights that come along, too

DATA is a copy of the Stress-Predict data set (Iqbal et al. 2022), with a folder Raw_data and its labels as
labels_1hz.csv.gz; without it, EDGE_MER_TEST_DATA/stress_predict is looked for. What is made of it lies in
build/stress-e4, which is not part of the project.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import demand
from edge_mer.runtime.labelled import check, ranges_of
from edge_mer_export.models.spec_stress_e4 import STEP_S, WARM_UP_S
from edge_mer_export.models.zoo import ZooModel, build
from edge_mer_export.training.phases import BackboneTask, FusionTask
from edge_mer_export.training.recipe import Recipe, read_recipe
from edge_mer_export.training.sessions import Session, load_sessions
from edge_mer_export.training.trainer import State, seeded, train_phase

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "stress-e4"
PAGE = ROOT / "docs" / "stress-e4.md"
WEIGHTS = ROOT / "export" / "edge_mer_export" / "weights" / "stress-e4.safetensors"
FILES = {"eda": "EDA.csv", "ppg": "BVP.csv.gz", "skt": "TEMP.csv"}

Floats = NDArray[np.float64]


# -- data ---------------------------------------------------------------------------------------


def prepare(data: Path) -> Path:
    """Write label tracks and a manifest of everybody who has labels; returns the manifest."""
    rows: dict[int, list[tuple[float, int]]] = {}
    with gzip.open(data / "labels_1hz.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(int(row["Participant"]), []).append((float(row["Time(sec)"]), int(row["Label"])))
    folder = WORK / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    manifest = WORK / "people.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["person", "sources", "labels"])
        for number in sorted(rows):
            person, raw = f"S{number:02d}", data / "Raw_data" / f"S{number:02d}"
            if not raw.is_dir():
                continue
            labels = folder / f"{person}.csv"
            _write_labels(labels, rows[number], start_s=_start_s(raw / FILES["eda"]))
            uris = [f"signal:{raw / name}?modality={kind}&layout=e4" for kind, name in FILES.items()]
            lines.writerow([person, ";".join(uris), labels.relative_to(WORK)])
    return manifest


def _start_s(file: Path) -> float:
    with file.open(encoding="utf-8") as lines:
        return float(lines.readline().split(",")[0])


def _write_labels(file: Path, rows: Sequence[tuple[float, int]], start_s: float) -> None:
    """Labels by time; none until every window is whole, since an earlier one tells how late it is."""
    first_s = WARM_UP_S + STEP_S / 2  # a step takes the nearest label, and the step before must find none
    with file.open("w", encoding="utf-8", newline="") as target:
        lines = csv.writer(target)
        lines.writerow(["t_s", "emotion"])
        for time_s, label in rows:
            t_s = time_s - start_s
            lines.writerow([f"{t_s:.3f}", label if t_s >= first_s else ""])


def sessions_of(manifest: Path, model: ZooModel) -> list[Session]:
    """Every recording in steps, through the device's own runtime; played once, and kept."""
    recordings, problems = read_manifest(manifest)
    folder = WORK / "data"
    if not folder.exists():
        demand([*problems, *check(recordings, ranges_of(model.spec))], "recordings")
    told: Callable[[int, int], None] = lambda done, n: print(f"played {done} of {n}", flush=True)  # noqa: E731
    return load_sessions(model.spec, recordings, folder, torch.get_num_threads(), told)
