"""Do the session's streams fit what the model declares?"""

from __future__ import annotations

from collections.abc import Iterable

from edge_mer.errors import SpecMismatchError, UsageError
from edge_mer.types.model import Encoder, FaceClip, LogMel, ModelSpec
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
    unit, dtype = ("rgb24", "uint8") if isinstance(encoder.preprocess, FaceClip) else ("1", "float32")
    if (stream.unit, stream.dtype) != (unit, dtype):
        raise SpecMismatchError(
            f"stream {stream.name} does not fit encoder {encoder.stage}",
            expected=f"{dtype} in unit {unit!r}",
            found=f"{stream.dtype} in unit {stream.unit!r}",
        )
    if isinstance(encoder.preprocess, LogMel):
        rate_hz, to_hz = stream.rate_hz, encoder.preprocess.rate_hz
        if rate_hz is None or rate_hz != round(rate_hz) or not 1_000 <= rate_hz <= 384_000:
            raise SpecMismatchError(
                f"stream {stream.name} does not fit encoder {encoder.stage}",
                expected=f"a whole rate from 1000 to 384000 Hz, to be resampled to {to_hz} Hz",
                found="an irregular stream" if rate_hz is None else f"{rate_hz} Hz",
            )
