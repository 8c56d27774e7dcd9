"""One server for each module of tests; `max_live` and `settings` are theirs to override."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dispatch.app import create_app
from dispatch.settings import Settings
from tests.api.caller import Caller
from tests.api.flows import Gate, flows
from tests.serving import serve


@pytest.fixture(scope="module")
def max_live() -> int:
    return 1000


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
async def caller(
    anyio_backend: str,
    max_live: int,
    settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Caller]:
    gate = Gate()
    path = tmp_path_factory.mktemp("store") / "dispatch.db"
    app = create_app(flows(gate), path, Settings(max_live=max_live, **settings))
    async with serve(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        yield Caller(http, app, gate)
