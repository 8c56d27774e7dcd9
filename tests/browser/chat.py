"""Persona, as a person sees it."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

_TOOLS = """() => {
    const offer = (name, execute) =>
        document.modelContext.registerTool({ name, description: name, execute })
    offer("get_number", ({ number }) => `it is ${number}`)
    offer("get_object", () => ({ size: 3, colours: ["red", "blue"] }))
    offer("get_nothing", () => { throw new Error("there is nothing to get") })
    offer("delete_all", () => { document.body.replaceChildren() })
}"""


class Chat:
    """A person at the widget."""

    def __init__(self, page: Page):
        self._page = page
        self.widget = page.locator("#chat")
        self.answers = self.widget.locator("[data-message-role=assistant] .persona-message-content")

    async def open(self, flow: str) -> None:
        await self._page.goto(f"/examples/persona?flow={flow}")
        await expect(self._field).to_be_visible()

    async def say(self, message: str) -> None:
        await self._field.fill(message)
        await self._field.press("Enter")

    @property
    def _field(self) -> Locator:
        return self.widget.get_by_placeholder("How can I help...")

    async def choose(self, button: Locator) -> None:
        """By keyboard: the widget scrolls by itself, so a mouse may let go of something else."""
        await button.press("Enter")

    def button(self, name: str) -> Locator:
        return self.widget.get_by_role("button", name=name, exact=True)

    def option(self, label: str) -> Locator:
        return self.widget.locator(f"[data-option-label='{label}']")


async def offer_tools(page: Page) -> None:
    """Tools for flows to call; those that begin with `get_` run unasked in the example's page."""
    await page.evaluate(_TOOLS)
