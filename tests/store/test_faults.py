"""Full disks, I/O errors, operations that break, databases that are locked: who hears of it.

The faults are real ones: limits of SQLite and of the operating system, and other connections.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.store import sqlite, writer
from dispatch.store.base import Change, Execution, Store, WaitRow
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import (
    PATIENCE_SECONDS,
    TickingClock,
    call,
    head,
    kinds,
    new,
    text,
    texts,
)


@pytest.fixture(params=["NORMAL", "FULL"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: TickingClock) -> SqliteStore:
    """Not in a session yet."""
    return SqliteStore(tmp_path / "dispatch.db", clock=clock, synchronous=request.param)


async def unhealthy(store: SqliteStore) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while store.fault is None:
            await anyio.lowlevel.checkpoint()


# --- a disk that is full --------------------------------------------------------------------------


async def _max_pages(store: SqliteStore, pages: int) -> None:
    # The limit is one of the connection that writes.
    db = store._writer._db
    await anyio.to_thread.run_sync(lambda: db.execute(f"PRAGMA max_page_count = {pages:d}"))


async def test_on_a_full_disk_appends_wait_and_commands_are_refused(store: SqliteStore) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        assert store.fault is None
        await _max_pages(store, 1)
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(_append, store, execution.id, 300)
            await unhealthy(store)

            with anyio.fail_after(PATIENCE_SECONDS):
                for refused in (
                    store.create(new()),
                    store.transact(execution.id, lambda row, waits: Change([text("x" * 9000)])),
                ):
                    with pytest.raises(Unavailable) as full:
                        await refused
                    assert full.value.code == "store-full"
            assert (await store.get(execution.id)).last_seq == 1

            await _max_pages(store, 1_000_000)
        assert store.fault is None
        assert await kinds(store, execution.id) == ["execution_start"] + ["text_delta"] * 900
        assert (await store.create(new())).existed is False


async def _append(store: Store, id: ExecutionId, count: int) -> None:
    await store.append(id, texts(count), token=1)


async def test_a_store_that_cannot_write_can_be_closed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "CLOSE_SECONDS", 0.05)
    async with anyio.create_task_group() as tasks:
        async with store.session("w1"):
            execution, _ = await store.create(new(worker="w1"))
            await _max_pages(store, 1)
            tasks.start_soon(_append_in_vain, store, execution.id)
            await unhealthy(store)
        with pytest.raises(Unavailable):
            await store.create(new())
    assert "1 writes undone" in caplog.text
    async with store.session("w2"):
        # It could not say that it left: so it died.
        assert await store.bury_dead() == 1
        assert (await store.get(execution.id)).last_seq == 1


async def _append_in_vain(store: Store, id: ExecutionId) -> None:
    with pytest.raises(Unavailable):
        await _append(store, id, 300)


# --- a disk that fails ----------------------------------------------------------------------------


@contextmanager
def _no_file_may_grow() -> Iterator[None]:
    """Every write to a file fails (the offset of each is beyond the limit)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_after_an_io_error_appends_go_on(
    store: SqliteStore, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        async with store.session("w1"):
            execution, _ = await store.create(new(worker="w1"))
            async with anyio.create_task_group() as tasks:
                with _no_file_may_grow():
                    tasks.start_soon(_append, store, execution.id, 3)
                    await unhealthy(store)
                    with pytest.raises(Unavailable) as failed:
                        await store.create(new())
                assert failed.value.code == "store-failed"
            assert store.fault is None
            assert (await store.get(execution.id)).last_seq == 4


# --- statements that fail -------------------------------------------------------------------------


class Failing:
    """A connection on which the next statement that begins with `prefix` fails with `code`, and
    the `times - 1` after it. What it was to do is not done.
    """

    def __init__(self, db: Any, prefix: str, code: int, times: int = 1):
        self._db, self._prefix, self._code, self.times = db, prefix, code, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *parameters: Any) -> Any:
        if self.times and statement.startswith(self._prefix):
            self.times -= 1
            error = sqlite3.OperationalError(f"{self._prefix} fails")
            error.sqlite_errorcode = self._code
            raise error
        return self._db.execute(statement, *parameters)


