"""Real inputs for a server to warm up with, from a bundle's golden sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.bundle.read import Bundle
from edge_mer.errors import BundleError
from edge_mer.preprocess.words import WordTokenizer
from edge_mer.runtime.golden import Arrays
from edge_mer.types.model import Encoder, Words

Array = NDArray[np.generic]
_LITTLE_ENDIAN: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int64": np.dtype("<i8"),
    "bool": np.dtype("?"),
}


def golden_inputs(bundle: Bundle) -> dict[str, dict[str, Array]]:
    """Stage -> input -> its numbers in the first golden session, without a batch axis.

    An encoder's are those of the first step that was there, of words the first utterance; the fusion's the
    session's last window.

    Raises:
        BundleError: The session has not what the model declares.
        MissingError: A model of words, and the `tokenizers` library is not installed.
    """
    name = bundle.manifest.golden.sessions[0]
    session = bundle.read_arrays(name)
    try:
        return _inputs(bundle, session)
    except (KeyError, ValueError, IndexError) as error:
        raise BundleError(
            f"bundle {bundle.path}: {name} has no inputs of this model", found=str(error)
        ) from error


def _inputs(bundle: Bundle, session: Arrays) -> dict[str, dict[str, Array]]:
    model = bundle.manifest.model
    found = {e.stage: {e.input.name: _step_tensor(bundle, e, session)} for e in model.encoders}
    fusion = model.fusion
    window: dict[str, Array] = {}
    for encoder, spec in zip(model.encoders, fusion.inputs, strict=False):
        rows = session[f"feature.{encoder.stage}"][-fusion.n_steps :]
        window[spec.name] = np.resize(rows, (fusion.n_steps, encoder.feature))
    if fusion.has_present_input:
        rows = np.stack([session[f"present.{e.stage}"][-fusion.n_steps :] for e in model.encoders])
        window[fusion.inputs[-1].name] = np.resize(rows, (len(model.encoders), fusion.n_steps))
    return {**found, fusion.stage: window}


def _step_tensor(bundle: Bundle, encoder: Encoder, session: Arrays) -> Array:
    spec = encoder.preprocess
    if not isinstance(spec, Words):
        tensor: Array = session[f"input.{encoder.stage}"][0]
        return tensor.reshape(encoder.input.concrete(batch=1)[1:])
    words = session["text.data"][: session["text.n_words"][0], 0].tolist()
    ids: Array = next(WordTokenizer(spec, bundle.read(spec.tokenizer)).utterances(words)).ids[0]
    return ids


def raw(values: Array, dtype: str) -> bytes:
    """Little-endian and without gaps, as a server reads it."""
    return np.ascontiguousarray(values, _LITTLE_ENDIAN[dtype]).tobytes()


def n_bytes(dtype: str, dims: tuple[int, ...]) -> int:
    """Size of a tensor as `raw` writes it."""
    return int(np.prod(dims, dtype=np.int64)) * _LITTLE_ENDIAN[dtype].itemsize
