"""Closing: a generator that leaves memory is closed as Python closes it, and nothing of that is
recorded.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Flow, Run, flow, result, step, tool
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench


async def test_finally_and_async_with_run_each_time(bench: Bench) -> None:
    entered: list[str] = []
    left: list[str] = []

    @asynccontextmanager
    async def client() -> AsyncIterator[str]:
        entered.append("client")
        try:
            yield "client"
        finally:
            # Closing may take its turns of the loop.
            await anyio.lowlevel.checkpoint()
            left.append("client")

    @flow("cleans")
    async def cleans(run: Run[Any]) -> Flow:
        async with client() as name:
            try:
                yield tool("a")
                yield tool("b")
                yield result(name)
            finally:
                left.append("finally")

    async with bench.worker(cleans) as worker:
        play = await worker.play(cleans)
        await play.answer("a", None)
        await play.answer("b", None)
        assert await play.result() == "client"
    # Cold: once for each suspension, and at the end.
    times = 3 if bench.max_live == 0 else 1
    assert entered == ["client"] * times
    assert left == ["finally", "client"] * times


async def test_helpers_are_closed_before_those_that_yielded_them(bench: Bench) -> None:
    closed: list[str] = []

    async def helper() -> Flow:
        try:
            yield tool("a")
        finally:
            closed.append("helper")

    @flow("outer")
    async def outer(run: Run[Any]) -> Flow:
        try:
            yield helper()
        finally:
            closed.append("flow")

    async with bench.worker(outer) as worker:
        await worker.play(outer)
    assert closed == ["helper", "flow"]


async def test_a_yield_while_closing_is_ignored_and_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @flow("stays")
    async def stays(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except GeneratorExit:
            yield "still here"  # the fifth line below the decorator

    async with bench.worker(stays) as worker:
        play = await worker.play(stays)
    assert "a yield while closing is ignored" in caplog.text
    line = stays.fn.__code__.co_firstlineno + 5
    assert f"{__file__}:{line}" in caplog.text
    async with bench.worker(stays) as worker:
        play.worker = worker
        assert "text_delta" not in await play.kinds()
        await play.answer("a", None)
        assert await play.status() is Status.COMPLETED


async def test_whatever_closing_raises_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @flow("raises")
    async def raises(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except GeneratorExit:
            raise SystemExit(3) from None

    async with bench.worker(raises) as worker:
        play = await worker.play(raises)
    assert "raised while closing" in caplog.text
    async with bench.worker(raises) as worker:
        play.worker = worker
        assert await play.status() is Status.SUSPENDED


async def test_closing_has_a_time_limit(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.close_seconds = 0.01

    @flow("hangs")
    async def hangs(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        finally:
            await anyio.sleep_forever()

    async with bench.worker(hangs) as worker:
        await worker.play(hangs)
    assert "closing took longer" in caplog.text


async def test_the_coldest_is_closed_when_too_many_are_warm(bench: Bench) -> None:
    bench.max_live = 2
    closed: list[int] = []

    @flow("numbered")
    async def numbered(run: Run[dict[str, int]]) -> Flow:
        try:
            yield tool("a")
            yield tool("b")
        except GeneratorExit:
            closed.append(run.inputs["number"])
            raise

    async with bench.worker(numbered) as worker:
        plays = [await worker.play(numbered, {"number": number}) for number in range(2)]
        await plays[0].answer("a", None)
        plays.append(await worker.play(numbered, {"number": 2}))
        with anyio.fail_after(5):
            while not closed:
                await anyio.lowlevel.checkpoint()
        assert closed == [1]
    assert sorted(closed) == [0, 1, 2]


async def test_a_clean_shutdown_leaves_what_was_driven_runnable_and_without_a_strike(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    begun = anyio.Event()
    closed: list[str] = []

    @flow("busy")
    async def busy(run: Run[Any]) -> Flow:
        try:
            yield "working "
            begun.set()
            if len(closed) < 1:
                await anyio.sleep_forever()
            yield "done"
        finally:
            closed.append("")

    async with bench.worker(busy) as worker:
        play = await worker.dispatch(busy)
        with anyio.fail_after(5):
            await begun.wait()
        assert await play.status() in (Status.PENDING, Status.RUNNING)
    assert len(closed) == 1
    async with bench.worker(busy) as worker:
        play.worker = worker
        row = await play.rest()
        assert row.status is Status.COMPLETED
        assert row.strikes == 0
        assert await play.text() == "working done"


async def test_what_a_body_makes_of_a_shutdown_is_not_the_flows_doing(bench: Bench) -> None:
    begun: list[str] = []

    async def until_cancelled() -> None:
        begun.append("")
        try:
            await anyio.sleep_forever()
        except BaseException as exc:
            raise ValueError("somebody cancelled me") from exc

    @flow("converts")
    async def converts(run: Run[Any]) -> Flow:
        yield "one "
        if len(begun) < 2:
            await until_cancelled()
        yield "two"

    @flow("swallows")
    async def swallows(run: Run[Any]) -> Flow:
        yield "one "
        if len(begun) < 2:
            with suppress(ValueError):
                await until_cancelled()
            yield "never "
            yield tool("never")
        yield "two"

    async with bench.worker(converts, swallows) as worker:
        plays = [await worker.dispatch(one) for one in (converts, swallows)]
        with anyio.fail_after(5):
            while len(begun) < 2:
                await anyio.lowlevel.checkpoint()
    async with bench.worker(converts, swallows) as worker:
        for play in plays:
            await play.at(worker).rest()
            assert await play.at(worker).text() == "one two"


async def test_what_a_step_makes_of_a_shutdown_is_no_attempt(bench: Bench) -> None:
    begun: list[str] = []

    @step(retries=0)
    async def converts() -> int:
        begun.append("")
        if len(begun) == 1:
            try:
                await anyio.sleep_forever()
            except BaseException as exc:
                raise ValueError("somebody cancelled me") from exc
        return len(begun)

    @flow("steps")
    async def steps(run: Run[Any]) -> Flow:
        yield result((yield converts()))

    async with bench.worker(steps) as worker:
        play = await worker.dispatch(steps)
        with anyio.fail_after(5):
            while not begun:
                await anyio.lowlevel.checkpoint()
    async with bench.worker(steps) as worker:
        await play.at(worker).rest()
        assert await play.at(worker).result() == 2
