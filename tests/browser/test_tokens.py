"""A page without a secret, from another origin: the guide's own, with Persona beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from dispatch.api.guide import DOCS
from tests.browser.chat import Chat, offer_tools
from tests.browser.conftest import HERE
from tests.browser.relay import Relay
from tests.docs.pages import blocks
from tests.docs.session import ADDRESS

SHOP = "https://shop.example"
PERSONA = HERE / "node_modules" / "@runtypelabs" / "persona" / "dist"


@pytest.fixture
def source(db: Path, relay: Relay, flow: str) -> str:
    """What the guide shows, with the address and a token filled in."""
    command = [sys.executable, "-m", "dispatch", "token", "create", flow]
    command += ["--origin", SHOP, "--db", str(db)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    [shown] = [block for block in blocks(DOCS / "http.md") if block.language == "html"]
    return shown.text.replace("ct_…", made.stdout.strip()).replace(ADDRESS, relay.url)


@pytest.fixture
async def shop(page: Page, source: str) -> Page:
    async def answer(route: Route) -> None:
        path = route.request.url.removeprefix(SHOP)
        if path == "/":
            await route.fulfill(body=source, content_type="text/html; charset=utf-8")
        elif path.startswith("/persona/"):
            await route.fulfill(path=PERSONA / path.removeprefix("/persona/"))
        else:
            await route.fulfill(status=404)

    await page.route(f"{SHOP}/**", answer)
    await page.goto(SHOP)
    return page


@pytest.mark.parametrize("flow", ["page"])
async def test_a_page_of_another_origin_offers_its_tools(shop: Page) -> None:
    await shop.evaluate("import('/persona/webmcp-polyfill.js')")
    await offer_tools(shop)
    chat = Chat(shop)
    declared: list[bool] = []
    for turn in (1, 2):
        async with shop.expect_request("**/v1/client/chat") as request:
            await chat.say("get_number")
        declared.append('"clientTools":' in str((await request.value).post_data))
        await chat.choose(chat.button("Allow"))
        await expect(chat.answers).to_have_text(["get_number: Ok(value='it is 1')"] * turn)
    assert declared == [True, False]  # the second time, a fingerprint stands for them


@pytest.mark.parametrize("flow", ["approval"])
async def test_a_page_of_another_origin_approves(shop: Page) -> None:
    chat = Chat(shop)
    await chat.say("Delete it")
    await chat.choose(chat.button("Allow"))
    await expect(chat.answers).to_have_text("The deletion was approved.")


@pytest.mark.parametrize("flow", ["echo"])
async def test_a_page_of_another_origin_says_how_it_was(shop: Page) -> None:
    chat = Chat(shop)
    await chat.say("Hello")
    await expect(chat.answers).to_have_text("Hello")
    async with shop.expect_response("**/v1/client/feedback") as answer:
        await chat.choose(chat.button("Upvote"))
    assert (await (await answer.value).json())["success"] is True
