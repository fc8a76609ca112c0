"""Finds what of a model can be in 8 bits: all of it, or what is left without the blocks that harm most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge_mer.bundle.manifest import BlockFinding, OutputError, StageQuantization
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions, available_threads
from edge_mer_calibration.fidelity import Fidelity, drop
from edge_mer_calibration.methods import Stage
from edge_mer_calibration.quantize import Scheme
from edge_mer_calibration.ranges import Method

Say = Callable[[str], None]
Block = tuple[str, str]
"""Stage, and module path in it."""


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        stages: Stage -> its form in 8 bits, what stays in float still in FP32.
        how: Stage -> how it was made.
        errors: Output -> how far it is from FP32's.
        is_good: The worst output is within the budget.
    """

    stages: dict[str, bytes]
    how: dict[str, StageQuantization]
    errors: dict[str, OutputError]
    is_good: bool

    @property
    def drop(self) -> float:
        """Concordance with FP32 that the worst output has lost."""
        return drop(self.errors)


class Search:
    """Candidates of one kind of numbers.

    Args:
        stages: As they are in FP32, with their ranges.
        scheme: How numbers become 8 bits.
        fidelity: What candidates are held against.
        max_drop: Concordance that the worst output may lose.
        say: Told what is being done.
    """

    def __init__(
        self, stages: Sequence[Stage], scheme: Scheme, fidelity: Fidelity, max_drop: float, say: Say
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._scheme, self._fidelity, self._max_drop, self._say = scheme, fidelity, max_drop, say

    def whole(self) -> Found:
        """Everything in 8 bits, each stage by the method that errs least."""
        made = {}
        for name, stage in self._stages.items():
            self._say(f"quantizing {name}")
            made[name] = stage.quantized(self._scheme)
        return self._judged(
            {name: data for name, (data, _) in made.items()}, {n: how for n, (_, how) in made.items()}
        )

    def mixed(self, whole: Found) -> Found:
        """As much in 8 bits as the budget allows: blocks stay in float, the most harmful first.

        Args:
            whole: Everything in 8 bits.
        """
        harm = self._harm(whole)
        how = {
            stage: one.model_copy(update={"blocks": {b: f for (s, b), f in harm.items() if s == stage}})
            for stage, one in whole.how.items()
        }
        left: list[Block] = []
        best = dataclasses.replace(whole, how=how)
        for block in sorted(harm, key=lambda one: -harm[one].drop):
            left.append(block)
            self._say(f"leaving {block[0]} {block[1]} in float: {len(left)} of {len(harm)} blocks")
            best = self._without(left, how, best)
            if best.is_good:
                break
        return best

    def _harm(self, whole: Found) -> dict[Block, BlockFinding]:
        """What each block costs when it alone is in 8 bits."""
        found: dict[Block, BlockFinding] = {}
        for name, stage in self._stages.items():
            groups = stage.blocks
            for number, (block, nodes) in enumerate(groups.items(), 1):
                self._say(f"quantizing a block of {name} alone, {number} of {len(groups)}")
                data = stage.by(_method(whole.how[name]), self._scheme, nodes)
                cost = drop(self._fidelity.of({name: self._engine(stage, data)}))
                found[name, block] = BlockFinding(n_nodes=len(nodes), drop=cost, is_float=False)
        return found

    def _without(self, left: Sequence[Block], how: Mapping[str, StageQuantization], before: Found) -> Found:
        """The same with some blocks in float; only the stage of the last one is made anew."""
        name = left[-1][0]
        stage, own = self._stages[name], {block for stage_name, block in left if stage_name == name}
        kept = [node for block, nodes in stage.blocks.items() if block not in own for node in nodes]
        findings = {
            block: finding.model_copy(update={"is_float": block in own})
            for block, finding in how[name].blocks.items()
        }
        made = {**before.stages, name: stage.by(_method(how[name]), self._scheme, kept)}
        return self._judged(made, {**before.how, name: how[name].model_copy(update={"blocks": findings})})

    def _judged(self, stages: dict[str, bytes], how: dict[str, StageQuantization]) -> Found:
        engines = {name: self._engine(self._stages[name], data) for name, data in stages.items()}
        errors = self._fidelity.of(engines)
        return Found(stages, how, errors, drop(errors) <= self._max_drop)

    def _engine(self, stage: Stage, data: bytes) -> Engine:
        # Fused kernels of processors saturate on signed 8-bit products, and erred 13 times as much as the
        # graph itself: what will not run here in earnest is judged as it is written.
        options = OrtOptions(threads=available_threads(), fuse_qdq=not self._scheme.half)
        return OrtEngine(stage.name, data, stage.inputs, stage.outputs, stage.sizes, options)


def _method(how: StageQuantization) -> Method:
    method: Method = how.method  # type: ignore[assignment]
    return method
