"""A session in a thread: what is read, lost, waited for and raised, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge_mer.clock import NS_PER_S, ManualClock
from edge_mer.errors import DataError, UsageError
from edge_mer.runtime.async_session import AsyncSession
from edge_mer.runtime.live_session import Session
from edge_mer.runtime.pipeline import Pipeline
from edge_mer.runtime.prediction_queue import PredictionQueue
from edge_mer.types.predictions import Prediction
from tests.helpers.fake_session import FakeSink, FakeSource, opened, session_of
from tests.helpers.tiny_session import TinySession

N = 6
"""Predictions of a `TinySession(6)`."""
STEP_NS = 8 * NS_PER_S // 30


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in left if thread.name == "edge-mer session"]


def recording(n_steps: int = N, **how: Any) -> FakeSource:
    return FakeSource(TinySession(n_steps), **how)


def sensor(clock: ManualClock, n_steps: int = N, **how: Any) -> FakeSource:
    return FakeSource(TinySession(n_steps), clock, is_live=True, **how)


def watch_without_a_loop(session: Session) -> list[Prediction | None]:
    """Ask for the newest until there is nothing more to come; all answers."""
    answers = []
    while session.is_running:
        answers.append(session.latest(max_age_ms=1))
        threading.Event().wait(0.002)  # a robot has something else to do
    return answers


def expected() -> list[Any]:
    """What the pipeline itself says, without any thread."""
    played, setup = TinySession(N), opened([]).setup
    pipeline = Pipeline(setup, played.specs, ManualClock())
    predictions = [p for chunk in played.chunks() for p in pipeline.push(chunk)] + pipeline.finish()
    return [prediction.affect for prediction in predictions]


# -- reading --------------------------------------------------------------------------------------


def test_a_loop_gets_every_prediction_and_ends_with_the_recording() -> None:
    sink, source = FakeSink(), recording()
    with session_of(source, sinks=[sink]) as session:
        found = list(session)
        assert not session.is_running
    assert [prediction.affect for prediction in found] == expected()
    assert [prediction.window_index for prediction in found] == list(range(N))
    assert sink.written == found
    assert sink.done == ["open", "write", "close"]
    assert source.is_stopped
    assert (session.n_dropped, session.report.n_predictions, session.counters.n_steps) == (0, N, N)


def test_a_live_source_gives_the_same_numbers() -> None:
    clock = ManualClock(start_ns=7_000 * NS_PER_S)
    with session_of(sensor(clock), clock=clock, fast=False) as session:
        assert session.is_live
        found = list(session)
    assert [prediction.affect for prediction in found] == expected()
    waits_ms = [prediction.latency_ms.wait for prediction in found]
    assert all(wait_ms is not None and -40 <= wait_ms <= 1_000 for wait_ms in waits_ms), waits_ms


def test_two_live_sources_come_together() -> None:
    clock = ManualClock()
    sources = [
        FakeSource(TinySession(N, streams=(stream,)), clock, is_live=True) for stream in ("visual", "audio")
    ]
    with session_of(*sources, clock=clock, fast=False) as session:
        found = list(session)
    assert [prediction.affect for prediction in found] == expected()


def test_a_recording_waits_for_its_reader() -> None:
    """With room for one, the thread is never more than that ahead: one held, one in its hand."""
    with session_of(recording(12), max_queue=1) as session:
        for n_taken, prediction in enumerate(session, 1):
            assert prediction.window_index == n_taken - 1
            threading.Event().wait(0.01)  # time enough to run ahead
            assert session.report.n_predictions <= n_taken + 2
    assert (n_taken, session.n_dropped) == (12, 0)


def test_a_live_session_drops_the_oldest_for_a_slow_reader() -> None:
    clock, gate = ManualClock(), threading.Event()
    source = sensor(clock, gate=gate)
    with session_of(source, clock=clock, fast=False, max_queue=2) as session:
        reading = iter(session)
        gate.set()
        session.wait()
        found = list(reading)
    assert [prediction.window_index for prediction in found] == [N - 2, N - 1]
    assert session.n_dropped == N - 2


def test_leaving_the_loop_lets_a_recording_play_on() -> None:
    sink = FakeSink()
    with session_of(recording(12), sinks=[sink], max_queue=1) as session:
        for prediction in session:
            assert prediction.window_index == 0
            break
        session.wait()
    assert len(sink.written) == 12
    assert session.n_dropped == 0


def test_a_session_can_be_watched_without_a_loop() -> None:
    """Neither callbacks nor `wait` may be held up by a queue that nobody empties."""
    seen: list[Prediction] = []
    with session_of(recording(12), max_queue=1, callbacks=[seen.append]) as session:
        session.wait()
        assert not session.is_running
    assert [prediction.window_index for prediction in seen] == list(range(12))
    assert session.n_dropped == 0


def test_callbacks_alone_need_no_wait() -> None:
    enough = threading.Event()

    def last(prediction: Prediction) -> None:
        if prediction.window_index == 11:
            enough.set()

    with session_of(recording(12), max_queue=1, callbacks=[last]):
        assert enough.wait(30)


def test_asking_for_the_latest_alone_does_not_hold_up_a_recording() -> None:
    clock = ManualClock()
    with session_of(recording(12), clock=clock, max_queue=1) as session:
        watch_without_a_loop(session)
        newest = session.latest(max_age_ms=1)
    assert newest is not None
    assert newest.window_index == 11


def test_a_loop_that_comes_late_is_told_of_its_loss() -> None:
    with session_of(recording(12), max_queue=4) as session:
        session.wait()
        assert session.n_dropped == 0
        found = list(session)
    assert [prediction.window_index for prediction in found] == [8, 9, 10, 11]
    assert session.n_dropped == 8


# -- the newest -----------------------------------------------------------------------------------


def test_the_latest_is_never_stale() -> None:
    clock = ManualClock(start_ns=5 * NS_PER_S)

    class SlowSink(FakeSink):
        def write(self, prediction: Prediction) -> None:
            clock.advance_ns(50_000_000)  # what took time until it came counts

    with session_of(recording(), sinks=[SlowSink()], clock=clock, fast=False) as session:
        found = list(session)
        newest = found[-1]
        age_ns = clock.now_ns() - 5 * NS_PER_S - newest.t_end_ns
        clock.advance_ns(500_000_000 - age_ns)
        assert session.latest(max_age_ms=500) is newest
        clock.advance_ns(1)
        assert session.latest(max_age_ms=500) is None
        assert session.latest(max_age_ms=501) is newest


def test_the_latest_of_a_fast_session_ages_from_when_it_was_made() -> None:
    clock = ManualClock()
    with session_of(recording(), clock=clock) as session:
        newest = list(session)[-1]
        assert session.latest(max_age_ms=500) is newest
        clock.advance_ns(500_000_001)
        assert session.latest(max_age_ms=500) is None


def test_there_is_no_latest_before_the_first() -> None:
    gate = threading.Event()
    with session_of(recording(gate=gate)) as session:
        assert session.latest(max_age_ms=1e9) is None
    assert session.report.n_predictions == 0


@pytest.mark.parametrize("max_age_ms", [0, -1, float("nan")])
def test_an_age_must_be_one(max_age_ms: float) -> None:
    with pytest.raises(UsageError, match="max_age_ms"):
        session_of(recording()).latest(max_age_ms)


# -- ending early ---------------------------------------------------------------------------------


def test_leaving_early_stops_a_silent_sensor_and_keeps_what_was_written() -> None:
    clock, sink = ManualClock(), FakeSink()
    source = sensor(clock, is_endless=True)
    with session_of(source, sinks=[sink], clock=clock, fast=False) as session:
        next(iter(session))
        assert session.is_running
    assert not session.is_running
    assert source.is_stopped
    assert sink.done == ["open", "write", "close"]


def test_leaving_early_frees_a_thread_that_waits_for_its_reader() -> None:
    source = recording(12)
    with session_of(source, max_queue=1) as session:
        next(iter(session))
    assert source.is_stopped
    assert session.report.n_predictions <= 4


def test_stop_ends_a_loop_which_still_gets_what_was_made() -> None:
    clock = ManualClock()
    source = sensor(clock, is_endless=True)
    with session_of(source, clock=clock, fast=False) as session:
        found = []
        for prediction in session:
            found.append(prediction)
            session.stop()
        assert len(found) == session.report.n_predictions


def test_a_session_may_be_stopped_before_its_first_step() -> None:
    gate = threading.Event()
    with session_of(recording(gate=gate)) as session:
        session.stop()
        assert list(session) == []


def test_a_hole_in_a_recording_does_not_hold_up_its_end() -> None:
    class Sleepy(ManualClock):
        def sleep_until_ns(self, t_ns: int) -> None:
            assert t_ns - self.now_ns() <= 200_000_000
            super().sleep_until_ns(t_ns)

    clock = Sleepy()
    source = FakeSource(TinySession(12, silent=range(1, 11), frameless=range(1, 11)))
    with session_of(source, clock=clock, fast=False) as session:
        assert len(list(session)) == 12


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals reach only the main thread"
)
def test_ctrl_c_interrupts_a_loop_that_waits() -> None:
    clock, sink = ManualClock(), FakeSink()
    source = sensor(clock, is_endless=True)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(prediction: Prediction) -> None:
        if prediction.window_index == 3:
            signal.pthread_kill(main, signal.SIGINT)

    session = session_of(source, sinks=[sink], clock=clock, fast=False, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt), session:
        for _ in session:
            pass
    assert not session.is_running
    assert sink.done[-1] == "close"


# -- errors ---------------------------------------------------------------------------------------


def test_a_source_that_cannot_be_opened_is_told_on_entering() -> None:
    sink = FakeSink()
    session = session_of(recording(fails="ensure_ready", error=DataError("no camera")), sinks=[sink])
    with pytest.raises(DataError, match="no camera"), session:
        pytest.fail("the block was entered")
    assert "write" not in sink.done
    session.close()


def test_a_source_that_fails_ends_the_loop_after_what_was_made() -> None:
    sink = FakeSink()
    found: list[Prediction] = []
    session = session_of(recording(fails="read", fails_at=100), sinks=[sink])
    with session:
        with pytest.raises(RuntimeError, match="caught fire"):
            found.extend(session)  # pytest's own block: nothing else may raise
        assert not session.is_running
    assert sink.written
    assert sink.done[-1] == "abandon"
    assert session.report.n_predictions == len(sink.written)


def test_what_ended_a_session_is_raised_once_and_on_leaving_if_not_before() -> None:
    session = session_of(recording(fails="read"))
    with pytest.raises(RuntimeError, match="caught fire"), session:
        watch_without_a_loop(session)
    session.close()
    with pytest.raises(RuntimeError, match="caught fire"), session_of(recording(fails="read")) as session:
        session.wait()


def test_an_error_in_the_block_is_not_hidden() -> None:
    source = recording(fails="read")
    with pytest.raises(ValueError, match="not in list") as caught, session_of(source) as session:
        watch_without_a_loop(session).index(None, 1 << 30)
    assert "caught fire" in str(caught.value.__context__)


def test_a_source_that_ends_at_once_is_told() -> None:
    with session_of(recording(0)) as session, pytest.raises(DataError, match="not even one step"):
        list(session)


@pytest.mark.parametrize("verb", ["open", "write", "close"])
def test_a_sink_that_fails_is_told_and_the_others_are_ended(verb: str) -> None:
    bad, good, source = FakeSink(verb), FakeSink(), recording()
    with pytest.raises(OSError, match="disk is full"), session_of(source, sinks=[bad, good]) as session:
        list(session)
    assert good.done[-1] == ("close" if verb == "close" else "abandon")
    assert source.is_stopped


def test_a_source_that_cannot_be_stopped_keeps_no_sink_from_closing() -> None:
    sink = FakeSink()
    session = session_of(recording(fails="ensure_stopped"), sinks=[sink])
    with pytest.raises(RuntimeError, match="caught fire"), session:
        list(session)
    assert sink.done[-1] == "close"


def test_a_callback_that_fails_ends_the_session_and_keeps_what_was_written() -> None:
    sink, seen = FakeSink(), []

    def fail(prediction: Prediction) -> None:
        seen.append(prediction.window_index)
        if prediction.window_index == 2:
            raise LookupError("no such robot")

    with (
        pytest.raises(LookupError, match="no such robot"),
        session_of(recording(12), sinks=[sink], callbacks=[fail]) as session,
    ):
        session.wait()
    assert seen == [0, 1, 2]
    assert sink.done[-1] == "close"
    assert [prediction.window_index for prediction in sink.written[:3]] == [0, 1, 2]


def test_a_callback_that_failed_is_not_called_again() -> None:
    """Not even for the rest of the predictions that came all at once, at the end of the recording."""
    seen: list[int] = []

    def fail(prediction: Prediction) -> None:
        seen.append(prediction.window_index)
        if prediction.window_index == 5:
            raise LookupError("no such robot")

    source = FakeSource(TinySession(12, silent=range(4, 12)))
    with pytest.raises(LookupError, match="no such robot"), session_of(source, callbacks=[fail]) as session:
        session.wait()
    assert session.report.n_predictions == 12
    assert seen == [0, 1, 2, 3, 4, 5]


def test_callbacks_are_called_in_order_and_a_slow_one_is_waited_for() -> None:
    calls: list[tuple[str, int]] = []
    free = threading.Event()

    def slow(prediction: Prediction) -> None:
        assert free.wait(30)
        calls.append(("slow", prediction.window_index))

    session = session_of(recording(2), callbacks=[slow])

    @session.on_prediction
    def quick(prediction: Prediction) -> None:
        calls.append(("quick", prediction.window_index))

    with session:
        assert session.latest(max_age_ms=1e9) is None or not calls
        free.set()
        session.wait()
    assert calls == [("slow", 0), ("quick", 0), ("slow", 1), ("quick", 1)]


# -- misuse ---------------------------------------------------------------------------------------


def test_a_session_is_iterated_once() -> None:
    with session_of(recording()) as session:
        list(session)
        with pytest.raises(UsageError, match="once"):
            iter(session)


@pytest.mark.parametrize("use", [iter, Session.wait])
def test_a_session_is_used_inside_its_block(use: Callable[[Session], object]) -> None:
    session = session_of(recording())
    with pytest.raises(UsageError, match="before it starts"):
        use(session)
    with session:
        pass
    with pytest.raises(UsageError, match="after it was closed"):
        use(session)
    with pytest.raises(UsageError, match="started once"):
        session.start()
    with pytest.raises(UsageError, match="too late"):
        session.on_prediction(print)


def test_waiting_inside_the_loop_is_refused_not_forever() -> None:
    with session_of(recording(12), max_queue=1) as session:
        for _ in session:
            with pytest.raises(UsageError, match="in the loop"):
                session.wait()
            break


@pytest.mark.parametrize("use", [Session.close, Session.wait, iter])
def test_a_callback_cannot_wait_for_its_own_session(use: Callable[[Session], object]) -> None:
    session = session_of(recording())
    session.on_prediction(lambda _: (use(session), None)[1])
    with pytest.raises(UsageError, match="from its own callback"), session:
        session.wait()


def test_what_cannot_be_called_is_no_callback() -> None:
    async def coroutine(prediction: Prediction) -> None: ...

    for wrong in (coroutine, "print"):
        with pytest.raises(UsageError, match="cannot be called"):
            session_of(recording()).on_prediction(wrong)  # type: ignore[arg-type]


def test_a_queue_has_room() -> None:
    with pytest.raises(UsageError, match="max_queue"):
        session_of(recording(), max_queue=0)


def test_live_sources_cannot_be_played_fast_or_beside_recordings() -> None:
    clock = ManualClock()
    with pytest.raises(UsageError, match="as fast as it goes"), session_of(sensor(clock), clock=clock):
        pass
    both = session_of(sensor(clock), recording(), clock=clock, fast=False)
    with pytest.raises(UsageError, match="no time in common"), both:
        pass


# -- the queue ------------------------------------------------------------------------------------


def held_up(queue: PredictionQueue, prediction: Prediction) -> threading.Thread:
    """A writer that waits for room."""
    writer = threading.Thread(target=queue.put, args=(prediction,))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    return writer


@pytest.mark.parametrize("freed_by", ["take_now", "end_reading", "stop", "clear"])
def test_a_writer_waits_until_there_is_room_or_no_reader(freed_by: str) -> None:
    with session_of(recording(1)) as session:
        (prediction,) = session
    queue = PredictionQueue(1, is_live=False)
    queue.begin_reading()
    queue.put(prediction)
    writer = held_up(queue, prediction)
    getattr(queue, freed_by)()
    writer.join(30)
    assert not writer.is_alive()
    assert queue.n_dropped == 0


# -- asyncio --------------------------------------------------------------------------------------


def test_an_async_loop_gets_every_prediction_and_the_event_loop_goes_on() -> None:
    gate, ticks = threading.Event(), []

    async def tick() -> None:
        while len(ticks) < 50:
            ticks.append(1)
            await asyncio.sleep(0)
        gate.set()  # the session waits for the event loop, not the other way round

    async def play() -> list[Prediction]:
        async with AsyncSession(lambda: session_of(recording(gate=gate), max_queue=1)) as session:
            ticking = asyncio.create_task(tick())
            found = [prediction async for prediction in session]
            await ticking
            assert (session.n_dropped, session.report.n_predictions, session.precision) == (0, N, "fp32")
            assert session.latest(1e9) is found[-1]
        return found

    assert [prediction.affect for prediction in asyncio.run(play())] == expected()


def test_cancelling_a_task_ends_its_session() -> None:
    clock, sink = ManualClock(), FakeSink()
    source = sensor(clock, is_endless=True)

    async def play(reading: asyncio.Event) -> None:
        make = lambda: session_of(source, sinks=[sink], clock=clock, fast=False)  # noqa: E731
        async with AsyncSession(make) as session:
            async for _ in session:
                reading.set()

    async def main() -> None:
        reading = asyncio.Event()
        task = asyncio.create_task(play(reading))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert source.is_stopped
    assert sink.done[-1] == "close"


def test_cancelling_while_it_opens_ends_it_too() -> None:
    opening, free = threading.Event(), threading.Event()
    sessions: list[Session] = []

    def slow() -> Session:
        opening.set()
        assert free.wait(30)
        sessions.append(session_of(recording()))
        return sessions[0]

    async def main() -> None:
        session = AsyncSession(slow)
        task = asyncio.create_task(session.__aenter__())
        await asyncio.to_thread(opening.wait)
        task.cancel()
        await asyncio.sleep(0)
        free.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not sessions[0].is_running


def test_an_async_session_raises_what_ended_it() -> None:
    async def loop() -> None:
        async with AsyncSession(lambda: session_of(recording(fails="read"))) as session:
            async for _ in session:
                pass

    async def wait() -> None:
        async with AsyncSession(lambda: session_of(recording(fails="read"))) as session:
            await session.wait()

    async def leave() -> None:
        async with AsyncSession(lambda: session_of(recording(fails="read"))) as session:
            while session.is_running:
                await asyncio.sleep(0)

    for use in (loop, wait, leave):
        with pytest.raises(RuntimeError, match="caught fire"):
            asyncio.run(use())


def test_an_async_session_can_be_waited_for_after_a_loop_was_left() -> None:
    sink = FakeSink()

    async def main() -> None:
        async with AsyncSession(lambda: session_of(recording(12), sinks=[sink], max_queue=1)) as session:
            async for _ in session:
                break
            await session.wait()

    asyncio.run(main())
    assert len(sink.written) == 12


def test_an_async_session_is_used_inside_its_block() -> None:
    async def main() -> None:
        session = AsyncSession(lambda: session_of(recording()))
        with pytest.raises(UsageError, match="before it starts"):
            _ = session.report
        assert not session.is_running
        async with session:
            assert [p.window_index async for p in session] == list(range(N))
            with pytest.raises(UsageError, match="once"):
                aiter(session)
        with pytest.raises(UsageError, match="after it was closed"):
            await anext(session)
        with pytest.raises(UsageError, match="started once"):
            await session.__aenter__()

    asyncio.run(main())


def test_what_prevents_an_async_session_is_raised_on_entering() -> None:
    def refuse() -> Session:
        raise UsageError("no such precision")

    async def main() -> None:
        with contextlib.suppress(KeyError):
            async with AsyncSession(refuse):
                pytest.fail("the block was entered")

    with pytest.raises(UsageError, match="no such precision"):
        asyncio.run(main())
