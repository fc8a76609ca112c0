"""From the packets of a serial sensor to chunks, with what was lost between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_mer.clock import NS_PER_S
from edge_mer.sources.serial_config import SerialConfig, SerialStream
from edge_mer.sources.serial_packets import Fields, PacketCounts
from edge_mer.types.signals import UNITS, Chunk, StreamSpec


class PacketChunks:
    """Chunks of the packets that came at once: the last sample of the last one was captured on arrival.

    Packets that the sensor's counter misses between them part the chunks; those missing before the first show
    in its time of arrival anyway.

    Args:
        config: The sensor.
        latency_ns: How long before its arrival a packet was complete.
        counts: Is told of lost packets.
    """

    def __init__(self, config: SerialConfig, latency_ns: int, counts: PacketCounts) -> None:
        self._config, self._latency_ns, self._counts = config, latency_ns, counts
        self._last_counter: int | None = None
        self._last_arrived_ns: int | None = None
        self._seqs = dict.fromkeys((stream.modality for stream in config.streams), 0)

    def take(self, packets: Sequence[Fields], arrived_ns: int) -> list[Chunk]:
        """The chunks of these packets, of each stream in order of time.

        Args:
            packets: What came at once, oldest first.
            arrived_ns: When.
        """
        if not packets:
            return []
        losses = [self._lost_before(fields, arrived_ns) for fields in packets]
        self._last_arrived_ns = arrived_ns
        runs: list[list[int]] = []
        for index, lost in enumerate(losses):
            if lost or not runs:
                runs.append([])
            runs[-1].append(index)
        chunks = []
        for run in runs:
            n_after = sum(1 + lost for lost in losses[run[-1] + 1 :])
            chunks += self._chunks([packets[index] for index in run], n_after, arrived_ns)
        return chunks

    def _lost_before(self, fields: Fields, arrived_ns: int) -> int:
        name, modulo = self._config.counter, self._config.modulo
        if name is None or modulo is None:
            return 0
        last, self._last_counter = self._last_counter, int(fields[name])
        lost = 0 if last is None else (self._last_counter - last - 1) % modulo
        if lost >= modulo // 2 or not self._is_credible(lost, arrived_ns):
            return 0  # the sensor began to count anew
        self._counts.n_lost += lost
        return lost

    def _is_credible(self, lost: int, arrived_ns: int) -> bool:
        """Whether so many packets had the time to get lost, with a second of doubt."""
        if self._last_arrived_ns is None or self._config.rate_hz is None:
            return True
        return lost / self._config.rate_hz <= (arrived_ns - self._last_arrived_ns) / NS_PER_S + 1

    def _chunks(self, packets: Sequence[Fields], n_after: int, arrived_ns: int) -> list[Chunk]:
        chunks = []
        for stream in self._config.streams:
            rate_hz = self._config.rate_of(stream)
            values = _values(stream, packets)
            if not values:
                continue
            packets_hz = self._config.rate_hz or rate_hz / len(stream.fields)
            age_s = n_after / packets_hz + len(values) / rate_hz
            chunks.append(
                Chunk(
                    stream=f"serial/{stream.modality}",
                    modality=stream.modality,
                    seq=self._seqs[stream.modality],
                    t_ns=arrived_ns - round(age_s * NS_PER_S) - self._latency_ns,
                    data=np.array(values, np.float32)[:, np.newaxis],
                    time_basis="arrival",
                    arrived_ns=arrived_ns,
                )
            )
            self._seqs[stream.modality] += 1
        return chunks


def _values(stream: SerialStream, packets: Sequence[Fields]) -> list[float]:
    return [stream.value(fields[name]) for fields in packets for name in stream.fields if name in fields]


def spec_of(stream: SerialStream, rate_hz: float) -> StreamSpec:
    """How a stream is described.

    Args:
        stream: Of the config.
        rate_hz: Samples per second.
    """
    return StreamSpec(
        name=f"serial/{stream.modality}",
        modality=stream.modality,
        axes=("sample", "channel"),
        shape=(None, 1),
        dtype="float32",
        rate_hz=rate_hz,
        unit=UNITS[stream.modality],
        channels=(stream.modality,),
    )
