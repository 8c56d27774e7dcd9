"""What comes to rest is rehearsed: one at a time, the newest first, and nobody waits for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from dispatch import Flow, Run, flow, sleep, tool
from dispatch.core.lifecycle import Status
from dispatch.engine import rehearsals
from dispatch.engine.rehearsals import Rehearsals
from dispatch.flow import Registry
from dispatch.store.base import Execution
from tests.engine.worker import PATIENCE_SECONDS, Bench, Worker

begun: list[str] = []
slow: list[anyio.Event] = []


@flow("plain")
async def plain(run: Run[Any]) -> Flow:
    begun.append(run.id)
    for one in slow:
        await one.wait()
    yield tool("ask")


@flow("counts")
async def counts(run: Run[Any]) -> Flow:
    begun.append(run.id)
    yield tool(f"ask_{len(begun)}")


@flow("fails")
async def fails(run: Run[Any]) -> Flow:
    begun.append(run.id)
    yield "Not for long."
    raise RuntimeError("boom")


@flow("rests")
async def rests(run: Run[Any]) -> Flow:
    yield sleep(5)
    yield tool("ask")
    yield "Done."


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    begun.clear()
    slow.clear()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "dispatch.db", 1000)


def of(worker: Worker) -> Rehearsals:
    return Rehearsals(worker.store, Registry([plain, counts, fails]), worker.clock)


async def until(count: int, things: Sequence[object] = begun) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while len(things) < count:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("max_live", [0, 1000])
async def test_it_is_told_of_every_suspension_and_of_the_end(bench: Bench, max_live: int) -> None:
    told: list[Execution] = []
    bench.max_live, bench.at_rest = max_live, told.append
    async with bench.worker(rests) as worker:
        play = await worker.play(rests)
        await until(1, told)  # it waits for time only: nobody else is asked for anything
        await play.pass_time(5)
        await until(2, told)
        await play.answer("ask", 1)
        await until(3, told)
    assert [one.id for one in told] == [play.id] * 3
    assert told[-1].status is Status.COMPLETED


async def test_the_newest_is_first_and_each_has_one_turn(bench: Bench) -> None:
    async with bench.worker(plain) as worker:
        plays = [await worker.play(plain) for _ in range(3)]
        a, b, c = [await play.execution() for play in plays]
        begun.clear()
        found = of(worker)
        for one in (a, b, c, a):
            found.at_rest(one)
        async with found.running():
            await until(3)
        assert begun == [a.id, c.id, b.id]


async def test_too_many_at_once_are_left_out_the_oldest_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsals, "MAX_WAITING", 2)
    async with bench.worker(plain) as worker:
        plays = [await worker.play(plain) for _ in range(3)]
        executions = [await play.execution() for play in plays]
        begun.clear()
        found = of(worker)
        for one in executions:
            found.at_rest(one)
        async with found.running():
            await until(2)
            found.at_rest(executions[0])
            await until(3)
        assert begun == [one.id for one in reversed(executions)]


async def test_a_problem_is_logged_and_changes_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.worker(counts, plain) as worker:
        wrong = await worker.play(counts)
        entries = await wrong.entries()
        right = await worker.play(plain)
        found = of(worker)
        begun.clear()
        with caplog.at_level(logging.WARNING, rehearsals.__name__):
            found.at_rest(await wrong.execution())
            begun.append("something that was not there when it was live")
            async with found.running():
                await until(2)
                found.at_rest(await right.execution())
                await until(3)
        assert await wrong.entries() == entries
    [told] = caplog.messages
    assert (
        "flow counts would not survive a restart: divergence: the journal says tool ask_1" in told
    )
    assert "the flow now does tool ask_2" in told
    assert f"{__file__}:" in told
    assert told.endswith("or use run.now and run.random.")


async def test_a_failure_is_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with bench.worker(fails) as worker:
            play = await worker.play(fails)
            found = of(worker)
            found.at_rest(await play.execution())
            async with found.running():
                await until(2)
                found.at_rest(await play.execution())
                await until(3)
    assert [told for told in caplog.messages if "fail" in told] == ["flow fails failed"]


async def test_what_cannot_be_rehearsed_does_not_end_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.worker(plain) as worker:
        play, other = await worker.play(plain), await worker.play(plain)
        gone = await play.execution()
        await worker.engine.dispatcher.cancel(gone.id, None)
        await worker.store.delete(gone.id)
        found = of(worker)
        begun.clear()
        found.at_rest(await other.execution())
        found.at_rest(gone)
        async with found.running():
            await until(1)
        assert begun == [other.id]
    assert f"cannot rehearse: execution {gone.id} was deleted" in caplog.messages


async def test_leaving_does_not_wait_for_a_body_that_hangs(bench: Bench) -> None:
    async with bench.worker(plain) as worker:
        play = await worker.play(plain)
        slow.append(anyio.Event())
        found = of(worker)
        found.at_rest(await play.execution())
        with anyio.fail_after(PATIENCE_SECONDS / 2):  # less than a rehearsal's patience
            async with found.running():
                await until(2)
