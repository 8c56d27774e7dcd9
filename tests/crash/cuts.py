"""SQLite files that end earlier: journals cut after any entry, with the rows that follow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from dispatch.core.ids import ExecutionId
from dispatch.core.journal import Draft, Entry
from dispatch.store import rows
from dispatch.store.base import Change, Chunk, Execution, NewExecution, WaitRow
from dispatch.store.growth import Framers
from dispatch.store.migrate import migrate
from dispatch.store.transaction import Transaction

# ruff's S608 sees SQL built from strings; what is built in are the column lists of `rows`.
_EXECUTIONS = f"SELECT key, {rows.EXECUTION} FROM executions ORDER BY key"  # noqa: S608
_WAITS = f"SELECT {rows.WAIT} FROM waits WHERE execution_key = ? ORDER BY opened_seq"  # noqa: S608
_CHUNKS = f"SELECT {rows.CHUNK} FROM journal WHERE execution_key = ? ORDER BY last_seq"  # noqa: S608


class Journal(NamedTuple):
    """An execution as a file holds it."""

    execution: Execution
    waits: list[WaitRow]
    entries: list[Entry]
    chunks: list[Chunk]

    @property
    def ends(self) -> set[int]:
        """The seqs after which a transaction, or a leg's piece of one, ended."""
        return {chunk.last_seq for chunk in self.chunks}


class Cut(NamedTuple):
    """`journal` up to and with its entry `length`, under another id."""

    journal: Journal
    length: int
    id: ExecutionId

    @property
    def entries(self) -> list[Entry]:
        return [under(entry, self.journal.execution.id, self.id) for entry in self._kept]

    @property
    def _kept(self) -> Sequence[Entry]:
        return self.journal.entries[: self.length]


def under(entry: Entry, id: str, other: str) -> Entry:
    """`entry` as it is in the journal of an execution with another id."""
    old, new = (f'"executionId":"{one}"'.encode() for one in (id, other))
    data = entry.data.replace(old, new, 1)
    return Entry(entry.seq, entry.kind, entry.origin, entry.at, data, entry.private)


def read_journals(path: Path) -> list[Journal]:
    """All that a file holds, in the order of their dispatch."""
    return list(each_journal(path))


def each_journal(path: Path) -> Iterator[Journal]:
    """The same, one at a time."""
    with closing(sqlite3.connect(path)) as db:
        for found in db.execute(_EXECUTIONS).fetchall():
            chunks = [rows.to_chunk(row) for row in db.execute(_CHUNKS, found[:1])]
            yield Journal(
                rows.to_execution(found[1:]),
                [rows.to_wait(row) for row in db.execute(_WAITS, found[:1])],
                [entry for chunk in chunks for entry in chunk.entries()],
                chunks,
            )


def write_cuts(path: Path, cuts: Iterable[Cut], *, runnable: bool = True) -> None:
    """Make a file with these cuts. All that isn't over is nobody's, and, if `runnable`, is to be
    driven: as a worker's death leaves it.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        migrate(db)
        framers = Framers()
        db.execute("BEGIN")
        for cut in cuts:
            _write(db, cut, framers)
        db.execute(
            "UPDATE executions SET worker = NULL, runnable = ? WHERE ended_at IS NULL", (runnable,)
        )
        db.execute("COMMIT")


def _write(db: sqlite3.Connection, cut: Cut, framers: Framers) -> None:
    """Append it again, transaction by transaction, as the store does: rows follow from entries."""
    original = cut.journal.execution
    pending: list[Entry] = []
    ends = cut.journal.ends
    for entry in cut.entries:
        pending.append(entry)
        if entry.seq not in ends and entry.seq != cut.length:
            continue
        drafts, at = [draft_of(one) for one in pending], pending[-1].at
        transaction = Transaction(db, at, framers, lambda _: None, ())
        if pending[0].seq == 1:
            transaction.create(
                NewExecution(
                    id=cut.id,
                    flow=original.flow,
                    version=original.version,
                    kind=original.kind,
                    start=drafts.pop(0),
                )
            )
        if drafts:
            transaction.transact(cut.id, lambda *_, drafts=drafts: Change(drafts), (), None)
        transaction.write_rows()
        pending.clear()


def draft_of(entry: Entry) -> Draft:
    """What `entry` was before it had a place."""
    mark = f'"seq":{entry.seq}'.encode()
    rest = entry.data[entry.data.index(mark) + len(mark) :]
    return Draft(entry.kind, entry.origin, rest, entry.private)


def rows_that_follow(journal: Journal) -> tuple[Any, ...]:
    """What a file says of an execution beside its entries, but for who drives it."""
    row = journal.execution
    return (
        (row.status, row.code, row.phase, row.last_seq, row.leg_seq, row.segment_seq, row.ended_at),
        journal.waits,
        journal.ends,
    )
