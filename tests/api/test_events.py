"""Every cursor has an answer (design.md 9, promise 7), and the ways a stream of events goes on."""

from __future__ import annotations

import anyio
import pytest

from dispatch.core.ids import ExecutionId, execution_id
from tests.api.caller import Caller, refusal

NONSENSE = [
    *["-1", "1.5", "1.", "1e3", "0x1", "+1", "%201", "01", "٣", "1%00"],
    *["nonsense", "null", "true", "9223372036854775808", "9" * 400],
]


async def finished(caller: Caller) -> str:
    told = await caller.dispatch("talk")
    assert told.types[-1] == "execution_complete"
    return told.id


# --- finished executions --------------------------------------------------------------------------


async def test_every_cursor_of_a_finished_execution_gets_the_rest(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    last = told.seqs[-1]
    for after in range(last):
        seen = await caller.events(told.id, after)
        assert seen.events == told.events[after:]
        assert not seen.is_broken


async def test_who_has_it_all_is_told_not_to_come_back(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    answer = await caller.get(f"/v1/executions/{told.id}/events?after={told.seqs[-1]}")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("cursor", ["", "0"])
async def test_no_cursor_is_the_start(caller: Caller, cursor: str) -> None:
    id = await finished(caller)
    for path in (f"/v1/executions/{id}/events", f"/v1/executions/{id}/events?after={cursor}"):
        assert (await caller.stream("GET", path)).seqs[0] == 1


async def test_a_cursor_ahead_of_the_journal_is_400(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    for after in (told.seqs[-1] + 1, 2**63 - 1):
        answer = await caller.get(f"/v1/executions/{told.id}/events?after={after}")
        assert refusal(answer)[:2] == (400, "cursor-ahead")


@pytest.mark.parametrize("cursor", NONSENSE)
async def test_nonsense_is_400(caller: Caller, cursor: str) -> None:
    id = await finished(caller)
    answer = await caller.get(f"/v1/executions/{id}/events?after={cursor}")
    assert refusal(answer)[:2] == (400, "cursor-invalid")


async def test_the_header_wins_over_the_parameter(caller: Caller) -> None:
    id = await finished(caller)
    seen = await caller.events(id, 1, headers={"Last-Event-ID": "3"})
    assert seen.seqs[0] == 4
    answer = await caller.get(f"/v1/executions/{id}/events?after=1", **{"Last-Event-ID": "x"})
    assert refusal(answer)[:2] == (400, "cursor-invalid")
    seen = await caller.events(id, 2, headers={"Last-Event-ID": ""})
    assert seen.seqs[0] == 3


@pytest.mark.parametrize(
    "id",
    ["exec_1", "nonsense", "x" * 5000, execution_id(1.0, bytes(10)), "%00", "exec_%F0%9F%98%80"],
)
async def test_an_execution_that_never_was_is_404(caller: Caller, id: str) -> None:
    for path in ("events", "status"):
        answer = await caller.get(f"/v1/executions/{id}/{path}")
        assert refusal(answer)[:2] == (404, "execution-unknown")


async def test_a_deleted_execution_is_410(caller: Caller) -> None:
    id = await finished(caller)
    await caller.app.state.engine.store.delete(ExecutionId(id))
    for path in ("events?after=2", "status"):
        answer = await caller.get(f"/v1/executions/{id}/{path}")
        assert refusal(answer)[:2] == (410, "execution-deleted")
    resume = {"executionId": id, "toolOutputs": {}}
    assert (await caller.refused("/v1/dispatch/resume", resume))[:2] == (410, "execution-deleted")


# --- executions that go on ------------------------------------------------------------------------


async def test_events_go_on_through_suspensions_to_the_final_event(caller: Caller) -> None:
    told = await caller.dispatch("two")
    async with caller.beginning("GET", f"/v1/executions/{told.id}/events") as opened:
        await opened.until(lambda seen: seen.seqs == told.seqs)
        first = await caller.resume(told.id, {"look": 1})
        await opened.until(lambda seen: seen.seqs == told.seqs + first.seqs)
        last = await caller.resume(told.id, {"see": 2})
        seen = await opened.rest()
    assert seen.events == told.events + first.events + last.events
    assert not seen.is_broken


async def test_a_cursor_at_the_end_of_what_goes_on_waits_for_more(caller: Caller) -> None:
    told = await caller.dispatch("one")
    path = f"/v1/executions/{told.id}/events?after={told.seqs[-1]}"
    async with caller.beginning("GET", path) as opened:
        leg = await caller.resume(told.id, {"look": 1})
        assert (await opened.rest()).events == leg.events


async def test_any_number_of_readers_see_the_same(caller: Caller) -> None:
    told = await caller.dispatch("one")
    seen: list[list[int]] = []

    async def read(after: int) -> None:
        seen.append((await caller.events(told.id, after)).seqs)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            for after in range(3):
                tasks.start_soon(read, after)
        leg = await caller.resume(told.id, {"look": 1})
    last = leg.seqs[-1]
    assert sorted(seen) == sorted(list(range(a + 1, last + 1)) for a in range(3) for _ in range(8))


async def test_leaving_does_not_stop_the_execution(caller: Caller) -> None:
    dispatch = {"flow": {"id": "hang"}}
    async with caller.beginning("POST", "/v1/dispatch", dispatch) as opened:
        told = await opened.until(lambda seen: bool(seen.text))
    with anyio.fail_after(10):
        while not caller.gate.waiting:
            await anyio.lowlevel.checkpoint()
    caller.gate.open()
    seen = await caller.events(told.id)
    assert (seen.text, seen.types[-1]) == ("before after", "execution_complete")


# --- headers --------------------------------------------------------------------------------------


async def test_both_kinds_of_streams_say_where_the_events_are(caller: Caller) -> None:
    told = await caller.dispatch("talk")
    for seen in (told, await caller.events(told.id)):
        assert seen.headers["location"] == f"/v1/executions/{told.id}/events"
        assert seen.headers["cache-control"] == "no-store"
        assert seen.headers["x-accel-buffering"] == "no"
        assert seen.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_head_has_the_headers_and_no_stream(caller: Caller) -> None:
    told = await caller.dispatch("one")
    with anyio.fail_after(10):
        answer = await caller.http.head(f"/v1/executions/{told.id}/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["location"] == f"/v1/executions/{told.id}/events"
    assert (await caller.http.head("/v1/executions/exec_1/events")).status_code == 404
