"""What cannot be opened: each reason has a sentence, and what is there stays as it is."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from dispatch.core.errors import Unavailable
from dispatch.store import opening, sqlite
from dispatch.store.sqlite import SqliteStore
from tests.disks import small_disk
from tests.store.entries import TickingClock, new


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(Unavailable) as refused:
        anyio.run(_open, path)
    return refused.value.code, refused.value.message


async def _open(path: Path) -> None:
    async with SqliteStore(path, clock=TickingClock()).session("w1"):
        pass


def _directory(path: Path) -> None:
    path.mkdir()


def _nothing_above(path: Path) -> None:
    path.parent.rmdir()


def _text(path: Path) -> None:
    path.write_text("not a database, " * 1000)


def _header_gone(path: Path) -> None:
    _database(path)
    _overwrite(path, 0, b"X" * 64)


def _cut_off(path: Path) -> None:
    _database(path)
    with path.open("r+b") as file:
        file.truncate(9000)


def _database(path: Path) -> None:
    anyio.run(_create_one, path)


async def _create_one(path: Path) -> None:
    store = SqliteStore(path, clock=TickingClock())
    async with store.session("w0"):
        await store.create(new())


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("prepare", "code", "says"),
    [
        (_directory, "cannot-open", "is a directory: give the path of a file"),
        (_nothing_above, "cannot-open", "there is no directory"),
        (_text, "store-foreign", "no SQLite database"),
        (_header_gone, "store-foreign", "its beginning is damaged"),
        (_cut_off, "store-corrupt", "restore a backup"),
    ],
)
def test_what_is_no_database_is_refused_with_what_to_do(
    tmp_path: Path, prepare: Callable[[Path], None], code: str, says: str
) -> None:
    path = tmp_path / "folder" / "dispatch.db"
    path.parent.mkdir()
    prepare(path)
    found_code, message = refusal(path)
    assert (found_code, says in message) == (code, True), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["there.db", "new.db"])
def test_what_is_read_only_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        _database(disk.path / "there.db")
        disk.make_read_only()
        code, message = refusal(disk.path / name)
        assert code == "cannot-open"
        assert "remount what is read-only" in message


def test_on_a_full_disk_nothing_is_opened(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        disk.fill()
        code, message = refusal(disk.path / "dispatch.db")
        assert code == "store-full"
        assert "make room" in message


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process, in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


class Ending(logging.Handler):
    """Ends that transaction as soon as something is said of it."""

    def __init__(self, other: sqlite3.Connection):
        super().__init__()
        self._other, self.told = other, ""

    def emit(self, record: logging.LogRecord) -> None:
        self.told += record.getMessage()
        self._other.execute("COMMIT")


def test_it_is_waited_for_whoever_is_writing_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "QUIET_SECONDS", 0.0)
    path, log = tmp_path / "dispatch.db", logging.getLogger(opening.__name__)
    _database(path)
    with writing(path) as other:
        ending = Ending(other)
        log.addHandler(ending)
        try:
            anyio.run(_open, path)
        finally:
            log.removeHandler(ending)
    assert ending.told.startswith(f"another process is writing to {path}: it is waited for")


def test_who_writes_for_too_long_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "OPEN_SECONDS", 0.0)
    path = tmp_path / "dispatch.db"
    _database(path)
    with writing(path):
        code, message = refusal(path)
    assert (code, "let it come to an end, or end it" in message) == ("cannot-open", True)
