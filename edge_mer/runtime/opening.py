"""From what a user names to what a session runs on: shared by `edge-mer run` and the Python API."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, get_args

from edge_mer.bundle.manifest import RUN_OF, candidate_of
from edge_mer.bundle.read import Bundle, open_bundle
from edge_mer.clock import Clock
from edge_mer.engine.registry import open_server
from edge_mer.engine.sharing import batch_sizes
from edge_mer.errors import MissingError, UsageError
from edge_mer.preprocess.face_detectors import open_face_detector
from edge_mer.runtime.build import fitting_build, open_built
from edge_mer.runtime.memory import keep_freed_memory
from edge_mer.runtime.pipeline_setup import PipelineSetup, check_people
from edge_mer.runtime.remote import open_remote
from edge_mer.runtime.setup import check_policies, looks_at_faces, open_setup, usual_options
from edge_mer.runtime.shared_model import SharedModel
from edge_mer.runtime.target import Choice, Target
from edge_mer.runtime.targets import TARGETS
from edge_mer.runtime.window import NS_PER_MS
from edge_mer.sinks.base import Sink, introduce
from edge_mer.sinks.registry import open_sink
from edge_mer.sources.base import Source
from edge_mer.sources.registry import open_source
from edge_mer.types.facts import ModelFacts
from edge_mer.types.model import EmotionOutput, MissingPolicy, PainOutput
from edge_mer.types.signals import Modality

Policies = Mapping[str, str] | Mapping[Modality, MissingPolicy]
"""Modality -> policy, in words that a user may have written."""


@dataclass(frozen=True)
class Opened:
    """Everything that a session runs on.

    Attributes:
        bundle: What runs.
        setup: Its model and engines.
        sources: Not yet opened.
        sinks: Not yet opened.
        choice: Precision and engine options.
        was_built: `build-engine` made the choice here, or the user did; False: fp32 for want of one.
    """

    bundle: Bundle
    setup: PipelineSetup
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...]
    choice: Choice
    was_built: bool = True


def open_all(
    bundle: Bundle | Path | SharedModel,
    sources: Sequence[str | Source],
    sinks: Sequence[str | Sink] = (),
    *,
    precision: str | None = None,
    missing: Policies | None = None,
    face_detector: Path | None = None,
    hop: int | None = None,
    people: int | None = None,
    engine: str | None = None,
) -> Opened:
    """Find sources and sinks, choose an engine and open it; nothing is read or written yet.

    Args:
        bundle: The bundle, its folder, or a model that is open for many sessions.
        sources: URIs or sources.
        sinks: URIs or sinks.
        precision: The candidate to run instead of the one that `build-engine` chose here.
        missing: Modality -> policy, replacing the declared ones.
        face_detector: YuNet's ONNX file; without it OpenCV's cascades find faces.
        hop: Steps between two predictions instead of the declared ones.
        people: How many are followed at once at most; None: one, without a name.
        engine: URI of a server that runs the stages; None: this device does.

    Raises:
        UsageError: An unknown source, sink, precision, policy, hop or engine, a sink that would overwrite, or
            people whom the model cannot tell apart.
        BundleError: The bundle is broken or altered.
        MissingError: An engine or a file that is needed is not there, nor is a server that nothing stands in
            for.
        ParityError: A server's numbers are not the bundle's.
    """
    _refuse_text(sources, "sources", "file:clip.mp4")
    _refuse_text(sinks, "sinks", "jsonl:out.jsonl")
    found_sources = tuple(_source(one) for one in sources)
    found_sinks = tuple(_sink(one) for one in sinks)
    if not found_sources:
        raise UsageError("a session needs a source", expected="one or more, e.g. file:clip.mp4")
    policies = checked_policies(missing or {})
    named = bundle.bundle if isinstance(bundle, SharedModel) else bundle
    refuse_to_overwrite(found_sinks, found_sources, named.path if isinstance(named, Bundle) else named)
    opened = named if isinstance(named, Bundle) else open_bundle(named)
    model = opened.manifest.model
    check_policies(model, policies)
    check_people(model, people)
    detector = open_face_detector(face_detector) if looks_at_faces(model) else None
    setup, choice, was_built = (
        _lent(bundle, precision, engine)
        if isinstance(bundle, SharedModel)
        else open_on(opened, precision, engine)
    )
    try:
        setup = replace(setup, detector=detector, missing=policies, hop=hop, people=people)
        for sink in found_sinks:
            introduce(sink, facts_of(setup))
    except BaseException:
        setup.close()
        raise
    return Opened(opened, setup, found_sources, found_sinks, choice, was_built)


def _lent(
    model: SharedModel, precision: str | None, engine: str | None
) -> tuple[PipelineSetup, Choice, bool]:
    if engine is not None:
        raise UsageError(
            "this model is open already, on an engine of its own",
            hint="name the engine when the model is opened",
        )
    if precision not in (None, model.precision):
        raise UsageError(
            f"this model is open in {model.precision}, not in {precision}",
            hint="name the precision when the model is opened",
        )
    return model.lend()


def facts_of(setup: PipelineSetup) -> ModelFacts:
    """What sinks may know of the model."""
    model = setup.model
    labels: dict[str, tuple[str, ...]] = {}
    for output in model.outputs:
        if isinstance(output, PainOutput):
            labels[output.name] = output.levels
        elif isinstance(output, EmotionOutput):
            labels[output.name] = output.labels
    return ModelFacts(
        name=model.name,
        bundle_id=setup.bundle_id,
        precision=setup.precision,
        engine=setup.engine_name,
        outputs=tuple(output.name for output in model.outputs),
        interval_s=float(model.step * setup.hop_steps),
        labels=labels,
    )


def open_chosen(bundle: Bundle, precision: str | None) -> tuple[PipelineSetup, Choice, bool]:
    """Open a bundle here: as asked for, else as `build-engine` chose, else in fp32 on the processor.

    An engine of TensorRT goes before one of the processor.

    Returns:
        The engines, how they run, and False when it is fp32 because `build-engine` was never run here.

    Raises:
        UsageError: The bundle has no such precision.
        MissingError: What was built does not fit this device any more.
        BundleError: What was built was altered.
    """
    return _open_build(bundle, precision, _build_of(bundle, precision))


def open_on(bundle: Bundle, precision: str | None, engine: str | None) -> tuple[PipelineSetup, Choice, bool]:
    """Open a bundle on a server, or here.

    Args:
        bundle: What runs.
        precision: As of `open_chosen`; of a server, its URI says that.
        engine: URI of a server; None: this device runs the stages.

    Raises:
        UsageError: The bundle has no such precision, or it is said twice, or the URI cannot be used.
        MissingError: A server is away that nothing stands in for, or has not what is needed; as of
            `open_chosen`.
        ParityError: A server's numbers are not the bundle's.
        BundleError: What was built was altered.
    """
    if engine is None:
        return open_chosen(bundle, precision)
    server = open_server(engine)
    if precision is not None:
        raise UsageError(
            f"{server.shown}: its URI says what it runs, and what stands in for it",
            found=f"precision {precision} beside it",
            hint=f"write precision={precision} or fallback={precision} into the URI",
        )
    check_precision(bundle, server.precision)
    own: PipelineSetup | None = None
    if server.fallback != "none":
        own, _, _ = open_chosen(bundle, None if server.fallback == "local" else server.fallback)
    try:
        return open_remote(bundle, server, own), Choice(server.precision), True
    except BaseException:
        if own is not None:
            own.close()
        raise


Build = tuple[Target, dict[str, Any]]
"""What was built for, and the record of it."""


def _open_build(
    bundle: Bundle, precision: str | None, built: Build | None
) -> tuple[PipelineSetup, Choice, bool]:
    keep_freed_memory()
    if built is not None:
        target, record = built
        return open_built(bundle, target, record), target.choice_of(record), True
    precision_here = precision or "fp32"
    choice = Choice.alike(bundle.manifest.model, precision_here, usual_options(precision_here))
    return open_setup(bundle, precision_here, None), choice, precision is not None


def _build_of(bundle: Bundle, precision: str | None) -> Build | None:
    """What `build-engine` made here, of this precision where one is named; None if it did not."""
    check_precision(bundle, precision)
    for target in TARGETS.values():
        try:
            record = fitting_build(bundle, target)
        except MissingError:
            if precision is None:
                raise
            continue
        if record is not None and precision in (None, record["precision"]):
            return target, record
    return None


def open_shared(
    bundle: Bundle | Path,
    precision: str | None,
    max_batch: int | None,
    max_wait_ms: float,
    clock: Clock,
    engine: str | None = None,
) -> SharedModel:
    """Open a bundle's engines for many sessions.

    Args:
        bundle: The bundle, or its folder.
        precision: The candidate to run instead of the one that `build-engine` chose here.
        max_batch: Of the largest batch of every stage that takes batches; None: what was measured to pay.
        max_wait_ms: So long a session's tensors wait for others' at most while an engine is free.
        clock: Where the time comes from.
        engine: URI of a server that runs the stages, which makes batches itself; None: this device does.

    Raises:
        UsageError: Such batches were not proven here, or the wait is no time.
        BundleError: The bundle is broken or altered.
        MissingError: An engine that is needed is not there, nor a server that nothing stands in for.
        ParityError: A server's numbers are not the bundle's.
    """
    if not 0 <= max_wait_ms < float("inf"):
        raise UsageError("max_wait_ms is no time to wait", expected="0 or more", found=str(max_wait_ms))
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if engine is not None:
        if max_batch not in (None, 1):
            raise UsageError(
                "a server makes batches itself", found=f"max_batch={max_batch}", hint="leave out max_batch"
            )
        setup, choice, was_built = open_on(opened, precision, engine)
        return SharedModel(opened, setup, choice, was_built, {}, 0, clock)
    built = _build_of(opened, precision)
    most = _proven_batches({} if built is None else built[1], max_batch)
    setup, choice, was_built = _open_build(opened, precision, built)
    return SharedModel(opened, setup, choice, was_built, most, round(max_wait_ms * NS_PER_MS), clock)


def _proven_batches(record: Mapping[str, Any], max_batch: int | None) -> dict[str, int]:
    """Stage -> its largest batch, of those that `build-engine` proved."""
    batches = record.get("batches", {})
    if max_batch is None:
        return {stage: int(told["best"]) for stage, told in batches.items()}
    proven = int(record.get("settings", {}).get("max_batch", 1))
    if not 1 <= max_batch <= proven:
        raise UsageError(
            f"batches of up to {max_batch} were not proven here",
            expected=f"1 to {proven}" if proven > 1 else "1",
            hint=f"run edge-mer build-engine --max-batch {max(2, max_batch)}",
        )
    return dict.fromkeys(batches, batch_sizes(max_batch)[-1])


def check_precision(bundle: Bundle, precision: str | None) -> None:
    """Whether a bundle has a candidate; None is what it has always.

    Raises:
        UsageError: It has not.
    """
    if precision is not None and candidate_of(precision) not in bundle.manifest.candidates:
        known = ", ".join((*bundle.manifest.candidates, *RUN_OF))
        raise UsageError(f"bundle {bundle.path} has no precision {precision!r}", expected=f"one of {known}")


def checked_policies(missing: Policies) -> dict[Modality, MissingPolicy]:
    """The same, once each word of it is known.

    Raises:
        UsageError: No such modality or policy.
    """
    modalities = {name: name for name in get_args(Modality)}
    policies = {name: name for name in get_args(MissingPolicy)}
    checked: dict[Modality, MissingPolicy] = {}
    for modality, policy in missing.items():
        if modality not in modalities or policy not in policies:
            raise UsageError(
                f"missing {modality!r}: {policy!r} is not a policy",
                expected=f"one of {', '.join(policies)} for a modality such as audio",
            )
        checked[modalities[modality]] = policies[policy]
    return checked


class Written(Protocol):
    """What may write a file."""

    @property
    def target(self) -> Path | None:
        """The file; None: it writes none."""


def refuse_to_overwrite(
    sinks: Sequence[Written], sources: Sequence[Source], bundle: Path | None = None
) -> None:
    """No sink may take the place of another one, of a recording that is played, or of the bundle.

    Raises:
        UsageError: One would.
    """
    taken = {path for source in sources if (path := _path_read(source)) is not None}
    for sink in sinks:
        target = None if sink.target is None else sink.target.resolve()
        if target is None:
            continue
        if target in taken or (bundle is not None and target.is_relative_to(bundle.resolve())):
            raise UsageError(
                f"cannot write {target}",
                found="it is a source, another sink or in the bundle",
                hint="name another file",
            )
        taken.add(target)


def _path_read(source: Source) -> Path | None:
    """The file that a source reads, without links; None where there is none, or none that can be."""
    path = getattr(source, "path", None)
    if not isinstance(path, (str, PathLike)):
        return None
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):  # a null character, a ring of links: opening it says so
        return None


def _refuse_text(given: Sequence[object], name: str, example: str) -> None:
    if isinstance(given, str):
        raise UsageError(
            f"{name} is one text", expected=f'a list, e.g. {name}=["{example}"]', found=repr(given)
        )


def _source(one: str | Source) -> Source:
    if isinstance(one, str):
        return open_source(one)
    verbs = ("ensure_ready", "start", "read", "ensure_stopped")
    _refuse_unless_it_has(one, "source", ("uri", "is_live", "specs", "ended", *verbs))
    return one


def _sink(one: str | Sink) -> Sink:
    if isinstance(one, str):
        return open_sink(one)
    _refuse_unless_it_has(one, "sink", ("target", "open", "write", "close", "abandon"))
    return one


def _refuse_unless_it_has(one: object, kind: str, names: Sequence[str]) -> None:
    nothing = object()  # asked for statically: a property may not be ready to answer yet
    if absent := [name for name in names if inspect.getattr_static(one, name, nothing) is nothing]:
        raise UsageError(
            f"{one!r} is no {kind}",
            expected=f"a URI, or an object with {', '.join(names)}",
            found=f"it has no {', '.join(absent)}",
        )
