"""The same work by PyTorch, as people write it; on whatever device it is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.table import Goal, Row, compared, not_run
from benchmarks.gpu.timing import Plan, Stopwatch, TorchStopwatch, Work, in_turn
from edge_mer.preprocess.audio import hann_window, mel_filters
from edge_mer.preprocess.image import FrameLayout, Sampling
from edge_mer.types.model import FaceClip, LogMel


def why_no_cuda() -> str:
    """Why PyTorch cannot compute on the GPU here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "there is no PyTorch"
    import torch

    if torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    return "" if torch.cuda.is_available() else "this PyTorch finds no GPU that it can use"


def exact_float32(torch: Any) -> None:
    """No TF32: its products have 10 bits behind the point."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


class TorchFaces:
    """Crops of faces out of RGB frames that lie on the device.

    Where samples lie is worked out beforehand, which our kernel does each time.

    Args:
        torch: The module.
        device: "cuda" or "cpu".
        frames: (frame, row, byte).
        transforms: (face, frame, 2, 3): crop pixel -> frame pixel.
        clip: What the model takes.
        layout: How a frame lies in memory.
    """

    def __init__(
        self,
        torch: Any,
        device: str,
        frames: NDArray[np.uint8],
        transforms: NDArray[np.float64],
        clip: FaceClip,
        layout: FrameLayout,
    ) -> None:
        self._torch, self._size = torch, clip.size_px
        pixels = frames.reshape(len(frames), layout.height_px, layout.width_px, 3)
        self._frames = torch.from_numpy(pixels).to(device)
        self._mean = torch.tensor([255 * m for m in clip.mean], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor([255 * s for s in clip.std], device=device).view(1, 3, 1, 1)
        self._n_faces = len(transforms)
        self._groups: list[tuple[int, int, list[int], Any]] = []
        kinds = [Sampling.of(one[0])[:2] for one in transforms]
        for block, n in sorted(set(kinds)):
            faces = [i for i, found in enumerate(kinds) if found == (block, n)]
            grid = _grid(transforms[faces], n, clip.size_px, layout)
            self._groups.append((block, n, faces, torch.from_numpy(grid).to(device)))
        self._boxes = [[_box(one, clip.size_px, layout) for one in face] for face in transforms]

    def sampled(self) -> Any:
        """By `avg_pool2d` and `grid_sample`: what ours computes; (face, 3, frame, height, width)."""
        torch, functional = self._torch, self._torch.nn.functional
        pixels = self._frames.permute(0, 3, 1, 2).float()
        size = self._size
        out = torch.empty(self._n_faces, 3, len(pixels), size, size, device=pixels.device)
        for block, n, faces, grid in self._groups:
            lacking = (-pixels.shape[3] % block, -pixels.shape[2] % block)
            whole = functional.pad(pixels, (0, lacking[0], 0, lacking[1])) if any(lacking) else pixels
            means = functional.avg_pool2d(whole, block) if block > 1 else whole
            samples = functional.grid_sample(means, grid, padding_mode="zeros", align_corners=False)
            crops = functional.avg_pool2d(samples, n) if n > 1 else samples
            crops = (crops - self._mean) / self._std
            crops = crops.view(len(pixels), 3, len(faces), size, size).permute(2, 1, 0, 3, 4)
            for index, face in enumerate(faces):
                out[face] = crops[index]
        return out

    def interpolated(self) -> Any:
        """By `interpolate` with antialiasing, of upright boxes: not the same crops, and less work."""
        torch, functional, size = self._torch, self._torch.nn.functional, self._size
        crops = [
            functional.interpolate(
                self._frames[None, frame, top:bottom, left:right].permute(0, 3, 1, 2).float(),
                (size, size),
                mode="bilinear",
                antialias=True,
            )
            for face in self._boxes
            for frame, (top, bottom, left, right) in enumerate(face)
        ]
        normal = (torch.cat(crops) - self._mean) / self._std
        return normal.view(self._n_faces, -1, 3, size, size).transpose(1, 2).contiguous()


def _grid(transforms: NDArray[np.float64], n: int, size: int, layout: FrameLayout) -> NDArray[np.float32]:
    """(frame, face rows below each other, column, 2): where samples lie among blocks, from -1 to 1."""
    u, v = (axis[:, :, np.newaxis] for axis in np.meshgrid(np.arange(n * size), np.arange(n * size)))
    samplings = [[Sampling.of(one) for one in face] for face in transforms]
    start, across, down = (
        np.array([[getattr(one, name) for one in face] for face in samplings])[:, :, np.newaxis, np.newaxis]
        for name in ("start", "across", "down")
    )  # (face, frame, 1, 1, 2)
    fine = ((start + across * u) >> 16) + ((down * v) >> 16)
    placed = ((fine + (1 << 10)) >> 11) / 32
    n_blocks = -(-np.array([layout.width_px, layout.height_px]) // samplings[0][0].block_px)
    scaled = (2 * placed.swapaxes(0, 1) + 1) / n_blocks - 1
    return np.ascontiguousarray(scaled.reshape(transforms.shape[1], -1, n * size, 2), np.float32)


def _box(transform: NDArray[np.float64], size: int, layout: FrameLayout) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of an upright face of the same size."""
    centre = transform @ np.array([(size - 1) / 2, (size - 1) / 2, 1.0])
    half = size * np.hypot(transform[0, 0], transform[1, 0]) / 2
    left, top = (max(0, round(one - half)) for one in centre)
    right, bottom = (round(one + half) for one in centre)
    return top, min(bottom, layout.height_px), left, min(right, layout.width_px)


