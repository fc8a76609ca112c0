"""`brainflow:` is a board of electrodes and sensors that BrainFlow knows.

brainflow:synthetic
brainflow:cyton?serial_port=/dev/ttyUSB0&ecg=1
brainflow:emotibit?ip_address=192.168.0.9&eda=1&eda.unit=uS
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import platform
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mer.clock import NS_PER_S, Clock, MonotonicClock
from edge_mer.errors import LostError, MissingError, UsageError
from edge_mer.sources.base import Attached
from edge_mer.sources.brainflow_rows import EXAMPLE, BrainFlowSettings, Row, rows
from edge_mer.sources.capture import Put
from edge_mer.sources.live import LiveSource
from edge_mer.sources.pieces import first_ns, pieces
from edge_mer.types.signals import UNITS, Chunk, Modality, StreamSpec

INSTALL = "pip install 'edge-mer[bio]'"

_POLL_S = 0.02
_TIMEOUT_S = 5
_BUFFER_SAMPLES = 45_000
_OF_ANOTHER = ("PLAYBACK_FILE_BOARD", "STREAMING_BOARD")  # they play what their master board measured


class BrainFlowSource(LiveSource):
    """A board: a stream "brainflow/MODALITY" per biosignal, samples (n, 1) float32 in its unit.

    Stamps are BrainFlow's, moved from the host's wall clock to its monotonic one. Where the board's counter
    of packages jumps, or its stamps do, a new chunk begins.

    Args:
        rest: The URI after `brainflow:`, a board and keys of `BrainFlowSettings` as "cyton?ecg=1".
        clock: Where the time comes from.

    Attributes:
        n_lost: Packages that are missing by the board's counter, since `start`.

    Raises:
        UsageError: As `BrainFlowSettings.parse`.
    """

    def __init__(self, rest: str, clock: Clock | None = None) -> None:
        super().__init__(f"brainflow:{rest}", clock or MonotonicClock())
        self._settings = BrainFlowSettings.parse(rest)
        self._board: Any = None
        self._rows: tuple[Row, ...] = ()
        self._presets: dict[str, dict[str, Any]] = {}
        self._counters: dict[str, PackageCounter] = {}
        self.n_lost = 0

    @property
    def settings(self) -> BrainFlowSettings:
        """What the URI asks for."""
        return self._settings

    def _open(self) -> tuple[StreamSpec, ...]:
        shim = _board_shim()
        name, number = _board_id(shim, self._settings.board)
        params = shim.BrainFlowInputParams()
        params.timeout = _TIMEOUT_S
        for key, value in self._settings.params.items():
            setattr(params, key, value)
        self._presets = _described(shim, params.master_board if name in _OF_ANOTHER else number)
        self._rows = rows(name, self._presets, self._settings)
        board = shim.BoardShim(number, params)
        try:
            board.prepare_session()
        except shim.BrainFlowError as error:
            raise MissingError(
                f"board {name} does not answer",
                found=str(error),
                hint="switch it on, and check its address: serial_port=, mac_address= or ip_address=",
            ) from error
        self._board = board
        return tuple(_spec(row) for row in self._rows)

    def _capture(self, put: Put, should_stop: threading.Event) -> None:
        shim = _board_shim()
        self.n_lost = 0
        used = sorted({row.preset for row in self._rows})
        self._counters = {preset: PackageCounter() for preset in used}
        seqs = {row.modality: itertools.count() for row in self._rows}
        with _as_lost(shim, self.uri):
            self._board.start_stream(_BUFFER_SAMPLES)
            while not should_stop.wait(_POLL_S):
                for preset in used:
                    data = self._board.get_board_data(preset=shim.BrainFlowPresets[f"{preset}_PRESET"])
                    for chunk in self._chunks(preset, data, seqs):
                        put(chunk)
            self._board.stop_stream()

    def _chunks(
        self,
        preset: str,
        data: NDArray[np.float64],
        seqs: Mapping[Modality, Iterator[int]],
    ) -> Iterator[Chunk]:
        if data.shape[1] == 0:
            return
        description = self._presets[preset]
        arrived_ns, offset_ns = _now(self._clock)
        stamps_ns = unix_to_ns(data[description["timestamp_channel"]]) + offset_ns - self._settings.latency_ns
        is_after_loss = np.zeros(data.shape[1], np.bool_)
        if "package_num_channel" in description:
            is_after_loss = self._counters[preset].losses(data[description["package_num_channel"]])
        self.n_lost = sum(one.n_lost for one in self._counters.values())
        for row in (row for row in self._rows if row.preset == preset):
            values = (data[row.index] * row.factor).astype(np.float32)
            for part in pieces(stamps_ns, row.rate_hz, is_after_loss):
                yield Chunk(
                    stream=f"brainflow/{row.modality}",
                    modality=row.modality,
                    seq=next(seqs[row.modality]),
                    t_ns=first_ns(stamps_ns[part], row.rate_hz),
                    data=values[part, np.newaxis],
                    arrived_ns=arrived_ns,
                )

    def _close(self) -> None:
        board, self._board = self._board, None
        with contextlib.suppress(_board_shim().BrainFlowError):
            board.release_session()


class PackageCounter:
    """Notices packages that are missing by a board's own counter, however it counts.

    Some boards count up by two, some give several samples one number, and each begins anew at a number of
    its own; so a step back is no loss, and one forward only if it is larger than the smallest one seen.

    Attributes:
        n_lost: Packages that are missing.
    """

    def __init__(self) -> None:
        self.n_lost = 0
        self._last: float | None = None
        self._step = np.inf

    def losses(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether something was lost right before each sample.

        Args:
            numbers: (n,), the package number of each sample.
        """
        steps = np.diff(numbers, prepend=numbers[0] if self._last is None else self._last)
        self._last = float(numbers[-1])
        forward = steps[steps > 0]
        self._step = min(self._step, float(forward.min()) if forward.size else np.inf)
        is_after_loss: NDArray[np.bool_] = steps > self._step
        if is_after_loss.any():
            self.n_lost += int((steps[is_after_loss] / self._step - 1).sum())
        return is_after_loss


