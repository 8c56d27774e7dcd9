"""`store`: every store there is, open for the worker `w1`. A new database is one more parameter."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dispatch.store.base import Committed, Store
from dispatch.store.sqlite import SqliteStore
from tests.store.entries import TickingClock

StoreMaker = Callable[[TickingClock], Store]


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


@pytest.fixture(params=["sqlite", "sqlite-full"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreMaker:
    """Makes stores over one and the same database, as restarts and further workers do."""

    def make(clock: TickingClock) -> Store:
        synchronous = "FULL" if request.param == "sqlite-full" else "NORMAL"
        return SqliteStore(tmp_path / "dispatch.db", clock=clock, synchronous=synchronous)  # type: ignore[arg-type] # "FULL" if … is inferred as str

    return make


@pytest.fixture
async def store(make_store: StoreMaker, clock: TickingClock) -> AsyncIterator[Store]:
    store = make_store(clock)
    async with store.session("w1"):
        yield store


@pytest.fixture
def told(store: Store) -> list[Committed]:
    """What the store has told its listener."""
    told: list[Committed] = []
    store.listener = told.append
    return told
