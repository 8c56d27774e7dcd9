"""What a dispatch can settle beforehand: outputs for calls to come, and time limits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.caller import Caller

DISPATCH = "/v1/dispatch"


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return {"ping_seconds": 0.2}


# --- outputs --------------------------------------------------------------------------------------


async def test_an_output_that_came_with_the_dispatch_answers_the_call(caller: Caller) -> None:
    told = await caller.dispatch("one", options={"clientToolOutputs": {"look": "fog"}})
    assert told.types[-1] == "execution_complete"
    assert told.text == "seen: fog; messages: 0"
    assert told.calls == []


async def test_what_it_has_no_output_for_is_asked(caller: Caller) -> None:
    told = await caller.dispatch("two", options={"clientToolOutputs": {"see": 2, "other": 3}})
    assert [event["toolName"] for event in told.of("await")] == ["look"]
    leg = await caller.resume(told.id, {"look": 1})
    assert leg.text == "1 2"


async def test_a_resume_with_the_same_output_changes_nothing(caller: Caller) -> None:
    told = await caller.dispatch("one", options={"clientToolOutputs": {"look": "fog"}})
    again = await caller.resume(told.id, {"look": "fog"})
    assert again.events == told.events
    found = await caller.refused(
        "/v1/dispatch/resume", {"executionId": told.id, "toolOutputs": {"look": "sun"}}
    )
    assert found[:2] == (409, "await-settled")


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/dispatch/approve", "/v1/dispatch/continue"])
async def test_a_remembered_decision_holds_for_the_next_one(caller: Caller, path: str) -> None:
    told = await caller.dispatch("decide_twice")
    decision = {"approvalId": told.calls[0], "decision": "denied", "remember": True}
    body: dict[str, Any] = {"executionId": told.id}
    if path.endswith("continue"):
        body["continuation"] = {"type": "approval", **decision}
    else:
        body |= decision
    leg = await caller.stream("POST", path, body)
    assert leg.text == "denied denied "
    assert [event["resolvedBy"] for event in leg.of("approval_complete")] == ["user", "system"]
    assert leg.types[-1] == "execution_complete"


# --- time limits ----------------------------------------------------------------------------------


async def test_an_execution_that_takes_too_long_fails(caller: Caller) -> None:
    told = await caller.dispatch("nap", options={"flowTimeoutMs": 20})
    assert told.types[-1] == "execution_error"
    assert told.events[-1]["code"] == "flow-timeout"
    document = await caller.status(told.id)
    assert (document["status"], document["code"]) == ("failed", "flow-timeout")


async def test_it_may_undo_what_it_did(caller: Caller) -> None:
    told = await caller.dispatch("undo", options={"flowTimeoutMs": 20})
    assert told.types[-1] == "await"
    events = await caller.events(told.id)
    assert events.text.startswith("undone: the flow did not end")
    assert events.events[-1]["code"] == "flow-timeout"
    found = await caller.refused(
        "/v1/dispatch/resume", {"executionId": told.id, "toolOutputs": {"look": 1}}
    )
    assert found[:2] == (409, "await-abandoned")


async def test_one_that_is_in_time_ends_as_it_does(caller: Caller) -> None:
    told = await caller.dispatch("talk", options={"flowTimeoutMs": 60_000})
    assert told.types[-1] == "execution_complete"


async def test_an_attempt_that_takes_too_long_fails(caller: Caller) -> None:
    told = await caller.dispatch("hang", options={"stepTimeoutMs": 20})
    (ended,) = told.of("step_complete")
    assert (ended["success"], ended["error"]) == (False, "no result within 0.02 s")
    assert told.events[-1]["type"] == "execution_error"


@pytest.mark.parametrize("name", ["flowTimeoutMs", "stepTimeoutMs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1", 10**12])
async def test_a_limit_that_is_none_is_400(caller: Caller, name: str, value: Any) -> None:
    body = {"flow": {"id": "talk"}, "options": {name: value}}
    assert (await caller.refused(DISPATCH, body))[:2] == (400, "body-invalid")
