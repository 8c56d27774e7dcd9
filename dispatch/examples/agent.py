"""An agent: a model's turns stream text and ask for the caller's tools, whose outputs go back.

Only `model` knows what a model is; this one is scripted and needs no network. A long conversation
goes on as a new segment (`continue_as`), so that replaying it never takes longer.
"""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from msgspec import Struct

from dispatch import Flow, Run, continue_as, flow, gather, result, step, tool
from dispatch.events import TurnComplete, TurnStart

Message = dict[str, Any]
CITIES = ("Oslo", "Lima", "Accra")


class Limits(Struct):
    max_turns: int = 4
    max_messages: int = 4


class Call(Struct):
    name: str
    parameters: dict[str, Any]


class Reply(Struct):
    text: str
    calls: list[Call] = []


class Memory(Struct):
    """What is carried from segment to segment."""

    messages: list[Message]
    turns: int = 0


@flow("agent", kind="agent")
async def agent(run: Run[Limits]) -> Flow:
    """Look at a few cities, a turn each, and sum up."""
    memory = msgspec.convert(run.state or {"messages": [*run.messages]}, Memory)
    messages, limits = memory.messages, run.inputs
    for turn in range(memory.turns + 1, limits.max_turns + 1):
        yield TurnStart(id=f"turn_{turn}", role="assistant", iteration=turn)
        reply: Reply = yield model(messages, turn)
        yield TurnComplete(id=f"turn_{turn}", role="assistant", iteration=turn)
        yield result(reply.text)
        if not reply.calls:
            return
        outputs = yield gather(*(tool(call.name, call.parameters) for call in reply.calls))
        messages.append({"role": "assistant", "content": reply.text})
        messages.append({"role": "tool", "content": outputs})
        if len(messages) > limits.max_messages:
            yield continue_as(Memory(messages[-2:], turn))
    yield "That is as many turns as I may take."


@step(returns=Reply)
async def model(messages: list[Message], turn: int) -> AsyncGenerator[object, None]:
    """Stands for a call of a language model: streams its words, answers with the whole reply."""
    reply = scripted(messages, turn)
    for word in reply.text.split():
        yield word + " "
    yield result(reply)


def scripted(messages: list[Message], turn: int) -> Reply:
    if turn > len(CITIES):
        return Reply(f"I have seen {', '.join(CITIES)}. The last I heard: {heard(messages)}.")
    where = {"city": CITIES[turn - 1]}
    return Reply(
        f"Let me look at {where['city']}.", [Call("get_weather", where), Call("get_time", where)]
    )


def heard(messages: list[Message]) -> str:
    outputs = [message["content"] for message in messages if message["role"] == "tool"]
    return msgspec.json.encode(outputs[-1] if outputs else []).decode()
