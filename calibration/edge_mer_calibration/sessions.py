"""Whose sessions a calibration reads: simulated people, media, or recordings of a manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording, Split, read_manifest
from edge_mer.labels.problems import demand
from edge_mer.runtime.collect import collect
from edge_mer.runtime.labelled import LabelledSession, check, collect_labelled, ranges_of
from edge_mer.runtime.pipeline import PipelineSetup
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec

Say = Callable[[str], None]

_TABLES = (".csv", ".jsonl")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")


def simulated_recordings(
    model: ModelSpec, n_windows: int, first_person: int, n_people: int
) -> list[Recording]:
    """Simulated people, each long enough for their share of whole windows."""
    n_hops = -(-n_windows // n_people)
    n_steps = model.fusion.n_steps + n_lead_in(model) + n_hops * model.fusion.hop
    uris = [simulated(model, seed=5, person=first_person + i, n_steps=n_steps) for i in range(n_people)]
    return [_of_uri(uri) for uri in uris]


def recordings_of(model: ModelSpec, asked: Sequence[str], split: Split) -> list[Recording]:
    """What the command line names: URIs of sessions, and manifests of recordings.

    Args:
        model: What the labels are held against.
        asked: URIs such as "file:clip.mp4", and paths of manifests (CSV or JSON lines).
        split: Which recordings of a manifest; all of them where it has none of that split.

    Raises:
        DataError: A manifest or its labels cannot be used.
    """
    found: list[Recording] = []
    for one in asked:
        if _SCHEME.match(one):
            found.append(_of_uri(one))
        else:
            found += _of_manifest(model, one, split)
    return found


def has_split(path: str, split: Split) -> bool:
    """Whether that is a manifest with recordings of a split."""
    if _SCHEME.match(path) or not Path(path).is_file():
        return False
    return any(one.split == split for one in read_manifest(Path(path))[0])


def _knows_truth(model: ModelSpec, recording: Recording) -> bool:
    """Whether it is a simulated person who feels what the model estimates."""
    is_simulated = all(uri.startswith("sim:") for uri in recording.sources)
    return is_simulated and not check([recording], ranges_of(model))


def _of_uri(uri: str) -> Recording:
    return Recording(name=uri, person=uri, sources=(uri,), labels=None)


def _of_manifest(model: ModelSpec, path: str, split: Split) -> list[Recording]:
    if not path.endswith(_TABLES):
        raise UsageError(
            f"{path} names no session", expected="a URI such as file:clip.mp4, or a manifest (.csv, .jsonl)"
        )
    recordings, problems = read_manifest(Path(path))
    demand([*problems, *check(recordings, ranges_of(model))], f"recordings of {path}")
    return [one for one in recordings if one.split == split] or recordings


def play(setup: PipelineSetup, recording: Recording) -> LabelledSession:
    """Play a recording through the device's own runtime; labels are NaN where nobody knows them."""
    if recording.labels is not None or _knows_truth(setup.model, recording):
        return collect_labelled(setup, recording)
    traces = collect(setup, [open_source(uri) for uri in recording.sources])
    unknown = np.full(len(traces), np.nan, np.float32)
    return LabelledSession(recording.person, traces, {output.name: unknown for output in setup.model.outputs})
