"""The contract of `store.base`, going ahead: a driver that does not wait for the commit of what it
stands on, and what becomes of it if that comes to nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from dispatch.core.errors import Conflict, Gone, LeaseLost, NotFound, Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.store.base import Appended, Change, Committed, Execution, Store, WaitRow
from dispatch.store.sqlite import SqliteStore
from tests.store.conftest import StoreMaker
from tests.store.entries import (
    PATIENCE_SECONDS,
    TickingClock,
    always,
    call,
    final,
    head,
    kinds,
    new,
    output,
    text,
    turn,
)
from tests.store.test_faults import Failing, passes


class Driver:
    """Goes ahead with whatever the store offers, and appends `drafts` to it."""

    def __init__(self, store: Store, drafts: Sequence[Draft] = (), *, release: bool = False):
        self.drafts, self.release = drafts, release
        self.offered: list[Committed] = []
        self.called_back: list[int] = []
        self.visible: list[int] = []
        self.appends: list[asyncio.Future[Appended]] = []
        self._store = store
        store.ahead = self._go_ahead

    def _go_ahead(self, committed: Committed) -> Callable[[], None]:
        self.offered.append(committed)
        self.visible += [row.last_seq for row in self._store.peek([committed.execution.id])]
        if self.drafts:
            appending = self._append(committed.execution)
            self.appends.append(asyncio.ensure_future(appending))
        return lambda: self.called_back.append(committed.execution.token)

    async def _append(self, execution: Execution) -> Appended:
        return await self._store.append(
            execution.id,
            (),
            self.drafts,
            expected_seq=execution.last_seq,
            token=execution.token,
            release=self.release,
        )


async def suspended(store: Store) -> ExecutionId:
    """One that waits for the output of the call `c`, nobody's."""
    execution, _ = await store.create(new(worker="w1"))
    await store.append(
        execution.id, (), [call("c"), turn("c")], expected_seq=1, token=1, release=True
    )
    return execution.id


def resume(store: Store, id: ExecutionId) -> Any:
    return store.transact(id, always(head(), output("c"), wake=True), take_for="w1")


# --- one commit -----------------------------------------------------------------------------------


async def test_what_a_driver_appends_ahead_is_committed_with_what_it_stands_on(
    store: Store, told: list[Committed]
) -> None:
    driver = Driver(store, [call("c"), turn("c")], release=True)
    commits = store.counters.commits
    created = await store.create(new(worker="w1"))
    assert store.counters.commits == commits + 1
    assert await driver.appends[0] == (3, True)
    assert driver.visible == []
    assert [one.first_seq for one in told] == [1, 2]
    assert [one.to_drive for one in told] == [False, False]
    assert created.execution == driver.offered[0].execution

    driver.drafts, driver.release = [text()], False
    changed = await resume(store, created.execution.id)
    assert store.counters.commits == commits + 2
    assert await driver.appends[1] == (6, True)
    assert driver.visible == [3]
    assert (changed.taken, changed.execution.last_seq) == (True, 5)
    assert (await store.get(created.execution.id)).token == 2
    assert await kinds(store, created.execution.id) == [
        "execution_start", "tool_start", "await", "execution_start", "tool_complete", "text_delta",
    ]  # fmt: skip


async def test_a_commit_does_not_wait_for_ever(store: Store, told: list[Committed]) -> None:
    Driver(store)
    with anyio.fail_after(PATIENCE_SECONDS):
        execution, _ = await store.create(new(worker="w1"))
    assert (await store.append(execution.id, [text()], token=1)).last_seq == 2


async def test_whoever_does_not_go_ahead_is_told_what_there_is_to_drive(
    store: Store, told: list[Committed]
) -> None:
    id = await suspended(store)
    await resume(store, id)
    assert [one.to_drive for one in told] == [True, False, True]
    await store.create(new())
    assert told[-1].to_drive is False


