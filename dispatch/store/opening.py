"""Why a database can't be opened, or not yet, each in a sentence that says what to do."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from pathlib import Path

from dispatch.core.errors import Damaged, Unavailable

#: How long it takes to get a word in beside a server that writes much: not worth telling.
QUIET_SECONDS = 1.0

_log = logging.getLogger(__name__)


def check_path(path: Path) -> None:
    """Raise `Unavailable` (`cannot-open`) if there can be no database that is written to.

    SQLite would say as much for all of these, or open what may only be read, and fail later.
    """
    folder = path.parent
    if path.is_dir():
        raise _cannot_open(f"{path} is a directory: give the path of a file")
    if not folder.is_dir():
        raise _cannot_open(f"there is no directory {folder}: make it, or give another path")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise _cannot_open(f"{path} may not be read and written by this user: {_PERMIT}")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _cannot_open(
            f"nothing may be written to {folder}, where SQLite keeps its log beside the database: "
            f"{_PERMIT}"
        )


_PERMIT = "change its permissions (or remount what is read-only), or give another path"


def await_turn(db: sqlite3.Connection, path: Path, seconds: float) -> None:
    """Wait until nobody else is writing to `path`: that may take longer than a server at work
    would bear. Raises `Unavailable` (`cannot-open`) after so many seconds.
    """
    try:
        _take_turn(db, min(QUIET_SECONDS, seconds))
    except sqlite3.OperationalError as exc:
        if not _is_busy(exc):
            raise
        _log.warning("another process is writing to %s: it is waited for, %g s long", path, seconds)
    else:
        return
    try:
        _take_turn(db, seconds)
    except sqlite3.OperationalError as exc:
        if not _is_busy(exc):
            raise
        raise _cannot_open(
            f"another process has been writing to {path} for {seconds:g} s, in one transaction: "
            "let it come to an end, or end it"
        ) from exc


def _take_turn(db: sqlite3.Connection, seconds: float) -> None:
    db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000):d}")
    db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")


def _is_busy(exc: sqlite3.Error) -> bool:
    return exc.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _cannot_open(sentence: str) -> Unavailable:
    return Unavailable(sentence, code="cannot-open")


def explain(path: Path, exc: OSError | sqlite3.Error) -> Unavailable:
    """What SQLite, or the operating system, makes of a path that seemed right."""
    is_full = isinstance(exc, OSError) and exc.errno == errno.ENOSPC
    match sqlite3.SQLITE_FULL if is_full else getattr(exc, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return Unavailable(
                f"{path} is no SQLite database, or its beginning is damaged: give another path, or "
                "restore a backup",
                code="store-foreign",
            )
        case sqlite3.SQLITE_CORRUPT:
            return Damaged(f"{path} is damaged ({exc}): restore a backup")
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"the disk of {path} is full: make room", code="store-full")
        case _:
            return _cannot_open(f"cannot open {path}: {exc}")
