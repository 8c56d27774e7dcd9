"""One server for all tests of a process, as users start it, and the published client beside it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.child import serving
from tests.sdk.clients import AsyncOverlay, Overlay, SyncOverlay

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    db = tmp_path_factory.mktemp("sdk") / "sdk.db"
    with serving(db, "dispatch.examples", HERE / "flows.py") as server:
        yield server.url
        assert server.stop() == 0
    assert " ERROR " not in server.log.read_text()


@pytest.fixture(params=[SyncOverlay, AsyncOverlay], ids=["sync", "async"])
async def overlay(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Overlay]:
    made: Overlay = request.param(address)
    yield made
    await made.close()
