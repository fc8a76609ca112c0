"""Log-mel spectrograms as `jmt` takes them: our kernel against `torch.stft` and a matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.gpu_work import Replay
from benchmarks.gpu.table import Goal, Row, duration, not_run, parity
from benchmarks.gpu.timing import Plan, Stopwatch, called, in_turn
from benchmarks.gpu.torch_ways import TorchLogMel, against_torch, why_no_cuda
from edge_mer.cuda import Gpu, Kernel
from edge_mer.preprocess.audio import log_mel
from edge_mer.preprocess.gpu_audio import GpuSpectrogramWriter
from edge_mer.types.model import LogMel
from tests.helpers.front_ends import JMT_LOG_MEL

PART = "log-mel spectrograms"
BATCHES, QUICK_BATCHES = (1, 32), (1, 2)
N_SAMPLES = 47_040
"""Of one of jmt's steps."""

TORCH_GOAL = Goal(5.0, " times as fast")
TWIN_PARITY = Goal(1e-4, is_most=True)
TORCH_PARITY = Goal(1e-3, is_most=True)

_TINY = {"n_fft": 64, "win_samples": 50, "hop_samples": 60, "n_mels": 6, "width": 4}
QUICK, QUICK_SAMPLES = JMT_LOG_MEL.model_copy(update=_TINY), 200


class Spectrograms:
    """Our kernel on a batch of steps.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        spec: What the model declares.
        samples: (batch, samples).
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], spec: LogMel, samples: NDArray[np.float32]
    ) -> None:
        self._gpu = gpu
        self.out = gpu.tensor((len(samples), 1, spec.n_mels, spec.width), np.float32)
        replay = Replay(kernels["log_mel"])
        self._writer = GpuSpectrogramWriter(gpu, {"log_mel": replay}, spec, samples.shape[1], self.out)  # type: ignore[dict-item]
        self._writer.samples.host[...] = samples
        self.write = self._writer.write
        self.write()
        self.again = replay.again

    def written(self) -> NDArray[np.float32]:
        """The spectrograms, as they are now."""
        self.out.download()
        self._gpu.synchronize()
        return np.asarray(self.out.host)

    def free(self) -> None:
        """Give it all back."""
        self._writer.free()
        self.out.free()


def noise(n_steps: int, n_samples: int) -> NDArray[np.float32]:
    """Speech-like in its loudness, and different in each step."""
    random = np.random.default_rng(2)
    swell = 0.02 + 0.1 * random.random((n_steps, 1)) * np.sin(np.linspace(0, 20, n_samples)) ** 2
    return np.asarray(random.standard_normal((n_steps, n_samples)) * swell, np.float32)


class SoundCheck:
    """All that is measured of spectrograms.

    Args:
        gpu: Where.
        kernels: Of `load_kernels`.
        spec: What the model declares.
        n_samples: Of a step.
        plan: How often.
        judged: Whether times have goals; of tiny sizes they say nothing.
    """

    def __init__(
        self, gpu: Gpu, kernels: dict[str, Kernel], spec: LogMel, n_samples: int, plan: Plan, *, judged: bool
    ) -> None:
        self._gpu, self._kernels, self._spec, self._plan = gpu, kernels, spec, plan
        self._n_samples, self._judged = n_samples, judged
        self._watch = Stopwatch(gpu, plan.n_repeats)

    def rows(self) -> Iterator[Row]:
        """One after the other."""
        spec = self._spec
        words = (
            f"{self._n_samples} samples, FFT of {spec.n_fft}, to {spec.n_mels} bands x {spec.width} columns"
        )
        yield Row(PART, "what is transformed", words)
        for batch in BATCHES if self._judged else QUICK_BATCHES:
            samples = noise(batch, self._n_samples)
            ours = Spectrograms(self._gpu, self._kernels, self._spec, samples)
            yield self._against_twin(ours, samples)
            yield self._alone(ours, batch)
            yield from self._against_torch(ours, samples)
            ours.free()

    def _against_twin(self, ours: Spectrograms, samples: NDArray[np.float32]) -> Row:
        expected = np.zeros(ours.out.shape, np.float32)
        for one, out in zip(samples, expected, strict=True):
            log_mel(one, self._spec, out)
        return parity(
            PART, f"the processor's against ours, batch {len(samples)}", expected, ours.written(), TWIN_PARITY
        )

    def _alone(self, ours: Spectrograms, batch: int) -> Row:
        wait = self._gpu.synchronize
        ways = {
            "in a CUDA graph": self._watch.recorded(ours.again),
            "launched one by one": self._watch.launched(ours.again),
            "from the call, samples uploaded": called(ours.write, wait),
        }
        times = in_turn(ways, self._plan)
        found = ", ".join(f"{duration(one.median_ms)} {name}" for name, one in times.items())
        return Row(
            PART,
            f"batch {batch}, ours alone",
            found,
            data={name: one.as_dict() for name, one in times.items()},
        )

    def _against_torch(self, ours: Spectrograms, samples: NDArray[np.float32]) -> Iterator[Row]:
        measured = f"batch {len(samples)}"
        if why := why_no_cuda():
            yield not_run(PART, f"{measured}, against PyTorch on the GPU", why)
            return
        import torch

        theirs, given = TorchLogMel(torch, "cuda", self._spec), torch.from_numpy(samples).cuda()
        name = f"PyTorch's against ours, batch {len(samples)}"
        row = parity(PART, name, theirs(given).cpu().numpy(), ours.written(), TORCH_PARITY)
        yield row
        if row.verdict() != "pass":
            return
        goal = TORCH_GOAL if self._judged else None
        work = partial(theirs, given)
        yield from against_torch(
            PART, measured, self._watch, ours.again, work, "torch.stft + mel", self._plan, goal
        )
