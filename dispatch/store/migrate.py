"""Bring a database to the newest schema: `migrations/<store>/NNN_name.sql`, in order.

Each file is one transaction and never changes once released: later ones alter what it made. The
number of the last one applied is kept in the database (`user_version`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files

from dispatch.core.errors import Unavailable

_MIGRATIONS = files("dispatch.store") / "migrations"


def migrations(store: str) -> list[tuple[int, str]]:
    """Number and text of each, in order."""
    folder = _MIGRATIONS / store
    return sorted(
        (int(file.name.partition("_")[0]), file.read_text())
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    )


def newest() -> int:
    """The schema that this dispatch knows."""
    return migrations("sqlite")[-1][0]


def migrate(db: sqlite3.Connection) -> None:
    """Apply to `db` (in autocommit mode) what it lacks.

    Raises `Unavailable` if the database is a newer dispatch's, or not dispatch's at all.
    """
    known = version(db)
    for number, script in migrations("sqlite"):
        if number <= known:
            continue  # without the lock, which others may keep for long
        db.execute("BEGIN IMMEDIATE")
        try:
            # Read under the lock: another worker may be starting on the same file.
            if version(db) < number:
                for statement in _statements(script):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number:d}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # a full disk has ended it
                db.execute("ROLLBACK")
            raise
    check(db)


def check(db: sqlite3.Connection) -> int:
    """The schema of `db`. Raises `Unavailable` if it is a newer dispatch's, or not dispatch's."""
    found = version(db)
    if found > newest():
        raise Unavailable(
            f"this database has schema {found}, and this dispatch knows {newest()}: it was written "
            "by a newer one, which has to be used from now on",
            code="store-newer",
        )
    return found


def version(db: sqlite3.Connection) -> int:
    """The schema of `db`, 0 if it is empty. Raises `Unavailable` if it is not dispatch's."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    if found == 0 and db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
        raise Unavailable(
            "this SQLite file holds something else than a dispatch database: give another path",
            code="store-foreign",
        )
    return found


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
