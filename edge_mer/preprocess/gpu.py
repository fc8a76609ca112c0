"""The preprocessing kernels of one GPU.

Each does what a function on the processor does, to the same numbers (docs/how-numbers-are-proven.md), and
writes straight into the memory that an engine reads: `gpu_image`, `gpu_audio`, `gpu_signal`, `gpu_features`.
"""

from __future__ import annotations

from importlib.resources import files

from edge_mer.cuda import Gpu, Kernel
from edge_mer.nvrtc import compile_cubin

KERNELS = {
    "crop.cu": ("crop_float32", "crop_float16", "crop_int8"),
    "log_mel.cu": ("log_mel", "vggish_log_mel"),
    "signal.cu": ("write_signal",),
    "features.cu": ("push_features",),
}
"""Source -> its kernels."""


def kernel_source(name: str) -> str:
    """A source as NVRTC compiles it, e.g. of "crop.cu": what all share comes first."""
    folder = files("edge_mer.preprocess") / "kernels"
    return "".join((folder / part).read_text(encoding="utf-8") for part in ("common.cu", name))


def load_kernels(gpu: Gpu) -> dict[str, Kernel]:
    """Compile all kernels for this GPU and load them; takes a second or two.

    Raises:
        MissingError: NVRTC is not installed, or does not know this GPU.
    """
    loaded: dict[str, Kernel] = {}
    for source, names in KERNELS.items():
        loaded |= gpu.load(compile_cubin(kernel_source(source), source, gpu.sm), names)
    return loaded
