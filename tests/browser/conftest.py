"""A browser, a real server that it reaches through a relay, and a page that breaks in no test."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.relay import Relay, relaying
from tests.child import Child, serving

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
#: What each page looked like in the end.
PICTURES = HERE / "pictures"
_OPTIONS = (
    "--no-sandbox",  # which root can't have
    "--disable-background-networking",
    "--disable-component-update",
    # The server is on this machine: a page from elsewhere would have to ask for that.
    "--disable-features=LocalNetworkAccessChecks",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser") / "dispatch.db"


@pytest.fixture(scope="session")
def server(db: Path) -> Iterator[Child]:
    """Started where Persona is."""
    with serving(db, "dispatch.examples", HERE / "flows.py", folder=HERE) as server:
        yield server


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
        browser = await playwright.chromium.launch(executable_path=chromium, args=_OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture
async def relay(server: Child) -> AsyncIterator[Relay]:
    async with relaying(server.url) as relay:
        yield relay


@pytest.fixture
async def page(
    browser: Browser, relay: Relay, request: pytest.FixtureRequest
) -> AsyncIterator[Page]:
    """An empty page whose addresses are those of the relay. What it doesn't catch is an error."""
    context = await browser.new_context(base_url=relay.url, viewport={"width": 800, "height": 800})
    context.set_default_timeout(10_000)
    page = await context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    # Shown when a test fails.
    page.on("console", lambda message: logger.warning("console: %s", message.text))
    page.on("response", lambda answer: logger.warning("%s %s", answer.status, answer.url))
    page.on("requestfailed", lambda request: logger.warning("%s %s", request.failure, request.url))
    yield page
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    await page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")
    await context.close()
    assert failures == []
