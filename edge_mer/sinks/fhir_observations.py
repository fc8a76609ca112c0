"""What a prediction is as HL7 FHIR R5 Observations, as plain JSON."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import edge_mer
from edge_mer.types.facts import ModelFacts
from edge_mer.types.predictions import Prediction

Json = dict[str, Any]

CODES = "urn:uuid:31ffc438-ff73-4749-994b-9d97e1571be6"
"""The code system of what edge-mer observes; no published one has what a model estimates."""

UCUM = "http://unitsofmeasure.org"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
URIS = "urn:ietf:rfc:3986"

STATUS = "preliminary"
"""Of every Observation: "final" would say that somebody stands for it."""

NOTE = "Estimated by software that is no medical device. Nobody has verified it."

_DISPLAYS = {
    "valence": "Estimated valence",
    "arousal": "Estimated arousal",
    "pain": "Estimated pain, expected level",
    "emotion": "Estimated emotion, likeliest class",
    "probability": "Probability",
    "confidence": "Calibrated probability that the class is right",
    "interval-low": "Lower end of the 90 % interval",
    "interval-high": "Upper end of the 90 % interval",
}
_ERRORS = {"output_not_finite", "overloaded", "inference_lost"}
_SOON = {"warming_up", "window_has_gaps", "clock_unknown"}
_ABSENT_DISPLAYS = {
    "error": "Error",
    "temp-unknown": "Temporarily Unknown",
    "not-performed": "Not Performed",
}


def observations_of(
    prediction: Prediction, model: ModelFacts, session: UUID, patient: str | None = None
) -> list[Json]:
    """One Observation per output of the model; without an estimate, each says why, and has no number.

    Args:
        prediction: Any.
        model: Says which outputs there are.
        session: Makes identifiers differ from those of other sessions; a prediction always gets the same.
        patient: A reference such as "Patient/123"; None: of nobody known.
    """
    made = []
    for output in model.outputs:
        found: Json = {
            "resourceType": "Observation",
            "contained": [_device(prediction, model)],
            "identifier": [{"system": URIS, "value": _identifier(prediction, session, output)}],
            "status": STATUS,
            "code": _code(output),
            "effectivePeriod": _period(prediction),
            "method": {"text": f"{model.name} in {prediction.precision} on {prediction.engine}"},
            "device": {"reference": "#device"},
            "note": [{"text": text} for text in _notes(prediction)],
        }
        if patient is not None:
            found["subject"] = {"reference": patient}
        elif prediction.person is not None:
            found["subject"] = {"display": f"{prediction.person}, whom edge-mer follows"}
        value = {} if prediction.status == "withheld" else _value(prediction, output)
        made.append(found | (value or {"dataAbsentReason": _absent(prediction)}))
    return made


def _value(prediction: Prediction, output: str) -> Json:
    """The value and its components; empty where the prediction has none."""
    affect, pain, emotion = prediction.affect, prediction.pain, prediction.emotion
    if output == "pain" and pain is not None:
        parts = [
            _probability(label, p, f" on the scale {pain.scale}") for label, p in pain.level_probs.items()
        ]
        return {
            "valueQuantity": _quantity(pain.expected, f"level of {pain.scale}", "{score}"),
            "component": parts + _confidence(prediction),
        }
    if output == "emotion" and emotion:
        likeliest = max(emotion, key=lambda label: emotion[label])
        parts = [_probability(label, p) for label, p in emotion.items()]
        return {"valueCodeableConcept": {"text": likeliest}, "component": parts + _confidence(prediction)}
    number = getattr(affect, output, None)
    if number is None:
        return {}
    value: Json = {"valueQuantity": _quantity(number)}
    bounds = ((affect.interval if affect is not None else None) or {}).get(output)
    if bounds is not None:
        ends = zip(("interval-low", "interval-high"), bounds, strict=True)
        value["component"] = [{"code": _code(code), "valueQuantity": _quantity(end)} for code, end in ends]
    return value


def _confidence(prediction: Prediction) -> list[Json]:
    if prediction.confidence is None:
        return []
    return [{"code": _code("confidence"), "valueQuantity": _quantity(prediction.confidence)}]


def _probability(label: str, probability: float, where: str = "") -> Json:
    code = {**_code("probability"), "text": f"Probability of {label}{where}"}
    return {"code": code, "valueQuantity": _quantity(probability)}


def _quantity(value: float, unit: str = "1", code: str = "1") -> Json:
    return {"value": round(value, 6), "unit": unit, "system": UCUM, "code": code}


def _code(code: str) -> Json:
    display = _DISPLAYS[code]
    return {"coding": [{"system": CODES, "code": code, "display": display}], "text": display}


def _absent(prediction: Prediction) -> Json:
    reasons = set(prediction.reasons)
    code = "not-performed"
    if reasons & _ERRORS:
        code = "error"
    elif reasons & _SOON:
        code = "temp-unknown"
    coding = {"system": ABSENT, "code": code, "display": _ABSENT_DISPLAYS[code]}
    return {"coding": [coding], "text": ", ".join(prediction.reasons) or "withheld"}


def _notes(prediction: Prediction) -> list[str]:
    notes = [NOTE]
    if prediction.status == "degraded":
        notes.append(f"Weaker than it could be: {', '.join(prediction.reasons)}.")
    if not prediction.utc_synchronised:
        notes.append("The clock of the device was not synchronised: the time may be off.")
    return notes


def _period(prediction: Prediction) -> Json:
    end = datetime.fromisoformat(prediction.utc)
    start = end - timedelta(microseconds=(prediction.t_end_ns - prediction.t_start_ns) // 1000)
    return {"start": start.isoformat(timespec="milliseconds"), "end": end.isoformat(timespec="milliseconds")}


def _identifier(prediction: Prediction, session: UUID, output: str) -> str:
    name = f"{prediction.utc} {prediction.window_index} {prediction.person or ''} {output}"
    return f"urn:uuid:{uuid5(session, name)}"


def _device(prediction: Prediction, model: ModelFacts) -> Json:
    return {
        "resourceType": "Device",
        "id": "device",
        "identifier": [{"type": {"text": "bundle_id"}, "value": prediction.bundle_id}],
        "name": [{"value": "edge-mer", "type": "user-friendly-name", "display": True}],
        "modelNumber": model.name,
        "version": [{"type": {"text": "software"}, "value": edge_mer.__version__}],
        "type": [{"text": "software that estimates affect"}],
    }


def transaction_of(observations: list[Json]) -> Json:
    """A Bundle that creates those of them that the server has not got yet."""
    entries = []
    for one in observations:
        identifier = one["identifier"][0]
        request = {
            "method": "POST",
            "url": "Observation",
            "ifNoneExist": f"identifier={identifier['system']}|{identifier['value']}",
        }
        entries.append({"fullUrl": identifier["value"], "resource": one, "request": request})
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}
