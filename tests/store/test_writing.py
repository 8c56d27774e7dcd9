"""The contract of `store.base`, writing: create, append, transact, acquire, release, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from dispatch.core.errors import Conflict, Gone, InvalidRequest, LeaseLost, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.store import transaction
from dispatch.store.base import Change, Committed, Decide, Execution, Store, WaitRow
from tests.store.conftest import StoreMaker
from tests.store.entries import (
    PATIENCE_SECONDS,
    TickingClock,
    call,
    cancelled,
    continued,
    failed,
    final,
    head,
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

UNKNOWN = ExecutionId("exec_" + "0" * 32)


def always(*drafts: Draft, wake: bool = False) -> Decide:
    return lambda execution, waits: Change(drafts, wake)


async def held(store: Store) -> Execution:
    return (await store.create(new(worker="w1"))).execution


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
    assert await store.executions() == [again]


async def test_the_same_key_for_another_request_is_a_conflict(store: Store) -> None:
    first, _ = await store.create(new(key="k", digest="d"))
    with pytest.raises(Conflict) as refused:
        await store.create(new(key="k", digest="other"))
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
    monkeypatch.setattr(transaction, "MAX_FRAMERS", 2)
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


# --- transact -------------------------------------------------------------------------------------


async def test_a_command_sees_the_open_waits_and_those_it_names(store: Store) -> None:
    execution = await held(store)
    opened = [call("c1"), call("c2", name="paint"), call("c3"), call("c4", name="paint")]
    await store.append(execution.id, opened, token=1)
    await store.append(execution.id, [output("c1"), output("c2"), output("c3")], token=1)

    seen: list[list[str]] = []

    def decide(row: Execution, waits: Sequence[WaitRow]) -> Change:
        assert row.last_seq == 8
        seen.append([wait.id for wait in waits])
        return Change()

    for keys in ([], ["c1"], ["paint"], ["c3", "paint", "unheard-of"], ["c4"]):
        await store.transact(execution.id, decide, keys=keys)
    assert seen == [["c4"], ["c1", "c4"], ["c2", "c4"], ["c2", "c3", "c4"], ["c4"]]


async def test_a_command_sees_what_was_submitted_before_it(store: Store) -> None:
    execution = await held(store)
    seen: list[str] = []

    def decide(row: Execution, waits: Sequence[WaitRow]) -> Change:
        seen.extend(wait.id for wait in waits)
        return Change()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_append_firm, store, execution.id)
        await anyio.lowlevel.checkpoint()
        await store.transact(execution.id, decide)
    assert seen == ["c"]


async def _append_firm(store: Store, id: ExecutionId) -> None:
    await store.append(id, [], [call("c")], expected_seq=1, token=1)


async def test_a_command_that_refuses_changes_nothing(store: Store, told: list[Committed]) -> None:
    execution = await held(store)

    def refuse(row: Execution, waits: Sequence[WaitRow]) -> Change:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest, match="no"):
        await store.transact(execution.id, refuse, take_for="w1")
    assert await store.get(execution.id) == execution
    assert len(told) == 1


async def test_refusals_cost_the_others_of_their_batch_nothing(store: Store) -> None:
    execution = await held(store)
    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(_append, store, execution.id, str(number))
            tasks.start_soon(_refused, store, execution.id)
    assert (await store.get(execution.id)).last_seq == 6


async def _refused(store: Store, id: ExecutionId) -> None:
    with pytest.raises(LeaseLost):
        await store.append(id, [text()], token=7)


async def test_waking_an_execution_of_nobody_takes_it(store: Store) -> None:
    execution, _ = await store.create(new())
    changed = await store.transact(execution.id, always(head(), wake=True), take_for="w1")
    assert changed.taken
    assert changed.first_seq == 2
    assert changed.execution == await store.get(execution.id)
    row = changed.execution
    assert (row.worker, row.token, row.runnable) == ("w1", 1, False)


async def test_without_a_taker_it_is_runnable(store: Store) -> None:
    execution = await held(store)
    await store.append(execution.id, [], token=1, release=True, expected_seq=1)
    assert await store.runnable(10) == []
    changed = await store.transact(execution.id, always(wake=True))
    assert not changed.taken
    assert changed.first_seq == 2
    assert await store.runnable(10) == [changed.execution]


async def test_waking_an_execution_of_somebody_leaves_it_there(store: Store) -> None:
    execution = await held(store)
    changed = await store.transact(execution.id, always(head(), wake=True), take_for="w2")
    assert not changed.taken
    assert (changed.execution.worker, changed.execution.token) == ("w1", 1)
    assert not changed.execution.runnable


async def test_commands_to_what_is_not_there_are_refused(store: Store) -> None:
    with pytest.raises(NotFound) as unknown:
        await store.transact(UNKNOWN, always())
    assert unknown.value.code == "execution-unknown"
    with pytest.raises(NotFound):
        await store.delete(UNKNOWN)
    assert await store.acquire(UNKNOWN, "w1") is None
    await store.release(UNKNOWN, token=1, runnable=True)


# --- acquire, release -----------------------------------------------------------------------------


async def test_each_taking_has_a_token_one_higher(store: Store) -> None:
    execution, _ = await store.create(new())
    for token in (1, 2, 3):
        taken = await store.acquire(execution.id, "w1")
        assert taken == await store.get(execution.id)
        assert taken.token == token
        assert not taken.runnable
        await store.release(execution.id, token=token, runnable=True)


async def test_what_is_held_or_over_cannot_be_taken(store: Store) -> None:
    execution = await held(store)
    assert await store.acquire(execution.id, "w2") is None
    assert await store.acquire(execution.id, "w1") is None
    await store.append(execution.id, [final()], token=1)
    assert await store.acquire(execution.id, "w2") is None


async def test_one_of_many_takers_gets_it(store: Store) -> None:
    execution, _ = await store.create(new())
    taken = await asyncio.gather(*[store.acquire(execution.id, "w1") for _ in range(10)])
    assert sum(one is not None for one in taken) == 1


async def test_release_with_an_old_token_does_nothing(store: Store) -> None:
    execution = await held(store)
    await store.release(execution.id, token=1, runnable=False)
    assert (await store.get(execution.id)).worker is None
    await store.acquire(execution.id, "w1")
    await store.release(execution.id, token=1, runnable=True)
    row = await store.get(execution.id)
    assert (row.worker, row.runnable) == ("w1", False)


# --- delete ---------------------------------------------------------------------------------------


async def test_only_what_is_over_can_be_deleted(store: Store) -> None:
    execution = await held(store)
    with pytest.raises(Conflict) as refused:
        await store.delete(execution.id)
    assert refused.value.code == "not-final"
    assert await store.get(execution.id) == execution


async def test_a_deleted_execution_is_gone_for_thirty_days(
    store: Store, clock: TickingClock
) -> None:
    execution = await held(store)
    await store.append(execution.id, [call("c"), final()], token=1)
    await store.delete(execution.id)
    for ask in (
        store.get(execution.id),
        store.transact(execution.id, always()),
        store.append(execution.id, [text()], token=1),
        store.delete(execution.id),
    ):
        with pytest.raises(Gone) as refused:
            await ask
        assert refused.value.code == "execution-deleted"
    assert await store.acquire(execution.id, "w1") is None
    assert await store.executions() == []
    assert await store.read(execution.id, after=0) == []
    assert await store.waits(execution.id) == []
    clock.at += 30 * 24 * 3600 + 1
    with pytest.raises(NotFound):
        await store.get(execution.id)
    with pytest.raises(NotFound):
        await store.transact(execution.id, always())


async def test_a_key_is_free_again_when_the_tombstone_has_gone(
    store: Store, clock: TickingClock
) -> None:
    first, _ = await store.create(new(key="k", worker="w1"))
    await store.append(first.id, [final()], token=1)
    await store.delete(first.id)
    other = await held(store)
    await store.append(other.id, [final()], token=1)
    clock.at += 30 * 24 * 3600 + 1
    await store.delete(other.id)
    with anyio.fail_after(PATIENCE_SECONDS):
        _, existed = await store.create(new(key="k"))
    assert not existed
