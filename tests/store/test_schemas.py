"""Databases of other versions: older ones are brought up to date, all others are refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio.to_thread
import pytest

from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId
from dispatch.core.lifecycle import Status
from dispatch.store import migrate
from dispatch.store.base import Change
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import TickingClock, final, head, journal, output

#: One file each: a database as that version left it, with one execution that waits for a tool.
SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.sql"))
OLD = ExecutionId("exec_0192a3b4c5d67e8f9012a3b4c5d6e7f8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatch.db"


def test_there_is_an_old_database_of_every_version() -> None:
    versions = [number for number, _ in migrate.migrations("sqlite")]
    assert versions == list(range(1, len(versions) + 1))
    assert [int(file.stem) for file in SCHEMAS] == versions


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda file: str(file.stem))
async def test_an_old_database_goes_on(path: Path, clock: TickingClock, schema: Path) -> None:
    await anyio.to_thread.run_sync(_make, path, schema)
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        row = await store.get(OLD)
        assert (row.status, row.flow, row.last_seq) == (Status.SUSPENDED, "weather", 4)
        entries = await journal(store, OLD)
        assert [entry.kind for entry in entries] == [
            "execution_start",
            "text_delta",
            "tool_start",
            "await",
        ]
        assert [entry.private is not None for entry in entries] == [True, False, True, False]
        changed = await store.transact(
            OLD,
            lambda row, waits: Change([head(), output(waits[0].id)], wake=True),
            take_for="w1",
        )
        assert changed.taken
        await store.append(OLD, [final()], token=changed.execution.token)
        assert [wait.status for wait in await store.waits(OLD)] == ["settled"]
    assert await anyio.to_thread.run_sync(_schema, path) == await _newest(path, clock)


def _make(path: Path, schema: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema.read_text())


def _schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return [
            (name, " ".join(sql.split()))
            for name, sql in db.execute(
                "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
            )
        ]


async def _newest(path: Path, clock: TickingClock) -> list[tuple[str, str]]:
    fresh = path.with_name("fresh.db")
    async with SqliteStore(fresh, clock=clock).session("w1"):
        pass
    return await anyio.to_thread.run_sync(_schema, fresh)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("PRAGMA user_version = 999", "store-newer"),
        ("CREATE TABLE of_somebody_else (a)", "store-foreign"),
    ],
)
async def test_other_databases_are_refused_and_left_alone(
    path: Path, clock: TickingClock, script: str, code: str
) -> None:
    await anyio.to_thread.run_sync(_execute, path, script)
    before = await anyio.to_thread.run_sync(path.read_bytes)
    with pytest.raises(Unavailable) as refused:
        async with SqliteStore(path, clock=clock).session("w1"):
            pass
    assert refused.value.code == code
    assert await anyio.to_thread.run_sync(path.read_bytes) == before
    assert [file.name for file in await anyio.to_thread.run_sync(_files, path)] == ["dispatch.db"]


def _execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def _files(path: Path) -> list[Path]:
    return list(path.parent.iterdir())


@pytest.fixture
def broken_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    known = migrate.migrations("sqlite")
    broken = (len(known) + 1, "CREATE TABLE half (a);\nCREATE TABLE half (a);\n")
    monkeypatch.setattr(migrate, "migrations", lambda store: [*known, broken])


@pytest.mark.usefixtures("broken_migration")
async def test_a_migration_that_fails_leaves_no_half(path: Path, clock: TickingClock) -> None:
    with pytest.raises(Unavailable, match="half"):
        async with SqliteStore(path, clock=clock).session("w1"):
            pass
    tables = [name for name, _ in await anyio.to_thread.run_sync(_schema, path)]
    assert "executions" in tables
    assert "half" not in tables


def test_a_database_that_is_up_to_date_needs_no_lock(path: Path) -> None:
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as db,
        closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other,
    ):
        migrate.migrate(db)
        # Another server is writing, one commit after the other.
        db.execute("BEGIN IMMEDIATE")
        migrate.migrate(other)
        assert migrate.version(other) == migrate.newest()
