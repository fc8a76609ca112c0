"""Weights for a system that nobody publishes any of: random, and still such that an error would be seen.

Encoders and fusion are random, their batch norms fitted to simulated people. Such a network makes much of
the smallest difference, layer by layer, which trained ones do not: there a residual block changes little. So
here, too, each adds but a quarter. What then comes out of the last hidden layer differs little from window to
window, and in most directions not more than 8 bits do. So each output looks along those directions in which
simulated people differ most.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.speed.rivals.base import EachStepOnce
from benchmarks.speed.steps import n_people_of, share_of, steps_of
from edge_mer_export.engines import torch_engines
from edge_mer_export.meaningful import OUTPUT_DEVIATION, make_meaningful, sessions
from edge_mer_export.models.zoo import ZooModel, build

N_WINDOWS = 12
FIRST_PERSON = 80_000

ADDED = 0.25
LAST_NORMS = (".conv2.1", ".bn2", ".res_layer.4")
"""Of residual blocks."""


def random_model(name: str) -> ZooModel:
    """A system whose outputs vary by 0.3 from window to window."""
    torch.manual_seed(0)
    model = build(name)
    add_little(model)
    make_meaningful(model, n_people=2)
    look_where_people_differ(model)
    return model


@torch.no_grad()
def add_little(model: ZooModel) -> None:
    """Scale what residual blocks add to their inputs, by their last batch norms; in place."""
    for stage in model.stages.values():
        for name, part in stage.named_modules():
            if name.endswith(LAST_NORMS):
                cast(_BatchNorm, part).weight.fill_(ADDED)


def look_where_people_differ(model: ZooModel) -> None:
    """Give each output's last layer the principal directions of what it sees; in place."""
    seen = _seen(model)
    fusion = model.stages[model.spec.fusion.stage]
    for name, hidden in seen.items():
        look(cast(nn.Linear, fusion.get_submodule(model.last_layers[name])), hidden)


@torch.no_grad()
def look(last: nn.Linear, hidden: Tensor) -> None:
    """Along the strongest directions of what varies in `hidden` (n, D); a last class against the others."""
    n = max(1, last.out_features - 1)
    mean = hidden.mean(dim=0)
    _, strength, directions = torch.linalg.svd(hidden - mean, full_matrices=False)
    deviation = strength[:n] / len(hidden) ** 0.5
    weight = OUTPUT_DEVIATION * directions[:n] / deviation[:, None]
    if last.out_features > 1:
        weight = torch.cat([weight, -weight.sum(dim=0, keepdim=True)])
    last.weight.copy_(weight)
    last.bias.copy_(-weight @ mean)


def _seen(model: ZooModel) -> dict[str, Tensor]:
    """Output -> what its last layer sees of the last steps of windows, (n, D), of several people."""
    spec, fusion = model.spec, model.stages[model.spec.fusion.stage]
    seen: dict[str, list[Tensor]] = {name: [] for name in model.last_layers}
    hooks = [
        fusion.get_submodule(layer).register_forward_hook(
            lambda _module, given, _found, rows=seen[name]: rows.append(given[0].detach().flatten(0, -2)[-1:])
        )
        for name, layer in model.last_layers.items()
    ]
    share = share_of(spec, N_WINDOWS)
    played = sessions(model, n_people_of(N_WINDOWS), share + spec.fusion.hop, FIRST_PERSON)
    rival = EachStepOnce(spec, torch_engines(spec, model.stages), steps_of(spec, played, share))
    rival.warm_up(range(N_WINDOWS))
    for name in seen:
        seen[name].pop()  # of a window that was not full
    for window in range(N_WINDOWS):
        rival.predict(window)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows) for name, rows in seen.items()}
