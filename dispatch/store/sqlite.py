"""The SQLite store: `store.base`'s protocol over one file, which several processes may share.

All writes go through `store.writer` and are made by `store.transaction`. Rows are read on the loop,
from a connection of their own, for it takes less time than to ask a thread; pages of journals and
lists are read by aiosqlite. A read transaction lasts for one page at most, or the log could not be
checkpointed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

import aiosqlite
import anyio
import anyio.to_thread
import msgspec

from dispatch.core.clock import Clock
from dispatch.core.counters import Counters
from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import IMPORTED, Status
from dispatch.store import rows
from dispatch.store.aside import Aside, Naps
from dispatch.store.base import (
    Ahead,
    Appended,
    Changed,
    Chunk,
    Committed,
    Created,
    Decide,
    Due,
    Execution,
    Held,
    Listener,
    NewExecution,
    Recorded,
    WaitRow,
)
from dispatch.store.checkpoints import GAP_BYTES, TRUNCATE_PATIENCE_MS, Checkpoints
from dispatch.store.lastwords import SILENCE, WordsFile, forget, hear
from dispatch.store.migrate import migrate
from dispatch.store.mounts import check_mount
from dispatch.store.opening import await_turn, check_path, explain
from dispatch.store.sessions import SqliteSessions
from dispatch.store.transaction import NAMED, TOMBSTONE, TOMBSTONE_SECONDS, check_repeated, missing
from dispatch.store.workers import About, Lease, Others, WorkerFile, this_process
from dispatch.store.writer import Writer, primary_code, unavailable, weight

#: How long opening waits for other processes, and leaving for writes that cannot be carried out.
OPEN_SECONDS = 10.0
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
# For an imported execution time stands still until somebody retries or cancels it.
_AT_WORK = (
    "(kind = 'cancel' OR NOT EXISTS (SELECT 1 FROM executions "  # noqa: S608
    f"WHERE key = execution_key AND status = 'interrupted' AND code = '{IMPORTED}'))"
)
_HELD = "SELECT id, token FROM executions WHERE worker = ?"
_DUE = (
    f"SELECT (SELECT executions.id FROM executions WHERE key = execution_key), {rows.WAIT} "  # noqa: S608
    f"FROM waits WHERE status = 'open' AND due_at <= ? AND {_AT_WORK} ORDER BY due_at LIMIT ?"
)
_NEXT_DUE = (
    "SELECT due_at FROM waits WHERE status = 'open' AND due_at IS NOT NULL "  # noqa: S608
    f"AND {_AT_WORK} ORDER BY due_at LIMIT 1"
)
_PEEK = (
    f"SELECT {rows.EXECUTION} FROM executions "  # noqa: S608
    "WHERE id IN (SELECT value FROM json_each(?))"
)
# Whoever holds something is among them, also if somebody has removed its row and its file.
_WORKERS = (
    "SELECT id, process FROM workers UNION ALL SELECT DISTINCT worker, '' FROM executions "
    "WHERE worker IS NOT NULL AND worker NOT IN (SELECT id FROM workers)"
)
_UNPURGED = "SELECT execution_key FROM tombstones WHERE execution_key IS NOT NULL"
_ENDLESS = 2**62
# The window adds up lengths, which SQLite knows without reading the chunks themselves.
_PAGE = (
    f"SELECT {rows.CHUNK} FROM journal WHERE rowid IN (SELECT id FROM ("  # noqa: S608
    "SELECT id, sum(size) OVER ("
    "ORDER BY last_seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS size_before "
    "FROM (SELECT rowid AS id, last_seq, length(frames) + coalesce(length(private), 0) AS size "
    "FROM journal WHERE execution_key = (SELECT key FROM executions WHERE id = ?) "
    "AND last_seq > ? AND last_seq - length(origins) < ? "
    "ORDER BY last_seq LIMIT ?)) WHERE coalesce(size_before, 0) < ?) ORDER BY last_seq"
)
_LIST = f"SELECT {rows.EXECUTION} FROM executions WHERE "  # noqa: S608
_LIST_ORDER = " ORDER BY key DESC LIMIT ?"
_BEFORE = "key < (SELECT key FROM executions WHERE id = ?)"

_log = logging.getLogger(__name__)


def _ignore(_: Committed) -> None:
    pass


def _stay(_: Committed) -> None:
    pass


class SqliteStore:
    """Everything in one file at `path`.

    `synchronous="NORMAL"` survives the death of the process at any moment, `"FULL"` also that of
    the machine. A worker that has done nothing for `lease_seconds` loses what it holds to others.
    Nothing but `session` works outside a session.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        lease_seconds: float = 10.0,
    ):
        self.listener: Listener = _ignore
        self.ahead: Ahead = _stay
        self.counters = Counters()
        self._path = Path(path).absolute()
        self._clock, self._synchronous = clock, synchronous
        self._lease_seconds = lease_seconds
        self._worker = ""
        self._is_alone = True
        self._version: list[Any] | None = None
        self._others: Others
        self._lease: Lease
        self.sessions = SqliteSessions(self._submit, self._select)
        self._read_fault: Unavailable | None = None
        self._words: WordsFile
        self._writer: Writer
        self._rows: sqlite3.Connection
        self._pages: aiosqlite.Connection
        self._naps: Naps

    @property
    def fault(self) -> Unavailable | None:
        """Why it cannot be written to, or read; None once that works again."""
        return self._writer.fault or self._read_fault

    @property
    def last_words(self) -> int:
        """The descriptor of a file to which a process writes that dies by its own doing."""
        return self._words.handle

    @property
    def is_leased(self) -> bool:
        return self._lease.is_held

    @property
    def standstills(self) -> int:
        return self._lease.standstills

    def renew(self, standstills: int) -> bool:
        return self._lease.renew(standstills)

    @property
    def is_alone(self) -> bool:
        return self._is_alone

    # --- session ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self, worker: str) -> AsyncIterator[None]:
        stack = AsyncExitStack()
        try:
            try:
                await anyio.to_thread.run_sync(self._find)
                await anyio.to_thread.run_sync(check_path, self._path)
                await anyio.to_thread.run_sync(check_mount, self._path)
                await self._enter(stack, worker)
            except (OSError, sqlite3.Error) as exc:
                raise explain(self._path, exc) from exc
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await stack.aclose()

    def _find(self) -> None:
        # SQLite does, for its log; what lies beside the database must lie there for everybody.
        self._path = Path(os.path.realpath(self._path))
        self._others = Others(self._path, self._lease_seconds)

    async def _enter(self, stack: AsyncExitStack, worker: str) -> None:
        in_thread = anyio.to_thread.run_sync
        await self._begin_lease(worker)
        stack.push_async_callback(self._end_lease)
        self._words = await in_thread(WordsFile, self._path, worker)
        stack.push_async_callback(in_thread, self._words.remove)
        writing, checkpointing, self._rows = await in_thread(self._open_all)
        for db in (self._rows, checkpointing, writing):
            stack.push_async_callback(in_thread, db.close)
        self._pages = await stack.enter_async_context(aiosqlite.connect(self._path))
        await self._pages.execute("PRAGMA query_only = 1")
        self._naps = Naps()
        stack.callback(self._naps.close)
        checkpointing.execute(f"PRAGMA busy_timeout = {TRUNCATE_PATIENCE_MS:d}")
        checkpoints = Checkpoints(checkpointing, self._naps)
        stack.push_async_callback(checkpoints.close)
        self._writer = Writer(
            writing,
            self._clock,
            lambda committed: self.listener(committed),
            # Others would have to wait for a driver here, for as long as its flow blocks the loop.
            lambda committed: self.ahead(committed) if self._is_alone else None,
            checkpoints,
            Aside("store-writer", self._naps),
            self.counters,
            durable=self._synchronous == "FULL",
        )
        stack.push_async_callback(self._writer.close, CLOSE_SECONDS)
        await self._writer.submit(lambda tx: tx.enlist(worker, this_process()))
        stack.push_async_callback(self._leave, worker)
        self._worker = worker
        for (key,) in await self._select(_UNPURGED):
            self._purge(key)

    async def _begin_lease(self, worker: str) -> None:
        file = await anyio.to_thread.run_sync(WorkerFile.take, self._path, worker)
        file.tell(About(self._synchronous, self._lease_seconds))
        self._lease = await Lease(file, self._lease_seconds).begin()

    async def _end_lease(self) -> None:
        await self._lease.end()

    async def _leave(self, worker: str) -> None:
        # If that cannot be written, others will find the lock free: a strike too many, no more.
        with suppress(Unavailable):
            await self._writer.submit(lambda tx: tx.leave(worker))

    def _open_all(self) -> list[sqlite3.Connection]:
        with ExitStack() as opened:
            connections: list[sqlite3.Connection] = []
            for _ in range(3):
                db = sqlite3.connect(
                    self._path,
                    OPEN_SECONDS,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=256,
                )
                opened.callback(db.close)
                if not connections:
                    # First: it refuses files of others, which are to stay as they are.
                    migrate(db)
                    db.execute("PRAGMA journal_mode = WAL")
                    await_turn(db, self._path, OPEN_SECONDS)
                db.execute("PRAGMA wal_autocheckpoint = 0")
                db.execute(f"PRAGMA journal_size_limit = {GAP_BYTES:d}")
                db.execute(f"PRAGMA synchronous = {self._synchronous}")
                # Last: what is above may have to wait for who puts right what a death has left.
                db.execute("PRAGMA busy_timeout = 0")
                connections.append(db)
            opened.pop_all()
        return connections

    # --- writing ----------------------------------------------------------------------------------

    async def create(self, new: NewExecution) -> Created:
        return await self._writer.submit(lambda tx: tx.create(new))

    async def add(self, recorded: Recorded) -> Execution:
        return await self._writer.submit(lambda tx: tx.add(recorded))

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
        return await self._writer.submit(
            lambda tx: tx.append(execution_id, drafts, firm, expected_seq, token, release),
            kept=True,
            weight=weight(drafts) + weight(firm),
        )

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
        await self._writer.submit(
            lambda tx: tx.release(execution_id, self._worker, token, runnable)
        )

    async def delete(self, execution_id: ExecutionId) -> None:
        self._purge(await self._writer.submit(lambda tx: tx.delete(execution_id)))

    def _purge(self, key: int) -> None:
        """Remove what a deleted execution left, piece by piece; what isn't is at the next start."""

        def done(purged: asyncio.Future[bool]) -> None:
            if purged.exception() is None and not purged.result():
                self._purge(key)

        with suppress(Unavailable):
            self._writer.submit(lambda tx: tx.purge(key)).add_done_callback(done)

    async def _submit(self, write: Callable[[sqlite3.Connection], Any]) -> Any:
        return await self._writer.submit(lambda tx: write(tx.db))

    # --- reading ----------------------------------------------------------------------------------

    async def get(self, execution_id: ExecutionId) -> Execution:
        for row in await self._select(_GET, execution_id):
            return rows.to_execution(row)
        oldest = self._clock.now() - TOMBSTONE_SECONDS
        raise missing(execution_id, await self._select(TOMBSTONE, execution_id, oldest))

    async def created_with(self, idempotency_key: str, request_digest: str) -> Execution | None:
        for id, digest in await self._select(NAMED, idempotency_key):
            return await self.get(check_repeated(idempotency_key, request_digest, id, digest))
        return None

    async def waits(self, execution_id: ExecutionId) -> list[WaitRow]:
        return [rows.to_wait(row) for row in await self._select(_ALL_WAITS, execution_id)]

    async def read(
        self, execution_id: ExecutionId, *, after: int, until: int | None = None, limit: int = 256
    ) -> list[Chunk]:
        last = _ENDLESS if until is None else until
        if last <= after:
            return []
        found = await self._fetch(_PAGE, execution_id, after, last, limit, MAX_PAGE_BYTES)
        return rows.to_chunks(found, after, until)

    async def executions(
        self,
        *,
        status: Status | None = None,
        flow: str | None = None,
        limit: int = 100,
        before: ExecutionId | None = None,
    ) -> list[Execution]:
        asked = {"status = ?": status, "flow = ?": flow, _BEFORE: before}
        filters = {text: value for text, value in asked.items() if value is not None}
        where = " AND ".join(filters) or "1"
        found = await self._fetch(_LIST + where + _LIST_ORDER, *filters.values(), limit)
        return [rows.to_execution(row) for row in found]

    # --- what is to be done -----------------------------------------------------------------------

    async def runnable(self, limit: int) -> list[Execution]:
        return [rows.to_execution(row) for row in await self._select(_RUNNABLE, limit)]

    async def held(self) -> list[Held]:
        return [Held(*row) for row in await self._select(_HELD, self._worker)]

    async def due(self, now: float, limit: int) -> list[Due]:
        found = await self._select(_DUE, now, limit)
        return [Due(ExecutionId(row[0]), rows.to_wait(row[1:])) for row in found]

    async def next_due(self) -> float | None:
        for (due_at,) in await self._select(_NEXT_DUE):
            return cast(float, due_at)
        return None

    async def bury_dead(self) -> int:
        workers = dict(await self._select(_WORKERS))
        if workers.pop(self._worker, "") != this_process():
            await self._enlist_again()
        self._is_alone = not workers
        freed = 0
        try:
            lost = await anyio.to_thread.run_sync(self._others.look, list(workers.items()))
        except OSError as exc:
            raise Unavailable(f"cannot see who is at work: {exc}", code="store-failed") from exc
        try:
            for worker, file in lost:
                freed += await self._bury(worker, file)
        except OSError as exc:
            raise Unavailable(f"cannot bury a worker: {exc}", code="store-failed") from exc
        finally:
            for _, file in lost:
                if file is not None:
                    file.let_go()
        self.counters.taken_over += freed
        return freed

    async def _bury(self, worker: str, file: WorkerFile | None) -> int:
        if file is None:
            stripped = await self._writer.submit(lambda tx: tx.strip(worker, SILENCE))
            if stripped:
                _log.warning("worker %s stands still: %d executions taken", worker, stripped)
            return stripped
        words = await anyio.to_thread.run_sync(hear, self._path, worker)
        buried = await self._writer.submit(lambda tx: tx.bury(worker, words))
        if words.text:
            _log.error("worker %s died by its own doing: %s", worker, words.text)
        # Not before: to whoever looks while it can't be buried, it is as it was.
        await anyio.to_thread.run_sync(forget, self._path, worker)
        await anyio.to_thread.run_sync(file.remove)
        return buried

    async def _enlist_again(self) -> None:
        """Somebody has removed this worker's file, and others have taken it for dead."""
        _log.error("the file of worker %s was removed while it was at work", self._worker)
        with anyio.CancelScope(shield=True):
            await self._lease.end()
            await self._begin_lease(self._worker)
            await self._writer.submit(lambda tx: tx.enlist(self._worker, this_process()))

    # --- what other workers do --------------------------------------------------------------------

    def has_changed(self) -> bool:
        version = self._at_once("PRAGMA data_version")
        changed, self._version = version != self._version, version
        return changed

    def peek(self, execution_ids: Collection[ExecutionId]) -> list[Execution]:
        found = self._at_once(_PEEK, msgspec.json.encode(list(execution_ids)).decode())
        if found is None:
            raise Unavailable("the store is being put right", code="store-failed")
        return [rows.to_execution(row) for row in found]

    async def _fetch(self, statement: str, *parameters: Any) -> Iterable[Any]:
        """More of them, in aiosqlite's thread."""
        try:
            with self._naps.awaited():
                found = await self._pages.execute_fetchall(statement, parameters)
        except sqlite3.Error as exc:
            raise self._unreadable(exc) from exc
        self._read_fault = None
        return found

    async def _select(self, statement: str, *parameters: Any) -> Iterable[Any]:
        """A few rows, on the loop."""
        found = self._at_once(statement, *parameters)
        return await self._fetch(statement, *parameters) if found is None else found

    def _at_once(self, statement: str, *parameters: Any) -> list[Any] | None:
        """None if another process was killed within a commit: somebody is putting that right."""
        try:
            found = self._rows.execute(statement, parameters).fetchall()
        except sqlite3.Error as exc:
            if primary_code(exc) == sqlite3.SQLITE_BUSY:
                return None
            raise self._unreadable(exc) from exc
        self._read_fault = None
        return found

    def _unreadable(self, exc: sqlite3.Error) -> Unavailable:
        self.counters.read_failures += 1
        failure = unavailable(exc)
        if primary_code(exc) != sqlite3.SQLITE_CORRUPT:  # else other pages can be read
            self._read_fault = failure
        return failure
