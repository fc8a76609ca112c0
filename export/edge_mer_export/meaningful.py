"""Random weights whose outputs depend on their inputs.

Default initial weights give outputs that hardly change, so a proof on them would pass whatever the
graph computes. Here batch norms take the statistics of simulated people, and the last layers are
scaled until every output varies with a standard deviation of 0.3 around 0.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_mer.errors import UsageError
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.collect import collect
from edge_mer.runtime.offline import Features, all_present, offline_outputs
from edge_mer.runtime.pipeline import PipelineSetup, StepTrace
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.sources.registry import open_source
from edge_mer.types.model import ModelSpec, Words
from edge_mer_export.engines import word_engines
from edge_mer_export.models.zoo import ZooModel
from edge_mer_export.reference import encode_steps, torch_blanks, torch_fusion

OUTPUT_DEVIATION = 0.3
_BATCH = 8
_MAX_BATCHES = 4


def sessions(model: ZooModel, n_people: int, n_steps: int, first_person: int) -> list[list[StepTrace]]:
    """Step tensors of simulated people who sit there for `n_steps` steps each."""
    engines = word_engines(model.spec, model.stages)
    setup = PipelineSetup(model.spec, engines, open_face_detector(), assets=model.assets)
    n_steps += n_lead_in(model.spec)
    uris = [simulated(model.spec, seed=7, person=first_person + i, n_steps=n_steps) for i in range(n_people)]
    return [[t for t in collect(setup, [open_source(uri)]) if t.is_real] for uri in uris]


def make_meaningful(model: ZooModel, *, n_people: int = 3) -> None:
    """Calibrate the batch norms of `model` and scale its heads, in place.

    Args:
        model: With random weights.
        n_people: Simulated people to look at.
    """
    fusion = model.spec.fusion
    seen = sessions(model, n_people, fusion.n_steps + 2 * fusion.hop, first_person=500)
    for encoder in model.spec.encoders:
        if isinstance(encoder.preprocess, Words):
            continue  # its step tensors are features already
        steps = np.concatenate([np.concatenate([t.inputs[encoder.stage] for t in one]) for one in seen])
        _calibrate_batchnorm(model.stages[encoder.stage], [steps])
    features = [_encode_all(model, one) for one in seen]
    _calibrate_batchnorm(model.stages[fusion.stage], _windows(model.spec, features))
    _scale_heads(model, features)


def _calibrate_batchnorm(module: nn.Module, inputs: list[NDArray[Any]]) -> None:
    """Running statistics = averages over the batches of `inputs`, (n, …) each, in a mixed order."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over batches
    order = np.random.default_rng(0).permutation(len(inputs[0]))[: _BATCH * _MAX_BATCHES]
    module.train()
    with torch.no_grad():
        for first in range(0, len(order), _BATCH):
            batch = order[first : first + _BATCH]
            if len(batch) > 1:
                module(*(torch.from_numpy(one[batch]) for one in inputs))
    module.eval()


def _windows(spec: ModelSpec, features: list[Features]) -> list[NDArray[Any]]:
    """Every whole window of each modality's features, (n, L, feature), and where it is taken the mask."""
    size = spec.fusion.n_steps
    windows: list[NDArray[Any]] = [
        np.concatenate(
            [
                np.lib.stride_tricks.sliding_window_view(one[e.stage], size, axis=0).swapaxes(1, 2)
                for one in features
            ]
        ).astype(np.float32)
        for e in spec.encoders
    ]
    if spec.fusion.has_present_input:
        windows.append(np.ones((len(windows[0]), len(windows), size), np.bool_))
    return windows


def _encode_all(model: ZooModel, traces: list[StepTrace]) -> Features:
    """The features of a session whose every step is whole."""
    return {
        e.stage: encode_steps(model, e.stage, np.concatenate([trace.inputs[e.stage] for trace in traces]))
        for e in model.spec.encoders
    }


def _last_layer(model: ZooModel, fusion: nn.Module, output: str) -> nn.Linear:
    name = model.last_layers.get(output)
    if name is None:
        raise UsageError(
            f"model {model.spec.name} does not say which layer gives {output}",
            expected="`last_layers` in its declaration, for random weights",
            hint="give trained weights with --checkpoint",
        )
    return cast(nn.Linear, fusion.get_submodule(name))


def _scale_heads(model: ZooModel, features: list[Features]) -> None:
    fusion = model.stages[model.spec.fusion.stage]
    run = torch_fusion(model)
    blanks = torch_blanks(model)
    outputs = [offline_outputs(model.spec, one, all_present(one), run, blanks) for one in features]
    with torch.no_grad():
        for output in model.spec.outputs:
            values = np.concatenate([one[output.name] for one in outputs])
            values = values[np.isfinite(values).reshape(len(values), -1).all(axis=1)]
            last = _last_layer(model, fusion, output.name)
            scale = OUTPUT_DEVIATION / max(float(values.std()), 1e-9)
            last.weight.mul_(scale)
            if last.bias is not None:
                last.bias.sub_(torch.as_tensor(values.mean(axis=0)).to(last.bias)).mul_(scale)
