"""The pages of `/examples`, as they are served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Dialog, Page, expect

from dispatch.api.guide import DOCS
from tests.browser.relay import Relay
from tests.docs.pages import blocks
from tests.docs.session import ADDRESS

_FOLLOW = """(gate) => {
    window.said = ""
    window.outcome = (async () => {
        const { Client } = await import("/client.js")
        const { status } = await new Client().runWithTools("gated", {}, {
            messages: [{ role: "user", content: gate }],
            onEvent: ({ type, delta }) => { if (type === "text_delta") window.said += delta },
        })
        return status
    })()
    return null
}"""


async def test_eventsource_comes_back_by_itself(page: Page, relay: Relay) -> None:
    await page.goto("/examples/eventsource")
    await page.get_by_role("button", name="Start").click()
    text, status = page.locator("#text"), page.locator("#status")
    await expect(text).to_contain_text("tick1 ")
    assert relay.cut()
    await expect(status).to_have_text("reconnecting")
    await expect(status).to_have_text("done", timeout=15_000)
    await expect(text).to_have_text(" ".join(f"tick{number}" for number in range(12)))


async def test_eventsource_tells_why_it_could_not_start(page: Page) -> None:
    unknown = json.dumps({"flow": {"id": "nowhere"}})
    await page.route("**/v1/dispatch", lambda route: route.continue_(post_data=unknown))
    await page.goto("/examples/eventsource")
    await page.get_by_role("button", name="Start").click()
    await expect(page.locator("#status")).to_contain_text("no flow is called 'nowhere'")


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_the_module_runs_tools_and_asks(page: Page, is_allowed: bool) -> None:
    asked: list[str] = []

    async def decide(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await (dialog.accept() if is_allowed else dialog.dismiss())

    page.on("dialog", decide)
    await page.goto("/examples/module")
    await page.get_by_role("button", name="Refund").click()
    refunded = json.dumps({"refunded": is_allowed}).replace(" ", "")
    await expect(page.locator("#status")).to_have_text(f"completed: {refunded}")
    await expect(page.locator("#text")).to_contain_text("Dear Ada, we are looking into order A-17.")
    assert asked == ['send_refund {"amount":42}\nover limit']


async def test_the_module_takes_up_what_was_cut(page: Page, relay: Relay, tmp_path: Path) -> None:
    await page.goto("/examples")
    gate = tmp_path / "gate"
    await page.evaluate(_FOLLOW, str(gate))
    await page.wait_for_function("window.said === 'One, two, '")
    async with page.expect_request("**/v1/executions/*/events?after=*"):
        assert relay.cut()
    gate.touch()
    assert await page.evaluate("window.outcome") == "completed"
    assert await page.evaluate("window.said") == "One, two, three, four, five."


async def test_persona_is_missed(page: Page) -> None:
    await page.route("**/persona/*", lambda route: route.abort())
    await page.goto("/examples/persona")
    await expect(page.locator("body")).to_contain_text("npm install @runtypelabs/persona")


async def test_the_first_page_leads_to_the_others(page: Page) -> None:
    await page.goto("/examples")
    await page.get_by_role("link", name="EventSource").click()
    await expect(page.get_by_role("heading")).to_have_text("EventSource")


@pytest.fixture
def shown(relay: Relay) -> str:
    """The page of the guide to clients."""
    [block] = [block for block in blocks(DOCS / "clients.md") if block.language == "html"]
    return block.text.replace(ADDRESS, relay.url)


async def test_the_page_of_the_guide(page: Page, shown: str) -> None:
    page.on("dialog", lambda dialog: dialog.accept("fine"))
    await page.goto("/examples")
    await page.set_content(shown)
    await expect(page.locator("#text")).to_have_text("Looking up the weather in Lima. It is fine.")
