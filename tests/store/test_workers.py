"""The contract of `store.base` across processes: who is dead, what they held, what they wrote.

The children are real and die by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from dispatch.core.errors import Unavailable
from dispatch.core.ids import ExecutionId, execution_id
from dispatch.store.base import STRIKE, Store
from dispatch.store.sqlite import SqliteStore
from tests.store.conftest import StoreMaker
from tests.store.entries import BEGIN, PATIENCE_SECONDS, TickingClock, journal, new, texts


class Child:
    """A worker in a process of its own, and the execution that it holds."""

    def __init__(self, process: Process, id: ExecutionId):
        assert process.stdout is not None
        self.id, self._process = id, process
        self._output = TextReceiveStream(process.stdout)
        self._rest = ""

    async def acknowledged(self) -> int:
        """The last seq that it was told of next."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while "\n" not in self._rest:
                self._rest += await self._output.receive()
        line, _, self._rest = self._rest.partition("\n")
        return int(line)

    async def stop(self, path: Path) -> None:
        """SIGSTOP, where it does not write."""
        while True:
            self._process.send_signal(signal.SIGSTOP)
            if await anyio.to_thread.run_sync(_is_free, path):
                return
            self._process.send_signal(signal.SIGCONT)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> int:
        """SIGKILL; the last seq that it was told of before."""
        self._process.send_signal(signal.SIGKILL)
        with anyio.fail_after(PATIENCE_SECONDS):
            await self._process.wait()
            async for piece in self._output:
                self._rest += piece
        whole = self._rest.rpartition("\n")[0].split("\n")
        return int(whole[-1] or 0)


def _is_free(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        db.execute("ROLLBACK")
        return True


@asynccontextmanager
async def child(path: Path, what: str) -> AsyncIterator[Child]:
    id = execution_id(BEGIN, os.urandom(10))
    command = [sys.executable, "-m", "tests.store.child", str(path), f"child-{what}", what, id]
    process = await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=None)
    try:
        started = Child(process, id)
        await started.acknowledged()
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dispatch.db"


@pytest.mark.slow
async def test_what_a_killed_worker_held_is_runnable_with_a_strike(
    store: Store, path: Path
) -> None:
    async with child(path, "hold") as other:
        assert await store.bury_dead() == 0
        assert (await store.get(other.id)).worker == "child-hold"
        await other.kill()
        assert await store.bury_dead() == 1
        row = await store.get(other.id)
        assert (row.worker, row.token, row.runnable, row.strikes) == (None, 1, True, 1)
        assert await store.runnable(1) == [row]
        assert await store.bury_dead() == 0
    assert sorted(file.name for file in await _files(path)) == [
        "dispatch.db",
        "dispatch.db-shm",
        "dispatch.db-wal",
        "dispatch.db-words-w1",
        "dispatch.db-worker-w1",
    ]


async def _files(path: Path) -> list[Path]:
    return await anyio.to_thread.run_sync(lambda: list(path.parent.iterdir()))


@pytest.mark.slow
async def test_a_death_while_suspended_is_no_strike(store: Store, path: Path) -> None:
    async with child(path, "suspend") as other:
        await other.kill()
    assert await store.bury_dead() == 1
    row = await store.get(other.id)
    assert (row.worker, row.runnable, row.strikes) == (None, True, 0)


@pytest.mark.parametrize(
    ("said", "strikes"),
    [
        ("", [1, 1]),
        ("execution {} called os._exit(1) at flows.py:1", [STRIKE, 0]),
        ("Fatal Python error: Segmentation fault", [STRIKE, STRIKE]),
    ],
)
async def test_last_words_say_whose_doing_a_death_was(
    store: Store,
    make_store: StoreMaker,
    clock: TickingClock,
    path: Path,
    said: str,
    strikes: list[int],
) -> None:
    other = make_store(clock)
    async with other.session("w2"):
        held = [(await other.create(new(worker="w2"))).execution for _ in range(2)]
        words = said.format(held[0].id).encode()
        await anyio.to_thread.run_sync(os.write, other.last_words, words)
        await anyio.to_thread.run_sync(path.with_name("dispatch.db-worker-w2").unlink)
        assert await store.bury_dead() == 2
        assert [(await store.get(one.id)).strikes for one in held] == strikes
    assert not [file for file in await _files(path) if file.name.endswith("words-w2")]


