"""A clock that is set, ahead or back: what waits for a time is late or early, and happens once."""

from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Flow, Run, StepFailed, ToolTimeout, approval, flow, result, sleep, step, tool
from dispatch.core.lifecycle import Status
from dispatch.engine import steps, timers
from tests.engine.worker import Bench, Play, Worker

HOUR = 3600.0


@flow("sleeps")
async def sleeps(run: Run[Any]) -> Flow:
    yield sleep(60)


@flow("asks")
async def asks(run: Run[Any]) -> Flow:
    try:
        yield tool("a", timeout=60)
    except ToolTimeout as late:
        yield result(type(late).__name__)


@flow("decides")
async def decides(run: Run[Any]) -> Flow:
    yield result((yield approval("a", timeout=60)).outcome)


@flow("never-ends")
async def never_ends(run: Run[Any]) -> Flow:
    yield tool("a")
    await anyio.sleep_forever()


FLOWS = (sleeps, asks, decides)


async def until(worker: Worker, play: Play, status: Status) -> None:
    """Move the clock by the second at which services look, for as often as it takes."""
    with anyio.fail_after(10):
        while await play.status() is not status:
            worker.clock.advance(timers.LOOK_SECONDS)
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("waits", FLOWS, ids=lambda one: one.id)
async def test_set_ahead_it_fires_within_a_second_and_once(bench: Bench, waits: Any) -> None:
    async with bench.worker(*FLOWS) as worker:
        play = await worker.play(waits)
        worker.clock.jump(HOUR)
        await play.pass_time(timers.LOOK_SECONDS)
        assert await play.status() is Status.COMPLETED
        before = await play.entries()
        worker.clock.jump(-2 * HOUR)
        await play.pass_time(3 * HOUR)
        assert await play.entries() == before


@pytest.mark.parametrize("waits", FLOWS, ids=lambda one: one.id)
async def test_set_back_it_is_late_and_fires_once(bench: Bench, waits: Any) -> None:
    async with bench.worker(*FLOWS) as worker:
        play = await worker.play(waits)
        worker.clock.jump(-HOUR)
        await play.pass_time(HOUR)
        assert await play.status() is not Status.COMPLETED
        await play.pass_time(61)
        assert await play.status() is Status.COMPLETED
        kinds = await play.kinds()
        assert len([kind for kind in kinds if kind.endswith(("fired", "_complete"))]) == 2


async def test_the_time_limit_of_a_cancel_is_late_and_not_lost(bench: Bench) -> None:
    async with bench.worker(never_ends) as worker:
        play = await worker.play(never_ends)
        await worker.engine.dispatcher.resume(play.id, {"a": 1}, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play.cancel)
            await play.sees("dispatch.cancel_requested")
            worker.clock.jump(-HOUR)
            worker.clock.advance(HOUR)
            await until(worker, play, Status.CANCELLED)
        final = (await play.facts("execution_complete"))[-1]
        assert final["durationMs"] >= 0


@pytest.mark.parametrize("seconds", [-HOUR, HOUR], ids=["back", "ahead"])
async def test_a_backoff_is_never_longer_than_it_was_to_be(bench: Bench, seconds: float) -> None:
    attempts: list[float] = []

    @step(retries=1, backoff=60)
    async def fails() -> None:
        attempts.append(1)
        raise ValueError("no")

    @flow("fails")
    async def failing(run: Run[Any]) -> Flow:
        try:
            yield fails()
        except StepFailed:
            yield "given up"

    async with bench.worker(failing) as worker:
        play = await worker.dispatch(failing)
        await play.sees("error")
        worker.clock.jump(seconds)
        moved = 0.0
        with anyio.fail_after(10):
            while len(attempts) < 2:
                worker.clock.advance(steps.LOOK_SECONDS / 2)
                moved += steps.LOOK_SECONDS / 2
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
        await play.rest()
        assert await play.text() == "given up"
        # A backoff that has begun: ahead, it is cut short; back, it lasts as long as it was to.
        assert moved <= (70 if seconds < 0 else 10)
        complete = (await play.facts("step_complete"))[0]
        assert complete["durationMs"] >= 0


async def test_ids_and_lists_stand_a_clock_that_is_set_back(bench: Bench) -> None:
    async with bench.worker(sleeps) as worker:
        plays = []
        for jump in _jumps():
            worker.clock.jump(jump)
            plays.append((await worker.dispatch(sleeps)).id)
        assert len(set(plays)) == len(plays)
        assert [row.id for row in await worker.store.executions()] == plays[::-1]


def _jumps() -> Iterator[float]:
    yield from (0, -HOUR, 2 * HOUR, -3 * HOUR)
