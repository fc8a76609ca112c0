"""Frame by frame: what was there, what the windows said of it, and the record that comes of both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import Clock
from edge_mer.postprocess.decode import decode
from edge_mer.postprocess.gate import Evidence, judge
from edge_mer.runtime.pipeline import NS_PER_MS, PipelineSetup
from edge_mer.types.model import ModelSpec
from edge_mer.types.predictions import Latency, ModalityStatus, Prediction, SyncQuality

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
Work = Literal["preprocess", "infer", "postprocess"]

NOBODY = -1
NEVER_NS = -1

_FIRST_ROWS = 1024


class FrameTable:
    """One row per frame, some hundred bytes each; grows as rows are asked for.

    Columns that are filled by frame: `t_ns`; of each modality `coverage`, `newest_ns` (`NEVER_NS` = none)
    and `missing`; `skew_ms`; `unaligned`; `person` (`NOBODY` = no face) and `switched` (more than one is
    seen). Those that windows fill (`see_window`): `t_start_ns`; of each modality `gap`; `near_unaligned`,
    `near_switched`; `cut`; of each output `total`, and `n_windows`.

    Args:
        model: Declares modalities and outputs.
    """

    def __init__(self, model: ModelSpec) -> None:
        n_modalities, n_outputs = len(model.encoders), len(model.outputs)
        self._dtype = np.dtype(
            [
                ("t_ns", "i8"),
                ("t_start_ns", "i8"),
                ("coverage", "f8", (n_modalities,)),
                ("newest_ns", "i8", (n_modalities,)),
                ("missing", "?", (n_modalities,)),
                ("gap", "?", (n_modalities,)),
                ("skew_ms", "f8"),
                ("unaligned", "?"),
                ("near_unaligned", "?"),
                ("person", "i4"),
                ("switched", "?"),
                ("near_switched", "?"),
                ("cut", "?"),
                ("total", "f8", (n_outputs,)),
                ("n_windows", "i4"),
            ]
        )
        self._rows = self._fresh(_FIRST_ROWS)

    def _fresh(self, n: int) -> NDArray[Any]:
        rows = np.zeros(n, self._dtype)
        rows["newest_ns"], rows["missing"], rows["person"] = NEVER_NS, True, NOBODY
        rows["t_start_ns"] = np.iinfo(np.int64).max
        return rows

    def row(self, index: int) -> Any:
        """The row of a frame, to be written to."""
        while index >= len(self._rows):
            self._rows = np.concatenate([self._rows, self._fresh(len(self._rows))])
        return self._rows[index]

    def rows(self, n: int) -> NDArray[Any]:
        """The first `n` rows."""
        if n:
            self.row(n - 1)
        return self._rows[:n]

    def see_window(self, frames: Indices, outputs: Floats, *, first: int, is_cut: bool) -> None:
        """Note for each frame of a window what else the window saw, and what it gave.

        Args:
            frames: (n,) rows of the window's frames.
            outputs: (n, output) raw.
            first: The first frame that the window looks at.
            is_cut: The window reaches over an edge of the recording.
        """
        rows = self.rows(int(frames.max()) + 1)
        seen = rows[frames]
        persons = set(seen["person"].tolist()) - {NOBODY}
        rows["gap"][frames] |= seen["missing"].any(axis=0)
        rows["near_unaligned"][frames] |= seen["unaligned"].any()
        rows["near_switched"][frames] |= seen["switched"].any() or len(persons) > 1
        rows["cut"][frames] |= is_cut
        rows["t_start_ns"][frames] = np.minimum(seen["t_start_ns"], rows["t_ns"][first])
        rows["total"][frames] += outputs
        rows["n_windows"][frames] += 1


@dataclass
class Costs:
    """What the work took, in nanoseconds.

    Attributes:
        clock: Measures it.
        preprocess: From chunks to tensors.
        infer: All stages.
        postprocess: From raw outputs to those that are recorded.
    """

    clock: Clock
    preprocess: int = 0
    infer: int = 0
    postprocess: int = 0

    @contextlib.contextmanager
    def of(self, work: Work) -> Iterator[None]:
        """Count what happens inside."""
        began_ns = self.clock.now_ns()
        yield
        setattr(self, work, getattr(self, work) + self.clock.now_ns() - began_ns)

    def mean(self, n: int) -> Latency:
        """Per record."""
        each = NS_PER_MS * max(1, n)
        return Latency(
            capture=None,
            wait=None,
            preprocess=self.preprocess / each,
            infer=self.infer / each,
            postprocess=self.postprocess / each,
            end_to_end=(self.preprocess + self.infer + self.postprocess) / each,
        )


def records(setup: PipelineSetup, rows: NDArray[Any], values: Floats, costs: Costs) -> Iterator[Prediction]:
    """One prediction per frame.

    Args:
        setup: Model and names.
        rows: (n,) of a `FrameTable`.
        values: (n, output), not finite where there is none.
        costs: Of all of it.
    """
    model, clock = setup.model, costs.clock
    utc, is_synchronised, latency = clock.utc(), clock.is_utc_synchronised(), costs.mean(len(rows))
    for index, (row, numbers) in enumerate(zip(rows, values, strict=True)):
        t_ns = int(row["t_ns"])
        named = zip(model.outputs, numbers, strict=True)
        raw: dict[str, Floats] = {output.name: np.asarray(number) for output, number in named}
        withheld = _why_withheld(model, row)
        estimates = None if withheld else decode(model.outputs, raw)
        is_finite = bool(withheld) or estimates is not None
        status, reasons = judge(Evidence(withheld, _why_degraded(model, row), is_finite))
        yield Prediction(
            window_index=index,
            t_start_ns=min(int(row["t_start_ns"]), t_ns),
            t_end_ns=t_ns,
            utc=(utc + timedelta(microseconds=t_ns // 1000)).isoformat(),
            utc_synchronised=is_synchronised,
            status=status,
            reasons=reasons,
            affect=None if estimates is None else estimates.affect,
            modalities=_modalities(model, row),
            sync=SyncQuality(skew_ms=float(row["skew_ms"]), uncertainty_ms=0.0),
            latency_ms=latency,
            engine=setup.engine_name,
            precision=setup.precision,
            bundle_id=setup.bundle_id,
        )


def _why_withheld(model: ModelSpec, row: Any) -> tuple[str, ...]:
    """Nothing at all was there: a number would be what the model makes of darkness and silence."""
    return tuple(f"{modality}_missing" for modality in model.modalities) if row["missing"].all() else ()


def _why_degraded(model: ModelSpec, row: Any) -> tuple[str, ...]:
    """The stream's reasons, of a window that looks in both directions."""
    reasons = ["warming_up"] if row["cut"] else []
    reasons += ["face_switched"] if row["near_switched"] else []
    for modality, is_missing, has_gap in zip(model.modalities, row["missing"], row["gap"], strict=True):
        reasons += [f"{modality}_missing"] if is_missing else [f"{modality}_gap"] if has_gap else []
    return (*reasons, "unaligned_face") if row["near_unaligned"] else tuple(reasons)


def _modalities(model: ModelSpec, row: Any) -> dict[str, ModalityStatus]:
    found: dict[str, ModalityStatus] = {}
    for index, modality in enumerate(model.modalities):
        newest_ns = int(row["newest_ns"][index])
        found[modality] = ModalityStatus(
            present=not row["missing"][index],
            coverage=round(float(row["coverage"][index]), 4),
            age_ms=None if newest_ns == NEVER_NS else (int(row["t_ns"]) - newest_ns) / NS_PER_MS,
        )
    return found
