"""The pages of `/examples`, as they are served."""

from __future__ import annotations

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
