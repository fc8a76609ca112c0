"""On the GPU: from camera frames to the normalised pixels of aligned crops. Twin of `preprocess.image`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mer.cuda import Gpu, GpuTensor, Kernel
from edge_mer.errors import DataError, UsageError
from edge_mer.preprocess.image import FrameLayout, Sampling
from edge_mer.types.model import Clip

_LAYOUTS = {"rgb": 0, "bgr": 1, "nv12": 2, "yuyv": 3}
_BLOCK = (16, 16, 1)
_FARTHEST_PX = 1 << 30

_CROP = np.dtype(
    [
        ("frame", np.uint64),
        ("chroma", np.uint64),
        ("out", np.int64),
        ("start", np.int64, 2),
        ("across", np.int64, 2),
        ("down", np.int64, 2),
        ("width", np.int32),
        ("height", np.int32),
        ("pitch", np.int32),
        ("layout", np.int32),
        ("n", np.int32),
        ("block", np.int32),
    ]
)
"""`Crop` of crop.cu."""


@dataclass(frozen=True)
class GpuCrop:
    """A rectangle to be cut out of a frame.

    Attributes:
        pointer: Where the GPU finds the frame's first byte.
        layout: How the frame lies there.
        transform: (2, 3): crop pixel (x, y, 1) -> frame pixel (x, y); pixel centres at integers.
    """

    pointer: int
    layout: FrameLayout
    transform: NDArray[np.float64]


class GpuClipWriter:
    """Writes the crops of one clip, or of a batch of them, in one launch.

    A missing frame is black before normalisation, as what lies outside of a frame is.

    Args:
        gpu: Where it runs.
        kernels: Of `load_kernels`.
        spec: The clip that the model declares.
        out: (batch, 3, frame, height, width), or without the frames' axis where a clip has one, in
            float32, float16 or int8; the engine's own input.
        scale: What one step of int8 stands for, in normalised units; zero is zero. Of int8 only.

    Raises:
        UsageError: `out` has another shape or type, or a scale is missing or too many.
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], spec: Clip, out: GpuTensor, scale: float | None = None
    ) -> None:
        self._shape_px = spec.shape_px
        clip = (3, spec.n_frames, *self._shape_px)
        fits = out.shape[1:] == clip or (spec.n_frames == 1 and out.shape[1:] == (3, *self._shape_px))
        name = f"crop_{out.dtype}"
        if not fits or name not in kernels:
            raise UsageError(
                "the crops do not fit the tensor that they are to be written into",
                expected=f"float32, float16 or int8 (batch, {', '.join(map(str, clip))})",
                found=f"{out.dtype} {out.shape}",
            )
        if (out.dtype == np.int8) != (scale is not None):
            raise UsageError("a scale goes with int8, and with int8 only")
        self._kernel = kernels[name]
        self._out = out
        self._n_frames = spec.n_frames
        self._crops = gpu.tensor((out.shape[0] * spec.n_frames,), _CROP)
        self._missing = np.zeros(self._crops.shape, _CROP)
        clips, frames = np.divmod(np.arange(len(self._missing)), spec.n_frames)
        self._missing["out"] = (clips * 3 * spec.n_frames + frames) * math.prod(self._shape_px)
        self._is_read = gpu.event()
        mean, std = (np.asarray(values, np.float64) for values in (spec.mean, spec.std))
        numbers = (*(1.0 / (255.0 * std)), *(mean / std), 1.0 if scale is None else 1.0 / scale)
        self._constants = tuple(float(number) for number in numbers)

    def write(self, crops: Sequence[GpuCrop | None]) -> None:
        """Write all crops, when the stream comes to it.

        Args:
            crops: Frame by frame, clip by clip; None = missing.

        Raises:
            DataError: A frame cannot be of its layout, or a crop lies absurdly far outside of it.
        """
        if len(crops) != len(self._crops.host):
            raise UsageError(
                "another number of crops than there is room for",
                expected=str(len(self._crops.host)),
                found=str(len(crops)),
            )
        described = self._missing.copy()
        given = [index for index, crop in enumerate(crops) if crop is not None]
        for name, values in _described([crop for crop in crops if crop is not None], self._shape_px).items():
            described[name][given] = values
        height, width = self._shape_px
        self._is_read.wait()  # the launch before may still need what it was given
        self._crops.host[...] = described
        self._crops.upload()
        grid = (math.ceil(width / _BLOCK[0]), math.ceil(height / _BLOCK[1]), len(crops))
        stride = np.int64(self._n_frames * height * width)
        self._kernel.launch(grid, _BLOCK, self._crops, self._out, width, height, stride, *self._constants)
        self._is_read.record()

    def free(self) -> None:
        """Give back what it holds on the GPU; `out` is not its own."""
        self._crops.free()
        self._is_read.free()


def _described(crops: list[GpuCrop], shape_px: tuple[int, int]) -> dict[str, NDArray[np.int64]]:
    """Fields of `_CROP`, for all crops at once."""
    if not crops:
        return {}
    layouts = [crop.layout for crop in crops]
    transforms = np.array([crop.transform for crop in crops], np.float64)
    height, width = shape_px
    corners = np.array([[x, y, 1.0] for x in (-1, width) for y in (-1, height)])
    if not (np.abs(corners @ transforms.transpose(0, 2, 1)) < _FARTHEST_PX).all():
        raise DataError(f"a crop that lies more than {_FARTHEST_PX} pixels outside of its frame")
    samplings = [Sampling.of(transform) for transform in transforms]
    n_bytes = np.array([layout.pitch_bytes * layout.height_px for layout in layouts])
    pointers = np.array([crop.pointer for crop in crops])
    return {
        "frame": pointers,
        "chroma": pointers + n_bytes,
        "start": np.array([one.start for one in samplings]),
        "across": np.array([one.across for one in samplings]),
        "down": np.array([one.down for one in samplings]),
        "width": np.array([layout.width_px for layout in layouts]),
        "height": np.array([layout.height_px for layout in layouts]),
        "pitch": np.array([layout.pitch_bytes for layout in layouts]),
        "layout": np.array([_LAYOUTS[layout.kind] for layout in layouts]),
        "n": np.array([one.per_side for one in samplings]),
        "block": np.array([one.block_px for one in samplings]),
    }
