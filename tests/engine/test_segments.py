"""continue_as: a flow starts again with a state, and only the last segment is replayed."""

from typing import Any

from msgspec import Struct

from dispatch import Flow, Run, continue_as, flow, result, step, tool
from dispatch.core.lifecycle import Status
from tests.engine.worker import Bench


class Wanted(Struct):
    rounds: int = 3


async def test_a_flow_goes_on_with_its_state(bench: Bench) -> None:
    begun = []

    @flow("rounds")
    async def rounds(run: Run[Wanted]) -> Flow:
        number = (run.state or {"number": 0})["number"]
        begun.append((number, run.segment))
        yield result([number, run.uuid()])
        answer = yield tool("more", {"round": number})
        if number < run.inputs.rounds:
            yield continue_as({"number": number + answer})
        yield result(number)

    async with bench.worker(rounds) as worker:
        play = await worker.play(rounds)
        for _ in range(4):
            await play.answer("more", 1)
        assert await play.result() == 3
        results = [fact["value"]["value"] for fact in await play.facts("dispatch.result")]
        assert len({uuid for _, uuid in results[:-1]}) == 4
        assert set(begun) == {(0, 0), (1, 1), (2, 2), (3, 3)}
        calls = [fact["toolCallId"] for fact in await play.facts("tool_start")]
        assert len(set(calls)) == 4


async def test_what_went_before_is_not_done_again(bench: Bench) -> None:
    done = []

    @step
    async def once(what: str) -> None:
        done.append(what)

    @flow("segments")
    async def segments(run: Run[Any]) -> Flow:
        if run.state is None:
            yield once("first")
            yield "one "
            yield continue_as(1)
        yield once("second")
        yield "two"
        yield tool("pause")

    async with bench.worker(segments) as worker:
        play = await worker.play(segments)
        await play.answer("pause", None)
        assert await play.status() is Status.COMPLETED
        assert done == ["first", "second"]
        assert await play.text() == "one two"
        final = (await play.facts("execution_complete"))[0]
        assert (final["totalSteps"], final["successfulSteps"]) == (2, 2)


async def test_a_result_and_the_messages_are_carried_along(bench: Bench) -> None:
    @flow("carries")
    async def carries(run: Run[Any]) -> Flow:
        if run.state is None:
            yield result("from before")
            yield tool("a")
            yield continue_as({})
        yield str(len(run.messages))

    async with bench.worker(carries) as worker:
        play = await worker.play(carries, messages=[{"role": "user", "content": "hi"}])
        await play.resume({"a": None}, messages=[{"role": "user", "content": "ho"}] * 2)
        assert await play.output() == "from before"
        assert await play.text() == "2"


async def test_the_version_stays_unless_it_is_upgraded(bench: Bench) -> None:
    @flow("versions", version=1)
    async def first(run: Run[Any]) -> Flow:
        yield f"v{run.version} "
        upgrade = yield tool("go")
        yield continue_as({}, upgrade=upgrade)

    @flow("versions", version=2)
    async def second(run: Run[Any]) -> Flow:
        yield f"v{run.version} "
        yield tool("end")

    async with bench.worker(first) as worker:
        play = await worker.play(first)
    async with bench.worker(first, second) as worker:
        play.worker = worker
        await play.answer("go", False)
        await play.answer("go", True)
        await play.answer("end", None)
        assert await play.status() is Status.COMPLETED
        assert await play.text() == "v1 v1 v2 "


async def test_continue_as_in_a_helper_ends_the_segment_of_the_flow(bench: Bench) -> None:
    async def helper(number: int) -> Flow:
        if number < 2:
            yield continue_as(number + 1)

    @flow("helped")
    async def helped(run: Run[Any]) -> Flow:
        yield helper(run.state or 0)
        yield result(run.state)

    async with bench.worker(helped) as worker:
        assert await (await worker.play(helped)).result() == 2
