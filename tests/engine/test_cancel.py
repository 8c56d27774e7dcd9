"""Cancel: raised once at a recorded place, with time to make good; then the execution is over."""

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import (
    Cancelled,
    Flow,
    Run,
    approval,
    flow,
    gather,
    race,
    result,
    sleep,
    step,
    tool,
)
from dispatch.core.errors import Conflict
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench, Play


@step
async def undo(what: str) -> str:
    return f"undid {what}"


@step
async def endless() -> None:
    await anyio.sleep_forever()


@step
async def endless_stream() -> AsyncGenerator[str, None]:
    yield "…"
    await anyio.sleep_forever()


@pytest.mark.parametrize("make", [
    pytest.param(lambda: tool("a"), id="tool"),
    pytest.param(lambda: approval("a"), id="approval"),
    pytest.param(lambda: sleep(60), id="sleep"),
    pytest.param(endless, id="step"),
    pytest.param(endless_stream, id="streaming step"),
    pytest.param(lambda: gather(tool("a"), endless(), sleep(60)), id="gather"),
    pytest.param(lambda: race(tool("a"), race(endless(), approval("b"))), id="race"),
])  # fmt: skip
async def test_at_a_wait_it_is_raised_and_may_be_made_good(bench: Bench, make: Any) -> None:
    reasons = []

    @flow("saga")
    async def saga(run: Run[Any]) -> Flow:
        try:
            yield "Booking. "
            yield make()
        except Cancelled as cancelled:
            reasons.append(cancelled.reason)
            undone = yield undo("booking")
            yield undone
            yield result(undone)

    async with bench.worker(saga) as worker:
        play = await worker.dispatch(saga)
        await stands_at_a_wait(play)
        row = await play.cancel("changed my mind")
        assert row.status is Status.CANCELLED
        assert set(reasons) == {"changed my mind"}
        assert await play.text() in ("Booking. undid booking", "Booking. …undid booking")
        (final,) = await play.facts("execution_complete")
        assert (final["success"], final["stopReason"], final["finalOutput"]) == (
            False,
            "cancelled",
            "undid booking",
        )
        assert not await play.open()
        kinds = await play.kinds()
        assert kinds.index("dispatch.cancel_requested") < kinds.index("dispatch.cancel_raised")


async def stands_at_a_wait(play: Play) -> None:
    """Nobody drives it, or a step that never ends is at work."""
    with anyio.fail_after(5):
        while (await play.execution()).worker is not None:
            if "dispatch.step_attempt" in await play.kinds():
                return
            await anyio.lowlevel.checkpoint()


async def test_it_cannot_be_swallowed_by_except_exception(bench: Bench) -> None:
    @flow("deaf")
    async def deaf(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except Exception:
            yield "never"

    async with bench.worker(deaf) as worker:
        play = await worker.play(deaf)
        assert (await play.cancel()).status is Status.CANCELLED
        assert await play.text() == ""


async def test_after_it_any_wait_but_a_step_raises_it_again(bench: Bench) -> None:
    raised = []

    @flow("stubborn")
    async def stubborn(run: Run[Any]) -> Flow:
        for number in range(3):
            try:
                yield tool("a", {"number": number})
            except Cancelled:
                raised.append(number)
        yield undo("all")

    async with bench.worker(stubborn) as worker:
        play = await worker.play(stubborn)
        await play.cancel()
        assert sorted(set(raised)) == [0, 1, 2]
        assert len(await play.facts("tool_start")) == 1
        assert [fact["result"] for fact in await play.facts("step_complete")] == ["undid all"]


async def test_a_flow_that_returns_normally_is_cancelled_all_the_same(bench: Bench) -> None:
    @flow("shrugs")
    async def shrugs(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except Cancelled:
            return

    @flow("breaks")
    async def breaks(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except Cancelled:
            raise ValueError("while it was made good") from None

    async with bench.worker(shrugs, breaks) as worker:
        for one in (shrugs, breaks):
            play = await worker.play(one)
            assert (await play.cancel()).status is Status.CANCELLED


async def test_while_text_is_streamed(bench: Bench) -> None:
    @flow("chatters")
    async def chatters(run: Run[Any]) -> Flow:
        number = 0
        try:
            while True:
                yield f"{number} "
                number += 1
        except Cancelled:
            yield "stopped"
            yield result(number)

    async with bench.worker(chatters) as worker:
        play = await worker.dispatch(chatters)
        await play.sees("text_delta")
        assert (await play.cancel()).status is Status.CANCELLED
        assert (await play.text()).endswith(" stopped")


async def test_again_it_changes_nothing_and_when_it_is_over_it_is_refused(bench: Bench) -> None:
    @flow("twice")
    async def twice(run: Run[Any]) -> Flow:
        yield tool("a")

    async with bench.worker(twice) as worker:
        play = await worker.play(twice)
        first = await play.cancel()
        assert await play.cancel() == first

        done = await worker.play(twice)
        await done.answer("a", None)
        with pytest.raises(Conflict) as refused:
            await done.cancel()
        assert refused.value.code == "final"


async def test_what_is_not_made_good_in_time_is_cut_off(bench: Bench) -> None:
    closed = []

    @flow("slow")
    async def slow(run: Run[Any]) -> Flow:
        try:
            yield tool("a")
        except Cancelled:
            yield endless()
        finally:
            closed.append(True)

    async with bench.worker(slow) as worker:
        play = await worker.play(slow)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play.cancel)
            await play.sees("dispatch.step_attempt")
            bench.clock.advance(worker.engine.cancel_seconds)
        assert await play.status() is Status.CANCELLED
        assert (await play.kinds())[-1] == "execution_complete"
        assert closed


async def test_of_one_that_blocks_in_its_body(bench: Bench) -> None:
    @flow("awaits")
    async def awaits(run: Run[Any]) -> Flow:
        yield "about to. "
        await anyio.sleep_forever()

    async with bench.worker(awaits) as worker:
        play = await worker.dispatch(awaits)
        await play.sees("text_delta")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play.cancel)
            await play.sees("dispatch.cancel_requested")
            bench.clock.advance(worker.engine.cancel_seconds)
        assert await play.status() is Status.CANCELLED


async def test_an_output_that_comes_after_it_is_refused(bench: Bench) -> None:
    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        yield tool("a")

    async with bench.worker(late) as worker:
        play = await worker.play(late)
        call = (await play.open())[0].id
        await play.cancel()
        with pytest.raises(Conflict) as refused:
            await play.resume({call: 1})
        assert refused.value.code == "await-abandoned"


async def test_helpers_see_it_first(bench: Bench) -> None:
    seen = []

    async def helper() -> Flow:
        try:
            yield tool("a")
        except Cancelled:
            seen.append("helper")
            raise

    @flow("delegates")
    async def delegates(run: Run[Any]) -> Flow:
        try:
            yield helper()
        except Cancelled:
            seen.append("flow")
            raise

    async with bench.worker(delegates) as worker:
        play = await worker.play(delegates)
        assert (await play.cancel()).status is Status.CANCELLED
        assert seen[-2:] == ["helper", "flow"]
