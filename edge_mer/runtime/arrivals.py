"""In which order the chunks of several sources come, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from edge_mer.clock import NS_PER_S, Clock
from edge_mer.errors import DataError
from edge_mer.sources.base import Source
from edge_mer.types.signals import Chunk, StreamSpec

READ_TIMEOUT_MS = 200
"""The longest that a session waits for a source, or for the time, without asking whether to stop."""

_TURN_TIMEOUT_MS = 10
_MAX_CHUNKS_PER_TURN = 64
MAX_STRAY_NS = 10 * NS_PER_S
"""Live data that would have been captured so long before it came, or after, was stamped wrongly."""


def never() -> bool:
    """Nobody wants to stop."""
    return False


def merged(sources: Sequence[Source], should_stop: Callable[[], bool] = never) -> Iterator[Chunk]:
    """The chunks of several recordings in order of capture."""
    heads: dict[int, Chunk] = {}
    while True:
        for index, source in enumerate(sources):
            while index not in heads and not source.ended:
                if should_stop():
                    return
                chunk = source.read(READ_TIMEOUT_MS)
                if chunk is not None:
                    heads[index] = chunk
        if not heads or should_stop():
            return
        first = min(heads, key=lambda index: heads[index].t_ns)
        yield heads.pop(first)


def as_they_come(
    sources: Sequence[Source], clock: Clock, should_stop: Callable[[], bool] = never
) -> Iterator[Chunk | int]:
    """The chunks of live sources, each source in its turn; a silent one holds up nobody.

    After each round comes the time of its beginning: what had come by then has been given.
    """
    while any(not source.ended for source in sources):
        began_ns = clock.now_ns()
        for source in sources:
            if should_stop():
                return
            if not source.ended:
                yield from _turn(source, _TURN_TIMEOUT_MS)
        yield began_ns


def _turn(source: Source, timeout_ms: int) -> Iterator[Chunk]:
    """What one source holds ready; a stream of many small chunks must not fall behind the others."""
    chunk = source.read(timeout_ms)
    n_read = 1
    while chunk is not None:
        yield chunk
        if n_read == _MAX_CHUNKS_PER_TURN:
            return
        chunk = source.read(0)
        n_read += 1


def wait_until(clock: Clock, t_ns: int, should_stop: Callable[[], bool]) -> None:
    """Return when the clock has reached `t_ns`, or soon after somebody wants to stop."""
    while not should_stop() and (now_ns := clock.now_ns()) < t_ns:
        clock.sleep_until_ns(min(t_ns, now_ns + READ_TIMEOUT_MS * NS_PER_S // 1000))


def end_ns(chunk: Chunk, rate_hz: float | None) -> int:
    """When a device could have delivered the chunk: after its last sample."""
    if chunk.modality == "visual" or rate_hz is None:
        return chunk.t_ns
    return chunk.t_ns + int(chunk.n_samples * NS_PER_S / rate_hz)


def since_start(chunk: Chunk, start_ns: int, clock: Clock) -> Chunk | None:
    """A live chunk on the session's own time, which starts at 0; None if it is from before.

    Raises:
        DataError: It was not stamped by this clock.
    """
    now_ns = clock.now_ns()
    if not start_ns - MAX_STRAY_NS <= chunk.t_ns <= now_ns + MAX_STRAY_NS:
        raise DataError(
            f"stream {chunk.stream}: chunk {chunk.seq} of a live source has an impossible time of capture",
            expected=f"the host's monotonic time in nanoseconds, near {now_ns}",
            found=f"t_ns {chunk.t_ns}",
            hint="stamp each chunk with time.monotonic_ns() when it is captured",
        )
    return None if chunk.t_ns < start_ns else replace(chunk, t_ns=chunk.t_ns - start_ns)


def check_chunk(chunk: Chunk, specs: Mapping[str, StreamSpec]) -> None:
    """Refuse a chunk that is not what its source said it would deliver.

    Raises:
        DataError: An unknown stream, or data of another type or shape.
    """
    spec = specs.get(chunk.stream)
    if spec is None:
        raise DataError(
            f"a source delivered a chunk of stream {chunk.stream}, which it does not describe",
            expected=" or ".join(specs),
        )
    shape = chunk.data.shape
    fits = len(shape) == len(spec.shape) and all(
        size in (None, found) for size, found in zip(spec.shape, shape, strict=True)
    )
    dtype = "str" if chunk.data.dtype.kind == "U" else chunk.data.dtype.name
    if not fits or dtype != spec.dtype:
        raise DataError(
            f"stream {chunk.stream}: chunk {chunk.seq} is not what its source describes",
            expected=f"{spec.dtype} {_written(spec.shape)} along ({', '.join(spec.axes)})",
            found=f"{dtype} {_written(shape)}",
        )


def _written(shape: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"