async def passes(store: SqliteStore) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while store.fault is not None:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        ("BEGIN", sqlite3.SQLITE_IOERR),
        ("BEGIN", sqlite3.SQLITE_ERROR),
        ("SELECT", sqlite3.SQLITE_IOERR_READ),
        ("INSERT", sqlite3.SQLITE_FULL),
        ("INSERT", sqlite3.SQLITE_READONLY),
        ("UPDATE", sqlite3.SQLITE_NOMEM),
        ("COMMIT", sqlite3.SQLITE_IOERR_WRITE),
        ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC),
        ("COMMIT", sqlite3.SQLITE_CORRUPT),
        ("COMMIT", sqlite3.SQLITE_ERROR),
    ],
)
async def test_whatever_statement_fails_appends_are_made_once_and_commands_are_refused(
    store: SqliteStore, prefix: str, code: int
) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        # BEGIN is tried twice: on the loop, and in the thread that waits for other processes.
        failing = Failing(store._writer._db, prefix, code, times=4)
        store._writer._db = failing  # type: ignore[assignment]
        refused: list[str] = []

        async def command() -> None:
            try:
                await store.create(new())
            except Unavailable as exc:
                refused.append(exc.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_append, store, execution.id, 3)
            tasks.start_soon(command)
            tasks.start_soon(_append, store, execution.id, 2)
        assert failing.times == 0
        assert refused == ["store-full" if code == sqlite3.SQLITE_FULL else store_code(code)]
        assert await kinds(store, execution.id) == ["execution_start"] + ["text_delta"] * 5
        await passes(store)
        await store.create(new())
        assert store.counters.commit_failures > 0


def store_code(code: int) -> str:
    return "store-corrupt" if code == sqlite3.SQLITE_CORRUPT else "store-failed"


async def test_a_rollback_that_fails_is_made_up_for(store: SqliteStore) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        rolls_back = Failing(store._writer._db, "ROLLBACK", sqlite3.SQLITE_IOERR)
        commits = Failing(rolls_back, "COMMIT", sqlite3.SQLITE_IOERR)
        store._writer._db = commits  # type: ignore[assignment]
        await _append(store, execution.id, 3)
        assert (rolls_back.times, commits.times) == (0, 0)
        assert await kinds(store, execution.id) == ["execution_start"] + ["text_delta"] * 3
        await passes(store)


async def test_a_fault_passes_by_itself_though_nobody_writes(store: SqliteStore) -> None:
    async with store.session("w1"):
        await _max_pages(store, 1)
        with suppress(Unavailable):
            while True:
                await store.create(new())
        tries = store.counters.commit_failures
        with anyio.fail_after(PATIENCE_SECONDS):
            while store.counters.commit_failures < tries + 2:
                await anyio.lowlevel.checkpoint()
        assert store.fault is not None
        assert store.fault.code == "store-full"
        await _max_pages(store, 1_000_000)
        await passes(store)
        await store.create(new())


