"""What a database looks like from beside it: its size and health, and what its executions wait for.

Only facts; what is wrong about them is said in `dispatch.upkeep`. Rows are read in one transaction
and the whole file in another: the log grows as long as one lasts.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from dispatch.core.clock import iso
from dispatch.core.lifecycle import Status
from dispatch.store.migrate import newest, version
from dispatch.store.mounts import FileSystem, file_system
from dispatch.store.readonly import read
from dispatch.store.workers import look_at

#: Parked executions and problems that are named; the others are counted.
MOST_NAMED = 20

_COUNTS = "SELECT status, count(*) FROM executions GROUP BY status"
_CODES = (
    "SELECT coalesce(code, ''), count(*) FROM executions WHERE status = 'interrupted' "
    "GROUP BY code ORDER BY 2 DESC"
)
_PARKED = (
    "SELECT id, flow, version, coalesce(code, ''), updated_at FROM executions "
    "WHERE status = 'interrupted' ORDER BY updated_at DESC LIMIT ?"
)
# When a wait was opened is known to the journal. Time limits of executions are nobody's to answer.
_OLDEST_WAIT = (
    "SELECT executions.id, flow, executions.version, waits.kind, name, "
    "(SELECT at FROM journal WHERE journal.execution_key = key AND journal.last_seq >= opened_seq "
    "ORDER BY journal.last_seq LIMIT 1) AS opened_at "
    "FROM waits JOIN executions ON key = execution_key "
    "WHERE waits.status = 'open' AND waits.kind NOT IN ('cancel', 'deadline') "
    "ORDER BY opened_at LIMIT 1"
)
_WORKERS = (
    "SELECT workers.id, process, since, count(executions.id) "
    "FROM workers LEFT JOIN executions ON worker = workers.id GROUP BY workers.id ORDER BY since"
)
_GOING = (
    "SELECT count(*) FROM executions WHERE status IN ('pending', 'running') "
    "OR (status = 'suspended' AND key IN "
    "(SELECT execution_key FROM waits WHERE status = 'open' AND due_at <= ?))"
)
# All that a row says of its journal: it ends there, and has as many entries.
_BROKEN_JOURNALS = (
    "SELECT id FROM executions LEFT JOIN "
    "(SELECT execution_key, max(last_seq) AS last, sum(length(origins)) AS entries "
    "FROM journal GROUP BY execution_key) ON execution_key = key "
    "WHERE last_seq IS NOT last OR last_seq IS NOT entries LIMIT ?"
)


class Parked(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    execution_id: str
    flow: str
    version: int
    code: str
    since: str


class OpenWait(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    execution_id: str
    flow: str
    version: int
    kind: str
    name: str
    since: str


class SeenWorker(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    pid: int
    since: str
    state: Literal["alive", "still", "dead"]  # still: its process lives, and does nothing
    synchronous: str
    executions: int  # that it holds


class Work(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the rows say."""

    executions: dict[Status, int]
    parked_codes: dict[str, int]
    parked: list[Parked]  # the newest
    oldest_wait: OpenWait | None
    workers: list[SeenWorker]
    deserted: int  # executions that would go on by themselves, if a worker did anything


class Inspection(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    path: str
    sqlite: str  # its version
    schema: int
    known_schema: int
    bytes: int
    unused_bytes: int  # within the file
    log_bytes: int  # of the write-ahead log
    disk_free_bytes: int
    file_system: str  # its kind; empty if that is not known
    is_network: bool
    problems: list[str]  # of the file, as SQLite says them, and of journals
    work: Work | None  # unknown if the schema is, or the file is damaged


def inspect(path: Path, *, now: float, thorough: bool = False) -> Inspection:
    """Look at the database at `path`; `thorough` compares indexes with tables too.

    Raises `Unavailable` if it cannot be read at all, or is not dispatch's.
    """
    return read(path, partial(_inspect, path.resolve(), now, thorough))


def _inspect(path: Path, now: float, thorough: bool, db: sqlite3.Connection) -> Inspection:
    schema = version(db)
    known = newest()
    unused, page_bytes = _one(db, "PRAGMA freelist_count"), _one(db, "PRAGMA page_size")
    on = file_system(path) or FileSystem("", False)
    problems: list[str] = []
    work: Work | None = None
    try:
        if 0 < schema <= known:
            work = _work(path, now, db)
        problems += _problems(db, thorough)
        if work is not None and not problems:
            broken = [id for (id,) in db.execute(_BROKEN_JOURNALS, (MOST_NAMED,))]
            problems += [f"the journal of {id} is not what its row says" for id in broken]
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF not in _DAMAGES:
            raise
        problems.append(str(exc))
    return Inspection(
        path=str(path),
        sqlite=sqlite3.sqlite_version,
        schema=schema,
        known_schema=known,
        bytes=os.path.getsize(path),
        unused_bytes=unused * page_bytes,
        log_bytes=_size(path.with_name(f"{path.name}-wal")),
        file_system=on.kind,
        is_network=on.is_network,
        disk_free_bytes=shutil.disk_usage(path.parent).free,
        problems=problems,
        work=work,
    )


_DAMAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _problems(db: sqlite3.Connection, thorough: bool) -> list[str]:
    check = "integrity_check" if thorough else "quick_check"
    found = [str(row[0]) for row in db.execute(f"PRAGMA {check}({MOST_NAMED:d})")]
    return [] if found == ["ok"] else found


def _work(path: Path, now: float, db: sqlite3.Connection) -> Work:
    db.execute("BEGIN")
    try:
        counts = dict(db.execute(_COUNTS))
        workers = [_seen(path, row, now) for row in db.execute(_WORKERS)]
        is_served = any(one.state == "alive" for one in workers)
        waits = [_open_wait(row) for row in db.execute(_OLDEST_WAIT)]
        return Work(
            executions={status: counts.get(status.value, 0) for status in Status},
            parked_codes=dict(db.execute(_CODES)),
            parked=[_parked(row) for row in db.execute(_PARKED, (MOST_NAMED,))],
            oldest_wait=waits[0] if waits else None,
            workers=workers,
            deserted=0 if is_served else _one(db, _GOING, now),
        )
    finally:
        db.execute("ROLLBACK")


def _parked(row: Sequence[Any]) -> Parked:
    id, flow, of_version, code, at = row
    return Parked(execution_id=id, flow=flow, version=of_version, code=code, since=iso(at))


def _open_wait(row: Sequence[Any]) -> OpenWait:
    id, flow, of_version, kind, name, at = row
    return OpenWait(
        execution_id=id, flow=flow, version=of_version, kind=kind, name=name, since=iso(at)
    )


def _seen(path: Path, row: Sequence[Any], now: float) -> SeenWorker:
    id, process, since, executions = row
    seen = look_at(path, id, process)
    state: Literal["alive", "still", "dead"] = "dead"
    if seen is not None:
        state = "still" if now - seen.beaten_at > seen.about.lease_seconds else "alive"
    return SeenWorker(
        id=id,
        pid=int(process.partition("-")[0]),
        since=iso(since),
        state=state,
        synchronous="" if seen is None else seen.about.synchronous,
        executions=executions,
    )


def _one(db: sqlite3.Connection, statement: str, *parameters: object) -> int:
    return int(db.execute(statement, parameters).fetchone()[0])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
