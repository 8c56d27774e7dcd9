"""One server for all tests of a process, as users start it, and the published client beside it."""

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runtype import AsyncRuntypeClient, RuntypeClient

from tests.child import serving
from tests.sdk.clients import AsyncOverlay, Overlay, SyncOverlay
from tests.sdk.generated import Api

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's file."""
    return tmp_path_factory.mktemp("sdk") / "sdk.db"


@pytest.fixture(scope="session")
def address(db: Path) -> Iterator[str]:
    with serving(db, "dispatch.examples", HERE / "flows.py") as server:
        yield server.url
        assert server.stop() == 0
    assert " ERROR " not in server.log.read_text()


@pytest.fixture(params=[SyncOverlay, AsyncOverlay], ids=["sync", "async"])
async def overlay(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Overlay]:
    made: Overlay = request.param(address)
    yield made
    await made.close()


@pytest.fixture(params=["sync", "async"])
async def api(
    request: pytest.FixtureRequest, address: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Api]:
    """The generated layer, which must not have skipped a frame: that is a warning on the log."""
    caplog.set_level(logging.WARNING)
    if request.param == "sync":
        with RuntypeClient(api_key="key", base_url=address) as client:
            yield Api(client.api)
    else:
        async with AsyncRuntypeClient(api_key="key", base_url=address) as client_:
            yield Api(client_.api)
    assert [record.getMessage() for record in caplog.records] == []
