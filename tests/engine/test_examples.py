"""The example flows do what they say, and warm and cold give the same events."""

import re
from pathlib import Path
from typing import Any

import pytest

from dispatch.core.lifecycle import Status
from dispatch.examples import FLOWS
from dispatch.flow import FlowVersion
from tests.engine.worker import Bench, Play, Worker

MESSAGES = [
    {"role": "user", "content": "not this"},
    {"role": "assistant", "content": "nor this"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}],
    },
]
EXAMPLES = {example.id: example for example in FLOWS}
INPUTS: dict[str, Any] = {
    "tokens": {"count": 7, "size": 3, "delay_ms": 2},
    "tokens_step": {"count": 7, "size": 3},
}


async def play_through(worker: Worker, example: FlowVersion) -> Play:
    """Answer whatever it asks, the last call first, and let time pass while it sleeps."""
    play = await worker.play(example, INPUTS.get(example.id), messages=MESSAGES)
    answers = 0
    while not (await play.execution()).status.is_final:
        waiting = await play.open()
        if waiting[-1].kind == "tool":
            answers += 1
            await play.resume({waiting[-1].id: f"answer {answers}"})
        elif waiting[-1].kind == "approval":
            await play.decide()
        else:
            due_at = await worker.store.next_due()
            assert due_at is not None
            await play.pass_time(due_at - worker.clock.now())
    return play


def normalised(play: Play) -> list[str]:
    """What was published, with ids that differ between executions numbered instead."""
    names: dict[str, str] = {}
    return [
        f"{entry.origin} "
        + re.sub(
            r"exec_[0-9a-f]{32}|(step|call|approval|timer)_[0-9a-f]{16}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
            lambda found: names.setdefault(found[0], f"id{len(names)}"),
            entry.data.decode(),
        )
        for entry in play.worker.hub.published[play.id]
    ]


@pytest.mark.parametrize("example", FLOWS, ids=EXAMPLES)
async def test_warm_and_cold_give_the_same_events(tmp_path: Path, example: FlowVersion) -> None:
    told = []
    for max_live in (0, 1000):
        bench = Bench(tmp_path / f"{max_live}.db", max_live)
        async with bench.worker(example) as worker:
            play = await play_through(worker, example)
            assert await play.status() is (
                Status.FAILED if example.id == "failing" else Status.COMPLETED
            )
            told.append(normalised(play))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("weather", "Looking up the weather in Oslo. It is answer 1.", "answer 1"),
        ("echo", "Hello, you", "Hello, you"),
        ("one_tool", "In Oslo: answer 1", {"weather": "answer 1"}),
        (
            "parallel_tools",
            "In Oslo: answer 2. In Lima: answer 1.",
            {"Oslo": "answer 2", "Lima": "answer 1"},
        ),
        ("approval", "The deletion was approved.", {"outcome": "approved", "reason": None}),
        ("slow", "".join(f"tick{number} " for number in range(12)), 12),
        ("page_tool", "The box is answer 1.", "answer 1"),
        (
            "page_tools_parallel",
            "The page says answer 2, then answer 1.",
            ["answer 2", "answer 1"],
        ),
        ("ask", "You chose answer 1.", "answer 1"),
        ("tokens", "xxx" * 7, 7),
        ("tokens_step", "xxx" * 7, 7),
        (
            "agent",
            "Let me look at Oslo. Let me look at Lima. Let me look at Accra. I have seen Oslo, "
            'Lima, Accra. The last I heard: ["answer 6","answer 5"]. ',
            'I have seen Oslo, Lima, Accra. The last I heard: ["answer 6","answer 5"].',
        ),
        (
            "refund",
            "Looking at your order… The risk is 0.42. Dear Ada, we are looking into order A-17. ",
            {"refunded": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value in EXAMPLES else "",
)
async def test_what_an_example_says_and_gives(
    bench: Bench, name: str, text: str, value: Any
) -> None:
    async with bench.worker(*FLOWS) as worker:
        play = await play_through(worker, worker.engine.registry.find(name))
        assert await play.text() == text
        assert await play.result() == value


async def test_echo_is_a_step_of_that_name_in_two_deltas(bench: Bench) -> None:
    async with bench.worker(EXAMPLES["echo"]) as worker:
        play = await worker.play(EXAMPLES["echo"], messages=[{"role": "user", "content": "Hej"}])
        (done,) = await play.facts("step_complete")
        assert (done["name"], done["result"]) == ("echo", "Hej")
        assert len(await play.facts("text_delta")) == 2
        silent = await worker.play(EXAMPLES["echo"])
        assert await silent.result() == ""


async def test_quiet_says_nothing_for_35_seconds(bench: Bench) -> None:
    async with bench.worker(EXAMPLES["quiet"]) as worker:
        play = await worker.play(EXAMPLES["quiet"])
        await play.pass_time(34)
        assert await play.text() == ""
        await play.pass_time(1)
        assert await play.text() == "That was quiet."


async def test_failing_says_something_and_fails(bench: Bench) -> None:
    async with bench.worker(EXAMPLES["failing"]) as worker:
        play = await worker.play(EXAMPLES["failing"])
        assert await play.text()
        assert (await play.failure()).message == "RuntimeError: boom"


async def test_the_tools_are_asked_for_as_documented(bench: Bench) -> None:
    expected = {
        "one_tool": [("get_weather", {"city": "Oslo"})],
        "parallel_tools": [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Lima"})],
        "page_tool": [("webmcp:get_page_color", {"element": "box"})],
        "page_tools_parallel": [
            ("webmcp:add_number", {"value": 3}),
            ("webmcp:add_number", {"value": 4}),
        ],
    }
    async with bench.worker(*FLOWS) as worker:
        for name, calls in expected.items():
            play = await worker.play(name)
            told = [(fact["toolName"], fact["parameters"]) for fact in await play.facts("await")]
            assert told == calls
        asked = await worker.play("ask")
        (question,) = (await asked.facts("await"))[0]["parameters"]["questions"]
        assert [option["label"] for option in question["options"]] == ["Red", "Blue"]
        deletion = await worker.play("approval")
        assert (await deletion.facts("approval_start"))[0]["toolName"] == "delete_record"
        await deletion.decide("denied")
        assert await deletion.text() == "The deletion was denied."


async def test_the_agents_long_conversation_goes_on_in_a_new_segment(bench: Bench) -> None:
    async with bench.worker(EXAMPLES["agent"]) as worker:
        play = await play_through(worker, EXAMPLES["agent"])
        assert (await play.execution()).kind == "agent"
        assert len(await play.facts("dispatch.continued")) == 2
        assert len(await play.facts("turn_start")) == len(await play.facts("turn_complete")) == 4
        short = await worker.dispatch(EXAMPLES["agent"], {"max_turns": 1})
        await short.rest()
        await short.resume({row.id: 1 for row in await short.open()})
        assert (await short.text()).endswith("as many turns as I may take.")
