"""Writes what an evaluation found into a new bundle, where the device reads how sure it may be."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import edge_mer
from edge_mer.bundle.manifest import FileEntry, Manifest
from edge_mer.bundle.read import Bundle
from edge_mer.bundle.write import write_bundle
from edge_mer.types.evaluation import Findings, Measured, SubsetFindings
from edge_mer.types.model import MissingPolicy, ModelSpec
from edge_mer.types.signals import Modality
from edge_mer_calibration.corruption import Corruption
from edge_mer_calibration.evaluation import Evaluation
from edge_mer_calibration.judging import Row
from edge_mer_calibration.metrics import leading

MAX_SKEW_LOSS = 0.02
"""Of an output's first measure: what streams that lie apart may cost."""

Policies = dict[Modality, MissingPolicy | None]


def write_findings(bundle: Bundle, found: Evaluation, people: str, out: Path, *, replace: bool) -> Manifest:
    """Write a new bundle with the findings of each judged candidate, and policies that were good enough.

    Where skewed streams were played, it also says how far they may lie apart.

    Args:
        bundle: What was judged.
        found: What it came to.
        people: Who it was judged on, in words.
        out: The new bundle's folder.
        replace: Whether a bundle of that name may be replaced.

    Raises:
        UsageError: The place is taken.
    """
    manifest = bundle.manifest
    judged = dict.fromkeys(row.precision for row in found.rows)
    candidates = {
        name: one.model_copy(update={"findings": findings(found, name, people)}) if name in judged else one
        for name, one in manifest.candidates.items()
    }
    policies = default_policies(manifest.model, found)
    encoders = tuple(
        encoder.model_copy(update={"missing": policies[encoder.modality]})
        for encoder in manifest.model.encoders
    )
    grounded = max_skew_ms(found)
    model = manifest.model.model_copy(
        update={
            "encoders": encoders,
            "max_skew_ms": manifest.model.max_skew_ms if grounded is None else grounded,
        }
    )
    made_by = (*manifest.lineage.made_by, f"edge-mer evaluate {edge_mer.__version__}")
    lineage = manifest.lineage.model_copy(update={"made_by": made_by, "parent": manifest.bundle_id})

    def made(table: dict[str, FileEntry]) -> Manifest:
        update = {"model": model, "candidates": candidates, "lineage": lineage, "files": table}
        return manifest.model_copy(update=update)

    files = {name: bundle.read(name) for name in manifest.files}
    return write_bundle(out, files, made, replace=replace)


def default_policies(model: ModelSpec, found: Evaluation) -> Policies:
    """What may stand in for each modality: that with which no output of any precision fell to a guess.

    An output stands above a guess if the lower end of its first measure does. None means that nothing may.
    """
    policies: Policies = {}
    for modality in model.modalities:
        rest = tuple(one for one in model.modalities if one != modality)
        rows = [row for row in found.rows if row.modalities == rest]
        is_good = bool(rows) and all(_is_above_guesses(row, found) for row in rows)
        policies[modality] = rows[0].stand_in if is_good else None
    return policies


def max_skew_ms(found: Evaluation) -> float | None:
    """How far streams may lie apart before an estimate loses more than `MAX_SKEW_LOSS`; None if not measured.

    Of the skews that were played, the largest up to which no output of any precision lost more. Where even
    the smallest one costs more, the loss is taken to grow in proportion to it.
    """
    loss: dict[float, float] = defaultdict(float)
    for row in found.corrupted:
        one = Corruption.parse(row.corruption)
        if one.kind == "skew" and one.amount > 0:
            worst = max(-change.value for change in row.change.values())
            loss[one.amount] = max(loss[one.amount], worst)
    allowed: float | None = None
    for amount in sorted(loss):
        if loss[amount] > MAX_SKEW_LOSS:
            return amount * MAX_SKEW_LOSS / loss[amount] if allowed is None else allowed
        allowed = amount
    return allowed


def _is_above_guesses(row: Row, found: Evaluation) -> bool:
    for output, scores in row.scores.items():
        measure = leading(scores)
        guesses = [one[output][measure].value for one in found.baselines.values()]
        if scores[measure].low <= max(guesses):
            return False
    return True


def findings(found: Evaluation, precision: str, people: str) -> Findings:
    """What the bundle says of a precision."""
    own = [row for row in found.rows if row.precision == precision]
    subsets = tuple(
        SubsetFindings(
            modalities=row.modalities,
            stand_in=row.stand_in,
            scores={
                output: {measure: Measured(**vars(value)) for measure, value in scores.items()}
                for output, scores in row.scores.items()
            },
            interval=row.interval,
            sharpness=row.sharpness,
        )
        for row in own
    )
    return Findings(people=people, n_people=found.n_people, n_steps=own[0].n_steps, subsets=subsets)
