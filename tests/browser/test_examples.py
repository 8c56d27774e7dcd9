"""The pages of `/examples`, as they are served."""

from __future__ import annotations

import json

from playwright.async_api import Page, expect

from tests.browser.relay import Relay


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


async def test_persona_is_missed(page: Page) -> None:
    await page.route("**/persona/*", lambda route: route.abort())
    await page.goto("/examples/persona")
    await expect(page.locator("#chat")).to_contain_text("npm install @runtypelabs/persona")


async def test_the_first_page_leads_to_the_others(page: Page) -> None:
    await page.goto("/examples")
    await page.get_by_role("link", name="EventSource").click()
    await expect(page.get_by_role("heading")).to_have_text("EventSource")
