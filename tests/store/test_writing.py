"""The contract of `store.base`, writing: create, append, what the listener hears."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from dispatch.core.errors import Conflict, Gone, LeaseLost, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.store import growth
from dispatch.store.base import Committed, Execution, Store
from tests.store.conftest import StoreMaker
from tests.store.entries import (
    UNKNOWN,
    TickingClock,
    always,
    call,
    cancelled,
    continued,
    failed,
    final,
    head,
    held,
    journal,
    kinds,
    new,
    output,
    parked,
    phase,
    start,
    step_done,
    text,
    texts,
    turn,
)

# --- create ---------------------------------------------------------------------------------------


async def test_a_new_execution_has_its_first_entry_and_is_pending(store: Store) -> None:
    wanted = new(worker="w1")
    execution, existed = await store.create(wanted)
    assert not existed
    assert execution == await store.get(wanted.id)
    assert (execution.status, execution.last_seq, execution.leg_seq) == (Status.PENDING, 1, 1)
    assert (execution.worker, execution.token, execution.runnable) == ("w1", 1, False)
    [entry] = await journal(store, wanted.id)
    assert (entry.seq, entry.kind) == (1, "execution_start")
    assert entry.private == start().private
    assert entry.at == execution.created_at == execution.updated_at


async def test_without_a_worker_it_is_runnable(store: Store) -> None:
    execution, _ = await store.create(new())
    assert (execution.worker, execution.token, execution.runnable) == (None, 0, True)
    assert await store.runnable(10) == [execution]


async def test_the_same_key_and_request_give_the_first_execution(store: Store) -> None:
    first, _ = await store.create(new(key="k", digest="d", worker="w1"))
    await store.append(first.id, [text()], token=1)
    again, existed = await store.create(new(key="k", digest="d"))
    assert existed
    assert again == await store.get(first.id)
    assert await store.created_with("k", "d") == again
    assert await store.created_with("other", "d") is None
    assert await store.executions() == [again]


async def test_the_same_key_for_another_request_is_a_conflict(store: Store) -> None:
    first, _ = await store.create(new(key="k", digest="d"))
    with pytest.raises(Conflict) as refused:
        await store.create(new(key="k", digest="other"))
    assert refused.value.code == "idempotency-mismatch"
    with pytest.raises(Conflict) as refused:
        await store.created_with("k", "other")
    assert refused.value.code == "idempotency-mismatch"
    assert await store.executions() == [first]


async def test_one_of_fifty_equal_creates_wins(store: Store) -> None:
    created = await asyncio.gather(*[store.create(new(key="k", digest="d")) for _ in range(50)])
    assert [existed for _, existed in created].count(False) == 1
    assert len({execution.id for execution, _ in created}) == 1
    assert len(await store.executions()) == 1


async def test_a_key_of_a_deleted_execution_says_that_it_is_gone(store: Store) -> None:
    first, _ = await store.create(new(key="k", digest="d", worker="w1"))
    await store.append(first.id, [final()], token=1)
    await store.delete(first.id)
    with pytest.raises(Gone):
        await store.create(new(key="k", digest="d"))


# --- append ---------------------------------------------------------------------------------------


async def test_entries_get_the_next_seqs(store: Store) -> None:
    execution = await held(store)
    assert (await store.append(execution.id, texts(3), token=1)).last_seq == 4
    assert await store.append(execution.id, [text()], token=1) == (5, True)
    assert [entry.seq for entry in await journal(store, execution.id)] == [1, 2, 3, 4, 5]


async def test_the_first_append_makes_it_running(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [], token=1)
    assert (await store.get(execution.id)).status is Status.PENDING
    await store.append(execution.id, [text()], token=1)
    assert (await store.get(execution.id)).status is Status.RUNNING


@pytest.mark.parametrize(
    ("draft", "status", "code"),
    [
        (turn("c"), Status.SUSPENDED, None),
        (parked(), Status.INTERRUPTED, "divergence"),
        (final(), Status.COMPLETED, None),
        (failed(), Status.FAILED, "flow-failed"),
        (cancelled(), Status.CANCELLED, "cancelled"),
    ],
)
async def test_status_follows_from_the_entries(
    store: Store, draft: Draft, status: Status, code: str | None
) -> None:
    execution = await held(store)
    await store.append(execution.id, [call("c"), draft], token=1)
    row = await store.get(execution.id)
    assert (row.status, row.code) == (status, code)
    assert row.ended_at == (row.updated_at if status.is_final else None)
    assert row.worker == ("w1" if status is Status.SUSPENDED else None)


async def test_a_new_leg_runs_again_and_forgets_why_it_was_parked(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [parked()], token=1)
    changed = await store.transact(execution.id, always(head(), wake=True), take_for="w1")
    row = changed.execution
    assert (row.status, row.code, row.leg_seq, row.token) == (Status.RUNNING, None, 3, 2)


async def test_phase_and_segment_follow_from_the_entries(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [phase("one"), continued(1), phase("two")], token=1)
    row = await store.get(execution.id)
    assert (row.phase, row.segment_seq) == ("two", 3)


async def test_an_old_token_appends_nothing(store: Store) -> None:
    execution = await held(store)
    await store.release(execution.id, token=1, runnable=True)
    with pytest.raises(LeaseLost):
        await store.append(execution.id, [text()], token=1)
    assert await store.acquire(execution.id, "w1")
    with pytest.raises(LeaseLost):
        await store.append(execution.id, [text()], [text()], expected_seq=1, token=1)
    with pytest.raises(LeaseLost):
        await store.append(execution.id, [text()], token=3)
    assert await kinds(store, execution.id) == ["execution_start"]
    assert (await store.append(execution.id, [text()], token=2)).last_seq == 2


async def test_nothing_is_appended_after_a_final_event(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [final()], token=1)
    row = await store.get(execution.id)
    with pytest.raises(Conflict) as refused:
        await store.append(execution.id, [text()], token=1)
    assert refused.value.code == "final"
    with pytest.raises(Conflict):
        await store.transact(execution.id, always(text()))
    assert await store.get(execution.id) == row
    assert (await store.transact(execution.id, always(wake=True), take_for="w1")).taken is False


async def test_nothing_stands_behind_a_final_event(store: Store) -> None:
    execution = await held(store)
    with pytest.raises(Conflict) as refused:
        await store.append(execution.id, [text(), final()], [text()], expected_seq=1, token=1)
    assert refused.value.code == "final"
    assert await kinds(store, execution.id) == ["execution_start"]


async def test_an_unknown_execution_takes_no_append(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.append(UNKNOWN, [text()], token=1)


async def test_the_firm_part_lands_if_nothing_has_arrived(store: Store) -> None:
    execution = await held(store)
    landed = await store.append(execution.id, [text()], [call("c")], expected_seq=1, token=1)
    assert landed == (3, True)


async def test_the_firm_part_is_refused_alone(store: Store) -> None:
    execution = await held(store)
    await store.transact(execution.id, always(head()))
    refused = await store.append(
        execution.id, [text()], [call("c"), turn("c")], expected_seq=1, token=1
    )
    assert refused == (3, False)
    assert await kinds(store, execution.id) == ["execution_start", "execution_start", "text_delta"]
    assert await store.waits(execution.id) == []


@pytest.mark.parametrize("firm", [[], [call("c"), turn("c")]])
async def test_release_is_conditional_too(store: Store, firm: list[Draft]) -> None:
    execution = await held(store)
    await store.transact(execution.id, always(head()))
    refused = await store.append(
        execution.id, [text()], firm, expected_seq=1, token=1, release=True
    )
    assert refused == (3, False)
    assert (await store.get(execution.id)).worker == "w1"
    landed = await store.append(execution.id, [], firm, expected_seq=3, token=1, release=True)
    assert landed == (3 + len(firm), True)
    row = await store.get(execution.id)
    assert (row.worker, row.token, row.runnable) == (None, 1, False)


async def test_appends_are_applied_in_the_order_of_their_calls(store: Store) -> None:
    one, two = await held(store), await held(store)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            for execution in (one, two):
                tasks.start_soon(_append, store, execution.id, str(number))
    for execution in (one, two):
        shown = [entry.data for entry in await journal(store, execution.id, after=1)]
        assert [b'"%d"' % number in data for number, data in enumerate(shown)] == [True] * 20


async def _append(store: Store, id: ExecutionId, delta: str) -> None:
    await store.append(id, [text(delta)], token=1)


async def test_what_was_called_is_carried_out_though_its_caller_is_cancelled(store: Store) -> None:
    execution = await held(store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_append, store, execution.id, "x")
            tasks.start_soon(_transact, store, execution.id)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    assert (await store.append(execution.id, [text()], token=1)).last_seq == 4


async def _transact(store: Store, id: ExecutionId) -> None:
    await store.transact(id, always(head()))


async def test_progress_clears_the_strikes(
    store: Store, make_store: StoreMaker, clock: TickingClock
) -> None:
    execution = await _struck(store, make_store, clock)
    await store.append(execution.id, [head(), text("by a step", head().origin.WORLD)], token=2)
    assert (await store.get(execution.id)).strikes == 1
    await store.append(execution.id, [text()], token=2)
    assert (await store.get(execution.id)).strikes == 0


async def test_a_settled_wait_clears_the_strikes(
    store: Store, make_store: StoreMaker, clock: TickingClock
) -> None:
    execution = await _struck(store, make_store, clock)
    await store.append(execution.id, [step_done("s")], token=2)
    assert (await store.get(execution.id)).strikes == 0


async def _struck(store: Store, make_store: StoreMaker, clock: TickingClock) -> Execution:
    """One that was held under a worker's name when another began under it."""
    execution, _ = await store.create(new(worker="w2"))
    async with make_store(clock).session("w2"):
        pass
    taken = await store.acquire(execution.id, "w1")
    assert taken is not None
    assert taken.strikes == 1
    return taken


