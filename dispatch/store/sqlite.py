"""The SQLite store: `store.base`'s protocol over one file, which several processes may share.

All writes go through `store.writer` and are made by `store.transaction`. Rows are read on the loop,
from a connection of their own, for it takes less time than to ask a thread; pages of journals and
lists are read by aiosqlite. A read transaction lasts for one page at most, or the log could not be
checkpointed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiosqlite
import anyio
import anyio.to_thread

from dispatch.core.clock import Clock
from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.store import rows
from dispatch.store.base import (
    Appended,
    Changed,
    Chunk,
    Committed,
    Created,
    Decide,
    Due,
    Execution,
    Listener,
    NewExecution,
    WaitRow,
)
from dispatch.store.checkpoints import GAP_BYTES, Checkpoints
from dispatch.store.migrate import migrate
from dispatch.store.transaction import Transaction, missing
from dispatch.store.workers import WorkerLock, this_process
from dispatch.store.writer import Writer

R = TypeVar("R")

#: How long leaving the store waits for writes that cannot be carried out.
CLOSE_SECONDS = 5.0
#: A page of a journal ends with the chunk that takes it over this size.
MAX_PAGE_BYTES = 4 * 1024 * 1024

# ruff's S608 sees SQL built from strings; what is built in are the column lists of `rows`.
_GET = f"SELECT {rows.EXECUTION} FROM executions WHERE id = ?"  # noqa: S608
_ALL_WAITS = (
    f"SELECT {rows.WAIT} FROM waits WHERE execution_key = "  # noqa: S608
    "(SELECT key FROM executions WHERE id = ?) ORDER BY opened_seq"
)
_RUNNABLE = (
    f"SELECT {rows.EXECUTION} FROM executions "  # noqa: S608
    "WHERE runnable = 1 ORDER BY strikes, key LIMIT ?"
)
_DUE = (
    f"SELECT (SELECT executions.id FROM executions WHERE key = execution_key), {rows.WAIT} "  # noqa: S608
    "FROM waits WHERE status = 'open' AND due_at <= ? ORDER BY due_at LIMIT ?"
)
_NEXT_DUE = "SELECT min(due_at) FROM waits WHERE status = 'open' AND due_at IS NOT NULL"
# The window adds up sizes alone, so the chunks behind the end of the page are never read.
_PAGE = (
    f"SELECT {rows.CHUNK} FROM journal WHERE rowid IN ("  # noqa: S608
    "SELECT id FROM (SELECT rowid AS id, sum(length(frames) + coalesce(length(private), 0)) OVER ("
    "ORDER BY last_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before "
    "FROM (SELECT rowid, last_seq, frames, private FROM journal WHERE execution_key = ?1 "
    "AND last_seq > ?2 AND last_seq - length(origins) + 1 <= ?3 ORDER BY last_seq LIMIT ?4)) "
    "WHERE coalesce(before, 0) < ?5) ORDER BY last_seq"
)
_LIST = (
    f"SELECT {rows.EXECUTION} FROM executions "  # noqa: S608
    "WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR flow = ?2) "
    "AND (?3 IS NULL OR key < (SELECT key FROM executions WHERE id = ?3)) "
    "ORDER BY key DESC LIMIT ?4"
)


def _ignore(_: Committed) -> None:
    pass


class SqliteStore:
    """Everything in one file at `path`.

    `synchronous="NORMAL"` survives the death of the process at any moment, `"FULL"` also that of
    the machine. Nothing but `session` works outside a session.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    ):
        self.listener: Listener = _ignore
        self._path = Path(path).absolute()
        self._clock, self._synchronous = clock, synchronous
        self._worker = ""
        self._writer: Writer
        self._rows: sqlite3.Connection
        self._pages: aiosqlite.Connection

    @property
    def healthy(self) -> bool:
        """Whether the last commit worked."""
        return self._writer.healthy

    # --- session ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self, worker: str) -> AsyncIterator[None]:
        self._worker = worker
        async with AsyncExitStack() as stack:
            lock = await anyio.to_thread.run_sync(WorkerLock.take, self._path, worker)
            stack.push_async_callback(_shielded, lock.remove)
            db = await anyio.to_thread.run_sync(self._open, True)
            stack.push_async_callback(_shielded, db.close)
            checkpoint_db = await anyio.to_thread.run_sync(self._open)
            stack.push_async_callback(_shielded, checkpoint_db.close)
            self._rows = await anyio.to_thread.run_sync(self._open)
            stack.push_async_callback(_shielded, self._rows.close)
            self._pages = await stack.enter_async_context(aiosqlite.connect(self._path))
            await self._pages.execute("PRAGMA query_only = 1")
            checkpoints = Checkpoints(checkpoint_db)
            stack.push_async_callback(checkpoints.close)
            self._writer = Writer(
                db, self._clock, self._deliver, checkpoints, durable=self._synchronous == "FULL"
            )
            stack.push_async_callback(self._close_writer, worker)
            await self._writer.submit(lambda tx: tx.enlist(worker, this_process()))
            yield

    async def _close_writer(self, worker: str) -> None:
        with anyio.CancelScope(shield=True):
            with suppress(Unavailable):
                await self._writer.submit(lambda tx: tx.leave(worker))
            await self._writer.close(CLOSE_SECONDS)

    def _open(self, migrated: bool = False) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        try:
            if migrated:
                db.execute("PRAGMA busy_timeout = 5000")
                db.execute("PRAGMA journal_mode = WAL")
                migrate(db)
                db.execute("PRAGMA busy_timeout = 0")
            db.execute("PRAGMA wal_autocheckpoint = 0")
            db.execute(f"PRAGMA journal_size_limit = {GAP_BYTES:d}")
            db.execute(f"PRAGMA synchronous = {self._synchronous}")
        except BaseException:
            db.close()
            raise
        return db

    def _deliver(self, committed: Committed) -> None:
        self.listener(committed)

    # --- writing ----------------------------------------------------------------------------------

    async def create(self, new: NewExecution) -> Created:
        return await self._writer.submit(lambda tx: tx.create(new))

    async def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft] = (),
        *,
        expected_seq: int = 0,
        token: int,
        release: bool = False,
    ) -> Appended:
        def run(tx: Transaction) -> Appended:
            return tx.append(execution_id, drafts, firm, expected_seq, token, release)

        return await self._writer.submit(run, kept=True, weight=1 + len(drafts) + len(firm))

    async def transact(
        self,
        execution_id: ExecutionId,
        decide: Decide,
        *,
        keys: Sequence[str] = (),
        take_for: str | None = None,
    ) -> Changed:
        return await self._writer.submit(
            lambda tx: tx.transact(execution_id, decide, keys, take_for)
        )

    async def acquire(self, execution_id: ExecutionId, worker: str) -> Execution | None:
        return await self._writer.submit(lambda tx: tx.acquire(execution_id, worker))

    async def release(self, execution_id: ExecutionId, *, token: int, runnable: bool) -> None:
        await self._writer.submit(lambda tx: tx.release(execution_id, token, runnable))

    async def delete(self, execution_id: ExecutionId) -> None:
        key = await self._writer.submit(lambda tx: tx.delete(execution_id))
        while not await self._writer.submit(lambda tx: tx.purge(key)):
            pass

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, execution_id: ExecutionId) -> Execution:
        found = self._select(_GET, execution_id)
        if not found:
            raise missing(self._rows, execution_id, self._clock.now())
        return rows.to_execution(found[0])

    async def waits(self, execution_id: ExecutionId) -> list[WaitRow]:
        return [rows.to_wait(row) for row in self._select(_ALL_WAITS, execution_id)]

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> list[Chunk]:
        key = self._select("SELECT key FROM executions WHERE id = ?", execution_id)
        if not key:
            return []
        last = 2**62 if until is None else until
        found = await self._pages.execute_fetchall(
            _PAGE, (key[0][0], after, last, limit, MAX_PAGE_BYTES)
        )
        return rows.to_chunks(found, after, until)

    async def executions(
        self,
        *,
        status: Status | None = None,
        flow: str | None = None,
        limit: int = 100,
        before: ExecutionId | None = None,
    ) -> list[Execution]:
        found = await self._pages.execute_fetchall(_LIST, (status, flow, before, limit))
        return [rows.to_execution(row) for row in found]

    # --- what is to be done -----------------------------------------------------------------------

    async def runnable(self, limit: int) -> list[Execution]:
        return [rows.to_execution(row) for row in self._select(_RUNNABLE, limit)]

    async def due(self, now: float, limit: int) -> list[Due]:
        found = self._select(_DUE, now, limit)
        return [Due(ExecutionId(row[0]), rows.to_wait(row[1:])) for row in found]

    async def next_due(self) -> float | None:
        found: float | None = self._select(_NEXT_DUE)[0][0]
        return found

    async def bury_dead(self) -> int:
        others = self._select("SELECT id, process FROM workers WHERE id <> ?", self._worker)
        freed = 0
        for worker, process in others:
            lock = await anyio.to_thread.run_sync(WorkerLock.take_over, self._path, worker, process)
            if lock is not None:
                try:
                    freed += await self._writer.submit(partial(Transaction.bury, worker=worker))
                finally:
                    await _shielded(lock.remove)
        return freed

    def _select(self, statement: str, *parameters: Any) -> list[Any]:
        return self._rows.execute(statement, parameters).fetchall()


async def _shielded(close: Callable[[], None]) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(close)
