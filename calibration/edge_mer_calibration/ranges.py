"""What values the tensors of a stage take on calibration windows, and which of them 8 bits shall hold.

Only ranges and histograms leave a calibration set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

Feed = dict[str, NDArray[Any]]
Method = Literal["min-max", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)
"""From the plainest on, in the order in which they are tried."""

PERCENTILE = 99.99
N_BINS = 2048
N_LEVELS = 128
_ENTROPY_BINS = 512
_SMOOTHING = 1e-4
_MSE_STEPS = 48
"""How many clips between a quarter and the whole of a range are tried."""


@dataclass(frozen=True)
class Histogram:
    """The values of one tensor over all windows.

    Attributes:
        counts: (bins,) of equal width, around 0.
        edges: (bins + 1,).
        low: Smallest value.
        high: Largest value.
        peaks: Largest absolute value per channel, (channel,): along axis 1 where a convolution reads the
            tensor, else along the last one.
        means: Mean per channel, (channel,).
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float32]
    low: float
    high: float
    peaks: NDArray[np.float32]
    means: NDArray[np.float32]


@dataclass
class _Channels:
    """What a tensor holds per channel: peaks and sums over all windows, and how many values a sum is of."""

    peaks: NDArray[np.float32]
    sums: NDArray[np.float64]
    count: int

    def merged(self, later: _Channels) -> _Channels:
        """Of both; the later one alone where it has other channels."""
        if self.peaks.shape != later.peaks.shape:
            return later
        return _Channels(
            np.maximum(self.peaks, later.peaks), self.sums + later.sums, self.count + later.count
        )


def _channels(values: NDArray[Any], axis: int) -> _Channels:
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    peaks = np.maximum(rows.max(axis=0), -rows.min(axis=0)).astype(np.float32)
    return _Channels(peaks, rows.sum(axis=0, dtype=np.float64), len(rows))


class Ranges:
    """Histograms of the tensors that a stage's products read and write.

    Args:
        model: The FP32 stage.
        operators: Whose inputs and outputs are watched.
        threads: How many a run may take.
    """

    def __init__(self, model: bytes, operators: Sequence[str], threads: int) -> None:
        graph_model = onnx.load_model_from_string(model)
        watched = _watched(graph_model, operators)
        declared = {value.name for value in graph_model.graph.output}
        for name in watched:
            if name not in declared:
                graph_model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph_model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in graph_model.graph.input}
        self._names = watched
        self._collector = HistogramCollector("entropy", False, N_BINS, N_LEVELS, PERCENTILE, "same")
        self._convolved = {node.input[0] for node in graph_model.graph.node if node.op_type == "Conv"}
        self._channels: dict[str, _Channels] = {}
        self.n_windows = 0

    def add(self, feed: Feed) -> None:
        """Run one window, and count its values."""
        inner = [name for name in self._names if name not in self._inputs]
        found = dict(zip(inner, self._session.run(inner, feed), strict=True)) if inner else {}
        found |= {name: feed[name] for name in self._names if name in self._inputs}
        self._collector.collect_value({name: values for name, values in found.items() if values.size})
        for name, values in found.items():
            if not values.size:
                continue
            now = _channels(values, 1 if name in self._convolved else -1)
            self._channels[name] = self._channels[name].merged(now) if name in self._channels else now
        self.n_windows += 1

    def histograms(self) -> dict[str, Histogram]:
        """Tensor -> its values."""
        found = {}
        for name, (counts, edges, low, high, _) in self._collector.get_histogram_dict().items():
            channels = self._channels[name]
            found[name] = Histogram(
                np.asarray(counts, np.int64),
                np.asarray(edges, np.float32),
                float(low),
                float(high),
                channels.peaks,
                (channels.sums / channels.count).astype(np.float32),
            )
        return found


