"""The contract of `store.base`: commands, taking and letting go, deleting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from dispatch.core.errors import Conflict, Gone, InvalidRequest, LeaseLost, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.store.base import Change, Committed, Execution, Store, WaitRow
from tests.store.entries import (
    PATIENCE_SECONDS,
    UNKNOWN,
    TickingClock,
    always,
    call,
    final,
    head,
    held,
    new,
    output,
    text,
)


async def _append(store: Store, id: ExecutionId, delta: str) -> None:
    await store.append(id, [text(delta)], token=1)


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
