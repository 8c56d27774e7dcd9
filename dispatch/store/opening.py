"""Why a database can't be opened, each in a sentence that says what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from dispatch.core.errors import Damaged, Unavailable


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
