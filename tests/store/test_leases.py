"""Leases: who stands still loses what it holds, and knows it when it goes on."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from dispatch.core.errors import LeaseLost, Unavailable
from dispatch.store.base import Store
from dispatch.store.sqlite import SqliteStore
from dispatch.store.transaction import Transaction
from dispatch.store.workers import Lease, Lost, Others, WorkerFile
from tests.disks import small_disk
from tests.store.child import LEASE_SECONDS
from tests.store.conftest import StoreMaker
from tests.store.entries import PATIENCE_SECONDS, TickingClock, new, texts
from tests.store.test_workers import child, path

__all__ = ["path"]


@pytest.fixture
async def watching(path: Path, clock: TickingClock) -> AsyncIterator[SqliteStore]:
    """A store whose worker holds others to the lease that `child` has."""
    store = SqliteStore(path, clock=clock, lease_seconds=LEASE_SECONDS)
    async with store.session("watching"):
        yield store


async def buried(store: Store) -> int:
    with anyio.fail_after(PATIENCE_SECONDS):
        while not (count := await store.bury_dead()):
            await anyio.lowlevel.checkpoint()
    return count


def workers(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT id FROM workers ORDER BY id")]


def listed(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir() if "-worker-" in file.name)


# --- one that stands still ------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_worker_that_stands_still_loses_what_it_holds(
    watching: SqliteStore, path: Path
) -> None:
    async with child(path, "trickle") as other:
        for _ in range(50):  # more than a lease
            await other.acknowledged()
            assert await watching.bury_dead() == 0
        await other.stop(path)
        assert await buried(watching) == 1
        row = await watching.get(other.id)
        assert (row.worker, row.token, row.runnable) == (None, 1, True)
        taken = await watching.acquire(other.id, "watching")
        assert taken is not None
        assert watching.counters.taken_over == 1
        before = await watching.get(other.id)

        other.go_on()
        with anyio.fail_after(PATIENCE_SECONDS):
            while await other.acknowledged():
                pass  # what it was told before it was stopped
        assert await watching.get(other.id) == before
        # What it takes from now on is its own again, until it stands still again.
        assert await other.acknowledged() > 0
        assert "child-trickle" in await anyio.to_thread.run_sync(workers, path)
        await other.stop(path)
        assert await buried(watching) == 1
        await other.kill()
        with anyio.fail_after(PATIENCE_SECONDS):
            while "child-trickle" in await anyio.to_thread.run_sync(workers, path):
                await watching.bury_dead()
        assert await anyio.to_thread.run_sync(listed, path) == ["dispatch.db-worker-watching"]


@pytest.mark.slow
async def test_only_what_was_seen_to_stand_still_counts(path: Path) -> None:
    now = 0.0
    others = Others(path, 10.0, lambda: now)
    found = [("child-hold", "another process")]

    async def look(at: float) -> list[Lost]:
        nonlocal now
        now = at
        return await anyio.to_thread.run_sync(others.look, found)

    async with child(path, "hold") as other:
        await other.stop(path)
        assert [await look(at) for at in (100.0, 105.0, 109.9)] == [[], [], []]
        assert await look(110.0) == [Lost("child-hold", None)]
        # Nobody looked for a lease: perhaps this process stood still itself.
        assert [await look(at) for at in (120.0, 125.0, 129.9)] == [[], [], []]
        assert await look(130.0) == [Lost("child-hold", None)]
        # It has beaten.
        file = path.with_name("dispatch.db-worker-child-hold")
        await anyio.to_thread.run_sync(file.write_bytes, b"one more beat...")
        assert [await look(at) for at in (131.0, 136.0, 140.9)] == [[], [], []]
        assert await look(141.0) == [Lost("child-hold", None)]


# --- one that cannot beat -------------------------------------------------------------------------


class Breakable(WorkerFile):
    """A file that cannot be written to while it `is_broken`."""

    is_broken = False

    def write(self, place: int, number: int) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "broken")
        super().write(place, number)


def is_held(lease: Lease) -> bool:
    return lease.is_held


async def test_a_lease_that_lapsed_is_not_held_until_it_is_renewed(path: Path) -> None:
    file = await anyio.to_thread.run_sync(Breakable.take, path, "w")
    lease = await Lease(file, 0.2).begin()
    try:
        assert is_held(lease)
        file.is_broken = True
        with anyio.fail_after(PATIENCE_SECONDS):
            while is_held(lease):
                await anyio.lowlevel.checkpoint()
        assert not lease.renew(lease.standstills)
        file.is_broken = False
        assert lease.renew(0)  # it can beat, but what it holds has not been looked at since
        assert not is_held(lease)
        assert lease.renew(lease.standstills)
        assert is_held(lease)
    finally:
        await lease.end()
    assert not is_held(lease)


async def test_what_was_seen_before_a_standstill_renews_nothing(path: Path) -> None:
    file = await anyio.to_thread.run_sync(Breakable.take, path, "w")
    lease = await Lease(file, 0.2).begin()
    try:
        seen = lease.standstills
        file.is_broken = True
        with anyio.fail_after(PATIENCE_SECONDS):
            while is_held(lease):
                await anyio.lowlevel.checkpoint()
            file.is_broken = False
            # It beats again, before anybody has noticed.
            while lease.standstills == seen or not lease.renew(seen):
                await anyio.lowlevel.checkpoint()
        assert not is_held(lease)
    finally:
        await lease.end()


def test_beats_go_on_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        file = WorkerFile.take(disk.path / "d.db", "w")
        disk.fill()
        for number in range(3):
            file.write(0, number)
            file.write(1, number)
        file.remove()


# --- whose file, or row, is gone ------------------------------------------------------------------


async def test_a_worker_that_was_taken_for_dead_enlists_again(
    store: Store, make_store: StoreMaker, clock: TickingClock, path: Path
) -> None:
    execution, _ = await store.create(new(worker="w1"))
    await anyio.to_thread.run_sync(path.with_name("dispatch.db-worker-w1").unlink)
    other = make_store(clock)
    async with other.session("w2"):
        assert await other.bury_dead() == 1
        with pytest.raises(LeaseLost):
            await store.append(execution.id, texts(1), token=1)
        await store.bury_dead()
        assert store.is_leased
        assert await anyio.to_thread.run_sync(workers, path) == ["w1", "w2"]
        taken = await store.acquire(execution.id, "w1")
        assert taken is not None
        assert await other.bury_dead() == 0
        await store.append(execution.id, texts(1), token=taken.token)


@pytest.mark.slow
async def test_by_whatever_path_a_database_is_opened_its_workers_are_seen(
    path: Path, clock: TickingClock, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    await anyio.Path(link.parent).mkdir()
    await anyio.Path(link).symlink_to(Path("..") / path.name)
    async with child(path, "hold") as other:
        store = SqliteStore(link, clock=clock)
        async with store.session("w1"):
            assert await store.bury_dead() == 0
            assert (await store.get(other.id)).worker == "child-hold"
            await other.kill()
            assert await store.bury_dead() == 1
    assert await anyio.to_thread.run_sync(lambda: listed(path) + listed(link)) == []


@pytest.mark.slow
async def test_the_dead_that_cannot_be_buried_cost_nothing(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk may last, and each second they are looked at again."""
    async with child(path, "hold") as first, child(path, "suspend") as second:
        await first.kill()
        await second.kill()
    left = await anyio.to_thread.run_sync(listed, path)

    def full(*_: object) -> int:
        raise Unavailable("made to fail", code="store-full")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "bury", full)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await store.bury_dead()
            assert await anyio.to_thread.run_sync(listed, path) == left
            opened = await anyio.to_thread.run_sync(_open_files)
            assert [file for file in opened if "-worker-child" in file] == []
    assert await store.bury_dead() == 2
    assert len(await anyio.to_thread.run_sync(listed, path)) == 1


