"""What the SQLite store does within one transaction: one method per command of `store.base`.

Each checks all that can be refused before its first write, so that a refusal costs the other
operations of its batch nothing. All of it is synchronous and runs on the event loop's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from dispatch.core.errors import Conflict, Gone, LeaseLost, NotFound
from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft
from dispatch.core.lifecycle import Status
from dispatch.core.projection import WaitIssued, WaitOpened, WaitSettled
from dispatch.store import rows
from dispatch.store.base import (
    STRIKE,
    Ahead,
    Appended,
    Changed,
    Committed,
    Created,
    Decide,
    Execution,
    Held,
    NewExecution,
    Recorded,
    WaitRow,
)
from dispatch.store.growth import Framers, Growth, WaitChange, final, grow, is_progress, regrow
from dispatch.store.lastwords import SILENCE, LastWords

TOMBSTONE_SECONDS = 30 * 24 * 3600
#: Chunks that one transaction purges of a deleted journal.
PURGE_CHUNKS = 32
#: What there has to be room for before a disk that was full no longer is.
ROOM_BYTES = 64 * 1024

# ruff's S608 sees SQL built from strings; what is built in are the column lists of `rows`.
_SELECT = f"SELECT {rows.EXECUTION}, key FROM executions WHERE id = ?"  # noqa: S608
_INSERT = (
    f"INSERT INTO executions ({rows.EXECUTION}) "  # noqa: S608
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE executions SET status = ?, code = ?, phase = ?, last_seq = ?, leg_seq = ?, "
    "segment_seq = ?, updated_at = ?, ended_at = ?, worker = ?, token = ?, runnable = ?, "
    "strikes = ? WHERE key = ?"
)
# Touches no index: what most appends need.
_ADVANCE = "UPDATE executions SET last_seq = ?, updated_at = ? WHERE key = ?"
_INSERT_CHUNK = f"INSERT INTO journal (execution_key, {rows.CHUNK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_WAITS = (
    f"SELECT {rows.WAIT} FROM waits WHERE rowid IN ("  # noqa: S608
    "SELECT rowid FROM waits WHERE execution_key = ?1 AND status = 'open' UNION ALL "
    "SELECT rowid FROM waits WHERE execution_key = ?1 "
    "AND id IN (SELECT value FROM json_each(?2)) UNION ALL "
    "SELECT rowid FROM waits WHERE execution_key = ?1 "
    "AND name IN (SELECT value FROM json_each(?2))) ORDER BY opened_seq"
)
_OPEN_WAITS = (
    f"SELECT {rows.WAIT} FROM waits "  # noqa: S608
    "WHERE execution_key = ?1 AND status = 'open' ORDER BY opened_seq"
)
NAMED = "SELECT execution_id, request_digest FROM idempotency WHERE key = ?"
TOMBSTONE = "SELECT 1 FROM tombstones WHERE execution_id = ? AND deleted_at >= ?"


class _Change(Enum):
    """What is to be done to a row: nothing, what touches no index, or all of it."""

    NONE = 0
    ADVANCED = 1
    CHANGED = 2


class _Row(NamedTuple):
    """A row as it is to be when the transaction is committed."""

    key: int
    execution: Execution
    change: _Change


class Transaction:
    """One transaction on `db`. `at` is the time of what is done next; `committed` is what its
    commit tells the listener.

    `gone_ahead` are those that are driven already on the strength of it (`Store.ahead`), with what
    calls them back, and `awaited` those of them that have appended nothing yet. `burnt` is what
    went ahead of transactions that came to nothing.

    What becomes of an execution's row is held back until `write_rows`, to be called before the
    commit: a command and the append that follows it change it, and its indexes, once.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        at: float,
        framers: Framers,
        ahead: Ahead,
        burnt: Collection[Held],
    ):
        self.db, self.at = db, at
        self.committed: list[Committed] = []
        self.gone_ahead: dict[Held, Callable[[], None]] = {}
        self.awaited: set[ExecutionId] = set()
        self._framers, self._ahead, self._burnt = framers, ahead, burnt
        self._rows: dict[ExecutionId, _Row] = {}

    # --- commands ---------------------------------------------------------------------------------

    def create(self, new: NewExecution) -> Created:
        if new.idempotency_key is not None:
            found = self.db.execute(NAMED, (new.idempotency_key,)).fetchone()
            if found is not None:
                id = check_repeated(new.idempotency_key, new.request_digest, *found)
                return Created(self._load(id)[1], existed=True)
        empty = Execution(
            id=new.id,
            flow=new.flow,
            version=new.version,
            kind=new.kind,
            status=Status.PENDING,
            last_seq=0,
            leg_seq=0,
            segment_seq=0,
            created_at=self.at,
            updated_at=self.at,
            worker=new.worker,
            token=0 if new.worker is None else self._next_token(new.id, 0),
            runnable=new.worker is None,
        )
        drafts = (new.start,)
        growth = grow(empty, drafts, self.at, self._framers.of(new.id))
        made = growth.execution
        key = self._insert(made)
        if new.idempotency_key is not None:
            self.db.execute(
                "INSERT INTO idempotency VALUES (?, ?, ?)",
                (new.idempotency_key, new.id, new.request_digest),
            )
        self._write_growth(key, growth, drafts, taken=new.worker is not None)
        return Created(made, existed=False)

    def add(self, recorded: Recorded) -> Execution:
        try:
            self._load(recorded.id)
        except NotFound:
            pass
        else:
            raise Conflict(f"there is an execution {recorded.id} already", code="execution-exists")
        growths = list(regrow(recorded, self._framers.of(recorded.id)))
        made = msgspec.structs.replace(growths[-1][0].execution, worker=None, runnable=False)
        key = self._insert(made)
        for growth, drafts in growths:
            self._write_growth(key, growth, drafts)
        return made

    def append(
        self,
        execution_id: ExecutionId,
        drafts: Sequence[Draft],
        firm: Sequence[Draft],
        expected_seq: int,
        token: int,
        release: bool,
    ) -> Appended:
        self.awaited.discard(execution_id)
        if Held(execution_id, token) in self._burnt:
            raise LeaseLost(f"what made execution {execution_id} this worker's came to nothing")
        key, before = self._load(execution_id)
        if token != before.token:
            raise LeaseLost(f"execution {execution_id} was taken by another worker")
        if before.status.is_final:
            raise final(before)
        if before.worker is None:
            raise LeaseLost(f"execution {execution_id} was let go of")
        conditional = bool(firm) or release
        landed = not conditional or before.last_seq == expected_seq
        if firm and landed:
            drafts = [*drafts, *firm]
        growth = grow(before, drafts, self.at, self._framers.of(execution_id))
        after = growth.execution
        if before.strikes and is_progress(drafts):
            after = msgspec.structs.replace(after, strikes=0)
        if release and landed:
            after = msgspec.structs.replace(after, worker=None, runnable=False)
        self._write(key, before, growth._replace(execution=after), drafts)
        return Appended(after.last_seq, landed)

    def transact(
        self, execution_id: ExecutionId, decide: Decide, keys: Sequence[str], take_for: str | None
    ) -> Changed:
        key, before = self._load(execution_id)
        drafts, wake = decide(before, self._waits(key, keys))
        if drafts and before.status.is_final:
            raise final(before)
        growth = grow(before, drafts, self.at, self._framers.of(execution_id))
        after = growth.execution
        taken = False
        if wake and after.worker is None and not after.status.is_final:
            taken = take_for is not None and bool(drafts)
            change: dict[str, Any] = (
                {
                    "worker": take_for,
                    "token": self._next_token(execution_id, after.token),
                    "runnable": False,
                }
                if taken
                else {"runnable": True}
            )
            after = msgspec.structs.replace(after, **change)
        self._write(key, before, growth._replace(execution=after), drafts, taken)
        return Changed(after, before.last_seq + 1, taken)

    def acquire(self, execution_id: ExecutionId, worker: str) -> Execution | None:
        try:
            key, before = self._load(execution_id)
        except (NotFound, Gone):
            return None
        if before.worker is not None or before.status.is_final:
            return None
        token = self._next_token(execution_id, before.token)
        after = msgspec.structs.replace(before, worker=worker, token=token, runnable=False)
        self._rows[execution_id] = _Row(key, after, _Change.CHANGED)
        return after

    def release(self, execution_id: ExecutionId, worker: str, token: int, runnable: bool) -> None:
        self.write_rows()
        self.db.execute(
            # A token that is burnt may be another worker's by now.
            "UPDATE executions SET worker = NULL, runnable = ? "
            "WHERE id = ? AND worker = ? AND token = ?",
            (runnable, execution_id, worker, token),
        )

    def delete(self, execution_id: ExecutionId) -> int:
        """Make it gone at once; its journal, under the key given back, is left to `purge`."""
        key, execution = self._load(execution_id)
        if not execution.status.is_final:
            raise Conflict(
                f"execution {execution_id} is {execution.status}: only what is over can be deleted",
                code="not-final",
            )
        db = self.db
        self.write_rows()
        expired = (self.at - TOMBSTONE_SECONDS,)
        db.execute(
            "DELETE FROM idempotency WHERE execution_id IN "
            "(SELECT execution_id FROM tombstones WHERE deleted_at < ?)",
            expired,
        )
        db.execute("DELETE FROM tombstones WHERE deleted_at < ? AND execution_key IS NULL", expired)
        db.execute("DELETE FROM executions WHERE key = ?", (key,))
        db.execute("INSERT INTO tombstones VALUES (?, ?, ?)", (execution_id, self.at, key))
        return key

    def purge(self, key: int) -> bool:
        """Remove a piece of what a deleted execution left; whether that was the last one."""
        db = self.db
        chunks = db.execute(
            "DELETE FROM journal WHERE rowid IN "
            "(SELECT rowid FROM journal WHERE execution_key = ? LIMIT ?)",
            (key, PURGE_CHUNKS),
        ).rowcount
        waits = db.execute(
            "DELETE FROM waits WHERE rowid IN "
            "(SELECT rowid FROM waits WHERE execution_key = ? LIMIT ?)",
            (key, PURGE_CHUNKS),
        ).rowcount
        if chunks or waits:
            return False
        db.execute("UPDATE tombstones SET execution_key = NULL WHERE execution_key = ?", (key,))
        return True

    def try_room(self) -> None:
        """See whether there is room for what commands write; it is left as it was."""
        self.db.execute("CREATE TABLE room (filler)")
        self.db.execute("INSERT INTO room VALUES (zeroblob(?))", (ROOM_BYTES,))
        self.db.execute("DROP TABLE room")

    # --- workers ----------------------------------------------------------------------------------

    def enlist(self, worker: str, process: str) -> None:
        """`worker` lives. What one of its name held before was left by a death."""
        self.bury(worker, SILENCE)
        self.db.execute("INSERT INTO workers VALUES (?, ?, ?)", (worker, process, self.at))

    def bury(self, worker: str, words: LastWords) -> int:
        """Let others have what a dead worker held; how many there were."""
        freed = self.strip(worker, words)
        self.db.execute("DELETE FROM workers WHERE id = ?", (worker,))
        return freed

    def strip(self, worker: str, words: LastWords) -> int:
        """The same, of one that only stands still: it may come back, and then begins anew."""
        blamed = words.execution_id
        self.write_rows()
        return self.db.execute(
            "UPDATE executions SET worker = NULL, runnable = 1, "
            "strikes = strikes + CASE WHEN status = 'suspended' THEN 0 "
            "WHEN ?1 IS NULL THEN ?2 WHEN id = ?1 THEN ?3 ELSE 0 END WHERE worker = ?4",
            (blamed, STRIKE if words.text else 1, STRIKE, worker),
        ).rowcount

    def leave(self, worker: str) -> None:
        """Let others have what `worker` still holds. Nothing died, so there is no strike."""
        self.write_rows()
        self.db.execute(
            "UPDATE executions SET worker = NULL, runnable = 1 WHERE worker = ?", (worker,)
        )
        self.db.execute("DELETE FROM workers WHERE id = ?", (worker,))

    # --- rows -------------------------------------------------------------------------------------

    def write_rows(self) -> None:
        """Write what was held back."""
        rows, self._rows = self._rows, {}
        for key, row, change in rows.values():
            match change:
                case _Change.ADVANCED:
                    self.db.execute(_ADVANCE, (row.last_seq, row.updated_at, key))
                case _Change.CHANGED:
                    self._update(key, row)
                case _Change.NONE:
                    pass

    def _load(self, execution_id: ExecutionId) -> tuple[int, Execution]:
        held_back = self._rows.get(execution_id)
        if held_back is not None:
            return held_back.key, held_back.execution
        row = self.db.execute(_SELECT, (execution_id,)).fetchone()
        if row is None:
            oldest = self.at - TOMBSTONE_SECONDS
            raise missing(execution_id, self.db.execute(TOMBSTONE, (execution_id, oldest)))
        return row[-1], rows.to_execution(row)

    def _next_token(self, execution_id: ExecutionId, token: int) -> int:
        token += 1
        while Held(execution_id, token) in self._burnt:
            token += 1
        return token

    def _waits(self, key: int, keys: Sequence[str]) -> list[WaitRow]:
        if keys:
            asked = msgspec.json.encode(keys).decode()
            found = self.db.execute(_WAITS, (key, asked))
        else:
            found = self.db.execute(_OPEN_WAITS, (key,))
        return [rows.to_wait(row) for row in found]

    def _write(
        self,
        key: int,
        before: Execution,
        growth: Growth,
        drafts: Sequence[Draft],
        taken: bool = False,
    ) -> None:
        after = growth.execution
        advanced = msgspec.structs.replace(
            before, last_seq=after.last_seq, updated_at=after.updated_at
        )
        if drafts:
            self._write_growth(key, growth, drafts, taken)
        held_back = self._rows.get(after.id)
        if after != advanced or (held_back is not None and held_back.change is _Change.CHANGED):
            self._rows[after.id] = _Row(key, after, _Change.CHANGED)
        elif drafts:
            self._rows[after.id] = _Row(key, after, _Change.ADVANCED)

    def _insert(self, row: Execution) -> int:
        key = self.db.execute(
            _INSERT,
            (
                row.id,
                row.flow,
                row.version,
                row.kind,
                row.status,
                row.code,
                row.phase,
                row.last_seq,
                row.leg_seq,
                row.segment_seq,
                row.created_at,
                row.updated_at,
                row.ended_at,
                row.worker,
                row.token,
                row.runnable,
                row.strikes,
            ),
        ).lastrowid
        assert key is not None
        self._rows[row.id] = _Row(key, row, _Change.NONE)
        return key

    def _update(self, key: int, row: Execution) -> None:
        self.db.execute(
            _UPDATE,
            (
                row.status,
                row.code,
                row.phase,
                row.last_seq,
                row.leg_seq,
                row.segment_seq,
                row.updated_at,
                row.ended_at,
                row.worker,
                row.token,
                row.runnable,
                row.strikes,
                key,
            ),
        )

    def _write_growth(
        self, key: int, growth: Growth, drafts: Sequence[Draft], taken: bool = False
    ) -> None:
        for chunk in growth.chunks:
            self.db.execute(_INSERT_CHUNK, (key, *rows.from_chunk(chunk)))
        at = growth.execution.updated_at
        for change in growth.waits:
            self._change_wait(key, change, at)
        execution, first_seq = growth.execution, growth.chunks[0].first_seq
        committed = Committed(execution, first_seq, at, drafts, growth.chunks, to_drive=taken)
        call_back = self._ahead(committed) if taken else None
        if call_back is not None:
            committed = msgspec.structs.replace(committed, to_drive=False)
            self.gone_ahead[Held(execution.id, execution.token)] = call_back
            self.awaited.add(execution.id)
        self.committed.append(committed)

    def _change_wait(self, key: int, change: WaitChange, at: float) -> None:
        seq, leg_seq, effect = change
        match effect:
            case WaitOpened():
                self.db.execute(
                    "INSERT INTO waits (execution_key, id, kind, name, status, issued, opened_seq, "
                    "due_at, timeout, digest, returns, private, raw) "
                    "VALUES (?, ?, ?, ?, 'open', 0, ?, ?, ?, '', ?, ?, ?)",
                    (
                        key,
                        effect.id,
                        effect.kind,
                        effect.name,
                        seq,
                        effect.due_at,
                        effect.timeout,
                        effect.returns,
                        effect.private,
                        effect.raw,
                    ),
                )
            case WaitIssued(wait_id):
                self.db.execute(
                    "UPDATE waits SET issued = 1, due_at = coalesce(due_at, ? + timeout) "
                    "WHERE execution_key = ? AND id = ? AND status = 'open'",
                    (at, key, wait_id),
                )
            case WaitSettled(wait_id, outcome, digest):
                self.db.execute(
                    "UPDATE waits SET status = ?, digest = ?, settled_seq = ?, leg_seq = ? "
                    "WHERE execution_key = ? AND id = ? AND status = 'open'",
                    (outcome, digest, seq, leg_seq, key, wait_id),
                )
            case _:  # a final status
                self.db.execute(
                    "UPDATE waits SET status = 'abandoned', settled_seq = ?, leg_seq = ? "
                    "WHERE execution_key = ? AND status = 'open'",
                    (seq, leg_seq, key),
                )


def missing(execution_id: ExecutionId, tombstones: Iterable[object]) -> NotFound | Gone:
    """Why there is no such execution, given what `TOMBSTONE` found."""
    for _ in tombstones:
        return Gone(f"execution {execution_id} was deleted", code="execution-deleted")
    return NotFound(f"there is no execution {execution_id}", code="execution-unknown")


def check_repeated(key: str, request_digest: str, execution_id: str, digest: str) -> ExecutionId:
    """The execution that `NAMED` found for a key, if the same was asked for."""
    if digest != request_digest:
        raise Conflict(
            f"the idempotency key {key!r} was used for another request",
            code="idempotency-mismatch",
        )
    return ExecutionId(execution_id)
