"""Crops of faces: our kernel against a copy, OpenCV on the processor, and PyTorch on the GPU.

The same bytes: what the kernel must read at least is every byte of the frames that lies under a face, once;
what it must write is every crop. A copy of the same bytes moves as many in all, half of them read and half
written. What comes along around the faces, because memory is read in pieces of its own, is not counted.

Frames of a camera are new each time, so the kernel is held against a copy where neither finds anything in the
cache: sets of frames, crops and copies take turns until they are several times as large as it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.gpu_work import Copies, Replay, copy, l2_bytes
from benchmarks.gpu.table import Goal, Row, compared, duration, not_run, parity, speed
from benchmarks.gpu.timing import Plan, Stopwatch, called, in_turn
from benchmarks.gpu.torch_ways import TorchFaces, against_torch, why_no_cuda
from edge_mer.cuda import Gpu, GpuMemory, Kernel
from edge_mer.preprocess.gpu_image import GpuClipWriter, GpuCrop
from edge_mer.preprocess.image import FrameLayout, LayoutKind, Sampling, normalise_into
from edge_mer.types.model import FaceClip
from tests.helpers.front_ends import JMT_CLIP

PART = "face crops"
KINDS: tuple[LayoutKind, ...] = ("rgb", "bgr", "nv12", "yuyv")
BYTES_PER_PIXEL = {"rgb": 3.0, "bgr": 3.0, "nv12": 1.5, "yuyv": 2.0}

LARGE_COPY_BYTES = 512 << 20
COPY_GOAL = Goal(0.7, "%")
OPENCV_GOAL = Goal(10.0, " times as fast")
TORCH_PARITY = Goal(2e-3, is_most=True)
"""In normalised units: PyTorch's places in a frame are in single precision."""

OPENCV_PARITY = Goal(0.1, is_most=True)
"""OpenCV rounds crops to 8 bits, and places to a 32nd of a pixel."""


@dataclass(frozen=True)
class Sizes:
    """What is cropped.

    Attributes:
        height_px: Of a frame.
        width_px: Of a frame.
        faces_px: Sides of the faces of every frame.
        clip: What the model takes.
    """

    height_px: int = 1080
    width_px: int = 1920
    faces_px: tuple[int, ...] = (150, 200, 250, 300)
    clip: FaceClip = JMT_CLIP

    def words(self) -> str:
        """E.g. "8 frames of 1920 x 1080, faces of 150 px to 112 px"."""
        faces, frames = ", ".join(map(str, self.faces_px)), f"{self.clip.n_frames} frames of"
        return (
            f"{frames} {self.width_px} x {self.height_px}, faces of {faces} px to {self.clip.size_px} px each"
        )


FULL = Sizes()
QUICK = Sizes(72, 128, (14, 20), JMT_CLIP.model_copy(update={"size_px": 8, "n_frames": 2}))


