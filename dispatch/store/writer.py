"""Carries out all writes of a process, in the order of their calls, many to a commit.

Group commit without linger: what was submitted while a batch ran, or was held back, is the next
batch. Batches run on the event loop's own thread: a thread beside a busy loop waits for the
interpreter far longer than a commit takes. That is kept to a share of the loop's time. What can
truly wait goes to a thread, and the loop does not: for another process that is writing, and for the
disk with `synchronous=FULL`.

A commit waits a few turns of the loop for drivers that have gone ahead of it (`Store.ahead`), and
takes in what is submitted meanwhile.

While there is a `fault` commands are refused at once. What drivers append is kept and retried, and
if nothing is kept an empty transaction is, so that the fault passes by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import anyio

from dispatch.core.clock import Clock
from dispatch.core.counters import Counters
from dispatch.core.errors import Damaged, LeaseLost, Unavailable
from dispatch.core.journal import Draft
from dispatch.store.aside import Aside
from dispatch.store.base import Ahead, Committed, Held
from dispatch.store.checkpoints import Checkpoints
from dispatch.store.growth import Framers
from dispatch.store.transaction import Transaction

R = TypeVar("R")

#: Of a busy loop's time, how much commits may take when there is always another one; how far ahead
#: of that share a quiet writer may get, so that lone commits run at once; and how short a turn of
#: the loop is if nobody else wants it.
LOOP_SHARE = 0.25
BURST_SECONDS = 0.02
IDLE_TURN_SECONDS = 0.0001
#: `weight` at which a batch is closed: bounds how long a commit holds the loop.
MAX_BATCH_WEIGHT = 2048
#: For so many turns of the loop a commit waits for drivers: two, if a flow just goes on.
AHEAD_TURNS = 4
#: How often it is asked whether another process has stopped writing, and for how long.
BUSY_POLL_SECONDS = 0.001
BUSY_SECONDS = 5.0
#: Pause after a failed commit: doubled with each failure in a row, up to the second.
RETRY_SECONDS = (0.01, 1.0)

#: What an operation may meet that is not its own doing, and will pass. What is not among these, a
#: page that is damaged for example, concerns only those that need it.
_FAULTS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}

_log = logging.getLogger(__name__)


class Operation:
    """Something to be done within a transaction, and the future that its caller awaits.

    `kept`: while the disk is full it is retried, where others are refused. `alone`: it is not to
    share its transaction, because a batch that it was in broke.
    """

    __slots__ = ("alone", "error", "future", "kept", "result", "run", "weight")

    def __init__(
        self,
        run: Callable[[Transaction], Any],
        future: asyncio.Future[Any],
        kept: bool,
        weight: int,
    ):
        self.run, self.future, self.kept, self.weight = run, future, kept, weight
        self.alone = False
        self.result: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        # A caller that was cancelled has given its future up; what it asked for stands.
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)

    def fail(self, error: Exception) -> None:
        self.error = error
        self.settle()


class Writer:
    """Owns `db`, the one connection that writes. Must be made on the loop that it will run on."""

    def __init__(
        self,
        db: sqlite3.Connection,
        clock: Clock,
        deliver: Callable[[Committed], None],
        ahead: Ahead,
        checkpoints: Checkpoints,
        aside: Aside,
        counters: Counters,
        *,
        durable: bool,
    ):
        self.fault: Unavailable | None = None
        self._db, self._clock, self._deliver, self._ahead = db, clock, deliver, ahead
        self._checkpoints = checkpoints
        self._durable = durable
        self._loop = asyncio.get_running_loop()
        self._framers = Framers()
        self._queue: deque[Operation] = deque()
        self._transaction: Transaction | None = None  # from its BEGIN to its end
        self._burnt: set[Held] = set()
        self._turn_handle: asyncio.Handle | None = None
        self._turn_began = 0.0
        self._next_at = 0.0
        self._retry_at = 0.0
        self._retry_seconds = RETRY_SECONDS[0]
        self._aside, self._counters = aside, counters
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        checkpoints.on_gap_over = self._schedule

    def submit(
        self, run: Callable[[Transaction], R], *, kept: bool = False, weight: int = 1
    ) -> asyncio.Future[R]:
        """Have `run` called within a transaction; its result is there when that is durable.

        It runs though nobody awaits the future any more.
        """
        if self._closed:
            raise Unavailable("the store is closed", code="store-failed")
        if self.fault is not None and not kept:
            raise Unavailable(self.fault.message, code=self.fault.code) from self.fault
        future: asyncio.Future[R] = self._loop.create_future()
        self._queue.append(Operation(run, future, kept, weight))
        self._idle.clear()
        self._schedule()
        return future

    async def close(self, seconds: float) -> None:
        """Carry out what was submitted; what can't be within `seconds` is refused."""
        self._closed = True
        with anyio.move_on_after(seconds) as scope:
            await self._idle.wait()
        if scope.cancelled_caught:
            _log.error("the store is closed with %d writes undone", len(self._queue))
        if self._turn_handle is not None:
            self._turn_handle.cancel()
        for operation in self._queue:
            operation.fail(Unavailable("the store is closed", code="store-failed"))
        self._queue.clear()
        await self._aside.close()

    # --- turns ------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """See to it that there is a turn, unless one is coming or under way."""
        if self._aside.busy or self._transaction is not None:
            return
        if not self._queue:
            self._idle.set()
            if self.fault is None or self._closed:
                return
        if self._turn_handle is not None or self._checkpoints.needs_gap:
            return
        self._turn_began = time.perf_counter()
        pause = self._retry_at - self._turn_began
        if pause > 0:
            self._turn_handle = self._loop.call_later(pause, self._turn)
        else:
            # Not right now: what else is submitted in this turn of the loop joins the batch.
            self._turn_handle = self._loop.call_soon(self._turn_if_due)

    def _turn_if_due(self) -> None:
        now = time.perf_counter()
        if now < self._next_at and now - self._turn_began > IDLE_TURN_SECONDS:
            self._turn_began = now
            self._turn_handle = self._loop.call_soon(self._turn_if_due)
        else:
            self._turn()

    def _turn(self) -> None:
        self._turn_handle = None
        self._idle.clear()
        batch = self._take()
        with self._paced():
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.Error:
                # Another process is writing, most likely; if not, the thread will tell.
                self._aside.start(self._begin_patiently, lambda exc: self._begun(batch, exc))
            else:
                self._carry_out(batch)

    @contextmanager
    def _paced(self) -> Iterator[None]:
        """Around what the writer does on the loop: counts its time, and sees to the next turn."""
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            # No debt from turns that nobody else wanted.
            due_at = min(max(self._next_at, started - BURST_SECONDS), started)
            self._next_at = due_at + took / LOOP_SHARE
            self._schedule()

    def _take(self) -> list[Operation]:
        if not self._queue:
            return []  # is the fault over?
        batch = [self._queue.popleft()]
        if not batch[0].alone:
            batch += self._take_up_to(MAX_BATCH_WEIGHT - batch[0].weight)
        return batch

    def _take_up_to(self, weight: int) -> list[Operation]:
        queue, taken = self._queue, []
        while queue and queue[0].weight <= weight and not queue[0].alone:
            operation = queue.popleft()
            weight -= operation.weight
            taken.append(operation)
        return taken

    def _begin_patiently(self) -> None:
        # Not SQLite's own busy handler: its naps grow to 100 ms, and whoever naps loses its turn.
        give_up_at = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if primary_code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(BUSY_POLL_SECONDS)
            else:
                return

    def _begun(self, batch: list[Operation], exc: Exception | None) -> None:
        with self._paced():
            if exc is None:
                self._carry_out(batch)
            else:
                self._refuse_commands(batch, exc)

    def _carry_out(self, batch: list[Operation]) -> None:
        """Run `batch` in the transaction just begun, and commit it."""
        # What is alone is to stay so: nobody comes after it.
        ahead = _stay if batch and batch[0].alone else self._ahead
        self._transaction = Transaction(
            self._db, self._clock.now(), self._framers, ahead, self._burnt
        )
        self._run(batch, batch, AHEAD_TURNS)

    def _run(self, operations: list[Operation], batch: list[Operation], turns: int) -> None:
        """Run `operations`, the last of `batch`, and commit it at once or in so many turns."""
        transaction = self._transaction
        assert transaction is not None
        try:
            if self.fault is not None:
                transaction.try_room()
            for operation in operations:
                operation.error = None
                changes = self._db.total_changes
                try:
                    operation.result = operation.run(transaction)
                except Exception as exc:
                    # Before its first write it is a refusal, and concerns nobody else.
                    if isinstance(exc, sqlite3.Error) or self._db.total_changes != changes:
                        raise
                    operation.error = exc
            waits = transaction.awaited and turns
            if not waits:
                transaction.write_rows()
        except Exception as exc:
            self._broken(batch, exc)
            return
        if waits:
            self._loop.call_soon(self._run_more, batch, turns - 1)
        elif self._durable:
            self._aside.start(
                self._commit, lambda exc: self._committed(batch, transaction, exc), short=True
            )
        else:
            self._commit_here(batch, transaction)

    def _run_more(self, batch: list[Operation], turns: int) -> None:
        with self._paced():
            assert self._transaction is not None
            # A flow may have held the loop since: what it asks for now is asked for now.
            self._transaction.at = self._clock.now()
            weight = sum([operation.weight for operation in batch])
            operations = self._take_up_to(MAX_BATCH_WEIGHT - weight)
            batch += operations
            self._run(operations, batch, turns)

    def _commit_here(self, batch: list[Operation], transaction: Transaction) -> None:
        try:
            self._commit()
        except Exception as exc:
            self._refuse_commands(batch, exc)
        else:
            self._finish(batch, transaction)

    def _commit(self) -> None:
        self._db.execute("COMMIT")

    def _committed(
        self, batch: list[Operation], transaction: Transaction, exc: Exception | None
    ) -> None:
        with self._paced():
            if exc is None:
                self._finish(batch, transaction)
            else:
                self._refuse_commands(batch, exc)

    def _finish(self, batch: list[Operation], transaction: Transaction) -> None:
        if self.fault is not None:
            _log.warning("the store works again")
            self.fault = None
        self._transaction = None
        self._retry_seconds = RETRY_SECONDS[0]
        self._counters.commits += 1
        for committed in transaction.committed:
            try:
                self._deliver(committed)
            except Exception:
                # It is durable, whatever the listener makes of it, and its caller must be told.
                _log.exception("the store's listener failed")
        for operation in batch:
            if isinstance(operation.error, LeaseLost):
                self._counters.appends_fenced += 1
            operation.settle()
        self._checkpoints.wrote(_size(transaction))

    # --- failures ---------------------------------------------------------------------------------

    def _broken(self, batch: list[Operation], exc: Exception) -> None:
        """Within `batch` something failed: by a fault, or by what one of them does."""
        if primary_code(exc) in _FAULTS or not batch:
            self._refuse_commands(batch, exc)
            return
        self._roll_back()
        if len(batch) > 1:
            # Which one broke it? Each has its own transaction now, still in order.
            for operation in batch:
                operation.alone = True
            self._queue.extendleft(reversed(batch))
        else:
            _log.error("a write failed", exc_info=exc)
            batch[0].fail(unavailable(exc))

    def _refuse_commands(self, batch: list[Operation], exc: Exception) -> None:
        """Keep what drivers append, for a flow never sees a full disk; refuse all else; pause.

        Nothing of `batch` has happened: a commit that reports an error is seen by nobody.
        """
        self._roll_back()
        failure = unavailable(exc)
        if self.fault is None:
            _log.error("the store cannot write, and retries: %s", exc)
        self.fault = failure
        queued = [*batch, *self._queue]
        self._queue.clear()
        for operation in queued:
            if operation.kept:
                self._queue.append(operation)
            else:
                refusal = Unavailable(failure.message, code=failure.code)
                refusal.__cause__ = exc
                operation.fail(refusal)
        self._retry_at = time.perf_counter() + self._retry_seconds
        self._retry_seconds = min(self._retry_seconds * 2, RETRY_SECONDS[1])

    def _roll_back(self) -> None:
        self._counters.commit_failures += 1
        gone_ahead: dict[Held, Callable[[], None]] = {}
        if self._transaction is not None:
            gone_ahead, self._transaction = self._transaction.gone_ahead, None
        self._burnt.update(gone_ahead)
        if self._db.in_transaction:
            with suppress(sqlite3.Error):  # if it can't, the next BEGIN fails, and leads here again
                self._db.execute("ROLLBACK")
        for call_back in gone_ahead.values():
            call_back()


def _stay(_: Committed) -> None:
    pass


def unavailable(exc: Exception) -> Unavailable:
    """What is told of a fault of the database."""
    match primary_code(exc):
        case sqlite3.SQLITE_FULL:
            failure: Unavailable = Unavailable("the disk is full", code="store-full")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            failure = Damaged(f"the database is damaged ({exc}): restore a backup")
        case _:
            failure = Unavailable(f"the store failed: {exc}", code="store-failed")
    failure.__cause__ = exc
    return failure


def weight(drafts: Sequence[Draft]) -> int:
    """What `drafts` cost a batch: each one something, large ones more."""
    size = sum([len(draft.rest) + len(draft.private or b"") for draft in drafts])
    return 1 + len(drafts) + size // 512


def _size(transaction: Transaction) -> int:
    """About what a transaction added to the log: its chunks, and the pages that hold the rows."""
    pages = 4 * (1 + len(transaction.committed))
    return pages * 4096 + sum(
        len(chunk.frames) for committed in transaction.committed for chunk in committed.chunks
    )


def primary_code(exc: Exception) -> int:
    """The primary result code behind a sqlite3 error."""
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF
