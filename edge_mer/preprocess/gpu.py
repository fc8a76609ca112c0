"""The preprocessing kernels of one GPU.

Each does what a function on the processor does, to the same numbers (docs/how-numbers-are-proven.md), and
writes straight into the memory that an engine reads: `gpu_image`, `gpu_audio`, `gpu_signal`, `gpu_features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from edge_mer.cuda import Gpu, Kernel
from edge_mer.nvrtc import compile_cubin

KERNELS = {
    "crop.cu": ("crop_float32", "crop_float16", "crop_int8"),
    "log_mel.cu": ("log_mel", "vggish_log_mel"),
    "signal.cu": ("write_signal", "resample_signal"),
    "features.cu": ("push_features",),
}
"""Source -> its kernels."""


def kernel_source(name: str) -> str:
    """A source as NVRTC compiles it, e.g. of "crop.cu": what all share comes first."""
    folder = files("edge_mer.preprocess") / "kernels"
    return "".join((folder / part).read_text(encoding="utf-8") for part in ("common.cu", name))


def compile_kernels(sm: str) -> dict[str, bytes]:
    """All kernels for a GPU, source -> cubin; takes a second or two.

    Args:
        sm: E.g. "sm_87".

    Raises:
        MissingError: NVRTC is not installed, or does not know this GPU.
    """
    return {source: compile_cubin(kernel_source(source), source, sm) for source in KERNELS}


def load_kernels(gpu: Gpu, cubins: Mapping[str, bytes] | None = None) -> dict[str, Kernel]:
    """All kernels, ready to be launched.

    Args:
        gpu: Where they run.
        cubins: Of `compile_kernels` for this GPU; None compiles them now.

    Raises:
        MissingError: NVRTC is not installed, or does not know this GPU.
    """
    loaded: dict[str, Kernel] = {}
    for source, cubin in (cubins or compile_kernels(gpu.sm)).items():
        loaded |= gpu.load(cubin, KERNELS[source])
    return loaded
