"""Do the session's streams fit what the model declares?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge_mer.errors import SpecMismatchError, UsageError
from edge_mer.types.model import Clip, Encoder, LogMel, ModelSpec, Signal, VggishLogMel, Words
from edge_mer.types.signals import Modality, StreamSpec


def chosen_streams(model: ModelSpec, specs: Iterable[StreamSpec]) -> dict[Modality, StreamSpec]:
    """The stream for each modality that the model looks at; other streams are left alone.

    Raises:
        UsageError: Two streams of one modality, or none that the model looks at.
    """
    chosen: dict[Modality, StreamSpec] = {}
    for spec in specs:
        if spec.modality not in model.modalities:
            continue
        if spec.modality in chosen:
            raise UsageError(
                f"two streams carry {spec.modality}: {chosen[spec.modality].name} and {spec.name}",
                hint="give one source per modality",
            )
        chosen[spec.modality] = spec
    if not chosen:
        raise UsageError(
            f"no stream that model {model.name} looks at",
            expected=" or ".join(model.modalities),
            hint="add a --source",
        )
    return chosen


def check_fits(encoder: Encoder, stream: StreamSpec) -> None:
    """Refuse a stream that would have to be converted in a way the model does not declare."""
    spec = encoder.preprocess
    _check_unit(encoder, stream)
    if isinstance(spec, (LogMel, VggishLogMel)):
        rate_hz = stream.rate_hz
        if rate_hz is None or rate_hz != round(rate_hz) or not 1_000 <= rate_hz <= 384_000:
            expected = f"a whole rate from 1000 to 384000 Hz, to be resampled to {spec.rate_hz} Hz"
            raise _mismatch(encoder, stream, expected, _rate(stream))
    if isinstance(spec, Signal):
        _check_rate(encoder, spec, stream)
        if len(stream.channels) != 1:
            raise _mismatch(encoder, stream, "one channel", f"{len(stream.channels)} channels")


def rates_to_resample(model: ModelSpec, streams: Mapping[Modality, StreamSpec]) -> dict[Modality, float]:
    """The rates of the biosignals whose pieces are resampled step by step; others are taken as they are."""
    rates = {}
    for encoder in model.encoders:
        spec, stream = encoder.preprocess, streams.get(encoder.modality)
        rate_hz = None if stream is None else stream.rate_hz
        if isinstance(spec, Signal) and rate_hz is not None and rate_hz != spec.rate_hz:
            rates[encoder.modality] = rate_hz
    return rates


def _check_rate(encoder: Encoder, spec: Signal, stream: StreamSpec) -> None:
    slowest, fastest = spec.stream_hz or (spec.rate_hz, spec.rate_hz)
    if stream.rate_hz is not None and slowest <= stream.rate_hz <= fastest:
        return
    expected = f"{spec.rate_hz} Hz"
    if spec.stream_hz is not None:
        expected = f"{slowest:g} to {fastest:g} Hz, to be resampled to {expected}"
    hint = "set the sensor to such a rate, or take a model that declares other rates (Signal.stream_hz)"
    raise _mismatch(encoder, stream, expected, _rate(stream), hint)


def _check_unit(encoder: Encoder, stream: StreamSpec) -> None:
    spec = encoder.preprocess
    unit, dtype = "1", "float32"
    if isinstance(spec, Clip):
        unit, dtype = "rgb24", "uint8"
    elif isinstance(spec, Words):
        unit, dtype = "word", "str"
    elif isinstance(spec, Signal):
        unit = spec.unit
    if (stream.unit, stream.dtype) != (unit, dtype):
        found = f"{stream.dtype} in unit {stream.unit!r}"
        raise _mismatch(encoder, stream, f"{dtype} in unit {unit!r}", found)


def _rate(stream: StreamSpec) -> str:
    return "an irregular stream" if stream.rate_hz is None else f"{stream.rate_hz} Hz"


def _mismatch(
    encoder: Encoder, stream: StreamSpec, expected: str, found: str, hint: str | None = None
) -> SpecMismatchError:
    what = f"stream {stream.name} does not fit encoder {encoder.stage}"
    return SpecMismatchError(what, expected=expected, found=found, hint=hint)
