"""Predictions as JSON lines: in a file, which appears under its name once it is whole, or on stdout."""

from __future__ import annotations

import json

from edge_mer.sinks.line_file import LineFile
from edge_mer.types.predictions import Prediction


class JsonlSink(LineFile):
    """`jsonl:PATH`: one line per prediction, written to PATH.part and renamed at the end.

    Args:
        rest: The path; "-" for standard output.
    """

    def __init__(self, rest: str) -> None:
        super().__init__("jsonl", rest, "jsonl:out.jsonl")

    def write(self, prediction: Prediction) -> None:
        """Append one line and hand it to the operating system."""
        self.append(json.dumps(prediction.to_dict(), allow_nan=False))  # all of it before any is written
