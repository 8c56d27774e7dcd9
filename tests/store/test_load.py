"""The SQLite store under load: a loop that is busy, a log that would grow without end.

Order and progress are asserted, never durations.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import Process
from blockbuster import BlockBuster

from dispatch.store import checkpoints, sqlite
from dispatch.store.aside import Naps
from dispatch.store.base import Execution, Store
from dispatch.store.checkpoints import Checkpoints
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import PATIENCE_SECONDS, TickingClock, final, new, text, texts

TURN_SECONDS = 0.001


@pytest.mark.slow
async def test_neither_writes_nor_reads_starve_beside_a_busy_loop(store: Store) -> None:
    """A thread alone would get nothing done until the loop had a rest."""
    execution, _ = await store.create(new(worker="w1"))
    turns, done = 0, False

    async def burn() -> None:
        nonlocal turns
        while not done:
            until = time.perf_counter() + TURN_SECONDS
            while time.perf_counter() < until:
                pass
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(burn)
        with anyio.fail_after(PATIENCE_SECONDS):
            for number in range(30):
                await store.append(execution.id, texts(10), token=1)
                [chunk] = await store.read(execution.id, after=1 + 10 * number)
                assert chunk.last_seq == 11 + 10 * number
        # Thirty writes and reads beside it took it no more turns than they should.
        assert turns < 30 * 200
        done = True


async def test_others_get_their_turns_while_the_store_is_flooded(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    written = 0

    async def flood() -> None:
        nonlocal written
        for _ in range(10):
            await store.append(execution.id, texts(100), token=1)
            written += 1

    turns_at: list[int] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(flood)
        while written < 200:
            turns_at.append(written)
            await anyio.lowlevel.checkpoint()
    # No batch was so large that it left others waiting for all of them.
    assert len(set(turns_at)) > 5


# --- the write-ahead log --------------------------------------------------------------------------


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules at a hundredth of their sizes."""
    monkeypatch.setattr(checkpoints, "STEP_BYTES", 40_000)
    monkeypatch.setattr(checkpoints, "GAP_BYTES", 160_000)
    monkeypatch.setattr(sqlite, "GAP_BYTES", 160_000)
    monkeypatch.setattr(checkpoints, "TRUNCATE_BYTES", 640_000)