@pytest.mark.slow
async def test_those_with_fewer_strikes_are_runnable_first(store: Store, path: Path) -> None:
    async with child(path, "hold") as other:
        await other.kill()
    fresh, _ = await store.create(new())
    await store.bury_dead()
    assert [row.id for row in await store.runnable(10)] == [fresh.id, other.id]


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_by_a_kill(store: Store, path: Path) -> None:
    async with child(path, "append") as other:
        for _ in range(50):
            await other.acknowledged()
        acknowledged = await other.kill()
    row = await store.get(other.id)
    assert row.last_seq >= acknowledged
    entries = await journal(store, other.id)
    assert [entry.seq for entry in entries] == list(range(1, row.last_seq + 1))
    assert await anyio.to_thread.run_sync(_integrity, path) == "ok"
    assert await store.bury_dead() == 1


def _integrity(path: Path) -> str:
    db = sqlite3.connect(path)
    try:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        db.close()


@pytest.mark.slow
async def test_two_processes_that_write_both_get_on(store: Store, path: Path) -> None:
    execution, _ = await store.create(new(worker="w1"))
    done = anyio.Event()
    own = 0

    async def write() -> None:
        nonlocal own
        while not done.is_set():
            await store.append(execution.id, texts(5), token=1)
            own += 1

    async with child(path, "append") as other, anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        with anyio.fail_after(PATIENCE_SECONDS):
            while own < 50:
                await other.acknowledged()
            for _ in range(50):
                await other.acknowledged()
        done.set()
    assert (await store.get(execution.id)).last_seq == 1 + 5 * own


# --- within one process ---------------------------------------------------------------------------


async def test_a_worker_that_leaves_lets_go_without_a_strike(
    make_store: StoreMaker, clock: TickingClock
) -> None:
    first = make_store(clock)
    async with first.session("w1"):
        execution, _ = await first.create(new(worker="w1"))
    second = make_store(clock)
    async with second.session("w2"):
        assert await second.bury_dead() == 0
        row = await second.get(execution.id)
        assert (row.worker, row.runnable, row.strikes) == (None, True, 0)


async def test_workers_of_one_process_do_not_bury_each_other(
    store: Store, make_store: StoreMaker, clock: TickingClock
) -> None:
    execution, _ = await store.create(new(worker="w1"))
    other = make_store(clock)
    async with other.session("w2"):
        assert await other.bury_dead() == 0
        assert (await other.get(execution.id)).worker == "w1"


async def test_a_worker_without_its_file_is_dead(
    store: Store, make_store: StoreMaker, clock: TickingClock, path: Path
) -> None:
    execution, _ = await store.create(new(worker="w1"))
    await anyio.to_thread.run_sync(path.with_name("dispatch.db-worker-w1").unlink)
    other = make_store(clock)
    async with other.session("w2"):
        assert await other.bury_dead() == 1
        assert (await other.get(execution.id)).strikes == 1


@pytest.mark.slow
async def test_a_name_that_is_alive_is_refused(path: Path, clock: TickingClock) -> None:
    async with child(path, "hold"):
        store = SqliteStore(path, clock=clock)
        with pytest.raises(Unavailable) as refused:
            async with store.session("child-hold"):
                pass
        assert refused.value.code == "worker-alive"


@pytest.mark.slow
async def test_a_dead_name_can_be_used_again(
    make_store: StoreMaker, clock: TickingClock, path: Path
) -> None:
    async with child(path, "hold") as other:
        await other.kill()
    store = make_store(clock)
    async with store.session("child-hold"):
        row = await store.get(other.id)
        assert (row.worker, row.runnable, row.strikes) == (None, True, 1)
