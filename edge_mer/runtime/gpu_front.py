"""Preprocessing by kernels, straight into the memory of TensorRT's engines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edge_mer.cuda import Gpu, GpuTensor, Kernel
from edge_mer.engine.base import Engine
from edge_mer.engine.tensorrt import TensorRtEngine
from edge_mer.errors import UsageError
from edge_mer.preprocess.gpu_audio import GpuSpectrogramWriter
from edge_mer.preprocess.gpu_image import GpuClipWriter, GpuCrop
from edge_mer.preprocess.gpu_signal import GpuSignalResampler, GpuSignalWriter
from edge_mer.preprocess.image import Crop, FrameLayout
from edge_mer.runtime.front import CpuFrontEnd, FrontEnd, WriteClip, WriteSamples
from edge_mer.sync.samples import Piece
from edge_mer.types.model import Clip, Encoder, LogMel, Signal, VggishLogMel

_SampleWriter = GpuSpectrogramWriter | GpuSignalWriter | GpuSignalResampler


class GpuFrontEnd(FrontEnd):
    """Kernels where there is one for what a model declares, and the processor for the rest.

    Args:
        gpu: The one that the engines run on.
        kernels: Of `preprocess.gpu.load_kernels`.
    """

    def __init__(self, gpu: Gpu, kernels: dict[str, Kernel]) -> None:
        self._gpu, self._kernels = gpu, kernels
        self._on_processor = CpuFrontEnd()

    def clip_writer(self, encoder: Encoder, spec: Clip, engine: Engine) -> WriteClip:
        """Frames go to the GPU as they are; crops are cut and normalised there in one launch."""
        if not isinstance(engine, TensorRtEngine):
            return self._on_processor.clip_writer(encoder, spec, engine)
        name = encoder.input.name
        writer = GpuClipWriter(self._gpu, self._kernels, spec, engine.tensors[name])
        frames = _Frames(self._gpu)

        def write(crops: Sequence[Crop | None]) -> None:
            writer.write(frames.uploaded(crops))
            engine.mark_on_device(name)

        return write

    def sample_writer(self, encoder: Encoder, engine: Engine, stream_hz: float | None = None) -> WriteSamples:
        """Samples go to the GPU; spectrograms and scaled pieces are made there."""
        spec, name = encoder.preprocess, encoder.input.name
        if not isinstance(engine, TensorRtEngine) or not self._can(spec):
            return self._on_processor.sample_writer(encoder, engine, stream_hz)
        writers: dict[int, _SampleWriter] = {}  # pieces may differ by a sample

        def write(piece: Piece) -> None:
            n_samples = len(piece.samples)
            if n_samples not in writers:
                writers[n_samples] = self._writer(spec, n_samples, engine.tensors[name], stream_hz)
            writer = writers[n_samples]
            self._gpu.synchronize()  # what was given before may still be read
            writer.samples.host[...] = piece.samples.reshape(writer.samples.shape)
            if isinstance(writer, GpuSignalResampler):
                writer.firsts.host[...] = piece.first
            writer.write()
            engine.mark_on_device(name)

        return write

    def _can(self, spec: object) -> bool:
        """Whether there is a kernel for it: FFTs of other sizes stay on the processor."""
        if isinstance(spec, (LogMel, VggishLogMel)):
            return spec.n_fft & (spec.n_fft - 1) == 0 and 64 <= spec.n_fft <= 4096
        return isinstance(spec, Signal)

    def _writer(self, spec: object, n_samples: int, out: GpuTensor, stream_hz: float | None) -> _SampleWriter:
        if isinstance(spec, (LogMel, VggishLogMel)):
            return GpuSpectrogramWriter(self._gpu, self._kernels, spec, n_samples, out)
        if isinstance(spec, Signal) and stream_hz is not None:
            step = stream_hz / spec.rate_hz
            return GpuSignalResampler(self._gpu, self._kernels, spec, n_samples, step, out)
        if isinstance(spec, Signal):
            return GpuSignalWriter(self._gpu, self._kernels, spec, out)
        raise UsageError(f"no kernel writes {spec}")


class _Frames:
    """Memory for the frames of a clip, each uploaded once however often it is looked at."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._slots: list[GpuTensor] = []

    def uploaded(self, crops: Sequence[Crop | None]) -> list[GpuCrop | None]:
        """The same crops, of frames that the GPU has once the stream comes to them."""
        self._gpu.synchronize()  # what was given before may still be read
        pointers: dict[int, int] = {}
        for crop in crops:
            if crop is not None and id(crop.frame) not in pointers:
                slot = self._slot(len(pointers), crop.frame.nbytes)
                slot.host[: crop.frame.nbytes] = np.ascontiguousarray(crop.frame).reshape(-1)
                slot.upload()
                pointers[id(crop.frame)] = slot.pointer
        return [
            None
            if crop is None
            else GpuCrop(pointers[id(crop.frame)], FrameLayout("rgb", *crop.frame.shape[:2]), crop.transform)
            for crop in crops
        ]

    def _slot(self, index: int, n_bytes: int) -> GpuTensor:
        """Room for a frame; grows when a camera changes its size."""
        if index == len(self._slots):
            self._slots.append(self._gpu.tensor((n_bytes,), np.uint8))
        elif math.prod(self._slots[index].shape) < n_bytes:
            self._slots[index].free()
            self._slots[index] = self._gpu.tensor((n_bytes,), np.uint8)
        return self._slots[index]