async def test_only_what_is_taken_and_appended_to_is_offered(
    store: Store, told: list[Committed]
) -> None:
    id = await suspended(store)
    driver = Driver(store)
    first = await store.create(new(key="k"))
    assert (await store.create(new(worker="w1", key="k"))).existed
    assert not (await store.transact(id, always(text(), wake=True))).taken
    assert not (await store.transact(id, always(wake=True), take_for="w1")).taken
    assert (await store.get(id)).runnable
    assert await store.acquire(first.execution.id, "w1") is not None
    assert driver.offered == []


async def test_nobody_goes_ahead_beside_another_worker(
    make_store: StoreMaker, store: Store, told: list[Committed]
) -> None:
    driver = Driver(store)
    async with make_store(TickingClock()).session("w2"):
        await store.bury_dead()
        await store.create(new(worker="w1"))
        assert (driver.offered, told[-1].to_drive) == ([], True)
    await store.bury_dead()
    await store.create(new(worker="w1"))
    assert len(driver.offered) == 1


async def test_who_is_refused_beside_it_costs_nobody_anything(store: Store) -> None:
    id = await suspended(store)
    driver = Driver(store, [text()])
    refused: list[Exception] = []

    async def command(change: Draft | None) -> None:
        def decide(row: Execution, waits: Sequence[WaitRow]) -> Change:
            if change is None:
                raise Conflict("no", code="final")
            return Change([change])

        try:
            await store.transact(id, decide)
        except Conflict as exc:
            refused.append(exc)

    commits = store.counters.commits
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(command, None)
        tasks.start_soon(resume, store, id)
        tasks.start_soon(command, None)
        # It comes before the driver's append, which therefore does not land.
        tasks.start_soon(command, text())
    assert len(refused) == 2
    assert await driver.appends[0] == (6, False)
    assert store.counters.commits == commits + 1


# --- what comes to nothing ------------------------------------------------------------------------


@pytest.fixture
def sqlite_store(store: Store) -> SqliteStore:
    assert isinstance(store, SqliteStore)
    return store


def fail_next_commit(store: SqliteStore) -> None:
    failing = Failing(store._writer._db, "COMMIT", sqlite3.SQLITE_IOERR)
    store._writer._db = failing  # type: ignore[assignment]


async def refused(appending: asyncio.Future[Appended]) -> None:
    with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(LeaseLost):
        await appending


async def test_who_has_gone_ahead_of_a_dispatch_that_failed_is_refused(
    sqlite_store: SqliteStore, told: list[Committed]
) -> None:
    store = sqlite_store
    driver = Driver(store, [text()])
    fail_next_commit(store)
    asked = new(worker="w1")
    with pytest.raises(Unavailable):
        await store.create(asked)
    assert driver.called_back == [1]
    await refused(driver.appends[0])
    assert told == []
    with pytest.raises(NotFound):
        await store.get(asked.id)

    await passes(store)
    await store.create(asked)
    assert (await driver.appends[1]).landed
    assert driver.called_back == [1]
    await refused(asyncio.ensure_future(store.append(asked.id, [text("late")], token=1)))
    await store.release(asked.id, token=1, runnable=True)
    assert (await store.get(asked.id)).worker == "w1"
    assert await kinds(store, asked.id) == ["execution_start", "text_delta"]


async def test_who_has_gone_ahead_of_a_resume_that_failed_is_refused(
    sqlite_store: SqliteStore, told: list[Committed]
) -> None:
    store = sqlite_store
    id = await suspended(store)
    driver = Driver(store, [text()])
    fail_next_commit(store)
    with pytest.raises(Unavailable):
        await resume(store, id)
    assert driver.called_back == [2]
    await refused(driver.appends[0])
    row = await store.get(id)
    assert (row.last_seq, row.token, row.worker) == (3, 1, None)

    await passes(store)
    await resume(store, id)
    assert (await driver.appends[1]).landed
    await refused(asyncio.ensure_future(store.append(id, [text("late")], token=2)))
    assert (await kinds(store, id))[3:] == ["execution_start", "tool_complete", "text_delta"]


