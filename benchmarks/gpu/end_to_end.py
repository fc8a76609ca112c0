"""From frames and samples to outputs: kernels before an engine, against the processor before the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.engines import Engine, Floats, OrtEngine, TorchEngine, why_no_ort, why_no_torch
from benchmarks.gpu.face import Scene, Sizes
from benchmarks.gpu.sound import noise
from benchmarks.gpu.table import Goal, Row, compared, not_run
from benchmarks.gpu.timing import Plan, called, in_turn
from edge_mer.cuda import Gpu, Kernel
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.gpu_audio import GpuSpectrogramWriter
from edge_mer.preprocess.gpu_image import GpuClipWriter, GpuCrop
from edge_mer.preprocess.image import Crop, write_clip
from edge_mer.types.model import LogMel

PART = "end to end"
PARITY = Goal(1e-3, " deviations", is_most=True)
N_STEPS = 8

MakeEngine = Callable[[Gpu, str], Engine]


@dataclass(frozen=True)
class Step:
    """What one step of a session brings: the frames of a clip with one face, and samples."""

    scene: Scene
    samples: NDArray[np.float32]

    @property
    def crops(self) -> list[Crop]:
        """As the processor takes them."""
        height, width = self.scene.sizes.height_px, self.scene.sizes.width_px
        pixels = self.scene.frames.reshape(-1, height, width, 3)
        return [Crop(one, transform) for one, transform in zip(pixels, self.scene.transforms[0], strict=True)]


def steps(sizes: Sizes, n_samples: int) -> list[Step]:
    """Steps that show and sound different."""
    one_face = Sizes(sizes.height_px, sizes.width_px, sizes.faces_px[-1:], sizes.clip)
    sounds = noise(N_STEPS, n_samples)
    return [Step(Scene(one_face, seed=10 + index), sound) for index, sound in enumerate(sounds)]


class Path:
    """Tensors that an engine reads, and two ways to fill them.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        first: A step; all have its sizes.
        spec: What the model declares for sound.
    """

    def __init__(self, gpu: Gpu, kernels: dict[str, Kernel], first: Step, spec: LogMel) -> None:
        self._spec, self._clip = spec, first.scene.sizes.clip
        self.clip = gpu.tensor(first.scene.shape, np.float32)
        self.sound = gpu.tensor((1, 1, spec.n_mels, spec.width), np.float32)
        self._frames = gpu.tensor(first.scene.frames.shape, np.uint8)
        self._crops = GpuClipWriter(gpu, kernels, self._clip, self.clip)
        self._spectrograms = GpuSpectrogramWriter(gpu, kernels, spec, len(first.samples), self.sound)

    def by_kernels(self, step: Step) -> None:
        """Frames and samples go to the GPU as they are."""
        self._frames.host[...] = step.scene.frames
        self._frames.upload()
        n_bytes = self._frames.n_bytes // len(step.scene.frames)
        places = enumerate(step.scene.transforms[0])
        layout = step.scene.layout
        self._crops.write([GpuCrop(self._frames.pointer + i * n_bytes, layout, one) for i, one in places])
        self._spectrograms.samples.host[0] = step.samples
        self._spectrograms.write()

    def by_processor(self, step: Step) -> None:
        """Tensors are made on the processor and uploaded."""
        write_clip(step.crops, self._clip, self.clip.host[0])
        log_mel(step.samples, self._spec, self.sound.host[0])
        self.clip.upload()
        self.sound.upload()

    def free(self) -> None:
        """Give it all back."""
        for one in (self._crops, self._spectrograms, self._frames, self.clip, self.sound):
            one.free()


class EndToEndCheck:
    """All that is measured from frames and samples to outputs.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        sizes: What is cropped.
        spec: What the model declares for sound.
        n_samples: Of a step.
        plan: How often.

    Attributes:
        steps: What goes in.
        path: Where it goes through.
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], sizes: Sizes, spec: LogMel, n_samples: int, plan: Plan
    ) -> None:
        self._gpu, self._plan = gpu, plan
        self.steps = steps(sizes, n_samples)
        self.path = Path(gpu, kernels, self.steps[0], spec)
        self._what = f"{self.steps[0].scene.sizes.words()}, {n_samples} samples"

    def rows(self) -> Iterator[Row]:
        """One after the other."""
        yield Row(PART, "what goes in", self._what)
        for name, engine, why_not in (
            ("PyTorch", TorchEngine, why_no_torch),
            ("ONNX Runtime", OrtEngine, why_no_ort),
        ):
            if why := why_not():
                yield not_run(PART, f"{name} on the GPU as the engine", why)
            else:
                yield from self.with_engine(name, engine(self._gpu, "cuda", self.path.clip, self.path.sound))
        self.path.free()

    def on_processor(self) -> Iterator[Row]:
        """The same with engines on the processor: how outputs agree can be seen without a GPU, too."""
        for name, engine in (("PyTorch", TorchEngine), ("ONNX Runtime", OrtEngine)):
            yield from self.with_engine(name, engine(self._gpu, "cpu", self.path.clip, self.path.sound))
        self.path.free()

    def with_engine(self, name: str, engine: Engine) -> Iterator[Row]:
        """Outputs both ways, and how long each takes from a step to them."""
        ours = np.stack([self._outputs(engine, self.path.by_kernels, step) for step in self.steps])
        theirs = np.stack([self._outputs(engine, self.path.by_processor, step) for step in self.steps])
        far = float((np.abs(ours - theirs) / theirs.std(axis=0)).max())
        found = f"outputs differ by at most {far:.2g} of their deviation over {len(self.steps)} steps"
        yield Row(PART, f"{name} as the engine, TF32 off: kernels against the processor", found, far, PARITY)
        step, wait = self.steps[0], self._gpu.synchronize
        ways = {
            "kernels": called(lambda: _forget(self._outputs(engine, self.path.by_kernels, step)), wait),
            "processor": called(lambda: _forget(self._outputs(engine, self.path.by_processor, step)), wait),
        }
        times = in_turn(ways, self._plan)
        measured = f"{name} as the engine, from a step to its outputs, uploads counted"
        yield compared(PART, measured, times["kernels"], times["processor"], "preprocessing on the processor")

    def _outputs(self, engine: Engine, fill: Callable[[Step], None], step: Step) -> Floats:
        self._gpu.synchronize()  # what was given before may still be read
        fill(step)
        return engine.run()


def _forget(_: object) -> None:
    """Only the time counts."""
