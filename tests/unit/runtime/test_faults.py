"""What befalls sensors, and what the stream of predictions shows of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_mer.errors import UsageError
from edge_mer.sinks import sink_thread
from edge_mer.types.predictions import Prediction
from tests.helpers.live_faults import FAULTS, HOP_NS, HOP_STEPS, N_HOPS, Fault, Scene
from tests.helpers.make_fault_page import PAGE, page


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_shows_in_time_and_passes(fault: Fault) -> None:
    scene = Scene()
    fault.change(scene)
    played = scene.play()
    assert [p.window_index for p in played.predictions] == list(range(N_HOPS))
    before = [p for p in played.predictions if p.window_index < 4]
    assert [p.status for p in before] == ["ok"] * 4 or fault.name.startswith("clock")  # still warming up
    shown = played.first(lambda p: p.status != "ok", since_hop=4)
    if fault.is_shown is None:
        assert shown is None
    else:
        shown = played.first(fault.is_shown, since_hop=4)
        assert shown is not None
        assert shown <= fault.within
    reasons = {reason for p in played.predictions[4:] for reason in p.reasons}
    assert reasons <= fault.reasons
    if fault.is_well_from is not None:
        late = [
            (p.window_index, p.reasons) for p in played.predictions if p.window_index >= fault.is_well_from
        ]
        assert all(reasons == () for _, reasons in late), late
    assert all(getattr(played.report.counters, name) > 0 for name in fault.counted)


def test_overload_drops_whole_windows_and_recovers() -> None:
    scene = Scene()

    def busy(prediction: Prediction) -> None:
        if prediction.window_index == 3:
            scene.clock.advance_ns(4 * HOP_NS)  # something else had the processor

    played = scene.play(busy)
    assert [p.window_index for p in played.predictions] == list(range(N_HOPS))
    dropped = [p.window_index for p in played.predictions if p.reasons == ("overloaded",)]
    assert dropped[0] == 4
    assert dropped == list(range(4, 4 + len(dropped)))
    assert 2 <= len(dropped) <= 4
    assert played.report.counters.n_dropped_steps == len(dropped) * HOP_STEPS
    assert played.predictions[-1].status == "ok"
    assert all(p.affect is None for p in played.predictions if p.window_index in dropped)


@dataclass
class Disk:
    """A sink that hangs, or that is full after some predictions."""

    released: threading.Event = field(default_factory=threading.Event)
    room: int = 1000
    target: Path | None = None
    written: list[Prediction] = field(default_factory=list)
    ending: str = ""

    def open(self) -> None: ...

    def write(self, prediction: Prediction) -> None:
        self.released.wait(30)
        if len(self.written) == self.room:
            raise UsageError("cannot go on writing", found="No space left on device")
        self.written.append(prediction)

    def close(self) -> None:
        self.ending = "closed"

    def abandon(self) -> None:
        self.ending = "abandoned"


def test_a_sink_that_hangs_delays_nobody() -> None:
    disk = Disk()

    def last(prediction: Prediction) -> None:
        if prediction.window_index == N_HOPS - 1:
            disk.released.set()

    played = Scene().play(last, beside=[disk])
    assert [p.status for p in played.predictions] == ["ok"] * N_HOPS
    assert disk.written == list(played.predictions)
    assert disk.ending == "closed"


def test_a_full_disk_ends_its_own_writing_alone() -> None:
    disk = Disk(room=3)
    disk.released.set()
    played = Scene().play(beside=[disk])
    assert [p.status for p in played.predictions] == ["ok"] * N_HOPS
    assert disk.written == list(played.predictions[:3])
    assert disk.ending == "closed"
    gathered, full = played.report.sinks()
    assert (gathered.n_dropped, gathered.trouble) == (0, "")
    assert full.n_dropped == N_HOPS - 3
    assert "No space left" in full.trouble


def test_a_slow_sink_loses_whole_predictions_and_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_thread, "MAX_WAITING", 2)
    disk = Disk()

    def sixth(prediction: Prediction) -> None:
        if prediction.window_index == 5:  # one is in its hands and two wait: the others were too many
            disk.released.set()

    played = Scene().play(sixth, beside=[disk])
    indices = [p.window_index for p in disk.written]
    assert indices == sorted(set(indices))
    assert {4, 5, N_HOPS - 1} <= set(indices)
    assert played.report.sinks()[1].n_dropped == N_HOPS - len(indices) >= 3
    assert disk.ending == "closed"


def test_where_nobody_listens_any_more_the_session_ends() -> None:
    disk = Disk(room=3)
    disk.released.set()
    with pytest.raises(UsageError, match="No space left"):
        Scene().play(beside=[disk], alone=True)


def test_the_page_says_what_is_tested() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
