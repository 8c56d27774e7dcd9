"""`continue` is a resume or an approval in one envelope; agents have twins of them all."""

from __future__ import annotations

from typing import Any

import pytest

from dispatch.core.ids import execution_id
from tests.api.caller import Caller, Told

CONTINUE = "/v1/dispatch/continue"


def envelope(told: Told, **continuation: Any) -> dict[str, Any]:
    return {"executionId": told.id, "continuation": continuation}


async def test_outputs_are_delivered(caller: Caller) -> None:
    told = await caller.dispatch("one")
    outputs = {told.calls[0]: "fog"}
    messages = [{"role": "user", "content": "and?"}]
    body = envelope(told, type="tool-output", toolOutputs=outputs, messages=messages)
    leg = await caller.stream("POST", CONTINUE, body)
    assert leg.events[0]["resumed"] is True
    assert leg.text == "seen: fog; messages: 1"
    assert leg.types[-1] == "execution_complete"


async def test_an_approval_is_decided(caller: Caller) -> None:
    told = await caller.dispatch("decide")
    body = envelope(
        told, type="approval", approvalId=told.calls[0], decision="denied", reason="too early"
    )
    leg = await caller.stream("POST", CONTINUE, body)
    assert leg.text == "denied: too early"


async def test_documents_are_told_apart(caller: Caller) -> None:
    told = await caller.dispatch("one")
    body = envelope(told, type="tool-output", toolOutputs={"look": 1}) | {"streamResponse": False}
    document = (await caller.post(CONTINUE, body)).json()
    assert document["status"] == "completed"
    assert document["events"][-1]["type"] == "execution_complete"
    told = await caller.dispatch("decide")
    body = envelope(told, type="approval", approvalId=told.calls[0], decision="approved")
    document = (await caller.post(CONTINUE, body | {"streamResponse": False})).json()
    assert (document["status"], document["decision"]) == ("completed", "approved")
    assert "events" not in document


async def test_what_is_repeated_changes_nothing(caller: Caller) -> None:
    told = await caller.dispatch("one")
    body = envelope(told, type="tool-output", toolOutputs={"look": 1})
    first = await caller.stream("POST", CONTINUE, body)
    again = await caller.stream("POST", CONTINUE, body)
    assert again.events == first.events


@pytest.mark.parametrize(
    "continuation",
    [
        None,
        {},
        {"type": "tool_output"},
        {"type": "approval"},
        {"type": "approval", "approvalId": "a", "decision": "maybe"},
        {"type": "approval", "approvalId": "a", "decision": "approved", "remember": "yes"},
        {"type": "tool-output", "toolOutputs": []},
        {"type": "tool-output", "messages": [{"role": "nobody"}]},
    ],
)
async def test_what_cannot_be_read_is_400(caller: Caller, continuation: Any) -> None:
    body = {"executionId": execution_id(1.0, bytes(10)), "continuation": continuation}
    assert (await caller.refused(CONTINUE, body))[:2] == (400, "body-invalid")


async def test_an_unknown_execution_is_404(caller: Caller) -> None:
    body = {
        "executionId": execution_id(1.0, bytes(10)),
        "continuation": {"type": "tool-output"},
    }
    assert (await caller.refused(CONTINUE, body))[:2] == (404, "execution-unknown")


# --- the agents' twins ----------------------------------------------------------------------------


async def test_an_agent_is_executed(caller: Caller) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    told = await caller.stream("POST", "/v1/agents/listener/execute", body)
    assert (told.events[0]["kind"], told.events[0]["agentId"]) == ("agent", "listener")
    assert told.text == "heard: 1"
    events = await caller.stream("GET", f"/v1/agents/listener/executions/{told.id}/events")
    assert events.events == told.events


async def test_an_agent_is_executed_for_a_document(caller: Caller) -> None:
    answer = await caller.post("/v1/agents/listener/execute", {"streamResponse": False})
    assert answer.json()["result"] == "done"


async def test_what_is_no_agent_is_404(caller: Caller) -> None:
    for name in ("talk", "unknown"):
        found = await caller.refused(f"/v1/agents/{name}/execute", {})
        assert found[:2] == (404, "flow-unknown")


async def test_an_agents_turns_are_resumed(caller: Caller) -> None:
    told = await caller.stream("POST", "/v1/agents/asker/execute", {})
    assert [event["type"] for event in told.events if event["type"].startswith("turn")] == [
        "turn_start",
        "turn_complete",
    ]
    body = {"executionId": told.id, "toolOutputs": {told.calls[0]: 3}, "debugMode": True}
    leg = await caller.stream("POST", "/v1/agents/asker/resume", body)
    assert leg.text == "3"
    assert leg.types[-1] == "execution_complete"