def _watched(model: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """Float tensors, but weights, that nodes of these operators read or write, each once."""
    constants = {tensor.name for tensor in model.graph.initializer}
    names = [
        name
        for node in model.graph.node
        if node.op_type in operators
        for name in (*node.input, *node.output)
        if name and name not in constants
    ]
    return list(dict.fromkeys(names))


def clipped(one: Histogram, method: Method, *, symmetric: bool) -> tuple[float, float]:
    """Which part of a tensor's values 8 bits shall hold: lowest and highest; the rest is clipped to them.

    Args:
        one: The tensor's values.
        method: "min-max" all of them; "percentile" all but 0.01 %; "entropy" what keeps most of the
            distribution (ONNX Runtime's); "mse" what makes the mean square error of rounding and clipping
            smallest.
        symmetric: Whether the levels will be symmetric around 0.
    """
    low, high = _CHOICES[method](one, symmetric)
    return max(low, one.low), min(high, one.high)


def _min_max(one: Histogram, _symmetric: bool) -> tuple[float, float]:
    return one.low, one.high


def _percentile(one: Histogram, symmetric: bool) -> tuple[float, float]:
    shares = np.cumsum(one.counts) / max(1, one.counts.sum())
    cut = (1 - PERCENTILE / 100) / 2
    low = float(one.edges[np.searchsorted(shares, cut)])
    high = float(one.edges[min(len(one.counts), int(np.searchsorted(shares, 1 - cut)) + 1)])
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def _entropy(one: Histogram, _symmetric: bool) -> tuple[float, float]:
    if len(one.counts) <= N_LEVELS or one.low == one.high:
        return one.low, one.high
    return least_divergence(*_coarser(one))


def least_divergence(counts: NDArray[np.int64], edges: NDArray[np.float32]) -> tuple[float, float]:
    """The symmetric clip whose levels tell least from the counts, by the Kullback-Leibler divergence.

    What ONNX Runtime's entropy calibration finds (Migacz, "8-bit inference with TensorRT", GTC 2017), without
    its loops over bins.

    Args:
        counts: (2 n + 1,) or (2 n,) around 0, more than `N_LEVELS`.
        edges: One more than counts.
    """
    middle, half = len(counts) // 2, N_LEVELS // 2
    before = np.concatenate([[0], np.cumsum(counts)])
    best, least = middle, np.inf
    for reach in range(half, middle + 1):
        first, end = middle - reach, min(middle + reach + 1, len(counts))
        clipped_to = counts[first:end].copy()
        clipped_to[0] += before[first]
        clipped_to[-1] += before[-1] - before[end]
        divergence = _divergence(clipped_to, _in_levels(counts[first:end], clipped_to != 0))
        if divergence < least:
            best, least = reach, divergence
    return float(edges[middle - best]), float(edges[min(middle + best + 1, len(counts))])


def _in_levels(counts: NDArray[np.int64], is_filled: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Counts merged into `N_LEVELS` levels and spread again over the bins of each that are filled."""
    width = len(counts) // N_LEVELS
    starts, n = np.arange(N_LEVELS) * width, N_LEVELS * width
    merged = np.add.reduceat(counts, starts)  # the last level takes the rest
    n_filled = np.add.reduceat(is_filled[:n].astype(np.int64), starts)
    each = np.where(n_filled > 0, merged // np.maximum(1, n_filled), 0)
    return np.concatenate([np.repeat(each, width), np.zeros(len(counts) - n, np.int64)])


def _divergence(p: NDArray[np.int64], q: NDArray[np.int64]) -> float:
    """Of two counts, zeros among them smoothed away."""
    if not p.any() or not q.any():
        return np.inf
    a, b = _smooth(p), _smooth(q)
    a, b = a / a.sum(), b / b.sum()
    return float((a * np.log(a / b)).sum())


def _smooth(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    is_zero = counts == 0
    n_zero = int(is_zero.sum())
    taken = _SMOOTHING * n_zero / (len(counts) - n_zero)
    return (counts + np.where(is_zero, _SMOOTHING, -taken)).astype(np.float32)


def _coarser(one: Histogram) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The same with about `_ENTROPY_BINS` bins, symmetric around 0."""
    factor = max(1, len(one.counts) // _ENTROPY_BINS)
    width = (one.edges[-1] - one.edges[0]) / len(one.counts) * factor
    half = int(np.ceil(one.edges[-1] / width))
    edges = (np.arange(-half, half + 1) * width).astype(np.float32)
    middles = (one.edges[1:] + one.edges[:-1]) / 2
    counts, _ = np.histogram(middles, edges, weights=one.counts.astype(np.float64))
    return np.rint(counts).astype(np.int64), edges


def _mse(one: Histogram, symmetric: bool) -> tuple[float, float]:
    middles = ((one.edges[1:] + one.edges[:-1]) / 2).astype(np.float64)
    best, least = (one.low, one.high), np.inf
    for share in np.linspace(0.25, 1.0, _MSE_STEPS):
        low, high = min(0.0, one.low) * share, max(0.0, one.high) * share
        if symmetric:
            high = max(-low, high)
            low = -high
        scale = (high - low) / 255
        if scale == 0:
            continue
        rounded = np.clip(np.rint((middles - low) / scale), 0, 255) * scale + low
        error = float(((rounded - middles) ** 2 * one.counts).sum())
        if error < least:
            best, least = (low, high), error
    return best


_CHOICES: dict[Method, Callable[[Histogram, bool], tuple[float, float]]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