async def test_its_token_is_worth_nothing_though_another_worker_has_it_now(
    make_store: StoreMaker, sqlite_store: SqliteStore
) -> None:
    store = sqlite_store
    id = await suspended(store)
    Driver(store)
    fail_next_commit(store)
    with pytest.raises(Unavailable):
        await resume(store, id)
    await passes(store)
    other = make_store(TickingClock())
    async with other.session("w2"):
        changed = await other.transact(id, always(head(), wake=True), take_for="w2")
        assert (changed.taken, changed.execution.token) == (True, 2)
        await refused(asyncio.ensure_future(store.append(id, [text("late")], token=2)))
        await store.release(id, token=2, runnable=True)
        assert (await other.get(id)).worker == "w2"
        await other.append(id, [text()], token=2, release=False)


async def test_what_goes_ahead_in_a_batch_that_breaks_begins_again_and_alone(
    sqlite_store: SqliteStore, told: list[Committed]
) -> None:
    store = sqlite_store
    other, _ = await store.create(new(worker="w1"))
    driver = Driver(store, [text()])
    asked = new(worker="w1")

    async def break_it() -> None:
        with pytest.raises(Unavailable):
            await store.append(other.id, [call("c"), call("c")], token=1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.create, asked)
        tasks.start_soon(break_it)
    # Its append was in the same batch, or behind it.
    await refused(driver.appends[0])
    assert len(driver.offered) == 1
    assert (told[-1].execution.id, told[-1].to_drive) == (asked.id, True)
    assert (await store.get(asked.id)).status is Status.PENDING
    assert (await store.append(asked.id, [text()], token=2)).last_seq == 2


async def test_what_a_driver_breaks_it_breaks_alone(
    sqlite_store: SqliteStore, told: list[Committed]
) -> None:
    driver = Driver(sqlite_store, [call("c"), call("c")])
    with anyio.fail_after(PATIENCE_SECONDS):
        execution, _ = await sqlite_store.create(new(worker="w1"))
    await refused(driver.appends[0])
    assert told[-1].to_drive
    assert await kinds(sqlite_store, execution.id) == ["execution_start"]


async def test_a_store_that_is_left_commits_what_is_waited_for(
    make_store: StoreMaker, clock: TickingClock
) -> None:
    store = make_store(clock)
    asked = new(worker="w1")
    async with anyio.create_task_group() as tasks, store.session("w1"):
        driver = Driver(store)
        tasks.start_soon(store.create, asked)
        with anyio.fail_after(PATIENCE_SECONDS):
            while not driver.offered:
                await anyio.lowlevel.checkpoint()
    async with store.session("w2"):
        assert (await store.get(asked.id)).last_seq == 1


async def test_a_row_from_before_it_was_taken_says_of_nobody_that_it_is_lost(store: Store) -> None:
    id = await suspended(store)
    before = await store.get(id)
    assert not before.is_lost_to("w1", 2)
    assert before.is_lost_to("w1", 0)


# --- rows, which are held back until the commit ---------------------------------------------------


async def test_what_is_let_go_of_in_the_batch_of_an_append_is_nobodys(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    commits = store.counters.commits
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(store.append, execution.id, [call("c"), turn("c")], token=1))
        tasks.start_soon(partial(store.release, execution.id, token=1, runnable=True))
    assert store.counters.commits == commits + 1
    row = await store.get(execution.id)
    assert (row.last_seq, row.worker, row.runnable) == (3, None, True)
    assert row.status is Status.SUSPENDED


async def test_what_is_deleted_in_the_batch_of_its_end_is_gone(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    gone: list[str] = []

    async def ask() -> None:
        with pytest.raises(Gone):
            await store.transact(execution.id, always(text()))
        gone.append(execution.id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(store.append, execution.id, [final()], token=1))
        tasks.start_soon(store.delete, execution.id)
        tasks.start_soon(ask)
    assert gone
