"""What is told of a database from beside it, and that looking leaves it as it is."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from dispatch.core.clock import iso
from dispatch.core.errors import Unavailable
from dispatch.core.lifecycle import Status
from dispatch.store.inspection import MOST_NAMED, Inspection, OpenWait, Work, inspect
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import (
    BEGIN,
    TickingClock,
    call,
    final,
    held,
    new,
    parked,
    texts,
    turn,
)
from tests.store.test_workers import child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatch.db"


async def look(path: Path, *, now: float = BEGIN, thorough: bool = False) -> Inspection:
    return await anyio.to_thread.run_sync(partial(inspect, path, now=now, thorough=thorough))


def work_of(found: Inspection) -> Work:
    assert found.work is not None
    return found.work


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


async def fill(path: Path, clock: TickingClock) -> SqliteStore:
    """One that waits, one parked, one over, and one that is to be driven."""
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        await store.create(new(timeout=3600))  # a time limit, which nobody could answer
        for end in ([call("first"), turn("first")], [parked()], [final()], [call("second")]):
            execution = await held(store)
            await store.append(execution.id, texts(2), end, expected_seq=1, token=1)
    return store


async def test_the_executions_and_what_they_wait_for(path: Path, clock: TickingClock) -> None:
    store = await fill(path, clock)
    found = await look(path)
    work = work_of(found)
    assert found.problems == []
    assert {status: count for status, count in work.executions.items() if count} == {
        Status.PENDING: 1,
        Status.RUNNING: 1,
        Status.SUSPENDED: 1,
        Status.INTERRUPTED: 1,
        Status.COMPLETED: 1,
    }
    async with store.session("w1"):
        executions = {one.status: one for one in await store.executions()}
        waiting = executions[Status.SUSPENDED]
        [chunk] = await store.read(waiting.id, after=1)
    assert work.oldest_wait == OpenWait(
        execution_id=waiting.id,
        flow="f",
        version=1,
        kind="tool",
        name="look",
        since=iso(chunk.at),
    )
    assert work.parked_codes == {"divergence": 1}
    assert [one.execution_id for one in work.parked] == [executions[Status.INTERRUPTED].id]
    # Its worker has left: what ran, and what nobody had begun, would go on.
    assert (work.workers, work.deserted) == ([], 2)


@pytest.mark.parametrize("thorough", [False, True])
async def test_looking_changes_no_file_and_adds_none(
    path: Path, clock: TickingClock, thorough: bool
) -> None:
    await fill(path, clock)
    before = await anyio.to_thread.run_sync(files, path)
    await look(path, thorough=thorough)
    assert await anyio.to_thread.run_sync(files, path) == before


@pytest.mark.slow
async def test_living_and_dead_workers_are_told_apart(path: Path, clock: TickingClock) -> None:
    async with child(path, "append") as first:
        for _ in range(20):
            await first.acknowledged()
        found = await look(path, now=time.time())
        assert found.log_bytes > 0
        [seen] = work_of(found).workers
        assert (seen.state, seen.synchronous, seen.executions) == ("alive", "NORMAL", 1)
        assert work_of(found).deserted == 0
        # It has not beaten for its lease.
        found = await look(path, now=time.time() + 11)
        assert [one.state for one in work_of(found).workers] == ["still"]
        assert work_of(found).deserted == 1
        await first.kill()
    before = await anyio.to_thread.run_sync(files, path)
    found = await look(path)
    assert [(one.state, one.executions) for one in work_of(found).workers] == [("dead", 1)]
    assert work_of(found).deserted == 1
    after = await anyio.to_thread.run_sync(files, path)
    # The index of the log is made anew by whoever comes first.
    assert {**after, "dispatch.db-shm": b""} == {**before, "dispatch.db-shm": b""}
    # Whoever starts next finds the lock free.
    async with SqliteStore(path, clock=clock).session("w1"):
        found = await look(path)
        assert [(one.id, one.state) for one in work_of(found).workers][1:] == [("w1", "alive")]


async def test_a_worker_whose_lock_is_gone_is_dead(path: Path, clock: TickingClock) -> None:
    async with SqliteStore(path, clock=clock).session("w1"):
        await anyio.to_thread.run_sync(change, path, "UPDATE workers SET process = '1-of-old'")
        await anyio.to_thread.run_sync(path.with_name("dispatch.db-worker-w1").unlink)
        assert [one.state for one in work_of(await look(path)).workers] == ["dead"]


async def test_what_is_suspended_is_deserted_when_its_time_has_come(
    path: Path, clock: TickingClock
) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution = await held(store)
        asked = [call("c", timeout=60), turn("c")]
        await store.append(execution.id, [], asked, expected_seq=1, token=1)
    assert work_of(await look(path, now=BEGIN + 59)).deserted == 0
    assert work_of(await look(path, now=BEGIN + 61)).deserted == 1


async def test_parked_executions_beyond_some_are_only_counted(
    path: Path, clock: TickingClock
) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        for _ in range(MOST_NAMED + 1):
            execution = await held(store)
            await store.append(execution.id, [parked()], token=1)
    work = work_of(await look(path))
    assert (len(work.parked), work.parked_codes) == (MOST_NAMED, {"divergence": MOST_NAMED + 1})


async def test_a_journal_with_a_hole_is_told(path: Path, clock: TickingClock) -> None:
    await fill(path, clock)
    hole = "DELETE FROM journal WHERE execution_key = 3 AND last_seq = 1"
    await anyio.to_thread.run_sync(change, path, hole)
    [problem] = (await look(path)).problems
    assert problem.endswith("is not what its row says")


async def test_an_index_that_lacks_a_row_is_told_by_a_thorough_look(
    path: Path, clock: TickingClock
) -> None:
    await fill(path, clock)
    lack = (
        "PRAGMA writable_schema = 1; CREATE INDEX lacking ON executions (flow) WHERE flow = 'g'; "
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX lacking ON executions (flow)' "
        "WHERE name = 'lacking';"
    )
    await anyio.to_thread.run_sync(change, path, lack)
    assert (await look(path)).problems == []
    assert "lacking" in (await look(path, thorough=True)).problems[0]


async def test_a_damaged_page_is_told(path: Path, clock: TickingClock) -> None:
    await fill(path, clock)

    def damage() -> None:
        pages = bytearray(path.read_bytes())
        pages[8192:16384] = b"\x55" * 8192
        path.write_bytes(pages)

    await anyio.to_thread.run_sync(damage)
    found = await look(path)
    assert found.problems
    assert (found.schema, found.known_schema) == (found.known_schema, found.schema)


async def test_of_a_newer_schema_only_the_file_is_told(path: Path, clock: TickingClock) -> None:
    await fill(path, clock)
    await anyio.to_thread.run_sync(change, path, "PRAGMA user_version = 999")
    found = await look(path)
    assert (found.schema, found.problems, found.work) == (999, [], None)
    assert found.known_schema < 999


async def test_what_is_not_dispatchs_is_refused(path: Path) -> None:
    await anyio.to_thread.run_sync(change, path, "CREATE TABLE of_somebody_else (a)")
    with pytest.raises(Unavailable) as refused:
        await look(path)
    assert refused.value.code == "store-foreign"
    await anyio.to_thread.run_sync(path.write_bytes, b"no database" * 100)
    with pytest.raises(Unavailable) as refused:
        await look(path)
    assert refused.value.code == "store-failed"


@pytest.mark.slow
async def test_a_path_that_is_a_link_tells_the_same(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere.db"
    await anyio.Path(link).symlink_to(path)
    async with child(path, "suspend"):
        found = await look(link, now=time.time())
        # What is only in the log, which lies beside the file itself.
        assert (found.path, found.log_bytes > 0) == (str(path), True)
        assert work_of(found).executions[Status.SUSPENDED] == 1
        assert [one.state for one in work_of(found).workers] == ["alive"]