@dataclass(frozen=True)
class Scene:
    """Frames and where their faces are.

    Attributes:
        sizes: What is cropped.
        kind: How frames lie in memory.
        seed: Of what is seen.
    """

    sizes: Sizes
    kind: LayoutKind = "rgb"
    seed: int = 1

    @property
    def layout(self) -> FrameLayout:
        """Without gaps between the rows."""
        return FrameLayout(self.kind, self.sizes.height_px, self.sizes.width_px)

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """(frame, row, byte); of colours smooth pictures, else any bytes, which are a picture too."""
        random, shape = np.random.default_rng(self.seed), self.layout.shape
        n = self.sizes.clip.n_frames
        if self.kind not in ("rgb", "bgr"):
            return random.integers(0, 256, (n, *shape), np.uint8)
        coarse = random.integers(
            0, 256, (n, self.sizes.height_px // 24 + 2, self.sizes.width_px // 24 + 2, 3), np.uint8
        )
        size = (self.sizes.width_px, self.sizes.height_px)
        return np.stack(
            [cv2.resize(one, size, interpolation=cv2.INTER_CUBIC).reshape(shape) for one in coarse]
        )

    @cached_property
    def transforms(self) -> NDArray[np.float64]:
        """(face, frame, 2, 3): crop pixel -> frame pixel; heads move, and turn by up to 15 degrees."""
        random, size = np.random.default_rng(self.seed), self.sizes.clip.size_px
        n_faces, n_frames = len(self.sizes.faces_px), self.sizes.clip.n_frames
        found = np.zeros((n_faces, n_frames, 2, 3))
        for (face, side_px), frame in product(enumerate(self.sizes.faces_px), range(n_frames)):
            turn, scale = math.radians(random.uniform(-15, 15)), side_px / size
            centre = np.array([(face + 0.5) / n_faces * self.sizes.width_px, self.sizes.height_px / 2])
            centre += random.uniform(-0.02, 0.02, 2) * self.sizes.height_px
            linear = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
            found[face, frame, :, :2] = linear
            found[face, frame, :, 2] = centre - linear @ np.full(2, (size - 1) / 2)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all crops: (face, 3, frame, height, width)."""
        return (len(self.sizes.faces_px), 3, self.sizes.clip.n_frames, *self.sizes.clip.shape_px)

    def n_bytes(self, dtype: str) -> int:
        """What must be read and written at least."""
        covered_px = self.sizes.clip.n_frames * sum(side_px**2 for side_px in self.sizes.faces_px)
        return (
            round(BYTES_PER_PIXEL[self.kind] * covered_px) + math.prod(self.shape) * np.dtype(dtype).itemsize
        )


class Kernels:
    """Our kernel on one or several sets of the same frames.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        scene: What is cropped.
        dtype: Of the crops.
        n_sets: Copies of frames and crops, each in memory of its own.
    """

    def __init__(self, gpu: Gpu, kernels: dict[str, Kernel], scene: Scene, dtype: str, n_sets: int) -> None:
        self._gpu, self._scene = gpu, scene
        self.frames = gpu.tensor(scene.frames.shape, np.uint8)
        self.frames.host[...] = scene.frames
        self.frames.upload()
        self._others: list[GpuMemory] = [gpu.scratch(self.frames.n_bytes) for _ in range(n_sets - 1)]
        for other in self._others:
            copy(gpu, other.pointer, self.frames.pointer, self.frames.n_bytes)
        self.outs = [gpu.tensor(scene.shape, dtype) for _ in range(n_sets)]
        replays = [Replay(kernels[f"crop_{dtype}"]) for _ in range(n_sets)]
        self._writers = [
            GpuClipWriter(gpu, {f"crop_{dtype}": replay}, scene.sizes.clip, out)  # type: ignore[dict-item]
            for replay, out in zip(replays, self.outs, strict=True)
        ]
        pointers = [self.frames.pointer, *(other.pointer for other in self._others)]
        self._crops = [list(self._cut(pointer)) for pointer in pointers]
        for writer, crops in zip(self._writers, self._crops, strict=True):
            writer.write(crops)
        gpu.synchronize()
        self.works = [replay.again for replay in replays]
        self.out = self.outs[0]

    def _cut(self, pointer: int) -> Iterator[GpuCrop]:
        n_bytes = math.prod(self._scene.layout.shape)
        for face in self._scene.transforms:
            for frame, transform in enumerate(face):
                yield GpuCrop(pointer + frame * n_bytes, self._scene.layout, transform)

    def write(self) -> None:
        """As a session calls it: the crops are described anew, and the kernel launched."""
        self._writers[0].write(self._crops[0])

    def upload_and_write(self) -> None:
        """The frames are brought to the GPU, too."""
        self.frames.upload()
        self.write()

    def written(self) -> NDArray[np.float32]:
        """The crops, as they are now."""
        self.out.download()
        self._gpu.synchronize()
        return np.asarray(self.out.host, np.float32)

    def free(self) -> None:
        """Give it all back."""
        for writer in self._writers:
            writer.free()
        for one in (*self.outs, *self._others, self.frames):
            one.free()


def opencv_crops(scene: Scene, out: NDArray[np.float32]) -> None:
    """The same with OpenCV, RGB only, in 8 bits: block means, samples of them, means of these, normalised."""
    frames = scene.frames.reshape(len(scene.frames), scene.sizes.height_px, scene.sizes.width_px, 3)
    size = scene.sizes.clip.size_px
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for (face, transforms), frame in product(enumerate(scene.transforms), range(len(frames))):
        block, n, *found = Sampling.of(transforms[frame])
        start, across, down = np.array(found) / 2**32
        placed = np.stack([across, down, start], axis=1)
        corners = np.array([[x, y, 1] for x in (0, n * size) for y in (0, n * size)]) @ placed.T
        x0, y0 = np.maximum(0, np.floor(corners.min(axis=0)).astype(int) - 1)
        x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 1
        x1, y1 = min(x1, scene.sizes.width_px // block), min(y1, scene.sizes.height_px // block)
        part = frames[frame][y0 * block : y1 * block, x0 * block : x1 * block]
        if block > 1:
            part = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        placed[:, 2] -= (x0, y0)
        pixels = cv2.warpAffine(part, placed, (n * size, n * size), flags=flags)
        if n > 1:
            pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        normalise_into(pixels, scene.sizes.clip, out[face, :, frame])


def n_sets_beyond(cache_bytes: int, n_bytes: int) -> int:
    """So many sets that they take four times the cache, but no more than 64."""
    return max(2, min(64, math.ceil(4 * cache_bytes / n_bytes)))


class FaceCheck:
    """All that is measured of crops.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        sizes: What is cropped.
        plan: How often.
        judged: Whether times have goals; of tiny sizes they say nothing.
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], sizes: Sizes, plan: Plan, *, judged: bool
    ) -> None:
        self._gpu, self._kernels, self._sizes, self._plan = gpu, kernels, sizes, plan
        self._judged = judged
        self._watch = Stopwatch(gpu, plan.n_repeats)

    def rows(self) -> Iterator[Row]:
        """One after the other."""
        yield Row(PART, "what is cropped", self._sizes.words())
        for kind, dtype in product(KINDS, ("float32", "float16")):
            is_judged = self._judged and (kind, dtype) == ("rgb", "float32")
            yield self._against_copy(Scene(self._sizes, kind), dtype, COPY_GOAL if is_judged else None)
        yield self._against_copy(Scene(self._sizes), "float32", None, in_cache=True)
        yield self._large_copy()
        yield self._empty_launch()
        yield from self._against_opencv()
        yield from self._against_torch()

    def _against_copy(self, scene: Scene, dtype: str, goal: Goal | None, *, in_cache: bool = False) -> Row:
        n_bytes = scene.n_bytes(dtype)
        n_sets = 1 if in_cache else n_sets_beyond(l2_bytes(self._gpu), n_bytes)
        ours = Kernels(self._gpu, self._kernels, scene, dtype, n_sets)
        copies = Copies(self._gpu, n_bytes // 2, n_sets)
        ways = {"ours": self._watch.recorded(*ours.works), "copy": self._watch.recorded(*copies.works)}
        times = in_turn(ways, self._plan)
        ours.free()
        copies.free()
        where = "in the cache" if in_cache else "beyond the cache"
        measured = f"{scene.kind} to {dtype}, {where}, against a copy of the same bytes"
        row = compared(PART, measured, times["ours"], times["copy"], "copy", goal, unit="%")
        speeds = " and ".join(speed(n_bytes, times[name].median_ms) for name in ("ours", "copy"))
        return row.with_more(f"; {n_bytes / 1e6:.3g} MB, {speeds}", n_bytes=n_bytes, n_sets=n_sets)

    def _large_copy(self) -> Row:
        n_bytes = LARGE_COPY_BYTES if self._judged else 1 << 16
        copies = Copies(self._gpu, n_bytes, 1)
        time = in_turn({"copy": self._watch.recorded(*copies.works)}, self._plan)["copy"]
        copies.free()
        found = f"{duration(time.median_ms)}: {speed(2 * n_bytes, time.median_ms)} read and written"
        return Row(PART, f"a copy of {n_bytes / 1e6:.3g} MB at once", found, data={"copy_ms": time.as_dict()})

    def _empty_launch(self) -> Row:
        ours = Kernels(self._gpu, self._kernels, Scene(self._sizes), "float32", 1)
        kernel = self._kernels["crop_float32"]
        nothing = partial(
            kernel.launch, (1, 1, 1), (32, 1, 1), ours.out, ours.out, 0, 0, np.int64(0), *[0.0] * 7
        )
        ways = {"recorded": self._watch.recorded(nothing), "launched": self._watch.launched(nothing)}
        times = in_turn(ways, self._plan)
        ours.free()
        found = f"{duration(times['recorded'].median_ms)} in a CUDA graph, "
        found += f"{duration(times['launched'].median_ms)} launched one by one"
        data = {f"{name}_ms": one.as_dict() for name, one in times.items()}
        return Row(PART, "an empty launch", found, data=data)

    def _against_opencv(self) -> Iterator[Row]:
        scene = Scene(self._sizes)
        ours = Kernels(self._gpu, self._kernels, scene, "float32", 1)
        theirs = self._gpu.tensor(scene.shape, np.float32)

        def opencv() -> None:
            opencv_crops(scene, theirs.host)
            theirs.upload()

        opencv()
        self._gpu.synchronize()
        yield parity(PART, "OpenCV's crops against ours", theirs.host, ours.written(), OPENCV_PARITY)
        wait = self._gpu.synchronize
        works = {"ours": ours.write, "with frames": ours.upload_and_write, "OpenCV": opencv}
        times = in_turn({name: called(work, wait) for name, work in works.items()}, self._plan)
        name = f"OpenCV on {cv2.getNumThreads()} threads with upload"
        goal = OPENCV_GOAL if self._judged else None
        measured = "rgb to float32, from the call until the crops are on the GPU"
        yield compared(PART, f"{measured}, frames lie there", times["ours"], times["OpenCV"], name, goal)
        yield compared(PART, f"{measured}, frames uploaded too", times["with frames"], times["OpenCV"], name)
        ours.free()
        theirs.free()

    def _against_torch(self) -> Iterator[Row]:
        measured = "rgb to float32"
        if why := why_no_cuda():
            yield not_run(PART, f"{measured}, against PyTorch on the GPU", why)
            return
        import torch

        scene = Scene(self._sizes)
        ours = Kernels(self._gpu, self._kernels, scene, "float32", 1)
        theirs = TorchFaces(torch, "cuda", scene.frames, scene.transforms, scene.sizes.clip, scene.layout)
        row = parity(
            PART,
            "PyTorch's grid_sample against ours",
            theirs.sampled().cpu().numpy(),
            ours.written(),
            TORCH_PARITY,
        )
        yield row
        if row.verdict() == "pass":
            work = ours.works[0]
            for way, name in ((theirs.sampled, "grid_sample"), (theirs.interpolated, "interpolate, upright")):
                yield from against_torch(
                    PART, measured, self._watch, work, way, f"PyTorch's {name}", self._plan
                )
        ours.free()
