"""What models, tensors and files are called in a repository."""

from __future__ import annotations

import re

STREAM = "stream"
"""The stage that keeps the features of a window itself."""

START = "START"
"""Input of the streaming model: a new sequence begins."""

N_STEPS_SEEN = "n_steps_seen"
"""Output of the streaming model: steps since the sequence began."""

RING = "ring."
NEXT = ".next"
"""A state is handed in as "ring.visual" and handed out as "ring.visual.next"."""

N_STEPS = f"{RING}n_steps"
VERSION = "1"
CONFIG = "config.pbtxt"
PARAMETER = "edge_mer_"
"""Begins every parameter that is ours."""


def valid_name(name: str) -> str:
    """A model's name with letters, digits and underscores only: they stand in paths and addresses."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def model_name(name: str, stage: str) -> str:
    """What a stage is called on the server."""
    return f"{valid_name(name)}_{stage}"


def labels_file(output: str) -> str:
    """The file that names the numbers of an output."""
    return f"{valid_name(output)}.labels.txt"


def warm_up_file(tensor: str) -> str:
    """The file with an input's numbers to warm up with."""
    return f"{valid_name(tensor)}.raw"