async def test_more_executions_than_are_kept_in_mind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "MAX_FRAMERS", 2)
    executions = [await held(store) for _ in range(4)]
    for _ in range(2):
        for execution in executions:
            await store.append(execution.id, [text()], token=1)
    for execution in executions:
        frames = (await store.read(execution.id, after=1))[0].frames.decode()
        assert f'"executionId":"{execution.id}","seq":2' in frames


# --- the listener ---------------------------------------------------------------------------------


async def test_the_listener_hears_of_each_append_before_its_caller(
    store: Store, told: list[Committed]
) -> None:
    execution = await held(store)
    assert [committed.first_seq for committed in told] == [1]
    await store.append(execution.id, texts(2), token=1)
    assert [committed.first_seq for committed in told] == [1, 2]
    await store.transact(execution.id, always(head()))
    await store.transact(execution.id, always())
    await store.append(execution.id, [], token=1)
    assert [committed.first_seq for committed in told] == [1, 2, 4]
    assert told[-1].execution == await store.get(execution.id)


async def test_the_listener_hears_in_the_order_of_the_journal(
    store: Store, told: list[Committed]
) -> None:
    execution = await held(store)
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(_append, store, execution.id, str(number))
    heard = [entry.seq for committed in told for entry in committed.entries()]
    assert heard == list(range(1, 32))


async def test_what_the_listener_hears_is_what_is_read_back(
    store: Store, told: list[Committed]
) -> None:
    execution = await held(store)
    await store.append(execution.id, [text(), call("c", timeout=3.5), turn("c")], token=1)
    await store.transact(execution.id, always(head(), output("c", [1, "é"])))
    heard = [entry for committed in told for entry in committed.entries()]
    read = await journal(store, execution.id)
    for live, back in zip(heard, read, strict=True):
        assert (live.seq, live.kind, live.origin) == (back.seq, back.kind, back.origin)
        assert (live.at, live.private, live.facts) == (back.at, back.private, back.facts)
    assert [chunk for committed in told for chunk in committed.chunks] == await store.read(
        execution.id, after=0
    )


async def test_a_listener_that_fails_costs_nobody_anything(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Committed) -> None:
        raise ValueError("deaf")

    store.listener = fail
    execution = await held(store)
    assert (await store.append(execution.id, [text()], token=1)).last_seq == 2
    assert "the store's listener failed" in caplog.text
