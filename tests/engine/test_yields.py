"""What a flow yields to be seen, and what it comes to."""

from typing import Any

from dispatch import Flow, Run, flow, phase, result, tool
from dispatch.core.lifecycle import Status
from dispatch.events import Custom, ReasoningDelta
from tests.engine.worker import Bench


async def test_text_is_streamed_in_one_block(bench: Bench) -> None:
    @flow("talk")
    async def talk(run: Run[Any]) -> Flow:
        yield "Hello, "
        yield ""
        yield "world."

    async with bench.worker(talk) as worker:
        play = await worker.play(talk)
        kinds = [entry.kind for entry in await play.entries()]
        assert kinds == [
            "execution_start",
            "text_start",
            "text_delta",
            "text_delta",
            "text_complete",
            "execution_complete",
        ]
        assert await play.text() == "Hello, world."
        assert await play.status() is Status.COMPLETED


async def test_events_and_phases_close_the_text_block(bench: Bench) -> None:
    @flow("show")
    async def show(run: Run[Any]) -> Flow:
        yield "a"
        yield Custom(name="progress", value=0.5)
        yield phase("looking")
        yield ReasoningDelta(id="r", delta="hm")
        yield "b"

    async with bench.worker(show) as worker:
        play = await worker.play(show)
        assert [entry.kind for entry in await play.entries()][1:-1] == [
            "text_start",
            "text_delta",
            "text_complete",
            "custom",
            "dispatch.phase",
            "reasoning_delta",
            "text_start",
            "text_delta",
            "text_complete",
        ]
        assert (await play.execution()).phase == "looking"


async def test_the_last_result_counts(bench: Bench) -> None:
    @flow("results")
    async def results(run: Run[Any]) -> Flow:
        yield result(1)
        yield tool("ask")
        yield result({"answer": [1, None]})

    async with bench.worker(results) as worker:
        play = await worker.play(results)
        await play.answer("ask", 2)
        assert await play.result() == {"answer": [1, None]}
