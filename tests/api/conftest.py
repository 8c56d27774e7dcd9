"""One server for each module of tests, or several on one file, which are then asked in turn;
`max_live`, `servers` and `settings` are theirs to override.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from dispatch.app import create_app
from dispatch.settings import Settings
from tests.api.caller import Caller, InTurn
from tests.api.flows import Gate, flows
from tests.serving import serve


@pytest.fixture(scope="module")
def max_live() -> int:
    return 1000


@pytest.fixture(scope="module")
def servers() -> int:
    return 1


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
async def caller(
    anyio_backend: str,
    max_live: int,
    servers: int,
    settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Caller]:
    gate = Gate()
    path = tmp_path_factory.mktemp("store") / "dispatch.db"
    apps = [
        create_app(flows(gate), path, Settings(max_live=max_live, **settings))
        for _ in range(servers)
    ]
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serve(app)) for app in apps]
        async with httpx.AsyncClient(transport=InTurn(urls), base_url=urls[0], timeout=10) as http:
            yield Caller(http, apps[0], gate)
