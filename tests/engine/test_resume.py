"""The tables of resume and approve (design.md 7), row by row, as the engine answers them."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch import Flow, Run, approval, flow, gather, result, sleep, tool
from dispatch.core.errors import Conflict, DispatchError, Gone, InvalidRequest, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.core.lifecycle import Status
from dispatch.engine.dispatcher import Start
from tests.engine.worker import Bench, Play


@flow("two")
async def two(run: Run[Any]) -> Flow:
    a, b = yield gather(tool("a"), tool("webmcp:b"))
    yield f"{len(run.messages)} messages. "
    c = yield tool("c")
    yield result([a, b, c])


@flow("same")
async def same(run: Run[Any]) -> Flow:
    yield result((yield gather(tool("a", {"n": 1}), tool("a", {"n": 2}))))


@flow("asks")
async def asks(run: Run[Any]) -> Flow:
    decision = yield approval("delete")
    yield result(decision.outcome)


@flow("both")
async def both(run: Run[Any]) -> Flow:
    yield gather(approval("delete"), tool("a"))


async def refused(play: Play, outputs: dict[str, Any], error: type[DispatchError]) -> str:
    """The code that a resume is refused with, having changed nothing."""
    before = await play.entries()
    with pytest.raises(error) as refusal:
        await play.resume(outputs)
    assert await play.entries() == before
    return refusal.value.code


async def call_ids(play: Play) -> list[str]:
    return [row.id for row in await play.worker.store.waits(play.id)]


async def test_of_an_unknown_execution(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = Play(worker, ExecutionId("exec_" + "0" * 32))
        assert await refused(play, {}, NotFound) == "execution-unknown"


async def test_outputs_for_some_calls_are_stored_and_the_others_told_again(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        leg = await play.resume({"b": 2})
        kinds = await play.kinds()
        assert (leg.first_seq, leg.whole) == (kinds.index("execution_start", 1) + 1, False)
        assert kinds[-3:] == ["execution_start", "tool_complete", "await"]
        assert [fact["toolName"] for fact in await play.facts("await")][2:] == ["a"]
        # An equal one beside it is a no-op.
        await play.resume({"webmcp:b": 2.0, "a": 1})
        await play.resume({"c": 3})
        assert await play.result() == [1, 2, 3]


async def test_outputs_of_one_request_are_appended_in_the_order_of_their_calls(
    bench: Bench,
) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        await play.resume({"b": 2, "a": 1})
        assert [fact["toolName"] for fact in await play.facts("tool_complete")] == [
            "a",
            "webmcp:b",
        ]


async def test_an_id_never_issued_or_a_name_that_fits_no_call(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        for key in ("call_0000000000000000", "nonsense", "c", ""):
            assert await refused(play, {"a": 1, key: 1}, InvalidRequest) == "unknown-call"


async def test_two_keys_for_one_call(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        first = (await call_ids(play))[0]
        assert await refused(play, {"a": 1, first: 1}, InvalidRequest) == "call-twice"


async def test_a_name_that_is_open_more_than_once(bench: Bench) -> None:
    async with bench.worker(same) as worker:
        play = await worker.play(same)
        assert await refused(play, {"a": 1}, InvalidRequest) == "ambiguous-call"
        first, second = await call_ids(play)
        await play.resume({second: 2})
        await play.resume({"a": 1})
        assert await play.result() == [1, 2]
        assert first != second


async def test_recorded_differently(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        await play.resume({"a": {"x": 1, "y": 2}})
        assert await refused(play, {"a": {"x": 1}, "b": 1}, Conflict) == "await-settled"
        await play.resume({"a": {"y": 2.0, "x": 1}, "b": 2})
        await play.resume({"c": 3})
        assert await refused(play, {"a": 5}, Conflict) == "await-settled"


async def test_only_what_is_recorded_repeats_the_legs_it_began(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        first = await play.resume({"a": 1})
        second = await play.resume({"b": 2})
        for _ in range(2):
            before = await play.entries()
            again = await play.resume({"a": 1, "b": 2})
            assert (again.first_seq, again.whole) == (first.first_seq, True)
            again = await play.resume({"b": 2})
            assert (again.first_seq, again.whole) == (second.first_seq, True)
            assert await play.entries() == before
            if await play.open():
                await play.resume({"c": 3})
        assert await play.status() is Status.COMPLETED


async def test_timed_out_and_abandoned(bench: Bench) -> None:
    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        yield gather(tool("a", timeout=60), tool("b"))

    async with bench.worker(late) as worker:
        play = await worker.play(late)
        a, b = await call_ids(play)
        await play.pass_time(60)
        assert await refused(play, {a: 1, b: 1}, Gone) == "await-expired"
        assert await refused(play, {b: 1}, Conflict) == "await-abandoned"


async def test_nothing_while_calls_are_open_tells_them_again(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        await play.resume({})
        assert (await play.kinds())[-3:] == ["execution_start", "await", "await"]


async def test_no_call_open(bench: Bench) -> None:
    @flow("naps")
    async def naps(run: Run[Any]) -> Flow:
        yield sleep(60)

    async with bench.worker(naps) as worker:
        play = await worker.play(naps)
        with pytest.raises(Conflict, match="waits for a timer") as refusal:
            await play.resume({})
        assert refusal.value.code == "not-waiting"
        await play.pass_time(60)
        assert await refused(play, {}, Conflict) == "not-waiting"
        assert await refused(play, {"a": 1}, InvalidRequest) == "unknown-call"


async def test_messages_replace_those_of_the_run_once_it_is_answered(bench: Bench) -> None:
    message = {"role": "user", "content": "hi"}
    async with bench.worker(two) as worker:
        play = await worker.play(two, messages=[message] * 3)
        await play.resume({"a": 1}, messages=[message] * 2)
        await play.resume({"b": 2})
        await play.resume({"c": 3}, messages=[])
        assert await play.text() == "2 messages. "


async def test_two_equal_requests_at_one_moment_are_one(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(play.resume, {"a": 1, "b": 2})
        assert (await play.kinds()).count("tool_complete") == 2
        assert len(await play.facts("execution_start")) == 2


async def test_an_approval_is_not_resumed_and_a_tool_not_approved(bench: Bench) -> None:
    async with bench.worker(asks, both) as worker:
        play = await worker.play(asks)
        (approval_id,) = await call_ids(play)
        assert await refused(play, {approval_id: True}, Conflict) == "wrong-kind"
        assert await refused(play, {"delete": True}, Conflict) == "wrong-kind"
        mixed = await worker.play(both)
        _, call = await call_ids(mixed)
        with pytest.raises(Conflict) as refusal:
            await worker.engine.dispatcher.approve(mixed.id, call, "approved", None)
        assert refusal.value.code == "wrong-kind"


async def test_decisions(bench: Bench) -> None:
    async with bench.worker(asks) as worker:
        play = await worker.play(asks)
        (approval_id,) = await call_ids(play)
        approve = worker.engine.dispatcher.approve
        with pytest.raises(NotFound) as unknown:
            await approve(play.id, "approval_0", "approved", None)
        assert unknown.value.code == "approval-unknown"
        first = await approve(play.id, approval_id, "denied", "no")
        await play.rest()
        again = await approve(play.id, approval_id, "denied", "whatever")
        assert (again.first_seq, again.whole) == (first.first_seq, True)
        with pytest.raises(Conflict) as otherwise:
            await approve(play.id, approval_id, "approved", None)
        assert otherwise.value.code == "await-settled"
        assert await play.result() == "denied"


async def test_decisions_that_come_too_late(bench: Bench) -> None:
    @flow("late")
    async def late(run: Run[Any]) -> Flow:
        yield approval("delete", timeout=60)

    async with bench.worker(late, asks) as worker:
        approve = worker.engine.dispatcher.approve
        expired = await worker.play(late)
        await expired.pass_time(60)
        with pytest.raises(Gone) as refusal:
            await approve(expired.id, (await call_ids(expired))[0], "approved", None)
        assert refusal.value.code == "await-expired"
        cancelled = await worker.play(asks)
        await cancelled.cancel()
        with pytest.raises(Conflict) as conflict:
            await approve(cancelled.id, (await call_ids(cancelled))[0], "approved", None)
        assert conflict.value.code == "await-abandoned"


async def test_a_caller_who_goes_away_leaves_nothing_undriven(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play.resume, {"a": 1, "b": 2})
            tasks.start_soon(worker.engine.dispatcher.dispatch, Start(flow="two"))
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        rows = await worker.store.executions()
        assert len(rows) == 2
        for row in rows:
            await Play(worker, row.id).rest()
        assert (await play.open())[0].name == "c"


async def test_while_the_server_stops_commands_are_refused(bench: Bench) -> None:
    async with bench.worker(two) as worker:
        play = await worker.play(two)
        worker.engine.accepting = False
        for command in (
            worker.engine.dispatcher.dispatch(Start(flow="two")),
            worker.engine.dispatcher.resume(play.id, {"a": 1}, None),
            worker.engine.dispatcher.cancel(play.id, None),
            worker.engine.dispatcher.retry(play.id),
        ):
            with pytest.raises(DispatchError) as refusal:
                await command
            assert refusal.value.code == "shutting-down"
