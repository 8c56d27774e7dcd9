"""A dispatch may limit how long its execution takes: it is cancelled then, and has failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from dispatch import Cancelled, Flow, Run, continue_as, flow, sleep, step, tool
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench, Worker


@step
async def endless() -> None:
    await anyio.Event().wait()


@flow("naps")
async def naps(run: Run[Any]) -> Flow:
    yield sleep(3600)


@flow("stubborn")
async def stubborn(run: Run[Any]) -> Flow:
    try:
        yield tool("look")
    except Cancelled:
        yield "undoing"
        yield endless()


@flow("segments")
async def segments(run: Run[Any]) -> Flow:
    yield sleep(6)
    yield continue_as("again")


@pytest.fixture
async def worker(bench: Bench) -> AsyncIterator[Worker]:
    async with bench.worker(naps, stubborn, segments) as worker:
        yield worker


async def test_it_fails_when_its_time_is_over(worker: Worker) -> None:
    play = await worker.play(naps, timeout=10.0)
    await play.pass_time(9)
    assert await play.status() is Status.RUNNING
    await play.pass_time(1)
    assert await play.status() is Status.FAILED
    assert (await play.failure()).code == "flow-timeout"


async def test_one_that_goes_on_nevertheless_is_ended(worker: Worker) -> None:
    play = await worker.play(stubborn, timeout=10.0)
    worker.clock.advance(10)
    await play.sees("step_start")
    assert await play.text() == "undoing"
    await play.pass_time(worker.engine.cancel_seconds)
    assert await play.status() is Status.FAILED
    assert (await play.failure()).code == "flow-timeout"


async def test_one_that_is_being_cancelled_stays_cancelled(worker: Worker) -> None:
    play = await worker.play(stubborn, timeout=5.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(play.cancel)
        await play.sees("step_start")
        # Its time is over while it undoes what it did.
        worker.clock.advance(5)
        await play.timers_fired()
        assert await play.status() is Status.RUNNING
        worker.clock.advance(worker.engine.cancel_seconds)
    assert await play.status() is Status.CANCELLED


async def test_it_runs_on_through_segments(worker: Worker) -> None:
    play = await worker.play(segments, timeout=10.0)
    await play.pass_time(6)
    assert await play.status() is Status.RUNNING
    await play.pass_time(4)
    assert (await play.failure()).code == "flow-timeout"


async def test_a_parked_one_ends_as_well(bench: Bench) -> None:
    async with bench.worker(naps) as before:
        play = await before.play(naps, timeout=10.0)
    async with bench.worker(stubborn) as after:
        play = play.at(after)
        await play.pass_time(10)
        assert await play.status() is Status.FAILED
        assert (await play.failure()).code == "flow-timeout"
