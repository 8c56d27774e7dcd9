"""The contract of `store.base`: a journal that was recorded elsewhere is added whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from dispatch.core import events
from dispatch.core.errors import Conflict, Gone
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Entry, draft, entry
from dispatch.core.lifecycle import IMPORTED, Status
from dispatch.store.base import Change, Committed, Execution, Recorded, Store
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import (
    BEGIN,
    ENGINE,
    TickingClock,
    always,
    call,
    cancel,
    chunks,
    final,
    head,
    journal,
    new,
    output,
    text,
    timer,
)
from tests.store.test_projection import LIVES, rebuild

LATE = BEGIN + 1_000_000


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Store]:
    """Another store, where it is recorded."""
    store = SqliteStore(tmp_path / "elsewhere.db", clock=TickingClock())
    async with store.session("w1"):
        yield store


async def _live(store: Store, life: list[list[Draft]]) -> Execution:
    execution, _ = await store.create(new(worker="w1"))
    for drafts in life:
        await store.transact(execution.id, always(*drafts))
    return await store.get(execution.id)


async def _recorded(store: Store, execution: Execution, *more: Draft) -> Recorded:
    entries = await journal(store, execution.id)
    entries += [entry(placed, len(entries) + 1, LATE) for placed in more]
    return Recorded(id=execution.id, flow="f", version=1, kind="flow", entries=entries)


def imported() -> Draft:
    return draft(events.Error(error="imported", code=IMPORTED, recoverable=False), ENGINE)


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
async def test_it_is_what_it_was_there(
    store: Store, elsewhere: Store, life: list[list[Draft]]
) -> None:
    there = await _live(elsewhere, life)
    added = await store.add(await _recorded(elsewhere, there))
    assert added == await store.get(there.id)
    assert added == msgspec.structs.replace(there, worker=None, token=0, runnable=False)
    assert await store.waits(there.id) == await elsewhere.waits(there.id)
    assert await journal(store, there.id) == await journal(elsewhere, there.id)
    assert await chunks(store, there.id) == await chunks(elsewhere, there.id)


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES)
async def test_nobody_drives_it_whatever_it_was_doing(
    store: Store, elsewhere: Store, life: list[list[Draft]], told: list[Committed]
) -> None:
    there = await _live(elsewhere, life)
    more = [] if there.status.is_final else [imported()]
    added = await store.add(await _recorded(elsewhere, there, *more))
    assert await store.runnable(10) == []
    assert added.status is (there.status if there.status.is_final else Status.INTERRUPTED)
    assert (added, await store.waits(added.id)) == rebuild(added, await journal(store, added.id))
    assert told[-1].execution.last_seq == added.last_seq


async def test_its_time_stands_still_until_it_is_taken_up(store: Store, elsewhere: Store) -> None:
    there = await _live(elsewhere, [[timer("t", BEGIN + 1), call("c")]])
    await store.add(await _recorded(elsewhere, there, imported()))
    assert (await store.due(LATE, 10), await store.next_due()) == ([], None)
    await store.transact(there.id, always(head()))
    assert [due.wait.id for due in await store.due(LATE, 10)] == ["t"]
    assert await store.next_due() == BEGIN + 1


async def test_of_what_is_being_cancelled_the_time_limit_counts(
    store: Store, elsewhere: Store
) -> None:
    there = await _live(elsewhere, [[timer("t", BEGIN + 1)], [cancel(BEGIN + 2)]])
    await store.add(await _recorded(elsewhere, there, imported()))
    assert [due.wait.id for due in await store.due(LATE, 10)] == ["cancel"]
    assert await store.next_due() == BEGIN + 2


async def test_it_goes_on_like_any_other(store: Store, elsewhere: Store) -> None:
    there = await _live(elsewhere, [[text(), call("c")]])
    await store.add(await _recorded(elsewhere, there, imported()))
    changed = await store.transact(
        there.id, lambda *_: Change([head(), output("c")], wake=True), take_for="w1"
    )
    assert (changed.taken, changed.execution.token) == (True, 1)
    await store.append(there.id, [text(), final()], token=1)
    assert (await store.get(there.id)).status is Status.COMPLETED


async def test_what_is_there_already_is_refused_and_stays_as_it_is(
    store: Store, elsewhere: Store
) -> None:
    there = await _live(elsewhere, [[text()], [final()]])
    recorded = await _recorded(elsewhere, there)
    added = await store.add(recorded)
    with pytest.raises(Conflict) as refused:
        await store.add(msgspec.structs.replace(recorded, entries=recorded.entries[:2]))
    assert refused.value.code == "execution-exists"
    assert await store.get(added.id) == added
    assert await journal(store, added.id) == recorded.entries
    await store.delete(added.id)
    with pytest.raises(Gone):
        await store.add(recorded)


async def test_what_no_journal_can_be_is_refused_before_anything_is_written(store: Store) -> None:
    drafts = [new().start, final(), text()]
    entries: list[Entry] = [entry(one, seq, BEGIN) for seq, one in enumerate(drafts, 1)]
    id = ExecutionId("exec_" + "1" * 32)
    with pytest.raises(Conflict, match="is over"):
        await store.add(Recorded(id=id, flow="f", version=1, kind="flow", entries=entries))
    assert await store.executions() == []
