"""Finds what of a model can be in few bits: all of it, or what is left without the blocks that harm most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge_mer.bundle.manifest import BlockFinding, Budget, StageQuantization
from edge_mer.engine.base import Engine
from edge_mer.engine.onnxruntime import OrtEngine, OrtOptions
from edge_mer.engine.threads import available_threads
from edge_mer_calibration.fidelity import Cost, Fidelity
from edge_mer_calibration.forms import Form
from edge_mer_calibration.methods import Stage
from edge_mer_calibration.sharing import Alone, Shared, cost_alone

Say = Callable[[str], None]
Block = tuple[str, str]
"""Stage, and module path in it."""
Engines = Mapping[str, Engine]
HARMLESS = 0.1
"""Part of the budget: in a stage that alone costs no more, no block is worth a look."""


@dataclass(frozen=True)
class Judge:
    """What candidates are held against.

    Attributes:
        fidelity: The check sessions.
        ranking: Those of them on which blocks are judged alone: fewer, since only their order counts.
        budget: What a candidate may cost.
        time_ms: What a prediction takes here with these engines; None where this processor does not run the
            candidate in earnest.
    """

    fidelity: Fidelity
    ranking: Fidelity
    budget: Budget
    time_ms: Callable[[Engines], float] | None = None

    def over(self, cost: Cost, ms: float | None = None) -> tuple[str, ...]:
        """Which limits a cost is over, in words."""
        budget = self.budget
        found = []
        if cost.drop > budget.ccc:
            found.append(f"loses {cost.drop:.4f} of concordance with fp32, {budget.ccc:g} is allowed")
        if budget.points is not None and cost.points is None:
            found.append("loses nobody knows how many points: there are no labels")
        elif budget.points is not None and cost.points is not None and cost.points > budget.points:
            found.append(f"loses {cost.points:.2f} points against labels, {budget.points:g} are allowed")
        if budget.latency_ms is not None and ms is not None and ms > budget.latency_ms:
            found.append(f"takes {ms:.1f} ms here, {budget.latency_ms:g} are allowed")
        return tuple(found)

    def is_harmless(self, cost: Cost) -> bool:
        """It is hardly a part of what the budget allows."""
        budget = self.budget
        if budget.points is not None and (cost.points or 0.0) > HARMLESS * budget.points:
            return False
        return cost.drop <= HARMLESS * budget.ccc


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        stages: Stage -> its form in few bits, as it was searched.
        how: Stage -> how it was made.
        cost: What it costs.
        ms: What a prediction takes here; None where this processor does not run it in earnest.
        over: Which limits it is over.
        shipped: Stage -> its form for the bundle; empty as long as it is searched.
    """

    stages: dict[str, bytes]
    how: dict[str, StageQuantization]
    cost: Cost
    ms: float | None = None
    over: tuple[str, ...] = ()
    shipped: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """It is within the budget, and not all in float."""
        return not self.over and self.has_few_bits

    @property
    def has_few_bits(self) -> bool:
        """Some block of some stage is in few bits, or all of a stage."""
        if not any(one.blocks for one in self.how.values()):
            return True
        return any(
            any(not block.is_float for block in one.blocks.values()) if one.blocks else one.alone is not None
            for one in self.how.values()
        )

    @property
    def in_the_way(self) -> dict[Block, BlockFinding]:
        """Blocks in float, the most harmful first."""
        left = {(s, b): one for s, how in self.how.items() for b, one in how.blocks.items() if one.is_float}
        return dict(sorted(left.items(), key=lambda item: -item[1].drop))


