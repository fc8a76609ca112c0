"""The page that lies in a repository and says how to start and call it."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import edge_mer
from edge_mer.bundle.read import Bundle
from edge_mer_export.triton.configs import Config
from edge_mer_export.triton.names import STREAM, model_name, valid_name
from edge_mer_export.triton.options import Options
from edge_mer_export.triton.stages import StageFile
from edge_mer_export.triton.stream_graph import stream_edges

_BEFORE_FULL = {
    "mask": "Steps that are not there yet are masked, as on a device; a device calls such predictions "
    "degraded.",
    "pad": "Before the window is full, the features of nothing stand behind the steps that are there, as on "
    "a device.",
    "withhold": "Before the window is full, outputs are not numbers (NaN): a device withholds such "
    "predictions.",
    "shorten": "Before the window is full, outputs are not numbers (NaN). A device looks at a shorter window "
    "then; this model does not.",
}
_RAW = {
    "affect": "clip {name} to {low:g} … {high:g}",
    "pain": "softmax of {name} gives the probabilities of its levels",
    "emotion": "softmax of {name} gives the probabilities of its classes",
}


def readme(bundle: Bundle, files: dict[str, StageFile], configs: dict[str, Config], options: Options) -> str:
    """The page, in Markdown."""
    model = bundle.manifest.model
    environment = Environment(  # noqa: S701 -- Markdown, not HTML
        loader=PackageLoader("edge_mer_export.triton", "."),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    page = environment.get_template("README.md.jinja")
    fusion = model.fusion
    return page.render(
        model=model,
        version=edge_mer.__version__,
        bundle_id=bundle.bundle_id,
        precision=files[fusion.stage].precision,
        rows=[_row(configs[stage]) for stage in files],
        on_gpu=any(one.processor == "gpu" for one in options.processors),
        name=valid_name(options.name or model.name),
        stream=model_name(options.name or model.name, STREAM),
        step_s=str(model.step),
        hop=fusion.hop,
        steps=f"{fusion.hop}, " if fusion.hop > 1 else "",
        after=f", {fusion.hop}" if fusion.hop > 1 else "",
        pairs=list(zip(fusion.inputs, model.encoders, strict=False)),
        present=fusion.inputs[-1].name if fusion.has_present_input else None,
        outputs=[edge.name for edge in stream_edges(model).outputs],
        before_full=_BEFORE_FULL[fusion.warm_up],
        idle_s=f"{options.max_sequence_idle_s:g}",
        max_sequences=options.max_sequences,
        missing=_missing(bundle),
        raw="; ".join(
            _RAW[output.kind].format(**{**output.model_dump(), "name": spec.name})
            for spec, output in zip(fusion.outputs, model.outputs, strict=True)
        ),
    )


def _row(config: Config) -> dict[str, str]:
    def told(tensors: Any) -> str:
        return ", ".join(
            f"`{one.name}` {'×'.join('any' if size < 0 else str(size) for size in one.dims)}"
            for one in tensors
        )

    return {"name": config.name, "inputs": told(config.input), "outputs": told(config.output)}


def _missing(bundle: Bundle) -> str:
    model = bundle.manifest.model
    if model.fusion.has_present_input:
        return "What is missing in a step is not `present`; its features do not count then."
    policies = ", ".join(f"{e.modality} {e.missing or 'abstain'}" for e in model.encoders)
    return (
        "The model has no mask: where a step is missing, the bundle's policies apply, and it is the client "
        f"that follows them ({policies}). To abstain is to start the sequence anew."
    )
