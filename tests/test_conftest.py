"""That the guards of conftest.py are up: without them, what they forbid would pass unnoticed."""

import asyncio
import sqlite3
import time
import warnings
from contextlib import closing

import pytest
from blockbuster import BlockingError


async def test_async_tests_run_on_asyncio() -> None:
    assert type(asyncio.get_running_loop()) is asyncio.SelectorEventLoop


async def test_blocking_the_loop_fails() -> None:
    with pytest.raises(BlockingError):
        time.sleep(0)  # noqa: ASYNC251 - what this test is about


async def test_sqlite_on_the_loop_fails_outside_the_store() -> None:
    with closing(sqlite3.connect(":memory:")) as db, pytest.raises(BlockingError):
        db.execute("SELECT 1")


async def test_sqlite_on_the_loop_is_allowed_in_the_store() -> None:
    # A stand-in: the guard goes by the name of the file.
    source = "def commit(db): db.execute('SELECT 1'); db.commit()"
    store: dict[str, object] = {}
    exec(compile(source, "/somewhere/dispatch/store/sqlite.py", "exec"), store)  # noqa: S102 - see above
    commit = store["commit"]
    assert callable(commit)
    with closing(sqlite3.connect(":memory:")) as db:
        commit(db)


def test_warnings_are_errors() -> None:
    with pytest.raises(UserWarning):
        warnings.warn("anything", stacklevel=1)