class Search:
    """Candidates of one kind of numbers.

    Args:
        stages: As they are in FP32, with their ranges.
        form: How a stage comes into few bits.
        judge: What candidates are held against.
        say: Told what is being done.
        shared: Who judges blocks, many at once; None: they are judged here.
    """

    def __init__(
        self, stages: Sequence[Stage], form: Form, judge: Judge, say: Say, shared: Shared | None = None
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._form, self._judge, self._say, self._shared = form, judge, say, shared
        self._last: dict[str, tuple[bytes, Engine]] = {}

    def run(self) -> dict[str, Found]:
        """Name -> candidate: all in few bits; where that costs too much, prepared for it; and then mixed.

        The last one is what all of it came to, within the budget or not.
        """
        name, found = self._best()
        return {name: self._finished(found)}

    def _best(self) -> tuple[str, Found]:
        kind = self._form.kind
        whole = self.whole()
        if whole.is_good or self._is_only_slow(whole):
            return kind, whole
        prepared = self.prepared(whole)
        if prepared is not None and prepared.is_good:
            return f"{kind}+prepared", prepared
        start = min((one for one in (whole, prepared) if one is not None), key=lambda one: one.cost.drop)
        return f"{kind}+mixed", self.mixed(start)

    def _finished(self, found: Found) -> Found:
        """As it goes into the bundle, and judged as such where that computes something else."""
        shipped = {name: self._form.shipped(self._stages[name], data) for name, data in found.stages.items()}
        if not found.is_good or self._form.is_for_cpu:
            return dataclasses.replace(found, shipped=shipped)
        self._say("judging what ships")
        judged = {name: self._form.judged(data) for name, data in shipped.items()}
        engines = {name: self._written(self._stages[name], data) for name, data in judged.items()}
        cost = self._judge.fidelity.of(engines)
        return dataclasses.replace(found, shipped=shipped, cost=cost, over=self._judge.over(cost, found.ms))

    def _written(self, stage: Stage, data: bytes) -> Engine:
        options = OrtOptions(threads=available_threads(), fuse_qdq=False)
        return OrtEngine(stage.name, data, stage.inputs, stage.outputs, stage.sizes, options)

    def whole(self) -> Found:
        """Everything in few bits, each stage by the method that errs least."""
        made = {}
        for name, stage in self._stages.items():
            self._say(f"quantizing {name}")
            made[name] = self._form.whole(stage)
        return self._found(
            {n: data for n, (data, _) in made.items()}, {n: how for n, (_, how) in made.items()}
        )

    def prepared(self, whole: Found) -> Found | None:
        """The same after each stage was prepared in the way that errs least; None where no way is better."""
        made, how = dict(whole.stages), dict(whole.how)
        for name, stage in self._stages.items():
            self._say(f"preparing {name}")
            made[name], how[name] = self._form.prepared(stage, whole.how[name])
        if all(how[name].method == whole.how[name].method for name in how):
            return None
        return self._found(made, how)

    def mixed(self, start: Found) -> Found:
        """As much in few bits as the budget allows.

        A stage that alone costs next to nothing stays in few bits. Of the others, blocks that cost more than
        the budget when they are alone in few bits stay in float, and of the rest as many, the most harmful
        first, as it takes until what is left is good enough: their number is found by halving. Then those
        that harm least come back, one after the other, where the budget allows it.

        Args:
            start: Everything in few bits.
        """
        start, searched = self._stage_by_stage(start)
        harm = self._harm(start, searched)
        how = {
            stage: one.model_copy(update={"blocks": {b: f for (s, b), f in harm.items() if s == stage}})
            for stage, one in start.how.items()
        }
        best = dataclasses.replace(start, how=how)
        order = sorted(harm, key=lambda one: -harm[one].drop)
        if not order:
            return best
        found = best

        def is_enough(n: int) -> bool:
            nonlocal found
            self._say(f"leaving the {n} most harmful of {len(order)} blocks in float")
            tried = self._without(order[:n], best)
            enough = not tried.over or self._is_only_slow(tried)
            if enough or n == len(order):
                found = tried
            return enough

        n_hopeless = sum(one.drop > self._judge.budget.ccc for one in harm.values())
        n = _fewest(is_enough, max(1, n_hopeless), len(order))
        return self._with_what_fits(order[:n], harm, found) if found.is_good else found

    def _with_what_fits(
        self, left: Sequence[Block], harm: Mapping[Block, BlockFinding], best: Found
    ) -> Found:
        """Blocks come back into few bits, the least harmful first; the last one that left is needed."""
        still = list(left)
        for block in list(reversed(left))[1:]:
            if harm[block].drop > self._judge.budget.ccc:
                continue
            self._say(f"trying {block[0]} {block[1]} in few bits again")
            fewer = [one for one in still if one != block]
            tried = self._without(fewer, best)
            if tried.is_good:
                still, best = fewer, tried
        return best

    def _is_only_slow(self, found: Found) -> bool:
        """It keeps its numbers, and more of it in float would not make it faster."""
        return bool(found.over) and not self._judge.over(found.cost)

    def _stage_by_stage(self, start: Found) -> tuple[Found, list[str]]:
        """The same with what each stage costs alone, and those in which a block may be worth a look."""
        how, searched = dict(start.how), []
        for name, stage in self._stages.items():
            if self._form.groups(stage):
                self._say(f"judging {name} alone in few bits")
                cost = self._judge.fidelity.of({name: self._engine(name, start.stages[name])})
                how[name] = how[name].model_copy(update={"alone": cost.drop})
                if not self._judge.is_harmless(cost):
                    searched.append(name)
        return dataclasses.replace(start, how=how), searched or list(how)

    def _harm(self, start: Found, searched: Sequence[str]) -> dict[Block, BlockFinding]:
        """What each block of these stages costs when it alone is in few bits."""
        blocks = {
            (name, block): nodes
            for name in searched
            for block, nodes in self._form.groups(self._stages[name]).items()
        }
        if self._shared is not None:
            self._judge_at_once(self._shared, start, blocks)
        found: dict[Block, BlockFinding] = {}
        of = {name: [block for stage, block in blocks if stage == name] for name in searched}
        for (name, block), nodes in blocks.items():
            number = of[name].index(block) + 1
            self._say(f"quantizing a block of {name} alone, {number} of {len(of[name])}")
            found[name, block] = self._alone(self._stages[name], start.how[name], block, nodes)
        return found

    def _judge_at_once(self, shared: Shared, start: Found, blocks: Mapping[Block, Sequence[str]]) -> None:
        """Have those judged that nobody knows."""
        keys = {(name, block): self._key(start.how[name], block) for name, block in blocks}
        todo = [one for one in blocks if not self._stages[one[0]].knows(keys[one])]
        jobs = [Alone(name, start.how[name], tuple(blocks[name, block])) for name, block in todo]
        found = shared.costs(self._form.kind, self._stages, jobs)
        for n_done, (number, numbers) in enumerate(found, 1):
            self._say(f"quantizing blocks alone, {n_done} of {len(jobs)}")
            self._stages[todo[number][0]].note(keys[todo[number]], numbers)

    def _key(self, how: StageQuantization, block: str) -> str:
        return f"alone.{self._form.kind}.{how.method}.{block}"

    def _alone(self, stage: Stage, how: StageQuantization, block: str, nodes: Sequence[str]) -> BlockFinding:
        numbers = stage.once(
            self._key(how, block), lambda: cost_alone(self._form, self._judge.ranking, stage, how, nodes)
        )
        return BlockFinding(n_nodes=len(nodes), is_float=False, **numbers)

    def _without(self, left: Sequence[Block], before: Found) -> Found:
        """The same with just these blocks in float; only stages that change are made anew."""
        made, how = dict(before.stages), dict(before.how)
        for name, stage in self._stages.items():
            own = {block for of, block in left if of == name}
            blocks = how[name].blocks or {}
            if own == {block for block, one in blocks.items() if one.is_float}:
                continue
            kept = [n for block, nodes in self._form.groups(stage).items() if block not in own for n in nodes]
            made[name] = self._form.part(stage, how[name], kept)
            findings = {b: one.model_copy(update={"is_float": b in own}) for b, one in blocks.items()}
            how[name] = how[name].model_copy(update={"blocks": findings})
        return self._found(made, how)

    def _found(self, stages: dict[str, bytes], how: dict[str, StageQuantization]) -> Found:
        engines = {name: self._engine(name, data) for name, data in stages.items()}
        cost = self._judge.fidelity.of(engines)
        ms = None if self._judge.time_ms is None else self._judge.time_ms(engines)
        return Found(stages, how, cost, ms, self._judge.over(cost, ms))

    def _engine(self, stage: str, data: bytes) -> Engine:
        """The last one of a stage again where it did not change: what it made of the sessions is known."""
        last = self._last.get(stage)
        if last is None or last[0] != data:
            last = self._last[stage] = (data, self._form.engine(self._stages[stage], data))
        return last[1]


def _fewest(is_enough: Callable[[int], bool], low: int, high: int) -> int:
    """The smallest number from `low` to `high` that is enough, if more is never worse; else `high`.

    Steps double from `low` on, since it is mostly near, and then halve.
    """
    step, n = 1, low
    while not is_enough(n):
        if n == high:
            return high
        low, n, step = n + 1, min(high, n + step), 2 * step
    while low < n:
        middle = (low + n) // 2
        low, n = (low, middle) if is_enough(middle) else (middle + 1, n)
    return n
