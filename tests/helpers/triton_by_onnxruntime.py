"""A model of Triton's Python backend that runs the ONNX file beside it; copied as `model.py`.

The Python backend is handed a sequence's state, but has no way to hand back the next one: so this keeps the
states itself, by the sequence's id, and starts them with zeros where the sequence starts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb  # type: ignore[import-not-found]


class TritonPythonModel:
    """What the backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(file), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.taken = {one.name for one in self.session.get_inputs()}
        self.states = config.get("sequence_batching", {}).get("state", [])
        self.outputs = [output["name"] for output in config["output"]]
        self.kept: dict[int, dict[str, Any]] = {}

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        controls = {name: given[name] for name in ("START", "END", "READY", "CORRID") if name in given}
        feed = {name: values for name, values in given.items() if name in self.taken}
        if "READY" in controls and not np.all(controls["READY"]):
            return pb.InferenceResponse([])
        if self.states:
            feed |= self._states_of(controls)
        wanted = self.outputs + [state["output_name"] for state in self.states]
        found = dict(zip(wanted, self.session.run(wanted, feed), strict=True))
        if self.states:
            person = int(controls["CORRID"].item())
            self.kept[person] = {state["input_name"]: found[state["output_name"]] for state in self.states}
        return pb.InferenceResponse([pb.Tensor(name, found[name]) for name in self.outputs])

    def _states_of(self, controls: dict[str, Any]) -> dict[str, Any]:
        if not np.all(controls["START"]):
            return self.kept[int(controls["CORRID"].item())]
        return {
            state["input_name"]: np.zeros(
                [1, *map(int, state["dims"])], pb.triton_string_to_numpy(state["data_type"])
            )
            for state in self.states
        }
