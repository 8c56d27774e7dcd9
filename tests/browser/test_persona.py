"""Persona 4.17.0, as npm has it, in the page of `/examples/persona`."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.browser.chat import Chat, offer_tools
from tests.browser.relay import Relay


@pytest.fixture
def chat(page: Page) -> Chat:
    return Chat(page)


async def test_an_answer_is_streamed(chat: Chat) -> None:
    await chat.open("echo")
    await chat.say("Say **this** again")
    await expect(chat.answers).to_have_text("Say this again")
    await expect(chat.answers.locator("strong")).to_have_text("this")  # it is Markdown


async def test_a_conversation_has_turns(chat: Chat) -> None:
    await chat.open("echo")
    await chat.say("First")
    await expect(chat.answers).to_have_text(["First"])
    await chat.say("Second")
    await expect(chat.answers).to_have_text(["First", "Second"])


async def test_a_tool_of_the_page(chat: Chat) -> None:
    await chat.open("page_tool")
    await chat.say("What colour is the box?")
    await expect(chat.answers).to_have_text("The box is rgb(0, 128, 128).")


async def test_two_calls_at_once_that_the_user_allows(chat: Chat) -> None:
    await chat.open("page_tools_parallel")
    await chat.say("Add them up")
    for asked in (2, 1):
        await expect(chat.button("Allow")).to_have_count(asked)
        await chat.choose(chat.button("Allow").first)
    await expect(chat.answers).to_have_text("The page says 3, then 7.")


async def test_tools_that_give_an_object_and_that_throw(page: Page, chat: Chat) -> None:
    await chat.open("page")
    await offer_tools(page)
    await chat.say("get_number get_object get_nothing")
    await expect(chat.answers).to_contain_text("get_number: Ok(value='it is 1')")
    await expect(chat.answers).to_contain_text('{"size":3,"colours":["red","blue"]}')
    await expect(chat.answers).to_contain_text("there is nothing to get")


async def test_a_tool_that_the_user_declines(page: Page, chat: Chat) -> None:
    await chat.open("page")
    await offer_tools(page)
    await chat.say("delete_all get_number")
    await chat.choose(chat.button("Deny"))
    await expect(chat.answers).to_contain_text("User declined")
    await expect(chat.answers).to_contain_text("get_number: Ok(value='it is 2')")


@pytest.mark.parametrize(("button", "decision"), [("Allow", "approved"), ("Deny", "denied")])
async def test_an_approval(chat: Chat, button: str, decision: str) -> None:
    await chat.open("approval")
    await chat.say("Delete it")
    await expect(chat.widget).to_contain_text("It cannot be brought back.")
    await chat.choose(chat.button(button))
    await expect(chat.answers).to_have_text(f"The deletion was {decision}.")


async def test_a_question(chat: Chat) -> None:
    await chat.open("ask")
    await chat.say("Ask me")
    await expect(chat.widget).to_contain_text("Which colour do you like?")
    await chat.choose(chat.option("Blue"))
    await expect(chat.answers.last).to_have_text("You chose Blue.")


async def test_a_cut_leaves_no_mark(page: Page, relay: Relay, chat: Chat, tmp_path: Path) -> None:
    """`reconnectStream`: from behind the last event that was shown."""
    await chat.open("gated")
    gate = tmp_path / "gate"
    await chat.say(str(gate))
    await expect(chat.answers).to_have_text("One, two,")
    async with page.expect_request("**/v1/executions/*/events?after=*"):
        assert relay.cut()
    gate.touch()
    await expect(chat.answers).to_have_text("One, two, three, four, five.")
