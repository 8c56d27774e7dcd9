"""Steps that do not end when they are no longer wanted, or end in a way no step should."""

import logging
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Flow, Run, StepFailed, flow, gather, race, result, sleep, step
from dispatch.core.lifecycle import Status
from dispatch.engine.abandonable import THREADS
from tests.engine.worker import Bench, Worker


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """What hangs until the test is over."""
    event = threading.Event()
    yield event
    event.set()


async def until_left_behind(worker: Worker, count: int) -> None:
    with anyio.fail_after(10):
        while worker.store.counters.steps_left_behind < count:
            await anyio.lowlevel.checkpoint()


async def test_threads_that_were_left_behind_do_not_count(
    bench: Bench, released: threading.Event
) -> None:
    @step(timeout=0.01)
    def hangs() -> None:
        released.wait()

    @step
    def works() -> str:
        return "done"

    @flow("hangs")
    async def hung(run: Run[Any]) -> Flow:
        yield gather(*(hangs() for _ in range(THREADS)), settle=True)
        yield result((yield works()))

    async with bench.worker(hung) as worker:
        play = await worker.play(hung)
        assert await play.result() == "done"
        assert worker.store.counters.steps_left_behind == THREADS
    name = f"step hangs of {play.id}"
    hung_up = [one for one in threading.enumerate() if one.name == name]
    # Those would keep the process from ending.
    assert [one for one in hung_up if not one.daemon] == []
    assert len(hung_up) == THREADS


async def test_a_step_that_swallows_its_cancellation_is_left_behind(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.close_seconds = 0.01
    wanted, swallowed, gate = anyio.Event(), [], anyio.Event()

    @step
    async def deaf() -> AsyncGenerator[str, None]:
        while not wanted.is_set():
            with suppress(BaseException):
                await wanted.wait()
            swallowed.append(1)
        yield "too late"

    @step
    async def goes_on() -> None:
        await gate.wait()

    @flow("races")
    async def races(run: Run[Any]) -> Flow:
        yield race(deaf(), sleep(1))
        yield "over"
        yield goes_on()

    async with bench.worker(races) as worker:
        play = await worker.dispatch(races)
        await play.sees("dispatch.timer_set")
        worker.clock.advance(1)
        await play.sees("step_start", times=2)
        await until_left_behind(worker, 1)
        wanted.set()
        with anyio.fail_after(5):
            while len(swallowed) < 2:
                await anyio.lowlevel.checkpoint()
        gate.set()
        await play.rest()
        assert await play.status() is Status.COMPLETED
        assert await play.text() == "over"
    line = deaf.__wrapped__.__code__.co_firstlineno + 4  # type: ignore[attr-defined] # a step's
    assert f"is not wanted any more ({__file__}:{line})" in caplog.text


async def test_a_cancelled_step_has_time_to_clean_up(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cleaned = []

    @step(timeout=0.01)
    async def cleans() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            cleaned.append(1)

    @flow("cleans")
    async def flows(run: Run[Any]) -> Flow:
        with suppress(StepFailed):
            yield cleans()

    async with bench.worker(flows) as worker:
        await worker.play(flows)
        assert cleaned == [1]
        assert worker.store.counters.steps_left_behind == 0
    assert caplog.text == ""


async def test_a_step_that_recurses_fails(bench: Bench) -> None:
    def deeper(depth: int) -> int:
        return deeper(depth + 1)

    @step
    async def recurses() -> int:
        return deeper(0)

    @step
    def recurses_in_a_thread() -> int:
        return deeper(0)

    @step
    async def encodes() -> Any:
        nested: list[Any] = []
        for _ in range(100_000):
            nested = [nested]
        return nested

    @flow("recurses")
    async def recursive(run: Run[Any]) -> Flow:
        failed = yield gather(recurses(), recurses_in_a_thread(), encodes(), settle=True)
        yield result([str(one.error) for one in failed])

    async with bench.worker(recursive) as worker:
        play = await worker.play(recursive)
        said = await play.result()
        assert ["recursion depth exceeded" in one for one in said] == [True] * 3, said


async def test_what_a_thread_raises_ends_its_step_and_nothing_else(bench: Bench) -> None:
    @step
    def stops() -> None:
        raise StopIteration("no more")

    @step
    def exits() -> None:
        raise SystemExit(3)

    @flow("stops")
    async def flows(run: Run[Any]) -> Flow:
        failed = yield gather(stops(), exits(), settle=True)
        yield result([str(one.error) for one in failed])

    async with bench.worker(flows) as worker:
        play = await worker.play(flows)
        said = await play.result()
    assert "no more" in said[0]
    assert "SystemExit: 3" in said[1]


async def test_what_replaces_os_exit_is_gone_with_the_last_worker(bench: Bench) -> None:
    before = os._exit
    async with bench.worker():
        inner = os._exit
        async with bench.worker():
            assert len({before, inner, os._exit}) == 3
        assert os._exit is inner
    assert os._exit is before