def unix_to_ns(stamps_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Unix times in nanoseconds; (n,) from (n,) seconds."""
    whole_s = np.floor(stamps_s)
    return whole_s.astype(np.int64) * NS_PER_S + np.rint((stamps_s - whole_s) * NS_PER_S).astype(np.int64)


def _now(clock: Clock) -> tuple[int, int]:
    """The time, and what turns the host's Unix time into it, in nanoseconds."""
    before_ns = clock.now_ns()
    unix = clock.utc()
    after_ns = clock.now_ns()
    unix_ns = int(unix.timestamp()) * NS_PER_S + unix.microsecond * 1_000
    return after_ns, (before_ns + after_ns) // 2 - unix_ns


def _spec(row: Row) -> StreamSpec:
    return StreamSpec(
        name=f"brainflow/{row.modality}",
        modality=row.modality,
        axes=("sample", "channel"),
        shape=(None, 1),
        dtype="float32",
        rate_hz=row.rate_hz,
        unit=UNITS[row.modality],
        channels=(row.modality,),
    )


def _board_shim() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of setuptools, which BrainFlow asks where its library is
            from brainflow import board_shim
    except ImportError as error:
        raise MissingError(
            "boards of electrodes need BrainFlow", found=str(error), hint=f"install it with: {INSTALL}"
        ) from error
    return board_shim


def _board_id(shim: Any, board: str) -> tuple[str, int]:
    """BrainFlow's name and number of a board."""
    known = {one.name: one.value for one in shim.BoardIds}
    wanted = board.upper()
    for name, number in known.items():
        if wanted in (name, name.removesuffix("_BOARD"), str(number)):
            return name, number
    near = difflib.get_close_matches(wanted, [name.removesuffix("_BOARD") for name in known], n=3)
    raise UsageError(
        f"brainflow:{board}: BrainFlow knows no such board",
        expected="the name of a board without _BOARD, or its number",
        hint=f"did you mean {' or '.join(one.lower() for one in near)}?" if near else "e.g. brainflow:cyton",
    )


def _described(shim: Any, number: int) -> dict[str, dict[str, Any]]:
    """What BrainFlow says of each preset of a board."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            presets = sorted(shim.BoardShim.get_board_presets(number))
            shim.BoardShim.disable_board_logger()
    except (ImportError, OSError, FileNotFoundError, shim.BrainFlowError) as error:
        raise _no_library(error) from error
    names = {one.value: one.name.removesuffix("_PRESET") for one in shim.BrainFlowPresets}
    return {names[preset]: shim.BoardShim.get_board_descr(number, preset) for preset in presets}


def _no_library(error: Exception) -> MissingError:
    if isinstance(error, ImportError):  # pkg_resources
        hint = "install a setuptools that still has it: pip install 'setuptools<82'"
    elif platform.machine() == "aarch64":
        hint = "its package holds a library for x86-64 only; build it here, see docs/how-to-sensors.md"
    else:
        hint = f"install it again with: {INSTALL}"
    return MissingError("BrainFlow's library cannot be loaded", found=str(error), hint=hint)


@contextlib.contextmanager
def _as_lost(shim: Any, uri: str) -> Iterator[None]:
    try:
        yield
    except shim.BrainFlowError as error:
        raise LostError(
            f"{uri}: the board is gone", found=str(error), hint="check its battery and its connection"
        ) from error


def attached() -> list[Attached]:
    """BrainFlow finds no boards by itself; its synthetic one is always there."""
    try:
        _board_shim()
    except MissingError as error:
        return [Attached("brainflow:synthetic", "boards that BrainFlow knows", str(error))]
    note = f"signals that nobody measures; a real board is named by its URI, e.g. {EXAMPLE}"
    return [Attached("brainflow:synthetic", "synthetic board", note)]
