"""What sinks that talk to other machines have in common."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_mer.errors import UsageError
from edge_mer.sinks.registry import SINKS, open_sink

LOAD = """
import sys
from importlib import import_module
for module in sys.argv[1:]:
    import_module(module)
print(*sorted({"numpy", "cv2", "onnxruntime", "av", "pydantic", "paho", "pylsl", "rclpy"} & set(sys.modules)))
"""


def test_they_load_nothing_of_inference_and_no_package_before_they_are_opened() -> None:
    modules = sorted({target.partition(":")[0] for target in SINKS.values()})
    done = subprocess.run([sys.executable, "-c", LOAD, *modules], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("scheme", ["mqttx", "fhir+htps"])
def test_a_password_is_not_repeated_where_the_scheme_is_wrong_too(scheme: str) -> None:
    with pytest.raises(UsageError, match="did you mean") as caught:
        open_sink(f"{scheme}://bed5:hunter2@host/a")
    assert "hunter2" not in str(caught.value)
