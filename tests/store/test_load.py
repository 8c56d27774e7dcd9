"""The SQLite store under load: a loop that is busy, a log that would grow without end.

Order and progress are asserted, never durations.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from dispatch.store import checkpoints
from dispatch.store.base import Store
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


def _hold_a_snapshot(path: Path) -> sqlite3.Connection:
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM executions").fetchall()
    return reader


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
