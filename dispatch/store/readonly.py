"""Read a database that servers may have open, and change nothing: no row, no file beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from dispatch.core.errors import Unavailable

T = TypeVar("T")


def read(path: Path, look: Callable[[sqlite3.Connection], T]) -> T:
    """What `look` makes of the database at `path`; it may be called twice.

    Raises `Unavailable` (`store-failed`) for what SQLite cannot read.
    """
    path = path.resolve()  # as SQLite does: beside the file itself lies its log
    while True:
        in_use = _is_in_use(path)
        try:
            found = _read(path, look, in_use)
        except (sqlite3.Error, OSError) as exc:
            if in_use or not _is_in_use(path):
                raise Unavailable(f"cannot read {path}: {exc}", code="store-failed") from exc
        else:
            if in_use or not _is_in_use(path):
                return found


def _is_in_use(path: Path) -> bool:
    """Whether a server has it open, or died with it open."""
    return any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))


def _read(path: Path, look: Callable[[sqlite3.Connection], T], in_use: bool) -> T:
    # Who only reads a WAL database that nobody has open makes the two files beside it, and leaves
    # them there. One that does not change needs neither.
    how = "mode=ro" if in_use else "immutable=1"
    uri = f"{path.absolute().as_uri()}?{how}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
        return look(db)
