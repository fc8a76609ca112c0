"""SerialSource: framings, whatever comes instead of packets, and a real serial line that is unplugged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mer.clock import MonotonicClock
from edge_mer.errors import DataError, EdgeMerError, LostError, MissingError, UsageError
from edge_mer.sources.registry import LISTERS, open_source
from edge_mer.sources.serial import SerialSource, attached
from edge_mer.sources.serial_chunks import PacketChunks
from edge_mer.sources.serial_config import MAX_PACKET_BYTES, SerialConfig
from edge_mer.sources.serial_packets import CHECKSUMS, Fields, PacketCounts, packets
from edge_mer.types.signals import Chunk
from tests.helpers.pty_pair import PtyPair
from tests.helpers.system_packages import needs

pytestmark = pytest.mark.live

NS = 1_000_000_000
MS = 1_000_000
CLOCK = MonotonicClock()

EDA = {"modality": "eda", "fields": [1]}
BINARY: dict[str, Any] = {
    "framing": "binary",
    "rate_hz": 100,
    "sync": "a55a",
    "format": "<BhfH",
    "checksum": "crc16-ccitt",
    "counter": 1,
    "streams": [
        {"modality": "eda", "fields": [2], "scale": 0.001},
        {"modality": "skt", "fields": [3]},
        {"modality": "ppg", "fields": [4], "offset": -32768},
    ],
}


def config(**changes: Any) -> SerialConfig:
    return SerialConfig.of({"rate_hz": 100, "streams": [EDA], **changes}, "test")


def cut(sensor: SerialConfig, data: bytes) -> tuple[list[Fields], PacketCounts]:
    cutter = packets(sensor)
    return cutter.feed(data), cutter.counts


def packet(number: int, eda: int = 5, skt: float = 33.5, ppg: int = 40_000, sensor: Any = BINARY) -> bytes:
    payload = struct.pack("<BhfH", number % 256, eda, skt, ppg)
    size_bytes, checksum = CHECKSUMS[sensor["checksum"]]
    return bytes.fromhex(sensor["sync"]) + payload + checksum(payload).to_bytes(size_bytes, "little")


# --- lines ------------------------------------------------------------------------------------------


def test_csv_lines() -> None:
    sensor = config(streams=[EDA, {"modality": "skt", "fields": [3]}, {"modality": "ppg", "fields": [4, 5]}])
    lines = b"99.5\n1.5, x ,33.25,7,8\r\n\n2,,,9,10\n3,,,,\n4,,,1\n,,,,\nboot: ok\n1_0,,,1,2\n1e39,,,,\n"
    lines += b"5,,nan,,\n6"
    found, counts = cut(sensor, lines)
    assert found == [{1: 1.5, 3: 33.25, 4: 7.0, 5: 8.0}, {1: 2.0, 4: 9.0, 5: 10.0}, {1: 3.0}, {1: 5.0}]
    assert (counts.n_packets, counts.n_bad, counts.n_skipped_bytes) == (4, 5, 4)


def test_csv_lines_of_a_fixed_number_of_cells() -> None:
    found, counts = cut(config(separator="\t", n_cells=2), b"\n1\t2\n1\t2\t3\n1\n4\t5\n")
    assert (found, counts.n_bad) == ([{1: 1.0}, {1: 4.0}], 2)


def test_json_lines() -> None:
    sensor = config(
        framing="json",
        counter="n",
        counter_modulo=100,
        streams=[{"modality": "eda", "fields": ["gsr"]}, {"modality": "ppg", "fields": ["red", "ir"]}],
    )
    lines = [
        '{"n": 1, "gsr": 2.5, "note": "on"}',
        '{"n": 2, "red": 1, "ir": 2, "gsr": null}',
        '{"n": 3, "red": 1}',
        '{"n": 100, "gsr": 1}',
        '{"n": 1.5, "gsr": 1}',
        '{"gsr": 1}',
        '{"n": 4, "gsr": true}',
        '{"n": 5, "gsr": NaN}',
        '{"n": 6, "gsr": 1e999}',
        "[1, 2]",
        "{",
        "[" * 3000,
        '{"n": 7, "gsr": -1}',
    ]
    found, counts = cut(sensor, ("cut off\n" + "\n".join(lines) + "\n").encode())
    assert found == [{"n": 1.0, "gsr": 2.5}, {"n": 2.0, "red": 1.0, "ir": 2.0}, {"n": 7.0, "gsr": -1.0}]
    assert counts.n_bad == len(lines) - 3


@pytest.mark.parametrize("text", ["1" * 400, '{"a":' + "9" * 400 + "}"])
def test_numbers_without_end(text: str) -> None:
    framing = "json" if text.startswith("{") else "csv"
    fields: list[Any] = ["a"] if framing == "json" else [1]
    sensor = config(framing=framing, streams=[{"modality": "eda", "fields": fields}])
    assert cut(sensor, f"\n{text}\n".encode())[1].n_bad == 1


def test_a_line_without_end_is_bounded() -> None:
    cutter = packets(config())
    cutter.feed(b"\n")
    for _ in range(50):
        assert cutter.feed(b"7" * MAX_PACKET_BYTES) == []
    assert len(cutter._held) <= MAX_PACKET_BYTES + 1  # type: ignore[attr-defined]
    assert cutter.feed(b"\n8\n") == [{1: 8.0}]
    assert cutter.counts.n_bad == 1


# --- binary packets ---------------------------------------------------------------------------------


def test_binary_packets_between_garbage() -> None:
    good = [packet(number) for number in range(4)]
    broken = bytearray(packet(9))
    broken[5] ^= 0x10
    data = b"\x00\xa5" + good[0] + b"noise" + good[1] + bytes(broken) + good[2] + good[3][:-1]
    found, counts = cut(SerialConfig.of(BINARY, "test"), data)
    assert found == [{1: float(n), 2: 5.0, 3: 33.5, 4: 40_000.0} for n in range(3)]
    assert (counts.n_packets, counts.n_bad) == (3, 1)
    assert counts.n_skipped_bytes == 2 + 5 + len(broken)


@pytest.mark.parametrize(
    ("name", "found"),
    [("xor8", 0x31), ("sum8", 0xDD), ("crc8", 0xF4), ("crc16-ccitt", 0x29B1), ("crc16-modbus", 0x4B37)],
)
def test_checksums_of_the_usual_check_string(name: str, found: int) -> None:
    assert CHECKSUMS[name][1](b"123456789") == found


@pytest.mark.parametrize("checksum", CHECKSUMS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("over", ["payload", "all"])
def test_every_checksum_and_order(checksum: str, order: str, over: str) -> None:
    sensor = config(
        framing="binary", sync="5aff01", format=f"{order}Hx", checksum=checksum, checksum_over=over
    )
    payload = struct.pack(f"{order}Hx", 1027)
    size_bytes, sum_of = CHECKSUMS[checksum]
    covered = bytes.fromhex("5aff01") + payload if over == "all" else payload
    end = sum_of(covered).to_bytes(size_bytes, "little" if order == "<" else "big")
    found, counts = cut(sensor, b"\x5a" + bytes.fromhex("5aff01") + payload + end)
    assert (found, counts.n_bad) == ([{1: 1027.0}], 0)


@given(
    data=st.binary(max_size=400), sizes=st.lists(st.integers(1, 60), max_size=30), framing=st.integers(0, 2)
)
def test_garbage_is_never_more_than_counted(data: bytes, sizes: list[int], framing: int) -> None:
    sensor = (
        config(),
        config(framing="json", streams=[{"modality": "eda", "fields": ["a"]}]),
        SerialConfig.of({**BINARY, "sync": "00", "checksum": "none"}, "test"),
    )[framing]
    whole, counts = cut(sensor, data)
    piecewise, rest = packets(sensor), data
    found: list[Fields] = []
    for size in sizes:
        found += piecewise.feed(rest[:size])
        rest = rest[size:]
    found += piecewise.feed(rest)
    assert found == whole
    assert piecewise.counts == counts
    values = [value for fields in whole for value in fields.values()]
    assert np.isfinite(np.array(values, np.float32)).all()
    PacketChunks(sensor, 0, counts).take(whole, NS)


@given(
    numbers=st.lists(st.integers(0, 255), min_size=1, max_size=12),
    noise=st.lists(st.binary(max_size=12), min_size=13, max_size=13),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 7)), max_size=3),
)
def test_no_packet_that_was_not_sent(
    numbers: list[int], noise: list[bytes], flips: list[tuple[int, int]]
) -> None:
    sent = [packet(number, eda=number * 7) for number in numbers]
    data = bytearray(b"".join(gap + one for gap, one in zip(noise, [*sent, b""], strict=False)))
    for position, bit in flips:
        data[position % len(data)] ^= 1 << bit
    found, _ = cut(SerialConfig.of(BINARY, "test"), bytes(data))
    true = {(float(number), number * 7.0) for number in numbers}
    wrong = [fields for fields in found if (fields[1], fields[2]) not in true]
    # up to 3 flipped bits are always seen; noise is a packet by chance once in 2 ** 32
    assert not wrong


# --- chunks -----------------------------------------------------------------------------------------


def chunks_of(sensor: SerialConfig, *blocks: tuple[int, list[Fields]]) -> tuple[list[Chunk], PacketCounts]:
    counts = PacketCounts()
    maker = PacketChunks(sensor, 0, counts)
    return [chunk for arrived_ns, block in blocks for chunk in maker.take(block, arrived_ns)], counts


def counted(*numbers: int) -> list[Fields]:
    return [{1: float(number), 2: float(number)} for number in numbers]


COUNTED = config(
    framing="binary", sync="00", format="<Bh", counter=1, streams=[{"modality": "eda", "fields": [2]}]
)


def test_a_block_ends_on_arrival() -> None:
    (first, second), counts = chunks_of(COUNTED, (NS, counted(250, 251)), (2 * NS, counted(252)))
    assert (first.t_ns, first.arrived_ns, first.seq) == (NS - 20 * MS, NS, 0)
    assert (second.t_ns, second.arrived_ns, second.seq) == (2 * NS - 10 * MS, 2 * NS, 1)
    assert first.data.tolist() == [[250.0], [251.0]]
    assert (first.time_basis, counts.n_lost) == ("arrival", 0)


def test_lost_packets_part_chunks() -> None:
    found, counts = chunks_of(COUNTED, (NS, counted(254, 255, 0, 3, 4, 6)))
    assert [(chunk.t_ns, chunk.data[:, 0].tolist()) for chunk in found] == [
        (NS - 90 * MS, [254.0, 255.0, 0.0]),
        (NS - 40 * MS, [3.0, 4.0]),
        (NS - 10 * MS, [6.0]),
    ]
    assert counts.n_lost == 3


def test_a_counter_that_begins_anew_lost_nothing() -> None:
    _, counts = chunks_of(COUNTED, (NS, counted(100, 101)), (2 * NS, counted(0, 1)))
    assert counts.n_lost == 0
    # 100 packets at 100 Hz cannot be lost within 10 ms
    sensor = COUNTED.model_copy(update={"counter_modulo": 1 << 16})
    _, counts = chunks_of(sensor, (NS, counted(5)), (NS + 10 * MS, counted(5 + 102 + 1)))
    assert counts.n_lost == 0


def test_several_samples_per_packet_and_a_slow_stream() -> None:
    sensor = config(
        streams=[
            {"modality": "ppg", "fields": [1, 2]},
            {"modality": "skt", "fields": [3], "rate_hz": 4},
            {"modality": "ecg", "fields": [4], "unit": "uV"},
        ]
    )
    block: list[Fields] = [{1: 1, 2: 2, 4: 1500}, {1: 3, 2: 4, 3: 33, 4: 2500}]
    found, _ = chunks_of(sensor, (NS, block))
    assert [(chunk.stream, NS - chunk.t_ns, chunk.data[:, 0].tolist()) for chunk in found] == [
        ("serial/ppg", 20 * MS, [1, 2, 3, 4]),
        ("serial/skt", 250 * MS, [33]),
        ("serial/ecg", 20 * MS, [1.5, 2.5]),
    ]
    assert [sensor.rate_of(stream) for stream in sensor.streams] == [200, 4, 100]


# --- descriptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"streams": []}, "streams"),
        ({"streams": [EDA, EDA]}, "each modality is one stream"),
        ({"streams": [{"modality": "audio", "fields": [1]}]}, "one of eda"),
        ({"streams": [{"modality": "eda", "fields": [0]}]}, "greater than or equal to 1"),
        ({"streams": [{"modality": "eda", "fields": ["gsr"]}]}, "numbers from 1 on"),
        ({"streams": [{**EDA, "unit": "mV"}]}, "unit of eda is uS"),
        ({"streams": [{**EDA, "scale": 0}]}, "any number but 0"),
        ({"streams": [{**EDA, "scale": float("nan")}]}, "finite"),
        ({"streams": [{**EDA, "gain": 2}]}, "gain"),
        ({"rate_hz": None}, "no rate"),
        ({"rate_hz": 0}, "greater than 0"),
        ({"baud": 1}, "baud"),
        ({"framing": "xml"}, "framing"),
        ({"framing": "json"}, "are keys"),
        ({"n_cells": 1, "streams": [{"modality": "eda", "fields": [2]}]}, "no field 2"),
        ({"counter": 2}, "needs counter_modulo"),
        ({"sync": "a5"}, "belong to framing binary"),
        ({"framing": "binary"}, "needs sync"),
        ({"framing": "binary", "sync": "xy", "format": "<h"}, "hexadecimal"),
        ({"framing": "binary", "sync": "a5", "format": "hh"}, "format is e.g."),
        ({"framing": "binary", "sync": "a5", "format": "<9999999999h"}, "no packet of 1"),
        ({"framing": "binary", "sync": "a5", "format": "<4"}, "no packet of 1"),
        ({"framing": "binary", "sync": "a5", "format": "<h", "counter": 1}, "no B, H or I"),
        (
            {
                "framing": "binary",
                "sync": "a5",
                "format": "<h",
                "streams": [{"modality": "eda", "fields": [2]}],
            },
            "no field 2",
        ),
    ],
)
def test_wrong_descriptions(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        config(**changes)


def test_a_file_and_a_uri_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "sensor.json"
    file.write_text(json.dumps(BINARY), encoding="utf-8")
    by_file = SerialSource(f"/dev/null?config={file}&latency_ms=3").settings
    keys = (
        "framing=binary&rate_hz=100&sync=a55a&format=%3CBhfH&checksum=crc16-ccitt&counter=1"
        "&eda=2&eda.scale=0.001&skt=3&ppg=4&ppg.offset=-32768&latency_ms=3"
    )
    by_keys = SerialSource(f"/dev/null?{keys}").settings
    assert {s.modality: s for s in by_keys.described().streams} == {
        s.modality: s for s in by_file.described().streams
    }
    drop = {"streams": ()}
    assert by_keys.described().model_copy(update=drop) == by_file.described().model_copy(update=drop)
    assert by_keys.latency_ns == by_file.latency_ns == 3 * MS


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "no device"),
        ("/dev/ttyUSB0", "neither config nor keys"),
        ("/dev/ttyUSB0?config=a.json&baud=9600", "both config and baud"),
        ("/dev/ttyUSB0?eda=1", "no rate"),
        ("/dev/ttyUSB0?eda=1&rate_hz=4&speed=9600", "unknown key 'speed'"),
        ("/dev/ttyUSB0?eda=1&rate_hz=4&eda.gain=2", "unknown key"),
        ("/dev/ttyUSB0?eda.scale=1&rate_hz=4", "fields"),
        ("/dev/ttyUSB0?eda=1&rate_hz=x", "rate_hz"),
    ],
)
def test_wrong_uris(rest: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_source(f"serial:{rest}")


@pytest.mark.parametrize(
    ("text", "error"), [("{", DataError), ("[]", DataError), ('{"baud": 9600}', UsageError)]
)
def test_wrong_files(tmp_path: Path, text: str, error: type[EdgeMerError]) -> None:
    file = tmp_path / "sensor.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(error, match="sensor"):
        open_source(f"serial:/dev/null?config={file}").ensure_ready()
    with pytest.raises(DataError, match="not found"):
        open_source(f"serial:/dev/null?config={tmp_path}/none.json").ensure_ready()


# --- a real line ------------------------------------------------------------------------------------


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyPair]:
    pytest.importorskip("serial", reason="needs pyserial: pip install 'edge-mer[bio]'")
    found = PtyPair(tmp_path)
    found.plug()
    yield found
    found.unplug()


def read_until(source: SerialSource, is_enough: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    chunks: list[Chunk] = []
    until_ns = CLOCK.now_ns() + 5 * NS
    while not is_enough(chunks):
        assert CLOCK.now_ns() < until_ns, "not within 5 s"
        chunk = source.read(100)
        chunks += [] if chunk is None else [chunk]
    return chunks


@needs("socat")
def test_a_line_that_is_unplugged_and_plugged_in_again(line: PtyPair) -> None:
    source = SerialSource(f"{line.port}?rate_hz=50&eda=1&eda.scale=0.001&skt=2&latency_ms=4")
    try:
        source.start()
        assert [(spec.name, spec.unit, spec.rate_hz) for spec in source.specs] == [
            ("serial/eda", "uS", 50.0),
            ("serial/skt", "degC", 50.0),
        ]
        line.write(b"...half a line\n")
        before_ns = CLOCK.now_ns()
        line.write(b"2500,33.5\nrubbish\n2600,33.6\n")
        chunks = read_until(source, lambda found: sum(c.n_samples for c in found) == 4)
        values = {m: [v for c in chunks if c.modality == m for v in c.data[:, 0]] for m in ("eda", "skt")}
        assert values["eda"] == pytest.approx([2.5, 2.6])
        assert values["skt"] == pytest.approx([33.5, 33.6])
        assert all(before_ns - 44 * MS <= c.t_ns < c.t_ns + 24 * MS <= (c.arrived_ns or 0) for c in chunks)
        assert (source.counts.n_packets, source.counts.n_bad) == (2, 1)

        line.unplug()
        unplugged_ns = CLOCK.now_ns()
        with pytest.raises(LostError, match="is gone"):
            read_until(source, lambda found: False)
        assert CLOCK.now_ns() - unplugged_ns < NS
        source.ensure_stopped()
        with pytest.raises(MissingError, match="cannot be opened"):
            source.ensure_ready()

        line.plug()
        source.start()
        line.write(b"\n1000,30\n")
        again = read_until(source, lambda found: len(found) == 2)
        assert [chunk.seq for chunk in again] == [0, 0]
    finally:
        source.ensure_stopped()
        source.ensure_stopped()


@needs("socat")
def test_a_binary_sensor_and_its_counter(line: PtyPair, tmp_path: Path) -> None:
    file = tmp_path / "sensor.json"
    file.write_text(json.dumps(BINARY), encoding="utf-8")
    source = SerialSource(f"{line.port}?config={file}")
    try:
        source.start()
        line.write(b"\xff" + packet(0)[4:] + b"".join(packet(n, eda=n) for n in (1, 2, 5)))
        chunks = read_until(source, lambda found: sum(c.n_samples for c in found if c.modality == "eda") == 3)
        eda = np.concatenate([c.data[:, 0] for c in chunks if c.modality == "eda"])
        assert eda.tolist() == pytest.approx([0.001, 0.002, 0.005])
        assert (source.counts.n_lost, source.counts.n_bad) == (2, 0)
    finally:
        source.ensure_stopped()


@needs("socat")
def test_a_port_has_one_reader(line: PtyPair) -> None:
    first = SerialSource(f"{line.port}?rate_hz=50&eda=1")
    second = SerialSource(f"{line.port}?rate_hz=50&eda=1")
    try:
        first.ensure_ready()
        with pytest.raises(MissingError, match="close the other program"):
            second.ensure_ready()
    finally:
        first.ensure_stopped()
        second.ensure_stopped()


def test_ports_are_listed() -> None:
    assert LISTERS["serial"] == "edge_mer.sources.serial:attached"
    assert all(device.uri.startswith("serial:") for device in attached())