async def _log_size(path: Path) -> int:
    return await anyio.to_thread.run_sync(lambda: os.stat(f"{path}-wal").st_size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatch.db"


@pytest.mark.slow
@pytest.mark.usefixtures("small_log")
async def test_the_log_stays_small_under_a_flood(store: Store, path: Path) -> None:
    execution, _ = await store.create(new(worker="w1"))
    sizes: list[int] = []

    async def flood() -> None:
        for _ in range(50):
            await store.append(execution.id, [text("x" * 5000)] * 8, token=1)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(flood)
        while (await store.get(execution.id)).last_seq < 1 + 4 * 50 * 8:
            sizes.append(await _log_size(path))
    # 8 MB were written.
    assert max(sizes) < 1_000_000


@pytest.mark.slow
@pytest.mark.usefixtures("small_log")
async def test_a_log_that_a_reader_held_up_is_cut_back(path: Path, clock: TickingClock) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        reader = await anyio.to_thread.run_sync(_hold_a_snapshot, path)
        for _ in range(30):
            await store.append(execution.id, [text("x" * 5000)] * 8, token=1)
        assert await _log_size(path) > 1_000_000
        await anyio.to_thread.run_sync(reader.close)
        with anyio.fail_after(PATIENCE_SECONDS):
            while await _log_size(path) > 300_000:
                await store.append(execution.id, [text("x" * 5000)] * 8, token=1)


@pytest.mark.slow
@pytest.mark.usefixtures("small_log")
async def test_who_reads_for_long_delays_writers_ever_less_often(
    path: Path, blockbuster: BlockBuster
) -> None:
    """To cut the log back all must wait for the reader, and in vain."""
    for asks_page_size in ("Connection.execute", "Cursor.fetchone"):
        function = blockbuster.functions[f"sqlite3.{asks_page_size}"]
        function.can_block_in("dispatch/store/checkpoints.py", "__init__")
    asked: list[str] = []
    writing, checkpointing = await anyio.to_thread.run_sync(_open_two, path, asked)
    reader = await anyio.to_thread.run_sync(_hold_a_snapshot, path)
    naps = Naps()
    moved = Checkpoints(checkpointing, naps)
    for _ in range(80):
        await anyio.to_thread.run_sync(writing.execute, "INSERT INTO executions VALUES (?)", _ROW)
        moved.wrote(40_000)
        with anyio.fail_after(PATIENCE_SECONDS):
            while moved.needs_gap:
                await anyio.lowlevel.checkpoint()
    await moved.close()
    naps.close()
    for db in (reader, checkpointing, writing):
        await anyio.to_thread.run_sync(db.close)
    # At 0.6, 1.3 and 2.6 MB, and not after each of the eighty.
    assert len(asked) > 20
    assert sum("TRUNCATE" in one for one in asked) == 3


_ROW = (b"x" * 40_000,)


def _open_two(path: Path, asked: list[str]) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """One to write, and one for checkpoints, which notes what is asked of it."""
    writing, checkpointing = (
        sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        for _ in range(2)
    )
    writing.execute("PRAGMA journal_mode = WAL")
    writing.execute("PRAGMA wal_autocheckpoint = 0")
    writing.execute("CREATE TABLE executions (a)")
    checkpointing.execute("PRAGMA busy_timeout = 10")
    checkpointing.set_trace_callback(asked.append)
    return writing, checkpointing


def _hold_a_snapshot(path: Path) -> sqlite3.Connection:
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM executions").fetchall()
    return reader


@contextmanager
def _files_grow_to(size: int) -> Iterator[None]:
    """Writes beyond that offset of a file fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("small_log")
async def test_a_checkpoint_that_fails_stops_nobody(
    path: Path, clock: TickingClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        for _ in range(50):
            await store.append(execution.id, [text("x" * 5000)] * 8, token=1)
        # The database is larger than this, the log is not.
        with anyio.fail_after(PATIENCE_SECONDS), _files_grow_to(1_000_000):
            while "a checkpoint failed" not in caplog.text:
                await store.append(execution.id, [text("x" * 500)], token=1)
        assert store.fault is None
        with anyio.fail_after(PATIENCE_SECONDS):
            while await _log_size(path) > 300_000:
                await store.append(execution.id, [text("x" * 5000)] * 8, token=1)


# --- what other processes do to it ----------------------------------------------------------------

_LOCK_SHARED_MEMORY = """
import fcntl, sys
shm = open(sys.argv[1] + "-shm", "r+b")
for byte in sys.argv[3:]:
    fcntl.lockf(shm, fcntl.LOCK_EX, 1, int(byte))
if sys.argv[2] == "torn":
    shm.write(bytes(96))
    shm.flush()
print("locked", flush=True)
sys.stdin.read()
"""
# Bytes of the log's index that SQLite's locks lie on (sqlite.org/walformat.html, 2.3).
_WRITE, _CHECKPOINT, _RECOVER = "120", "121", "122"


@asynccontextmanager
async def _locked(path: Path, index: str, *locks: str) -> AsyncIterator[Process]:
    """Another process has these locks until its input is closed; `torn`: and died within a
    commit.
    """
    command = [sys.executable, "-c", _LOCK_SHARED_MEMORY, str(path), index, *locks]
    async with await anyio.open_process(command, stderr=None) as other:
        assert other.stdout is not None
        with anyio.fail_after(PATIENCE_SECONDS):
            assert (await other.stdout.receive()).startswith(b"locked")
        try:
            yield other
        finally:
            assert other.stdin is not None
            await other.stdin.aclose()


@pytest.mark.slow
@pytest.mark.usefixtures("small_log")
async def test_a_checkpoint_of_another_process_is_let_be(path: Path, clock: TickingClock) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        async with _locked(path, "whole", _CHECKPOINT):
            for _ in range(20):
                await store.append(execution.id, [text("x" * 5000)] * 8, token=1)
        assert await _log_size(path) > 600_000
        with anyio.fail_after(PATIENCE_SECONDS):
            while await _log_size(path) > 300_000:
                await store.append(execution.id, [text("x" * 5000)] * 8, token=1)


@pytest.mark.slow
async def test_reads_wait_while_another_process_repairs_the_log(
    path: Path, clock: TickingClock
) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        read: list[Execution] = []

        async def get() -> None:
            read.append(await store.get(execution.id))

        locked = _locked(path, "torn", _WRITE, _RECOVER)
        async with anyio.create_task_group() as tasks, locked:
            tasks.start_soon(get)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not read
        assert read == [execution]
        await store.append(execution.id, [text()], token=1)


async def test_a_large_deleted_journal_is_purged_piece_by_piece(
    path: Path, clock: TickingClock
) -> None:
    store = SqliteStore(path, clock=clock)
    async with store.session("w1"):
        execution, _ = await store.create(new(worker="w1"))
        for _ in range(100):
            await store.append(execution.id, texts(2), token=1)
        await store.append(execution.id, [final()], token=1)
        await store.delete(execution.id)
    # Leaving the store finished no more than was under way; the next one does the rest.
    async with store.session("w1"):
        with anyio.fail_after(PATIENCE_SECONDS):
            while await anyio.to_thread.run_sync(_left_over, path):
                await anyio.lowlevel.checkpoint()


def _left_over(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        left: int = db.execute(
            "SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM waits) + "
            "(SELECT count(*) FROM tombstones WHERE execution_key IS NOT NULL)"
        ).fetchone()[0]
        return left
    finally:
        db.close()
