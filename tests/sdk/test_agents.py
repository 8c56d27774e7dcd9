"""Agents at their own paths: the twins of dispatch, resume, approve and events."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from runtype import StreamCallbacks
from runtype._generated.types.dispatch_agent_json_response import DispatchAgentJsonResponse

from tests.sdk.clients import Event, Item, Overlay, SyncOverlay, calls_of, dumped, text_of, types_of
from tests.sdk.generated import (
    AGENT_APPROVE,
    AGENT_EVENTS,
    AGENT_EXECUTE,
    AGENT_RESUME,
    Api,
)

# The models of the generated layer are built when they are first used, which takes seconds.
pytestmark = pytest.mark.slow

AGENT = "booking_agent"
MESSAGES: Event = {"messages": [{"role": "user", "content": "Look around"}]}
TURN: Event = MESSAGES | {"inputs": {"max_turns": 2}}


def outputs_of(leg: list[Event]) -> Event:
    return {call["toolCallId"]: call["parameters"]["city"] for call in calls_of(leg)}


# --- the overlay ----------------------------------------------------------------------------------


async def test_a_conversation_is_streamed_turn_by_turn(overlay: Overlay) -> None:
    turns: list[str] = []
    unknown: list[object] = []
    callbacks = StreamCallbacks(
        on_turn_start=lambda event: turns.append(f"{event.id} begins"),
        on_turn_complete=lambda event: turns.append(f"{event.id} ends"),
        on_unknown_event=unknown.append,
    )
    items = await overlay.agent("execute_stream", "agent", TURN, callbacks=callbacks)
    leg = typed(items)
    told = leg
    while calls_of(leg):
        more: Any = {"stream": True, "debug_mode": True, "callbacks": callbacks}
        id = leg[0]["executionId"]
        leg = typed(await overlay.agent("resume", "agent", id, outputs_of(leg), **more))
        told = told + leg
    assert (told[0]["kind"], told[0]["agentId"]) == ("agent", "agent")
    assert turns == ["turn_1 begins", "turn_1 ends", "turn_2 begins", "turn_2 ends"]
    assert unknown == []
    assert "Let me look at Lima." in text_of(told)
    assert told[-1]["type"] == "execution_complete"


def typed(items: list[Item]) -> list[Event]:
    """What the client couldn't type it gives as it came."""
    assert all(isinstance(item, BaseModel) for item in items)
    return dumped(items)


async def test_a_conversation_of_documents(overlay: Overlay) -> None:
    document = await overlay.agent_document("execute", "agent", TURN)
    DispatchAgentJsonResponse.model_validate(document)
    while document["status"] == "paused":
        id, outputs = document["executionId"], outputs_of(document["events"])
        document = await overlay.agent_document("resume", "agent", id, outputs)
    assert (document["status"], document["success"]) == ("completed", True)
    assert document["result"] == "Let me look at Lima."


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
async def test_an_agent_is_approved(overlay: Overlay, stream: bool) -> None:
    [*_, call] = dumped(await overlay.agent("execute", AGENT, MESSAGES, stream=True))
    id, outputs = call["executionId"], {"get_place": "Oslo"}
    [*_, asked] = dumped(await overlay.agent("resume", AGENT, id, outputs))
    of: Any = (AGENT, id, asked["approvalId"], "approved")
    if stream:
        leg = typed(await overlay.agent("approve", *of, reason="it is free", stream=True))
        assert text_of(leg) == "Oslo: approved, it is free"
        assert leg[-1]["type"] == "execution_complete"
    else:
        done = await overlay.agent_document("approve", *of, reason="it is free")
        assert (done["status"], done["decision"]) == ("completed", "approved")


async def test_a_key_finds_the_first_execution_again(address: str) -> None:
    overlay = SyncOverlay(address, headers={"idempotency-key": "overlay-agent"})
    first = await overlay.agent("execute_stream", AGENT, MESSAGES)
    assert await overlay.agent("execute_stream", AGENT, MESSAGES) == first
    await overlay.close()


# --- the generated layer --------------------------------------------------------------------------


async def test_the_generated_twins(api: Api, request: pytest.FixtureRequest) -> None:
    key = f"of-{request.node.name}"
    first = await api.read(AGENT_EXECUTE, AGENT, request=MESSAGES, idempotency_key=key)
    again = await api.read(AGENT_EXECUTE, AGENT, request=MESSAGES, idempotency_key=key)
    assert again == first
    call = first[-1]
    of = {"executionId": call["executionId"], "streamResponse": True}
    outputs = {"toolOutputs": {call["toolCallId"]: "Oslo"}}
    second = await api.read(AGENT_RESUME, AGENT, request=of | outputs)
    assert types_of(second)[:2] == ["execution_start", "tool_complete"]
    decision = {"approvalId": second[-1]["approvalId"], "decision": "denied", "reason": "no"}
    third = await api.read(AGENT_APPROVE, "virtual", request=of | decision)
    assert text_of(third) == "Oslo: denied, no"
    assert third[-1]["type"] == "execution_complete"
    cursor = str(int(first[-1]["seq"]))
    rest = await api.read(AGENT_EVENTS, AGENT, call["executionId"], after=cursor)
    assert rest == second + third