async def test_a_damaged_page_concerns_those_alone_who_need_it(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.session("w1"):
        one, _ = await store.create(new(worker="w1"))
        other, _ = await store.create(new(worker="w1"))

        class Damaged(Failing):
            def execute(self, statement: str, *parameters: Any) -> Any:
                self.times = int(bool(parameters) and one.id in parameters[0])
                return super().execute(statement, *parameters)

        store._writer._db = Damaged(store._writer._db, "SELECT", sqlite3.SQLITE_CORRUPT)  # type: ignore[assignment]
        codes: list[str] = []

        async def append_to_damaged() -> None:
            with pytest.raises(Unavailable) as failed:
                await _append(store, one.id, 1)
            codes.append(failed.value.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_append, store, other.id, 2)
            tasks.start_soon(append_to_damaged)
            tasks.start_soon(_append, store, other.id, 2)
        assert codes == ["store-corrupt"]
        assert (await store.get(other.id)).last_seq == 5
        assert store.fault is None


# --- an operation that breaks ---------------------------------------------------------------------


async def test_what_breaks_within_its_writes_fails_alone_and_keeps_the_order(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        seen: list[int] = []

        async def command(drafts: int) -> None:
            def decide(row: Execution, waits: Sequence[WaitRow]) -> Change:
                return Change([head()] * drafts)

            seen.append((await store.transact(execution.id, decide)).execution.last_seq)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_append, store, execution.id, 2)
            tasks.start_soon(command, 1)
            # Two waits under one id: a mistake of the engine's, found by the database alone.
            tasks.start_soon(_append_broken, store, execution.id)
            tasks.start_soon(_append, store, execution.id, 2)
            tasks.start_soon(command, 1)
        assert seen == [4, 7]
        assert [wait.id for wait in await store.waits(execution.id)] == []
        assert store.fault is None
    assert "a write failed" in caplog.text


async def _append_broken(store: Store, id: ExecutionId) -> None:
    with pytest.raises(Unavailable) as failed:
        await store.append(id, [text(), call("c"), call("c")], token=1)
    assert failed.value.code == "store-failed"


# --- a database that others lock ------------------------------------------------------------------


class _Lock:
    """Another connection that holds the right to write."""

    def __init__(self, path: Path):
        self._path = path

    async def __aenter__(self) -> None:
        self._db = await anyio.to_thread.run_sync(self._take)

    def _take(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        db.execute("BEGIN IMMEDIATE")
        return db

    async def __aexit__(self, *_: object) -> None:
        await anyio.to_thread.run_sync(self._db.close)


async def test_the_loop_goes_on_while_another_process_writes(
    store: SqliteStore, tmp_path: Path
) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        async with anyio.create_task_group() as tasks, _Lock(tmp_path / "dispatch.db"):
            tasks.start_soon(_append, store, execution.id, 2)
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert (await store.get(execution.id)).last_seq == 1
        assert (await store.get(execution.id)).last_seq == 3
        assert store.fault is None


async def test_a_lock_that_stays_is_a_fault(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BUSY_SECONDS", 0.01)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        async with anyio.create_task_group() as tasks, _Lock(tmp_path / "dispatch.db"):
            tasks.start_soon(_append, store, execution.id, 2)
            with pytest.raises(Unavailable), anyio.fail_after(PATIENCE_SECONDS):
                await store.create(new())
            assert store.fault is not None
        assert (await store.get(execution.id)).last_seq == 3


# --- reading --------------------------------------------------------------------------------------


async def test_reads_of_a_broken_database_are_refused(store: SqliteStore, tmp_path: Path) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        await anyio.to_thread.run_sync(_drop, tmp_path / "dispatch.db")
        for ask in (store.get(execution.id), store.read(execution.id, after=0)):
            with pytest.raises(Unavailable) as failed:
                await ask
            assert failed.value.code == "store-failed"


def _drop(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE journal")
        db.execute("DROP TABLE executions")


async def test_a_store_that_cannot_be_read_says_so_until_it_can(store: SqliteStore) -> None:
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        rows = Failing(store._rows, "SELECT", sqlite3.SQLITE_IOERR_READ)
        store._rows = rows  # type: ignore[assignment]
        pages = Failing(store._pages._connection, "SELECT", sqlite3.SQLITE_IOERR_READ)
        store._pages._connection = pages  # type: ignore[assignment]
        for ask in (lambda: store.get(execution.id), lambda: store.read(execution.id, after=0)):
            with pytest.raises(Unavailable) as failed:
                await ask()
            assert failed.value.code == "store-failed"
            assert store.fault is failed.value
            await ask()
            assert store.fault is None
        assert store.counters.read_failures == 2
