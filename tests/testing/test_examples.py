"""The example flows, each tested as its author would: what it is asked, says and gives."""

from __future__ import annotations

from typing import Any

from dispatch import Decision
from dispatch.core.lifecycle import Status
from dispatch.examples.agent import Limits, agent
from dispatch.examples.approval import delete_with_approval
from dispatch.examples.echo import echo
from dispatch.examples.refund import Order, RefundRequest, refund
from dispatch.examples.timing import failing, quiet, slow
from dispatch.examples.tokens import Tokens, tokens, tokens_step
from dispatch.examples.tools import ask, one_tool, page_tool, page_tools_parallel, parallel_tools
from dispatch.examples.weather import weather
from dispatch.testing import Call, run


async def test_weather_tells_what_the_tool_says() -> None:
    async with run(weather, {"city": "Lima"}, tools={"get_weather": "dry"}) as r:
        assert r.text == "Looking up the weather in Lima. It is dry."
        assert r.calls == [("get_weather", {"city": "Lima"})]
        assert r.result == "dry"


async def test_echo_says_the_last_user_message() -> None:
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hm?"}]
    async with run(echo, messages=said) as r:
        assert (r.text, r.result) == ("Hello", "Hello")


async def test_one_tool_keeps_the_output() -> None:
    async with run(one_tool, tools={"get_weather": {"rain": True}}) as r:
        assert r.text == 'In Oslo: {"rain": true}'
        assert r.result == {"weather": {"rain": True}}


async def test_parallel_tools_are_asked_for_at_once() -> None:
    async with run(parallel_tools, tools={"get_weather": weather_in}) as r:
        assert r.calls == [
            Call("get_weather", {"city": "Oslo"}),
            Call("get_weather", {"city": "Lima"}),
        ]
        assert r.result == {"Oslo": "4 degrees", "Lima": "4 degrees"}


async def weather_in(parameters: dict[str, Any]) -> str:
    return f"{len(parameters['city'])} degrees"


async def test_a_deletion_waits_for_a_person() -> None:
    async with run(delete_with_approval, approvals={"delete_record": True}) as r:
        assert r.text == "The deletion was approved."
    async with run(delete_with_approval, approvals=False) as r:
        assert r.text == "The deletion was denied."
    decision = Decision("denied", "not today")
    async with run(delete_with_approval, approvals={"delete_record": lambda _: decision}) as r:
        assert r.result == {"outcome": "denied", "reason": "not today"}


async def test_a_refund_is_paid_if_a_person_agrees() -> None:
    async with run(
        refund,
        RefundRequest("B-1"),
        tools={"get_purchase_history": [{"order": "A-1"}]},
        approvals={"send_refund": lambda parameters: parameters["amount"] < 100},
        steps={"load_order": lambda order_id: Order(order_id, "Ben", 70), "pay_back": "paid"},
    ) as r:
        assert r.calls == [("get_purchase_history", {"customer": "Ben"})]
        assert "Dear Ben, we are looking into order B-1." in r.text
        assert r.result == {"refunded": True}


async def test_a_refund_is_not_paid_if_nobody_decides_within_a_day() -> None:
    undecided = Decision("timeout")
    async with run(
        refund, tools={"get_purchase_history": []}, approvals={"send_refund": undecided}
    ) as r:
        assert r.result == {"refunded": False}
        assert r.now.day == 16


async def test_slow_ticks_a_dozen_times_in_about_four_seconds() -> None:
    async with run(slow) as r:
        began = r.events[0]
        assert r.text.split() == [f"tick{number}" for number in range(12)]
        assert r.now.isoformat(timespec="milliseconds") == "2025-06-15T15:00:04.200+00:00"
        assert getattr(began, "started_at", "") == "2025-06-15T15:00:00.000Z"


async def test_quiet_says_something_at_last() -> None:
    async with run(quiet) as r:
        assert r.text == "That was quiet."


async def test_failing_fails() -> None:
    async with run(failing) as r:
        assert r.text == "This will not end well. "
        assert r.error is not None
        assert r.error.message == "RuntimeError: boom"


async def test_tools_of_a_page_go_by_their_bare_names() -> None:
    async with run(page_tool, tools={"get_page_color": "red"}) as r:
        assert r.text == "The box is red."
    counted = []

    def add_number(parameters: dict[str, Any]) -> int:
        counted.append(parameters["value"])
        return sum(counted)

    async with run(page_tools_parallel, tools={"webmcp:add_number": add_number}) as r:
        assert r.result == [3, 7]


async def test_a_question_is_answered_later() -> None:
    async with run(ask) as r:
        assert r.waiting == ["ask_user_question"]
        await r.answer("ask_user_question", "Blue")
        assert r.text == "You chose Blue."


async def test_tokens_come_as_many_as_are_wanted() -> None:
    wanted = Tokens(count=5, size=2, delay_ms=3)
    async with run(tokens, wanted) as r:
        assert (r.text, r.result) == ("xx" * 5, 5)
    async with run(tokens_step, wanted) as r:
        assert (r.text, r.result) == ("xx" * 5, 5)


async def test_the_agent_looks_at_three_cities() -> None:
    cities = {"get_weather": lambda call: f"dry in {call['city']}", "get_time": "noon"}
    async with run(agent, tools=cities) as r:
        assert [call.parameters["city"] for call in r.calls[::2]] == ["Oslo", "Lima", "Accra"]
        assert r.result.endswith('The last I heard: ["dry in Accra","noon"].')
        assert r.status is Status.COMPLETED


async def test_the_agents_model_may_be_stood_in_for() -> None:
    reply = {"text": "I know nothing.", "calls": []}
    async with run(agent, Limits(max_turns=1), steps={"model": reply}) as r:
        assert r.result == "I know nothing."
