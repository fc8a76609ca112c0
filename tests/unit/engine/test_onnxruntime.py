"""An engine of ONNX Runtime gives back what it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_mer.bundle.read import open_bundle
from edge_mer.engine.onnxruntime import OrtOptions, executed
from edge_mer.runtime.setup import open_setup
from tests.helpers.process import n_threads


def test_what_is_closed_is_freed_although_it_is_still_known(shared_bundle: Path) -> None:
    """A session knows the engines that it began with; a daemon that changed them does not pay for it."""
    before = n_threads()
    setup = open_setup(open_bundle(shared_bundle), "fp32", None, OrtOptions(threads=2))
    assert n_threads() == before + len(setup.engines), "each has a thread beside the one that calls it"
    setup.close()
    assert n_threads() == before
    setup.close()
    engine = next(iter(setup.engines.values()))
    with pytest.raises(RuntimeError, match="was closed"):
        engine.infer()


@pytest.mark.parametrize(
    ("candidate", "fuse", "numbers"),
    [("fp32", True, {"f32"}), ("int8-cpu", True, {"u8"}), ("int8-cpu", False, {"f32"})],
)
def test_it_is_told_what_layers_really_run_in(
    shared_bundle: Path, candidate: str, fuse: bool, numbers: set[str]
) -> None:
    """Not what the file is called: where 8 bits are computed as they are written, that is in float."""
    bundle = open_bundle(shared_bundle)
    encoder = bundle.manifest.model.encoders[0]
    feed = {encoder.input.name: np.zeros(encoder.input.concrete(batch=1), np.float32)}
    options = OrtOptions(fuse_qdq=fuse)
    found = executed(encoder.stage, bundle.read_stage(candidate, encoder.stage), feed, options)
    assert set(found) == numbers
    assert sum(found.values()) > 10