def _open_files() -> list[str]:
    return [str(one.resolve()) for one in Path("/proc/self/fd").iterdir()]


def test_a_file_that_cannot_be_begun_is_not_left_open(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            WorkerFile.take(disk.path / "d.db", "w")
        assert [file for file in _open_files() if "d.db-worker" in file] == []


async def test_a_lease_that_has_ended_writes_nothing_more(tmp_path: Path) -> None:
    """Its file's number may be another file's by then."""
    file = await anyio.to_thread.run_sync(WorkerFile.take, tmp_path / "d.db", "w")
    lease = await Lease(file, 10.0).begin()
    await lease.end()
    assert not lease.renew(lease.standstills)
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write(0, 1)


async def test_what_a_worker_without_a_row_holds_is_freed(store: Store) -> None:
    execution, _ = await store.create(new(worker="nobody"))
    assert await store.bury_dead() == 1
    row = await store.get(execution.id)
    assert (row.worker, row.runnable) == (None, True)


# --- what others do -------------------------------------------------------------------------------


async def test_what_others_commit_is_noticed_once(
    store: Store, make_store: StoreMaker, clock: TickingClock
) -> None:
    other = make_store(clock)
    async with other.session("w2"):
        execution, _ = await other.create(new(worker="w2"))
        assert store.has_changed()
        assert not store.has_changed()
        await other.append(execution.id, texts(2), token=1)
        assert store.has_changed()
        assert [row.last_seq for row in store.peek([execution.id, new().id])] == [3]
        assert not store.has_changed()
        assert [store.is_alone, other.is_alone] == [True, True]
        await store.bury_dead()
        await other.bury_dead()
        assert [store.is_alone, other.is_alone] == [False, False]
    await store.bury_dead()
    assert store.is_alone


async def test_what_is_lost_to_a_worker(store: Store) -> None:
    execution, _ = await store.create(new(worker="w1"))
    assert not execution.is_lost_to("w1", 1)
    await store.release(execution.id, token=1, runnable=False)
    assert not (await store.get(execution.id)).is_lost_to("w1", 1)
    await store.acquire(execution.id, "w2")
    assert (await store.get(execution.id)).is_lost_to("w1", 1)
    await store.release(execution.id, token=2, runnable=False)
    assert (await store.get(execution.id)).is_lost_to("w1", 1)
    await store.acquire(execution.id, "w1")
    assert not (await store.get(execution.id)).is_lost_to("w1", 3)