class TorchLogMel:
    """Log-mel spectrograms by `torch.stft` and a matrix product.

    Args:
        torch: The module.
        device: "cuda" or "cpu".
        spec: What the model declares.
    """

    def __init__(self, torch: Any, device: str, spec: LogMel) -> None:
        self._torch, self._spec = torch, spec
        self._window = torch.from_numpy(hann_window(spec).astype(np.float32)).to(device)
        filters = np.ascontiguousarray(mel_filters(spec).T, np.float32)
        self._filters = torch.from_numpy(filters).to(device)

    def __call__(self, samples: Any) -> Any:
        """(batch, samples) on the device -> (batch, 1, mel, column)."""
        torch, spec = self._torch, self._spec
        spectrum = torch.stft(
            samples,
            spec.n_fft,
            spec.hop_samples,
            window=self._window,
            pad_mode="reflect",
            return_complex=True,
        )
        mel = self._filters @ spectrum.abs().square()
        db = 10.0 * torch.log10(torch.clamp(mel, min=spec.amin))
        db = torch.maximum(db, db.amax((1, 2), keepdim=True) - spec.top_db)
        normal = ((db - spec.mean) / spec.std)[:, :, -spec.width :]
        missing = spec.width - normal.shape[2]
        return torch.nn.functional.pad(normal, (missing, 0))[:, None]


def against_torch(
    part: str,
    measured: str,
    watch: Stopwatch,
    ours: Work,
    theirs: Callable[[], Any],
    name: str,
    plan: Plan,
    goal: Goal | None = None,
) -> Iterator[Row]:
    """Launched one by one, as both are called, which is what a goal is about; and as CUDA graphs.

    Args:
        part: Of the rows.
        measured: Likewise.
        watch: Times ours.
        ours: A launch.
        theirs: The same by PyTorch on the GPU.
        name: What theirs is called in the table.
        plan: How often.
        goal: For theirs / ours.
    """
    import torch

    torch_watch = TorchStopwatch(torch, plan.n_repeats)
    times = in_turn({"ours": watch.launched(ours), "PyTorch": torch_watch.launched(theirs)}, plan)
    yield compared(part, f"{measured}, both launched one by one", times["ours"], times["PyTorch"], name, goal)
    try:
        recorded = torch_watch.recorded(theirs)
    except RuntimeError as error:
        yield not_run(part, f"{measured}, both as CUDA graphs", f"PyTorch cannot: {error}".splitlines()[0])
        return
    times = in_turn({"ours": watch.recorded(ours), "PyTorch": recorded}, plan)
    yield compared(part, f"{measured}, both as CUDA graphs", times["ours"], times["PyTorch"], name)
