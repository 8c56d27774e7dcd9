"""A copy is whole, can be started from, and is never half there; making one disturbs nobody."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import anyio.to_thread
import pytest

from dispatch.core.errors import Unavailable
from dispatch.core.journal import Entry
from dispatch.store.backup import NotPossible, back_up
from dispatch.store.readonly import read
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import TickingClock, held, journal, text
from tests.store.test_workers import child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatch.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder / "copy.db"


async def save(path: Path, copy: Path, *, force: bool = False) -> int:
    return await anyio.to_thread.run_sync(partial(back_up, path, copy, force=force))


async def fill(path: Path, clock: TickingClock, executions: int) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        for _ in range(executions):
            execution = await held(store)
            await store.append(execution.id, [text("x" * 500_000)], token=1)


def change(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


@pytest.mark.slow
async def test_a_copy_beside_a_writer_goes_on_from_a_moment_of_it_without_a_strike(
    path: Path, copy: Path, clock: TickingClock
) -> None:
    async with child(path, "append") as writing:
        acknowledged = 0
        entries: list[Entry] = []
        for number in range(3):
            for _ in range(20):
                acknowledged = await writing.acknowledged()
            size = await save(path, copy, force=number > 0)
            assert size > 0
            assert await anyio.to_thread.run_sync(files, copy) == ["copy.db"]
            restored = SqliteStore(copy, clock=clock)
            async with restored.session("w1"):
                [row] = await restored.runnable(10)
                assert (row.id, row.worker, row.strikes) == (writing.id, None, 0)
                assert row.last_seq >= acknowledged
                entries = await journal(restored, row.id)
                assert [entry.seq for entry in entries] == list(range(1, row.last_seq + 1))
                # There is nobody to bury, and an old token is of no use.
                assert await restored.bury_dead() == 0
                assert await restored.acquire(row.id, "w1")
        acknowledged = await writing.kill()
    original = SqliteStore(path, clock=clock)
    async with original.session("w1"):
        written = await journal(original, writing.id)
        assert len(written) >= acknowledged
        assert written[: len(entries)] == entries


def test_a_copy_is_as_private_as_the_database(path: Path, copy: Path, clock: TickingClock) -> None:
    anyio.run(fill, path, clock, 1)
    path.chmod(0o640)
    back_up(path, copy)
    assert copy.stat().st_mode & 0o777 == 0o640


def exists(path: Path, copy: Path) -> Path:
    copy.write_bytes(b"precious")
    return copy


def is_the_same(path: Path, copy: Path) -> Path:
    copy.symlink_to(path)
    return copy


def is_open(path: Path, copy: Path) -> Path:
    copy.with_name("copy.db-wal").touch()
    return copy


def has_no_folder(path: Path, copy: Path) -> Path:
    return copy.parent / "nowhere" / "copy.db"


@pytest.mark.parametrize(
    ("target", "force", "says"),
    [
        (exists, False, "--force"),
        (is_the_same, True, "is the database itself"),
        (is_open, True, "copy.db-wal exists"),
        (has_no_folder, True, "no folder"),
    ],
)
def test_a_target_that_cannot_be_one(
    path: Path, copy: Path, target: Callable[[Path, Path], Path], force: bool, says: str
) -> None:
    path.touch()
    chosen = target(path, copy)
    before = files(copy)
    with pytest.raises(NotPossible, match=says):
        back_up(path, chosen, force=force)
    assert files(copy) == before
    assert not copy.exists() or copy.read_bytes() in (b"precious", b"")


@pytest.mark.parametrize(
    ("script", "error", "says"),
    [
        ("", NotPossible, "is empty"),
        ("CREATE TABLE of_somebody_else (a)", Unavailable, "something else"),
        ("PRAGMA user_version = 999", Unavailable, "a newer one"),
    ],
)
def test_what_cannot_be_copied(
    path: Path, copy: Path, script: str, error: type[Exception], says: str
) -> None:
    change(path, script)
    with pytest.raises(error, match=says):
        back_up(path, copy)
    assert files(copy) == []


DAMAGES = {
    "what is to be unique is there twice": (
        "PRAGMA writable_schema = 1; CREATE INDEX flows ON executions (flow) WHERE flow = 'g'; "
        "UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX flows ON executions (flow)' "
        "WHERE name = 'flows';"
    ),
    "a rule is broken": (
        "PRAGMA writable_schema = 1; "
        "UPDATE sqlite_schema SET sql = replace(sql, 'phase TEXT', 'phase TEXT NOT NULL') "
        "WHERE name = 'executions';"
    ),
}


@pytest.mark.parametrize("script", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_database_leaves_the_last_copy_as_it_is(
    path: Path, copy: Path, clock: TickingClock, script: str
) -> None:
    anyio.run(fill, path, clock, 2)
    change(path, script)
    exists(path, copy)
    with pytest.raises(Unavailable) as refused:
        back_up(path, copy, force=True)
    assert refused.value.code == "store-failed"
    assert files(copy) == ["copy.db"]
    assert copy.read_bytes() == b"precious"


def test_a_disk_that_takes_no_more_leaves_nothing(
    path: Path, copy: Path, clock: TickingClock
) -> None:
    anyio.run(fill, path, clock, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(Unavailable, match="cannot copy to"):
            back_up(path, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(copy) == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(path: Path, copy: Path, clock: TickingClock) -> None:
    anyio.run(fill, path, clock, 60)

    def interrupt() -> None:
        while not files(copy):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            back_up(path, copy)
    finally:
        interrupting.join()
    assert files(copy) == []


@pytest.mark.parametrize("looks_damaged", [False, True])
def test_a_server_that_starts_meanwhile_is_noticed(path: Path, looks_damaged: bool) -> None:
    """What was read without regard to others is read again."""
    change(path, "PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
    seen: list[int] = []

    def look(db: sqlite3.Connection) -> int:
        if not seen:
            other.execute("INSERT INTO t VALUES (1)")
            other.commit()
        seen.append(db.execute("SELECT count(*) FROM t").fetchone()[0])
        if looks_damaged and len(seen) == 1:
            raise sqlite3.DatabaseError
        return seen[-1]

    with closing(sqlite3.connect(path)) as other:
        assert read(path, look) == 1
    assert seen == [0, 1]
